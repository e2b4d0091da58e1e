"""Reads a run's folder back: configuration, parameters, metrics, summary."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import objects, ppo
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
    """One trained agent, with its own configuration.

    Attributes:
        config: With the hyperparameters that it was trained with.
        params: As `ppo.act` takes them.
        metrics: Columns of metrics.csv, [updates] each.
    """

    config: Config
    params: Params
    metrics: dict[str, np.ndarray]

    def __repr__(self) -> str:  # not every array, where an interpreter shows what it was given
        return f"<Agent of {objects.name(self.config.env)}>"

    def act(self, observation: Any, key: jax.Array | None = None) -> jax.Array:
        """`ppo.act` of this agent: the action for each observation, sampled if there is a key."""
        return ppo.act(self.params, observation, self.config, key)

    def value(self, observation: Any) -> jax.Array:
        """`ppo.value` of this agent: the critic's value of each observation."""
        return ppo.value(self.params, observation, self.config)


class Run(NamedTuple):
    """A finished or interrupted run; agents go setting by setting, with the same seeds in each.

    Attributes:
        config: The run's own; an agent's is `agent(i).config`.
        params: Every leaf [agents, ...].
        metrics: Columns of metrics.csv, [updates, agents] each; NaN after an agent's last row.
        evaluations: Columns of evaluations.csv, [evaluations, agents] each; empty if none.
        summary: What summary.json has.
        numbers: [agents], the saved ones; all of them if the run finished.
        hyperparameters: Those that differ between agents, [agents] each.
        table: Setting and seed of every agent.
    """

    config: Config
    params: Params
    metrics: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    summary: dict[str, Any]
    numbers: np.ndarray
    hyperparameters: dict[str, np.ndarray]
    table: AgentTable

    def __repr__(self) -> str:
        return f"<Run of {objects.name(self.config.env)}, agents: {len(self.numbers)}>"

    def agent(self, number: int) -> Agent:
        """The agent of that number, with the hyperparameters that it was trained with.

        Raises:
            IndexError: For an agent that the run does not have.
        """
        row, own = self._row(number), self.hyperparameters_of(number)
        return Agent(
            config=with_hyperparameters(self.config, own),
            params=jax.tree.map(lambda leaf: leaf[row], self.params),
            metrics={name: values[:, row] for name, values in self.metrics.items()},
        )

    def hyperparameters_of(self, number: int) -> dict[str, float]:
        """The agent's hyperparameters, of those that differ between agents.

        Raises:
            IndexError: For an agent that the run does not have.
        """
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
        path: The run's folder, or `pretrained:ENV`.
        env: Stands for an environment that was given as an object, which the files cannot hold.
        network: The same for a network.
        optimizer: The same for an optimizer.

    Raises:
        FileNotFoundError: For a missing file.
        ValueError: For a file that is corrupt, or an object that is missing.
    """
    path, own = folder.locate(path), {"env": env, "network": network, "optimizer": optimizer}
    with folder.reading(path):
        table = agents.table(read_description(folder.read_json(path / folder.CONFIG), **own))
        config = table.experiment.algorithm
        params = arrays.to_parameters(arrays.read_npz(path / folder.PARAMETERS), config)
        summary = folder.read_json(path / folder.SUMMARY)
        numbers = _saved_numbers(table, summary, len(jax.tree.leaves(params)[0]))
        metrics, evaluations = (
            {name: of[:, numbers] for name, of in tables.read_metrics(path / file, table).items()}
            for file in (folder.METRICS, folder.EVALUATIONS)
        )
        varied = _hyperparameters(path, table, numbers)
        return Run(config, params, metrics, evaluations, summary, numbers, varied, table)


def _saved_numbers(table: AgentTable, summary: dict[str, Any], count: int) -> np.ndarray:
    """The numbers of the `count` agents that a run saved, in order: batches train one after
    another, so a run that was stopped saved those of the first ones."""
    batch, _ = table.place(summary.get("lanes") or len(table), summary.get("processes", 1))
    return np.sort(np.argsort(batch, kind="stable")[:count])


def _hyperparameters(path: Path, table: AgentTable, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """What each of these agents was trained with, of what differs between agents; of those that
    evolved the last ones."""
    evolving = table.experiment.evolving
    if not evolving:
        return {name: own[table.setting[numbers]] for name, own in table.values.items()}
    columns = tables.read_metrics(path / folder.EVOLUTION, table)
    return {name: columns[name][-1, numbers] for name in evolving}
