"""Agents that train at once: chunk after chunk, and what became of them."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from ppo_jax import env, pbt, population
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.run import hosts, programs
from ppo_jax.run.evolution import Evolution
from ppo_jax.run.job import Job
from ppo_jax.run.log import Log
from ppo_jax.run.outcome import Curves, Outcome
from ppo_jax.run.programs import Programs
from ppo_jax.run.saved import digests, from_named, plain, to_arrays, to_named
from ppo_jax.run.screen import Training

_CHUNK_SECONDS = 0.25  # the screen, the files and signals wait for no more than a chunk
_STATE, _HYPERPARAMETER = "state", "hyperparameter."


class Keeper(Protocol):
    """Who saves checkpoints."""

    def due(self, done: int) -> bool:
        """Whether it is time for one after `done` updates; an earlier one may have failed."""

    def save(self, group: "Group") -> None:
        """Save one of all that has been done."""

    def save_last(self, group: "Group") -> None:
        """Save one of a group's end, if any are saved."""


@dataclasses.dataclass
class Group:
    """This process's agents that train at once: `count` of them, and lanes that only fill the
    batch; other processes train as many."""

    job: Job
    who: np.ndarray  # [lanes], numbers in the roster
    seeds: np.ndarray  # [lanes]
    config: Config  # hyperparameters are numbers, or [lanes]
    count: int
    next_agent: int  # of the roster: the first of the next group
    compile_for: Callable[[Config, int], Programs]  # for a number of lanes
    going_on: bool = False  # from what was saved, which `restore` gives

    def __post_init__(self) -> None:
        self.compiled = self.compile_for(self.config, len(self.who))
        own = np.arange(len(self.who)) < self.count
        self.everyone = hosts.gather(np.where(own, self.who, -1).astype(np.int32))
        self.states = jax.block_until_ready(self.compiled.init(self.seeds, self.config))
        self.evolution: Evolution | None = None
        if self.job.evolve:
            self.evolution = Evolution(
                self.job, self.config, self.states, self.count, fresh=not self.going_on
            )
        self.done, self.solved = 0, False
        self.spent, self.evaluating = 0.0, 0.0  # seconds
        self.curves: list[tuple[np.ndarray, np.ndarray]] = []
        self.dropped: list[Outcome] = []
        self.unwritten: tuple[dict[str, np.ndarray] | None, population.Statistics] | None = None

    @property
    def counted(self) -> np.ndarray:
        """Which lanes of all processes count."""
        return self.everyone >= 0

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All that the group needs to go on, but for the agents it has dropped: arrays and facts.

        Lanes that only fill the batch are left out: they are the last agent's.
        """
        arrays = {"agents": self.who[: self.count].copy()}
        for name, array in to_named(self.states).items():
            arrays[_STATE + name] = array[: self.count]
        if self.evolution:
            arrays |= self.evolution.snapshot()
            for name, value in pbt.hyperparameters(self.config, self.job.evolve).items():
                arrays[_HYPERPARAMETER + name] = np.array(value)[: self.count]
        return arrays, {"done": self.done, "solved": self.solved, "lanes": len(self.who)}

    def restore(
        self, arrays: dict[str, np.ndarray], facts: dict[str, Any], curves: Curves | None
    ) -> None:
        """Go on from a snapshot of these agents. Raises ValueError for that of others."""
        lanes = np.minimum(np.arange(len(self.who)), self.count - 1)
        filled = {
            name.removeprefix(_STATE): array[lanes]
            for name, array in arrays.items()
            if name.startswith(_STATE)
        }
        self.states = from_named(self.states, filled)
        self.done, self.solved = facts["done"], facts["solved"]
        if self.evolution:
            self.evolution.restore(arrays)
            values = {name: arrays[_HYPERPARAMETER + name][lanes] for name in self.job.evolve}
            self.config = with_hyperparameters(self.config, values)
        if curves and self.done:
            self.curves = [curves.of(self.who[: self.count], self.done)]

    def train(
        self,
        log: Log,
        progress: Training,
        seconds_before: float,
        stopped: list[int],
        keeper: Keeper,
    ) -> tuple[list[Outcome], float]:
        """Run chunk after chunk, then evaluate; returns also the seconds of the chunks.

        There is one outcome, and one more for every time that solved agents were dropped.
        """
        if not self.going_on:
            log.start(self.everyone[self.counted])
        total, size = self.job.config.num_updates or 0, 1
        self.spent = seconds_before
        took, started = 0.0, time.perf_counter()
        while self.done < total and not stopped and not self.solved:
            began = time.perf_counter()
            summary = self._advance(size, log)
            each = (time.perf_counter() - began) / size
            self._evaluate_if_due(log)
            self._evolve_if_due(total)
            took = time.perf_counter() - started - self.evaluating
            steps = log.env_steps + self._unwritten_steps()
            self.spent = seconds_before + took
            progress.show(self.done, steps, self.spent, _latest_return(summary))
            size = hosts.agree(self._next_size(each, total))
            hosts.agree_to_stop(stopped)
            if keeper.due(self.done):
                self._write(log)
                keeper.save(self)
        self._write(log)
        eval_returns = None if stopped else self._evaluate()
        hosts.agree_to_stop(stopped)
        if stopped:  # the evaluation is done again when the run goes on
            eval_returns = None
            keeper.save(self)
        else:
            keeper.save_last(self)
        outcome = self._outcome(eval_returns)
        if self.evolution:
            outcome = outcome._replace(evolution=self.evolution.best(self.config, eval_returns))
        return [*self.dropped, outcome], took

    def _advance(self, size: int, log: Log) -> population.Statistics:
        """Another chunk, of `size` updates; the last one is written while the device computes."""
        self.states, rows = self.compiled.chunk(self.states, self.config, size)
        self._write(log)
        rows = hosts.gather(rows, axis=1)
        summary = jax.block_until_ready(self.compiled.summarize(rows, self.counted))
        summary = jax.tree.map(lambda leaf: np.asarray(leaf)[:size], summary)
        kept = None
        if self.job.curves:
            kept = {
                name: np.asarray(leaf)[:size, self.counted] for name, leaf in rows._asdict().items()
            }
            self.curves.append((kept["episode_return"], kept["env_steps"]))
        if self.evolution:
            self.evolution.observe(np.asarray(rows.episode_return)[:size, : self.count])
        self.unwritten = kept, summary
        self.done += size
        return summary

    def _write(self, log: Log) -> None:
        if self.unwritten:
            log.write(*self.unwritten)
            self.unwritten = None

    def _unwritten_steps(self) -> int:
        return int(self.unwritten[1].env_steps.sum(dtype=np.int64)) if self.unwritten else 0

    def _evaluate_if_due(self, log: Log) -> None:
        """Evaluate where stopping or dropping asks for it, and do either if enough are solved."""
        if not self._evaluates() or self.done % self.job.evaluate_every:
            return
        before = time.perf_counter()
        eval_returns = self._evaluate()
        ready = eval_returns >= env.SOLVED_AT[self.job.config.env]
        ready_before = sum(len(outcome.agents) for outcome in self.dropped)
        enough = (self.job.stop_when_solved or 1) * (ready_before + len(ready))
        self.solved = bool(ready_before + ready.sum() >= enough)
        half = ready.any() and 2 * (~ready).sum() <= len(self.who)
        if self.job.drop_solved and half and not self.solved:
            self._drop(ready, eval_returns, log)
        self.evaluating += time.perf_counter() - before

    def _drop(self, ready: np.ndarray, eval_returns: np.ndarray, log: Log) -> None:
        """Go on without the agents that are ready, in a smaller batch."""
        self._write(log)
        self.dropped.append(self._outcome(eval_returns).of(ready))
        self.curves = [(returns[:, ~ready], steps[:, ~ready]) for returns, steps in self.curves]
        log.keep(~ready)
        left = np.flatnonzero(~ready)
        devices = len(self.states.num_updates.sharding.device_set)
        lanes = -(-len(left) // devices) * devices
        chosen = left[np.minimum(np.arange(lanes), len(left) - 1)]
        self.who, self.seeds, self.count = self.who[chosen], self.seeds[chosen], len(left)
        self.everyone = np.where(np.arange(lanes) < self.count, self.who, -1)
        self.config = jax.tree.map(
            lambda leaf: np.asarray(leaf)[chosen] if np.ndim(leaf) else leaf, self.config
        )
        self.compiled = self.compile_for(self.config, lanes)
        self.states = jax.tree.map(
            lambda leaf: jax.device_put(leaf[chosen], leaf.sharding), self.states
        )

    def _evolve_if_due(self, total: int) -> None:
        due = self.done % self.job.evolve_every == 0 and self.done < total and not self.solved
        if self.evolution and due:
            self.states, self.config = self.evolution.evolve(self.states, self.config, self.done)

    def _next_size(self, seconds_each: float, total: int) -> int:
        most = min(programs.capacity(self.job.config), total - self.done)
        size = max(1, min(round(_CHUNK_SECONDS / max(seconds_each, 1e-9)), most))
        if self._evaluates():  # end at the next evaluation
            size = min(size, self.job.evaluate_every - self.done % self.job.evaluate_every)
        if self.job.evolve:  # end at the next generation
            size = min(size, self.job.evolve_every - self.done % self.job.evolve_every)
        if self.job.checkpoint_every:
            size = min(size, self.job.checkpoint_every - self.done % self.job.checkpoint_every)
        return size

    def _evaluates(self) -> bool:
        return self.job.stop_when_solved is not None or self.job.drop_solved

    def _evaluate(self) -> np.ndarray:
        """Mean greedy return of every process's agents that count."""
        evaluated = self.compiled.evaluate(self.states.params, self.seeds, self.config)
        return np.asarray(hosts.gather(evaluated), np.float64).mean(axis=1)[self.counted]

    def _outcome(self, eval_returns: np.ndarray | None) -> Outcome:
        states = hosts.gather(jax.tree.map(plain, self.states))
        params, updates = jax.tree.map(
            lambda leaf: np.asarray(leaf)[self.counted], (states.params, states.num_updates)
        )
        frozen = updates < self.done
        if eval_returns is not None:
            eval_returns = np.where(frozen, np.nan, eval_returns)
        returns, steps = None, None
        if self.curves:
            returns, each = (np.concatenate(parts) for parts in zip(*self.curves, strict=True))
            steps = each.cumsum(axis=0, dtype=np.int64)
        return Outcome(
            agents=self.everyone[self.counted],
            params=to_arrays(params),
            updates=updates,
            frozen=frozen,
            eval_returns=eval_returns,
            returns=returns,
            env_steps=steps,
            digests=digests(states, np.flatnonzero(self.counted)),
            evolution=None,
        )


def _latest_return(summary: population.Statistics) -> float:
    """Mean of the last update in which an episode ended, over agents; NaN where none did."""
    known = summary.returns.mean[~np.isnan(summary.returns.mean)]
    return float(known[-1]) if known.size else float("nan")
