"""ppo-jax evaluate: evaluates the agents of runs over fresh episodes."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from ppo_jax.cli import flags
from ppo_jax.run.console import Console, count, number
from ppo_jax.run.errors import InputError
from ppo_jax.run.storage import folder

_SHOWN = 20  # agents on the screen; the file has all


@dataclasses.dataclass(frozen=True)
class Options(flags.Common):
    """Evaluate the agents of a run, or of several, over fresh episodes: mean returns with 95 %
    intervals, printed and written to evaluation.json in each run's folder, unless it is a
    pretrained one."""

    more: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[RUN ...]", help_behavior_hint="(default: none)"),
    ] = ()
    """More runs."""
    agent: int | None = None
    """Number of the agent; None is all of them."""
    all: bool = False
    """Evaluate all agents, which is also what happens where none is named."""
    episodes: int = 1000
    """Episodes of each agent."""


def main(arguments: list[str]) -> None:
    """Parse the command line, and evaluate."""
    options = flags.read_options(Options, arguments, "evaluate", episodes=2)
    if options.all and options.agent is not None:
        raise InputError(f"--agent {options.agent} and --all: leave out one")
    paths = [
        folder.find(run, folder.SUMMARY, folder.PARAMETERS) for run in (options.run, *options.more)
    ]
    remedy = "give fewer --episodes"
    with flags.computing(options.device, f"{options.episodes} episodes", remedy) as chosen:
        for path in paths:
            _evaluate_run(path, options, chosen)


def _evaluate_run(path: Path, options: Options, chosen: list[Any]) -> None:
    from ppo_jax.run import devices, saved  # which import jax

    console, run = Console(options.quiet), saved.load(path)
    if options.agent is not None:
        run.agent(options.agent)  # refuses one that the run does not have
    numbers = run.numbers.tolist() if options.agent is None else [options.agent]
    how = "sampled" if options.sampled else "greedy"
    what = f"{count(len(numbers), 'agent')} on {devices.describe(chosen)}"
    with console.waiting(f"evaluating {what} over {options.episodes:,} {how} episodes"):
        agents = _evaluate(options, run, numbers)
    rows = [
        [f"{one['agent']}", number(one["mean"]), f"{number(one['low'])} to {number(one['high'])}"]
        for one in agents[:_SHOWN]
    ]
    note = f"and {len(agents) - _SHOWN:,} more there" if len(agents) > _SHOWN else ""
    of_run = f" of {path}" if options.more else ""
    console.table(f"mean {how} return{of_run}", ["agent", "return", "95 % interval"], rows, note)
    if not folder.is_pretrained(path):
        content = {"episodes": options.episodes, "sampled": options.sampled, "seed": options.seed}
        folder.write_json(path / folder.EVALUATION, {**content, "agents": agents})
        console.say(f"wrote {path / folder.EVALUATION}")


def _evaluate(options: Options, run: Any, numbers: list[int]) -> list[dict[str, Any]]:
    """Each agent's mean return with its 95 % interval, over episodes of the key of the seed and its
    number, which training never draws from."""
    import jax
    import numpy as np

    from ppo_jax import population, statistics
    from ppo_jax.config import with_hyperparameters

    def measure(params: Any, own: Any, numbers: jax.Array) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(options.seed), numbers)
        config = with_hyperparameters(run.config, own)
        returns = population.evaluate(params, config, keys, options.episodes, options.sampled)
        return statistics.mean_interval(returns)

    compiled = jax.jit(measure, compiler_options=population.COMPILER_OPTIONS)
    agents, at_once = [], min(population.cpu_agents_at_once(run.config), len(numbers))
    for first in range(0, len(numbers), at_once):
        lanes = np.resize(numbers[first : first + at_once], at_once)  # filled up with the same
        rows = np.searchsorted(run.numbers, lanes)
        params, own = jax.tree.map(lambda leaf: leaf[rows], (run.params, run.hyperparameters))  # noqa: B023
        found = np.stack(compiled(params, own, lanes), axis=1).tolist()
        agents += [dict(zip(("mean", "low", "high"), one, strict=True)) for one in found]
    return [{"agent": number, **one} for number, one in zip(numbers, agents, strict=False)]
