"""The choice between an agent's new and old state as one GPU kernel, where XLA has one a leaf."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton

from ppo_jax.kernels import memory

_WARPS = 4
_WIDTH = 1024  # numbers that are looked at together


def keep_finite(learned: Any, new: Any, old: Any) -> Any:
    """The new arrays of every agent whose learned ones are all finite, the old ones of the others;
    all leaves [agents, ...], keys of random numbers the new ones."""
    leaves, structure = jax.tree.flatten(new)
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    pairs = [
        (one, other)
        for one, other, skipped in zip(leaves, jax.tree.leaves(old), is_key, strict=True)
        if not skipped
    ]
    chosen = iter(jax.vmap(_choose)(jax.tree.leaves(learned), pairs))
    both = zip(leaves, is_key, strict=True)
    return jax.tree.unflatten(structure, [one if key else next(chosen) for one, key in both])


def _choose(learned: list[jax.Array], pairs: list[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
    def finite_kernel(inputs: Any, chosen: Any, _: Any) -> None:
        learned, pairs = inputs
        bad = jnp.zeros((), jnp.int32)
        for ref in learned:
            bad += _sum_over(ref, lambda at, inside, ref=ref: _count_bad(ref, at, inside))
        for (new, old), ref in zip(pairs, chosen, strict=True):

            def write(at: Any, inside: Any, new: Any = new, old: Any = old, ref: Any = ref) -> Any:
                zero = jnp.zeros((), ref.dtype)
                one, other = (
                    triton.load(each.at[at], mask=inside, other=zero) for each in (new, old)
                )
                triton.store(ref.at[at], jnp.where(bad == 0, one, other), mask=inside)
                return jnp.zeros((), jnp.int32)

            _sum_over(ref, write)

    shapes = [jax.ShapeDtypeStruct((one.size,), one.dtype) for one, _ in pairs]
    flat = memory.call(finite_kernel, jax.tree.map(jnp.ravel, (learned, pairs)), shapes, _WARPS)
    return [leaf.reshape(one.shape) for leaf, (one, _) in zip(flat, pairs, strict=True)]


def _count_bad(ref: Any, at: jax.Array, inside: jax.Array) -> jax.Array:
    numbers = triton.load(ref.at[at], mask=inside, other=0)
    return jnp.sum(jnp.where(jnp.isfinite(numbers), 0, 1).astype(jnp.int32))


def _sum_over(ref: Any, function: Callable[..., jax.Array]) -> jax.Array:
    """The sum of the function over the parts of a flat array, of places and which of them exist."""
    width = min(_WIDTH, memory.padded(ref.size))
    lane = jax.lax.broadcasted_iota(jnp.int32, (width,), 0)

    def step(part: jax.Array, total: jax.Array) -> jax.Array:
        at = part * width + lane
        return total + function(at, at < ref.size)

    return jax.lax.fori_loop(0, -(-ref.size // width), step, jnp.zeros((), jnp.int32))
