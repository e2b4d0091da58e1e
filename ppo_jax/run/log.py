"""Metrics as they come: a row per update and agent, statistics per update, TensorBoard events."""

import contextlib
import csv
import importlib
import math
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from ppo_jax import statistics
from ppo_jax.population import Statistics
from ppo_jax.run import folder
from ppo_jax.run.roster import Roster

# Columns beside the update's own metrics: `step` is the agent's environment steps so far. With
# several settings there is one more, `setting`.
LEADING = ("update", "seed", "step")

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
_COUNTS = ("env_steps", "gradient_steps", "episodes")
_QUANTILES = tuple(f"q{round(100 * quantile):02}" for quantile in statistics.QUANTILES)
STATISTICS = ("group", "update", "step", "agents", "mean", "iqm", *_QUANTILES, "solved")


class Log:
    """Writes chunks of metrics to a run's folder; close it, or use it in a `with`.

    `curves` says whether every agent's own metrics go to metrics.csv, or only the statistics
    over agents, in statistics.csv. TensorBoard has the first group's. `counts` are an earlier
    log's, whose files this one goes on with.
    """

    def __init__(
        self,
        path: Path,
        roster: Roster,
        fields: tuple[str, ...],
        curves: bool,
        counts: Mapping[str, Any] | None = None,
    ):
        self._path, self._roster = path, roster
        self._group, self._updates, self._env_steps = 0, 0, 0
        settings = ("setting",) if roster.num_settings > 1 else ()
        self._files: list[Any] = []
        with folder.file_system(path):
            if curves:
                self._rows = self._table(folder.METRICS, (*LEADING, *settings, *fields))
            self._statistics = self._table(folder.STATISTICS, STATISTICS)
            self._events = _Events(path)
            self._flush()  # a checkpoint before the first update notes the headers
        self.start(np.arange(0))
        if counts:
            self._group, self._env_steps = counts["group"], counts["env_steps"]

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: Any) -> None:
        with folder.file_system(self._path), contextlib.ExitStack() as closing:
            for file in (*self._files, self._events):  # all of them, whichever fails
                closing.callback(file.close)

    @property
    def env_steps(self) -> int:
        """Environment steps of all agents so far."""
        return self._env_steps

    @property
    def updates(self) -> int:
        """Updates of the present group's agents so far."""
        return self._updates

    @property
    def counts(self) -> dict[str, Any]:
        """What the log has counted so far, of the run and of the present group."""
        return {
            "group": self._group,
            "env_steps": self._env_steps,
            "updates": self._updates,
            "mean_counts": self._mean_counts.copy(),
            "steps": self._steps.tolist(),
        }

    def start(self, agents: np.ndarray) -> None:
        """Another group of agents begins."""
        self._agents = agents
        self._group += len(agents) > 0
        self._updates = 0
        self._steps = np.zeros(len(agents), np.int64)
        self._mean_counts = dict.fromkeys(_COUNTS, 0.0)

    def go_on(self, agents: np.ndarray, counts: Mapping[str, Any]) -> None:
        """A group of agents goes on from what an earlier log had counted."""
        self._agents = agents
        self._updates, self._mean_counts = counts["updates"], dict(counts["mean_counts"])
        self._steps = np.array(counts["steps"], np.int64)

    def keep(self, chosen: np.ndarray) -> None:
        """The group goes on with some of its agents."""
        self._agents, self._steps = self._agents[chosen], self._steps[chosen]

    def write(self, metrics: dict[str, np.ndarray] | None, summary: Statistics) -> None:
        """Append the group's metrics [updates, agents], where curves are kept, and statistics
        [updates], oldest first."""
        with folder.file_system(self._path):
            for index in range(len(summary.agents)):
                self._updates += 1
                self._write_statistics(summary, index)
                if metrics is not None:
                    self._write_rows({name: values[index] for name, values in metrics.items()})
            self._flush()

    def _flush(self) -> None:
        for file in (*self._files, self._events):
            file.flush()

    def _table(self, name: str, header: tuple[str, ...]) -> Any:
        file = open(self._path / name, "a", newline="")  # noqa: SIM115
        self._files.append(file)
        rows = csv.writer(file)
        if file.tell() == 0:
            rows.writerow(header)
        return rows

    def _write_rows(self, row: dict[str, np.ndarray]) -> None:
        self._steps += row["env_steps"]
        columns = [values.tolist() for values in row.values()]
        seeds = self._roster.seeds[self._agents].tolist()
        settings = self._roster.setting[self._agents].tolist()
        for agent, (seed, setting) in enumerate(zip(seeds, settings, strict=True)):
            own = (setting,) if self._roster.num_settings > 1 else ()
            values = [_cell(column[agent]) for column in columns]
            self._rows.writerow([self._updates, seed, int(self._steps[agent]), *own, *values])

    def _write_statistics(self, summary: Statistics, index: int) -> None:
        for name in _COUNTS:
            self._mean_counts[name] += int(getattr(summary, name)[index]) / len(self._agents)
        self._env_steps += int(summary.env_steps[index])
        returns = summary.returns
        self._statistics.writerow(
            [
                *(self._group, self._updates, round(self._mean_counts["env_steps"])),
                int(summary.agents[index]),
                *map(_cell, (returns.mean[index], returns.iqm[index], *returns.quantiles[index])),
                _cell(returns.solved[index]),
            ]
        )
        if self._group > 1:  # a step must not occur twice
            return
        for tag, metric, count in TAGS:
            mean = float(summary.means[metric][index])
            if not math.isnan(mean):  # no episode ended, so there is nothing to say
                self._events.add(tag, mean, round(self._mean_counts[count]))


class _Events:
    """A file of TensorBoard events; what was added is in it as soon as it is flushed, which
    tensorboardX's SummaryWriter, a queue between, does not promise."""

    def __init__(self, path: Path):
        tensorboard = import_tensorboard()
        self._event, self._scalar = tensorboard.proto.event_pb2.Event, tensorboard.summary.scalar
        ordinal = len(list(path.glob(folder.EVENTS)))  # resumed within a second: another name
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{ordinal}"
        self._file = tensorboard.RecordWriter(str(path / name))
        self.flush, self.close = self._file.flush, self._file.close
        self._write(file_version="brain.Event:2")

    def add(self, tag: str, value: float, step: int) -> None:
        """Add a value of a tag."""
        self._write(summary=self._scalar(tag, value), step=step)

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())


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


def _cell(value: Any) -> Any:
    return "" if math.isnan(value) else value
