"""What ends a command early: one line for the user, and the process's exit code."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator


class CommandError(Exception):
    """One line for the user; `code` is the exit code of the command that it ends."""

    code = 2


class InputError(CommandError, ValueError):
    """A flag, a configuration or a checkpoint that cannot be used."""


class FileSystemError(CommandError, OSError):
    """What the file system refuses."""

    code = 3


class DeviceError(CommandError, RuntimeError):
    """A device that is absent, or fails."""

    code = 4


class DivergedError(CommandError, RuntimeError):
    """No agent is left that is finite."""

    code = 5


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; by convention the exit code is 128 + the signal's number."""

    def __init__(self, number: int, remedy: str = ""):
        super().__init__(f"stopped by {signal.Signals(number).name}{remedy}")
        self.code, self.is_saved = 128 + number, bool(remedy)


@contextlib.contextmanager
def file_system_errors(path: str | os.PathLike[str] = "") -> Iterator[None]:
    """Turns what the file system refuses into a FileSystemError with a remedy, the error's own note
    if it has one, which names the file or, where the system does not say which, the path."""
    try:
        yield
    except (CommandError, BrokenPipeError):
        raise
    except OSError as error:
        where = error.filename or path
        remedy = getattr(error, "__notes__", ["give a folder that can be written"])[0]
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room, then run it again (train: --resume auto)"
        said = f"{error.strerror or error}; {remedy}"
        raise FileSystemError(f"{where}: {said}" if where else said) from error


def run_command(main: Callable[[list[str]], None], given: list[str]) -> int:
    """Run a command's `main` and return its exit code; what ends it early is said in one line,
    with --debug as a traceback."""
    try:
        with file_system_errors():
            main(given)
        return 0
    except (CommandError, Interrupted) as error:
        ended: CommandError | Interrupted = error
    except BrokenPipeError:  # nobody reads any more (`--help | head`), not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # outside the training loop, which ends by itself
        ended = Interrupted(signal.SIGINT)
    except MemoryError as error:
        ended = DeviceError(
            f"out of memory ({error or 'of this process'}); ppo-jax plan says what fits,"
            " --group-size trains fewer agents at once"
        )
    if "--debug" in given:
        raise ended
    print(f"ppo_jax: {ended}", file=sys.stderr)
    if isinstance(ended, Interrupted) and not ended.is_saved:
        sys.stdout.flush()
        os._exit(ended.code)  # any other exit waits for XLA's compiler, which cannot be stopped
    return ended.code
