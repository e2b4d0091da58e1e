"""python -m benchmarks.throughput: steps per second beside PyTorch, alternating in one run.

In turns, in one process: PyTorch's trainings, idiomatic and tuned, go on for a while each, then
ours trains agents from scratch to the end of their run. Compilation is timed apart. All do the same
work: the same networks, float32, epochs, minibatches and truncation rule.
"""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from benchmarks import machine, pytorch_ppo, pytorch_tuned
from ppo_jax import population, recipe


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure environment steps/s and gradient steps/s of ppo_jax and of PyTorch."""

    recipes: tuple[str, ...] = ("notebook", "standard")
    """Recipes to measure."""
    agents: tuple[int, ...] = (1, 4)
    """How many of our agents train at once; PyTorch trains one."""
    repeats: int = 5
    """Turns of each contestant."""
    torch_seconds: float = 10.0
    """Length of a turn of either PyTorch."""
    torch_threads: int = 1
    """PyTorch's threads."""
    out: Path = Path("benchmarks/results")
    """Folder for throughput.json and throughput.png."""


@dataclasses.dataclass
class Speeds:
    """Steps per second of one contestant, a value a turn."""

    name: str
    compile_seconds: float | None = None
    env_steps: list[float] = dataclasses.field(default_factory=list)
    gradient_steps: list[float] = dataclasses.field(default_factory=list)
    greedy_return: list[float] = dataclasses.field(default_factory=list)

    def add(self, env_steps: int, gradient_steps: int, seconds: float) -> None:
        """Record one turn."""
        self.env_steps.append(env_steps / seconds)
        self.gradient_steps.append(gradient_steps / seconds)


def ours(name: str, agents: int, speeds: Speeds) -> Callable[[], None]:
    """Compile the recipe's whole training; calling the result is one turn, on fresh seeds."""

    config = recipe(name)
    mesh = Mesh(np.array(jax.devices()[:agents]), ("agents",))
    sharded = population.over_devices(population.train, mesh, (population.AGENTS, population.ROWS))
    keys = jax.vmap(jax.random.key)(np.arange(agents, dtype=np.uint32))
    started = time.perf_counter()
    options = population.COMPILER_OPTIONS
    train = jax.jit(sharded).lower(keys, config).compile(options)
    speeds.compile_seconds = time.perf_counter() - started
    evaluate = jax.jit(population.evaluate, static_argnums=3)

    def turn() -> None:
        first = len(speeds.env_steps) * agents
        keys = jax.vmap(jax.random.key)(np.arange(first, first + agents, dtype=np.uint32))
        jax.block_until_ready(keys)
        started = time.perf_counter()
        states, metrics = jax.block_until_ready(train(keys, config))
        seconds = time.perf_counter() - started
        counts = (metrics.env_steps, metrics.gradient_steps)
        env_steps, gradient_steps = (int(np.asarray(count, np.int64).sum()) for count in counts)
        speeds.add(env_steps, gradient_steps, seconds)
        speeds.greedy_return += evaluate(states.params, config, keys, 100).mean(axis=1).tolist()

    return turn


def theirs(
    name: str, style: pytorch_ppo.Style, options: Options, speeds: Speeds
) -> Callable[[], None]:
    """One of PyTorch's styles; calling the result is one turn, which goes on from the last."""

    def updates() -> Iterator[np.ndarray]:
        """Each update's environment steps, gradient steps and seconds, training after training."""
        for seed in itertools.count():
            before = np.zeros(3)
            for result in pytorch_ppo.training(
                name, seed, threads=options.torch_threads, style=style
            ):
                now = np.array([result.env_steps, result.gradient_steps, result.seconds])
                yield now - before
                before = now

    progress = updates()

    def turn() -> None:
        total = np.zeros(3)
        while total[2] < options.torch_seconds:
            total += next(progress)
        speeds.add(int(total[0]), int(total[1]), float(total[2]))

    return turn


