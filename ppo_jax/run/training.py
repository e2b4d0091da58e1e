"""Trains a batch of agents chunk after chunk, and calls the hooks between the chunks."""

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import pbt, population, ppo
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.objects import first_line
from ppo_jax.policy import Params
from ppo_jax.run import compiled, distributed
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.compiled import Programs
from ppo_jax.run.errors import InputError
from ppo_jax.run.signals import Signals
from ppo_jax.run.storage import arrays

_CHUNK_SECONDS = 0.25  # the screen, the files and signals wait for no more than a chunk
NEVER = sys.maxsize
COUNTS = ("env_steps", "gradient_steps", "episodes")
_COUNTERS = ("number", "num_updates", "seconds", "steps_before", "agent_steps", "means")


class BatchState(NamedTuple):
    """What a checkpoint holds of a batch; leaves are of all processes' lanes."""

    agent_ids: Any  # [lanes], -1 where a lane only fills the batch
    states: Any
    hyperparameters: Any  # of those that evolve
    counters: dict[str, Any]  # what the batch has done so far, and the run before it


class Chunk(NamedTuple):
    """What the updates since the last boundary did, of all processes' agents."""

    batch: int  # number of the batch, from 1
    first_update: int  # from 1
    agent_ids: np.ndarray  # [agents]
    metrics: dict[str, np.ndarray]  # [updates, agents]
    agent_steps: np.ndarray  # [updates, agents], environment steps of each agent so far
    mean_counts: dict[str, np.ndarray]  # [updates], means over agents of what was done so far
    statistics: population.Statistics  # [updates]


class Results(NamedTuple):
    """What became of agents of all processes, in the order of `agent_ids`."""

    agent_ids: np.ndarray  # [agents]
    params: Params  # [agents, ...]
    made: np.ndarray  # [agents], updates that an agent made
    updates: np.ndarray  # [agents], that its batch made: an agent that made fewer was frozen
    env_steps: np.ndarray  # [agents]
    eval_returns: np.ndarray  # [agents], greedy; NaN where frozen, or not evaluated
    digests: np.ndarray  # [agents, 32], of all arrays of each agent's last state

    @property
    def frozen(self) -> np.ndarray:
        """Which agents diverged, and were frozen at their last finite state, [agents]."""
        return self.made < self.updates


