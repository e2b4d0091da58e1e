"""Catches the signals that end a run: at once while it compiles, then between two chunks."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ppo_jax.run import distributed
from ppo_jax.run.errors import Interrupted


class Signals:
    """The first signal that this process, or another of the run's, has received; none: 0."""

    def __init__(self) -> None:
        self.received = self.own = 0  # `own` alone changes at any moment

    def agreed(self) -> int:
        """The signal that any process has received; all of them ask at the same time."""
        self.received = distributed.allreduce(self.own)
        return self.received


@contextmanager
def catch_signals(at_once: bool = False) -> Iterator[Signals]:
    """Catches SIGINT and SIGTERM: the loop ends after its chunk, or, `at_once`, Interrupted is
    raised wherever the process is; a second one ends the process."""
    signals = Signals()

    def receive(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        signals.own = signals.own or number
        if at_once:
            raise Interrupted(number)

    def raise_again(unraisable: Any) -> None:
        # Python ignores what is raised in a callback of garbage collection, of which jax has one.
        if isinstance(unraisable.exc_value, Interrupted):
            signal.signal(signals.own, receive)
            # Later, for here it would be ignored again.
            send = threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), signals.own])
            send.start()
        else:
            show(unraisable)

    main = threading.current_thread() is threading.main_thread()  # else they are its caller's
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    previous = {number: signal.signal(number, receive) for number in numbers}
    show = sys.unraisablehook
    if main:
        sys.unraisablehook = raise_again
    try:
        yield signals
    finally:
        if main:
            sys.unraisablehook = show
        for number, handler in previous.items():
            signal.signal(number, handler)
