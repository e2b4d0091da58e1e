"""Pytrees as named arrays (a leaf's path, `trainable.network.actor.hidden_0.kernel`), and back."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import policy
from ppo_jax.config import Config
from ppo_jax.policy import Params


def to_named(tree: Any) -> dict[str, Any]:
    """Copies of a pytree's arrays by their names, PRNG keys as their data; arrays that several
    processes hold are left to them."""
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        is_global = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        named[_name(path)] = leaf if is_global else np.array(plain(leaf))
    return named


def from_named(like: Any, named: dict[str, np.ndarray]) -> Any:
    """The inverse of `to_named`, for a pytree like this one; arrays stay NumPy's, [any, ...].

    Raises ValueError where an array is missing, or its type, or its shape but for the first axis,
    is another.
    """

    def find(path: Any, leaf: Any) -> np.ndarray:
        array, expected = named.get(_name(path)), plain(leaf)
        if array is None or array.dtype != expected.dtype:
            raise ValueError(f"{_name(path)} is missing, or of another type")
        if array.ndim != expected.ndim or array.shape[1:] != expected.shape[1:]:
            raise ValueError(f"{_name(path)} has shape {array.shape}, not that of such a run")
        return array

    return jax.tree_util.tree_map_with_path(find, like)


def to_parameters(named: dict[str, np.ndarray], config: Config) -> Params:
    """The parameters of agents of this configuration; leaves may have leading axes.

    Raises ValueError for the arrays of another configuration.
    """
    like = jax.eval_shape(lambda: policy.make(config).init(jax.random.key(0)))

    def find(path: Any, leaf: Any) -> jax.Array:
        array = named.get(_name(path))
        if array is None or array.shape[array.ndim - leaf.ndim :] != leaf.shape:
            found = "missing" if array is None else f"of shape {array.shape}"
            raise ValueError(f"{_name(path)} is {found}; such a network's is {leaf.shape}")
        return jnp.asarray(array)

    params = jax.tree_util.tree_map_with_path(find, like)
    for name in sorted(named.keys() - to_named(params).keys()):
        raise ValueError(f"{name} is not that of such a network")
    return params


def place(like: Any, arrays: Any) -> Any:
    """NumPy arrays as device arrays of the types and placement of a like pytree's."""

    def one(leaf: jax.Array, array: Any) -> jax.Array:
        if _is_key(leaf):
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
        return jax.device_put(array, leaf.sharding)

    return jax.tree.map(one, like, arrays)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file that was not compressed, and holds no Python objects.

    Raises OSError, and for anything else what NumPy and zipfile raise, such as ValueError.
    """
    with zipfile.ZipFile(path) as file:
        if sum(array.file_size for array in file.infolist()) > path.stat().st_size:
            raise ValueError("it unpacks to more bytes than it has")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def digests(tree: Any, rows: np.ndarray) -> np.ndarray:
    """The SHA-256 of all arrays of each of these agents, [rows, 32]; leaves are [agents, ...]."""
    hashes = [hashlib.sha256() for _ in rows]
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(plain(leaf))
        header = f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape[1:]} ".encode()
        for known, row in zip(hashes, rows.tolist(), strict=True):
            known.update(header)
            known.update(array[row].tobytes())
    return np.array([list(known.digest()) for known in hashes], np.uint8).reshape(-1, 32)


def plain(leaf: Any) -> Any:
    """The array, or a PRNG key's data."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def is_numeric(dtype: Any) -> bool:
    """Whether a type is of numbers or booleans, NumPy's or JAX's."""
    return bool(jax.dtypes.issubdtype(dtype, np.number) or jax.dtypes.issubdtype(dtype, np.bool_))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
