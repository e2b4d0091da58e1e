"""Agents that train at once: chunk after chunk, and what became of them."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import env, population, ppo
from ppo_jax.config import Config
from ppo_jax.run import programs
from ppo_jax.run.log import Log
from ppo_jax.run.programs import Programs
from ppo_jax.run.saved import to_arrays
from ppo_jax.run.screen import Training

_CHUNK_SECONDS = 0.25  # the screen, the files and signals wait for no more than a chunk


@dataclasses.dataclass(frozen=True)
class Job:
    """What to run, and where it goes."""

    recipe: str
    config: Config
    seed: int
    num_seeds: int
    path: Path
    device: str = "auto"
    axes: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Values of the coefficients that a grid goes through."""
    ranges: dict[str, tuple[str, float, float]] = dataclasses.field(default_factory=dict)
    """Ranges that a random search draws coefficients from."""
    num_samples: int = 0
    """Settings that the random search draws."""
    curves: bool = True
    """Keep every agent's own metrics."""
    group_size: int | None = None
    """Agents trained at once (none: all)."""
    stop_when_solved: float | None = None
    """Stop a group once this fraction of its agents is solved."""
    evaluate_every: int = 10
    """Updates between the evaluations that stopping needs."""


class Outcome(NamedTuple):
    """What became of the agents of a run, in the roster's order."""

    params: dict[str, np.ndarray]  # [agents, ...] each
    updates: np.ndarray  # [agents], that an agent made; fewer than the others': it was frozen
    frozen: np.ndarray  # [agents]
    eval_returns: np.ndarray | None  # [agents], greedy; none after a signal
    returns: np.ndarray | None  # [updates, agents], while training; none without curves
    env_steps: np.ndarray | None  # [updates, agents], so far


@dataclasses.dataclass
class Group:
    """Agents that train at once: `count` of them, and lanes that only fill the batch."""

    job: Job
    seeds: np.ndarray  # [lanes]
    config: Config  # coefficients are numbers, or [lanes]
    count: int

    def train(
        self,
        compiled: Programs,
        log: Log,
        progress: Training,
        seconds_before: float,
        stopped: list[int],
    ) -> tuple[Outcome, float]:
        """Run chunk after chunk, then evaluate; returns also the seconds of the chunks."""
        total, most = self.job.config.num_updates or 0, programs.storage(self.job.config)
        counted = np.arange(len(self.seeds)) < self.count
        states = compiled.init(self.seeds, self.config)
        jax.block_until_ready(states)
        done, size, evaluating, solved = 0, 1, 0.0, False
        waiting: tuple[Any, Any] | None = None
        curves: list[tuple[np.ndarray, np.ndarray]] = []
        started = time.perf_counter()
        while done < total and not stopped and not solved:
            began = time.perf_counter()
            states, rows = compiled.chunk(states, self.config, size)
            summary = compiled.summarize(rows, counted)
            if waiting:  # written while the device computes the next chunk
                log.write(*waiting)
            jax.block_until_ready(summary)
            waiting = self._to_host(rows, summary, size)
            if waiting[0] is not None:
                curves.append((waiting[0]["episode_return"], waiting[0]["env_steps"]))
            done += size
            each = (time.perf_counter() - began) / size
            if self._evaluation_is_due(done):
                before = time.perf_counter()
                solved = self._solved(compiled, states)
                evaluating += time.perf_counter() - before
            took = time.perf_counter() - started - evaluating
            steps = log.env_steps + int(waiting[1].env_steps.sum(dtype=np.int64))
            progress.show(done, steps, seconds_before + took, _latest_return(waiting[1]))
            size = self._next_size(each, done, min(most, total - done))
        if waiting:  # unless a signal came before the first chunk
            log.write(*waiting)
        took = time.perf_counter() - started - evaluating
        eval_returns = None if stopped else self._evaluate(compiled, states)
        return self._outcome(states, done, eval_returns, curves), took

    def _to_host(self, rows: ppo.Metrics, summary: population.Statistics, size: int) -> Any:
        kept = None
        if self.job.curves:
            kept = {
                name: np.asarray(leaf)[:size, : self.count] for name, leaf in rows._asdict().items()
            }
        return kept, jax.tree.map(lambda leaf: np.asarray(leaf)[:size], summary)

    def _next_size(self, seconds_each: float, done: int, most: int) -> int:
        size = max(1, min(round(_CHUNK_SECONDS / max(seconds_each, 1e-9)), most))
        if self.job.stop_when_solved is not None:  # end at the next evaluation
            size = min(size, self.job.evaluate_every - done % self.job.evaluate_every)
        return size

    def _evaluation_is_due(self, done: int) -> bool:
        return self.job.stop_when_solved is not None and done % self.job.evaluate_every == 0

    def _solved(self, compiled: Programs, states: ppo.TrainState) -> bool:
        threshold = env.SOLVED_AT[self.job.config.env]
        fraction = np.mean(self._evaluate(compiled, states) >= threshold)
        return bool(fraction >= (self.job.stop_when_solved or 0))

    def _evaluate(self, compiled: Programs, states: ppo.TrainState) -> np.ndarray:
        returns = compiled.evaluate(states.params, self.seeds, self.config)
        return np.asarray(returns, np.float64).mean(axis=1)[: self.count]

    def _outcome(
        self,
        states: ppo.TrainState,
        done: int,
        eval_returns: np.ndarray | None,
        curves: list[tuple[np.ndarray, np.ndarray]],
    ) -> Outcome:
        updates = np.asarray(states.num_updates)[: self.count]
        frozen = updates < done
        if eval_returns is not None:
            eval_returns = np.where(_finite(states, self.count), eval_returns, np.nan)
        returns, steps = None, None
        if curves:
            returns = np.concatenate([chunk[0] for chunk in curves])
            steps = np.concatenate([chunk[1] for chunk in curves]).cumsum(axis=0, dtype=np.int64)
        params = {name: leaf[: self.count] for name, leaf in to_arrays(states.params).items()}
        return Outcome(params, updates, frozen, eval_returns, returns, steps)


def _finite(states: ppo.TrainState, count: int) -> np.ndarray:
    leaves = [np.asarray(leaf)[:count] for leaf in jax.tree.leaves(states.params)]
    return np.all([np.isfinite(leaf).reshape(count, -1).all(axis=1) for leaf in leaves], axis=0)


def join(outcomes: list[Outcome]) -> Outcome:
    """The groups' outcomes as one; groups that stopped early have shorter curves, filled up with
    NaN returns."""

    def join(arrays: tuple[Any, ...]) -> Any:
        if any(array is None for array in arrays):
            return None
        if arrays[0].ndim == 1:
            return np.concatenate(arrays)
        longest = max(len(array) for array in arrays)
        filling = np.nan if np.issubdtype(arrays[0].dtype, np.floating) else 0
        filled = [
            np.pad(array, ((0, longest - len(array)), (0, 0)), constant_values=filling)
            for array in arrays
        ]
        return np.concatenate(filled, axis=1)

    params = {
        name: np.concatenate([one.params[name] for one in outcomes]) for name in outcomes[0].params
    }
    rest = zip(*(one[1:] for one in outcomes), strict=True)
    return Outcome(params, *(join(arrays) for arrays in rest))


def _latest_return(summary: population.Statistics) -> float:
    """Mean of the last update in which an episode ended, over agents; NaN where none did."""
    known = summary.returns.mean[~np.isnan(summary.returns.mean)]
    return float(known[-1]) if known.size else math.nan
