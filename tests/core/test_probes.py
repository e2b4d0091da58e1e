"""Probe environments: too small to learn but in one way, with values and actions known exactly.

One thing is added at a time (discounting, observations, actions, a time limit), so that the first
probe that fails tells which part of the library is wrong. After rejax's. All of them are one
environment with other traced parameters, so that one compiled run serves all.
"""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces

from ppo_jax import ppo, recipe


@struct.dataclass
class EnvState(environment.EnvState):
    sign: jax.Array  # -1 or 1
    time: int


@struct.dataclass
class EnvParams(environment.EnvParams):
    length: float = 1.0  # steps to the termination
    two_signs: float = 0.0  # 0: the sign is always 1
    constant: float = 0.0  # and what the reward is made of
    delayed: float = 0.0
    observed: float = 0.0
    chosen: float = 0.0
    observed_and_chosen: float = 0.0
    max_steps_in_episode: int = 5


class Probe(environment.Environment):
    """Observes (sign, whether it is later than the first step); actions 0 and 1 count as -1 and 1
    in the reward."""

    @property
    def default_params(self):
        return EnvParams()

    def reset_env(self, key, params):
        positive = jax.random.bernoulli(key) | (params.two_signs == 0)
        state = EnvState(sign=jnp.where(positive, 1.0, -1.0), time=0)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        choice = 2.0 * action - 1
        reward = (
            params.constant
            + params.delayed * (state.time == 1)
            + params.observed * state.sign
            + params.chosen * choice
            + params.observed_and_chosen * choice * state.sign
        )
        state = state.replace(time=state.time + 1)
        return self.get_obs(state), state, reward, self.is_terminated(state, params), {}

    def get_obs(self, state, params=None, key=None):
        return jnp.array([state.sign, state.time > 0], float)

    def is_terminated(self, state, params):
        return state.time >= params.length

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-1, 1, (2,))


if "Probe" not in gymnax.registered_envs:
    gymnax.register("Probe", Probe)

NOTHING = {
    name: float(getattr(EnvParams(), name))
    for name in EnvParams.__dataclass_fields__
    if name != "max_steps_in_episode"
}
CONFIG = recipe(
    "fast",
    env="Probe",
    env_params=NOTHING,
    num_envs=8,
    num_steps=8,
    num_updates=300,
    num_epochs=4,
    num_minibatches=1,
    learning_rate=1e-2,
    entropy_coefficient=0.01,
    discount=0.9,
    hidden_sizes=(16,),
)
POSITIVE = 1  # the sign, first index of what `learn` returns; the second is 0 at the first step


@pytest.fixture(scope="module")
def learn():
    """A run on the probe with these parameters: greedy actions and values [2, 2] of every
    observation, and the metrics."""

    @jax.jit
    def train(key, config):
        state, metrics = ppo.train(key, config)
        observations = jnp.array([[[-1.0, 0.0], [-1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]])
        action = ppo.act(state.params, observations, config)
        return action, ppo.value(state.params, observations, config), metrics

    def run(discount=0.9, **parameters):
        config = CONFIG.replace(discount=discount, env_params=NOTHING | parameters)
        results = train(jax.random.key(0), config)
        return jax.tree.map(np.asarray, results)

    return run


def test_a_constant_reward_is_the_value(learn):
    _, value, metrics = learn(constant=1.0)
    np.testing.assert_allclose(value[POSITIVE, 0], 1, atol=0.05)
    assert (metrics.episode_length == 1).all()
    assert (metrics.episode_return == 1).all()
    assert (metrics.episodes == 64).all()


@pytest.mark.parametrize("discount", [0.9, 0.5])
def test_a_delayed_reward_is_discounted(learn, discount):
    _, value, metrics = learn(discount=discount, delayed=1.0, length=2.0)
    np.testing.assert_allclose(value[POSITIVE], [discount, 1], atol=0.05)
    assert (metrics.episode_length == 2).all()


def test_values_differ_by_observation(learn):
    _, value, _ = learn(observed=1.0, two_signs=1.0)
    np.testing.assert_allclose(value[:, 0], [-1, 1], atol=0.05)


@pytest.mark.parametrize("better", [0, 1])
def test_the_better_action_is_learned(learn, better):
    action, value, metrics = learn(chosen=2.0 * better - 1)
    assert action[POSITIVE, 0] == better
    np.testing.assert_allclose(value[POSITIVE, 0], 1, atol=0.1)
    assert metrics.entropy[-1] < 0.1 < 0.6 < metrics.entropy[0]


def test_the_better_action_is_learned_for_every_observation(learn):
    action, value, _ = learn(observed_and_chosen=1.0, two_signs=1.0)
    np.testing.assert_array_equal(action[:, 0], [0, 1])
    np.testing.assert_allclose(value[:, 0], [1, 1], atol=0.1)


def test_a_time_limit_is_no_end_to_the_value(learn):
    """Reward 1 for ever, cut off after 5 steps: 1 / (1 - γ) at every time."""
    _, value, metrics = learn(constant=1.0, length=np.inf)
    assert np.nanmin(metrics.episode_length) == np.nanmax(metrics.episode_length) == 5
    np.testing.assert_allclose(value[POSITIVE], 10, atol=0.1)


def test_a_termination_at_the_time_limit_is_an_end_to_the_value(learn):
    """5 rewards of 1: 1 + γ + γ² + γ³ + γ⁴ from the first step, less from later ones."""
    _, value, metrics = learn(constant=1.0, length=5.0)
    assert np.nanmin(metrics.episode_length) == np.nanmax(metrics.episode_length) == 5
    np.testing.assert_allclose(value[POSITIVE, 0], 4.095, atol=0.3)
    assert 1 < value[POSITIVE, 1] < 3.5
