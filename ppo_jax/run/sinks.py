"""Where metrics go, a hook each: CSV tables, TensorBoard, Weights & Biases or trackio, curves."""

import importlib
import math
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from ppo_jax import ppo, statistics
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.hooks import Hook
from ppo_jax.run.storage import folder
from ppo_jax.run.storage.tables import Table, read_metrics
from ppo_jax.run.training import Batch, Chunk

# Columns beside the update's own metrics: `step` is the agent's environment steps so far. With
# several settings there is one more, `setting`.
LEADING = ("update", "seed", "step")
_QUANTILES = tuple(f"q{round(100 * quantile):02}" for quantile in statistics.QUANTILES)
STATISTICS = ("group", "update", "step", "agents", "mean", "iqm", *_QUANTILES, "solved")

# The original's tags, then the usual diagnostics: tag, metric, and what it is counted against.
TAGS = (
    ("loss/action_loss", "policy_loss", "gradient_steps"),
    ("loss/value_loss", "value_loss", "gradient_steps"),
    ("liveTime/livestep", "episode_length", "episodes"),
    ("charts/episode_return", "episode_return", "env_steps"),
    ("charts/episode_length", "episode_length", "env_steps"),
    ("losses/entropy", "entropy", "env_steps"),
    ("losses/approx_kl", "approx_kl", "env_steps"),
    ("losses/clip_fraction", "clip_fraction", "env_steps"),
    ("losses/explained_variance", "explained_variance", "env_steps"),
    ("losses/actor_grad_norm", "actor_grad_norm", "env_steps"),
    ("losses/critic_grad_norm", "critic_grad_norm", "env_steps"),
)
_EVALUATION_TAG = "eval/episode_return"


class Sink(Hook):
    """Writes each chunk, with the evaluation at its end (or none), while the next one computes."""

    def __init__(self) -> None:
        self._pending: list[tuple[Chunk, np.ndarray | None]] = []

    def at_boundary(self, batch: Batch) -> None:
        """Take the chunk."""
        assert batch.chunk is not None
        self._pending.append((batch.chunk, batch.evaluation))

    def while_computing(self) -> None:
        """Write what was taken."""
        while self._pending:
            self.write(*self._pending.pop(0))

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        """Write a chunk."""


class Tables(Sink):
    """metrics.csv, a row an update and agent (with curves); statistics.csv, a row an update;
    evaluations.csv, a row an evaluation and agent (where there are any)."""

    def __init__(self, path: Path, table: AgentTable):
        super().__init__()
        self._path, self._agents, experiment = path, table, table.experiment
        leading = (*LEADING, *("setting",) * (table.num_settings > 1))
        self._metrics = self._evaluations = None
        with folder.file_system(path):
            self._statistics = Table(path / folder.STATISTICS, STATISTICS)
            if experiment.agents.curves:
                self._metrics = Table(path / folder.METRICS, (*leading, *ppo.Metrics._fields))
            if experiment.stopping.evaluation_updates:
                self._evaluations = Table(path / folder.EVALUATIONS, (*leading, "eval_return"))

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        """Append the chunk's rows, oldest first."""
        with folder.file_system(self._path):
            for row in range(len(chunk.agent_steps)):
                self._write_statistics(chunk, row)
                if self._metrics:
                    self._write_agents(self._metrics, chunk, row, *chunk.metrics.values())
            if self._evaluations and evaluation is not None:
                self._write_agents(self._evaluations, chunk, -1, evaluation[None])
            for table in self._tables():
                table.flush()

    def close(self) -> None:
        """Close the files."""
        with folder.file_system(self._path):
            for table in self._tables():
                table.close()

    def _tables(self) -> list[Table]:
        return [one for one in (self._statistics, self._metrics, self._evaluations) if one]

    def _write_agents(self, table: Table, chunk: Chunk, row: int, *values: np.ndarray) -> None:
        update = chunk.first_update + row % len(chunk.agent_steps)
        columns = [self._agents.seeds[chunk.agent_ids].tolist(), chunk.agent_steps[row].tolist()]
        if self._agents.num_settings > 1:
            columns.append(self._agents.setting[chunk.agent_ids].tolist())
        columns += [array[row].tolist() for array in values]
        for cells in zip(*columns, strict=True):
            table.add(update, *cells)

    def _write_statistics(self, chunk: Chunk, row: int) -> None:
        returns = chunk.statistics.returns
        self._statistics.add(
            *(chunk.batch, chunk.first_update + row, round(chunk.mean_counts["env_steps"][row])),
            int(chunk.statistics.agents[row]),
            *(returns.mean[row], returns.iqm[row], *returns.quantiles[row], returns.solved[row]),
        )


