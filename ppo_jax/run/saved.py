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

from ppo_jax import policy, ppo
from ppo_jax.config import OBJECTS, Config, with_hyperparameters
from ppo_jax.policy import Params
from ppo_jax.run import folder, roster


class Agent(NamedTuple):
    """One trained agent, with its own configuration."""

    config: Config
    params: Params
    metrics: dict[str, np.ndarray]  # [updates]

    def act(self, observation: Any, key: jax.Array | None = None) -> jax.Array:
        """The action for each observation [..., *shape of one]: greedy, or sampled with a key."""
        return ppo.act(self.params, observation, self.config, key)

    def value(self, observation: Any) -> jax.Array:
        """The critic's value, [...], for each observation [..., *shape of one]."""
        return ppo.value(self.params, observation, self.config)


class Run(NamedTuple):
    """A finished or interrupted run; agents go setting by setting, with the same seeds in each."""

    config: Config
    params: Params  # every leaf [agents, ...]
    metrics: dict[str, np.ndarray]  # [updates, agents], one entry a column of metrics.csv
    summary: dict[str, Any]
    numbers: np.ndarray  # [agents], of those that were saved: all of them, if the run finished
    hyperparameters: dict[str, np.ndarray]  # [agents], of those that differ between agents

    def agent(self, number: int) -> Agent:
        """The agent of that number, with the hyperparameters that it was trained with.

        Raises IndexError for an agent that the run does not have.
        """
        row = int(np.searchsorted(self.numbers, number))
        if row == len(self.numbers) or self.numbers[row] != number:
            raise IndexError(f"agent {number}: the run saved {describe_numbers(self.numbers)}")
        own = {name: float(values[row]) for name, values in self.hyperparameters.items()}
        return Agent(
            config=with_hyperparameters(self.config, own),
            params=jax.tree.map(lambda leaf: leaf[row], self.params),
            metrics={name: values[:, row] for name, values in self.metrics.items()},
        )


def load(path: str | Path, *, env: Any = None, network: Any = None, optimizer: Any = None) -> Run:
    """Read the run that `python -m ppo_jax.train --out path` wrote.

    `env`, `network` and `optimizer` stand for those that the run was given as objects, which its
    files cannot hold.

    Raises FileNotFoundError for a missing file, ValueError for one that is not whole.
    """
    path = Path(path)
    try:
        settings = folder.read_json(path / folder.CONFIG)
        config = read_config(settings, env=env, network=network, optimizer=optimizer)
        params = to_parameters(_read_arrays(path / folder.PARAMETERS), config)
        summary = folder.read_json(path / folder.SUMMARY)
        metrics = read_metrics(path / folder.METRICS)
        agents = roster.of_settings(config, settings)
        count = len(jax.tree.leaves(params)[0])
        numbers = roster.saved_numbers(agents, summary, count)
        own = _hyperparameters(path, settings, agents, numbers)
        return Run(config, params, metrics, summary, numbers, own)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise ValueError(f"{path} holds no whole run: {error or type(error).__name__}") from error


def describe_numbers(numbers: np.ndarray) -> str:
    """The agents' numbers in words."""
    return f"agents 0 to {numbers[-1]}" if len(numbers) == numbers[-1] + 1 else str(numbers)


def read_config(settings: dict[str, Any], **objects: Any) -> Config:
    """The configuration in a run's config.json; a field that it lacks has the default of `Config`,
    which computes what was computed before there was that field.

    Raises ValueError for an object that the file can only name, unless it is given.
    """
    fields = dict(settings["config"])
    for name, given in objects.items():
        if given is not None:
            fields[name] = given
    for name in OBJECTS:
        if isinstance(fields.get(name), dict):
            raise ValueError(
                f"{name} was the object {fields[name]['object']}, which a file cannot hold;"
                f" give it: load(path, {name}=...)"
            )
    return Config(**fields).check()


def _hyperparameters(
    path: Path, settings: dict[str, Any], agents: roster.Roster, numbers: np.ndarray
) -> dict[str, np.ndarray]:
    """What each of these agents was trained with, of what differs between agents; of those that
    evolved the last ones."""
    if not settings.get("evolve"):
        return {name: own[agents.setting[numbers]] for name, own in agents.values.items()}
    with open(path / folder.EVOLUTION, newline="") as file:
        last = {int(row["agent"]): row for row in csv.DictReader(file)}
    return {
        name: np.array([float(last[number][name]) for number in numbers.tolist()])
        for name in settings["evolve"]
    }


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


def to_arrays(params: Any) -> dict[str, np.ndarray]:
    """Parameters as named arrays: trainable.network.actor.hidden_0.kernel, ..."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def to_parameters(arrays: dict[str, np.ndarray], config: Config) -> Params:
    """The inverse of `to_arrays`, for agents of this configuration; leaves may have leading axes.

    Raises ValueError for arrays of another one's.
    """
    like = jax.eval_shape(lambda: policy.make(config).init(jax.random.key(0)))

    def find(path: Any, leaf: Any) -> jax.Array:
        array = arrays.get(_name(path))
        if array is None or array.shape[array.ndim - leaf.ndim :] != leaf.shape:
            raise ValueError(f"{_name(path)} is not that of such a network")
        return jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(find, like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


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
