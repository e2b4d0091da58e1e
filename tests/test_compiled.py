"""Kernels counted in a compiled program, and that the rollout's program holds no critic."""

import jax
import pytest

from benchmarks import compiled
from ppo_jax import network, recipe

TINY = {"num_envs": 2, "num_steps": 4, "hidden_sizes": (16,)}

# Two loops, one within the other, of 3 and unknown trips; a call, and what is no kernel.
PROGRAM = """HloModule jit_f, is_scheduled=true

%inner (p.0: (s32[], f32[2])) -> (s32[], f32[2]) {
  %p.0 = (s32[], f32[2]{0}) parameter(0)
  %x = f32[2]{0} get-tuple-element(%p.0), index=1
  %a = f32[2]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %t.0 = (s32[], f32[2]{0}) tuple(%x, %a)
}

%outer (p.1: (s32[], f32[2])) -> (s32[], f32[2]) {
  %p.1 = (s32[], f32[2]{0}) parameter(0)
  %b = f32[2]{0} copy(%p.1)
  ROOT %w.0 = (s32[], f32[2]{0}) while(%p.1), condition=%c, body=%inner
}

%callee (p.2: f32[2]) -> f32[2] {
  %p.2 = f32[2]{0} parameter(0)
  %d = f32[2]{0} fusion(%p.2), kind=kLoop, calls=%fused
  ROOT %e = f32[2]{0} custom-call(%d), custom_call_target="cublas"
}

ENTRY %main (p.3: f32[2]) -> f32[2] {
  %p.3 = f32[2]{0} parameter(0)
  %f = f32[2]{0} call(%p.3), to_apply=%callee
  %w.1 = (s32[]) while(%f), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %g = f32[2]{0} copy(%f)
}
"""


def test_kernels_are_counted_by_trip():
    kernels, loops = compiled.launches(PROGRAM)
    inner = 1 + 1  # its one kernel, and its condition
    assert kernels == 2 + 3 * (1 + inner + 1) + 1
    assert loops == [compiled.Loop(3, None, 1), compiled.Loop(1, 3, 1 + inner)]


def quickly(function, *shapes):
    """Compiled to slow code, which is not run: what XLA leaves out is the same."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function).lower(*shapes).compile(options)


class Consulting(network.MLP):
    """A perceptron whose actions depend on the critic's value."""

    def __call__(self, observation):
        outputs, value = super().__call__(observation)
        return outputs * value[:, None], value


@pytest.mark.parametrize("agents", [1, 2])
def test_no_critic_in_the_rollout(agents):
    assert not compiled.holds_critic(recipe("standard", **TINY), agents, quickly)


def test_a_critic_in_the_rollout_is_seen():
    config = recipe("standard", **TINY, network=Consulting(2, (16,)))
    assert compiled.holds_critic(config, compiled=quickly)


def test_without_the_plugin_says_what_to_install(monkeypatch):
    def missing(**_):
        raise NotImplementedError

    monkeypatch.setattr(compiled.topologies, "get_topology_desc", missing)
    with pytest.raises(SystemExit, match=rf"jax-cuda13-plugin=={jax.__version__}"):
        compiled.h100()
