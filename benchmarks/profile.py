"""python -m benchmarks.profile: where an update's time goes, and how far from the machine's peak.

Each part of an update is compiled as a loop of its own and takes turns with the others and with
whole updates, on all devices. A part alone is not quite the part in its program, so they need not
add up.
"""

import dataclasses
import json
import re
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

UPDATE, DESCENT, SHUFFLES, OPTIMIZER = "whole update", "gradient steps", "shuffles", "optimizer"
# Not kernels: they move no data.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the time of rollout, returns, shuffles, gradient and optimizer in an update."""

    recipes: tuple[str, ...] = ("notebook", "standard", "fast")
    """Recipes to measure."""
    agents: tuple[int, ...] = (1, 32)
    """How many agents at once."""
    repeats: int = 5
    """Turns of each part."""
    updates: int = 20
    """Updates of one turn, and of the training before all of them."""
    out: Path = Path("benchmarks/results")
    """Folder for profile.json and profile.png."""


class Program:
    """A compiled function of the agents' arrays, and the arrays that it is run on."""

    def __init__(self, mesh: Mesh, function: Callable[..., Any], *arguments: Any) -> None:
        shared = population.shard_over_agents(function, mesh, population.AGENTS)
        self._arguments = arguments
        self.compiled: Any = jax.jit(shared).lower(*arguments).compile(parts.compiler_options())

    def run(self) -> Any:
        """The function's outcome, complete."""
        return jax.block_until_ready(self.compiled(*self._arguments))

    def seconds(self) -> float:
        """How long a run takes."""
        started = time.perf_counter()
        self.run()
        return time.perf_counter() - started

    def kernels(self) -> int | None:
        """Kernels in the body of the loop that has most; None where XLA made a function of every
        loop, which then has none."""
        return max(kernels_of_loops(self.compiled.as_text()), default=None)


def kernels_of_loops(program: str) -> list[int]:
    """How many kernels the body of each loop of an optimized program (HLO text) starts."""
    bodies = set(re.findall(r"\bbody=(%[\w.\-]+)", program))
    found = {}
    for name, block in re.findall(r"^(%[\w.\-]+) \(.*?\{\n(.*?)^\}", program, re.M | re.S):
        if name in bodies:
            operations = re.findall(r"^\s+(?:ROOT )?%\S+ = .*?\s([a-z][\w\-]*)\(", block, re.M)
            found[name] = sum(operation not in _FREE for operation in operations)
    return list(found.values())


