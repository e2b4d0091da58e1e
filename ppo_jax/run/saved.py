"""Reads a run's folder back: configuration, parameters, metrics, summary."""

import csv
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import ppo
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.policy import Params
from ppo_jax.run import agents
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import read_description
from ppo_jax.run.storage import arrays, folder, tables


class AgentError(InputError, IndexError):
    """An agent that the run does not have."""


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
    evaluations: dict[str, np.ndarray]  # [evaluations, agents], of evaluations.csv
    summary: dict[str, Any]
    numbers: np.ndarray  # [agents], of those that were saved: all of them, if the run finished
    hyperparameters: dict[str, np.ndarray]  # [agents], of those that differ between agents
    table: AgentTable

    def agent(self, number: int) -> Agent:
        """The agent of that number, with the hyperparameters that it was trained with.

        Raises IndexError for an agent that the run does not have.
        """
        row, own = self._row(number), self.hyperparameters_of(number)
        return Agent(
            config=with_hyperparameters(self.config, own),
            params=jax.tree.map(lambda leaf: leaf[row], self.params),
            metrics={name: values[:, row] for name, values in self.metrics.items()},
        )

    def hyperparameters_of(self, number: int) -> dict[str, float]:
        """The agent's hyperparameters, of those that differ between agents."""
        row = self._row(number)
        return {name: float(str(values[row])) for name, values in self.hyperparameters.items()}

    def _row(self, number: int) -> int:
        rows = np.flatnonzero(self.numbers == number)
        if rows.size:
            return int(rows[0])
        total, count = len(self.table), len(self.numbers)
        known = f"the run's agents are 0 to {total - 1}"
        if count < total:
            known = f"the run was stopped after {count} of its {total} agents, before this one"
        raise AgentError(f"agent is {number}; {known}")


def load(
    path: str | os.PathLike[str], *, env: Any = None, network: Any = None, optimizer: Any = None
) -> Run:
    """Read the run that `ppo-jax train --out path` wrote, or an agent that comes with the package.

    Args:
        path: the run's folder, or `pretrained:ENV`.
        env, network, optimizer: stand for those that the run was given as objects, which its files
            cannot hold.

    Raises FileNotFoundError for a missing file, ValueError for one that is corrupt.
    """
    path, own = folder.locate(path), {"env": env, "network": network, "optimizer": optimizer}
    with folder.reading(path):
        table = agents.table(read_description(folder.read_json(path / folder.CONFIG), **own))
        config = table.experiment.algorithm
        params = arrays.to_parameters(arrays.read_npz(path / folder.PARAMETERS), config)
        summary = folder.read_json(path / folder.SUMMARY)
        numbers = _saved_numbers(table, summary, len(jax.tree.leaves(params)[0]))
        metrics = tables.read_metrics(path / folder.METRICS)
        evaluations = tables.read_metrics(path / folder.EVALUATIONS)
        varied = _hyperparameters(path, table, numbers)
        return Run(config, params, metrics, evaluations, summary, numbers, varied, table)


def _saved_numbers(table: AgentTable, summary: dict[str, Any], count: int) -> np.ndarray:
    """The numbers of the `count` agents that a run saved, in order: batches train one after
    another, so a run that was stopped saved those of the first ones."""
    numbers = np.arange(len(table))
    place = numbers % table.per_process(summary.get("processes", 1))  # in its process
    batch = place // (summary.get("lanes") or len(numbers))
    return np.sort(numbers[np.argsort(batch, kind="stable")][:count])


def _hyperparameters(path: Path, table: AgentTable, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """What each of these agents was trained with, of what differs between agents; of those that
    evolved the last ones."""
    evolving = table.experiment.evolving
    if not evolving:
        return {name: own[table.setting[numbers]] for name, own in table.values.items()}
    with open(path / folder.EVOLUTION, newline="") as file:
        last = {int(row["agent"]): row for row in csv.DictReader(file)}
    rows = [last[number] for number in numbers.tolist()]
    return {name: np.array([float(row[name]) for row in rows]) for name in evolving}
