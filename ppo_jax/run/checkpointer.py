"""Saves a run's checkpoints, as the last of its hooks, and finds the one that a resumed run
continues from: the newest intact one of the same experiment."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax.run import devices, distributed, training
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import Experiment, differences
from ppo_jax.run.storage import arrays, checkpoints, folder, tables
from ppo_jax.run.storage.checkpoints import Checkpoint, Writer
from ppo_jax.run.training import Batch, Hook, Results, next_multiple

_BUDGET = {"total_timesteps", "num_updates"}
_DECIDES = {"prng": "random numbers", "x64": "precision"}  # another one makes another run


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
            batch.restore(saved["batch"], checkpoint.metadata["stop_reason"])
            self.finished = [saved["finished"]]
            for name, hook in self._hooks.items():
                hook.restore(saved["hooks"][name])
        except InputError:
            raise
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{self._path}: its checkpoint is not that of such a run ({error}); resume it with"
                " the versions and the hooks that wrote it"
            ) from error

    def close(self) -> None:
        self._writer.close()

    def _tree(self, batch: Batch) -> dict[str, Any]:
        """The pytree of a checkpoint."""
        earlier = training.join([training.no_results(batch.states), *self.finished])
        states = {name: hook.state() for name, hook in self._hooks.items()}
        return {"batch": batch.state(), "finished": earlier, "hooks": states}


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


def is_finished(path: Path, experiment: Experiment) -> bool:
    """Whether the experiment's run has run to its end: nothing is left to do then."""
    try:
        summary, saved = folder.read_json(path / folder.SUMMARY), _read_description(path)
    except (ValueError, OSError):  # no, or a corrupt summary: the end of the run writes it again
        return False
    is_same = saved and not differences(experiment.describe(), saved)
    return bool(is_same and summary.get("finished"))


def find_checkpoint(
    path: Path, table: AgentTable, chosen: list[jax.Device], console: Console
) -> Checkpoint | None:
    """The checkpoint that the run continues from; none where it starts afresh.

    Raises InputError where there is none to resume, none is intact, or it is another run's.
    """
    description, newest = table.experiment.describe(), table.experiment.storage.resume == "newest"
    found, corrupt = checkpoints.newest_intact(
        path, lambda metadata: tables.check_offsets(path, metadata["files"])
    )
    for line in corrupt:
        console.warn(line)
    saved = found.metadata["experiment"] if found else _read_description(path)
    if saved:
        _check_experiment(path, table, differences(description, saved), found)
        for name, before in saved.get("sources", {}).items():
            if description["sources"].get(name) != before:
                console.warn(
                    f"{before['file']}, which {name} comes from, has changed since the run began:"
                    " results may differ from those of an uninterrupted run"
                )
    if newest and not found:
        raise InputError(
            f"--out {path} holds no checkpoint to resume from; --resume auto starts afresh"
        )
    done = int(found.arrays["batch.counters.num_updates"]) if found else -1
    if distributed.allreduce(done) != done:
        raise InputError(f"--out {path} is not on a file system that all processes share")
    if found:
        _check_machine(found.metadata["machine"], chosen, console)
        total = table.experiment.algorithm.num_updates
        console.say(f"resuming {path} after update {done:,} of {total:,}")
    return found


def _read_description(path: Path) -> dict[str, Any] | None:
    """The run's config.json, if there is one. Raises InputError for one that is corrupt."""
    if not (path / folder.CONFIG).exists():
        return None
    with folder.reading(path / folder.CONFIG, "; --overwrite starts afresh"):
        saved = folder.read_json(path / folder.CONFIG)
        differences(saved, saved)  # it has all the boxes
        return saved


def _check_experiment(
    path: Path, table: AgentTable, changed: dict[str, str], found: Checkpoint | None
) -> None:
    """Raise InputError where the run is another experiment's; a longer budget may do."""
    lines = "; ".join(changed.values())
    if changed.keys() - _BUDGET:
        raise InputError(
            f"--out {path} holds a run of other settings ({lines}); resume it with its own, or give"
            " another folder"
        )
    reason = _why_no_other_budget(table, found) if changed else None
    if reason:
        raise InputError(f"--resume with another budget ({lines}): {reason}")


def _why_no_other_budget(table: AgentTable, found: Checkpoint | None) -> str | None:
    """Why the run cannot continue to the experiment's number of updates; none where it can."""
    experiment = table.experiment
    if experiment.algorithm.anneal_learning_rate:
        return (
            "the learning rate falls to 0 over the whole budget, so another one would have trained"
            " differently from the first update on; start a new run"
        )
    if found is None:
        return "there is no checkpoint of its last state, which --checkpoint-every would have saved"
    done = int(found.arrays["batch.counters.num_updates"])
    if done > (experiment.algorithm.num_updates or 0):
        return f"it has made {done} updates already"
    several = experiment.agents_at_once < len(table)
    if several or experiment.evolving or experiment.stopping.stop_when_solved is not None:
        return (
            "with --group-size, --evolve or --stop-when-solved the end of the run depends on its"
            " budget; start a new run"
        )
    return None


def _check_machine(saved: Mapping[str, Any], chosen: list[jax.Device], console: Console) -> None:
    """Refuse what would make it another run; say what may change its last bits."""
    now = machine(chosen)
    for name, what in _DECIDES.items():
        if saved[name] != now[name]:
            raise InputError(
                f"the run's {what} ({name}) are {saved[name]}, and here {now[name]}; resume it with"
                f" JAX_DEFAULT_PRNG_IMPL={saved['prng']}, JAX_ENABLE_X64={saved['x64']}"
            )
    changed = [
        f"{name} {saved[name]!r}, now {now[name]!r}" for name in now if saved[name] != now[name]
    ]
    if changed:
        console.warn(
            f"the run is resumed elsewhere than it began ({'; '.join(changed)}): its results differ"
            " bitwise from those of an uninterrupted run"
        )