class TensorBoard(Sink):
    """A file of TensorBoard events, of the first batch; what was written is in it at once, which
    tensorboardX's SummaryWriter, a queue between, does not promise."""

    def __init__(self, path: Path):
        super().__init__()
        self._path, tensorboard = path, import_tensorboard()
        self._event, self._scalar = tensorboard.proto.event_pb2.Event, tensorboard.summary.scalar
        ordinal = len(list(path.glob(folder.EVENTS)))  # resumed within a second: another name
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{ordinal}"
        with folder.file_system(path):
            self._file = tensorboard.RecordWriter(str(path / name))
            self._add(file_version="brain.Event:2")
            self._file.flush()

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        """Append the means over agents; nothing where no agent has a value."""
        with folder.file_system(self._path):
            for tag, value, step in _scalars(chunk, evaluation):
                self._add(summary=self._scalar(tag, value), step=step)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with folder.file_system(self._path):
            self._file.close()

    def _add(self, **content: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **content).SerializeToString())


class Tracker(Sink):
    """Weights & Biases or trackio, which have the same interface, of the first batch.

    A resumed run continues the same run there.
    """

    def __init__(self, experiment: Experiment, path: Path):
        super().__init__()
        package = experiment.storage.track or ""
        self._library = importlib.import_module(package)
        identity = {"id": path.name} if package == "wandb" else {}
        self._run = self._library.init(
            project=experiment.storage.track_project,
            name=path.name,
            config=experiment.describe(),
            resume="allow",
            **identity,
        )

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        """Log the means over agents, against the update."""
        for tag, value, step in _scalars(chunk, evaluation):
            self._run.log({tag: value, f"{tag}/step": step})

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()


class Curves(Sink):
    """Every agent's learning curve, kept for the report."""

    def __init__(self, table: AgentTable, path: Path):
        super().__init__()
        shape = table.experiment.algorithm.num_updates or 0, len(table)
        self._table, self._path, self._longest = table, path, 0
        self._returns, self._steps = np.full(shape, np.nan), np.zeros(shape, np.int64)

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        """Keep the returns and the steps; an agent that stops early keeps its last steps."""
        first, size = chunk.first_update - 1, len(chunk.agent_steps)
        self._returns[first : first + size, chunk.agent_ids] = chunk.metrics["episode_return"]
        self._steps[first : first + size, chunk.agent_ids] = chunk.agent_steps
        self._steps[first + size :, chunk.agent_ids] = chunk.agent_steps[-1]
        self._longest = max(self._longest, first + size)

    def restore(self, tree: Any) -> None:
        """Read back what metrics.csv has, which was cut to the checkpoint."""
        saved = read_metrics(self._path / folder.METRICS)
        seeds, setting = saved["seed"], saved.get("setting", np.zeros_like(saved["seed"]))
        self._longest = len(seeds)
        for column in range(seeds.shape[1]):
            known = ~np.isnan(seeds[:, column])
            own = self._table.seeds == seeds[known, column][0]
            agent = np.flatnonzero(own & (self._table.setting == setting[known, column][0]))
            rows = np.flatnonzero(known)
            self._returns[rows, agent] = saved["episode_return"][known, column]
            self._steps[rows, agent] = saved["step"][known, column]
            self._steps[rows[-1] :, agent] = saved["step"][rows[-1], column]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean episode returns while training and environment steps so far, [updates, agents]."""
        return self._returns[: self._longest], self._steps[: self._longest]


def make(table: AgentTable, path: Path) -> list[Hook]:
    """The sinks that the run asks for; they are the main process's."""
    experiment = table.experiment
    sinks: list[Hook] = [Tables(path, table), TensorBoard(path)]
    if experiment.agents.curves:
        sinks.append(Curves(table, path))
    if experiment.storage.track:
        sinks.append(Tracker(experiment, path))
    return sinks


def import_tensorboard() -> Any:
    """tensorboardX, without the seconds of torch, which it imports where it can."""
    unimported = "torch" not in sys.modules
    if unimported:
        sys.modules["torch"] = cast(Any, None)  # Python's own way to say that there is none
    try:
        return importlib.import_module("tensorboardX")
    finally:
        if unimported:
            del sys.modules["torch"]


def _scalars(chunk: Chunk, evaluation: np.ndarray | None) -> Iterator[tuple[str, float, int]]:
    """Tag, mean over agents, and step of each value of the first batch; a step must not occur
    twice."""
    if chunk.batch > 1:
        return
    for row in range(len(chunk.agent_steps)):
        for tag, metric, count in TAGS:
            mean = float(chunk.statistics.means[metric][row])
            if not math.isnan(mean):  # no episode ended, so there is nothing to say
                yield tag, mean, round(chunk.mean_counts[count][row])
    if evaluation is not None and not np.isnan(evaluation).all():
        steps = round(chunk.mean_counts["env_steps"][-1])
        yield _EVALUATION_TAG, float(np.nanmean(evaluation)), steps
