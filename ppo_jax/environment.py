"""What an environment is: two pure functions and their spaces."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ppo_jax import spaces

State = Any  # an environment's own pytree


class Step(NamedTuple):
    """What one step led to; `observation` is the state's own, before any reset. All shapes []
    but the observation's."""

    observation: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Environment(NamedTuple):
    """One environment's pure functions and spaces; a batch is the user's `jax.vmap`.

    An episode is truncated after `max_episode_steps`, which the library counts; where it is None,
    `Config.max_episode_steps` must give it. `truncates_early` says whether `step` may truncate
    before.
    """

    reset: Callable[[jax.Array], tuple[State, Any]]  # key -> (state, observation)
    step: Callable[[jax.Array, State, jax.Array], tuple[State, Step]]  # (key, state, action)
    observation_space: spaces.Space
    action_space: spaces.Space
    max_episode_steps: int | None = None
    truncates_early: bool = True
