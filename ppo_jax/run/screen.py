"""What the user sees while a run goes on."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column, Table

_WIDE = 200  # columns where the output is no terminal
_LINES = 10  # progress lines of a whole run where the output is no terminal


class Screen:
    """Lines and live progress on standard output; silent if quiet, or once nobody reads it."""

    def __init__(self, quiet: bool):
        self._console = _Console(file=sys.stdout, quiet=quiet, highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console.width = _WIDE

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one line on standard error, quiet or not."""
        print(f"ppo_jax: warning: {text}", file=sys.stderr)

    def table(self, title: str, header: list[str], rows: list[list[str]], note: str) -> None:
        """Print a table of numbers below its title, and a note, if any."""
        first, *others = header
        columns = (Column(name, justify="right", no_wrap=True) for name in others)
        table = Table(first, *columns, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for row in rows:
            table.add_row(*row)
        self.say(title)
        self._console.print(table)
        if note:
            self.say(note)

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what is being waited for, and how long it took."""
        started = time.perf_counter()
        if self._console.is_terminal:
            with self._console.status(text):
                yield
        else:
            yield
        self.say(f"{text}: {time.perf_counter() - started:.1f} s")

    @contextlib.contextmanager
    def training(self, num_updates: int, before: int = 0) -> Iterator["Training"]:
        """Live progress of the training loop, of which earlier groups made updates before."""
        live = Progress(
            SpinnerColumn(),
            TextColumn("training"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[said]}"),
            console=self._console,
            disable=not self._console.is_terminal or self._console.quiet,
        )
        with live:
            task = live.add_task("", total=num_updates, said="")
            yield Training(self, live, task, num_updates, before)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more (`| head`): keep training, and say no more, not even at exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Training:
    """Progress of a training loop: steps, steps per second, mean return, time left."""

    def __init__(self, screen: Screen, live: Progress, task: TaskID, num_updates: int, before: int):
        self._screen, self._live, self._task, self._total = screen, live, task, num_updates
        self._said = 0
        self._return = math.nan
        self._before = before  # updates of earlier groups
        self._now = 0

    def start_group(self) -> None:
        """Another group of agents begins, whose updates count from 0."""
        self._before += self._now
        self._now = 0

    def show(self, updates: int, env_steps: int, seconds: float, mean_return: float) -> None:
        """Tell where the loop stands; a NaN return (no episode ended) leaves the last one."""
        if not math.isnan(mean_return):
            self._return = mean_return
        self._now = updates
        updates += self._before
        left = seconds / updates * (self._total - updates)
        said = (
            f"{env_steps:,} steps, {env_steps / seconds:,.0f} steps/s, mean return"
            f" {'none yet' if math.isnan(self._return) else f'{self._return:.1f}'},"
            f" {_clock(left)} left"
        )
        self._live.update(self._task, completed=updates, said=said)
        due = updates == self._total or updates * _LINES // self._total > self._said
        if self._live.disable and due:
            self._said = updates * _LINES // self._total
            self._screen.say(f"training {updates / self._total:4.0%}: {said}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
