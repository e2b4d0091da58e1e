"""Evaluates the agents of a run over fresh episodes, with intervals."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import evaluate, population
from ppo_jax.config import with_hyperparameters
from ppo_jax.run.saved import Run
from ppo_jax.run.storage import folder

EVALUATION = "evaluation.json"
_NORMAL = 1.959964  # the 97.5 % quantile: half of a 95 % interval, in standard errors


def returns_of(
    run: Run, numbers: np.ndarray, episodes: int, sampled: bool, seed: int
) -> np.ndarray:
    """Undiscounted returns of fresh episodes of these agents, [agents, episodes].

    Agent i's episodes are those of the key of seed + i: none that its training drew from.
    """

    def one(params: Any, own: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        config = with_hyperparameters(run.config, own)
        return evaluate.evaluate(params, config, key, episodes, sampled)

    every = jax.jit(jax.vmap(one), compiler_options=population.COMPILER_OPTIONS)
    found, at_once = [], min(population.cpu_agents_at_once(run.config), len(numbers))
    for first in range(0, len(numbers), at_once):
        some = numbers[first : first + at_once]
        lanes = some[np.minimum(np.arange(at_once), len(some) - 1)]  # filled with the last
        rows = np.searchsorted(run.numbers, lanes)
        params = jax.tree.map(lambda leaf, rows=rows: leaf[rows], run.params)
        own = {
            name: jnp.asarray(values[rows], float) for name, values in run.hyperparameters.items()
        }
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(lanes)
        found.append(np.asarray(every(params, own, keys))[: len(some)])
    return np.concatenate(found)


def summarize(numbers: np.ndarray, returns: np.ndarray) -> list[dict[str, Any]]:
    """Each agent's mean return with its 95 % interval, mean ± 1.96 σ / √episodes."""
    means = returns.mean(axis=1, dtype=np.float64)
    deviations = returns.std(axis=1, ddof=1, dtype=np.float64)
    halves = _NORMAL * deviations / math.sqrt(returns.shape[1])
    return [
        {"agent": agent, "mean": mean, "low": mean - half, "high": mean + half}
        for agent, mean, half in zip(numbers.tolist(), means.tolist(), halves.tolist(), strict=True)
    ]


def write(
    path: Path, agents: list[dict[str, Any]], episodes: int, sampled: bool, seed: int
) -> None:
    """Write the run's evaluation.json."""
    content = {"episodes": episodes, "sampled": sampled, "seed": seed, "agents": agents}
    folder.write_json(path / EVALUATION, content)
