"""Agents that train at once: chunk after chunk, and what became of them."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import env, population
from ppo_jax.config import Config
from ppo_jax.run import hosts, programs
from ppo_jax.run.evolution import Evolution
from ppo_jax.run.job import Job
from ppo_jax.run.log import Log
from ppo_jax.run.programs import Programs
from ppo_jax.run.saved import to_arrays
from ppo_jax.run.screen import Training

_CHUNK_SECONDS = 0.25  # the screen, the files and signals wait for no more than a chunk


class Outcome(NamedTuple):
    """What became of agents, of all processes, in the order of `agents`."""

    agents: np.ndarray  # [agents], their numbers in the roster
    params: dict[str, np.ndarray]  # [agents, ...] each
    updates: np.ndarray  # [agents], that an agent made; fewer than the others': it was frozen
    frozen: np.ndarray  # [agents]
    eval_returns: np.ndarray | None  # [agents], greedy; none after a signal
    returns: np.ndarray | None  # [updates, agents], while training; none without curves
    env_steps: np.ndarray | None  # [updates, agents], so far
    evolution: dict[str, Any] | None  # the best agent and its coefficients

    def of(self, chosen: np.ndarray) -> "Outcome":
        """That of some of the agents."""
        curves = {"returns", "env_steps"}
        return Outcome(
            **{
                name: jax.tree.map(
                    lambda leaf: leaf[:, chosen] if name in curves else leaf[chosen],  # noqa: B023
                    value,
                )
                for name, value in self._asdict().items()
            }
        )


@dataclasses.dataclass
class Group:
    """This process's agents that train at once: `count` of them, and lanes that only fill the
    batch; other processes train as many."""

    job: Job
    who: np.ndarray  # [lanes], numbers in the roster
    seeds: np.ndarray  # [lanes]
    config: Config  # coefficients are numbers, or [lanes]
    count: int
    compiled: Programs
    compile_for: Callable[[Config, int], Programs]  # for another number of lanes

    def __post_init__(self) -> None:
        own = np.arange(len(self.who)) < self.count
        self.everyone = hosts.gather(np.where(own, self.who, -1).astype(np.int32))
        self.states = jax.block_until_ready(self.compiled.init(self.seeds, self.config))
        self.evolution: Evolution | None = None
        if self.job.evolve:
            self.evolution = Evolution(self.job, self.config, self.states, self.count)
        self.done, self.solved, self.evaluating = 0, False, 0.0
        self.curves: list[tuple[np.ndarray, np.ndarray]] = []
        self.dropped: list[Outcome] = []
        self.unwritten: tuple[dict[str, np.ndarray] | None, population.Statistics] | None = None

    @property
    def counted(self) -> np.ndarray:
        """Which lanes of all processes count."""
        return self.everyone >= 0

    def train(
        self, log: Log, progress: Training, seconds_before: float, stopped: list[int]
    ) -> tuple[list[Outcome], float]:
        """Run chunk after chunk, then evaluate; returns also the seconds of the chunks.

        There is one outcome, and one more for every time that solved agents were dropped.
        """
        log.start(self.everyone[self.counted])
        total, size = self.job.config.num_updates or 0, 1
        took, started = 0.0, time.perf_counter()
        while self.done < total and not stopped and not self.solved:
            began = time.perf_counter()
            summary = self._advance(size, log)
            each = (time.perf_counter() - began) / size
            self._evaluate_if_due(log)
            self._evolve_if_due(total)
            took = time.perf_counter() - started - self.evaluating
            steps = log.env_steps + self._unwritten_steps()
            progress.show(self.done, steps, seconds_before + took, _latest_return(summary))
            size = hosts.agree(self._next_size(each, total))
            hosts.agree_to_stop(stopped)
        self._write(log)
        eval_returns = None if stopped else self._evaluate()
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
        most = min(programs.storage(self.job.config), total - self.done)
        size = max(1, min(round(_CHUNK_SECONDS / max(seconds_each, 1e-9)), most))
        if self._evaluates():  # end at the next evaluation
            size = min(size, self.job.evaluate_every - self.done % self.job.evaluate_every)
        if self.job.evolve:  # end at the next generation
            size = min(size, self.job.evolve_every - self.done % self.job.evolve_every)
        return size

    def _evaluates(self) -> bool:
        return self.job.stop_when_solved is not None or self.job.drop_solved

    def _evaluate(self) -> np.ndarray:
        """Mean greedy return of every process's agents that count."""
        evaluated = self.compiled.evaluate(self.states.params, self.seeds, self.config)
        return np.asarray(hosts.gather(evaluated), np.float64).mean(axis=1)[self.counted]

    def _outcome(self, eval_returns: np.ndarray | None) -> Outcome:
        gathered = hosts.gather((self.states.params, self.states.num_updates))
        params, updates = jax.tree.map(lambda leaf: np.asarray(leaf)[self.counted], gathered)
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
            evolution=None,
        )


def join(outcomes: list[Outcome]) -> Outcome:
    """The groups' outcomes as one, in the roster's order; groups that stopped early have shorter
    curves, filled up with NaN returns and steps that stay. What a group lacks, all lack: after a
    signal its evaluation, or its curves."""
    order = np.argsort(np.concatenate([one.agents for one in outcomes]))

    def joined(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays)[order]

    def joined_curves(*arrays: np.ndarray) -> np.ndarray:
        longest = max(len(array) for array in arrays)
        filled = []
        for array in arrays:
            last = np.full_like(array[-1:], np.nan) if array.dtype.kind == "f" else array[-1:]
            filled.append(np.concatenate([array, *[last] * (longest - len(array))]))
        return np.concatenate(filled, axis=1)[:, order]

    together: dict[str, Any] = {}
    for name in set(Outcome._fields) - {"evolution"}:
        parts = [getattr(one, name) for one in outcomes]
        whole = joined_curves if name in ("returns", "env_steps") else joined
        lacking = any(part is None for part in parts)
        together[name] = None if lacking else jax.tree.map(whole, *parts)
    return Outcome(**together, evolution=outcomes[-1].evolution)


def _latest_return(summary: population.Statistics) -> float:
    """Mean of the last update in which an episode ended, over agents; NaN where none did."""
    known = summary.returns.mean[~np.isnan(summary.returns.mean)]
    return float(known[-1]) if known.size else float("nan")
