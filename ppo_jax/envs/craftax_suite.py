"""Craftax's environments. A new world costs far more than a step: give `reset_pool`."""

from typing import Any

import jax
import jax.numpy as jnp
from craftax.craftax_env import make_craftax_env_from_name

_NAMES = [
    f"Craftax-{kind}-v1" for kind in ("Symbolic", "Pixels", "Classic-Symbolic", "Classic-Pixels")
]


def names(_: str) -> list[str]:
    """Ids of Craftax; those that reset by themselves are none."""
    return _NAMES


def make(identifier: str) -> Any:
    """The environment of that id."""
    return Craftax(make_craftax_env_from_name(identifier, auto_reset=False))


class Craftax:
    """An environment of Craftax, with the functions that gymnax's have: its parameters are traced.

    Craftax has one flag for death, victory and the time limit; here the limit alone truncates.
    """

    truncates_early = False

    def __init__(self, world: Any):
        self._world = world
        self.default_params = world.default_params
        self.reset_env = world.reset_env
        self.observation_space, self.action_space = world.observation_space, world.action_space

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """(observation, state, reward, terminated, info)."""
        endless = params.replace(max_timesteps=jnp.iinfo(jnp.int32).max)
        return self._world.step_env(key, state, action, endless)

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """Whether the time limit is reached."""
        return state.timestep >= params.max_timesteps
