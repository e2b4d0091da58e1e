"""python -m benchmarks compiled: an update as XLA compiles it for a GPU and a TPU, without either.

Kernels, CUDA graphs and what cuts them, memory, operations and bytes: of our recipes and of other
JAX libraries, which are compiled by the same functions in their own environments (`peers/reading`).
Nothing is timed; from the counts follows a prediction of an H100's speed, for a GPU to refute.
Needs jax's plugins for the devices; without CUDA or a TPU, `pip` installs them (`run/absent.py`).
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
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

from benchmarks import machine
from benchmarks.peers import reading
from benchmarks.workers import PeerError, Worker
from ppo_jax import Config, population, recipe
from ppo_jax.run import absent
from ppo_jax.run.errors import DeviceError

GPU = "gpu:h100"
PREDICTED = (1, 8, 32, 132, 512, 1024, 4096)  # agents
LAUNCH, LAUNCH_IN_GRAPH = 2.5e-6, 1e-6  # seconds
BANDWIDTH, PEAK = 3.35e12, 67e12  # an H100's bytes/s and float32 operations/s
MODEL = (
    "seconds of an update = launches × 2.5 µs outside of CUDA graphs and 1 µs inside + the larger"
    " of bytes / 3.35 TB/s and operations / 67 TFLOP/s. A sum, for kernels wait for one another:"
    " what a launch takes is not hidden. Bytes and operations by XLA's own analysis,"
    " linear in the agents between 32 and 1,024; launches of the nearer of these."
)
# What a notebook's update is taken for: an episode of 500 steps, in 16 minibatches, 10 times.
NOTEBOOK_STEPS, NOTEBOOK_TRIPS = 500, 160
_WORK = dict.fromkeys(("purejaxrl", "rejax", "ajax"), "standard")
_CUDA = [f"jax-cuda13-{part}=={{}}" for part in ("plugin", "pjrt")]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile an update of each recipe, and of other libraries, for devices that are not here."""

    recipes: tuple[str, ...] = ("standard", "fast", "notebook")
    """Recipes to compile, each with fields changed if need be: "standard kernel=pallas"."""
    agents: tuple[int, ...] = (1, 32, 1024)
    """How many agents at once; left out where a device's chips cannot share them equally."""
    devices: tuple[str, ...] = (GPU, "tpu:v5e:1x1", "tpu:v5e:2x2")
    """Devices, as `ppo-jax plan --device` names them. The file's rows of others, of other programs
    and other numbers of agents stay."""
    peers: tuple[str, ...] = ("purejaxrl", "rejax", "ajax")
    """Other libraries, for the first device."""
    purejaxrl: Path | None = None
    """Your checkout of luchris429/purejaxrl (none: left out)."""
    out: Path = Path("benchmarks/results")
    """Folder for compiled.json and compiled.png."""


def config_of(name: str) -> Config:
    """A recipe by its name, with texts for some of its fields."""
    own, *changes = _WORK.get(name, name).split()
    return recipe(own, **dict(change.split("=", 1) for change in changes))


def ours(name: str, agents: int, device: str, graphs: bool) -> dict[str, Any]:
    """An update of a recipe."""
    config, updates = config_of(name), reading.UPDATES
    mesh = Mesh(np.array(absent.select(device)), ("agents",))
    states = jax.eval_shape(lambda: population.init(population.agent_keys(0, agents), config))

    def train(states: Any) -> Any:
        return population.run(states, config, updates, updates)

    out_specs = (population.AGENTS, population.TIME_AGENTS)
    training = population.shard_over_agents(train, mesh, out_specs)
    trips = NOTEBOOK_TRIPS if name.startswith("notebook") else 1
    return reading.read(training, (states,), device, graphs, trips)


