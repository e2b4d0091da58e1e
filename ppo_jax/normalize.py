"""Running statistics of observations and of discounted returns, and what they scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax import fast, spaces

CLIP, EPSILON = 10.0, 1e-8


class Moments(NamedTuple):
    """Mean and summed squared deviation M2 of every entry of a part of the observation."""

    mean: jax.Array
    m2: jax.Array


class Statistics(NamedTuple):
    """Of `count` observations, the moments of each part in jax's order; () for a part that passes
    as it is."""

    count: jax.Array  # type: ignore[assignment]  # []
    parts: tuple[Moments | tuple[()], ...]


class RewardStatistics(NamedTuple):
    """Of the discounted return R that every environment carries, R ← γR + r."""

    count: jax.Array  # type: ignore[assignment]  # []
    mean: jax.Array  # []
    m2: jax.Array  # []
    returns: jax.Array  # [N], R where each environment stands


def init(space: spaces.Space, observation: Any) -> Statistics:
    """The statistics of no observation: Discrete parts pass, all others are normalized.

    Args:
        observation: One, without leading axes, or its shapes.
    """
    kinds = spaces.leaves(space, observation)
    parts = tuple(
        Moments(jnp.zeros(leaf.shape), jnp.zeros(leaf.shape))
        if isinstance(kind, spaces.Box)
        else ()
        for kind, leaf in zip(kinds, jax.tree.leaves(observation), strict=True)
    )
    return Statistics(jnp.zeros(()), parts)


def apply(statistics: Statistics, observation: Any) -> Any:
    """clip((o - mean) / √(M2 / count + 1e-8), -10, 10); unscaled while the count is 0.

    Args:
        observation: Every leaf [B, ...].

    Returns:
        Floats of the same shapes, in deviations; discrete parts stay as they are.
    """

    def scale(leaf: jax.Array, part: Moments | tuple[()]) -> jax.Array:
        if not isinstance(part, Moments):
            return leaf
        raw = jnp.asarray(leaf, float)
        centered = raw - jnp.broadcast_to(part.mean, raw.shape)
        deviation = jnp.sqrt(part.m2 / jnp.maximum(statistics.count, 1) + EPSILON)
        scaled = jnp.clip(centered / jnp.broadcast_to(deviation, raw.shape), -CLIP, CLIP)
        return jnp.where(statistics.count > 0, scaled, raw)

    return _over_parts(scale, observation, statistics)


def merge(statistics: Any, observations: Any, valid: jax.Array) -> Any:
    """The statistics of all observations so far and of these.

    n = n₁ + n₂, δ = mean₂ - mean₁, mean = mean₁ + δ n₂/n, M2 = M2₁ + M2₂ + δ² n₁ n₂ / n.

    Args:
        statistics: Of those so far; () where observations are not normalized.
        observations: Every leaf [T, N, ...].
        valid: [T, N], which of them count; at least one does.

    Returns:
        The statistics of all; () stays ().

    Chan, Golub & LeVeque, The American Statistician 37 (1983), eq. 1.5.
    """
    if not isinstance(statistics, Statistics):
        return statistics
    leaves = jax.tree.leaves(observations)
    number = jnp.sum(valid, dtype=statistics.count.dtype)
    parts = tuple(
        Moments(*_merge(statistics.count, part, number, _moments(leaf, valid)))
        if isinstance(part, Moments)
        else part
        for part, leaf in zip(statistics.parts, leaves, strict=True)
    )
    return Statistics(statistics.count + number, parts)


def init_rewards(num_envs: int) -> RewardStatistics:
    """The statistics of no reward, in N environments that begin."""
    zero = jnp.zeros(())
    return RewardStatistics(zero, zero, zero, jnp.zeros(num_envs))


def scale_rewards(
    statistics: RewardStatistics,
    rewards: jax.Array,
    done: jax.Array,
    valid: jax.Array,
    discount: jax.Array | float,
) -> tuple[RewardStatistics, jax.Array]:
    """Rewards scaled by the deviation of R: clip(r / √(M2 / count + 1e-8), -10, 10).

    R[t] = γ R[t-1] + r[t], which an episode's last step sets to 0 after it has been counted. The
    rollout's R are merged into the statistics first.

    Args:
        statistics: Of R so far.
        rewards: [T, N].
        done: [T, N], where an episode ended.
        valid: [T, N], which steps count.
        discount: γ.

    Returns:
        The statistics with the rollout's R.
        The scaled rewards, [T, N].
    """

    ended = done & valid
    fresh = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
    decay = jnp.where(fresh, 0, jnp.where(valid, discount, 1.0))
    added = jnp.where(valid, rewards, 0)
    returns = fast.discounted_sums(added, decay, statistics.returns, reverse=False)
    last = jnp.where(ended[-1], 0, returns[-1])
    number = jnp.sum(valid, dtype=statistics.count.dtype)
    before = Moments(statistics.mean, statistics.m2)
    mean, m2 = _merge(statistics.count, before, number, _moments(returns, valid))
    count = statistics.count + number
    scaled = jnp.clip(rewards / jnp.sqrt(m2 / count + EPSILON), -CLIP, CLIP)
    return RewardStatistics(count, mean, m2, last), scaled


def inherit(child: Any, parent: Any) -> Any:
    """A parent's reward statistics with its child's own R; () stays ()."""
    if not isinstance(child, RewardStatistics):
        return child
    return parent._replace(returns=child.returns)


def _moments(values: jax.Array, valid: jax.Array) -> Moments:
    """Mean and summed squared deviation over the leading axes [T, N], of the valid ones."""
    values = jnp.asarray(values, float)
    where = valid.reshape(*valid.shape, *(1,) * (values.ndim - valid.ndim))
    mean = jnp.mean(values, (0, 1), where=where)
    deviation = values - jnp.broadcast_to(mean, values.shape)
    return Moments(mean, jnp.sum(jnp.square(deviation), (0, 1), where=where))


def _merge(count: jax.Array, before: Moments, number: jax.Array, new: Moments) -> Moments:
    total = count + number
    delta = new.mean - before.mean
    return Moments(
        before.mean + delta * (number / total),
        before.m2 + new.m2 + jnp.square(delta) * (count * number / total),
    )


def _over_parts(function: Any, observation: Any, statistics: Statistics) -> Any:
    leaves, structure = jax.tree.flatten(observation)
    scaled = [function(leaf, part) for leaf, part in zip(leaves, statistics.parts, strict=True)]
    return jax.tree.unflatten(structure, scaled)
