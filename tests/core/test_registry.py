"""Every registered environment trains, or says in one line why it cannot."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.misc.swimmer import Swimmer

from ppo_jax import env, ppo, recipe, spaces
from tests.helpers.own_parts import types
from tests.helpers.quick import quick_jit

SMALL = recipe("fast", num_envs=2, num_steps=4, num_minibatches=2, num_updates=2, hidden_sizes=(8,))

# Other tests register environments of their own, named Probe-.
REGISTRY = [name for name in env.names() if "Probe" not in name]
NEEDS_DATA = "MNISTBandit-bsuite"
TRAINABLE = [name for name in REGISTRY if name != NEEDS_DATA]
# The code of gymnax 1.0.1 itself mixes 32 and 64 bits in these.
BROKEN_IN_X64 = [
    "DiscountingChain-bsuite",
    "Freeway-MinAtar",
    "GaussianBandit-misc",
    "MetaMaze-misc",
]
# Of every kind of observation and action one; the others are marked slow.
TRACED = ["CartPole-v1", "PointRobot-misc", "DeepSea-bsuite", "UmbrellaChain-bsuite"]
TRAINED = {"FrozenLake-misc": ((), jnp.int32), "Catch-bsuite": ((10, 5), jnp.float32)}


@pytest.fixture(autouse=True)
def only_swimmers_own_step_promotes_ranks(monkeypatch):
    """Everywhere else that stays an error."""
    monkeypatch.setattr(Swimmer, "step_env", jax.numpy_rank_promotion("allow")(Swimmer.step_env))


def marked(names, by_default):
    return [
        pytest.param(name, marks=[] if name in by_default else pytest.mark.slow) for name in names
    ]


def test_the_whole_registry_is_here():
    assert len(REGISTRY) == len(set(REGISTRY)) == 27
    assert len(TRAINABLE) == 26
    assert "CartPoleNoVelocity-v1" in REGISTRY
    assert set(BROKEN_IN_X64) | set(TRACED) | set(TRAINED) < set(TRAINABLE)


@pytest.mark.parametrize("name", marked(TRAINABLE, TRAINED))
def test_it_trains(name):
    config = SMALL.replace(env=name)
    state, metrics = quick_jit(ppo.train)(jax.random.key(0), config)
    fresh = jax.eval_shape(ppo.policy(config).init, jax.random.key(0))
    assert metrics.env_steps.tolist() == [8, 8]
    assert metrics.gradient_steps.tolist() == [8, 8]
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(leaf).all()
    assert jax.tree.structure(state.params) == jax.tree.structure(fresh)
    observation = state.rollout.observation
    if name in TRAINED:
        shape, dtype = TRAINED[name]
        assert (observation.shape, observation.dtype) == ((2, *shape), dtype)


# The types of a run never change, x64 or not


def no_weak_types(tree):
    return not any(leaf.weak_type for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_step_keeps_the_types_of_a_reset(name):
    environment = env.make(SMALL.replace(env=name))

    def play(key):
        state, observation = environment.reset(key)
        space = environment.action_space
        dtype = float if isinstance(space, spaces.Box) else jnp.int32
        after, found = environment.step(key, state, jnp.zeros(space.shape, dtype))
        return (state, observation), (after, found.observation)

    before, after = jax.eval_shape(play, jax.random.key(0))
    assert types(after) == types(before)
    assert no_weak_types((before, after))


def assert_update_keeps_types(name):
    """By tracing alone: init and update have stable carries."""
    config = SMALL.replace(env=name)
    state = jax.eval_shape(ppo.init, jax.random.key(0), config)
    after, metrics = jax.eval_shape(ppo.update, state, config)
    assert types(after) == types(state)
    assert no_weak_types((state, after))
    floats = state.params, metrics.value_loss, metrics.episode_return, metrics.episode_length
    assert {leaf.dtype for leaf in jax.tree.leaves(floats)} == {jnp.zeros(()).dtype}


@pytest.mark.parametrize("name", marked(TRAINABLE, TRACED))
def test_types_are_stable_in_float32(name):
    assert_update_keeps_types(name)


def in_x64(test):
    """The test in float64, where gymnax's own scatters warn."""
    ignored = "ignore:scatter inputs have incompatible types:FutureWarning"
    return pytest.mark.usefixtures("x64")(pytest.mark.filterwarnings(ignored)(test))


@in_x64
@pytest.mark.parametrize(
    "name", marked([name for name in TRAINABLE if name not in BROKEN_IN_X64], TRACED)
)
def test_types_are_stable_in_float64(name):
    assert_update_keeps_types(name)


@in_x64
@pytest.mark.parametrize("name", BROKEN_IN_X64)
def test_gymnaxs_own_step_mixes_types_in_float64(name):
    """Where this fails, gymnax was mended, and the environment leaves the list."""
    gymnax_env, parameters = gymnax.make(name)

    def step(key):
        _, state = gymnax_env.reset_env(key, parameters)
        return gymnax_env.step_env(key, state, jnp.int32(0), parameters)

    with pytest.raises(TypeError, match="same dtypes"):
        jax.eval_shape(step, jax.random.key(0))
