"""A run's folder: which files there are, made fresh, written atomically."""

import contextlib
import io
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppo_jax.run.failure import BAD_INPUT, FILE_SYSTEM, Failure

CONFIG, METRICS, STATISTICS, PARAMETERS, SUMMARY = (
    "config.json",
    "metrics.csv",
    "statistics.csv",
    "parameters.npz",
    "summary.json",
)
SWEEP, EVOLUTION, FIGURE = "sweep.csv", "evolution.csv", "curves.png"
FILES = (CONFIG, METRICS, STATISTICS, SWEEP, EVOLUTION, FIGURE, PARAMETERS, SUMMARY)
EVENTS = "events.out.tfevents.*"
GROWING = (METRICS, STATISTICS, EVOLUTION, EVENTS)  # the others are written at once
CHECKPOINTS = "checkpoints"
_LOCK = ".lock"
FORMAT = 2  # of config.json; fields that an older one lacks have their defaults


def choose(out: str | None, label: str) -> Path:
    """The folder asked for, or a fresh one under runs/; it is not made yet.

    Raises Failure (2) for a path no file system can hold, and (3) for one that is a file.
    """
    if out is None:
        return Path("runs") / f"{label}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    if not out or "\0" in out:
        raise Failure(f"--out {out!r} is not a path; give a folder", BAD_INPUT)
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise Failure(f"--out {out} is a file; give a folder", FILE_SYSTEM)
    return path


def holds_a_run(path: Path) -> bool:
    """Whether a run has written to the folder."""
    return any((path / name).exists() for name in (CONFIG, METRICS, SUMMARY, CHECKPOINTS))


def refuse_another_run(path: Path, overwrite: bool) -> None:
    """Raise Failure (2) where the folder holds a run that is not to be overwritten."""
    if holds_a_run(path) and not overwrite:
        raise Failure(
            f"--out {path} holds a run; give another folder, or --overwrite to replace it, or"
            " --resume to go on with it"
        )


def refuse_if_held(path: Path) -> None:
    """Raise Failure (3) where another process is writing a run to the folder."""
    if (path / _LOCK).exists():
        with file_system(path), open(path / _LOCK) as lock:
            _lock(lock, path)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Make the folder, and keep other runs out of it; a process that ends, however it does, holds
    nothing any more. Raises Failure (3) where another process holds it."""
    with file_system(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / _LOCK, "a+")  # noqa: SIM115
    with lock:
        _lock(lock, path)
        with file_system(path):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def _lock(lock: Any, path: Path) -> None:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise Failure(
            f"--out {path} is being written by {holder}; wait for it, or give another folder",
            FILE_SYSTEM,
        ) from None


def create(path: Path) -> None:
    """Empty the folder of an earlier run's files. Raises Failure (3) if it cannot be."""
    with file_system(path):
        path.mkdir(parents=True, exist_ok=True)
        for name in (*FILES, EVENTS):
            for old in path.glob(name):
                old.unlink()
        if (path / CHECKPOINTS).exists():
            shutil.rmtree(path / CHECKPOINTS)


@contextlib.contextmanager
def file_system(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a Failure (3) that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failure(
            f"{error.filename or path}: {reason}; give --out a folder that can be written",
            FILE_SYSTEM,
        ) from error


def remove(path: Path) -> None:
    """Remove the file, if there is one."""
    with file_system(path):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises ValueError for one that is not whole, and OSError."""
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no table")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the mapping as JSON, atomically; a NaN is refused, null says "none"."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as .npz (plain data, no pickle), atomically."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    _write(path, lambda file: file.write(content.getbuffer()))


def size(number: float) -> str:
    """A number of bytes, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with file_system(path):
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
