"""What agents keep of an update as one GPU kernel, where XLA has several a leaf of their states."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jax.experimental.pallas import triton

from ppo_jax import kernels
from ppo_jax.kernels import memory

_WARPS = 4
_WIDTH = 1024  # numbers that are looked at together


def keep_finite(
    index: jax.Array, learned: Any, states: tuple[Any, Any], metrics: tuple[Any, Any]
) -> tuple[Any, Any]:
    """The states of agents after an update, and their metrics with a row of it.

    Both are written in place, so that a loop that carries them copies nothing.

    Args:
        index: [], of the row.
        learned: What must be finite, every leaf [agents, ...].
        states: The new ones and the old ones, [agents, ...]; an agent that learned something that
            is not finite keeps its old one. Keys of random numbers are the new ones.
        metrics: Those of the update [agents], NaN or 0 where it is not kept, and those so far
            [capacity, agents].
    """
    (new, structure), old = jax.tree.flatten(states[0]), jax.tree.leaves(states[1])
    is_key = [kernels.is_key(leaf) for leaf in new]
    row, rows = map(jax.tree.leaves, metrics)

    def finite_kernel(inputs: Any, outputs: Any, _: Any) -> None:
        index, learned, new, row = inputs
        kept, rows = outputs
        agent = pallas.program_id(0)
        bad = sum((_count_bad(ref, agent) for ref in learned), jnp.zeros((), jnp.int32))
        for source, target in zip(new, kept, strict=True):
            _copy_if(bad == 0, source, target, agent)
        for source, target in zip(row, rows, strict=True):
            none = jnp.nan if jnp.issubdtype(source.dtype, jnp.floating) else 0
            target[index[0], agent] = jnp.where(bad == 0, source[agent], none)

    def flat(leaves: list[jax.Array]) -> list[jax.Array]:
        return [
            leaf.reshape(len(leaf), -1) for leaf, key in zip(leaves, is_key, strict=True) if not key
        ]

    agents = len(row[0])
    every = [leaf.reshape(agents, -1) for leaf in jax.tree.leaves(learned)]
    inputs = index[None], every, flat(new), row
    kept, rows = memory.call(finite_kernel, inputs, (flat(old), rows), _WARPS, (agents,))
    chosen = iter(kept)
    states_after = [
        leaf if key else next(chosen).reshape(leaf.shape)
        for leaf, key in zip(new, is_key, strict=True)
    ]
    unflatten = jax.tree.unflatten
    return unflatten(structure, states_after), unflatten(jax.tree.structure(metrics[1]), rows)


def _count_bad(ref: Any, agent: jax.Array) -> jax.Array:
    """How many of an agent's numbers are not finite."""

    def count(part: jax.Array, total: jax.Array) -> jax.Array:
        at, inside = _part(ref, part)
        numbers = triton.load(ref.at[agent, at], mask=inside, other=0)
        return total + jnp.sum(jnp.where(jnp.isfinite(numbers), 0, 1).astype(jnp.int32))

    return jax.lax.fori_loop(0, _parts(ref), count, jnp.zeros((), jnp.int32))


def _copy_if(condition: jax.Array, source: Any, target: Any, agent: jax.Array) -> None:
    """Writes an agent's numbers over those that were there, if so."""

    def copy(part: jax.Array, _: Any) -> Any:
        at, inside = _part(source, part)
        numbers = triton.load(source.at[agent, at], mask=inside, other=jnp.zeros((), source.dtype))
        triton.store(target.at[agent, at], numbers, mask=inside & condition)
        return _

    jax.lax.fori_loop(0, _parts(source), copy, jnp.zeros((), jnp.int32))


def _parts(ref: Any) -> int:
    return -(-ref.shape[1] // _WIDTH)


def _part(ref: Any, part: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The places of a part of an agent's numbers, and which of them exist."""
    width = min(_WIDTH, memory.padded(ref.shape[1]))
    at = part * width + jax.lax.broadcasted_iota(jnp.int32, (width,), 0)
    return at, at < ref.shape[1]
