"""Finds what a resumed run continues from: the newest intact checkpoint of the same experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ppo_jax.run import checkpointer, distributed
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import Experiment, differences
from ppo_jax.run.storage import checkpoints, folder, tables
from ppo_jax.run.storage.checkpoints import Checkpoint

_BUDGET = {"total_timesteps", "num_updates"}
_DECIDES = {"prng": "random numbers", "x64": "precision"}  # another one makes another run


def is_finished(path: Path, experiment: Experiment) -> bool:
    """Whether the experiment's run has run to its end: nothing is left to do then."""
    try:
        summary, saved = folder.read_json(path / folder.SUMMARY), _read_description(path)
    except (ValueError, OSError):  # no, or a corrupt summary: the end of the run writes it again
        return False
    is_same = saved and not differences(experiment.describe(), saved)
    return bool(is_same and summary.get("finished"))


def find(
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
    now = checkpointer.machine(chosen)
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
