"""Population-based training as a hook: generations, fitness, and evolution.csv."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import pbt, population, ppo
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.run.agents import evolution_key
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.hooks import Hook, next_multiple
from ppo_jax.run.storage import folder
from ppo_jax.run.storage.tables import Table
from ppo_jax.run.training import Batch


class Evolution(Hook):
    """Every so many updates the worst agents continue as children of the best.

    An agent's fitness is its mean episode return while training over a generation's updates, or,
    where it ended no episode, the one it had before: those that live long are not the worst.
    """

    def __init__(self, experiment: Experiment, path: Path):
        agents, self._ranges = experiment.agents, experiment.evolving
        self._every, self._seed, self._path = agents.evolve_every, agents.seed, path
        self._key, self._count = evolution_key(agents.seed), agents.num_seeds
        self._before = np.full(self._count, np.nan, np.float32)
        self._returns = np.zeros((0, self._count), np.float32)

    def begin(self, batch: Batch) -> None:
        """Compile a generation, and write the first one's hyperparameters."""
        self._config = batch.config
        self._compiled = self._compile(batch.states, batch.config)
        with folder.file_system(self._path):
            header = ("update", "agent", "parent", "fitness", *self._ranges)
            self._table = Table(self._path / folder.EVOLUTION, header)
        if not batch.resumed:
            self._write(0, np.arange(self._count), self._before)

    def next_boundary(self, done: int) -> int:
        """The end of the generation."""
        return next_multiple(done, self._every)

    def at_boundary(self, batch: Batch) -> None:
        """Remember the returns; at a generation's end give the worst other states."""
        assert batch.chunk is not None
        returns = batch.chunk.metrics["episode_return"].astype(np.float32)
        self._returns = np.concatenate([self._returns, returns])
        going_on = batch.num_updates < batch.total_updates and not batch.stop_reason
        if batch.num_updates % self._every or not going_on:
            return
        fitness = self._fitness()
        key = jax.random.fold_in(self._key, batch.num_updates)
        batch.states, values, parents = self._compiled(key, batch.states, batch.config, fitness)
        batch.config = self._config = with_hyperparameters(
            batch.config, {name: np.asarray(array) for name, array in values.items()}
        )
        self._write(batch.num_updates, np.asarray(parents), fitness)
        self._returns, self._before = self._returns[:0], fitness[np.asarray(parents)]

    def state(self) -> dict[str, np.ndarray]:
        """What the next generation depends on."""
        return {"before": self._before, "returns": self._returns}

    def restore(self, tree: dict[str, np.ndarray]) -> None:
        """Continue from a checkpoint."""
        self._before, self._returns = tree["before"], tree["returns"]

    def close(self) -> None:
        """Close the table."""
        if hasattr(self, "_table"):
            self._table.close()

    def best(self, eval_returns: np.ndarray) -> dict[str, Any]:
        """The agent of the best greedy return, of equals that of the best fitness, with its
        hyperparameters; without evaluation (NaN) that of the best fitness."""
        fitness = self._fitness()
        scores = [np.nan_to_num(one, nan=-np.inf) for one in (fitness, eval_returns)]
        agent = int(np.lexsort(scores)[-1])
        return {
            "agent": agent,
            "seed": self._seed + agent,
            "fitness": float(fitness[agent]) if np.isfinite(fitness[agent]) else None,
            "coefficients": {name: values[agent] for name, values in self._values().items()},
        }

    def _compile(self, states: ppo.TrainState, config: Config) -> Any:
        ranges, count = self._ranges, self._count

        def evolve(key: jax.Array, states: ppo.TrainState, config: Config, fitness: jax.Array):
            real = jax.tree.map(lambda leaf: leaf[:count] if jnp.ndim(leaf) else leaf, config)
            own = jax.tree.map(lambda leaf: leaf[:count], states)
            own, real, parents = pbt.evolve(key, own, real, fitness, ranges)
            filled = jax.tree.map(  # the lanes that only fill the batch stay as they are
                lambda new, old: jnp.concatenate([new, old[count:]]),
                (own, pbt.hyperparameters(real, ranges)),
                (states, pbt.hyperparameters(config, ranges)),
            )
            return *filled, parents

        shardings = (jax.tree.map(lambda leaf: leaf.sharding, states), None, None)
        compiled = jax.jit(
            evolve, out_shardings=shardings, compiler_options=population.COMPILER_OPTIONS
        )
        return compiled.lower(self._key, states, config, self._before).compile()

    def _fitness(self) -> np.ndarray:
        known = ~np.isnan(self._returns)
        sums = self._returns.sum(axis=0, where=known, dtype=np.float64)
        means = sums / np.maximum(known.sum(axis=0), 1)
        return np.where(known.any(axis=0), means, self._before).astype(np.float32)

    def _values(self) -> dict[str, list[float]]:
        """The hyperparameters as the files have them: the shortest number that is this float32."""
        values = pbt.hyperparameters(self._config, self._ranges)
        return {
            name: [float(str(value)) for value in np.asarray(array)[: self._count]]
            for name, array in values.items()
        }

    def _write(self, done: int, parents: np.ndarray, fitness: np.ndarray) -> None:
        columns = self._values().values()
        with folder.file_system(self._path):
            for agent, parent in enumerate(parents.tolist()):
                shown = "" if parent == agent else parent
                values = (column[agent] for column in columns)
                self._table.add(done, agent, shown, float(fitness[agent]), *values)
            self._table.flush()
