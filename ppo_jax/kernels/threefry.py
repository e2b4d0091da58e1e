"""The random numbers of `jax.random` inside a GPU kernel: bits, keys of keys, keys of numbers.

Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 2: Threefry-2x32 with
20 rounds, of counters, as JAX has it where `jax_threefry_partitionable` is set.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import kernels

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = np.uint32(0x1BD11BDA)


class Key(NamedTuple):
    """A key of every lane.

    Lanes that share a key draw together: where each draws n numbers, the lane at `place` p gets
    numbers p n to p n + n - 1 of a single draw's.
    """

    words: tuple[jax.Array, jax.Array]  # [lanes] each
    place: Any = np.uint32(0)  # [lanes]


def check(key: jax.Array) -> None:
    """Raise ValueError, in one line, where JAX would draw other numbers than these."""
    if str(jax.random.key_impl(key)) != "threefry2x32":
        raise kernels.refusal(f"keys are of {jax.random.key_impl(key)}, not threefry2x32")
    flags: Any = jax.config
    if not flags.jax_threefry_partitionable:
        raise kernels.refusal("jax_threefry_partitionable is False")


def child(key: Key, number: Any) -> Key:
    """The key of that number, as of `jax.random.fold_in`, and the one at that place of a split."""
    return Key(_hash(key, number))


def children(key: Key, count: int) -> list[Key]:
    """As many keys, as of `jax.random.split`."""
    return [child(key, number) for number in _counters(key, count)]


def bits(key: Key, count: int, width: int = 32) -> list[jax.Array]:
    """As many unsigned integers of that width, as of `jax.random.bits`."""
    return [_joined(_hash(key, number), width) for number in _counters(key, count)]


def _counters(key: Key, count: int) -> list[Any]:
    return [key.place * np.uint32(count) + np.uint32(number) for number in range(count)]


def _joined(words: tuple[jax.Array, jax.Array], width: int) -> jax.Array:
    high, low = words
    if width == 64:
        return (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{width}")


def _hash(key: Key, counter: Any) -> tuple[jax.Array, jax.Array]:
    """Two words [lanes] of a counter below 2³²."""
    first, second = key.words
    schedule = first, second, first ^ second ^ _PARITY
    high, low = first, second + counter
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            high = high + low
            low = ((low << rotation) | (low >> (32 - rotation))) ^ high
        high = high + schedule[(group + 1) % 3]
        low = low + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return high, low
