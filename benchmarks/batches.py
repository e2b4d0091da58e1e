"""python -m benchmarks.batches: environment steps per second over the size of an update's batch.

More environments make larger minibatches of the same number: fewer, longer products.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from benchmarks import machine, parts
from benchmarks.profile import Program
from ppo_jax import Config, population, ppo, recipe


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure environment steps/s over the number of environments of an agent."""

    recipe: str = "standard"
    """Recipe to train."""
    num_envs: tuple[int, ...] = (4, 16, 64, 256)
    """Environments of an agent; the steps of a rollout and the number of minibatches stay."""
    agents: tuple[int, ...] = (1, 8)
    """How many agents at once."""
    env_steps: int = 300_000
    """About how many environment steps a turn has, of all agents."""
    repeats: int = 5
    """Turns of each."""
    out: Path = Path("benchmarks/results")
    """Folder for batches.json."""


def training(config: Config, agents: int, env_steps: int) -> tuple[Program, int]:
    """Agents' further training, compiled, and the environment steps that a run of it makes."""
    devices = jax.devices()
    mesh = Mesh(np.array(devices[: len(devices) if agents % len(devices) == 0 else 1]), ("agents",))
    updates = max(1, round(env_steps / agents / config.batch_size))

    def train(states: ppo.TrainState, config: Config) -> ppo.TrainState:
        return population.run(states, config, updates, updates, parts.agents_at_once(config))[0]

    states = Program(mesh, population.init, population.agent_keys(0, agents), config).run()
    return Program(mesh, train, states, config), updates * agents * config.batch_size


def main(options: Options) -> None:
    """Measure, all sizes turn about, print the table, write the data."""
    console = Console(width=100)
    setting = machine.describe("gymnax", "optax")
    sizes = [(agents, envs) for agents in options.agents for envs in options.num_envs]
    programs = {}
    for agents, envs in sizes:
        console.print(f"compiling {agents} agent(s) of {envs} environments")
        config = recipe(options.recipe, num_envs=envs)
        programs[agents, envs] = training(config, agents, options.env_steps)
    speeds: dict[tuple[int, int], list[float]] = {size: [] for size in sizes}
    for number in range(-1, options.repeats):  # the first turn warms up
        for size, (program, env_steps) in programs.items():
            speed = env_steps / program.seconds()
            if number >= 0:
                speeds[size].append(speed)
    table = Table("agents", "environments", "batch", "env steps/s", "lowest to highest")
    rows: list[dict[str, Any]] = []
    for (agents, envs), turns in speeds.items():
        spread = parts.spread(turns)
        batch = recipe(options.recipe, num_envs=envs).batch_size
        low, high = spread["range"]
        numbers = f"{spread['median']:,.0f}", f"{low:,.0f} to {high:,.0f}"
        table.add_row(str(agents), str(envs), f"{batch:,}", *numbers)
        rows.append({"agents": agents, "num_envs": envs, "batch_size": batch, **spread})
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"setting": setting, "options": dataclasses.asdict(options), "rows": rows}
    (options.out / "batches.json").write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
