"""gymnax's environments by name: their parameters, limits and observations, and what is refused;
and what the core may import."""

import subprocess
import sys

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import env, ppo
from ppo_jax.envs import sources
from tests.helpers.own_parts import SMALL, refusal
from tests.helpers.quick import quick_jit

# What is refused


def test_an_unknown_environment_names_its_neighbours():
    refusal("'CartPole-v2'", "CartPole-v1", env="CartPole-v2")
    refusal("'breakout'", "Breakout-MinAtar", env="breakout")


def test_an_unknown_environment_like_no_other_says_where_to_look():
    refusal("'xyzzy'", "`ppo-jax envs` lists all", env="xyzzy")


def test_an_unknown_parameter_names_those_that_there_are():
    refusal("'gravty'", "gravity", "force_mag", env_params={"gravty": 9.8})


def test_the_time_limit_is_no_traced_parameter():
    refusal("max_episode_steps", env_params={"max_steps_in_episode": 100})


# Parameters and observations


def one_step(config, action=1):
    environment = env.make(config)
    state, _ = environment.reset(jax.random.key(0))
    return environment.step(jax.random.key(1), state, jnp.int32(action))[1].observation


def test_a_parameter_takes_effect_and_can_be_traced_and_swept():
    cartpole, parameters = gymnax.make("CartPole-v1")
    forces = jnp.array([5.0, 10.0, 20.0])
    swept = quick_jit(
        jax.vmap(lambda force: one_step(SMALL.replace(env_params={"force_mag": force})))
    )
    _, state = cartpole.reset_env(jax.random.key(0), parameters)
    expected = [
        cartpole.step_env(jax.random.key(1), state, 1, parameters.replace(force_mag=float(force)))[
            0
        ]
        for force in forces
    ]
    np.testing.assert_allclose(swept(forces), np.stack(expected), atol=1e-6)
    np.testing.assert_allclose(one_step(SMALL), expected[1], atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.1


def test_the_time_limit_is_the_environments_own_unless_given():
    assert env.make(SMALL).max_episode_steps == 500
    assert env.make(SMALL.replace(max_episode_steps=7)).max_episode_steps == 7
    assert env.make(SMALL.replace(env="MountainCar-v0")).max_episode_steps == 200


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("Breakout-MinAtar", (10, 10, 4), jnp.float32),
        ("FrozenLake-misc", (), jnp.int32),
    ],
)
def test_observations_stay_as_gymnax_gives_them(name, shape, dtype):
    environment = env.make(SMALL.replace(env=name))
    gymnax_env, parameters = gymnax.make(name)
    expected, expected_state = gymnax_env.reset_env(jax.random.key(0), parameters)
    state, observation = environment.reset(jax.random.key(0))
    later, _, reward, _, _ = gymnax_env.step_env(jax.random.key(1), expected_state, 1, parameters)
    _, step = environment.step(jax.random.key(1), state, jnp.int32(1))
    for found in (observation, step.observation):
        assert (found.shape, found.dtype) == (shape, dtype)
    np.testing.assert_array_equal(observation, expected)
    np.testing.assert_array_equal(step.observation, later)
    np.testing.assert_allclose(step.reward, reward)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("Breakout-MinAtar", (10, 10, 4)), ("FrozenLake-misc", ())],
)
def test_acting_and_valuing_take_observations_of_any_leading_shape(name, shape):
    config = SMALL.replace(env=name, initialization="uniform")
    params = quick_jit(ppo.policy(config).init)(jax.random.key(0))
    observations = np.random.default_rng(0).integers(16, size=(2, 3, *shape))

    @quick_jit
    def ask(observations):
        return (
            ppo.value(params, observations, config),
            ppo.act(params, observations, config),
            ppo.act(params, observations, config, jax.random.key(1)),
        )

    value, action, sampled = ask(observations)
    assert value.shape == action.shape == sampled.shape == (2, 3)
    assert np.ptp(value) > 0
    one_value, one_action, _ = ask(observations[1, 2])
    np.testing.assert_allclose(value[1, 2], one_value, rtol=1e-5)
    assert action[1, 2] == one_action


def test_an_environment_with_arrays_of_its_own_may_first_be_made_inside_a_trace():
    """And again inside another: nothing of the first trace is kept."""
    sources._load_named.cache_clear()
    config = SMALL.replace(env="DeepSea-bsuite")
    for _ in range(2):
        jax.eval_shape(lambda: env.make(config).reset(jax.random.key(0)))
    env.make(config).reset(jax.random.key(0))


@pytest.mark.slow
def test_gymnax_may_first_be_imported_inside_a_trace():
    """Some of its modules hold arrays, which must be no tracers: a process of its own, for it is
    imported here already."""
    program = """
import jax
from ppo_jax import evaluate, policy, recipe

config = recipe(env="FrozenLake-misc", max_episode_steps=3)
jax.eval_shape(lambda: policy.make(config).init(jax.random.key(0)))
params = policy.make(config).init(jax.random.key(0))
print(evaluate.evaluate(params, config, jax.random.key(0), 2))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[0. 0.]\n"), done.stderr
