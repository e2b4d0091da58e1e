"""python -m benchmarks.scaling: many agents on one host device and on one a core, turn about.

XLA fixes the number of host devices when it starts, so every turn is a process of its own, which
compiles, warms up, and times a number of updates of all agents.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from ppo_jax import population, recipe


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure environment steps/s of many agents over the number of host devices."""

    recipe: str = "standard"
    """Recipe to train."""
    agents: int = 32
    """Agents trained at once."""
    devices: tuple[int, ...] = tuple(sorted({1, os.cpu_count() or 1}))
    """Numbers of host devices."""
    repeats: int = 5
    """Turns of each."""
    updates: int = 20
    """Updates that a turn times, after as many to warm up."""
    turn: bool = False
    """Only one turn, in this process, with the devices that it has."""
    out: Path = Path("benchmarks/results")
    """Folder for scaling.json."""


def turn(options: Options) -> float:
    """Environment steps per second of all agents on all of this process's devices."""
    config, updates = recipe(options.recipe), options.updates
    mesh = Mesh(np.array(jax.devices()), ("agents",))
    init = population.shard_over_agents(population.init, mesh, population.AGENTS)
    states = jax.jit(init)(population.agent_keys(0, options.agents), config)

    def run(states, config):
        return population.run(states, config, updates, updates)

    sharded = population.shard_over_agents(run, mesh, (population.AGENTS, population.TIME_AGENTS))
    compiled = jax.jit(sharded).lower(states, config).compile(population.COMPILER_OPTIONS)
    states, _ = jax.block_until_ready(compiled(states, config))
    started = time.perf_counter()
    _, metrics = jax.block_until_ready(compiled(states, config))
    seconds = time.perf_counter() - started
    return float(np.asarray(metrics.env_steps, np.int64).sum() / seconds)


def turn_elsewhere(options: Options, devices: int) -> float:
    """A turn in a process with that many host devices."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    others = [flag for flag in flags if "host_platform_device_count" not in flag]
    own = f"--xla_force_host_platform_device_count={devices}"
    settings = {"recipe": options.recipe, "agents": options.agents, "updates": options.updates}
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--turn", *arguments],
        env={**os.environ, "XLA_FLAGS": " ".join([*others, own])},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


def main(options: Options) -> None:
    """Measure, print the table, write the data."""
    if options.turn:
        print(turn(options))
        return
    console = Console(width=100)
    speeds: dict[int, list[float]] = {devices: [] for devices in options.devices}
    for number in range(options.repeats):
        for devices, own in speeds.items():
            own.append(turn_elsewhere(options, devices))
        said = ", ".join(f"{devices} device(s) {own[-1]:,.0f}" for devices, own in speeds.items())
        console.print(f"turn {number + 1}, steps/s: {said}")
    base = statistics.median(speeds[options.devices[0]])
    table = Table("devices", "env steps/s", "lowest to highest", "×")
    rows = []
    for devices, own in speeds.items():
        median = statistics.median(own)
        table.add_row(
            str(devices),
            f"{median:,.0f}",
            f"{min(own):,.0f} to {max(own):,.0f}",
            f"{median / base:.2f}",
        )
        rows.append({"devices": devices, "env_steps_per_second": own, "ratio": median / base})
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    setting = machine.describe("gymnax", "optax")
    content = {"setting": setting, "options": dataclasses.asdict(options), "rows": rows}
    (options.out / "scaling.json").write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
