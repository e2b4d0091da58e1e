"""python -m benchmarks.waterfall: what is left of the environment's speed once a policy acts in it,
and once that policy is trained.

Three programs take turns in one process: the environment with random actions and no network
(resets and their random draws included), the same rollouts with the policy, and whole updates.
Their agents start from the same states, some updates old, and are shared out over all devices.
"""

import dataclasses
import json
import time
from collections.abc import Callable
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

from benchmarks import machine, parts
from ppo_jax import Config, population, ppo, recipe

STAGES = ("environment only", "+ policy", "+ training")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure environment steps/s of the environment alone, with a policy, and with training."""

    recipes: tuple[str, ...] = ("standard",)
    """Recipes to measure."""
    agents: tuple[int, ...] = (1, 32)
    """How many agents at once."""
    repeats: int = 5
    """Turns of each stage."""
    updates: int = 50
    """Updates, or their rollouts alone, of one turn, and of the training before all of them."""
    out: Path = Path("benchmarks/results")
    """Folder for waterfall.json and waterfall.png."""


def steps_of_training(states: ppo.TrainState, config: Config, updates: int):
    """The agents after some updates, and the steps that each took."""
    states, metrics = population.run(states, config, updates, updates, parts.agents_at_once(config))
    return states, metrics.env_steps.sum(axis=0)


def stages(
    name: str, agents: int, updates: int
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """The stages compiled for that many agents, each a call that returns the steps it took, and
    the seconds that compiling took."""
    config = recipe(name)
    devices = jax.devices()
    mesh = Mesh(np.array(devices[: len(devices) if agents % len(devices) == 0 else 1]), ("agents",))
    seconds: dict[str, float] = {}

    def build(stage: str, function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        started = time.perf_counter()
        shared = population.shard_over_agents(function, mesh, population.AGENTS)
        program = jax.jit(shared).lower(*arguments).compile(parts.compiler_options())
        seconds[stage] = time.perf_counter() - started
        return program

    def environment_only(states: ppo.TrainState, config: Config):
        return parts.environment_only(states, config, updates)

    def with_policy(states: ppo.TrainState, config: Config):
        return parts.rollouts(states, config, updates)

    def with_training(states: ppo.TrainState, config: Config):
        return steps_of_training(states, config, updates)

    keys = population.agent_keys(0, agents)
    states = build("start", population.init, keys, config)(keys, config)
    programs = [
        build(stage, function, states, config)
        for stage, function in zip(
            STAGES, (environment_only, with_policy, with_training), strict=True
        )
    ]
    states, _ = programs[2](states, config)
    turns: dict[str, Callable[[], Any]] = {
        STAGES[0]: lambda: programs[0](states, config)[0],
        STAGES[1]: lambda: programs[1](states, config)[0],
        STAGES[2]: lambda: programs[2](states, config)[1],
    }
    return turns, seconds


def measure(name: str, agents: int, options: Options, console: Console) -> list[dict[str, Any]]:
    """A row a stage: the stages of that many agents, turn about."""
    console.print(f"{name}, {agents} agent(s): compiling")
    turns, compile_seconds = stages(name, agents, options.updates)
    speeds: dict[str, list[float]] = {stage: [] for stage in turns}
    for number in range(-1, options.repeats):  # the first turn warms up
        for stage, turn in turns.items():
            started = time.perf_counter()
            steps = jax.block_until_ready(turn())
            seconds = time.perf_counter() - started
            if number >= 0:
                speeds[stage].append(float(np.asarray(steps, np.int64).sum() / seconds))
    return summarize(name, agents, speeds, compile_seconds)


def summarize(
    name: str, agents: int, speeds: dict[str, list[float]], compile_seconds: dict[str, float]
) -> list[dict[str, Any]]:
    """Medians and ranges of the stages' turns, and what is left of the first stage's speed."""
    rows: list[dict[str, Any]] = []
    for stage, turns in speeds.items():
        speed = parts.spread(turns)
        whole = rows[0]["env_steps_per_second"]["median"] if rows else speed["median"]
        rows.append(
            {
                "recipe": name,
                "agents": agents,
                "stage": stage,
                "env_steps_per_second": speed,
                "left": speed["median"] / whole,
                "compile_seconds": compile_seconds[stage],
            }
        )
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The rows as a table for people."""
    table = Table("recipe", "agents", "", "env steps/s", "lowest to highest", "left", "compile s")
    for row in rows:
        speed = row["env_steps_per_second"]
        low, high = speed["range"]
        table.add_row(
            row["recipe"],
            str(row["agents"]),
            row["stage"],
            f"{speed['median']:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            f"{row['left']:.1%}",
            f"{row['compile_seconds']:.1f}",
        )
    console.print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel a recipe and number of agents: the stages' steps per second."""
    panels = list(dict.fromkeys((row["recipe"], row["agents"]) for row in rows))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 2.6), sharey=True, layout="constrained"
    )
    for axis, (name, agents) in zip(np.atleast_1d(axes), panels, strict=True):
        shown = [row for row in rows if (row["recipe"], row["agents"]) == (name, agents)]
        speeds = np.array([row["env_steps_per_second"]["median"] for row in shown])
        ranges = np.array([row["env_steps_per_second"]["range"] for row in shown])
        bars = axis.bar(
            [row["stage"].replace(" only", "\nonly") for row in shown],
            speeds,
            yerr=np.abs(ranges.T - speeds),
            color=["lightgray", "tab:gray", "tab:blue"],
        )
        axis.bar_label(bars, [in_short(speed) for speed in speeds], padding=2, fontsize=8)
        axis.set(title=f"{name}, {agents} agent{'s' if agents > 1 else ''}", yscale="log")
        axis.set_ylim(1e4, 3 * max(row["env_steps_per_second"]["range"][1] for row in rows))
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("environment steps/s")
    figure.savefig(path, dpi=150)


def in_short(number: float) -> str:
    """A large number in three digits: 1.23 M, 456 k."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def main(options: Options) -> None:
    """Measure, print the table, write the data and the figure."""
    matplotlib.use("agg")
    console = Console(width=110)
    setting = machine.describe("gymnax", "optax")
    rows = [
        row
        for name in options.recipes
        for agents in options.agents
        for row in measure(name, agents, options, console)
    ]
    show(rows, console)
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"setting": setting, "options": dataclasses.asdict(options), "rows": rows}
    (options.out / "waterfall.json").write_text(json.dumps(content, indent=2, default=str) + "\n")
    draw(rows, options.out / "waterfall.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
