"""Saves a run's checkpoints, as the last of its hooks: the batch, earlier results, every hook."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax.run import devices, distributed, training
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.storage import arrays, tables
from ppo_jax.run.storage.checkpoints import Checkpoint, Writer
from ppo_jax.run.training import Batch, BatchState, Hook, Results, next_multiple


class Saved(NamedTuple):
    """The pytree of a checkpoint."""

    batch: BatchState
    finished: Results  # of earlier batches
    hooks: dict[str, Any]  # by name


class Checkpointer(Hook):
    """Saves every so many updates, every so many seconds, and at a run's or a batch's end."""

    def __init__(
        self, experiment: Experiment, path: Path, chosen: list[jax.Device], hooks: Sequence[Hook]
    ):
        """`hooks` are all others, whose state is saved."""
        storage, self._path, self._hooks = experiment.storage, path, _by_name(hooks)
        self._every, self._seconds = storage.checkpoint_every, storage.checkpoint_seconds
        self._writer = Writer(path, storage.checkpoints_kept)
        self._metadata = {"experiment": experiment.describe(), "machine": machine(chosen)}
        self._saved_at = time.monotonic()
        self.finished: list[Results] = []

    def next_boundary(self, done: int) -> int:
        return next_multiple(done, self._every)

    def at_boundary(self, batch: Batch) -> None:
        """Save, where it is due. Raises FileSystemError if the last one could not be written."""
        self._writer.check()
        waited = time.monotonic() - self._saved_at
        due = bool(self._every and batch.num_updates % self._every == 0)
        if distributed.allreduce(due or bool(self._seconds and waited >= self._seconds)):
            self.save(batch)

    def save(self, batch: Batch) -> None:
        """Save all that has been done, the batch's last chunk and its rows included."""
        for hook in self._hooks.values():
            hook.while_computing()
        main = distributed.is_main_process()
        metadata = {
            **self._metadata,
            "stop_reason": batch.stop_reason,
            "files": tables.record_offsets(self._path) if main else {},
        }
        self._writer.save(arrays.to_named(self._tree(batch)), metadata)
        self._saved_at = time.monotonic()

    def save_end(self, batch: Batch) -> None:
        """Save a batch's end as well, where this run saves any, for one that is to train longer."""
        if distributed.allreduce(bool(self._every or self._writer.used)):
            self.save(batch)

    def restore_run(self, checkpoint: Checkpoint, batch: Batch) -> None:
        """Put the batch, the results before it and all hooks back to where they were.

        Raises InputError for the checkpoint of another run.
        """
        try:
            saved = arrays.from_named(self._tree(batch), checkpoint.arrays)
            batch.restore(saved.batch, checkpoint.metadata["stop_reason"])
            self.finished = [saved.finished] if len(saved.finished.agent_ids) else []
            for name, hook in self._hooks.items():
                hook.restore(saved.hooks[name])
        except InputError:
            raise
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{self._path}: its checkpoint is not that of such a run ({error}); resume it with"
                " the versions and the hooks that wrote it"
            ) from error

    def close(self) -> None:
        self._writer.close()

    def _tree(self, batch: Batch) -> Saved:
        finished = [training.no_results(batch.states), *self.finished]
        states = {name: hook.state() for name, hook in self._hooks.items()}
        return Saved(batch.state(), training.join(finished), states)


def machine(chosen: list[jax.Device]) -> dict[str, Any]:
    """What the bits of a result depend on beside the experiment."""
    return {
        "prng": str(jax.random.key_impl(jax.random.key(0))),
        "x64": jnp.result_type(float) == np.float64,
        "processes": jax.process_count(),
        "device": devices.describe(chosen),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "jax": jax.__version__,
    }


def _by_name(hooks: Sequence[Hook]) -> dict[str, Hook]:
    """The hooks by the names of their classes, numbered where there are several of one."""
    named: dict[str, Hook] = {}
    for hook in hooks:
        name = getattr(hook, "name", type(hook).__name__)
        several = sum(other.partition("-")[0] == name for other in named)
        named[f"{name}-{several}" if several else name] = hook
    return named