def peer(name: str, agents: int, options: Options) -> dict[str, Any]:
    """An update of another library's `standard`, or why there is none."""
    asked = {"agents": agents, "device": options.devices[0]}
    if name == "purejaxrl":
        if options.purejaxrl is None:
            return {"not_compiled": "give --purejaxrl, your checkout of it"}
        asked["path"] = str(options.purejaxrl.resolve())
    plugins = [line.format("0.10.2") for line in _CUDA]
    try:
        with Worker(name, asked, start_timeout=600, tries=1, packages=plugins) as worker:
            row = worker.turn()
            return {**row, "versions": worker.ready["versions"]}
    except PeerError as error:
        return {"not_compiled": str(error).strip().splitlines()[-1][:200]}


def rows_of(options: Options) -> Iterator[dict[str, Any]]:
    """A row a program, number of agents and device; of ours on a GPU one more, with more graphs."""
    for device, agents in itertools.product(options.devices, options.agents):
        if agents % len(absent.select(device)):
            continue
        own = {"agents": agents, "device": device, "more_graphs": False}
        for name in options.recipes:
            yield {"program": name, **own, **ours(name, agents, device, False)}
            if device.startswith("gpu"):
                more = ours(name, agents, device, True)
                yield {"program": name, **own, "more_graphs": True, **more}
        for name in options.peers if device == options.devices[0] else ():
            yield {"program": name, **own, **peer(name, agents, options)}


def cells(row: dict[str, Any]) -> list[str]:
    """A row for people: what is launched in and outside of graphs, and what cuts them."""
    head = [
        row["device"],
        row["program"],
        f"{row['agents']:,}",
        "more" if row["more_graphs"] else "",
    ]
    if "not_compiled" in row:
        return [*head, row["not_compiled"]]
    loops = [f"{loop['entered'] * loop['trips']:,} × {loop['kernels']}" for loop in row["loops"]]
    whole = sum(part["whole"] for part in row["parts"][1:])  # the first is around them
    cut: dict[str, int] = {}
    for part in row["parts"]:
        for kind, number in part["outside"].items():
            cut[kind] = cut.get(kind, 0) + number
    numbers = [
        row["temporary_megabytes"],
        (row["bytes"] or 0) / 1e6,
        (row["operations"] or 0) / 1e6,
    ]
    return [
        *head,
        f"{row['kernels']:,}",
        ", ".join(loops),
        f"{row['launches_outside']:,} + {row['launches_in_graphs']:,}" if row["parts"] else "",
        f"{whole} of {len(loops)}" if row["parts"] else "",
        ", ".join(f"{number} {kind}" for kind, number in cut.items()),
        *(f"{number:,.1f}" for number in numbers),
    ]


COLUMNS = (
    *("device", "program", "agents", "graphs", "kernels", "loops: trips × kernels"),
    *("launches outside + in graphs", "loops whole", "outside of graphs, a trip each"),
    *("temporary MB", "MB moved", "MFLOP"),
)


# The prediction -----------------------------------------------------------------------------------


def predictions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps per second on an H100 by `MODEL`, for each program, with and without more graphs."""
    found = []
    for name in dict.fromkeys(row["program"] for row in rows):
        for more in (False, True):
            own = {
                row["agents"]: row
                for row in rows
                if (row["program"], row["more_graphs"], row["device"]) == (name, more, GPU)
                and row.get("bytes")
                and not row.get("not_analyzed")
            }
            if own.keys() >= {1, 32, 1024}:
                found += [
                    {"program": name, "more_graphs": more, "agents": agents}
                    | predicted(name, agents, own)
                    for agents in PREDICTED
                ]
    return found


def predicted(name: str, agents: int, rows: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Seconds of an update of so many agents, from the rows of 1, 32 and 1,024, and the speed."""
    near = rows[1 if agents == 1 else 32 if agents < 182 else 1024]  # by their ratio

    def at(quantity: str) -> float:
        if agents == 1:
            return rows[1][quantity]
        each = (rows[1024][quantity] - rows[32][quantity]) / (1024 - 32)
        return max(rows[32][quantity] + each * (agents - 32), 0.0)

    launching = LAUNCH * near["launches_outside"] + LAUNCH_IN_GRAPH * near["launches_in_graphs"]
    moving, computing = at("bytes") / BANDWIDTH, at("operations") / PEAK
    seconds = launching + max(moving, computing)
    steps = NOTEBOOK_STEPS if name.startswith("notebook") else config_of(name).batch_size
    return {
        "launching_seconds": launching,
        "moving_seconds": moving,
        "computing_seconds": computing,
        "env_steps_per_second": agents * steps / seconds,
    }


