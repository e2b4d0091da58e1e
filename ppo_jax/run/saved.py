"""A run's folder, read back: configuration, parameters, metrics, summary."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ppo_jax import network, recipe
from ppo_jax.config import Config
from ppo_jax.run import folder
from ppo_jax.run.log import LEADING


class Run(NamedTuple):
    """A finished or interrupted run of `num_seeds` agents."""

    config: Config
    params: network.Parameters  # every leaf [num_seeds, ...]
    metrics: dict[str, np.ndarray]  # [updates, num_seeds], one entry a column of metrics.csv
    summary: dict[str, Any]


def load(path: str | Path) -> Run:
    """Read the run that `python -m ppo_jax.train --out path` wrote.

    Raises FileNotFoundError for a missing file, ValueError for one that is not whole.
    """
    path = Path(path)
    settings = json.loads((path / folder.CONFIG).read_text())
    config = recipe(settings["recipe"], **settings["config"])
    with np.load(path / folder.PARAMETERS, allow_pickle=False) as arrays:
        params = to_parameters(dict(arrays))
    summary = json.loads((path / folder.SUMMARY).read_text())
    return Run(config, params, _read_metrics(path / folder.METRICS), summary)


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


def _read_metrics(path: Path) -> dict[str, np.ndarray]:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    seeds = len({row[LEADING.index("seed")] for row in rows})
    table = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows])
    table = table.reshape(-1, max(seeds, 1), len(header))
    return {name: table[..., column] for column, name in enumerate(header)}
