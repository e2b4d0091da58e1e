"""navix's environments. Its own `step` spends the call after an episode's end on the reset; here
every step is one of the world, for the library resets."""

from typing import Any

import jax
import jax.numpy as jnp
import navix

from ppo_jax.env import Environment, Step
from ppo_jax.spaces import Discrete, like


def names(_: str) -> list[str]:
    """Ids of navix' registry."""
    return list(navix.registry())


def make(identifier: str, **kwargs: Any) -> Environment:
    """The environment of that id, with its constructor's arguments, such as max_steps."""
    world = navix.make(identifier, disable_autoreset=True, **kwargs)

    def observe(timestep: Any) -> jax.Array:
        # Codes of cells are small numbers, and no image although they are bytes.
        observation = timestep.observation
        return observation.astype(jnp.int32) if "symbolic" in seen else observation

    def reset(key: jax.Array) -> tuple[Any, Any]:
        timestep = world.reset(key)
        return timestep, observe(timestep)

    def step(_: jax.Array, timestep: Any, action: jax.Array) -> tuple[Any, Step]:
        timestep = world.step(timestep, action)
        ends = timestep.is_termination(), timestep.is_truncation()
        return timestep, Step(observe(timestep), timestep.reward, *ends)

    seen = world.observation_fn.__name__
    observation = jax.eval_shape(lambda: reset(jax.random.key(0))[1])
    actions = Discrete(int(world.action_space.n))
    return Environment(reset, step, like(observation), actions, int(world.max_steps))
