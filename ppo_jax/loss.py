"""The clipped surrogate loss, the value loss and the entropy bonus, with their diagnostics."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax.config import Config
from ppo_jax.policy import Params, Policy


class Minibatch(NamedTuple):
    """M transitions with what the rollout's policy and critic said of them; all [M] but
    `observation` and `action` [M, ...]. Means go over the valid ones (None: all of them).

    For a network with memory they are sequences, [T, n] for [M], with the n memories that they
    begin with."""

    observation: Any
    action: jax.Array
    noise: Any  # that the action was drawn with, where its entropy needs it; else ()
    log_prob: jax.Array  # by the policy that acted
    value: jax.Array  # V(s) by the critic that the rollout was made with
    advantage: jax.Array
    target: jax.Array  # the return G
    valid: jax.Array | None = None
    memory: Any = ()  # [n, ...]
    start: Any = ()  # [T, n], whether an episode begins here


class Diagnostics(NamedTuple):
    """Means over a minibatch, all []."""

    policy_loss: jax.Array
    value_loss: jax.Array  # times value_coefficient
    entropy: jax.Array  # in nats
    approx_kl: jax.Array  # in nats
    clip_fraction: jax.Array


def loss(
    params: Params, batch: Minibatch, policy: Policy, config: Config
) -> tuple[jax.Array, Diagnostics]:
    """PPO's loss on one minibatch: policy loss + value loss - c entropy, all means.

    Policy loss: -min(ρ A, clip(ρ, 1 - ε, 1 + ε) A), ρ = π(a|s) / π_old(a|s). Value loss: c_v times
    ½ (V - G)², or with `clip_value` the larger of it and the same after V moved at most ε.
    approx_kl is the mean of (ρ - 1) - log ρ; clip_fraction that of |ρ - 1| > ε.

    Args:
        params: The current ones; no gradient flows through the advantages.
        batch: [M, ...]; for a network with memory [T, n, ...].

    Returns:
        The loss, [].
        Its parts and diagnostics, [] each.

    Schulman et al., arXiv:1707.06347, eq. 7 and 9.
    """
    mean = partial(jnp.mean, where=batch.valid)
    distribution, value, _ = policy.unroll(params, batch.observation, batch.memory, batch.start)
    advantage = _advantage(value, batch, config)

    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - config.clip_range, 1 + config.clip_range)
    policy_loss = -mean(jnp.minimum(ratio * advantage, clipped * advantage))
    value_loss = config.value_coefficient * mean(_half_square(value, batch, config))
    entropy = mean(distribution.entropy(batch.noise))

    total = policy_loss + value_loss - config.entropy_coefficient * entropy
    return total, Diagnostics(
        policy_loss,
        value_loss,
        entropy,
        approx_kl=mean((ratio - 1) - log_ratio),
        # As floats: the mean of booleans is float32 whatever the precision.
        clip_fraction=mean((jnp.abs(ratio - 1) > config.clip_range).astype(ratio.dtype)),
    )


def _half_square(value: jax.Array, batch: Minibatch, config: Config) -> jax.Array:
    """½ (V - G)², or with `clip_value` the larger of it and the same after V moved at most ε."""
    square = jnp.square(value - batch.target)
    if config.clip_value:
        move = jnp.clip(value - batch.value, -config.clip_range, config.clip_range)
        square = jnp.maximum(square, jnp.square(batch.value + move - batch.target))
    return 0.5 * square


def _advantage(value: jax.Array, batch: Minibatch, config: Config) -> jax.Array:
    """The rollout's advantages, or G - V(s) by the current critic; no gradient through either.

    Normalized, (A - mean) / (std + 1e-8) with the population's deviation (ddof 0), if so
    configured.
    """
    advantage = batch.advantage
    if config.recompute_advantage:
        advantage = jax.lax.stop_gradient(batch.target - value)
    if config.normalize_advantage:
        mean = jnp.mean(advantage, where=batch.valid)
        # Far below any rounding: √0 has an infinite derivative where all advantages are equal.
        deviation = jnp.sqrt(jnp.var(advantage, where=batch.valid) + 1e-36)
        advantage = (advantage - mean) / (deviation + 1e-8)
    return advantage
