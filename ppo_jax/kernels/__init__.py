"""Whole phases of an update as one GPU kernel each, in Pallas; on a CPU they are interpreted."""

from typing import Any

import jax
import jax.numpy as jnp

from ppo_jax import env, spaces
from ppo_jax.config import Config

MOST_NUMBERS = 64  # of an observation: each is a vector of its own in a kernel


def check(config: Config) -> None:
    """Raise ValueError, in one line, for what the kernels do not serve."""
    environment = env.make(config)
    state, observation = jax.eval_shape(environment.reset, jax.random.key(0))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(observation))
    space = environment.action_space
    reasons = {
        f"network is {config.network!r}, not 'mlp'": config.network != "mlp",
        "hidden_sizes is empty": not config.hidden_sizes,
        f"optimizer is {config.optimizer!r}": config.optimizer is not None,
        f"reset_pool is {config.reset_pool}": config.reset_pool is not None,
        "the environment's state holds a key": any(map(is_key, jax.tree.leaves(state))),
        f"actions are {spaces.describe(space)}": isinstance(space, spaces.MultiDiscrete),
        f"an observation has {numbers} numbers, above {MOST_NUMBERS}": numbers > MOST_NUMBERS,
    }
    for reason, is_refused in reasons.items():
        if is_refused:
            raise refusal(reason)


def is_key(like: Any) -> bool:
    """Whether an array of that type is of keys, which a kernel holds as their words [..., 2]."""
    return jnp.issubdtype(like.dtype, jax.dtypes.prng_key)


def refusal(reason: str) -> ValueError:
    """The error that says the reason and the remedy, to be raised."""
    return ValueError(f"{reason}, which kernel 'pallas' does not serve; give --kernel xla")
