"""Random permutations without a sort: a keyed bijection of 0..n-1, evaluated point by point."""

from typing import Any

import jax
import jax.numpy as jnp

# After this many rounds positions and pairs pass a uniformity test at every length (tests).
ROUNDS = 24


def permute(key: jax.Array, positions: jax.Array, length: jax.Array | int) -> jax.Array:
    """Where a random permutation π of 0..length-1 sends each position: π(positions).

    Each round draws a pivot K and swaps x with its partner (K - x) mod length if a keyed coin,
    the same for both, says so; so every round, and their composition, is a bijection.

    Args:
        positions: Integers in [0, length), any shape. Others give numbers without meaning.
        length: [], below 2³⁰; may be traced.

    Returns:
        int32, of the positions' shape.

    Hoang, Morris & Rogaway, An Enciphering Scheme Based on a Card Shuffle (CRYPTO 2012), fig. 1.
    """
    words = jax.random.bits(key, (2 * ROUNDS,), jnp.uint32).reshape(2, ROUNDS)
    length = jnp.asarray(length, jnp.int32)
    pivots = words[0] % length.astype(jnp.uint32)
    return permute_by(pivots.astype(jnp.int32), words[1], positions, length)


def permute_by(pivots: Any, coins: Any, positions: jax.Array, length: jax.Array) -> jax.Array:
    """`permute` with the numbers that it draws.

    Args:
        pivots: [ROUNDS] of int32, from 0 to length - 1.
        coins: [ROUNDS] of uint32.
        length: [], int32.
    """
    result = positions.astype(jnp.int32)
    # Unrolled on purpose: all rounds fuse into one kernel over the positions.
    for round_ in range(ROUNDS):
        partner = pivots[round_] - result
        partner = jnp.where(partner < 0, partner + length, partner)
        coin = _hash(jnp.maximum(result, partner).astype(jnp.uint32) ^ coins[round_]) & 1
        result = jnp.where(coin == 1, partner, result)
    return result


def _hash(word: jax.Array) -> jax.Array:
    """A 32-bit integer hash: xor-shifts and odd multiplications, each of them invertible."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
