"""A run's folder, read back: configuration, parameters, metrics, summary."""

import csv
import hashlib
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import network, recipe
from ppo_jax.config import Config
from ppo_jax.run import folder


class Run(NamedTuple):
    """A finished or interrupted run; agents go setting by setting, with the same seeds in each."""

    config: Config
    params: network.Parameters  # every leaf [agents, ...]
    metrics: dict[str, np.ndarray]  # [updates, agents], one entry a column of metrics.csv
    summary: dict[str, Any]


def load(path: str | Path) -> Run:
    """Read the run that `python -m ppo_jax.train --out path` wrote.

    Raises FileNotFoundError for a missing file, ValueError for one that is not whole.
    """
    path = Path(path)
    try:
        settings = folder.read_json(path / folder.CONFIG)
        config = recipe(settings["recipe"], **settings["config"])
        params = to_parameters(_read_arrays(path / folder.PARAMETERS))
        summary = folder.read_json(path / folder.SUMMARY)
        return Run(config, params, read_metrics(path / folder.METRICS), summary)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise ValueError(f"{path} holds no whole run: {error or type(error).__name__}") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file; numbers only, and no more than the file can have."""
    largest = path.stat().st_size
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            with file.open(name) as array:
                if np.lib.format.read_magic(array) != (1, 0):
                    raise ValueError(f"{name} is of no version that is written here")
                shape, _, dtype = np.lib.format.read_array_header_1_0(array)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize > largest:
                raise ValueError(f"{name} declares {dtype} of shape {shape}; it is refused")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def to_arrays(params: network.Parameters) -> dict[str, np.ndarray]:
    """Parameters as named arrays: actor.0.kernel, actor.0.bias, ..., critic.0.kernel, ..."""
    return {
        f"{name}.{index}.{part}": np.asarray(leaf)
        for name, layers in params._asdict().items()
        for index, layer in enumerate(layers)
        for part, leaf in layer._asdict().items()
    }


def to_parameters(arrays: dict[str, np.ndarray]) -> network.Parameters:
    """The inverse of `to_arrays`."""

    def layers(name: str) -> network.MLP:
        count = sum(key.startswith(f"{name}.") and key.endswith(".kernel") for key in arrays)
        return tuple(
            network.Layer(
                *(jnp.asarray(arrays[f"{name}.{index}.{part}"]) for part in network.Layer._fields)
            )
            for index in range(count)
        )

    return network.Parameters(layers("actor"), layers("critic"))


def to_named(tree: Any) -> dict[str, np.ndarray]:
    """Copies of a pytree's arrays by their paths, PRNG keys as their data."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.array(plain(leaf)) for path, leaf in leaves}


def from_named(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `to_named` for a pytree of these types, shapes and places.

    Raises ValueError for arrays that are of another.
    """

    def place(path: Any, leaf: jax.Array) -> jax.Array:
        array, expected = arrays.get(jax.tree_util.keystr(path)), plain(leaf)
        if array is None or (array.shape, array.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"{jax.tree_util.keystr(path)} is not that of such a run")
        if _is_key(leaf):
            return jax.device_put(
                jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf)),
                leaf.sharding,
            )
        return jax.device_put(array, leaf.sharding)

    return jax.tree_util.tree_map_with_path(place, like)


def digests(tree: Any, agents: np.ndarray) -> np.ndarray:
    """The SHA-256 of every array of each of these agents, [agents, 32]; leaves go by agent."""
    hashes = [hashlib.sha256() for _ in agents]
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(plain(leaf))
        said = f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape[1:]} ".encode()
        for known, agent in zip(hashes, agents.tolist(), strict=True):
            known.update(said)
            known.update(array[agent].tobytes())
    return np.array([list(known.digest()) for known in hashes], np.uint8).reshape(-1, 32)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> Any:
    """The array, or a PRNG key's data."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The table as [updates, agents], agents in the roster's order; NaN where an agent stopped
    before the others. Empty where the run kept no curves."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    cells = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows])
    cells = cells.reshape(len(rows), len(header))
    column = {name: cells[:, index] for index, name in enumerate(header)}
    keys = column.get("setting", np.zeros(len(rows))), column["seed"]
    agents, agent = np.unique(np.stack(keys), axis=1, return_inverse=True)
    agent = agent.reshape(-1)  # some versions of NumPy give it another shape
    update = column["update"].astype(int) - 1
    table = np.full((update.max(initial=-1) + 1, agents.shape[1], len(header)), np.nan)
    table[update, agent] = cells
    return {name: table[..., index] for index, name in enumerate(header)}