def programs_of(config: Config, mesh: Mesh, agents: int, updates: int) -> dict[str, Program]:
    """An update's parts and the whole, compiled, from the same agents some updates old."""
    keys = population.agent_keys(0, agents)

    def train(states: ppo.TrainState, config: Config) -> tuple[ppo.TrainState, jax.Array]:
        states, metrics = population.run(
            states, config, updates, updates, parts.agents_at_once(config)
        )
        return states, metrics.env_steps.sum(axis=0)

    states = Program(mesh, population.init, keys, config).run()
    states, _ = Program(mesh, train, states, config).run()

    def repeated(part: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: part(*arguments, updates)

    rollouts = Program(mesh, repeated(parts.rollouts), states, config)
    collected = rollouts.run()[1]
    returns = Program(mesh, repeated(parts.returns), states, collected, config)
    batches = returns.run()
    others = {
        SHUFFLES: parts.shuffles,
        DESCENT: parts.gradient_steps,
        OPTIMIZER: parts.optimizer_steps,
    }
    return {
        UPDATE: Program(mesh, train, states, config),
        "rollout": rollouts,
        "values and returns": returns,
        **{
            name: Program(mesh, repeated(part), states, batches, config)
            for name, part in others.items()
        },
    }


def measure(name: str, agents: int, options: Options, peak: float) -> dict[str, Any]:
    """One recipe with so many agents: microseconds of a core for an agent's update, by part."""
    config, devices = recipe(name), jax.devices()
    mesh = Mesh(np.array(devices[: len(devices) if agents % len(devices) == 0 else 1]), ("agents",))
    programs = programs_of(config, mesh, agents, options.updates)
    seconds: dict[str, list[float]] = {part: [] for part in programs}
    for number in range(-1, options.repeats):  # the first turn warms up
        for part, program in programs.items():
            took = program.seconds()
            if number >= 0:
                seconds[part].append(took)
    scale = 1e6 * mesh.size / options.updates / agents
    spent = {part: parts.spread(scale * took for took in turns) for part, turns in seconds.items()}
    states, steps = programs[UPDATE].run()
    env_steps = int(np.asarray(steps, np.int64).sum())
    speed = env_steps / parts.spread(seconds[UPDATE])["median"]
    analysis = programs[UPDATE].compiled.memory_analysis()
    return {
        "recipe": name,
        "agents": agents,
        "devices": mesh.size,
        "core_microseconds_per_update_and_agent": spent,
        "kernels_of_largest_loop_body": {
            part: program.kernels() for part, program in programs.items()
        },
        "env_steps_per_second": speed,
        "flops_per_second": speed * parts.flops_per_step(config),
        "share_of_peak": speed * parts.flops_per_step(config) / peak * len(devices) / mesh.size,
        "state_bytes_per_agent": sum(leaf.nbytes for leaf in jax.tree.leaves(states)) // agents,
        "program_bytes_per_agent": analysis.temp_size_in_bytes * mesh.size // agents,
    }


def show(rows: list[dict[str, Any]], peak: float, console: Console) -> None:
    """The rows as a table for people."""
    names = list(rows[0]["core_microseconds_per_update_and_agent"])
    table = Table("recipe", "agents", *names, "share of peak", "kB an agent")
    for row in rows:
        cells = []
        for name in names:
            kernels = row["kernels_of_largest_loop_body"][name]
            spent = row["core_microseconds_per_update_and_agent"][name]["median"]
            cells.append(f"{spent:,.0f} ({'one function' if kernels is None else kernels})")
        table.add_row(
            row["recipe"],
            str(row["agents"]),
            *cells,
            f"{row['share_of_peak']:.0%}",
            f"{(row['state_bytes_per_agent'] + row['program_bytes_per_agent']) / 1e3:,.0f}",
        )
    console.print("microseconds of a core an update and agent (kernels in its largest loop body):")
    console.print(table)
    console.print(f"peak of float32 products on all devices: {peak / 1e9:,.0f} GFLOP/s")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A bar a recipe and number of agents: the update's parts one after another."""
    figure, panel = plt.subplots(figsize=(8, 1.2 + 0.45 * len(rows)), layout="constrained")
    labels = [f"{row['recipe']}, {row['agents']} agent(s)" for row in rows]
    spent = [row["core_microseconds_per_update_and_agent"] for row in rows]
    medians = {part: np.array([one[part]["median"] for one in spent]) for part in spent[0]}
    descent = medians[DESCENT] - medians[SHUFFLES] - medians[OPTIMIZER]
    pieces = {
        "rollout": medians["rollout"],
        "values and returns": medians["values and returns"],
        SHUFFLES: medians[SHUFFLES],
        "gradient": np.maximum(descent, 0),
        OPTIMIZER: medians[OPTIMIZER],
    }
    left = np.zeros(len(rows))
    for name, widths in pieces.items():
        panel.barh(labels, widths, left=left, label=name)
        left += widths
    panel.plot(medians[UPDATE], labels, "k|", markersize=14, label="whole update, measured")
    panel.invert_yaxis()
    panel.set(xlabel="microseconds of a core, an update and agent")
    figure.legend(loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(options: Options) -> None:
    """Measure, print the table, write the data and the figure."""
    matplotlib.use("agg")
    console = Console(width=150)
    setting = machine.describe("gymnax", "optax")
    peak = parts.peak_flops(Mesh(np.array(jax.devices()), ("agents",)))
    rows = []
    for name in options.recipes:
        for agents in options.agents:
            console.print(f"{name}, {agents} agent(s)")
            rows.append(measure(name, agents, options, peak))
    show(rows, peak, console)
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"setting": setting, "options": dataclasses.asdict(options), "peak_flops": peak}
    text = json.dumps({**content, "rows": rows}, indent=2, default=str) + "\n"
    (options.out / "profile.json").write_text(text)
    draw(rows, options.out / "profile.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
