"""ppo-jax train and ppo-jax plan: train agents and save them, or say what that would need."""

import os
from typing import Any

from ppo_jax import __version__
from ppo_jax.cli import flags
from ppo_jax.run import xla
from ppo_jax.run.console import Console, number
from ppo_jax.run.storage import folder

_PLANS = """Say what a training would need, in memory and time, after a few updates; train nothing.

The options are those of ppo-jax train."""


def main(arguments: list[str], plans: bool = False) -> None:
    """Parse the command line, and train or plan."""
    command, about = ("plan", _PLANS) if plans else ("train", None)
    experiment = flags.read(arguments, command, about)
    storage, machine, screen = experiment.storage, experiment.machine, experiment.console
    if screen.version:
        print(f"ppo_jax {__version__}")
        return
    path = folder.choose(storage.out, experiment.label)
    if not machine.distributed and not screen.plan:  # of several processes the main one checks
        folder.check_not_locked(path)
        folder.check_request(path, storage.resume, storage.overwrite)
    flags.check_versions()
    xla.set_flags(experiment.agents_at_once)

    # jax and gymnax: seconds, only after the flags have passed.
    from ppo_jax.run import agents, distributed, pipeline, planning

    if machine.distributed:
        distributed.join(machine)
    console = Console(screen.quiet or not distributed.is_main_process())
    if screen.plan:
        planning.show(experiment, console)
        return
    with xla.compilation_cache(machine.compilation_cache):
        summary = pipeline.run(experiment, path, console)
    if summary is None:
        return
    best = agents.best_known(experiment, experiment.algorithm.env)
    _report(summary, f"{best.kind}: {number(best.value)}" if best else "", console)
    files = [name for name in folder.FILES if (path / name).exists()]
    console.say(f"wrote {path}{os.sep}: {', '.join(files)}, TensorBoard events")


def _report(summary: dict[str, Any], known: str, console: Console) -> None:
    returns = [value for value in summary["eval_return_per_seed"] if value is not None]
    mean = sum(returns) / len(returns) if returns else float("nan")
    console.say(
        f"trained {summary['env_steps']:,} steps in {summary['train_seconds']:.1f} s:"
        f" {summary['steps_per_second']:,.0f} steps/s"
    )
    verdict = f"greedy return {number(mean)} over {summary['eval_episodes']} fresh episodes"
    if summary["solved_fraction"] is not None:
        agents = len(summary["eval_return_per_seed"])
        solved = round(summary["solved_fraction"] * agents)
        said = "solved" if solved == agents else f"solved by {solved} of {agents} agents"
        said = said if solved else "not solved"
        verdict = f"{said}: {verdict} (solved at {summary['solved_at']:g}{known and f'; {known}'})"
    elif known:
        verdict += f" ({known})"
    console.say(verdict)
    if summary["diverged_seeds"]:
        frozen = ", ".join(summary["frozen_agents"])
        console.say(f"diverged, and frozen at the last finite state: agents {frozen}")
    if summary["evolution"]:
        best = summary["evolution"]
        values = ", ".join(f"{name} {value:.4g}" for name, value in best["coefficients"].items())
        console.say(f"best of the population: agent {best['agent']} with {values}")
