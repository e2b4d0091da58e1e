"""Writes and reads checkpoints: numbered folders of named arrays and metadata.

A folder holds arrays (written by orbax), metadata.json, and manifest.json with the size and hash of
every other file; it is complete before it is renamed to its number, and verified before it is
opened. It is data: reading it executes nothing.
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax.objects import first_line
from ppo_jax.run import distributed
from ppo_jax.run.errors import FileSystemError, InputError
from ppo_jax.run.storage import arrays as named_arrays
from ppo_jax.run.storage import folder

FORMAT = 4
_ARRAYS, _METADATA, _MANIFEST = "arrays", "metadata.json", "manifest.json"


class Checkpoint(NamedTuple):
    """Arrays by name, and metadata, which JSON can hold."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


class Writer:
    """Writes a run's checkpoints in the background, one at a time, and keeps the newest `keep`.

    In a run of several processes each writes its part of the arrays, in step with the others.
    """

    def __init__(self, path: Path, keep: int):
        self._path, self._keep = path / folder.CHECKPOINTS, keep
        self._pool, self.used = ThreadPoolExecutor(1), False
        self._pending: Future[None] | None = None

    def save(self, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Begin to write a checkpoint, once the one before it is written; the arrays must not
        change afterwards. Raises FileSystemError where the one before could not be written."""
        self._wait()
        self._pending, self.used = self._pool.submit(self._write, arrays, metadata), True
        if jax.process_count() > 1:  # its barriers must not meet those of training
            self._wait()

    def check(self) -> None:
        """Raise FileSystemError if the last checkpoint could not be written."""
        if self._pending and self._pending.done():
            self._wait()

    def close(self) -> None:
        """Wait until the last checkpoint is written. Raises as `check` does."""
        self._pool.shutdown()
        self._wait()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None  # what it raises is said once
        try:
            if pending:
                pending.result()
        except Exception as error:  # orbax and its libraries raise of many kinds
            raise FileSystemError(
                f"{self._path}: a checkpoint could not be written ({first_line(error)[-200:]});"
                " earlier ones are intact: make room, then --resume"
            ) from error

    def _write(self, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        main = distributed.is_main_process()
        # Numbers increase past whatever is there: a corrupt one is not overwritten.
        number = max(committed(self._path), default=0) + 1 if main else 0
        temporary = self._path / f"{distributed.allreduce(number)}.tmp"
        if main:
            for abandoned in self._path.glob("*.tmp"):
                shutil.rmtree(abandoned)
            temporary.mkdir(parents=True)
        distributed.allreduce(0)  # a barrier
        with _orbax().PyTreeCheckpointer(use_compression=False) as checkpointer:
            stored = {name: array for name, array in arrays.items() if array.size}
            checkpointer.save(temporary.absolute() / _ARRAYS, stored)
        if main:
            declared = {name: [_type(array.dtype), array.shape] for name, array in arrays.items()}
            content = {"format": FORMAT, **metadata, _ARRAYS: declared}
            (temporary / _METADATA).write_text(json.dumps(content))
            (temporary / _MANIFEST).write_text(json.dumps(_manifest(temporary)))
            os.replace(temporary, temporary.with_suffix(""))
            for old in committed(self._path)[: -self._keep]:
                shutil.rmtree(self._path / str(old))
        distributed.allreduce(0)


def committed(path: Path) -> list[int]:
    """The numbers of the checkpoints that were written to the end, oldest first."""
    if not path.is_dir():
        return []
    return sorted(int(one.name) for one in path.iterdir() if one.name.isdigit() and one.is_dir())


def newest_intact(
    path: Path, check: Callable[[dict[str, Any]], None]
) -> tuple[Checkpoint | None, list[str]]:
    """The run's newest intact checkpoint, and a line for every newer one that is corrupt.

    `check(metadata)` raises ValueError where files beside the checkpoint are not what it recorded.
    Raises InputError where none of them is intact, and for one of another format.
    """
    path = path / folder.CHECKPOINTS
    corrupt: list[str] = []
    for number in reversed(committed(path)):
        try:
            found = read(path / str(number))
            check(found.metadata)
            return found, corrupt
        except InputError:
            raise
        except ValueError as error:
            corrupt.append(f"checkpoint {number} is corrupt: {error}")
    if corrupt:
        lines = "; ".join(corrupt)
        raise InputError(f"{path}: no checkpoint is intact ({lines}); --overwrite starts afresh")
    return None, []


def read(path: Path) -> Checkpoint:
    """The checkpoint in a folder.

    Raises ValueError where it is corrupt, InputError where another format of it was written.
    """
    try:
        if not (path / _MANIFEST).exists() and (path / "facts").exists():
            raise _another_format(path, "2 or older")
        saved, found = folder.read_json(path / _MANIFEST), _manifest(path)
        for name in sorted(saved.keys() | found.keys()):
            if saved.get(name) != found.get(name):
                raise ValueError(f"{name} is not what was saved")
        metadata = folder.read_json(path / _METADATA)
        if metadata["format"] != FORMAT:
            raise _another_format(path, metadata["format"])
        most = sum(file["bytes"] for file in found.values())
        arrays = _restore(path.absolute() / _ARRAYS, metadata.pop(_ARRAYS), most)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise ValueError(first_line(error)[-200:]) from error
    return Checkpoint(arrays, metadata)


def _another_format(path: Path, found: Any) -> InputError:
    return InputError(
        f"{path} has format {found}, and this version of ppo_jax reads format {FORMAT}; resume"
        " with the version that wrote it"
    )


def _manifest(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file below the folder, which is on the disk from here on."""
    files = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file != path / _MANIFEST:
            with open(file, "rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
                os.fsync(content.fileno())
            name = file.relative_to(path).as_posix()
            files[name] = {"bytes": file.stat().st_size, "sha256": digest}
    return files


def _restore(path: Path, declared: dict[str, Any], most: int) -> dict[str, np.ndarray]:
    """The declared arrays, of at most so many bytes. Raises ValueError where they are not arrays of
    numbers, or where what is stored was declared otherwise."""
    if not all(named_arrays.is_numeric(np.dtype(kind)) for kind, _ in declared.values()):
        raise ValueError("it declares what are not numbers")
    empty = {name: np.zeros(shape, kind) for name, (kind, shape) in declared.items() if 0 in shape}
    ocp = _orbax()
    with ocp.PyTreeCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata
        found: dict[str, Any] = {
            name: [_type(one.dtype), list(one.shape)] for name, one in stored.items()
        }
        if found != {name: one for name, one in declared.items() if name not in empty}:
            raise ValueError("its arrays have not the types and shapes that were saved")
        size = sum(math.prod(shape) * np.dtype(kind).itemsize for kind, shape in found.values())
        if size > most:  # nothing is compressed
            raise ValueError(f"it declares {size:,} bytes, more than its files hold")
        as_numpy = dict.fromkeys(stored, ocp.RestoreArgs(restore_type=np.ndarray))
        return checkpointer.restore(path, restore_args=as_numpy) | empty


def _type(dtype: Any) -> str:
    """A type of numbers in NumPy's spelling; of those that are not NumPy's (bfloat16) the name."""
    dtype = np.dtype(dtype)
    return str(dtype.name) if dtype.kind == "V" else dtype.str


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # half a second: only where a checkpoint is written or read

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors are raised
    return ocp
