"""Prints lines, tables and live progress."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Column, Table

_WIDE = 200  # columns where the output is no terminal


class Console(RichConsole):
    """Lines and live progress on standard output; silent if quiet, or once nobody reads it."""

    def __init__(self, quiet: bool):
        super().__init__(file=sys.stdout, quiet=quiet, highlight=False, soft_wrap=True)
        if not self.is_terminal:
            self.width = _WIDE

    def say(self, text: str) -> None:
        """Print one line."""
        self.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one line on standard error, quiet or not."""
        print(f"ppo_jax: warning: {text}", file=sys.stderr)

    def table(self, title: str, header: list[str], rows: list[list[str]], note: str = "") -> None:
        """Print a table, text before numbers, below its title, and a note, if any."""
        first, *others = header
        columns = (Column(name, justify="right", no_wrap=True) for name in others)
        table = Table(first, *columns, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for row in rows:
            table.add_row(*row)
        self.say(title)
        self.print(table)
        if note:
            self.say(note)

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what is being waited for, and how long it took."""
        started = time.perf_counter()
        with self.status(text) if self.is_terminal else contextlib.nullcontext():
            yield
        self.say(f"{text}: {time.perf_counter() - started:.1f} s")

    def live(self) -> Live | None:
        """A part of the screen that is drawn anew when it is told to, started; none where the
        output is no terminal."""
        if not self.is_terminal or self.quiet:
            return None
        live = Live(console=self, auto_refresh=False)
        live.start()
        return live

    def on_broken_pipe(self) -> None:
        """Nobody reads any more (`| head`): keep training, and say no more, not even at exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def number(value: float | None) -> str:
    """A number in four digits: 1.234M, 25k, 0.015; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if max(size, 9999.5) <= abs(value) < 1e13:  # four digits of less are no 1e+04
            return f"{value / size:.4g}{unit}"
    return f"{value + 0.0:.4g}"  # no -0


def count(number: int, noun: str) -> str:
    """So many of them: 1 agent, 2,000 agents."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def percent(share: float | None) -> str:
    """A fraction in per cent; a dash for none."""
    return "–" if share is None else f"{100 * share:.4g} %"