def measure(name: str, options: Options, console: Console) -> list[Speeds]:
    """Both PyTorches and ours, turn about, for one recipe."""
    contestants = [Speeds("PyTorch, 1 agent"), Speeds("PyTorch tuned, 1 agent")]
    styles = [pytorch_ppo.PLAIN, pytorch_tuned.STYLE]
    turns = [
        theirs(name, style, options, speeds)
        for style, speeds in zip(styles, contestants, strict=True)
    ]
    for agents in options.agents:
        speeds = Speeds(f"ppo_jax, {agents} agent{'s' if agents > 1 else ''}")
        console.print(f"{name}: compiling {speeds.name}")
        turns.append(ours(name, agents, speeds))
        contestants.append(speeds)
    for number in range(options.repeats):
        for turn in turns:
            turn()
        said = ", ".join(f"{one.name} {one.env_steps[-1]:,.0f}" for one in contestants)
        console.print(f"{name}, turn {number + 1}, steps/s: {said}")
    return contestants


def summarize(name: str, contestants: list[Speeds]) -> list[dict[str, Any]]:
    """Medians, spreads and ratios to both PyTorches, a row a contestant."""
    idiomatic, tuned = (statistics.median(speeds.env_steps) for speeds in contestants[:2])
    return [
        {
            "recipe": name,
            "contestant": speeds.name,
            "env_steps_per_second": statistics.median(speeds.env_steps),
            "env_steps_per_second_range": [min(speeds.env_steps), max(speeds.env_steps)],
            "gradient_steps_per_second": statistics.median(speeds.gradient_steps),
            "ratio": statistics.median(speeds.env_steps) / idiomatic,
            "ratio_tuned": statistics.median(speeds.env_steps) / tuned,
            "compile_seconds": speeds.compile_seconds,
            "greedy_return": float(np.mean(speeds.greedy_return)) if speeds.greedy_return else None,
            "turns": len(speeds.env_steps),
        }
        for speeds in contestants
    ]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The rows as a table for people."""
    table = Table("recipe", "", *("env steps/s", "lowest to highest", "gradient steps/s"))
    for title in ("× PyTorch", "× tuned", "compile s", "greedy return"):
        table.add_column(title, justify="right")
    for row in rows:
        low, high = row["env_steps_per_second_range"]
        table.add_row(
            row["recipe"],
            row["contestant"],
            f"{row['env_steps_per_second']:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            f"{row['gradient_steps_per_second']:,.0f}",
            f"{row['ratio']:.1f}",
            f"{row['ratio_tuned']:.1f}",
            "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}",
            "" if row["greedy_return"] is None else f"{row['greedy_return']:.1f}",
        )
    console.print(table)


def times(ratio: float) -> str:
    """A ratio for the figure, with a decimal where it is small."""
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"


def bar_color(contestant: str) -> str:
    """Two grays for the PyTorches, blue for ours."""
    if contestant.startswith("ppo_jax"):
        return "tab:blue"
    return "dimgray" if "tuned" in contestant else "darkgray"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of steps per second (and ratios to both PyTorches), with the range of the turns."""
    names = list(dict.fromkeys(row["recipe"] for row in rows))
    figure, panels = plt.subplots(
        1, len(names), figsize=(5.2 * len(names), 2.6), sharex=True, layout="constrained"
    )
    for panel, name in zip(np.atleast_1d(panels), names, strict=True):
        shown = [row for row in rows if row["recipe"] == name][::-1]
        speeds = np.array([row["env_steps_per_second"] for row in shown])
        ranges = np.array([row["env_steps_per_second_range"] for row in shown])
        colors = [bar_color(row["contestant"]) for row in shown]
        errors = np.abs(ranges.T - speeds)
        panel.barh([row["contestant"] for row in shown], speeds, xerr=errors, color=colors)
        for place, row in enumerate(shown):
            panel.annotate(
                f"{row['env_steps_per_second']:,.0f}"
                f" ({times(row['ratio'])}, {times(row['ratio_tuned'])})",
                (row["env_steps_per_second_range"][1], place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        panel.set(xscale="log", xlabel="environment steps/s, training included", title=name)
        panel.set_xlim(100, 2e6)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(options: Options) -> None:
    """Measure, print the table, write the data and the figure."""
    matplotlib.use("agg")
    console = Console(width=150)
    setting = machine.describe("torch", "gymnasium", "gymnax", "optax")
    rows: list[dict[str, Any]] = []
    for name in options.recipes:
        rows += summarize(name, measure(name, options, console))
    show(rows, console)
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"setting": setting, "options": dataclasses.asdict(options), "rows": rows}
    (options.out / "throughput.json").write_text(json.dumps(content, indent=2, default=str) + "\n")
    draw(rows, options.out / "throughput.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
