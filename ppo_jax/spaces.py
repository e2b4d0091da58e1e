"""Spaces of observations and actions, and which of them an observation's leaves belong to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True, eq=False)
class Discrete:
    """The whole numbers 0..n-1."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an element, ()."""
        return ()


@dataclass(frozen=True, eq=False)
class MultiDiscrete:
    """Vectors of whole numbers, entry k in 0..nvec[k]-1."""

    nvec: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nvec", tuple(int(n) for n in self.nvec))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an element, (K,)."""
        return (len(self.nvec),)


@dataclass(frozen=True, eq=False)
class Box:
    """Arrays between two bounds, which broadcast to `shape` and may be traced."""

    low: Any
    high: Any
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def size(self) -> int:
        """Entries of an element, K."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Dict:
    """Several spaces by name; tuples of spaces are named 0, 1, ..."""

    spaces: Mapping[Any, Any]


Space = Discrete | MultiDiscrete | Box | Dict


def convert(space: Any) -> Space:
    """A space of this module, or of gymnax (or whatever has its names), as one of this module.

    Raises:
        ValueError: In one line, for a space of another kind.
    """
    if isinstance(space, Discrete | MultiDiscrete | Box):
        return space
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "MultiDiscrete":
        return MultiDiscrete(tuple(space.nvec))
    if kind == "Box":
        return Box(space.low, space.high, tuple(space.shape), space.dtype)
    if kind in ("Dict", "Tuple"):
        named = space.spaces if hasattr(space.spaces, "items") else dict(enumerate(space.spaces))
        return Dict({name: convert(one) for name, one in named.items()})
    raise ValueError(f"{kind} is not a space; give Discrete, MultiDiscrete, Box or Dict")


def leaves(space: Space, observation: Any) -> list[Discrete | MultiDiscrete | Box]:
    """The space of every leaf of an observation, in the order in which jax flattens it.

    Args:
        observation: One, or its shapes.

    Raises:
        ValueError: In one line, for an observation of another structure than its space.
    """
    return [_at(space, path) for path, _ in jax.tree_util.tree_flatten_with_path(observation)[0]]


def like(observation: Any) -> Space:
    """Unbounded boxes of the shapes and types of one observation's parts, by their names."""
    return _nest(jax.tree_util.tree_flatten_with_path(observation)[0])


def _nest(parts: list[Any]) -> Space:
    """The space of leaves with their paths."""
    (path, leaf), *_ = parts
    if not path:
        return Box(-jnp.inf, jnp.inf, leaf.shape, leaf.dtype)
    named: dict[Any, list[Any]] = {}
    for (step, *rest), leaf in parts:
        named.setdefault(_name(step), []).append((rest, leaf))
    return Dict({name: _nest(inner) for name, inner in named.items()})


def _name(step: Any) -> Any:
    """What one step of a leaf's path is named in a Dict."""
    return next(getattr(step, field) for field in ("key", "name", "idx") if hasattr(step, field))


def _at(space: Space, path: tuple[Any, ...]) -> Discrete | MultiDiscrete | Box:
    found = space
    for step in path:
        name = _name(step)
        if not isinstance(found, Dict) or name not in found.spaces:
            break
        found = found.spaces[name]
    else:
        if not isinstance(found, Dict):
            return found
    raise ValueError(
        f"the observation has a part {jax.tree_util.keystr(path) or 'without a name'}, which its"
        " space lacks; give a Dict with the observation's names"
    )


def as_floats(space: Space, element: jax.Array) -> jax.Array:
    """An element as floats: one-hot for each discrete entry, a Box's numbers as they are.

    Args:
        space: Of the element; no Dict.
        element: [..., *shape].

    Returns:
        [..., n] for Discrete(n), [..., Σ n_k] for MultiDiscrete, [..., *shape] for a Box.
    """
    match space:
        case Discrete(n):
            return jax.nn.one_hot(element, n, dtype=float)
        case MultiDiscrete(nvec):
            pairs = zip(jnp.unstack(element, axis=-1), nvec, strict=True)
            return jnp.concatenate([jax.nn.one_hot(one, n, dtype=float) for one, n in pairs], -1)
    return jnp.asarray(element, float)


def describe(space: Space) -> str:
    """A space in a few characters, such as Discrete(2) or Box(4,)."""
    inner = getattr(space, "n", getattr(space, "nvec", getattr(space, "shape", "…")))
    return f"{type(space).__name__}{inner if isinstance(inner, tuple) else f'({inner})'}"
