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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax.run import distributed
from ppo_jax.run.errors import FileSystemError, InputError
from ppo_jax.run.storage import folder

FORMAT = 3
_ARRAYS, _METADATA, _MANIFEST = "arrays", "metadata.json", "manifest.json"
_TEMPORARY = ".tmp"


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
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self.used = False

    def save(self, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Begin to write a checkpoint, once the one before it is written; the arrays must not
        change afterwards. Raises FileSystemError where the one before could not be written."""
        self._wait()
        if jax.process_count() > 1:  # their barriers must not meet those of training
            with self._errors():
                self._write(arrays, metadata)
        else:
            self._pending = self._pool.submit(self._write, arrays, metadata)
        self.used = True

    def check(self) -> None:
        """Raise FileSystemError if the last checkpoint could not be written."""
        if self._pending and self._pending.done():
            self._wait()

    def close(self) -> None:
        """Wait until the last checkpoint is written. Raises as `check` does."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        with self._errors():
            if pending:
                pending.result()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and its libraries raise of many kinds
            raise FileSystemError(
                f"{self._path}: a checkpoint could not be written ({_reason(error)}); earlier ones"
                " are intact: make room, then --resume"
            ) from error

    def _write(self, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        # Numbers increase past whatever is there: a corrupt one is not overwritten.
        main = distributed.is_main_process()
        number = max(committed(self._path), default=0) + 1 if main else 0
        number = distributed.allreduce(number)
        temporary = self._path / f"{number}{_TEMPORARY}"
        if main:
            for abandoned in self._path.glob(f"*{_TEMPORARY}"):
                shutil.rmtree(abandoned)
            temporary.mkdir(parents=True)
        distributed.allreduce(0)
        _save_arrays(temporary / _ARRAYS, arrays)
        if main:
            declared = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
            content = {"format": FORMAT, **metadata, _ARRAYS: declared}
            (temporary / _METADATA).write_text(json.dumps(content))
            (temporary / _MANIFEST).write_text(json.dumps(_manifest(temporary)))
            os.replace(temporary, self._path / str(number))
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
        raise InputError(
            f"{path}: no checkpoint is intact ({'; '.join(corrupt)}); --overwrite starts the run"
            " afresh"
        )
    return None, []


def read(path: Path) -> Checkpoint:
    """The checkpoint in a folder.

    Raises ValueError where it is corrupt, InputError where another format of it was written.
    """
    try:
        metadata = _verified_metadata(path)
        declared = metadata.pop(_ARRAYS)
        for name, (kind, shape) in declared.items():
            if np.dtype(kind).kind not in "biuf":
                raise ValueError(f"{name} has type {kind}, which is not that of numbers")
            if not all(isinstance(length, int) and length >= 0 for length in shape):
                raise ValueError(f"{name} has shape {shape}")
        arrays = _restore_arrays(path.absolute() / _ARRAYS, declared)
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise ValueError(_reason(error)) from error
    return Checkpoint(arrays, metadata)


def _verified_metadata(path: Path) -> dict[str, Any]:
    """The metadata, once every file of the folder is the one in its manifest."""
    if not (path / _MANIFEST).exists() and (path / "facts").exists():
        raise InputError(
            f"{path} has format 2 or older, and this version of ppo_jax reads format {FORMAT};"
            " resume with the version that wrote it"
        )
    saved, found = folder.read_json(path / _MANIFEST), _manifest(path)
    for name in sorted(saved.keys() | found.keys()):
        if saved.get(name) != found.get(name):
            raise ValueError(f"{name} is not what was saved")
    metadata = folder.read_json(path / _METADATA)
    if metadata["format"] != FORMAT:
        raise InputError(
            f"{path} has format {metadata['format']}, and this version of ppo_jax reads format"
            f" {FORMAT}; resume with the version that wrote it"
        )
    return metadata


def _manifest(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file below the folder, which is on the disk from here on."""
    files = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file != path / _MANIFEST:
            with open(file, "rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
                os.fsync(content.fileno())
            files[file.relative_to(path).as_posix()] = {
                "bytes": file.stat().st_size,
                "sha256": digest,
            }
    return files


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # half a second: only where a checkpoint is written or read

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors are raised
    return ocp


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write the arrays that have elements, which are all that orbax takes."""
    with _orbax().PyTreeCheckpointer() as checkpointer:
        checkpointer.save(
            path.absolute(), {name: array for name, array in arrays.items() if array.size}
        )


def _restore_arrays(path: Path, declared: dict[str, Any]) -> dict[str, np.ndarray]:
    """The declared arrays. Raises ValueError where what is stored was declared otherwise."""
    ocp = _orbax()
    stored = {name for name, (_, shape) in declared.items() if math.prod(shape)}
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.metadata(path).item_metadata
        for name in stored:
            if [np.dtype(found[name].dtype).str, list(found[name].shape)] != declared[name]:
                raise ValueError(f"{name} has not the type and shape that were saved")
        numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        arrays = checkpointer.restore(path, restore_args=dict.fromkeys(stored, numpy))
    empty = {
        name: np.zeros(shape, kind)
        for name, (kind, shape) in declared.items()
        if name not in stored
    }
    return {**arrays, **empty}


def _reason(error: Exception) -> str:
    """The first line of an error; of a long one the end, where libraries say what happened."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) < 200 else f"…{line[-200:]}"
