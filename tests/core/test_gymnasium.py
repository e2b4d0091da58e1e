"""gymnax's CartPole, as the library steps it, beside gymnasium's CartPole-v1, in float64."""

import gymnasium
import jax
import numpy as np
import pytest

from ppo_jax import env, recipe

pytestmark = pytest.mark.usefixtures("x64")

NAMES = ("x", "x_dot", "theta", "theta_dot")


@pytest.fixture
def ours():
    """The library's environment with its functions compiled."""
    environment = env.make(recipe("fast", env="CartPole-v1"))
    return environment._replace(reset=jax.jit(environment.reset), step=jax.jit(environment.step))


@pytest.fixture
def theirs():
    with gymnasium.make("CartPole-v1", disable_env_checker=True) as environment:
        yield environment


def begin(ours, theirs, seed):
    """One episode's start, the same in both."""
    state, _ = ours.reset(jax.random.key(seed))
    theirs.reset(seed=seed)
    theirs.unwrapped.state = vector(state)
    return state


def vector(state):
    return np.array([getattr(state, name) for name in NAMES], np.float64)


def step_both(ours, theirs, state, action):
    """One step of both, compared; the new state, and whether the episode ended by which flag."""
    state, outcome = ours.step(jax.random.key(0), state, np.int32(action))
    _, reward, terminated, truncated, _ = theirs.step(action)
    assert outcome.observation.dtype == np.float64
    np.testing.assert_array_equal(outcome.observation, vector(state))
    np.testing.assert_allclose(outcome.observation, theirs.unwrapped.state, rtol=0, atol=1e-10)
    assert bool(outcome.terminated) == terminated
    assert bool(outcome.truncated) == truncated
    assert float(outcome.reward) == reward
    return state, terminated, truncated


def test_thousands_of_random_steps_agree(ours, theirs):
    """Whole episodes of free flight: both only share the first state and the actions."""
    actions = np.random.default_rng(0).integers(2, size=2500)
    seed, done = 0, True
    for action in actions:
        if done:
            state, seed = begin(ours, theirs, seed), seed + 1
        state, terminated, truncated = step_both(ours, theirs, state, int(action))
        done = terminated or truncated
    assert seed > 100


def test_balanced_episodes_are_truncated_at_500_steps(ours, theirs):
    """The states are brought together at every step: a pole's fall magnifies rounding e-fold
    every dozen steps."""
    for seed in range(2):
        state = begin(ours, theirs, seed)
        for count in range(1, 501):
            theirs.unwrapped.state = vector(state)
            action = int(vector(state) @ (1, 1.6, 18.7, 3.5) > 0)  # a linear regulator's gains
            state, terminated, truncated = step_both(ours, theirs, state, action)
            assert not terminated
            assert truncated == (count == 500)