# What it came to ----------------------------------------------------------------------------------


def show(content: dict[str, Any], console: Console) -> None:
    """The rows and predictions as tables for people."""
    table = Table(*COLUMNS)
    for row in content["rows"]:
        table.add_row(*cells(row))
    console.print(table)
    console.print(MODEL)
    table = Table("program", "graphs", *(f"{agents:,}" for agents in PREDICTED))
    by_program: dict[tuple[str, bool], list[str]] = {}
    for row in content["predictions"]:
        speeds = by_program.setdefault((row["program"], row["more_graphs"]), [])
        speeds.append(f"{row['env_steps_per_second']:,.0f}")
    for (name, more), speeds in by_program.items():
        table.add_row(name, "more" if more else "", *speeds)
    console.print(table)


def label(program: str) -> str:
    """A program's name in a figure: the recipe, and the value of the last changed field."""
    return ", ".join(dict.fromkeys((program.split()[0], program.split("=")[-1])))


def draw(content: dict[str, Any], path: Path) -> None:
    """What one agent's update launches by XLA's default flags, and the predicted speeds."""
    figure, (bars, speeds) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    shown = [
        row
        for row in content["rows"]
        if (row["device"], row["agents"], row["more_graphs"]) == (GPU, 1, False)
        and row.get("parts")
    ]
    labels = [label(row["program"]) for row in shown]
    inside = [row["launches_in_graphs"] for row in shown]
    bars.barh(labels, inside, label="in CUDA graphs", color="tab:blue")
    outside = [row["launches_outside"] for row in shown]
    bars.barh(labels, outside, left=inside, label="outside", color="tab:orange")
    bars.invert_yaxis()
    room = 8 * max(map(sum, zip(inside, outside, strict=True)))  # beside the bars, for the legend
    bars.set(xscale="log", xlim=(1, room), xlabel="launches an update, one agent")
    bars.set(title="compiled for an H100, not timed")
    bars.legend(fontsize=8, frameon=False, loc="upper right")
    for color, name in enumerate(dict.fromkeys(row["program"] for row in content["predictions"])):
        for more in (False, True):
            own = [
                (row["agents"], row["env_steps_per_second"])
                for row in content["predictions"]
                if (row["program"], row["more_graphs"]) == (name, more)
            ]
            style = {"ls": "--" if more else "-", "color": f"C{color}", "marker": "o", "ms": 3}
            speeds.plot(*zip(*own, strict=True), label=None if more else label(name), **style)
    speeds.set(xscale="log", yscale="log", xlabel="agents", ylabel="environment steps/s")
    speeds.set(title="predicted, not measured (dashed: more graphs)")
    if content["predictions"]:
        speeds.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for panel in (bars, speeds):
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_fontsize(9)
    figure.savefig(path, dpi=150)


def main(options: Options) -> None:
    """Compile, print the tables, write the data and the figure."""
    matplotlib.use("agg")
    console, path = Console(width=200), options.out / "compiled.json"
    try:
        for device in options.devices:
            absent.select(device)
    except DeviceError as error:
        raise SystemExit(str(error)) from error
    setting, kept = machine.describe("gymnax", "flax"), []
    if path.exists():
        earlier = json.loads(path.read_text())["rows"]
        programs = (*options.recipes, *options.peers)
        again = set(itertools.product(options.devices, programs, options.agents))
        kept = [
            row for row in earlier if (row["device"], row["program"], row["agents"]) not in again
        ]
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in rows_of(options):
        console.print(*cells(row), highlight=False)
        rows.append(row)
        found = predictions(rows + kept)
        content = {"setting": setting, "model": MODEL, "rows": rows + kept, "predictions": found}
        path.write_text(json.dumps(content, indent=2) + "\n")
    show(content, console)
    draw(content, options.out / "compiled.png")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.compiled"))
