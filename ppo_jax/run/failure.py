"""What can end a run before its time, each with its exit code."""

import signal
import sys
from collections.abc import Callable, Sequence

BAD_INPUT = 2
FILE_SYSTEM = 3
DEVICE = 4
DIVERGED = 5


class Failure(Exception):  # noqa: N818 - not every end of a run is an error
    """One line for the user, and the process's exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT):
        super().__init__(message)
        self.code = code


class Interrupted(Exception):  # noqa: N818
    """A signal asked the run to stop; by convention it exits with 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


def exit_code(main: Callable[[list[str]], int], arguments: Sequence[str] | None) -> int:
    """Run a command's `main`, and say in one line what ended it; --debug shows the traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return main(given)
    except (Failure, Interrupted) as error:
        ended: Failure | Interrupted = error
    except KeyboardInterrupt:  # outside the training loop, which ends by itself
        ended = Interrupted(signal.SIGINT)
    except MemoryError as error:
        ended = Failure(
            f"out of memory ({error or 'of this process'}); --plan says what fits, --group-size"
            " trains fewer agents at once",
            DEVICE,
        )
    if "--debug" in given:
        raise ended
    print(f"ppo_jax: {ended}", file=sys.stderr)
    return ended.code
