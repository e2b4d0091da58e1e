"""The orders of an update's epochs as one GPU kernel, where XLA has several."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton

from ppo_jax import shuffle
from ppo_jax.kernels import memory, threefry

_WARPS = 16
_LANES = 2048  # entries of orders that are computed at once


def epoch_orders(
    key: jax.Array, capacity: int, num_valid: jax.Array | int, num_epochs: int
) -> jax.Array:
    """What `ppo.epoch_orders` gives.

    Raises ValueError, in one line, for what the kernel does not serve.
    """
    threefry.check(key)
    size, num_words = num_epochs * capacity, 2 * shuffle.ROUNDS
    lanes = min(_LANES, memory.padded(size))

    def orders_kernel(inputs: Any, outputs: Any, barrier: Any) -> None:
        root, held = inputs
        orders, words = outputs
        lane = jax.lax.broadcasted_iota(jnp.int32, (memory.padded(num_epochs * num_words),), 0)
        parent = threefry.Key((root[0], root[1]))
        own = threefry.child(parent, (lane // num_words).astype(jnp.uint32))
        own = own._replace(place=(lane % num_words).astype(jnp.uint32))
        triton.store(words.at[lane], threefry.bits(own, 1)[0], mask=lane < num_epochs * num_words)
        barrier()

        def order_part(part: jax.Array, _: jax.Array) -> jax.Array:
            place = part * lanes + jax.lax.broadcasted_iota(jnp.int32, (lanes,), 0)
            first = jnp.minimum(place, size - 1) // capacity * num_words
            drawn = [words[first + number] for number in range(num_words)]
            length = held[0].astype(jnp.uint32)
            pivots = [(word % length).astype(jnp.int32) for word in drawn[: shuffle.ROUNDS]]
            position = place % capacity
            order = shuffle.permute_by(pivots, drawn[shuffle.ROUNDS :], position, held[0])
            order = jnp.where(position < held[0], order, 0)
            triton.store(orders.at[place], order, mask=place < size)
            return _

        jax.lax.fori_loop(0, -(-size // lanes), order_part, jnp.zeros((), jnp.int32))

    outputs = (
        jax.ShapeDtypeStruct((size,), jnp.int32),
        jax.ShapeDtypeStruct((num_epochs * num_words,), jnp.uint32),
    )
    inputs = key, jnp.full(1, num_valid, jnp.int32)
    orders, _ = memory.call(orders_kernel, inputs, outputs, _WARPS)
    return orders.reshape(num_epochs, capacity)
