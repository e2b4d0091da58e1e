"""A run's folder: its files, its lock, and atomic writing."""

import contextlib
import io
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppo_jax.objects import NotImportedError, first_line
from ppo_jax.run.errors import FileSystemError, InputError, file_system_errors

CONFIG, SUMMARY, PARAMETERS = "config.json", "summary.json", "parameters.npz"
METRICS, STATISTICS, EVALUATIONS = "metrics.csv", "statistics.csv", "evaluations.csv"
SWEEP, EVOLUTION, REPORT, FILM = "sweep.csv", "evolution.csv", "report.html", "film.gif"
FILES = (
    *(CONFIG, METRICS, STATISTICS, EVALUATIONS, SWEEP, EVOLUTION, REPORT, FILM),
    *(PARAMETERS, SUMMARY),
)
COMPARISON, EVALUATION = "comparison.html", "evaluation.json"  # of commands
EVENTS = "events.out.tfevents.*"
GROWING = (METRICS, STATISTICS, EVALUATIONS, EVOLUTION, EVENTS)  # the others are written at once
CHECKPOINTS = "checkpoints"
_LOCK = ".lock"
_FRESH = itertools.count()  # folders under runs/
_PRETRAINED = Path(__file__).parents[2] / "pretrained"


def locate(run: str | os.PathLike[str]) -> Path:
    """The folder of a run, or of `pretrained:ENV`, an agent in this package.

    Raises InputError for an environment that no agent in this package was trained in.
    """
    prefix, _, name = os.fspath(run).partition(":")
    if prefix != "pretrained":
        return Path(run)
    known = sorted(path.name for path in _PRETRAINED.iterdir())
    if name not in known:
        raise InputError(f"{os.fspath(run)} does not exist; there are {', '.join(known)}")
    return _PRETRAINED / name


def find(run: str | os.PathLike[str], *needed: str) -> Path:
    """`locate` for a command. Raises InputError where there is no run, or no file that is needed
    of those that a run writes with its agents."""
    path = locate(run)
    if not (path / CONFIG).exists():
        raise InputError(f"{path} is not a run's folder: it has no {CONFIG}")
    for name in needed:
        if not (path / name).exists():
            raise InputError(f"{path} has no {name}: the run saved no agents yet")
    return path


def check_has_training(path: Path) -> None:
    """Raise InputError for an agent in this package, of which there is no more than itself."""
    if is_pretrained(path):
        raise InputError(
            f"pretrained:{path.name} comes without its training, which this needs; evaluate, film"
            " or export the agent alone"
        )


def is_pretrained(path: Path) -> bool:
    """Whether the folder is the package's own, where nothing may be written."""
    return path.parent == _PRETRAINED


def choose(out: str | os.PathLike[str] | None, label: str) -> Path:
    """The folder asked for, or a fresh one under runs/, which is not made yet.

    Raises InputError for what is not a path, FileSystemError for a file.
    """
    if out is None:
        number = next(_FRESH)  # of this process, which may make several within a second
        name = f"{label}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        return Path("runs") / (f"{name}-{number}" if number else name)
    if not os.fspath(out) or "\0" in os.fspath(out):
        raise InputError(f"--out {out!r} is not a path; give a folder")
    if Path(out).exists() and not Path(out).is_dir():
        raise FileSystemError(f"--out {out} is a file; give a folder")
    return Path(out)


def choose_results(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """The folder asked for, which a command's results go to.

    Raises CommandError where it holds a run, or anything else that is not to be overwritten.
    """
    path = choose(out, "")
    names = {file.name for file in path.iterdir()} if path.exists() else set()
    if names & {CONFIG, PARAMETERS}:
        raise InputError(f"--out {path} holds a run, which is never overwritten; give another")
    if names and not overwrite:
        raise InputError(
            f"{path} exists; give another folder with --out, or --overwrite to replace it"
        )
    return path


def remove_if_empty(path: Path) -> None:
    """Remove a folder in which nothing is but, perhaps, a run's lock."""
    if {file.name for file in path.glob("*")} <= {_LOCK}:
        shutil.rmtree(path, ignore_errors=True)


def holds_a_run(path: Path) -> bool:
    """Whether a run has written to the folder."""
    return any((path / name).exists() for name in (CONFIG, METRICS, SUMMARY, CHECKPOINTS))


def check_request(path: Path, resume: str | None, overwrite: bool) -> None:
    """Raise InputError where the folder holds a run that is neither resumed nor overwritten, none
    to resume, or files of others that a run would replace."""
    if resume == "newest" and not holds_a_run(path):
        raise InputError(
            f"--out {path} holds no run to resume; --resume auto starts afresh where there is none"
        )
    if holds_a_run(path) and not overwrite and not resume:
        raise InputError(
            f"--out {path} holds a run; give another folder, or --overwrite to replace it, or"
            " --resume to continue it"
        )
    if not holds_a_run(path) and not overwrite:
        for file in _results(path):
            raise InputError(
                f"--out {path} holds no run, but {file.name}, which a run would replace; give"
                " another folder, or --overwrite"
            )


def check_not_locked(path: Path) -> None:
    """Raise FileSystemError where another process is writing a run to the folder."""
    if (path / _LOCK).exists():
        with open(path / _LOCK) as file:
            _lock(file, path)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Make the folder, and keep other runs out of it until this process ends, however it does; a
    new one that nothing came to is removed again.

    Raises FileSystemError where another process has it.
    """
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    with open(path / _LOCK, "a+") as file:
        _lock(file, path)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            if is_new:
                remove_if_empty(path)


def _lock(file: Any, path: Path) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise FileSystemError(
            f"--out {path} is being written by {holder}; wait for it, or give another folder"
        ) from None


def empty(path: Path) -> None:
    """Make the folder, and remove an earlier run's files from it."""
    path.mkdir(parents=True, exist_ok=True)
    for old in _results(path):
        old.unlink()
    if (path / CHECKPOINTS).exists():
        shutil.rmtree(path / CHECKPOINTS)


def _results(path: Path) -> list[Path]:
    """The files in the folder that have a run's names."""
    names = *FILES, EVALUATION, EVENTS
    return [file for name in names for file in path.glob(name)]


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], remedy: str = "") -> Iterator[None]:
    """Turns what damaged files make libraries raise, which may be anything, into an InputError that
    names the path; what the file system refuses stays an OSError, with a note of the remedy."""
    try:
        yield
    except OSError as error:
        if not hasattr(error, "__notes__"):
            error.add_note("give a run whose files are there and can be read")
        raise
    except NotImportedError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error
    except Exception as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{os.fspath(path)} is corrupt ({reason}){remedy}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises ValueError for one that is corrupt, and OSError."""
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the mapping as JSON, atomically; a NaN is refused, null says "none"."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write(path, f"{text}\n".encode())


def as_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays as the content of an .npz file: plain data, no pickle."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def write(path: Path, content: Any) -> None:
    """Write bytes, atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    with file_system_errors(path):
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
