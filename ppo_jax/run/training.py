"""Trains a batch of agents chunk after chunk, and calls the hooks between the chunks."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import pbt, population, ppo
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.policy import Params
from ppo_jax.run import compiled, distributed
from ppo_jax.run.agents import AgentTable, Lanes
from ppo_jax.run.compiled import Programs
from ppo_jax.run.hooks import Hook
from ppo_jax.run.results import Results
from ppo_jax.run.signals import Signals
from ppo_jax.run.storage import arrays

_CHUNK_SECONDS = 0.25  # the screen, the files and signals wait for no more than a chunk
COUNTS = ("env_steps", "gradient_steps", "episodes")


class BatchState(NamedTuple):
    """What a checkpoint holds of a batch; the leaves of states and hyperparameters are of all
    processes' lanes."""

    agent_ids: Any  # [lanes], -1 where a lane only fills the batch
    states: Any
    hyperparameters: Any  # of those that evolve, [lanes] each
    agent_steps: np.ndarray  # [agents]
    mean_counts: np.ndarray  # [3]
    number: np.ndarray
    num_updates: np.ndarray
    seconds: np.ndarray
    steps_before: np.ndarray


class Chunk(NamedTuple):
    """What the updates since the last boundary did, of all processes' agents."""

    batch: int  # number of the batch, from 1
    first_update: int  # from 1
    agent_ids: np.ndarray  # [agents]
    metrics: dict[str, np.ndarray]  # [updates, agents]
    agent_steps: np.ndarray  # [updates, agents], environment steps of each agent so far
    mean_counts: dict[str, np.ndarray]  # [updates], means over agents of what was done so far
    statistics: population.Statistics  # [updates]