class Batch:
    """Agents that train at once on this process, as hooks see them at a boundary.

    Attributes:
        states: A `ppo.TrainState`, every leaf [lanes, ...]. May be assigned; the next chunk
            overwrites it, so copy what is to be kept.
        config: Each hyperparameter is a number or [lanes]. May be assigned.
        agent_ids (np.ndarray): [lanes], the agent in each lane.
        is_real (np.ndarray): [lanes], false where a lane only fills the batch.
        num_updates (int): Done so far.
        total_updates (int): Those of the whole budget.
        resumed (bool): Whether the batch continues from a checkpoint.
        chunk: What the updates since the last boundary did, by agents of all processes.
        evaluation: [agents], mean greedy returns, where `--evaluate-every` has just evaluated.
    """

    def __init__(
        self,
        table: AgentTable,
        lanes: np.ndarray,
        programs: Programs,
        after: "Batch | None" = None,
        initial: Params | None = None,
    ):
        """`lanes` are a batch of the table; `after` is the run's batch before; `initial` are
        parameters that every agent begins with, instead of its own draw."""
        self.table, self.programs = table, programs
        self.agent_ids, self.is_real = lanes % len(table), lanes >= 0
        self.seeds = table.seeds[self.agent_ids]
        self._config: Config = table.configure(self.agent_ids)
        self._own_ids = lanes.astype(np.int32)
        all_ids = distributed.gather(self._own_ids)
        self._real = all_ids >= 0
        self.real_ids = all_ids[self._real]  # [agents], of all processes
        self._states = jax.block_until_ready(programs.init(self.seeds, self.config))
        if initial is not None:
            repeated = jax.tree.map(  # in this run's precision
                lambda leaf, own: np.array([leaf] * len(self.seeds), own.dtype),
                *(initial, self.states.params),
            )
            self.states = self.states._replace(params=arrays.place(self.states.params, repeated))
        self.number: int = after.number + 1 if after else 1
        self.num_updates, self.resumed = 0, False
        self.total_updates = self.config.num_updates or 0
        self.seconds: float = after.seconds if after else 0.0  # of training, of the whole run
        self._lap_began = time.perf_counter()
        self.steps_before: int = after.env_steps if after else 0
        self.stop_reason: str | None = None
        self.evaluation: np.ndarray | None = None  # [agents] mean greedy returns, at a boundary
        self.agent_steps = np.zeros(len(self.real_ids), np.int64)
        self.means = np.zeros(len(COUNTS))  # over agents, of COUNTS so far
        self.chunk: Chunk | None = None

    @property
    def states(self) -> ppo.TrainState:
        """The agents' states, [lanes, ...]."""
        return self._states

    @states.setter
    def states(self, states: ppo.TrainState) -> None:
        self._states = jax.tree.map(
            lambda old, new: jax.device_put(new, old.sharding), self._states, states
        )

    @property
    def config(self) -> Config:
        """The agents' configuration; every hyperparameter is a number, or [lanes]."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        try:
            self._config = jax.tree.map(_like, self._config, config)
        except ValueError as error:
            raise InputError(
                f"config of other types was assigned ({first_line(error)}); what agents are to"
                " differ in, --sweep or --evolve must vary from the start"
            ) from error

    @property
    def env_steps(self) -> int:
        """Environment steps of the whole run so far."""
        return self.steps_before + int(self.agent_steps.sum())

    @property
    def metrics(self) -> ppo.Metrics:
        """What this process's agents did since the last boundary, [updates, lanes]."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: self._size], self._rows)

    def stop(self, reason: str) -> None:
        """End this batch's training at the boundary, after one update at least; its agents are
        evaluated and saved.

        Args:
            reason: Not empty; checkpoints keep it.
        """
        self.stop_reason = reason

    def lap(self, is_training: bool = True) -> float:
        """Seconds since the lap before, which count as training unless they are none."""
        now = time.perf_counter()
        seconds, self._lap_began = now - self._lap_began, now
        self.seconds += seconds * is_training
        return seconds

    def start_chunk(self, size: int) -> None:
        """Begin to compute another chunk of `size` updates."""
        self._size, self.evaluation = size, None
        try:
            self._states, self._rows = self.programs.chunk(self._states, self.config, size)
        except TypeError as error:
            reason = first_line(error)
            raise InputError(f"states of another type were assigned: {reason}") from error

    def finish_chunk(self) -> None:
        """Wait for the chunk, and say in `chunk` what it did."""
        rows = distributed.gather(self._rows, axis=1)
        summary = jax.block_until_ready(self.programs.summarize(rows, self._real))
        statistics = jax.tree.map(lambda leaf: np.asarray(leaf)[: self._size], summary)
        metrics = {
            name: np.asarray(leaf)[: self._size, self._real]
            for name, leaf in rows._asdict().items()
        }
        steps = self.agent_steps + metrics["env_steps"].cumsum(axis=0, dtype=np.int64)
        totals = np.stack([getattr(statistics, name) for name in COUNTS], axis=1)
        added = np.vstack([self.means, totals / len(self.real_ids)]).cumsum(axis=0)
        self.chunk = Chunk(
            batch=self.number,
            first_update=self.num_updates + 1,
            agent_ids=self.real_ids,
            metrics=metrics,
            agent_steps=steps,
            mean_counts=dict(zip(COUNTS, added[1:].T, strict=True)),
            statistics=statistics,
        )
        self.agent_steps, self.means = steps[-1], added[-1]
        self.num_updates += self._size

    def evaluate(self) -> np.ndarray:
        """Mean greedy return, undiscounted, of every process's agents, [agents]."""
        evaluated = self.programs.evaluate(self.states.params, self.seeds, self.config)
        return np.asarray(distributed.gather(evaluated), np.float64).mean(axis=1)[self._real]

    def results(self, evaluated: bool) -> Results:
        """What became of the agents; without evaluation after a signal."""
        states = distributed.gather(jax.tree.map(arrays.plain, self.states))
        made = np.asarray(states.num_updates)[self._real]
        returns = self.evaluate() if evaluated else np.full(len(made), np.nan)
        return Results(
            agent_ids=self.real_ids,
            params=jax.tree.map(lambda leaf: np.asarray(leaf)[self._real], states.params),
            made=made,
            updates=np.full_like(made, self.num_updates),
            env_steps=self.agent_steps,
            eval_returns=np.where(made < self.num_updates, np.nan, returns),
            digests=arrays.digests(states, np.flatnonzero(self._real)),
        )

    def state(self) -> BatchState:
        """All that the batch needs to be restored."""
        evolving = pbt.hyperparameters(self.config, self.table.experiment.evolving)
        ids, states, evolving = distributed.to_global((self._own_ids, self.states, evolving))
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return BatchState(ids, states, evolving, counters)

    def restore(self, saved: BatchState, stop_reason: str | None) -> None:
        """Continue from what `state` gave for these agents, whatever lane each was in."""
        lane = {agent: lane for lane, agent in enumerate(saved.agent_ids.tolist())}
        lanes = np.array([lane.get(agent, 0) for agent in self.agent_ids.tolist()])
        own = jax.tree.map(lambda leaf: leaf[lanes], (saved.states, saved.hyperparameters))
        self.states = arrays.place(self.states, own[0])
        self.config = with_hyperparameters(self.config, own[1])
        for name, value in saved.counters.items():
            setattr(self, name, value if value.ndim else value.item())
        self.stop_reason, self.resumed = stop_reason, True


