"""Returns and advantages of a rollout: one recurrence, from its last step to its first."""

import chex
import jax
import jax.numpy as jnp

from ppo_jax import fast


def discounted_returns(
    rewards: jax.Array, discounts: jax.Array, bootstrap: jax.Array | float
) -> jax.Array:
    """Discounted reward-to-go, G[t] = r[t] + γ[t] G[t+1], G[T] = bootstrap.

    Args:
        rewards: [T, ...].
        discounts: [T, ...]. A zero ends an episode: nothing before it depends on what comes after.
        bootstrap: [...], the value after the last step, in the rewards' unit.

    Returns:
        [T, ...], in the rewards' unit.

    Sutton & Barto, Reinforcement Learning (2018), eq. 3.9.
    """
    chex.assert_equal_shape([rewards, discounts])
    chex.assert_shape(bootstrap, rewards.shape[1:])
    dtype = jnp.result_type(rewards, discounts, bootstrap)
    inputs = (rewards.astype(dtype), discounts.astype(dtype))
    return fast.discounted_sums(*inputs, jnp.asarray(bootstrap, dtype))


def gae(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    done: jax.Array,
    discount: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> jax.Array:
    """Generalized advantage estimates, A[t] = δ[t] + γ λ (1 - done[t]) A[t+1], A[T] = 0.

    δ[t] = r[t] + γ (1 - terminated[t]) V(s'[t]) - V(s[t]), where s'[t] is the state that step t
    really led to, also where the environment was reset after it.

    Args:
        rewards: [T, ...].
        values: [T, ...], V(s[t]), in the rewards' unit.
        next_values: [T, ...], V(s'[t]); after a termination any finite number.
        terminated: [T, ...], booleans.
        done: [T, ...], booleans: terminated or truncated.
        discount: γ.
        gae_lambda: λ.

    Returns:
        The advantages alone, [T, ...], in the rewards' unit. Adding `values` gives the λ-returns,
            which for λ = 1 are the discounted returns.

    Schulman et al., arXiv:1506.02438, eq. 16.
    """
    chex.assert_equal_shape([rewards, values, next_values, terminated, done])
    continues = discount * (1 - terminated.astype(values.dtype))
    deltas = rewards + continues * next_values - values
    decay = discount * gae_lambda * (1 - done.astype(values.dtype))
    return discounted_returns(deltas, decay, jnp.zeros_like(deltas[0]))
