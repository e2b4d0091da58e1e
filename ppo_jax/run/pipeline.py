"""One run from start to end: plan, compile, train, evaluate, report."""

import contextlib
import hashlib
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import __version__, env, objects, population, ppo, rollout
from ppo_jax.policy import Params
from ppo_jax.run import agents, compiled, devices, distributed, report, results, resume, sinks
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.checkpointer import Checkpointer
from ppo_jax.run.compiled import EVAL_EPISODES, Programs
from ppo_jax.run.console import Console
from ppo_jax.run.errors import DivergedError, InputError, Interrupted
from ppo_jax.run.evolution import Evolution
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.hooks import Evaluation, Hook, UserHook
from ppo_jax.run.progress import Progress
from ppo_jax.run.results import Results
from ppo_jax.run.signals import catch_signals
from ppo_jax.run.storage import arrays, folder, tables
from ppo_jax.run.storage.checkpoints import Checkpoint
from ppo_jax.run.training import Batch, train_batch

_REMEDY = "ppo-jax plan says what fits, --group-size trains fewer at once"


class Plan(NamedTuple):
    """What is to be run, checked: nothing is compiled or written yet."""

    table: AgentTable
    chosen: list[jax.Device]
    lanes: int  # agents that each process trains at once
    initial: Params | None  # that every agent begins with, instead of its own draw

    @property
    def experiment(self) -> Experiment:
        """The description of the run."""
        return self.table.experiment

    @property
    def request(self) -> str:
        """What the devices are asked for, in words."""
        return f"{len(self.table)} agents of {self.experiment.algorithm.num_envs} environments"


def run(
    experiment: Experiment, path: Path, console: Console, hooks: Sequence[Any] = ()
) -> dict[str, Any]:
    """Train the experiment's agents, evaluate them, and write everything to the folder.

    Returns the summary. Raises CommandError for what the user can mend, Interrupted after a signal:
    then the parameters and metrics so far have been written, and a checkpoint to continue from.
    """
    own = [UserHook(hook) for hook in hooks]
    plan = make_plan(experiment)
    main = distributed.is_main_process()
    if experiment.storage.resume:
        summary = resume.finished_summary(path, experiment.describe())
        if summary:
            console.say(f"{path}: run already finished")
            return summary
    with folder.lock(path) if main else contextlib.nullcontext():
        if main and not experiment.storage.resume:  # another may have ended meanwhile
            folder.check_no_other_run(path, experiment.storage.overwrite)
        checkpoint = _find_checkpoint(plan, path, console)
        print_header(plan, console)
        with devices.device_errors(plan.request, _REMEDY):
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
    if experiment.stopping.stop_when_solved is not None and config.env not in env.SOLVED_AT:
        raise InputError(
            f"{objects.name(config.env)} has no return from which it counts as solved; leave out"
            " --stop-when-solved"
        )
    try:
        if not env.is_gymnax_own(config):
            findings = env.check_environment(config)
            if findings:
                raise ValueError(f"env {objects.name(config.env)}: {'; '.join(findings)}")
        jax.eval_shape(partial(ppo.init, config=config), jax.random.key(0))
        table = agents.table(experiment)
        together = experiment.agents_at_once
        if jax.default_backend() == "cpu":
            together = min(together, population.cpu_agents_at_once(config))
        rollout.check_resets(config, env.make(config), together)
        initial = initial_parameters(experiment)
    except (ValueError, ImportError) as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from error
    return Plan(table, chosen, table.lanes(jax.process_count(), len(chosen)), initial)


