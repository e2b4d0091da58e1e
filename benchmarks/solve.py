"""python -m benchmarks.solve: how long it takes until an agent solves its environment.

Warm: every seed alone, one after the other, by programs that are compiled once; a few updates,
then a greedy evaluation, until its mean return over 100 fresh episodes says that it is solved.
Cold: processes of `python -m ppo_jax.train`, from the start of Python to their end, with an empty
cache of compiled programs and with the one that such a process left.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import machine
from ppo_jax import Config, env, population, ppo, recipe

EPISODES = 100


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the seconds until an agent is solved, and those of a whole process."""

    recipe: str = "fast"
    """Recipe to train."""
    seeds: int = 100
    """Agents, each trained alone."""
    every: int = 5
    """Updates between evaluations."""
    first_starts: int = 3
    """Processes that find an empty cache of compiled programs."""
    starts: int = 5
    """Processes that find what another left there."""
    out: Path = Path("benchmarks/results")
    """Folder for solve.json and solve.png."""


class Programs:
    """The compiled programs of one agent: a start, some updates, a greedy evaluation."""

    def __init__(self, config: Config, capacity: int) -> None:
        self.config = config
        keys = population.agent_keys(0, 1)

        def more(states: ppo.TrainState, config: Config, num_updates: jax.Array):
            return population.run(states, config, num_updates, capacity)[0]

        def greedy(states: ppo.TrainState, config: Config, keys: jax.Array, number: jax.Array):
            fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            return population.evaluate(states.params, config, fresh, EPISODES).mean()

        self._init = compiled(population.init, keys, config)
        states = self._init(keys, config)
        self._more = compiled(more, states, config, 1)
        self._greedy = compiled(greedy, states, config, keys, 1)

    def start(self, keys: jax.Array) -> ppo.TrainState:
        """A fresh agent."""
        return jax.block_until_ready(self._init(keys, self.config))

    def more(self, states: ppo.TrainState, num_updates: int) -> ppo.TrainState:
        """The agent after some more updates."""
        return jax.block_until_ready(self._more(states, self.config, num_updates))

    def greedy(self, states: ppo.TrainState, keys: jax.Array, number: int) -> float:
        """Mean greedy return over episodes that no other number plays."""
        return float(self._greedy(states, self.config, keys, number))


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The function compiled for arguments such as these, as the command compiles."""
    return jax.jit(function).lower(*arguments).compile(population.COMPILER_OPTIONS)


def solve(programs: Programs, seed: int, every: int, solved_at: float) -> dict[str, Any]:
    """Train one agent until it is solved, or to its run's end; what it took."""
    keys = jax.block_until_ready(population.agent_keys(seed, 1))
    limit = programs.config.num_updates or 0
    began = time.perf_counter()
    states = programs.start(keys)
    training = time.perf_counter() - began
    updates, solved = 0, False
    while updates < limit and not solved:
        chunk = min(every, limit - updates)
        started = time.perf_counter()
        states = programs.more(states, chunk)
        training += time.perf_counter() - started
        updates += chunk
        solved = programs.greedy(states, keys, updates) >= solved_at
    seconds = time.perf_counter() - began
    return {
        "seed": seed,
        "solved": solved,
        "updates": updates,
        "train_seconds": training,
        "seconds": seconds,
        # Of episodes that had no part in the decision to stop.
        "greedy_return": programs.greedy(states, keys, limit + 1),
    }


def warm(options: Options) -> dict[str, Any]:
    """Every seed's own time to solve, and the seconds that the compilation before them took."""
    config = recipe(options.recipe)
    started = time.perf_counter()
    programs = Programs(config, options.every)
    compile_seconds = time.perf_counter() - started
    attempt = partial(solve, programs, every=options.every, solved_at=env.SOLVED_AT[config.env])
    attempt(options.seeds)  # touches all that is slow the first time; another seed than those
    rows = [attempt(seed) for seed in track(range(options.seeds), "solving", transient=True)]
    return {
        "compile_seconds": compile_seconds,
        "train_seconds": summary(rows, "train_seconds"),
        "seconds": summary(rows, "seconds"),
        "updates": summary(rows, "updates"),
        "solved": sum(row["solved"] for row in rows),
        "greedy_return": statistics.fmean(row["greedy_return"] for row in rows),
        "agents": rows,
    }


