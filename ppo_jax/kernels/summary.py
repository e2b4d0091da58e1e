"""Sums and means over an update's steps as one GPU kernel, where XLA has several."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton

from ppo_jax.kernels import memory

_WARPS = 8
MOST_STEPS = 2**14  # which the kernel holds at once


def summarize(function: Callable[[Any], Any], steps: Any) -> Any:
    """The numbers [] that the function makes of vectors, given as arrays of as many numbers.

    It is called with vectors that are longer, by zeros and False; `steps.valid` says by how many.
    """
    steps = jax.tree.map(jnp.ravel, steps)
    size = len(jax.tree.leaves(steps)[0])
    likes, structure = jax.tree.flatten(jax.eval_shape(function, steps))

    def summary_kernel(inputs: Any, outputs: Any, _: Any) -> None:
        row = jax.lax.broadcasted_iota(jnp.int32, (memory.padded(size),), 0)

        def read(ref: Any) -> jax.Array:
            return triton.load(ref.at[row], mask=row < size, other=jnp.zeros((), ref.dtype))

        padded = jax.tree.map(read, inputs)
        if padded.valid is None:
            padded = padded._replace(valid=row < size)
        found = function(padded)
        for ref, number in zip(outputs, jax.tree.leaves(found), strict=True):
            ref[0] = number

    outputs = [jax.ShapeDtypeStruct((1,), like.dtype) for like in likes]
    found = memory.call(summary_kernel, steps, outputs, _WARPS)
    return jax.tree.unflatten(structure, [number[0] for number in found])
