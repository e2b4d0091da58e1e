"""ppo-jax evaluate: evaluates a run's agents over fresh episodes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ppo_jax.cli import flags
from ppo_jax.run import xla
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError, run_command
from ppo_jax.run.storage import folder

_SHOWN = 20  # agents on the screen; the file has all


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a run's agents over fresh episodes: mean returns with 95 % intervals, printed and
    written to evaluation.json in the run's folder."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of a run of ppo-jax train."""
    agent: int | None = None
    """Number of the agent (default: all)."""
    all: bool = False
    """Evaluate all agents, which is also what happens where none is named."""
    episodes: int = 1000
    """Episodes of each agent."""
    sampled: bool = False
    """Sample the actions (no: take the most probable ones)."""
    seed: int = 0
    """Seed of the episodes."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to evaluate (auto: the best that jax finds)."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Print the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, evaluate, and return the process's exit code."""
    return run_command(_main, arguments)


def _main(arguments: list[str]) -> int:
    options = flags.parse(Options, arguments, "evaluate")
    path = Path(options.run)
    flags.make_current_folder_importable()
    flags.check_least("episodes", options.episodes, 2)
    flags.check_seed(options.seed)
    if options.all and options.agent is not None:
        raise InputError(f"--agent {options.agent} and --all: leave out one")
    if not (path / folder.CONFIG).exists():
        raise InputError(f"{path} is not a run's folder: it has no {folder.CONFIG}")
    xla.set_flags(1)

    import numpy as np

    from ppo_jax.run import devices, evaluation, saved

    console = Console(options.quiet)
    chosen = devices.select(options.device)
    run = saved.read_run(path)
    numbers = run.numbers
    if options.agent is not None:
        run.check_number(options.agent)
        numbers = np.array([options.agent])
    how = "sampled" if options.sampled else "greedy"
    what = f"{len(numbers):,} agent{'s' * (len(numbers) > 1)} on {devices.describe(chosen)}"
    with (
        xla.compilation_cache(),
        devices.device_errors(f"{options.episodes} episodes", "give fewer --episodes"),
        console.waiting(f"evaluating {what} over {options.episodes:,} {how} episodes"),
    ):
        returns = evaluation.returns_of(
            run, numbers, options.episodes, options.sampled, options.seed
        )
    agents = evaluation.summarize(numbers, returns)
    evaluation.write(path, agents, options.episodes, options.sampled, options.seed)
    rows = [
        [f"{one['agent']}", f"{one['mean']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}"]
        for one in agents[:_SHOWN]
    ]
    left = len(agents) - len(rows)
    note = f"and {left:,} more in {evaluation.EVALUATION}" if left else ""
    console.table(f"mean {how} return", ["agent", "return", "95 % interval"], rows, note)
    console.say(f"wrote {path / evaluation.EVALUATION}")
    return 0
