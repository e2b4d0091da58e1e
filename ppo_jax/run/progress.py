"""Shows where training stands, as a hook."""

import math

import numpy as np

from ppo_jax.run.console import Console
from ppo_jax.run.training import Batch, Hook

_LINES = 10  # of a whole run where the output is no terminal


class Progress(Hook):
    """Steps, steps per second, mean return and time left, in a bar or in a few lines."""

    def __init__(self, console: Console, batches: int, updates: int):
        """The run trains `batches` one after another, each for so many updates."""
        self._console, self._updates, self._total = console, updates, batches * updates
        self._live, self._said, self._return = console.bar(self._total), 0, math.nan

    def at_boundary(self, batch: Batch) -> None:
        assert batch.chunk is not None
        returns = batch.chunk.statistics.returns.mean
        known = returns[~np.isnan(returns)]  # an update in which no episode ended has none
        self._return = float(known[-1]) if known.size else self._return
        updates = (batch.number - 1) * self._updates + batch.num_updates
        left = round(batch.seconds / updates * (self._total - updates))
        clock = f"{left // 3600}:{left // 60 % 60:02}" if left >= 3600 else f"{left // 60}"
        said = (
            f"{batch.env_steps:,} steps, {batch.env_steps / batch.seconds:,.0f} steps/s, mean"
            f" return {'none yet' if math.isnan(self._return) else f'{self._return:.1f}'},"
            f" {clock}:{left % 60:02} left"
        )
        self._live.update(self._live.task_ids[0], completed=updates, said=said)
        if self._live.disable and (updates * _LINES // self._total > self._said):
            self._said = updates * _LINES // self._total
            self._console.say(f"training {updates / self._total:4.0%}: {said}")

    def close(self) -> None:
        self._live.stop()
