"""Jumanji's environments of one agent. An action that the mask in their observation forbids can be
chosen; what then happens is the environment's rule."""

from typing import Any

import jax
import jumanji
from jumanji import specs

from ppo_jax.env import Environment, Step
from ppo_jax.spaces import Box, Discrete, MultiDiscrete, Space, like


def names(_: str) -> list[str]:
    """Ids of Jumanji's registry."""
    return list(jumanji.registered_environments())


def make(identifier: str, **kwargs: Any) -> Environment:
    """The environment of that id, with its constructor's arguments.

    An episode's end with discount 0 is a termination, also at Jumanji's own time limits: the
    observations have the clock.
    """
    world = jumanji.make(identifier, **kwargs)
    if world.reward_spec.shape:
        raise ValueError(f"it rewards {world.reward_spec.shape[0]} agents; give one of one agent")

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, timestep = world.reset(key)
        return state, timestep.observation

    def step(_: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        state, timestep = world.step(state, action)
        terminated = timestep.last() & (timestep.discount == 0)
        truncated = timestep.last() & ~terminated
        return state, Step(timestep.observation, timestep.reward, terminated, truncated)

    observation = jax.eval_shape(lambda: reset(jax.random.key(0))[1])
    limit = getattr(world, "time_limit", None)
    return Environment(reset, step, like(observation), _actions(world.action_spec), limit)


def _actions(spec: Any) -> Space:
    match spec:
        case specs.DiscreteArray():
            return Discrete(int(spec.num_values))
        case specs.MultiDiscreteArray() if len(spec.shape) == 1:
            return MultiDiscrete(tuple(spec.num_values))
        case specs.BoundedArray():
            return Box(spec.minimum, spec.maximum, spec.shape, spec.dtype)
    raise ValueError(f"its actions are a {type(spec).__name__} of shape {spec.shape}")
