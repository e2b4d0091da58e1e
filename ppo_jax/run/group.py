"""Agents that train at once: chunk after chunk, and what became of them."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import env, population, ppo
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
    compile_for: Callable[[Config, int], Programs]  # for another number of lanes

    def train(
        self,
        compiled: Programs,
        log: Log,
        progress: Training,
        seconds_before: float,
        stopped: list[int],
    ) -> tuple[list[Outcome], float]:
        """Run chunk after chunk, then evaluate; returns also the seconds of the chunks.

        There is one outcome, and one more for every time that solved agents were dropped.
        """
        total, most = self.job.config.num_updates or 0, programs.storage(self.job.config)
        own = np.arange(len(self.who)) < self.count
        everyone = hosts.gather(np.where(own, self.who, -1).astype(np.int32))
        counted = everyone >= 0
        log.start(everyone[counted])
        states = jax.block_until_ready(compiled.init(self.seeds, self.config))
        evolution = None
        if self.job.evolve:
            evolution = Evolution(self.job, self.config, states, self.count)
        outcomes: list[Outcome] = []
        done, size, elsewhere, solved = 0, 1, 0.0, False
        waiting: tuple[Any, population.Statistics] | None = None
        curves: list[tuple[np.ndarray, np.ndarray]] = []
        started = time.perf_counter()
        while done < total and not stopped and not solved:
            began = time.perf_counter()
            states, rows = compiled.chunk(states, self.config, size)
            if waiting:  # written while the device computes the next chunk
                log.write(*waiting)
            rows = hosts.gather(rows, axis=1)
            summary = jax.block_until_ready(compiled.summarize(rows, counted))
            kept, summary = waiting = self._to_host(rows, summary, counted, size)
            if kept is not None:
                curves.append((kept["episode_return"], kept["env_steps"]))
            if evolution:
                evolution.observe(np.asarray(rows.episode_return)[:size, : self.count])
            done += size
            each = (time.perf_counter() - began) / size
            if self._evaluation_is_due(done):
                before = time.perf_counter()
                eval_returns = self._evaluate(compiled, states)[counted]
                ready = eval_returns >= env.SOLVED_AT[self.job.config.env]
                ready_before = sum(len(one.agents) for one in outcomes)
                solved = self._enough(ready_before + ready.sum(), ready_before + len(ready))
                if self.job.drop_solved and not solved and 2 * (~ready).sum() <= len(self.who):
                    log.write(*waiting)
                    waiting = None
                    outcome = self._outcome(states, done, everyone, eval_returns, curves)
                    outcomes.append(outcome.of(ready))
                    curves = [(one[:, ~ready], other[:, ~ready]) for one, other in curves]
                    states, compiled = self._drop(states, ready, compiled)
                    everyone = np.where(np.arange(len(self.who)) < self.count, self.who, -1)
                    counted = everyone >= 0
                    log.keep(~ready)
                elsewhere += time.perf_counter() - before
            if evolution and done % self.job.evolve_every == 0 and done < total and not solved:
                states, self.config = evolution.evolve(states, self.config, done)
            took = time.perf_counter() - started - elsewhere
            unwritten = 0 if waiting is None else int(summary.env_steps.sum(dtype=np.int64))
            latest = _latest_return(summary)
            progress.show(done, log.env_steps + unwritten, seconds_before + took, latest)
            size = hosts.agree(self._next_size(each, done, min(most, total - done)))
            hosts.agree_to_stop(stopped)
        if waiting:  # unless a signal came before the first chunk
            log.write(*waiting)
        took = time.perf_counter() - started - elsewhere
        eval_returns = None if stopped else self._evaluate(compiled, states)[counted]
        outcome = self._outcome(states, done, everyone, eval_returns, curves)
        if evolution:
            outcome = outcome._replace(evolution=evolution.best(self.config, eval_returns))
        return [*outcomes, outcome], took

    def _drop(
        self, states: ppo.TrainState, ready: np.ndarray, compiled: Programs
    ) -> tuple[ppo.TrainState, Programs]:
        """Go on without the agents that are ready, in a smaller batch."""
        left = np.flatnonzero(~ready)
        devices = len(states.num_updates.sharding.device_set)
        lanes = -(-len(left) // devices) * devices
        chosen = left[np.minimum(np.arange(lanes), len(left) - 1)]
        self.who, self.seeds, self.count = self.who[chosen], self.seeds[chosen], len(left)
        self.config = jax.tree.map(
            lambda leaf: np.asarray(leaf)[chosen] if np.ndim(leaf) else leaf, self.config
        )
        compiled = self.compile_for(self.config, lanes)
        left_over = jax.tree.map(lambda leaf: jax.device_put(leaf[chosen], leaf.sharding), states)
        return left_over, compiled

    def _to_host(
        self, rows: ppo.Metrics, summary: population.Statistics, counted: np.ndarray, size: int
    ) -> tuple[dict[str, np.ndarray] | None, population.Statistics]:
        kept = None
        if self.job.curves:
            kept = {name: np.asarray(leaf)[:size, counted] for name, leaf in rows._asdict().items()}
        return kept, jax.tree.map(lambda leaf: np.asarray(leaf)[:size], summary)

    def _next_size(self, seconds_each: float, done: int, most: int) -> int:
        size = max(1, min(round(_CHUNK_SECONDS / max(seconds_each, 1e-9)), most))
        if self._evaluates():  # end at the next evaluation
            size = min(size, self.job.evaluate_every - done % self.job.evaluate_every)
        if self.job.evolve:  # end at the next generation
            size = min(size, self.job.evolve_every - done % self.job.evolve_every)
        return size

    def _evaluation_is_due(self, done: int) -> bool:
        return self._evaluates() and done % self.job.evaluate_every == 0

    def _evaluates(self) -> bool:
        return self.job.stop_when_solved is not None or self.job.drop_solved

    def _enough(self, solved: int, agents: int) -> bool:
        return solved >= (self.job.stop_when_solved or 1) * agents

    def _evaluate(self, compiled: Programs, states: ppo.TrainState) -> np.ndarray:
        """Mean greedy return of every process's agents."""
        returns = hosts.gather(compiled.evaluate(states.params, self.seeds, self.config))
        return np.asarray(returns, np.float64).mean(axis=1)

    def _outcome(
        self,
        states: ppo.TrainState,
        done: int,
        everyone: np.ndarray,
        eval_returns: np.ndarray | None,
        curves: list[tuple[np.ndarray, np.ndarray]],
    ) -> Outcome:
        counted = everyone >= 0
        gathered = hosts.gather((states.params, states.num_updates))
        params, updates = jax.tree.map(lambda leaf: np.asarray(leaf)[counted], gathered)
        returns, steps = None, None
        if curves:
            returns = np.concatenate([chunk[0] for chunk in curves])
            steps = np.concatenate([chunk[1] for chunk in curves]).cumsum(axis=0, dtype=np.int64)
        if eval_returns is not None:
            eval_returns = np.where(updates < done, np.nan, eval_returns)
        return Outcome(
            agents=everyone[counted],
            params=to_arrays(params),
            updates=updates,
            frozen=updates < done,
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
