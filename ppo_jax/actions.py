"""What a policy does with each space of actions: distribution, noise, what the environment gets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import fast, spaces
from ppo_jax.distributions import (
    Categorical,
    Distribution,
    MultiCategorical,
    Normal,
    TanhNormal,
)


class Actions(NamedTuple):
    """What an action space makes of a network's output."""

    distribution: Callable[[Any, Any], Distribution]  # (action_output, log σ or None)
    noise: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    env_action: Callable[[jax.Array], jax.Array]
    entropy_needs_noise: bool = False


def make(space: spaces.Space, squash: bool) -> Actions:
    """What the policies of an action space do.

    Args:
        space: Of one action.
        squash: Whether continuous actions are squashed onto their bounds by tanh, not clipped.

    Returns:
        The distribution, its noise, and the way from its samples to the environment's actions.

    Raises:
        ValueError: In one line, for a space that cannot be squashed: one that is not continuous, or
            whose bounds are infinite or equal.
    """
    if squash and not isinstance(space, spaces.Box):
        raise ValueError(
            "squash_action is for continuous actions, and the environment's are"
            f" {spaces.describe(space)}; leave it out"
        )
    match space:
        case spaces.Discrete(n):
            return Actions(lambda logits, _: Categorical(logits), _noise("gumbel", n), _same)
        case spaces.MultiDiscrete(nvec):
            noise = _noise("gumbel", sum(nvec))
            return Actions(lambda logits, _: MultiCategorical(logits), noise, _same)
    assert isinstance(space, spaces.Box)  # `network.num_outputs` has refused all others
    return _box_actions(space, squash)


def _box_actions(space: spaces.Box, squash: bool) -> Actions:
    low, high = (
        jnp.broadcast_to(jnp.asarray(bound, float), space.shape).reshape(-1)
        for bound in (space.low, space.high)
    )
    if squash and not _can_squash(space):
        raise ValueError(
            "squash_action needs finite action bounds, low below high, and the environment's are"
            " infinite or the same; leave it out: actions are then clipped"
        )

    def env_action(action: jax.Array) -> jax.Array:
        lows, highs = jnp.broadcast_to(low, action.shape), jnp.broadcast_to(high, action.shape)
        within = jnp.clip(action, lows, highs)
        if squash:
            within = lows + (highs - lows) * (jnp.tanh(action) + 1) / 2
        return within.reshape(*action.shape[:-1], *space.shape)

    def distribution(mean: jax.Array, log_std: jax.Array) -> Distribution:
        return TanhNormal(mean, log_std, low, high) if squash else Normal(mean, log_std)

    return Actions(distribution, _noise("normal", space.size), env_action, squash)


def _can_squash(space: spaces.Box) -> bool:
    """Whether the bounds are finite and apart; those that are traced cannot be known, and count as
    such."""
    bounds = [bound for bound in (space.low, space.high) if not isinstance(bound, jax.core.Tracer)]
    known = [np.asarray(bound, float) for bound in bounds]
    are_apart = len(known) < 2 or bool((known[0] < known[1]).all())
    return are_apart and all(np.isfinite(bound).all() for bound in known)


def _noise(name: str, width: int) -> Callable[[jax.Array, tuple[int, ...]], jax.Array]:
    return lambda key, leading: fast.draw(getattr(jax.random, name), key, (*leading, width))


def _same(action: jax.Array) -> jax.Array:
    return action
