"""Population-based training as a hook: generations, and evolution.csv."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppo_jax import pbt, population
from ppo_jax.config import with_hyperparameters
from ppo_jax.run.agents import evolution_key
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.storage import folder
from ppo_jax.run.storage.tables import Table
from ppo_jax.run.training import Batch, Hook, next_multiple


class Evolution(Hook):
    """Every so many updates the worst agents continue as children of the best."""

    def __init__(self, experiment: Experiment, path: Path):
        self._agents, self._ranges = experiment.agents, experiment.evolving
        self._key, self._count = evolution_key(self._agents.seed), self._agents.num_seeds
        self._before = np.full(self._count, np.nan, np.float32)  # fitness
        self._returns = np.zeros((0, self._count), np.float32)  # of this generation
        header = ("update", "agent", "parent", "fitness", *self._ranges)
        self._table = Table(path / folder.EVOLUTION, header)
        self.compile_seconds = 0.0

    def begin(self, batch: Batch) -> None:
        """Compile a generation, and write the first one's hyperparameters."""
        self._batch, started = batch, time.perf_counter()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, batch.states)
        self._evolve = (
            jax.jit(
                partial(pbt.evolve_first, self._count, ranges=self._ranges),
                out_shardings=(shardings, None, None),
                compiler_options=population.COMPILER_OPTIONS,
            )
            .lower(self._key, batch.states, batch.config, self._before)
            .compile()
        )
        self.compile_seconds += time.perf_counter() - started
        if not batch.resumed:
            self._write(np.arange(self._count), self._before)

    def next_boundary(self, done: int) -> int:
        return next_multiple(done, self._agents.evolve_every)

    def at_boundary(self, batch: Batch) -> None:
        """Remember the returns; at a generation's end give the worst other states."""
        assert batch.chunk is not None
        returns = batch.chunk.metrics["episode_return"].astype(np.float32)
        self._returns = np.concatenate([self._returns, returns])
        ends = batch.stop_reason or batch.num_updates == batch.total_updates
        if batch.num_updates % self._agents.evolve_every or ends:
            return
        fitness = pbt.fitness(self._returns, self._before)
        key = jax.random.fold_in(self._key, batch.num_updates)
        batch.states, values, parents = self._evolve(key, batch.states, batch.config, fitness)
        on_host = {name: np.asarray(array) for name, array in values.items()}
        batch.config = with_hyperparameters(batch.config, on_host)
        self._write(np.asarray(parents), fitness)
        self._returns, self._before = self._returns[:0], fitness[np.asarray(parents)]

    def state(self) -> dict[str, np.ndarray]:
        return {"before": self._before, "returns": self._returns}

    def restore(self, tree: dict[str, np.ndarray]) -> None:
        self._before, self._returns = tree["before"], tree["returns"]

    def close(self) -> None:
        self._table.close()

    def best(self, eval_returns: np.ndarray) -> dict[str, Any]:
        """The agent of the best greedy return, of equals that of the best fitness, with its
        hyperparameters; without evaluation (NaN) that of the best fitness."""
        fitness = pbt.fitness(self._returns, self._before)
        scores = [np.nan_to_num(one, nan=-np.inf) for one in (fitness, eval_returns)]
        agent = int(np.lexsort(scores)[-1])
        return {
            "agent": agent,
            "seed": self._agents.seed + agent,
            "fitness": float(fitness[agent]) if np.isfinite(fitness[agent]) else None,
            "coefficients": {name: values[agent] for name, values in self._values().items()},
        }

    def _values(self) -> dict[str, list[float]]:
        """The hyperparameters as the files have them: the shortest number that is this float32."""
        values = pbt.hyperparameters(self._batch.config, self._ranges)
        return {
            name: [float(str(value)) for value in np.asarray(array)[: self._count]]
            for name, array in values.items()
        }

    def _write(self, parents: np.ndarray, fitness: np.ndarray) -> None:
        rows = zip(parents.tolist(), fitness.tolist(), *self._values().values(), strict=True)
        for agent, (parent, *cells) in enumerate(rows):
            shown = "" if parent == agent else parent
            self._table.add(self._batch.num_updates, agent, shown, *cells)
        self._table.flush()
