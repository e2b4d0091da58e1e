"""brax's environments. Their wrappers are not used: an episode's end is `done`, and its time limit
and reset are this library's."""

from typing import Any

import jax
import jax.numpy as jnp
from brax import envs

from ppo_jax.env import Environment, Step
from ppo_jax.spaces import Box, like

_LIMIT = 1000  # the default of `brax.envs.create`


def names(_: str) -> list[str]:
    """Ids of brax's registry."""
    return list(envs._envs)


def make(identifier: str, **kwargs: Any) -> Environment:
    """The environment of that id, with its constructor's arguments, such as backend "spring"."""
    return from_state(envs.get_environment(identifier, **kwargs), _LIMIT)


def from_state(world: Any, limit: int) -> Environment:
    """An environment whose state holds observation, reward and end, as brax's and Playground's do.

    Actions are in [-1, 1].
    """

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state = world.reset(key)
        return state, state.obs

    def step(_: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        state = world.step(state, action)
        return state, Step(state.obs, state.reward, state.done.astype(bool), jnp.zeros((), bool))

    observation = jax.eval_shape(lambda: reset(jax.random.key(0))[1])
    actions = Box(-1, 1, (world.action_size,))
    return Environment(reset, step, like(observation), actions, limit, truncates_early=False)
