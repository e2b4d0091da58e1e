"""Where metrics go, a hook each: CSV tables, TensorBoard, Weights & Biases or trackio."""

import importlib
import math
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from ppo_jax import ppo, statistics
from ppo_jax.objects import first_line
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.storage import folder
from ppo_jax.run.storage.tables import Table
from ppo_jax.run.training import Batch, Chunk, Hook

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


class Sink(Hook):
    """Writes each chunk, with the evaluation at its end (or none), while the next one computes."""

    def __init__(self, file: Any):
        self._file = file
        self._pending: list[tuple[Chunk, np.ndarray | None]] = []

    def at_boundary(self, batch: Batch) -> None:
        assert batch.chunk is not None
        self._pending.append((batch.chunk, batch.evaluation))

    def while_computing(self) -> None:
        while self._pending:
            self.write(*self._pending.pop(0))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        """Write a chunk."""


class Metrics(Sink):
    """metrics.csv: a row an update and agent. `step` is the agent's environment steps so far."""

    file: str = folder.METRICS
    columns: tuple[str, ...] = ppo.Metrics._fields

    def __init__(self, path: Path, table: AgentTable):
        self._table = table
        setting = ("setting",) * (table.num_settings > 1)
        header = ("update", "seed", "step", *setting, *self.columns)
        super().__init__(Table(path / self.file, header))

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        for row in range(len(chunk.agent_steps)):
            self._add(chunk, row, *(array[row] for array in chunk.metrics.values()))

    def _add(self, chunk: Chunk, row: int, *values: np.ndarray) -> None:
        """A row an agent, of values [agents] at one of the chunk's updates."""
        own = [self._table.seeds[chunk.agent_ids], chunk.agent_steps[row]]
        if self._table.num_settings > 1:
            own.append(self._table.setting[chunk.agent_ids])
        for cells in zip(*(column.tolist() for column in (*own, *values)), strict=True):
            self._file.add(chunk.first_update + row, *cells)


class Evaluations(Metrics):
    """evaluations.csv: a row an evaluation and agent, its mean greedy return."""

    file, columns = folder.EVALUATIONS, ("eval_return",)

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        if evaluation is not None:
            self._add(chunk, len(chunk.agent_steps) - 1, evaluation)


class Statistics(Sink):
    """statistics.csv: a row an update, over agents."""

    def __init__(self, path: Path):
        super().__init__(Table(path / folder.STATISTICS, STATISTICS))

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        returns = chunk.statistics.returns
        for row, step in enumerate(chunk.mean_counts["env_steps"]):
            self._file.add(
                *(chunk.batch, chunk.first_update + row, round(step)),
                int(chunk.statistics.agents[row]),
                *(returns.mean[row], returns.iqm[row], *returns.quantiles[row]),
                returns.solved[row],
            )


class TensorBoard(Sink):
    """A file of TensorBoard events of the first batch; what is flushed is in it, which
    tensorboardX's SummaryWriter, a queue between, does not promise."""

    def __init__(self, path: Path):
        tensorboard = import_tensorboard()
        self._event, self._scalar = tensorboard.proto.event_pb2.Event, tensorboard.summary.scalar
        ordinal = len(list(path.glob(folder.EVENTS)))  # resumed within a second: another name
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{ordinal}"
        super().__init__(tensorboard.RecordWriter(str(path / name)))
        self._add(file_version="brain.Event:2")
        self._file.flush()

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        for tag, value, step in _scalars(chunk, evaluation):
            self._add(summary=self._scalar(tag, value), step=step)

    def _add(self, **content: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **content).SerializeToString())


class Tracker(Sink):
    """Weights & Biases or trackio, which have the same interface, of the first batch. A resumed run
    continues the same run there."""

    def __init__(self, path: Path, experiment: Experiment):
        self._pending, self._name = [], experiment.storage.track or ""
        library = importlib.import_module(self._name)
        identity = {"id": path.name} if experiment.storage.track == "wandb" else {}
        with self._errors():
            self._run = library.init(
                project=experiment.storage.track_project,
                name=path.name,
                config=experiment.describe(),
                resume="allow",
                **identity,
            )

    def while_computing(self) -> None:
        with self._errors():
            while self._pending:
                for tag, value, step in _scalars(*self._pending.pop(0)):
                    self._run.log({tag: value, f"{tag}/step": step})

    def close(self) -> None:
        with self._errors():
            self._run.finish()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library may raise anything
            raise InputError(
                f"--track {self._name}: {first_line(error)}; leave it out, or --resume later"
            ) from error


def make(table: AgentTable, path: Path) -> Iterator[Hook]:
    """The sinks that the run asks for; they are the main process's."""
    experiment = table.experiment
    if experiment.agents.curves:
        yield Metrics(path, table)
    yield Statistics(path)
    yield TensorBoard(path)
    if experiment.stopping.evaluation_updates:
        yield Evaluations(path, table)
    if experiment.storage.track:
        yield Tracker(path, experiment)


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
    """Tag, mean over agents and step of what the first batch did: no step occurs twice."""
    if chunk.batch > 1:
        return
    for row in range(len(chunk.agent_steps)):
        for tag, metric, count in TAGS:
            mean = float(chunk.statistics.means[metric][row])
            if math.isfinite(mean):  # else no episode ended, and there is nothing to say
                yield tag, mean, round(chunk.mean_counts[count][row])
    if evaluation is not None and not np.isnan(evaluation).all():
        steps = round(chunk.mean_counts["env_steps"][-1])
        yield "eval/episode_return", float(np.nanmean(evaluation)), steps
