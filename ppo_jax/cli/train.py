"""ppo-jax train: trains agents, and saves them in a folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppo_jax import __version__
from ppo_jax.cli import flags
from ppo_jax.run import xla
from ppo_jax.run.console import Console
from ppo_jax.run.errors import run_command
from ppo_jax.run.experiment import Experiment, check_countable
from ppo_jax.run.storage import folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and return the process's exit code."""
    return run_command(lambda given: start(given, "train"), arguments)


def start(arguments: list[str], command: str) -> int:
    """Train what the flags describe, or say what it would need."""
    experiment = flags.read(arguments, command)
    if experiment.console.version:
        print(f"ppo_jax {__version__}")
        return 0
    path = _check_folder(experiment)
    check_countable(experiment)
    flags.check_versions()
    xla.set_flags(experiment.agents_at_once)

    # jax and gymnax: seconds, only after the flags have passed.
    from ppo_jax.run import distributed, pipeline, planning

    if experiment.machine.distributed:
        distributed.join(experiment.machine)
    console = Console(experiment.console.quiet or not distributed.is_main_process())
    if command == "plan" or experiment.console.plan:
        planning.show(experiment, console)
        return 0
    with xla.compilation_cache(experiment.machine.compilation_cache):
        summary = pipeline.run(experiment, path, console)
    _report(summary, path, console)
    return 0


def _check_folder(experiment: Experiment) -> Path:
    """The run's folder. Raises CommandError where it cannot be this run's."""
    storage = experiment.storage
    path = folder.choose(storage.out, experiment.label)
    if experiment.machine.distributed:  # the main process checks
        return path
    folder.check_not_locked(path)
    if storage.resume is None and not experiment.console.plan:
        folder.check_no_other_run(path, storage.overwrite)
    return path


def _report(summary: dict[str, Any], path: Path, console: Console) -> None:
    returns = [value for value in summary["eval_return_per_seed"] if value is not None]
    mean = sum(returns) / len(returns) if returns else float("nan")
    console.say(
        f"trained {summary['env_steps']:,} steps in {summary['train_seconds']:.1f} s:"
        f" {summary['steps_per_second']:,.0f} steps/s"
    )
    verdict = f"greedy return {mean:.1f} over {summary['eval_episodes']} fresh episodes"
    if summary["solved_fraction"] is not None:
        agents = len(summary["eval_return_per_seed"])
        solved = round(summary["solved_fraction"] * agents)
        said = "solved" if solved == agents else f"solved by {solved} of {agents} agents"
        said = "not solved" if not solved else said
        verdict = f"{said}: {verdict} (solved at {summary['solved_at']:g})"
    console.say(verdict)
    if summary["diverged_seeds"]:
        console.say(
            "diverged, and frozen at the last finite state: agents"
            f" {', '.join(summary['frozen_agents'])}"
        )
    if summary["evolution"]:
        best = summary["evolution"]
        values = ", ".join(f"{name} {value:.4g}" for name, value in best["coefficients"].items())
        console.say(f"best of the population: agent {best['agent']} with {values}")
    files = [name for name in folder.FILES if (path / name).exists()]
    console.say(f"wrote {path}{os.sep}: {', '.join(files)}, TensorBoard events")
