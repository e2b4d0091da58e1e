"""What a run goes on from: the newest whole checkpoint in its folder, of the same settings."""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from ppo_jax.config import Config
from ppo_jax.run import checkpoint, folder, keeper, ledger
from ppo_jax.run.checkpoint import Checkpoint
from ppo_jax.run.failure import Failure
from ppo_jax.run.job import Job
from ppo_jax.run.roster import Roster
from ppo_jax.run.screen import Screen

_BUDGET = {"total_timesteps", "num_updates"}
_NOT_COMPARED = ("config", "versions", "format")
_DEFAULTS: dict[str, Any] = {  # of fields that an older config.json lacks
    **{field.name: field.default for field in dataclasses.fields(Config)},
    **{"env_params": {}, "env_kwargs": {}},
}
_FACTS = (
    *("done", "solved", "lanes", "outcomes", "dropped", "next_agent", "seconds", "counts"),
    *("files", "settings", "machine"),
)
_DECIDES = {"prng": "random numbers", "x64": "precision"}  # another one makes another run


def finished(job: Job, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of the job's run, if it has been run to its end; nothing is left to do then."""
    summary = _summary(job)
    saved = _read(job, folder.CONFIG)
    if not (summary and summary.get("finished") and saved):
        return None
    return None if differences(settings, saved) else summary


def find(
    job: Job,
    agents: Roster,
    settings: Mapping[str, Any],
    chosen: list[jax.Device],
    screen: Screen,
    state_bytes: int,
) -> Checkpoint | None:
    """The checkpoint that the job goes on from; none where it starts afresh.

    `state_bytes` is the size of one agent's state. Raises Failure (2) where there is nothing to
    go on from, where nothing is whole, and where other settings have been asked for.
    """
    # Ten times what its states need, for metrics and outcomes: enough to tell the absurd.
    most_bytes = 10 * len(agents.seeds) * (state_bytes + 10_000)
    found, broken = checkpoint.newest(job.path, most_bytes, partial(_check_facts, job))
    for line in broken:
        screen.warn(f"{line}; going on from an earlier one")
    if _summary(job) is None and (job.path / folder.SUMMARY).exists():
        screen.warn(f"{job.path / folder.SUMMARY} is not whole; the end of the run writes it again")
    saved = found.facts["settings"] if found else _read(job, folder.CONFIG)
    if saved:
        _refuse_others(job, agents, settings, saved, found)
    if found:
        _compare_machines(found.facts["machine"], chosen, screen)
        return found
    if job.resume != "auto":
        raise Failure(
            f"--out {job.path} holds no checkpoint to resume from; --resume auto starts afresh"
        )
    return None


def _check_facts(job: Job, facts: Mapping[str, Any]) -> None:
    """Raise ValueError where the facts are not a run's, or the files that they note not whole."""
    lacking = [name for name in _FACTS if name not in facts]
    if lacking:
        raise ValueError(f"its facts lack {', '.join(lacking)}")
    ledger.check(job.path, facts["files"])


def differences(asked: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """The settings that differ, each with both values."""
    flat_asked, flat_saved = _flat(asked), _flat(saved)
    return [
        f"{name} {_said(flat_saved.get(name))} there, {_said(flat_asked.get(name))} asked for"
        for name in sorted(flat_asked.keys() | flat_saved.keys())
        if flat_asked.get(name) != flat_saved.get(name)
    ]


def _refuse_others(
    job: Job,
    agents: Roster,
    asked: Mapping[str, Any],
    saved: Mapping[str, Any],
    found: Checkpoint | None,
) -> None:
    changed = differences(asked, saved)
    if not changed:
        return
    if any(line.split()[0] not in _BUDGET for line in changed):
        raise Failure(
            f"--out {job.path} holds a run of other settings ({'; '.join(changed)}); resume it with"
            " its own, or give another folder"
        )
    reason = _no_longer_budget(job, agents, found)
    if reason:
        raise Failure(f"--resume with another budget ({'; '.join(changed)}): {reason}")


def _no_longer_budget(job: Job, agents: Roster, found: Checkpoint | None) -> str | None:
    """Why the run cannot go on to the job's number of updates; none where it can."""
    config: Config = job.config
    if config.anneal_learning_rate:
        return (
            "the learning rate falls to 0 over the whole budget, so another one would have trained"
            " differently from the first update on; start a new run"
        )
    if found is None:
        return "there is no checkpoint of its last state, which --checkpoint-every would have saved"
    if found.facts["done"] > (config.num_updates or 0):
        return f"it has made {found.facts['done']} updates already"
    several = found.facts["next_agent"] < len(agents.seeds) or found.facts["counts"]["group"] > 1
    if several or job.evolve or job.drop_solved or job.stop_when_solved is not None:
        return (
            "with --group-size, --evolve, --drop-solved or --stop-when-solved the end of the run"
            " depends on its budget; start a new run"
        )
    return None


def _compare_machines(saved: Mapping[str, Any], chosen: list[jax.Device], screen: Screen) -> None:
    """Refuse what would make another run of it; say what may change its last bits."""
    now = keeper.machine(chosen)
    for name, what in _DECIDES.items():
        if saved[name] != now[name]:
            raise Failure(
                f"the run's {what} ({name}) are {saved[name]}, and here {now[name]}; resume it with"
                f" JAX_DEFAULT_PRNG_IMPL={saved['prng']}, JAX_ENABLE_X64={saved['x64']}"
            )
    changed = [
        f"{name} {saved[name]!r}, now {now[name]!r}" for name in now if saved[name] != now[name]
    ]
    if changed:
        screen.warn(
            f"the run goes on elsewhere than it began ({'; '.join(changed)}): its results are no"
            " longer equal to the bit to those without a break"
        )


def _read(job: Job, name: str) -> dict[str, Any] | None:
    """One of the run's JSON files. Raises Failure (2) for one that is none."""
    path = job.path / name
    if not path.exists():
        return None
    try:
        return folder.read_json(path)
    except ValueError as error:
        raise Failure(
            f"{path} is not whole ({error}); --overwrite starts the run afresh"
        ) from error


def _summary(job: Job) -> dict[str, Any] | None:
    """The run's summary; none where it is not whole, for nothing depends on it."""
    try:
        return _read(job, folder.SUMMARY)
    except Failure:
        return None


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in settings.items() if name not in _NOT_COMPARED}
    config = settings.get("config")
    config = {**_DEFAULTS, **(config if isinstance(config, dict) else {})}
    return json.loads(json.dumps({**others, **config}))


def _said(value: Any) -> str:
    return "none" if value is None else str(value)
