"""Population-based training as a run goes on: generations, fitness, evolution.csv."""

import csv
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import env, pbt, population, ppo, sweep
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.run import folder
from ppo_jax.run.job import Job
from ppo_jax.run.roster import Roster


class Evolution:
    """Population-based training of a group: its generations, and evolution.csv.

    An agent's fitness is its mean episode return while training over a generation's updates, or,
    where it ended no episode, the one it had before: those that live long are not the worst.
    """

    def __init__(
        self, job: Job, config: Config, states: ppo.TrainState, count: int, fresh: bool = True
    ):
        self._job, self._count, self._path = job, count, job.path / folder.EVOLUTION
        self._returns: list[np.ndarray] = []
        self._before = np.full(count, np.nan, np.float32)
        self._compiled = self._compile(states, config)
        if fresh:
            with folder.file_system(self._path), open(self._path, "w", newline="") as file:
                csv.writer(file).writerow(["update", "agent", "parent", "fitness", *job.evolve])
            self._write(0, np.arange(count), self._before, config)

    def snapshot(self) -> dict[str, np.ndarray]:
        """What the next generation depends on."""
        returns = np.concatenate([np.zeros((0, self._count), np.float32), *self._returns])
        return {"evolution.before": self._before, "evolution.returns": returns}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a snapshot."""
        self._before, self._returns = arrays["evolution.before"], [arrays["evolution.returns"]]

    def observe(self, returns: np.ndarray) -> None:
        """Mean episode returns [updates, agents] of further updates."""
        self._returns.append(returns)

    def evolve(
        self, states: ppo.TrainState, config: Config, done: int
    ) -> tuple[ppo.TrainState, Config]:
        """The next generation after `done` updates, and the hyperparameters that it runs with."""
        fitness = self._fitness()
        key = jax.random.fold_in(_evolution_key(self._job), done)
        states, values, parents = self._compiled(key, states, config, fitness)
        parents, config = np.asarray(parents), _with_values(config, values)
        self._write(done, parents, fitness, config)
        self._returns, self._before = [], fitness[parents]
        return states, config

    def best(self, config: Config, eval_returns: np.ndarray | None) -> dict[str, Any]:
        """The agent of the best greedy return, of equals that of the best fitness, and its
        hyperparameters; without evaluation that of the best fitness."""
        fitness = self._fitness()
        scores = [fitness] if eval_returns is None else [fitness, eval_returns]
        agent = int(np.lexsort([np.nan_to_num(one, nan=-np.inf) for one in scores])[-1])
        return {
            "agent": agent,
            "seed": self._job.seed + agent,
            "fitness": float(fitness[agent]) if np.isfinite(fitness[agent]) else None,
            "coefficients": {name: values[agent] for name, values in self._values(config).items()},
        }

    def _compile(self, states: ppo.TrainState, config: Config) -> Any:
        ranges, count = self._job.evolve, self._count

        def evolve(key: jax.Array, states: ppo.TrainState, config: Config, fitness: jax.Array):
            counted = jax.tree.map(lambda leaf: leaf[:count] if jnp.ndim(leaf) else leaf, config)
            own = jax.tree.map(lambda leaf: leaf[:count], states)
            own, counted, parents = pbt.evolve(key, own, counted, fitness, ranges)
            filled = jax.tree.map(  # the lanes that only fill the batch go on as they are
                lambda new, old: jnp.concatenate([new, old[count:]]),
                (own, pbt.hyperparameters(counted, ranges)),
                (states, pbt.hyperparameters(config, ranges)),
            )
            return *filled, parents

        shardings = (jax.tree.map(lambda leaf: leaf.sharding, states), None, None)
        compiled = jax.jit(
            evolve, out_shardings=shardings, compiler_options=population.COMPILER_OPTIONS
        )
        return compiled.lower(_evolution_key(self._job), states, config, self._before).compile()

    def _fitness(self) -> np.ndarray:
        if not self._returns:
            return self._before
        returns = np.concatenate(self._returns)
        known = ~np.isnan(returns)
        sums = returns.sum(axis=0, where=known, dtype=np.float64)
        means = sums / np.maximum(known.sum(axis=0), 1)
        return np.where(known.any(axis=0), means, self._before).astype(np.float32)

    def _values(self, config: Config) -> dict[str, list[float]]:
        """The hyperparameters as the files have them: the shortest number that is this float32."""
        values = pbt.hyperparameters(config, self._job.evolve)
        return {
            name: [float(str(value)) for value in np.asarray(array)[: self._count]]
            for name, array in values.items()
        }

    def _write(self, done: int, parents: np.ndarray, fitness: np.ndarray, config: Config) -> None:
        values = self._values(config).values()
        with folder.file_system(self._path), open(self._path, "a", newline="") as file:
            rows = csv.writer(file)
            for agent, parent in enumerate(parents.tolist()):
                fit = "" if math.isnan(fitness[agent]) else float(fitness[agent])
                kept = "" if parent == agent else parent
                rows.writerow([done, agent, kept, fit, *(array[agent] for array in values)])


def configure(job: Job, agents: Roster, who: np.ndarray) -> Config:
    """The configuration that these agents start with: their settings', and of the hyperparameters
    that evolve each agent's own draw.

    Raises ValueError for a hyperparameter that cannot evolve.
    """
    config = agents.configure(job.config, who)
    for name in job.evolve:
        if name.startswith("env_params."):
            _refuse_parameter(config, name)
    key = jax.random.fold_in(_evolution_key(job), 0)
    values = sweep.search(key, job.evolve, job.num_seeds)
    return _with_values(config, {name: np.asarray(array)[who] for name, array in values.items()})


def _refuse_parameter(config: Config, name: str) -> None:
    """Raise ValueError for an environment's parameter that is unknown, or no number."""
    try:
        env.parameter(config, name.removeprefix("env_params."))
    except TypeError:
        raise ValueError(f"{name} of {config.env} is an array; only a number evolves") from None


def _evolution_key(job: Job) -> jax.Array:
    """The root of all that evolution draws: agents use the first three children of their keys."""
    return jax.random.fold_in(jax.random.key(np.uint32(job.seed)), 3)


def _with_values(config: Config, values: Any) -> Config:
    """The configuration with hyperparameters as the compiled programs take them: on the host."""
    return with_hyperparameters(config, {name: np.asarray(array) for name, array in values.items()})
