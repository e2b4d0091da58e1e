"""One run from start to end: compile, train in chunks, evaluate, write."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppo_jax import __version__, env, ppo
from ppo_jax.config import Config
from ppo_jax.run import devices, folder, hosts, programs, report, roster, signals
from ppo_jax.run.evolution import configure
from ppo_jax.run.failure import DIVERGED, Failure, Interrupted
from ppo_jax.run.group import Group, Outcome, join
from ppo_jax.run.job import Job
from ppo_jax.run.log import Log
from ppo_jax.run.programs import EVAL_EPISODES, Programs
from ppo_jax.run.screen import Screen


def run(job: Job, screen: Screen) -> dict[str, Any]:
    """Train the job's agents, evaluate them, and write everything to its folder.

    Returns the summary. Raises Failure for what the user can mend, Interrupted after a signal:
    then the parameters and metrics so far have been written.
    """
    chosen = devices.select(job.device)
    agents = prepare(job)
    with tempfile.TemporaryDirectory() as elsewhere:
        if not hosts.first():  # does as the first does, and keeps nothing
            job = dataclasses.replace(job, path=Path(elsewhere))
        folder.create(job.path)
        folder.write_json(job.path / folder.CONFIG, settings(job))
        introduce(job, agents, chosen, screen)
        with devices.refusals(asked(job, agents)):
            summary = _run(job, agents, chosen, screen)
        folder.write_json(job.path / folder.SUMMARY, summary)
    if len(summary["diverged_seeds"]) == len(agents.seeds):
        raise Failure(
            "every agent diverged: its losses or parameters became non-finite; lower learning_rate"
            f" {job.config.learning_rate}",
            DIVERGED,
        )
    return summary


def prepare(job: Job) -> roster.Roster:
    """The job's agents. Raises Failure (2) for an environment or a setting that cannot be."""
    evaluates = job.drop_solved or job.stop_when_solved is not None
    if evaluates and job.config.env not in env.SOLVED_AT:
        raise Failure(
            f"{job.config.env} has no return from which it counts as solved; leave out"
            " --stop-when-solved and --drop-solved"
        )
    try:
        environment = env.make(job.config)
        jax.eval_shape(environment.reset, jax.random.key(0))
        agents = roster.make(
            job.config, job.axes, job.ranges, job.num_samples, job.seed, job.num_seeds
        )
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
    job: Job, agents: roster.Roster, chosen: list[jax.Device], screen: Screen
) -> dict[str, Any]:
    started = time.perf_counter()
    size = lanes(job, agents, chosen)
    compile_for = partial(programs.compile_programs, devices=chosen)
    first = configure(job, agents, next(agents.groups(size))[0])
    with screen.waiting(f"compiling {job.recipe} for {_agents(len(agents.seeds))}"):
        compiled = compile_for(first, size)
    compile_seconds = time.perf_counter() - started
    with (
        Log(job.path, agents, ppo.Metrics._fields, job.curves) as log,
        signals.collected() as stopped,
    ):
        outcome, train_seconds = _train(
            job, agents, size, compiled, compile_for, log, screen, stopped
        )
        env_steps, updates = log.env_steps, log.updates
    folder.write_arrays(job.path / folder.PARAMETERS, outcome.params)
    summary = {
        "finished": not stopped,
        "recipe": job.recipe,
        "env": job.config.env,
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


def _train(
    job: Job,
    agents: roster.Roster,
    size: int,
    compiled: Programs,
    compile_for: Callable[[Config, int], Programs],
    log: Log,
    screen: Screen,
    stopped: list[int],
) -> tuple[Outcome, float]:
    """Train and evaluate group after group; returns what became of the agents, and the seconds
    that training took, without evaluation."""
    groups = list(agents.groups(size, jax.process_index(), jax.process_count()))
    outcomes: list[Outcome] = []
    seconds = 0.0
    with screen.training((job.config.num_updates or 0) * len(groups)) as progress:
        for who, count in groups:
            progress.start_group()
            config = configure(job, agents, who)
            group = Group(job, who, agents.seeds[who], config, count, compiled, compile_for)
            outcome, took = group.train(log, progress, seconds, stopped)
            outcomes += outcome
            seconds += took
            if stopped:
                break
    return join(outcomes), seconds


def _agents(number: int) -> str:
    return f"{number:,} agent{'s' if number > 1 else ''}"


def settings(job: Job) -> dict[str, Any]:
    """What the job is made of, as config.json has it."""
    fields = {field.name: getattr(job.config, field.name) for field in dataclasses.fields(Config)}
    if job.config.total_timesteps is not None:
        fields["num_updates"] = None  # it follows
    fields["env_params"] = dict(job.config.env_params)
    return {
        "recipe": job.recipe,
        "seed": job.seed,
        "num_seeds": job.num_seeds,
        "sweep": job.axes,
        "search": job.ranges,
        "samples": job.num_samples,
        "group_size": job.group_size,
        "stop_when_solved": job.stop_when_solved,
        "drop_solved": job.drop_solved,
        "evaluate_every": job.evaluate_every,
        "evolve": job.evolve,
        "evolve_every": job.evolve_every,
        "config": fields,
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }


def introduce(job: Job, agents: roster.Roster, chosen: list[jax.Device], screen: Screen) -> None:
    """Say what is about to be done, and on what."""
    config = job.config
    several = f", {agents.num_settings:,} settings" if agents.num_settings > 1 else ""
    screen.say(
        f"ppo_jax {__version__}: {job.recipe} on {config.env}, seed {job.seed}"
        f"{f' to {job.seed + job.num_seeds - 1}' if job.num_seeds > 1 else ''}{several},"
        f" on {devices.describe(chosen)}"
    )
    if config.total_timesteps is not None:
        steps = (config.num_updates or 0) * config.batch_size
        if steps != config.total_timesteps:
            screen.say(
                f"{config.total_timesteps:,} steps are no whole number of updates of"
                f" {config.batch_size:,}: {config.num_updates:,} updates, {steps:,} steps will run"
            )
    share, size = agents.share(jax.process_count()), lanes(job, agents, chosen)
    if jax.process_count() > 1:
        screen.say(f"{jax.process_count()} processes, at most {_agents(share)} in each")
    if size < share:
        screen.say(f"{_agents(share)} in {-(-share // size)} groups of {size}, one after another")
