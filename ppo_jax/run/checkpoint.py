"""Checkpoints on disk: arrays by name and facts about them, written by orbax, checked when read.

Each is a numbered folder that orbax renames into place once it is complete. What is saved is data:
arrays of numbers and JSON; reading one executes nothing.
"""

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppo_jax.run import folder
from ppo_jax.run.failure import BAD_INPUT, FILE_SYSTEM, Failure

FORMAT = 2
_ARRAYS, _FACTS = "arrays", "facts"


class Checkpoint(NamedTuple):
    """What was saved: arrays by name, and facts, which JSON can hold."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Writer:
    """Writes a run's checkpoints, each while the run goes on, and keeps the last few."""

    def __init__(self, path: Path, keep: int):
        self._path, self._keep = path / folder.CHECKPOINTS, keep
        self._manager: Any = None  # of orbax, whose import takes half a second: on first use

    def save(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, once the one before it is written; the arrays must not
        change any more. Raises Failure (3) for one that could not be written."""
        with self._refusals():
            manager = self._open()
            manager.wait_until_finished()
            self._save(manager, checkpoint)

    def check(self) -> None:
        """Raise Failure (3) if the checkpoint begun last could not be written."""
        with self._refusals():
            manager = self._manager
            if manager is not None and not manager.is_saving_in_progress():
                manager.wait_until_finished()  # raises at once what its own check says only later

    def close(self) -> None:
        """Wait until the checkpoint begun last is written."""
        with self._refusals():
            manager, self._manager = self._manager, None
            if manager is not None:
                manager.wait_until_finished()
                manager.close()

    @property
    def used(self) -> bool:
        """Whether this run has saved any."""
        return self._manager is not None

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors are raised, not said
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep, cleanup_tmp_directories=True
            )
            self._manager = ocp.CheckpointManager(self._path.absolute(), options=options)
        return self._manager

    def _save(self, manager: Any, checkpoint: Checkpoint) -> None:
        import orbax.checkpoint as ocp

        # Numbers go up whatever is there: one that was found broken is not written over.
        manager.save(
            max(committed(self._path), default=0) + 1,
            args=ocp.args.Composite(
                **{
                    _ARRAYS: ocp.args.PyTreeSave(
                        {name: array for name, array in checkpoint.arrays.items() if array.size}
                    ),
                    _FACTS: ocp.args.JsonSave(_sealed(checkpoint)),
                }
            ),
        )

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and its libraries raise of many kinds
            raise Failure(
                f"{self._path}: a checkpoint could not be written ({_reason(error)}); the earlier"
                " ones are whole: make room, then --resume",
                FILE_SYSTEM,
            ) from error


def committed(path: Path) -> list[int]:
    """The numbers of the checkpoints that were written to the end, oldest first."""
    if not path.is_dir():
        return []
    return sorted(int(one.name) for one in path.iterdir() if one.name.isdigit() and one.is_dir())


def newest(
    path: Path, most_bytes: int, check: Callable[[dict[str, Any]], None]
) -> tuple[Checkpoint | None, list[str]]:
    """The run's newest whole checkpoint, and a line for every newer one that is not.

    `check(facts)` raises ValueError where a checkpoint's other files are not whole. Raises Failure
    (2) where there are checkpoints, but none is whole, and for one of a later format.
    """
    path = path / folder.CHECKPOINTS
    broken: list[str] = []
    for number in reversed(committed(path)):
        try:
            found = read(path / str(number), most_bytes)
            check(found.facts)
            return found, broken
        except ValueError as error:
            broken.append(f"checkpoint {number} is not whole: {error}")
    if broken:
        raise Failure(
            f"{path}: none of its checkpoints is whole ({'; '.join(broken)}); --overwrite starts"
            " the run afresh",
            BAD_INPUT,
        )
    return None, []


def read(path: Path, most_bytes: int) -> Checkpoint:
    """The checkpoint in a folder.

    Raises ValueError where it is not whole, or declares more than `most_bytes`, and Failure (2)
    where a later version of ppo_jax wrote it.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    path = path.absolute()
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            facts = _unsealed(reader.restore(path / _FACTS))
        declared = facts.pop(_ARRAYS)
        _refuse_absurd(declared, most_bytes)
        stored = {name: one for name, one in declared.items() if math.prod(one["shape"])}
        arrays = _read_arrays(path / _ARRAYS, stored)
    except (Failure, ValueError):
        raise
    except Exception as error:  # whatever a damaged file makes orbax and its libraries raise
        raise ValueError(_reason(error)) from error
    for name, one in declared.items():
        array = arrays.setdefault(name, np.zeros(one["shape"], one["dtype"]))
        if _digest(array) != one["sha256"]:
            raise ValueError(f"{name} is not what was saved")
    return Checkpoint(arrays, facts)


def _sealed(checkpoint: Checkpoint) -> dict[str, Any]:
    """The facts with what every array is, and a hash over all of it."""
    arrays = {
        name: {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": _digest(array)}
        for name, array in checkpoint.arrays.items()
    }
    facts = {**checkpoint.facts, "format": FORMAT, _ARRAYS: arrays}
    return {**facts, "sha256": _seal(facts)}


def _unsealed(facts: Any) -> dict[str, Any]:
    if not isinstance(facts, dict):
        raise ValueError("its facts are no table")
    seal = facts.pop("sha256", None)
    if seal != _seal(facts):
        raise ValueError("its facts are not what was saved")
    if facts["format"] != FORMAT:
        raise Failure(
            f"the checkpoint has format {facts['format']}, and this version of ppo_jax reads"
            f" {FORMAT}; use the version that wrote it"
        )
    return facts


def _seal(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    said = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(said + np.ascontiguousarray(array).tobytes()).hexdigest()


def _refuse_absurd(declared: dict[str, Any], most_bytes: int) -> None:
    """Raise ValueError before memory is taken for what no such run can have saved."""
    for name, one in declared.items():
        if np.dtype(one["dtype"]).kind not in "biuf":
            raise ValueError(f"{name} has type {one['dtype']}, which is not a number's")
        if not all(isinstance(length, int) and length >= 0 for length in one["shape"]):
            raise ValueError(f"{name} has shape {one['shape']}, which is no array's")
    bytes_in_all = sum(
        math.prod(one["shape"]) * np.dtype(one["dtype"]).itemsize for one in declared.values()
    )
    if bytes_in_all > most_bytes:
        raise ValueError(
            f"it declares {folder.size(bytes_in_all)}, where this run has at most"
            f" {folder.size(most_bytes)}"
        )


def _read_arrays(path: Path, declared: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that orbax wrote, by its storage library: where one is damaged, orbax's own
    reading leaves the others' behind, each of which ends in a traceback on the screen.

    Raises ValueError where what is stored has other types or shapes than those declared.
    """
    import tensorstore

    base = {"driver": "file", "path": f"{path}/"}
    arrays = {}
    for name, one in declared.items():
        place = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        array = tensorstore.open({"driver": "zarr", "kvstore": place}, read=True).result()
        kind = array.dtype.numpy_dtype.str, list(array.shape)
        if kind != (one["dtype"], one["shape"]):
            raise ValueError(f"{name} has not the type and shape that were saved")
        arrays[name] = array.read().result()
    return arrays


def _reason(error: Exception) -> str:
    """The first line of an error; of a long one the end, where libraries say what happened."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) < 200 else f"…{line[-200:]}"
