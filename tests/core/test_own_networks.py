"""Networks of one's own: what they are made with, what is refused, their types."""

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from ppo_jax import ppo, spaces
from tests.helpers.own_parts import (
    HERE,
    HIGH,
    LOW,
    SMALL,
    TREE,
    Shared,
    init,
    refused_network,
    teller,
    tree_world,
    types,
)


@pytest.mark.parametrize(
    ("space", "num_outputs", "heads"),
    [
        (spaces.Discrete(3), 3, {"head_3"}),
        (spaces.MultiDiscrete((2, 5)), (2, 5), {"head_2", "head_5"}),
        (spaces.Box(LOW, HIGH, (2, 3)), 6, {"head_6"}),
    ],
)
def test_a_class_or_its_path_is_made_with_the_outputs_that_actions_need(space, num_outputs, heads):
    config = SMALL.replace(env=teller(space))
    instance, by_class, by_path = (
        init(config.replace(network=network))
        for network in (Shared(num_outputs), Shared, f"{HERE}:Shared")
    )
    assert types(instance) == types(by_class) == types(by_path)
    assert set(by_class.params.trainable["network"]) == {"torso", "value"} | heads


class Wrong(nn.Module):
    """A module with one thing wrong."""

    what: str
    extra: Any = ()

    @nn.compact
    def __call__(self, observation):
        hidden = nn.tanh(nn.Dense(4)(observation))
        logits, value = nn.Dense(2)(hidden), nn.Dense(1)(hidden)
        if self.what == "dropout":
            logits = nn.Dropout(0.5, deterministic=False)(logits)
        elif self.what == "batch statistics":
            logits = nn.BatchNorm(use_running_average=False)(logits)
        elif self.what == "raises":
            raise RuntimeError("this head is missing\nand more")
        elif self.what == "no pair":
            return logits
        elif self.what == "logits":
            return nn.Dense(3)(hidden), value[:, 0]
        elif self.what == "list":
            return [logits, logits], value[:, 0]
        elif self.what == "mean value":
            return logits, value.mean()
        elif self.what == "column":
            return logits, value
        return logits, value[:, 0]


class NoParameters(nn.Module):
    @nn.compact
    def __call__(self, observation):
        return observation[:, :2], observation[:, 0]


class WithList(nn.Module):
    num_outputs: int
    widths: list[int] = dataclasses.field(default_factory=lambda: [4, 4])


WITH_LIST = WithList(2)


class WithoutField(nn.Module):
    hidden: int


@pytest.mark.parametrize(
    ("network", "fragments"),
    [
        (Wrong("logits"), ["Wrong gives action_output [B, 3]; it must be [B, 2]"]),
        (Wrong("list"), ["Wrong gives action_output [[B, 2], [B, 2]]; it must be [B, 2]"]),
        (Wrong("column"), ["Wrong gives value [B, 1]; it must be [B]", "value[:, 0]"]),
        (Wrong("mean value"), ["Wrong gives value []; it must be [B]"]),
        (Wrong("no pair"), ["Wrong gives no pair", "(action_output, value)"]),
        (Wrong("raises"), ["Wrong: this head is missing"]),
        (Wrong("batch statistics"), ["Wrong", "batch_stats", "only the collection params"]),
        (Wrong("dropout"), ["Wrong", "Dropout", "only the collection params"]),
        (NoParameters(), ["NoParameters", "collections: none", "only the collection params"]),
        (WithList, ["WithList cannot be hashed", "widths is a list", "a tuple for a list"]),
        (f"{__name__}:WithList", ["WithList cannot be hashed", "widths is a list"]),
        (f"{__name__}:WITH_LIST", ["network WithList cannot be hashed", "widths is a list"]),
        (WithoutField, ["WithoutField", "num_outputs", "give an instance"]),
        (lambda observation: observation, ["<lambda> is a function", "not a flax.linen module"]),
        ("json:JSONDecoder", ["json:JSONDecoder is a type", "not a flax.linen module"]),
        ("no_such_file:Network", ["no_such_file:Network", "No module named", "module:name"]),
        (f"{HERE}:no_such", [f"{HERE}:no_such", "no attribute"]),
        ("cnn", ["cnn takes one image [H, W, C]", "(4,)"]),
    ],
)
def test_what_is_no_network_is_refused(network, fragments):
    refused_network(*fragments, network=network)