def print_header(plan: Plan, console: Console) -> None:
    """Say what is about to be done, and on what."""
    config, own, table = plan.experiment.algorithm, plan.experiment.agents, plan.table
    several = f", {table.num_settings:,} settings" if table.num_settings > 1 else ""
    console.say(
        f"ppo_jax {__version__}: {own.recipe} on {objects.name(config.env)}, seed {own.seed}"
        f"{f' to {own.seed + own.num_seeds - 1}' if own.num_seeds > 1 else ''}{several},"
        f" on {devices.describe(plan.chosen)}"
    )
    if config.total_timesteps is not None:
        steps = (config.num_updates or 0) * config.batch_size
        if steps != config.total_timesteps:
            console.say(
                f"{config.total_timesteps:,} steps is not a multiple of the batch size,"
                f" {config.batch_size:,}: {config.num_updates:,} updates, {steps:,} steps will run"
            )
    share = table.per_process(jax.process_count())
    if jax.process_count() > 1:
        console.say(f"{jax.process_count()} processes, at most {_agents(share)} in each")
    if plan.lanes < share:
        groups = -(-share // plan.lanes)
        console.say(f"{_agents(share)} in {groups} groups of {plan.lanes}, one after another")


def initial_parameters(experiment: Experiment) -> Params | None:
    """The parameters that --init-from and --agent name. Raises ValueError for another network's."""
    own = experiment.agents
    if own.init_from is None:
        return None
    from ppo_jax.run.saved import load

    try:
        params = load(own.init_from).agent(own.agent or 0).params
    except (OSError, IndexError) as error:
        raise ValueError(f"--init-from {own.init_from}: {error}") from error
    try:
        return arrays.to_parameters(arrays.to_named(params), experiment.algorithm)
    except ValueError as error:
        raise ValueError(
            f"--init-from {own.init_from} has another network, or other spaces ({error}); give the"
            " same --env and --network"
        ) from error


def _find_checkpoint(plan: Plan, path: Path, console: Console) -> Checkpoint | None:
    """The checkpoint that the run continues from; none where it starts afresh."""
    if not plan.experiment.storage.resume:
        return None
    found = resume.find(path, plan.table, plan.chosen, console)
    done = int(found.arrays["batch.num_updates"]) if found else -1
    if distributed.allreduce(done) != done:
        raise InputError(f"--out {path} is not on a file system that all processes share")
    if found:
        total = plan.experiment.algorithm.num_updates
        console.say(f"resuming {path} after update {done:,} of {total:,}")
    return found


def _run(
    plan: Plan, path: Path, console: Console, own: list[UserHook], checkpoint: Checkpoint | None
) -> dict[str, Any]:
    started = time.perf_counter()
    with console.waiting(
        f"compiling {plan.experiment.agents.recipe} for {_agents(len(plan.table))}"
    ):
        first = next(plan.table.batches(plan.lanes)).agent_ids
        programs = compiled.build(plan.table.configure(first), plan.lanes, plan.chosen)
    compile_seconds = time.perf_counter() - started
    if distributed.is_main_process():
        _prepare_folder(plan.experiment, path, checkpoint)
    with contextlib.ExitStack() as stack:
        hooks = _hooks(plan, path, console, own)
        for hook in hooks:
            stack.callback(hook.close)
        signals = stack.enter_context(catch_signals())
        made, seconds = _train(plan, programs, hooks, signals, checkpoint)
    summary = _summarize(plan, made, compile_seconds, seconds, signals.received)
    _report(plan, path, console, hooks, made, summary, signals.received)
    if signals.received:
        raise Interrupted(signals.received)
    return summary


def _prepare_folder(experiment: Experiment, path: Path, checkpoint: Checkpoint | None) -> None:
    """Remove from the folder what is not this run's: only now, for it can continue or begin."""
    if checkpoint:
        tables.truncate(path, checkpoint.metadata["files"])
        with folder.file_system(path):
            (path / folder.SUMMARY).unlink(missing_ok=True)  # it is not finished any more
    else:
        folder.empty(path)
    folder.write_json(path / folder.CONFIG, experiment.describe())


def _hooks(plan: Plan, path: Path, console: Console, own: list[UserHook]) -> list[Hook]:
    """All hooks in the order in which they are called; the checkpointer has the others' state."""
    experiment, main = plan.experiment, distributed.is_main_process()
    hooks: list[Hook] = []
    every, fraction = experiment.stopping.evaluation_updates, experiment.stopping.stop_when_solved
    if every:
        hooks.append(Evaluation(every, fraction, env.SOLVED_AT.get(experiment.algorithm.env)))
    if experiment.evolving:
        hooks.append(Evolution(experiment, path))
    if main:
        hooks += [*sinks.make(plan.table, path), Progress(console, plan.table, plan.lanes)]
    hooks += own
    return [*hooks, Checkpointer(experiment, path, plan.chosen, hooks)]


def _train(
    plan: Plan, programs: Programs, hooks: list[Hook], signals: Any, checkpoint: Checkpoint | None
) -> tuple[Results, float]:
    """Train and evaluate batch after batch; returns the results, and the seconds of training."""
    checkpointer = hooks[-1]
    assert isinstance(checkpointer, Checkpointer)
    process, processes = jax.process_index(), jax.process_count()
    done: list[Any] = [[], []]
    if checkpoint:
        current = checkpoint.arrays["batch.agent_ids"]
        done = [checkpoint.arrays["finished.agent_ids"], current[current >= 0]]
    seconds, number = 0.0, 1
    for lanes in plan.table.batches(plan.lanes, process, processes, *done):
        steps = sum(int(one.env_steps.sum()) for one in checkpointer.finished)
        batch = Batch(plan.table, lanes, programs, number, seconds, steps, plan.initial)
        if checkpoint:
            checkpointer.restore_run(checkpoint, batch)
            checkpoint = None
        train_batch(batch, hooks, signals)
        seconds, number = batch.seconds, batch.number + 1
        last = batch.results(evaluated=not signals.received)
        if signals.agreed():  # the evaluation is done again when the run is resumed
            checkpointer.save(batch)
            return results.join([*checkpointer.finished, last]), seconds
        checkpointer.save_end(batch)
        checkpointer.finished.append(last)
    return results.join(checkpointer.finished), seconds


def _summarize(
    plan: Plan, made: Results, compile_seconds: float, train_seconds: float, interrupted: int
) -> dict[str, Any]:
    """What summary.json says of every run."""
    experiment, table, env_steps = plan.experiment, plan.table, int(made.env_steps.sum())
    solved_at = env.SOLVED_AT.get(experiment.algorithm.env)
    returns = [mean if math.isfinite(mean) else None for mean in made.eval_returns.tolist()]
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
        "compile_seconds": compile_seconds,
        "train_seconds": train_seconds,
        "steps_per_second": env_steps / train_seconds if train_seconds else 0.0,
        "diverged_seeds": table.seeds[made.agent_ids[made.frozen]].tolist(),
        "frozen_agents": {
            str(made.agent_ids[row]): int(made.made[row]) for row in np.flatnonzero(made.frozen)
        },
        "state_sha256": hashlib.sha256(made.digests.tobytes()).hexdigest(),
        "eval_episodes": EVAL_EPISODES,
        "eval_return_per_seed": None if interrupted else returns,
        "solved_at": solved_at,
        "solved_fraction": None if interrupted else solved,
        "evolution": None,
        "device": devices.describe(plan.chosen),
        "devices": len(plan.chosen),
        "processes": jax.process_count(),
        "lanes": plan.lanes,
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }


def _report(
    plan: Plan,
    path: Path,
    console: Console,
    hooks: list[Hook],
    made: Results,
    summary: dict[str, Any],
    interrupted: int,
) -> None:
    """Complete the summary, and write what the main process writes at the end."""
    if not distributed.is_main_process():
        return
    curves = next((hook for hook in hooks if isinstance(hook, sinks.Curves)), None)
    evolution = next((hook for hook in hooks if isinstance(hook, Evolution)), None)
    folder.write_arrays(path / folder.PARAMETERS, arrays.to_named(made.params))
    if evolution:
        summary["evolution"] = evolution.best(made.eval_returns)
    if len(plan.table) > 1 and not interrupted:
        returns, steps = curves.read() if curves else (None, None)
        summary["statistics"] = report.write(
            path, plan.table, made.eval_returns, returns, steps, summary["solved_at"], console
        )
    folder.write_json(path / folder.SUMMARY, summary)


def _agents(number: int) -> str:
    return f"{number:,} agent{'s' if number > 1 else ''}"
