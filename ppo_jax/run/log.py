"""Metrics as they come: metrics.csv, a row per update and agent, and TensorBoard events."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from ppo_jax.run import folder

# Columns beside the update's own metrics: `step` is the agent's environment steps so far.
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


class Log:
    """Writes chunks of metrics to a run's folder; close it, or use it in a `with`."""

    def __init__(self, path: Path, seed: int, num_seeds: int, fields: tuple[str, ...]):
        from tensorboardX import SummaryWriter

        self._seeds = np.arange(seed, seed + num_seeds)
        self._counts = {name: np.zeros(num_seeds, np.int64) for name in _COUNTS}
        self._updates = 0
        with folder.file_system(path):
            self._file = open(path / folder.METRICS, "w", newline="")  # noqa: SIM115
            self._rows = csv.writer(self._file)
            self._rows.writerow([*LEADING, *fields])
            self._events = SummaryWriter(str(path), write_to_disk=True)
        self._path = path

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: Any) -> None:
        with folder.file_system(self._path):
            self._file.close()
            self._events.close()

    @property
    def env_steps(self) -> int:
        """Environment steps of all agents so far."""
        return int(self._counts["env_steps"].sum())

    @property
    def updates(self) -> int:
        """Updates of each agent so far."""
        return self._updates

    def write(self, metrics: dict[str, np.ndarray]) -> None:
        """Append metrics [updates, agents], oldest first."""
        with folder.file_system(self._path):
            for index in range(len(metrics["env_steps"])):
                self._write({name: values[index] for name, values in metrics.items()})
            self._file.flush()

    def _write(self, row: dict[str, np.ndarray]) -> None:
        for name in _COUNTS:
            self._counts[name] += row[name]
        self._updates += 1
        columns = [values.tolist() for values in row.values()]
        steps = self._counts["env_steps"].tolist()
        for agent, seed in enumerate(self._seeds.tolist()):
            values = ["" if math.isnan(column[agent]) else column[agent] for column in columns]
            self._rows.writerow([self._updates, seed, steps[agent], *values])
        for tag, metric, count in TAGS:
            known = row[metric][~np.isnan(row[metric])]
            if known.size:  # none: no episode ended, so there is nothing to say
                at = round(float(self._counts[count].mean()))
                self._events.add_scalar(tag, float(known.mean()), at)
