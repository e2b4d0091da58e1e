"""Environments, networks and optimizers of one's own, and what configurations with them say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import struct
from gymnax.environments import environment as gymnax_environment
from gymnax.environments import spaces as gymnax_spaces

from ppo_jax import env, ppo, recipe, rollout, spaces
from ppo_jax.env import Environment, Step
from tests.helpers.quick import quick_jit

HERE = __name__  # for paths to what stands here
SMALL = recipe("fast", num_envs=2, num_steps=8, num_minibatches=2, num_updates=2, hidden_sizes=(8,))
TWO_ACTIONS = spaces.Discrete(2)


def teller(action_space=TWO_ACTIONS, end=1000, limit=6):
    """An environment that tells its time and the last action that it was given, in a row."""
    width = int(np.prod(action_space.shape))

    def observe(state):
        time, action = state
        return jnp.concatenate([time.astype(float)[None], action])

    def reset(_):
        state = jnp.zeros((), jnp.int32), jnp.zeros(width)
        return state, observe(state)

    def step(_, state, action):
        assert action.shape == action_space.shape
        state = state[0] + 1, jnp.asarray(action, float).reshape(width)
        return state, Step(observe(state), 1.0, state[0] >= end, False)

    space = spaces.Box(-jnp.inf, jnp.inf, (1 + width,))
    return Environment(reset, step, space, action_space, limit)


def make_teller(end=1000):
    """A factory, for the path of this module."""
    return teller(end=end)


def lottery():
    """An environment that draws a ticket at every reset, and ends after every step."""
    space = spaces.Box(0, 1, (1,))

    def reset(key):
        ticket = jax.random.uniform(key, (1,))
        return ticket, ticket

    def step(key, ticket, action):
        return ticket, Step(ticket, ticket[0], True, False)

    return Environment(reset, step, space, spaces.Discrete(2), 4)


@struct.dataclass
class CorridorState(gymnax_environment.EnvState):
    time: int


@struct.dataclass
class CorridorParams:
    step_reward: float = 0.5


class Corridor(gymnax_environment.Environment):
    """A gymnax environment of one's own, without a time limit."""

    def __init__(self, length: int = 3):
        self.length = length

    @property
    def default_params(self):
        return CorridorParams()

    def reset_env(self, key, params):
        return jnp.zeros(1), CorridorState(time=0)

    def step_env(self, key, state, action, params):
        state = CorridorState(time=state.time + 1)
        observation = jnp.asarray(state.time, float)[None]
        return observation, state, params.step_reward, state.time >= self.length, {}

    def observation_space(self, params):
        return gymnax_spaces.Box(0, 100, (1,))

    def action_space(self, params=None):
        return gymnax_spaces.Discrete(2)


class Shared(nn.Module):
    """One torso for both heads."""

    num_outputs: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, observation):
        flat = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(observation)]
        inputs = jnp.concatenate([leaf.astype(float) for leaf in flat], axis=1)
        hidden = nn.tanh(nn.Dense(8, dtype=self.dtype, name="torso")(inputs))
        value = nn.Dense(1, dtype=self.dtype, name="value")(hidden)[:, 0]
        several = isinstance(self.num_outputs, tuple)
        sizes = self.num_outputs if several else (self.num_outputs,)
        heads = tuple(nn.Dense(n, dtype=self.dtype, name=f"head_{n}")(hidden) for n in sizes)
        return (heads if several else heads[0]), value


def refusal(*fragments, call=env.make, **overrides):
    """That a configuration is refused, in one line that has all fragments."""
    with pytest.raises(ValueError) as caught:
        call(SMALL.replace(**overrides))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def init(config):
    """The types of a fresh agent, by tracing alone."""
    return jax.eval_shape(ppo.init, jax.random.key(0), config)


def refused_network(*fragments, **overrides):
    refusal(*fragments, call=init, **overrides)


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def flags(config, steps=8):
    """(terminated, truncated) of an episode's first steps, [steps] each."""
    environment = env.make(config)
    action = jnp.zeros(environment.action_space.shape, jnp.int32)

    @quick_jit
    def play(key):
        def step(state, key):
            state, step = environment.step(key, state, action)
            return state, (step.terminated, step.truncated)

        return jax.lax.scan(step, environment.reset(key)[0], jax.random.split(key, steps))[1]

    return [np.asarray(one) for one in play(jax.random.key(0))]


def collected(config, params=None):
    """A rollout's final state and transitions, with fresh parameters."""

    @quick_jit
    def collect(key):
        environment, policy = env.make(config), ppo.policy(config)
        state = rollout.start(key, environment, policy, config.num_envs)
        own = policy.init(key) if params is None else params
        return rollout.collect(key, own, state, environment, policy, config)

    return collect(jax.random.key(0))


LOW, HIGH = np.array([[-0.5, -1, -2], [0, 0.5, -0.1]]), np.array([[0.5, 1, 2], [1, 1.5, 0.1]])


def tree_world():
    """Its observation is a dict of an image of bytes, a vector and a whole number: the time in
    each."""

    def observe(time):
        return {
            "vector": jnp.stack([time / 4, -time / 4]),
            "image": jnp.full((4, 4, 1), 51 * time, jnp.uint8),
            "goal": time % 3,
        }

    def reset(_):
        time = jnp.zeros((), jnp.int32)
        return time, observe(time)

    def step(_, time, action):
        return time + 1, Step(observe(time + 1), 1.0, False, False)

    space = spaces.Dict(
        {
            "vector": spaces.Box(-1, 1, (2,)),
            "image": spaces.Box(0, 255, (4, 4, 1), jnp.uint8),
            "goal": spaces.Discrete(3),
        }
    )
    return Environment(reset, step, space, spaces.Discrete(2), 5)


TREE = SMALL.replace(env=tree_world())


def adam():
    """A factory, for the path of this module; the built-in optimizer with optax's own parts."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2.5e-3, eps=1e-5))


def not_an_optimizer():
    return 3