def test_logits_of_a_multidiscrete_are_a_tuple():
    world = teller(spaces.MultiDiscrete((2, 5)))
    refused_network(
        "action_output [B, 7]; it must be ([B, 2], [B, 5])", env=world, network=Shared(7)
    )


def test_fields_that_cannot_be_hashed_are_refused_by_the_constructor():
    said = r"^network WithList cannot be hashed: its widths is a list; [^\n]* tuple for a list$"
    with pytest.raises(ValueError, match=said):
        SMALL.replace(network=WithList(2))


def test_cnn_takes_one_image_only():
    refused_network("cnn takes one image", "(3,), (4, 4, 1), (2,)", env=TREE.env, network="cnn")
    refused_network("cnn takes one image", "(10, 5)", env="Catch-bsuite", network="cnn")
    params = init(SMALL.replace(env="Breakout-MinAtar", network="cnn")).params
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if len(leaf.shape) == 4]
    assert kernels == [(3, 3, 4, 16)] * 2


class Orthogonal(nn.Module):
    """A module of one's own whose initializer calls LAPACK."""

    @nn.compact
    def __call__(self, observation):
        hidden = nn.Dense(8, kernel_init=nn.initializers.orthogonal())(observation)
        return nn.Dense(2)(hidden), nn.Dense(1)(hidden)[:, 0]


def ranks_of_factorizations(jaxpr):
    """The rank of the matrices that each call of LAPACK for a QR decomposition takes."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("qr", "geqrf", "householder_product"):
            yield equation.invars[0].aval.ndim
        for inside in jaxprs_in_params(equation.params):
            yield from ranks_of_factorizations(inside)


def test_an_initializer_that_calls_lapack_does_so_for_one_agent_after_another():
    """Batched QR of many agents waits for its own threads on few cores."""
    config = SMALL.replace(network=Orthogonal())
    keys = jax.random.split(jax.random.key(0), 3)
    jaxpr = jax.make_jaxpr(jax.vmap(lambda key: ppo.init(key, config).params.trainable))(keys)
    assert set(ranks_of_factorizations(jaxpr.jaxpr)) == {2}


@pytest.mark.slow
def test_a_module_whose_initializer_calls_lapack_does_not_lock_up():
    code = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.numpy as jnp, numpy as np
from flax import linen as nn
from ppo_jax import ppo, recipe

class Network(nn.Module):
    @nn.compact
    def __call__(self, hidden):
        for _ in range(6):
            hidden = nn.Dense(64, kernel_init=nn.initializers.orthogonal())(nn.tanh(hidden))
        return nn.Dense(2)(hidden), nn.Dense(1)(hidden)[:, 0]

config = recipe("fast", network=Network())
init = jax.jit(jax.vmap(lambda key: ppo.init(key, config)))
for call in range(20):
    states = jax.block_until_ready(init(jax.random.split(jax.random.key(call), 64)))
kernel = np.asarray(states.params.trainable["network"]["Dense_1"]["kernel"])
np.testing.assert_allclose(kernel[7].T @ kernel[7], np.eye(64), atol=1e-5)
assert np.ptp(kernel[:, 0, 0]) > 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("x64", [False, True])
def test_types_are_stable_whatever_a_module_computes_in(x64, dtype):
    with jax.enable_x64(x64):
        config = SMALL.replace(env=tree_world(), network=Shared(2, dtype), normalize_reward=True)
        config = config.replace(normalize_observation=True)
        state = init(config)
        after, metrics = jax.eval_shape(ppo.update, state, config)
    assert types(after) == types(state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    floats = state.params, state.reward_statistics, metrics.value_loss, metrics.actor_grad_norm
    assert {leaf.dtype.name for leaf in jax.tree.leaves(floats)} == {f"float{64 if x64 else 32}"}
