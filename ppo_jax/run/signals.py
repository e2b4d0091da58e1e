"""Catches the signals that end a run, so that it ends between two chunks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ppo_jax.run import distributed


class Signals:
    """The first signal that this process, or another of the run's, has received; none: 0."""

    def __init__(self) -> None:
        self.received = self.own = 0  # `own` alone changes at any moment

    def agreed(self) -> int:
        """The signal that any process has received; all of them ask at the same time."""
        self.received = distributed.allreduce(self.own)
        return self.received


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Catches SIGINT and SIGTERM: the loop ends after its chunk; a second one ends at once."""
    signals = Signals()

    def receive(number: int, _: Any) -> None:
        signals.own = signals.own or number
        signal.signal(number, signal.SIG_DFL)

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, receive)
    except ValueError:  # not the main thread: signals are its caller's matter
        pass
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