class Batch:
    """Agents that train at once on this process, as hooks see them at a boundary.

    `states` (a `ppo.TrainState` of leaves [lanes, ...]) and `config` (hyperparameters are numbers
    or [lanes]) may be assigned; the next chunk overwrites the states, so copy what is to be kept.
    """

    def __init__(
        self,
        table: AgentTable,
        lanes: Lanes,
        programs: Programs,
        number: int = 1,
        seconds: float = 0.0,
        steps_before: int = 0,
        initial: Params | None = None,
    ):
        """`seconds` and `steps_before` are of the run's earlier batches; `initial` are parameters
        that every agent begins with, instead of its own draw."""
        self.table, self.programs, self.number = table, programs, number
        self.agent_ids, self.is_real = lanes
        self.seeds = table.seeds[self.agent_ids]
        self.config: Config = table.configure(self.agent_ids)
        self.own_ids = np.where(self.is_real, self.agent_ids, -1).astype(np.int32)
        self.all_ids = distributed.gather(self.own_ids)
        self.states = jax.block_until_ready(programs.init(self.seeds, self.config))
        if initial is not None:
            repeated = jax.tree.map(
                lambda leaf: np.broadcast_to(leaf, (len(self.seeds), *np.shape(leaf))), initial
            )
            self.states = self.states._replace(params=arrays.place(self.states.params, repeated))
        self.num_updates, self.resumed = 0, False
        self.total_updates = self.config.num_updates or 0
        self.seconds, self.steps_before = seconds, steps_before
        self.stop_reason: str | None = None
        self.evaluation: np.ndarray | None = None  # [agents] mean greedy returns, at a boundary
        self.agent_steps = np.zeros(len(self.real_ids), np.int64)
        self.mean_counts = dict.fromkeys(COUNTS, 0.0)
        self.chunk: Chunk | None = None

    @property
    def real_ids(self) -> np.ndarray:
        """The agents of all processes, [agents]."""
        return self.all_ids[self.all_ids >= 0]

    @property
    def env_steps(self) -> int:
        """Environment steps of the whole run so far."""
        return self.steps_before + int(self.agent_steps.sum())

    @property
    def metrics(self) -> ppo.Metrics:
        """What this process's agents did since the last boundary, [updates, lanes]."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: self._size], self._rows)

    def stop(self, reason: str) -> None:
        """End this batch's training at the boundary; its agents are evaluated and saved."""
        self.stop_reason = reason

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """What happens meanwhile is not counted as training."""
        started = time.perf_counter()
        yield
        self.seconds -= time.perf_counter() - started

    def start_chunk(self, size: int) -> None:
        """Begin to compute another chunk of `size` updates."""
        self._size, self.evaluation = size, None
        self.states, self._rows = self.programs.chunk(self.states, self.config, size)

    def finish_chunk(self) -> None:
        """Wait for the chunk, and say in `chunk` what it did."""
        rows, real = distributed.gather(self._rows, axis=1), self.all_ids >= 0
        summary = jax.block_until_ready(self.programs.summarize(rows, real))
        statistics = jax.tree.map(lambda leaf: np.asarray(leaf)[: self._size], summary)
        metrics = {name: np.asarray(leaf)[: self._size, real] for name, leaf in _items(rows)}
        steps = self.agent_steps + metrics["env_steps"].cumsum(axis=0, dtype=np.int64)
        self.agent_steps = steps[-1]
        self.chunk = Chunk(
            batch=self.number,
            first_update=self.num_updates + 1,
            agent_ids=self.real_ids,
            metrics=metrics,
            agent_steps=steps,
            mean_counts={name: self._count(name, statistics) for name in COUNTS},
            statistics=statistics,
        )
        self.num_updates += self._size

    def evaluate(self) -> np.ndarray:
        """Mean greedy return of every process's agents, [agents]."""
        evaluated = self.programs.evaluate(self.states.params, self.seeds, self.config)
        means = np.asarray(distributed.gather(evaluated), np.float64).mean(axis=1)
        return means[self.all_ids >= 0]

    def results(self, evaluated: bool) -> Results:
        """What became of the agents; without evaluation after a signal."""
        states = distributed.gather(jax.tree.map(arrays.plain, self.states))
        real = np.flatnonzero(self.all_ids >= 0)
        made = np.asarray(states.num_updates)[real]
        returns = self.evaluate() if evaluated else np.full(len(real), np.nan)
        return Results(
            agent_ids=self.real_ids,
            params=jax.tree.map(lambda leaf: np.asarray(leaf)[real], states.params),
            made=made,
            updates=np.full_like(made, self.num_updates),
            env_steps=self.agent_steps,
            eval_returns=np.where(made < self.num_updates, np.nan, returns),
            digests=arrays.digests(states, real),
        )

    def state(self) -> BatchState:
        """All that the batch needs to be restored, copied."""
        local = self.own_ids, self.states, self._evolving()
        agent_ids, states, hyperparameters = distributed.to_global(local)
        return BatchState(
            agent_ids,
            states,
            hyperparameters,
            self.agent_steps,
            np.array(list(self.mean_counts.values())),
            np.array(self.number),
            np.array(self.num_updates),
            np.array(self.seconds, float),
            np.array(self.steps_before),
        )

    def restore(self, saved: BatchState, stop_reason: str | None) -> None:
        """Continue from what `state` gave for these agents, whatever lane each was in."""
        lane = {agent: lane for lane, agent in enumerate(saved.agent_ids.tolist())}
        lanes = np.array([lane.get(agent, 0) for agent in self.agent_ids.tolist()])
        own = jax.tree.map(lambda leaf: leaf[lanes], (saved.states, saved.hyperparameters))
        self.states = arrays.place(self.states, own[0])
        self.config = with_hyperparameters(self.config, own[1])
        self.agent_steps = saved.agent_steps
        self.mean_counts = dict(zip(COUNTS, saved.mean_counts.tolist(), strict=True))
        self.number, self.num_updates = int(saved.number), int(saved.num_updates)
        self.seconds, self.steps_before = float(saved.seconds), int(saved.steps_before)
        self.stop_reason, self.resumed = stop_reason, True

    def _evolving(self) -> dict[str, np.ndarray]:
        values = pbt.hyperparameters(self.config, self.table.experiment.evolving)
        return {name: np.asarray(value) for name, value in values.items()}

    def _count(self, name: str, statistics: population.Statistics) -> np.ndarray:
        """Means over agents of what was done so far, [updates]."""
        counts = []
        for total in getattr(statistics, name).tolist():
            self.mean_counts[name] += total / len(self.agent_steps)
            counts.append(self.mean_counts[name])
        return np.array(counts)


def train_batch(batch: Batch, hooks: Sequence[Hook], signals: Signals) -> None:
    """Train until the budget is spent, a hook stops the batch, or a signal has come."""
    most, size, started = compiled.capacity(batch.config), 1, time.perf_counter()
    for hook in hooks:
        hook.begin(batch)
    while batch.num_updates < batch.total_updates and not batch.stop_reason:
        if signals.agreed():
            break
        boundary = min(hook.next_boundary(batch.num_updates) for hook in hooks)
        size = distributed.allreduce(max(1, size))
        size = min(
            size, most, boundary - batch.num_updates, batch.total_updates - batch.num_updates
        )
        batch.start_chunk(size)
        for hook in hooks:
            hook.while_computing()
        batch.finish_chunk()
        seconds = time.perf_counter() - started
        batch.seconds, started = batch.seconds + seconds, started + seconds
        for hook in hooks:
            hook.at_boundary(batch)
        took = time.perf_counter() - started
        batch.seconds, started = batch.seconds + took, started + took
        size = round(_CHUNK_SECONDS * size / max(seconds, 1e-9))
    for hook in hooks:
        hook.while_computing()


def _items(rows: ppo.Metrics) -> Any:
    return rows._asdict().items()