def summary(rows: list[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Median and 90 % quantile over agents of what solving took; None: not so many solved."""
    values = [row[name] if row["solved"] else np.inf for row in rows]
    median, late = np.quantile(values, (0.5, 0.9), method="inverted_cdf").tolist()
    return {"median": finite(median), "quantile_90": finite(late)}


def finite(number: float) -> float | None:
    """The number, as JSON can have it."""
    return number if np.isfinite(number) else None


def cold(options: Options) -> dict[str, Any]:
    """Seconds of whole processes with an empty cache, then with what the last of them left."""
    with tempfile.TemporaryDirectory() as folder:
        first = [start(options.recipe, folder, f"first-{i}") for i in range(options.first_starts)]
        cache = f"first-{options.first_starts - 1}"
        later = [start(options.recipe, folder, cache) for _ in range(options.starts)]
    return {"first_start": processes(first), "later_start": processes(later)}


def start(name: str, folder: str, cache: str) -> dict[str, Any]:
    """One process of the command with that cache: all its seconds, and what its summary says."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    arguments = ["--recipe", name, "--num-seeds", "1", "--quiet", "--out", str(out)]
    # Flags that this process has set itself, and another cache, are not the command's.
    ours = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "ppo_jax.train", *arguments],
        env={**environment, "XDG_CACHE_HOME": str(Path(folder, cache))},
        check=True,
    )
    seconds = time.perf_counter() - started
    said = json.loads((out / "summary.json").read_text())
    names = ("compile_seconds", "train_seconds", "solved_fraction")
    return {"seconds": seconds, **{name: said[name] for name in names}}


def processes(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of some processes' seconds, and each of them."""
    seconds = [start["seconds"] for start in starts]
    return {"median": statistics.median(seconds) if seconds else None, "processes": starts}


def show(measured: dict[str, Any], console: Console) -> None:
    """The numbers as a table for people."""
    table = Table("", "median", "90 % quantile", "solved")
    once = measured["warm"]
    solved = f"{once['solved']} of {len(once['agents'])}"
    for title, name in (("training until solved", "train_seconds"), ("and evaluations", "seconds")):
        numbers = (shown(value) for value in once[name].values())
        table.add_row(f"warm, {title}", *numbers, solved)
    for name, title in (("first_start", "empty cache"), ("later_start", "warm cache")):
        starts = measured["cold"][name]
        fractions = [start["solved_fraction"] for start in starts["processes"]]
        row = (shown(starts["median"]), "", f"{sum(fractions):.0f} of {len(fractions)}")
        table.add_row(f"whole process, {title}", *row)
    console.print(table)


def shown(seconds: float | None) -> str:
    """Seconds for people."""
    return "never" if seconds is None else f"{seconds:.3g} s"


def draw(once: dict[str, Any], title: str, path: Path) -> None:
    """The fraction of agents solved over seconds, of training alone and with its evaluations."""
    figure, panel = plt.subplots(figsize=(4.6, 2.9), layout="constrained")
    labels = {"train_seconds": "training", "seconds": "with evaluations"}
    for (name, label), color in zip(labels.items(), ("tab:blue", "tab:gray"), strict=True):
        times = sorted(row[name] for row in once["agents"] if row["solved"])
        fractions = np.arange(len(times) + 1) / len(once["agents"])
        line = f"{label}, median {shown(once[name]['median'])}"
        edges = [0, *times, 1.05 * max(times, default=1)]
        panel.stairs(fractions, edges, baseline=None, color=color, label=line)
    panel.set(title=title, xlabel="seconds until solved", ylabel="fraction of agents")
    panel.set(xlim=(0, None), ylim=(0, 1.03))
    panel.legend(loc="lower right", fontsize=8, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(options: Options) -> None:
    """Measure, print the table, write the data and the figure."""
    matplotlib.use("agg")
    console = Console(width=100)
    setting = machine.describe("gymnax", "optax")
    measured = {"warm": warm(options), "cold": cold(options)}
    show(measured, console)
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"setting": setting, "options": dataclasses.asdict(options), **measured}
    (options.out / "solve.json").write_text(json.dumps(content, indent=2, default=str) + "\n")
    title = f"{options.recipe}, {len(measured['warm']['agents'])} agents, each alone"
    draw(measured["warm"], title, options.out / "solve.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
