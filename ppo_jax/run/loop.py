"""One run from start to end: compile, train in chunks, evaluate, write."""

import contextlib
import dataclasses
import hashlib
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppo_jax import __version__, env, objects, population, ppo, rollout
from ppo_jax.config import OBJECTS, Config
from ppo_jax.run import devices, folder, hosts, ledger, programs, report, resume, roster, signals
from ppo_jax.run.checkpoint import Checkpoint
from ppo_jax.run.evolution import configure
from ppo_jax.run.failure import DIVERGED, Failure, Interrupted
from ppo_jax.run.group import Group
from ppo_jax.run.job import Job
from ppo_jax.run.keeper import Keeper, keeper
from ppo_jax.run.log import Log
from ppo_jax.run.outcome import Curves, Outcome, join
from ppo_jax.run.programs import EVAL_EPISODES, Programs
from ppo_jax.run.screen import Screen


def run(job: Job, screen: Screen) -> dict[str, Any]:
    """Train the job's agents, evaluate them, and write everything to its folder.

    Returns the summary. Raises Failure for what the user can mend, Interrupted after a signal:
    then the parameters and metrics so far have been written, and a checkpoint to go on from.
    """
    chosen = devices.select(job.device)
    agents = prepare(job)
    with tempfile.TemporaryDirectory() as elsewhere:
        if not hosts.first():  # does as the first does, and keeps nothing
            job = dataclasses.replace(job, path=Path(elsewhere))
        summary = resume.finished(job, settings(job)) if job.resume else None
        if summary:
            screen.say(f"{job.path} holds this run, finished: nothing is left to do")
            return summary
        with folder.held(job.path):
            if not job.resume:  # another one may have ended since this one was asked for
                folder.refuse_another_run(job.path, job.overwrite)
            saved = _saved(job, agents, chosen, screen)
            introduce(job, agents, chosen, screen)
            with devices.refusals(asked(job, agents)):
                summary = _run(job, agents, chosen, saved, screen)
            folder.write_json(job.path / folder.SUMMARY, summary)
    if len(summary["diverged_seeds"]) == len(agents.seeds):
        raise Failure(
            "every agent diverged: its losses or parameters became non-finite; lower learning_rate"
            f" {job.config.learning_rate}",
            DIVERGED,
        )
    return summary


def _saved(
    job: Job, agents: roster.Roster, chosen: list[jax.Device], screen: Screen
) -> Checkpoint | None:
    """The checkpoint that the run goes on from; none where it starts afresh."""
    if not job.resume:
        return None
    state = jax.eval_shape(partial(ppo.init, config=job.config), jax.random.key(0))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    saved = resume.find(job, agents, settings(job), chosen, screen, size)
    if saved:
        screen.say(
            f"resuming {job.path} after update {saved.facts['done']:,} of"
            f" {job.config.num_updates:,}"
        )
    return saved


def _make_ready(job: Job, saved: Checkpoint | None) -> None:
    """Take from the folder what is not this run's: only now, for it can go on or begin."""
    if saved:
        ledger.cut(job.path, saved.facts["files"])
        folder.remove(job.path / folder.SUMMARY)  # it is not finished any more, if it was
    else:
        folder.create(job.path)
    folder.write_json(job.path / folder.CONFIG, settings(job))


def prepare(job: Job) -> roster.Roster:
    """The job's agents. Raises Failure (2) for an environment or a setting that cannot be."""
    evaluates = job.drop_solved or job.stop_when_solved is not None
    if evaluates and job.config.env not in env.SOLVED_AT:
        raise Failure(
            f"{objects.name(job.config.env)} has no return from which it counts as solved;"
            " leave out --stop-when-solved and --drop-solved"
        )
    try:
        if not env.is_gymnax_own(job.config):
            findings = env.check_environment(job.config)
            if findings:
                raise ValueError(f"env {objects.name(job.config.env)}: {'; '.join(findings)}")
        environment = env.make(job.config)
        jax.eval_shape(partial(ppo.init, config=job.config), jax.random.key(0))
        agents = roster.make(
            job.config, job.axes, job.ranges, job.num_samples, job.seed, job.num_seeds
        )
        together = min(job.group_size or len(agents.seeds), len(agents.seeds))
        if jax.default_backend() == "cpu":
            together = min(together, population.cpu_agents_at_once(job.config))
        rollout.check_resets(job.config, environment, together)
        configure(job, agents, np.arange(1))  # refuses what cannot evolve
        return agents
    except (ValueError, ImportError) as error:
        raise Failure(str(error)) from error


