"""Shows where training stands, as a hook: drawn anew in a terminal, a few lines elsewhere."""

import math
import time
from datetime import timedelta

import jax
import numpy as np
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.table import Table

from ppo_jax.run import devices
from ppo_jax.run.console import Console, number
from ppo_jax.run.training import Batch, Hook

_LINES = 10  # of a whole run where the output is no terminal
_WIDTH = 40  # of the bar, and of the curve below it
_SECONDS = 0.5  # between two drawings, at least
_SHARE = 0.01  # of the time, at most, goes into drawings, for which training waits
_BARS = "▁▂▃▄▅▆▇█"


class Progress(Hook):
    """Progress, time left, the returns so far and over agents now, speed, device and memory."""

    def __init__(self, console: Console, batches: int, updates: int, chosen: list[jax.Device]):
        """The run trains `batches` one after another, each for so many updates, on the chosen
        devices."""
        self._console, self._devices = console, chosen
        self._updates, self._total = updates, batches * updates
        self._live, self._said, self._next, self._batch = console.live(), 0, -math.inf, 0

    def at_boundary(self, batch: Batch) -> None:
        self._remember(batch)
        updates = (batch.number - 1) * self._updates + batch.num_updates
        done, seconds = updates / self._total, batch.seconds / updates * (self._total - updates)
        left = timedelta(seconds=round(seconds))
        started = time.monotonic()
        if self._live and (started >= self._next or done == 1 or batch.stop_reason):
            self._live.update(self._screen(batch, done, left), refresh=True)
            ended = time.monotonic()
            self._next = ended + max(_SECONDS, (ended - started) / _SHARE)
        if not self._live and (updates * _LINES // self._total > self._said):
            self._said = updates * _LINES // self._total
            mean = "none yet" if math.isnan(self._mean) else number(self._mean)
            self._console.say(
                f"training {done:4.0%}: {_speed(batch)}, mean return {mean}, {left} left"
            )

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def _remember(self, batch: Batch) -> None:
        """Keep the returns that the chunk brought; an update in which no episode ended has none."""
        assert batch.chunk is not None
        if batch.number != self._batch:
            self._batch, self._mean, self._solved = batch.number, math.nan, math.nan
            self._curve = np.full(_WIDTH, np.nan)
        returns = batch.chunk.statistics.returns
        known = np.flatnonzero(~np.isnan(returns.iqm))
        if known.size:
            places = (batch.chunk.first_update - 1 + known) * _WIDTH // max(self._updates, 1)
            self._curve[places.clip(max=_WIDTH - 1)] = returns.iqm[known]
            self._mean, self._solved, self._count = (
                float(of[known[-1]]) for of in (returns.mean, returns.solved, returns.count)
            )
            self._range = tuple(returns.quantiles[known[-1]][[0, -1]].tolist())

    def _screen(self, batch: Batch, done: float, left: timedelta) -> Table:
        """What a terminal shows."""
        agents = len(batch.real_ids)
        rows = {"return": "none yet"}
        if not math.isnan(self._mean):
            last = self._curve[~np.isnan(self._curve)][-1]
            rows["return"] = f"{_sparkline(self._curve)}  {number(last)}"
            if agents > 1:
                rows["range"] = f"{' to '.join(map(number, self._range))} for 90% of agents"
        if not math.isnan(self._solved):
            ended = f"{self._count:,.0f} agents that just ended an episode"
            rows["solved"] = f"{self._solved:.1%} of the {ended}"
        rows["speed"] = _speed(batch)
        used = decimal(devices.memory_in_use(self._devices))
        rows["memory"] = f"{used}, {devices.describe(self._devices)}"
        screen, bar = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(total=1, completed=done, width=_WIDTH), f"{done:.0%}, {left} left")
        screen.add_row("training", bar)
        for row in rows.items():
            screen.add_row(*row)
        return screen


def _speed(batch: Batch) -> str:
    return f"{batch.env_steps:,} steps, {batch.env_steps / batch.seconds:,.0f} steps/s"


def _sparkline(values: np.ndarray) -> str:
    """The values as bars of eight heights; a blank where there is none."""
    low, high = np.nanmin(values), np.nanmax(values)
    heights = (values - low) / ((high - low) or 1) * (len(_BARS) - 1)
    return "".join(" " if math.isnan(one) else _BARS[round(one)] for one in heights.tolist())
