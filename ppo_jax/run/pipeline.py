"""One run from start to end: plan, compile, train, evaluate, report."""

import contextlib
import hashlib
import math
import os
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.filesize import decimal

from ppo_jax import __version__, env, objects, population, ppo, rollout
from ppo_jax.config import OBJECTS
from ppo_jax.policy import Params
from ppo_jax.run import agents, compiled, devices, distributed, ranking, report, sinks
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.checkpointer import Checkpointer, find_checkpoint, is_finished
from ppo_jax.run.compiled import EVAL_EPISODES, Programs
from ppo_jax.run.console import Console, count
from ppo_jax.run.errors import (
    DeviceError,
    DivergedError,
    InputError,
    Interrupted,
    file_system_errors,
)
from ppo_jax.run.evolution import Evolution
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.hooks import Evaluation, UserHook
from ppo_jax.run.progress import Progress
from ppo_jax.run.saved import load
from ppo_jax.run.signals import Signals, catch_signals
from ppo_jax.run.storage import arrays, folder, tables
from ppo_jax.run.storage.checkpoints import Checkpoint
from ppo_jax.run.training import Batch, Hook, Results, join, train_batch


class Plan(NamedTuple):
    """What is to be run, checked: nothing is compiled or written yet."""

    experiment: Experiment
    table: AgentTable
    chosen: list[jax.Device]
    lanes: int  # agents that each process trains at once
    initial: Params | None  # that every agent begins with, instead of its own draw

    def device_errors(self) -> contextlib.AbstractContextManager[None]:
        """Says what was asked of the devices, where they refuse it."""
        num_envs = self.experiment.algorithm.num_envs
        return devices.device_errors(
            f"{count(len(self.table), 'agent')} of {num_envs} environments", self.remedy
        )

    @property
    def num_batches(self) -> int:
        """Batches that each process trains, one after another."""
        return -(-self.table.per_process(jax.process_count()) // self.lanes)

    @property
    def remedy(self) -> str:
        """What needs less memory."""
        if self.lanes > len(self.chosen):
            return "ppo-jax plan says what fits, --group-size trains fewer at once"
        return "give fewer num_envs, or smaller hidden_sizes"


def run(
    experiment: Experiment, path: Path, console: Console, hooks: Sequence[Any] = ()
) -> dict[str, Any] | None:
    """Train the experiment's agents, evaluate them, and write everything to the folder.

    Returns the summary; none of a run that was finished before. Raises CommandError for what the
    user can mend, Interrupted after a signal: what was trained has been written, to be continued.
    """
    own, main = [UserHook(hook) for hook in hooks], distributed.is_main_process()
    plan, storage = make_plan(experiment), experiment.storage
    if storage.resume and is_finished(path, experiment):
        console.say(f"{path}: run already finished; nothing was changed")
        return None
    if storage.resume:
        folder.check_request(path, storage.resume, storage.overwrite)
    own_folder = folder.lock(path) if main else contextlib.nullcontext()
    with file_system_errors(path), own_folder, catch_signals(at_once=True):
        if main:  # another one may have ended since the flags were read
            folder.check_request(path, storage.resume, storage.overwrite)
        checkpoint = None
        if storage.resume:
            checkpoint = find_checkpoint(path, plan.table, plan.chosen, console)
            plan = plan._replace(lanes=max(plan.lanes, _lanes_of(checkpoint, plan)))
        print_header(plan, console)
        with plan.device_errors():
            summary = _run(plan, path, console, own, checkpoint)
    if len(summary["diverged_seeds"]) == len(plan.table):
        raise DivergedError(
            "every agent diverged: its losses or parameters became non-finite; lower learning_rate"
            f" {experiment.algorithm.learning_rate}"
        )
    return summary


def make_plan(experiment: Experiment) -> Plan:
    """Check the experiment against its environment and devices.

    Raises InputError for what cannot be trained, DeviceError where the device is absent.
    """
    config, chosen = experiment.algorithm, devices.select(experiment.machine.device)
    name = objects.name(config.env)
    try:
        if experiment.stopping.stop_when_solved is not None and config.env not in env.SOLVED_AT:
            raise ValueError(
                f"{name} has no return from which it counts as solved; leave out --stop-when-solved"
            )
        if not env.is_known(config):
            findings = env.check_environment(config)
            if findings:
                raise ValueError(f"env {name}: {'; '.join(findings)}")
        state = jax.eval_shape(partial(ppo.init, config=config), jax.random.key(0))
        table, at_once = agents.table(experiment), experiment.agents_at_once
        if chosen[0].platform == "cpu":
            at_once = min(at_once, population.cpu_agents_at_once(config))
        rollout.check_resets(config, env.make(config), at_once)
        if config.kernel == "pallas" and chosen[0].platform == "tpu":
            raise ValueError("kernel 'pallas' has no program for a TPU; give --kernel xla")
        # Finds what has no kernel, an optimizer that fails, and environments that mix types in
        # double precision, as some of gymnax's do.
        is_double = jnp.result_type(float) == jnp.float64
        if is_double or config.kernel == "pallas" or config.optimizer is not None:
            jax.eval_shape(partial(ppo.update, config=config), state)
        initial = initial_parameters(experiment)
    except (ValueError, ImportError) as error:
        raise InputError(str(error)) from error
    except TypeError as error:
        raise InputError(
            f"env {name}: an update cannot be traced ({objects.first_line(error)}); mend the types"
            " of your own parts, or leave out JAX_ENABLE_X64=1"
        ) from error
    lanes = table.lanes(jax.process_count(), len(chosen))
    return Plan(experiment, table, chosen, lanes, initial)


def _lanes_of(checkpoint: Checkpoint | None, plan: Plan) -> int:
    """Lanes that each process needs for the checkpoint's batch, which other devices have begun."""
    agent_ids = checkpoint.arrays["batch.agent_ids"] if checkpoint else np.zeros(0, int)
    process = agent_ids[agent_ids >= 0] // plan.table.per_process(jax.process_count())
    devices = len(plan.chosen)
    return -(-int(np.bincount(process).max(initial=0)) // devices) * devices


def initial_parameters(experiment: Experiment) -> Params | None:
    """The parameters that --init-from and --agent name. Raises InputError for another network's."""
    path, agent = experiment.agents.init_from, experiment.agents.agent
    if path is None or agent is None:
        return None
    parts = {name: getattr(experiment.algorithm, name) for name in OBJECTS}
    own = {name: part for name, part in parts.items() if not isinstance(part, str)}
    try:
        found = load(path, **own).agent(agent)
        if found.config.activation != experiment.algorithm.activation:
            raise ValueError(f"its activation is {found.config.activation}")
        return arrays.to_parameters(arrays.to_named(found.params), experiment.algorithm)
    except (OSError, IndexError, ValueError) as error:
        raise InputError(
            f"--init-from {path}: {error}; give a run of this env and network"
        ) from error


def print_header(plan: Plan, console: Console) -> None:
    """Say what is about to be done, and on what."""
    config, own, table = plan.experiment.algorithm, plan.experiment.agents, plan.table
    seeds = f"{own.seed}{f' to {own.seed + own.num_seeds - 1}' if own.num_seeds > 1 else ''}"
    several = f", {table.num_settings:,} settings" if table.num_settings > 1 else ""
    console.say(
        f"ppo_jax {__version__}: {own.recipe} on {objects.name(config.env)}, seed {seeds}{several},"
        f" on {devices.describe(plan.chosen)}"
    )
    if not config.whole_episodes and config.total_timesteps is not None:
        steps = (config.num_updates or 0) * config.batch_size
        if steps != config.total_timesteps:
            asked = f"{steps:,} of {config.total_timesteps:,} steps for each agent"
            console.say(f"{asked}: a multiple of the batch size {config.batch_size:,}")
    share = table.per_process(jax.process_count())
    if jax.process_count() > 1:
        console.say(f"{jax.process_count()} processes, at most {count(share, 'agent')} in each")
    if plan.num_batches > 1:
        groups = f"{plan.num_batches} groups of {plan.lanes}"
        console.say(f"{count(share, 'agent')} in {groups}, one after another")


def made_on(chosen: list[jax.Device]) -> dict[str, Any]:
    """What a summary says of the machine."""
    versions = {"ppo_jax": __version__, "jax": jax.__version__}
    return {"device": devices.describe(chosen), "versions": versions}


def _run(
    plan: Plan, path: Path, console: Console, own: list[UserHook], checkpoint: Checkpoint | None
) -> dict[str, Any]:
    started, main = time.perf_counter(), distributed.is_main_process()
    with console.waiting(
        f"compiling {plan.experiment.agents.recipe} for {count(len(plan.table), 'agent')}"
    ):
        first = next(plan.table.batches(plan.lanes))
        programs = compiled.build(plan.table.configure(first), plan.lanes, plan.chosen)
    _check_memory(plan, programs)
    compile_seconds = time.perf_counter() - started
    if main:  # only now, for the run can begin or continue
        _prepare_folder(plan.experiment, path, checkpoint)
    evolution = Evolution(plan.experiment, path) if plan.experiment.evolving else None
    with contextlib.ExitStack() as stack:
        hooks: list[Hook] = []
        for hook in _hooks(plan, path, console, own, evolution):
            stack.callback(hook.close)
            hooks.append(hook)
        checkpointer = Checkpointer(plan.experiment, path, plan.chosen, hooks)
        stack.callback(checkpointer.close)
        signals = stack.enter_context(catch_signals())
        made, seconds = _train(plan, programs, console, hooks, checkpointer, signals, checkpoint)
    summary = _summarize(plan, made, evolution, compile_seconds, seconds, signals.received)
    if main:
        _report(plan, path, console, made, summary)
    if signals.received:
        again = f"ppo-jax train --out {shlex.quote(str(path))} --resume"
        raise Interrupted(signals.received, f"; {again} continues it")
    return summary


def _check_memory(plan: Plan, programs: Programs) -> None:
    """Raise DeviceError where a CPU's memory is too small: its system would grant it, and then kill
    a process."""
    if plan.chosen[0].platform != "cpu":
        return
    needed, free = programs.memory() * len(plan.chosen), devices.memory_free(plan.chosen)
    if needed > free:
        raise DeviceError(
            f"{count(plan.lanes, 'agent')} at once would take {decimal(needed)} of memory, of"
            f" which {decimal(free)} is free; {plan.remedy}"
        )


def _prepare_folder(experiment: Experiment, path: Path, checkpoint: Checkpoint | None) -> None:
    """Remove from the folder what is not this run's."""
    if checkpoint:
        tables.truncate(path, checkpoint.metadata["files"])
        for name in (folder.SUMMARY, folder.EVALUATION):  # it is not finished any more
            (path / name).unlink(missing_ok=True)
    else:
        folder.empty(path)
    folder.write_json(path / folder.CONFIG, experiment.describe())


def _hooks(
    plan: Plan, path: Path, console: Console, own: list[UserHook], evolution: Evolution | None
) -> Iterator[Hook]:
    """The hooks in the order in which they are called; after them comes the checkpointer."""
    experiment = plan.experiment
    if experiment.stopping.evaluation_updates:
        yield Evaluation(experiment.stopping, env.SOLVED_AT.get(experiment.algorithm.env))
    if evolution:
        yield evolution
    if distributed.is_main_process():
        yield from sinks.make(plan.table, path)
        updates = experiment.algorithm.num_updates or 0
        yield Progress(console, plan.num_batches, updates, plan.chosen)
    yield from own


def _train(
    plan: Plan,
    programs: Programs,
    console: Console,
    hooks: list[Hook],
    checkpointer: Checkpointer,
    signals: Signals,
    checkpoint: Checkpoint | None,
) -> tuple[Results, float]:
    """Train and evaluate batch after batch; returns the results, and the seconds of training."""
    begun: list[Any] = []
    if checkpoint:
        current = checkpoint.arrays["batch.agent_ids"]
        begun = [checkpoint.arrays["finished.agent_ids"], current[current >= 0]]
    batch = None
    for lanes in plan.table.batches(plan.lanes, jax.process_index(), jax.process_count(), *begun):
        batch = Batch(plan.table, lanes, programs, batch, plan.initial)
        if checkpoint:
            checkpointer.restore_run(checkpoint, batch)
            checkpoint = None
        train_batch(batch, [*hooks, checkpointer], signals)
        if batch.stop_reason:
            updates = f"{batch.num_updates:,} of {batch.total_updates:,} updates"
            console.say(f"stopped after {updates}: {batch.stop_reason}")
        last = batch.results(evaluated=not signals.agreed())
        if signals.agreed():  # the evaluation is done again when the run is resumed
            checkpointer.save(batch)
            return join([*checkpointer.finished, last]), batch.seconds
        checkpointer.save_end(batch)
        checkpointer.finished.append(last)
    assert batch is not None
    return join(checkpointer.finished), batch.seconds


def _summarize(
    plan: Plan,
    made: Results,
    evolution: Evolution | None,
    compile_seconds: float,
    train_seconds: float,
    interrupted: int,
) -> dict[str, Any]:
    """What summary.json says of every run."""
    experiment, table, env_steps = plan.experiment, plan.table, int(made.env_steps.sum())
    solved_at = env.SOLVED_AT.get(experiment.algorithm.env)
    returns = [mean if math.isfinite(mean) else None for mean in made.eval_returns.tolist()]
    frozen = zip(made.agent_ids[made.frozen], made.made[made.frozen].tolist(), strict=True)
    solved = None if solved_at is None else float(np.mean(made.eval_returns >= solved_at))
    return {
        "finished": not interrupted,
        "recipe": experiment.agents.recipe,
        "env": objects.name(experiment.algorithm.env),
        "seed": experiment.agents.seed,
        "num_seeds": experiment.agents.num_seeds,
        "num_settings": table.num_settings,
        "num_updates": int(made.updates.max()),
        "env_steps": env_steps,
        "compile_seconds": compile_seconds + (evolution.compile_seconds if evolution else 0),
        "train_seconds": train_seconds,
        "steps_per_second": env_steps / train_seconds if train_seconds else 0.0,
        "diverged_seeds": table.seeds[made.agent_ids[made.frozen]].tolist(),
        "frozen_agents": {str(agent): updates for agent, updates in frozen},
        "state_sha256": hashlib.sha256(made.digests.tobytes()).hexdigest(),
        "eval_episodes": EVAL_EPISODES,
        "eval_return_per_seed": None if interrupted else returns,
        "solved_at": solved_at,
        "solved_fraction": None if interrupted else solved,
        "evolution": evolution.best(made.eval_returns) if evolution else None,
        "devices": len(plan.chosen),
        "processes": jax.process_count(),
        "lanes": plan.lanes,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python"
        f" {platform.python_version()}",
        **made_on(plan.chosen),
    }


def _report(
    plan: Plan, path: Path, console: Console, made: Results, summary: dict[str, Any]
) -> None:
    """Complete the summary, and write what comes at the end."""
    named = arrays.to_named(made.params)
    folder.write(path / folder.PARAMETERS, folder.as_npz(named))
    if not summary["finished"]:
        folder.write_json(path / folder.SUMMARY, summary)
        return
    metrics = tables.read_metrics(path / folder.METRICS, plan.table)
    solved_at = summary["solved_at"]
    if len(plan.table) > 1:
        summary["statistics"] = ranking.write(
            path, plan.table, made.eval_returns, metrics, solved_at, console
        )
    folder.write_json(path / folder.SUMMARY, summary)
    if plan.experiment.storage.render:
        from ppo_jax.film import frames  # Pillow, for this alone

        own = {name: getattr(plan.experiment.algorithm, name) for name in OBJECTS}
        agent = load(path, **own).agent(0)
        frames.film_agent(agent, 0, path / folder.FILM, console)
    _write_report(path, console, table=plan.table, summary=summary, metrics=metrics)


def _write_report(path: Path, console: Console, **known: Any) -> None:
    """Write the run's report. What was trained is saved, so that no error of the report ends it."""
    try:
        folder.write(path / folder.REPORT, report.make([path], **known).encode())
    except Exception as error:
        console.warn(f"no {folder.REPORT}: {objects.first_line(error)}")
