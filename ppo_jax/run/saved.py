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
