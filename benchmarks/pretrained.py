"""python -m benchmarks.pretrained: the agents that come with the package, from the runs of
`python -m benchmarks environments`.

Of each run it takes the agent with the best greedy return, of equals the first.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import tyro

import ppo_jax
from ppo_jax.run.saved import load
from ppo_jax.run.storage import arrays, folder

PARAMETERS = 100_000  # an agent with more of them is left out, for the package's sake


@dataclasses.dataclass(frozen=True)
class Options:
    """Take the best agent of each run, as a run of one agent."""

    runs: Path = Path("runs/environments")
    """Folder of the runs."""
    out: Path = Path(ppo_jax.__file__).parent / "pretrained"
    """Folder for the agents."""


def take(run_path: Path, out: Path) -> str:
    """Write the best agent of a run, and say which it is."""
    run = load(run_path)
    returns = [-np.inf if one is None else one for one in run.summary["eval_return_per_seed"]]
    best = int(np.argmax(returns))
    number = int(run.numbers[best])
    named = arrays.to_named(run.agent(number).params)
    size = sum(array.size for array in named.values())
    if size > PARAMETERS:
        return f"left out: {size:,} parameters"
    seed = run.table.experiment.agents.seed + number
    experiment = run.table.experiment.replace(num_seeds=1, seed=seed)
    kept = "recipe", "env", "solved_at", "eval_episodes", "device", "versions", "num_updates"
    summary = {
        **{name: run.summary[name] for name in kept},
        "seed": seed,
        "eval_return_per_seed": [returns[best]],
        "env_steps": run.summary["env_steps"] // len(returns),
    }
    out.mkdir(parents=True, exist_ok=True)
    folder.write_json(out / folder.CONFIG, experiment.describe())
    folder.write_json(out / folder.SUMMARY, summary)
    alone = {name: array[None] for name, array in named.items()}  # a run has [agents, ...]
    folder.write(out / folder.PARAMETERS, folder.as_npz(alone))
    return f"seed {seed} of {len(returns)}, greedy return {returns[best]:.5g}"


def main(options: Options) -> int:
    """Take every agent; returns 1 where there is no run."""
    runs = [path.parent for path in sorted(options.runs.glob(f"*/{folder.SUMMARY}"))]
    for path in runs:
        env = folder.read_json(path / folder.SUMMARY)["env"]
        if env == path.name:  # not the further rows of an environment
            print(f"{env}: {take(path, options.out / env)}")
    return int(not runs)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