class Hook:
    """What a hook may do; of a user's own only `at_boundary` is required.

    Every process calls every hook in the same order.
    """

    def begin(self, batch: Batch) -> None:
        """A batch begins, or continues where `batch.resumed`."""

    def at_boundary(self, batch: Batch) -> None:
        """A chunk of updates is done: read, assign `batch.states` and `batch.config`, or stop."""

    def next_boundary(self, done: int) -> int:
        """The number of updates, above `done`, at which a chunk must end."""
        return NEVER

    def while_computing(self) -> None:
        """The next chunk is being computed, or training is over: write what can wait."""

    def state(self) -> Any:
        """A pytree of numbers and arrays that a checkpoint keeps."""
        return {}

    def restore(self, tree: Any) -> None:
        """Continue from what `state` gave."""

    def close(self) -> None:
        """The run is over, however it ended."""


def _like(old: Any, new: Any) -> np.ndarray:
    """The new value as the programs were compiled for the old one."""
    return np.broadcast_to(np.asarray(new, np.result_type(old)), np.shape(old))


def next_multiple(done: int, every: int | None) -> int:
    """The multiple of `every` after `done`; never without one."""
    return done - done % every + every if every else NEVER


def train_batch(batch: Batch, hooks: Sequence[Hook], signals: Signals) -> None:
    """Train until the budget is spent, a hook stops the batch, or a signal has come."""
    for hook in hooks:
        hook.begin(batch)
    batch.lap(is_training=False)  # what hooks prepare
    capacity, size = compiled.capacity(batch.config), 1
    ends = [NEVER] * len(hooks)
    # A batch that is stopped as it begins makes one update: every table has rows of all agents.
    while batch.num_updates < batch.total_updates and not (batch.stop_reason and batch.num_updates):
        if signals.agreed():
            break
        done = batch.num_updates
        ends = [  # what was asked for before, and is still to come, stays asked for
            min(hook.next_boundary(done), end if end > done else NEVER)
            for hook, end in zip(hooks, ends, strict=True)
        ]
        most = min(batch.total_updates, *ends) - done
        size = max(1, min(distributed.allreduce(size), capacity, most))
        batch.start_chunk(size)
        for hook in hooks:
            hook.while_computing()
        batch.finish_chunk()
        seconds = batch.lap()
        for hook in hooks:
            hook.at_boundary(batch)
        batch.lap()
        size = round(_CHUNK_SECONDS * size / max(seconds, 1e-9))
    for hook in hooks:
        hook.while_computing()


def join(results: list[Results]) -> Results:
    """The batches' results as one, in the order of the agent table."""
    order = np.argsort(np.concatenate([one.agent_ids for one in results]))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *results)


def no_results(states: Any) -> Results:
    """Results of no agent, with parameters like those of the states."""
    params = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), states.params)
    ids, steps, digests = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 32), np.uint8)
    return Results(ids, params, ids, ids, steps, np.zeros(0), digests)