def asked(job: Job, agents: roster.Roster) -> str:
    """What the device was asked for, in words."""
    return f"{len(agents.seeds)} agents of {job.config.num_envs} environments"


def lanes(job: Job, agents: roster.Roster, chosen: list[jax.Device]) -> int:
    """Agents that each process trains at once: a group, filled up to a multiple of the devices."""
    share = agents.share(jax.process_count())
    wanted = min(job.group_size or share, share)
    return -(-wanted // len(chosen)) * len(chosen)


def _run(
    job: Job,
    agents: roster.Roster,
    chosen: list[jax.Device],
    saved: Checkpoint | None,
    screen: Screen,
) -> dict[str, Any]:
    started = time.perf_counter()
    size = lanes(job, agents, chosen)
    groups = _groups(job, agents, size, len(chosen), saved)
    compile_for = programs.remembered(chosen)
    with screen.waiting(f"compiling {job.recipe} for {_agents(len(agents.seeds))}"):
        for who, *_ in groups[:2]:  # the first of a run that goes on may have dropped agents
            compile_for(configure(job, agents, who), len(who))
    compile_seconds = time.perf_counter() - started
    counts = saved.facts["counts"] if saved else None
    _make_ready(job, saved)
    with (
        Log(job.path, agents, ppo.Metrics._fields, job.curves, counts) as log,
        signals.collected() as stopped,
        contextlib.closing(keeper(job, settings(job), chosen, log)) as kept,
    ):
        outcome, train_seconds = _train(
            job, agents, groups, compile_for, screen, stopped, kept, saved
        )
        env_steps, updates = log.env_steps, log.updates
    folder.write_arrays(job.path / folder.PARAMETERS, outcome.params)
    summary = {
        "finished": not stopped,
        "recipe": job.recipe,
        "env": objects.name(job.config.env),
        "seed": job.seed,
        "num_seeds": job.num_seeds,
        "num_settings": agents.num_settings,
        "num_updates": updates,
        "env_steps": env_steps,
        "compile_seconds": compile_seconds,
        "train_seconds": train_seconds,
        "steps_per_second": env_steps / train_seconds if train_seconds else 0.0,
        "diverged_seeds": agents.seeds[outcome.agents[outcome.frozen]].tolist(),
        "frozen_agents": {
            str(outcome.agents[lane]): int(outcome.updates[lane])
            for lane in np.flatnonzero(outcome.frozen)
        },
        "state_sha256": hashlib.sha256(outcome.digests.tobytes()).hexdigest(),
        "eval_episodes": EVAL_EPISODES,
        "eval_return_per_seed": None,
        "solved_at": env.SOLVED_AT.get(job.config.env),
        "solved_fraction": None,
        "evolution": outcome.evolution,
        "device": devices.describe(chosen),
        "devices": len(chosen),
        "processes": jax.process_count(),
        "lanes": size,
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }
    if stopped:
        folder.write_json(job.path / folder.SUMMARY, summary)
        raise Interrupted(stopped[0])
    assert outcome.eval_returns is not None
    summary["eval_return_per_seed"] = [
        mean if math.isfinite(mean) else None for mean in outcome.eval_returns.tolist()
    ]
    if summary["solved_at"] is not None:
        summary["solved_fraction"] = float(np.mean(outcome.eval_returns >= summary["solved_at"]))
    if len(agents.seeds) > 1:
        summary["statistics"] = report.write(
            job.path,
            agents,
            outcome.eval_returns,
            outcome.returns,
            outcome.env_steps,
            summary["solved_at"],
            screen,
        )
    return summary


_Lanes = tuple[np.ndarray, int, int]  # agents, how many of them count, and the next group's first


def _groups(
    job: Job, agents: roster.Roster, size: int, devices: int, saved: Checkpoint | None
) -> list[_Lanes]:
    """This process's agents that are left to train, in groups; first those of the checkpoint."""
    groups: list[_Lanes] = []
    begin = 0
    if saved:
        who, begin = saved.arrays["agents"], saved.facts["next_agent"]
        lanes = -(-saved.facts["lanes"] // devices) * devices
        filled = who[np.minimum(np.arange(lanes), len(who) - 1)]
        groups.append((filled, len(who), begin))
    process, processes = jax.process_index(), jax.process_count()
    for who, count in agents.groups(size, process, processes, begin):
        groups.append((who, count, int(who[max(count, 1) - 1]) + 1))
    return groups


def _train(
    job: Job,
    agents: roster.Roster,
    groups: list[_Lanes],
    compile_for: Callable[[Config, int], Programs],
    screen: Screen,
    stopped: list[int],
    kept: Keeper,
    saved: Checkpoint | None,
) -> tuple[Outcome, float]:
    """Train and evaluate group after group; returns what became of the agents, and the seconds
    that training took, without evaluation."""
    total, seconds, before = job.config.num_updates or 0, 0.0, 0
    curves = None
    if saved:
        before, seconds = saved.facts["counts"]["group"] - 1, saved.facts["seconds"]
        curves = Curves(job.path / folder.METRICS, agents) if job.curves else None
    with screen.training(total * (before + len(groups)), total * before) as progress:
        for who, count, next_agent in groups:
            progress.start_group()
            config = configure(job, agents, who)
            group = Group(
                job, who, agents.seeds[who], config, count, next_agent, compile_for, bool(saved)
            )
            if saved:
                _restore(saved, group, kept, curves)
                saved = None
            outcomes, took = group.train(kept.log, progress, seconds, stopped, kept)
            kept.outcomes += outcomes
            seconds += took
            if stopped:
                break
    return join(kept.outcomes), seconds


def _restore(saved: Checkpoint, group: Group, kept: Keeper, curves: Curves | None) -> None:
    """Put a run back to where its checkpoint was saved. Raises Failure (2) for another run's."""
    done = len(saved.facts["outcomes"]) - saved.facts["dropped"]
    try:
        outcomes = [
            Outcome.from_arrays(_part(saved.arrays, f"outcome.{index}."), length, curves)
            for index, length in enumerate(saved.facts["outcomes"])
        ]
        group.restore(saved.arrays, saved.facts, curves)
    except (ValueError, KeyError) as error:
        raise Failure(
            f"{kept.job.path}: its checkpoint is not that of such a run ({error}); resume it with"
            " the versions that wrote it"
        ) from error
    kept.outcomes, group.dropped = outcomes[:done], outcomes[done:]
    kept.log.go_on(group.who[: group.count], saved.facts["counts"])


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _agents(number: int) -> str:
    return f"{number:,} agent{'s' if number > 1 else ''}"


def settings(job: Job) -> dict[str, Any]:
    """What the job is made of, as config.json has it."""
    fields = {field.name: getattr(job.config, field.name) for field in dataclasses.fields(Config)}
    if job.config.total_timesteps is not None:
        fields["num_updates"] = None  # it follows
    fields["env_params"] = dict(job.config.env_params)
    fields["env_kwargs"] = dict(job.config.env_kwargs)
    for name in OBJECTS:
        fields[name] = _said(fields[name])
    return {
        "format": folder.FORMAT,
        "recipe": job.recipe,
        "seed": job.seed,
        "num_seeds": job.num_seeds,
        "sweep": job.axes,
        "search": job.ranges,
        "samples": job.num_samples,
        "curves": job.curves,
        "group_size": job.group_size,
        "stop_when_solved": job.stop_when_solved,
        "drop_solved": job.drop_solved,
        "evaluate_every": job.evaluate_every,
        "evolve": job.evolve,
        "evolve_every": job.evolve_every,
        "config": fields,
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }


def _said(given: Any) -> Any:
    """A field that may hold an object, as JSON: an object by the name of its class."""
    if given is None or isinstance(given, str):
        return given
    kind = given if isinstance(given, type) else type(given)
    return {"object": f"{kind.__module__}.{kind.__qualname__}"}


def introduce(job: Job, agents: roster.Roster, chosen: list[jax.Device], screen: Screen) -> None:
    """Say what is about to be done, and on what."""
    config = job.config
    several = f", {agents.num_settings:,} settings" if agents.num_settings > 1 else ""
    screen.say(
        f"ppo_jax {__version__}: {job.recipe} on {objects.name(config.env)}, seed {job.seed}"
        f"{f' to {job.seed + job.num_seeds - 1}' if job.num_seeds > 1 else ''}{several},"
        f" on {devices.describe(chosen)}"
    )
    if config.total_timesteps is not None:
        steps = (config.num_updates or 0) * config.batch_size
        if steps != config.total_timesteps:
            screen.say(
                f"{config.total_timesteps:,} steps is not a multiple of the batch size,"
                f" {config.batch_size:,}: {config.num_updates:,} updates, {steps:,} steps will run"
            )
    share, size = agents.share(jax.process_count()), lanes(job, agents, chosen)
    if jax.process_count() > 1:
        screen.say(f"{jax.process_count()} processes, at most {_agents(share)} in each")
    if size < share:
        screen.say(f"{_agents(share)} in {-(-share // size)} groups of {size}, one after another")
