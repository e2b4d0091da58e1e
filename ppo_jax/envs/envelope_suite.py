"""Environments of all other suites that jax-envelope knows."""

from typing import Any

import envelope
import jax
import numpy as np
from envelope import spaces

from ppo_jax.env import Environment, Step
from ppo_jax.spaces import Box, Discrete, MultiDiscrete, Space, like


def names(suite: str) -> list[str]:
    """Ids of a suite. Raises ValueError, in one line, for a suite that jax-envelope lacks."""
    known = envelope.registered_suites()
    if suite not in known:
        raise ValueError(f"there is no suite {suite!r}; jax-envelope has {', '.join(known)}")
    return [name.partition("::")[2] for name in envelope.registered_environments(suite)]


def make(name: str, **kwargs: Any) -> Environment:
    """The environment "suite::id", with its constructor's arguments; its time limit is counted by
    this library."""
    world = envelope.create(name, env_kwargs=kwargs or None, max_episode_steps=None)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, info = world.init(key)
        return state, info.obs

    def step(_: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        state, info = world.step(state, action)
        return state, Step(info.obs, info.reward, info.terminated, info.truncated)

    observation = jax.eval_shape(lambda: reset(jax.random.key(0))[1])
    actions, limit = _actions(world.action_space), world.default_max_steps
    return Environment(reset, step, like(observation), actions, limit)


def _actions(space: Any) -> Space:
    match space:
        case spaces.Discrete() if space.shape == ():
            return Discrete(int(space.n))
        case spaces.Discrete() if len(space.shape) == 1:
            return MultiDiscrete(tuple(np.asarray(space.n).tolist()))
        case spaces.Continuous():
            return Box(space.low, space.high, space.shape)
    raise ValueError(f"its actions are a {type(space).__name__} of shape {space.shape}")
