"""python -m benchmarks.throughput: environment steps per second beside PyTorch and the JAX peers.

Every contestant is a live process of its own (`benchmarks/workers.py`), compiled and warm; they
take turns, A B A B, on the same work: networks, float32, epochs, minibatches. Compilation is apart.
"""

import contextlib
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine, parts
from benchmarks.peers.tasks import TASKS
from benchmarks.workers import PeerError, Worker
from ppo_jax import Config, recipe
from ppo_jax.run import xla

_LONG = 240.0  # seconds
OURS, PYTORCH = "ppo_jax", "PyTorch"
_SB3 = ("SB3", "stable_baselines3")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure environment steps/s of ppo_jax and of its peers, and what each of them computes."""

    recipes: tuple[str, ...] = (
        *("standard", "notebook"),
        *("continuous", "minatar", "recurrent", "recurrent_shared"),
    )
    """Recipes, and tasks of `benchmarks/peers/tasks.py`, to measure."""
    agents: tuple[int, ...] = (1, 4, 16, 32, 256)
    """How many agents train at once in `standard`."""
    task_agents: tuple[int, ...] = (1, 8)
    """How many train at once in a task."""
    notebook_agents: tuple[int, ...] = (1, 64)
    """How many train at once in `notebook`."""
    peer_agents: tuple[int, ...] = (1, 16, 32)
    """At which of the numbers of `standard` the JAX peers take part."""
    peers: tuple[str, ...] = ("stable_baselines3", "sb3_contrib", "sbx", "rejax", "ajax")
    """Peers from PyPI, installed on first use."""
    cleanrl: Path | None = None
    """Your checkout of vwxyzjn/cleanrl (none: left out)."""
    purejaxrl: Path | None = None
    """Your checkout of luchris429/purejaxrl (none: left out)."""
    rl_tools: Path | None = None
    """Your checkout of rl-tools/rl-tools (none: left out)."""
    repeats: int = 5
    """Turns of each contestant; two where they take longer than four minutes."""
    seconds: float = 5.0
    """About how long a turn lasts."""
    out: Path = Path("benchmarks/results")
    """Folder for throughput.json and throughput.png."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Who takes turns: a worker, its options, and whether it has our XLA flags."""

    name: str
    worker: str
    options: dict[str, Any]
    our_flags: bool = False

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        return f"{self.name}, our flags" if self.our_flags and self.name != OURS else self.name


def agents_of(name: str, options: Options) -> tuple[int, ...]:
    """How many agents train at once in a recipe or task."""
    return {"standard": options.agents, "notebook": options.notebook_agents}.get(
        name, options.task_agents
    )


def contestants(name: str, agents: int, options: Options) -> Iterator[Contestant]:
    """Who takes turns in a recipe or task with that many agents: ours last."""
    work = {"recipe": name, "agents": agents, "seconds": options.seconds}
    alone = {**work, "agents": 1}
    if name in ("standard", "notebook"):
        yield Contestant(PYTORCH, "torch", {**alone, "style": "plain"})
        if agents == 1:
            yield Contestant("PyTorch tuned", "torch", {**alone, "style": "tuned"})
            yield Contestant("PyTorch compiled", "torch", {**alone, "style": "compiled"})
    if name == "standard":
        yield from _peers_of_standard(alone, agents, options)
    if name in TASKS:
        yield from _peers(work, options)
    if name == "notebook":  # episodes grow while it learns: only a whole training says its speed
        work = {**work, "updates": recipe(name).num_updates}
    yield Contestant(OURS, "ours", work, our_flags=True)


def _peers_of_standard(
    alone: dict[str, Any], agents: int, options: Options
) -> Iterator[Contestant]:
    """Those that do nothing else."""
    if options.cleanrl and agents in (1, 32):
        yield Contestant("CleanRL", "cleanrl", {**alone, "path": str(options.cleanrl.resolve())})
    if agents == 1 and "sbx" in options.peers:
        yield Contestant("SBX", "sbx", alone)
    if agents == 1 and options.rl_tools:
        path = str(options.rl_tools.resolve())
        yield Contestant("rl_tools (Pendulum)", "rl_tools", {**alone, "path": path})


def _peers(work: dict[str, Any], options: Options) -> Iterator[Contestant]:
    """Those of every task; who cannot do one refuses it."""
    name, agents = work["recipe"], work["agents"]
    title, peer = ("RecurrentPPO", "sb3_contrib") if TASKS[name].memory else _SB3
    if agents == 1 and peer in options.peers:
        yield Contestant(title, peer, work)
    if name == "standard" and agents not in options.peer_agents:
        return
    for our_flags in (False, True) if agents > 1 else (False,):
        for title, peer in (("rejax", "rejax"), ("Ajax", "ajax")):
            if peer in options.peers:
                yield Contestant(title, peer, work, our_flags)
        if options.purejaxrl:
            path = str(options.purejaxrl.resolve())
            yield Contestant("PureJaxRL", "purejaxrl", {**work, "path": path}, our_flags)


@dataclasses.dataclass
class Speeds:
    """A contestant's turns."""

    contestant: Contestant
    worker: Worker
    turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def env_steps(self) -> list[float]:
        """Environment steps per second, a value a turn."""
        return [turn["env_steps"] / turn["seconds"] for turn in self.turns]


def measure(name: str, agents: int, options: Options, console: Console) -> list[Speeds]:
    """All contestants of one recipe and number of agents, turn about; one that cannot run is left
    out with a line that says why."""
    field: list[Speeds] = []
    with contextlib.ExitStack() as stack:
        for contestant in contestants(name, agents, options):
            console.print(f"{name}, {agents} agent(s): starting {contestant.label}")
            flags = xla.flags(agents) if contestant.our_flags else None
            try:
                worker = Worker(contestant.worker, contestant.options, flags, start_timeout=900)
            except PeerError as error:
                console.print(f"left out: {contestant.label}: {error}")
                continue
            field.append(Speeds(contestant, stack.enter_context(worker)))
        started = time.perf_counter()
        for number in range(options.repeats):
            if number >= 2 and time.perf_counter() - started > _LONG:
                break
            for speeds in list(field):
                try:
                    speeds.turns.append(speeds.worker.turn())
                except PeerError as error:
                    console.print(f"left out: {speeds.contestant.label}: {error}")
                    field.remove(speeds)
            said = ", ".join(
                f"{speeds.contestant.label} {speeds.env_steps[-1]:,.0f}" for speeds in field
            )
            console.print(f"{name}, {agents} agent(s), turn {number + 1}, steps/s: {said}")
    return field


def summarize(name: str, agents: int, field: list[Speeds]) -> list[dict[str, Any]]:
    """A row a contestant: medians, ranges, and how many times as fast as it ours was."""
    medians = [statistics.median(speeds.env_steps) for speeds in field]
    arithmetic = flops_per_step(name)
    ours = medians[-1] if field[-1].contestant.name == OURS else None
    return [
        {
            "recipe": name,
            "agents": agents,
            "contestant": speeds.contestant.label,
            "trains_at_once": speeds.contestant.options["agents"],
            "env_steps_per_second": parts.spread(speeds.env_steps),
            "ours_over_it": ours / median if ours else None,
            "flops_per_second": median * arithmetic if arithmetic else None,
            "compile_seconds": speeds.worker.ready["compile_seconds"],
            "peak_memory_bytes": max(turn["peak_memory_bytes"] for turn in speeds.turns),
            "return_at_the_end": _last_return(speeds.turns),
            "updates_of_a_turn": speeds.turns[-1].get("updates"),
            "hangs": speeds.worker.hangs,
            "XLA_FLAGS": speeds.worker.flags,
            "note": speeds.worker.ready["note"],
            "versions": speeds.worker.ready["versions"],
        }
        for speeds, median in zip(field, medians, strict=True)
    ]


def flops_per_step(name: str) -> int | None:
    """Arithmetic of a step of a recipe or task; None where there is a memory."""
    if name not in TASKS:
        return parts.flops_per_step(recipe(name))
    task = TASKS[name]
    if task.memory:
        return None
    work = {"env": task.env, "hidden_sizes": task.hidden_sizes, "num_epochs": task.num_epochs}
    return parts.flops_per_step(Config().replace(**work))


def _last_return(turns: list[dict[str, Any]]) -> float | None:
    """Mean episode return at the end of the full trainings among the turns, if there are any."""
    known = [turn["final_return"] for turn in turns if turn.get("final_return") is not None]
    return statistics.fmean(known) if known else None


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The rows as a table for people."""
    table = Table("recipe", "agents", "")
    for title in ("env steps/s", "lowest to highest", "ours ÷ it", "compile s", "MB", "return"):
        table.add_column(title, justify="right")
    for row in rows:
        speed, compiling = row["env_steps_per_second"], row["compile_seconds"]
        low, high = speed["range"]
        table.add_row(
            row["recipe"],
            str(row["agents"]),
            row["contestant"],
            f"{speed['median']:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            "" if row["ours_over_it"] is None else f"{row['ours_over_it']:.1f}",
            "" if compiling is None else f"{compiling:.1f}",
            f"{row['peak_memory_bytes'] / 1e6:,.0f}",
            "" if row["return_at_the_end"] is None else f"{row['return_at_the_end']:.0f}",
        )
    console.print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel a recipe and number of agents: bars of steps per second, with the turns' range."""
    sections = [
        (key, list(group))
        for key, group in itertools.groupby(rows, lambda row: (row["recipe"], row["agents"]))
    ]
    ends = np.cumsum([1 + len(shown) for _, shown in sections])
    first = int(np.argmax(ends >= ends[-1] / 2)) + 1 if len(sections) > 4 else len(sections)
    columns = [column for column in (sections[:first], sections[first:]) if column]
    inches = max(sum(0.5 + 0.2 * len(shown) for _, shown in column) for column in columns)
    size = ((8, 11)[len(columns) - 1], 0.5 + inches)
    figure = plt.figure(figsize=size, layout="constrained")
    halves = np.array(figure.subfigures(1, len(columns), squeeze=False)).flat
    for half, column in zip(halves, columns, strict=True):
        _draw_column(half, column)
    figure.savefig(path, dpi=150)


def _draw_column(figure: Any, sections: list[Any]) -> None:
    panels = np.atleast_1d(
        figure.subplots(
            len(sections), sharex=True, height_ratios=[1 + len(shown) for _, shown in sections]
        )
    )
    for panel, ((name, agents), shown) in zip(panels, sections, strict=True):
        _draw_section(panel, shown[::-1])
        title = f"{name.replace('_', ', ')}, {agents} agent{'s' if agents > 1 else ''}"
        panel.set_title(title, fontsize=10)
    panels[-1].set_xlabel("environment steps/s, training included")


def _draw_section(panel: Any, shown: list[dict[str, Any]]) -> None:
    speeds = np.array([row["env_steps_per_second"]["median"] for row in shown])
    ranges = np.array([row["env_steps_per_second"]["range"] for row in shown])
    colors = ["tab:blue" if row["contestant"] == OURS else "darkgray" for row in shown]
    names = [row["contestant"] for row in shown]
    panel.barh(names, speeds, xerr=np.abs(ranges.T - speeds), color=colors)
    for place, row in enumerate(shown):
        ratio = row["ours_over_it"]
        is_ours = row["contestant"] == OURS or ratio is None
        times = "" if is_ours else f" (ours {ratio:.{0 if ratio >= 9.95 else 1}f} ×)"
        panel.annotate(
            f"{speeds[place]:,.0f}{times}",
            (ranges[place, 1], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    panel.set(xscale="log", xlim=(100, 1e7))
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def earlier(path: Path, setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that an earlier run on this machine, with these versions, has left."""
    content = json.loads(path.read_text()) if path.exists() else {}
    alike = ("processor", "cores", "python", "versions")
    same = all(content.get("setting", {}).get(name) == setting[name] for name in alike)
    return content["rows"] if same else []


def main(options: Options) -> None:
    """Measure, print the table, write the data after every section, and the figure; sections that
    are not measured now stay as they were."""
    matplotlib.use("agg")
    console = Console(width=150)
    setting = machine.describe("torch", "gymnasium", "gymnax", "optax")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "throughput.json"
    sections = [(name, agents) for name in options.recipes for agents in agents_of(name, options)]
    rows = [row for row in earlier(path, setting) if (row["recipe"], row["agents"]) not in sections]
    for name, agents in sections:
        field = measure(name, agents, options, console)
        if not field:
            continue
        rows += summarize(name, agents, field)
        content = {"setting": setting, "options": dataclasses.asdict(options), "rows": rows}
        path.write_text(json.dumps(content, indent=2, default=lambda path: path.name) + "\n")
    show(rows, console)
    draw(rows, options.out / "throughput.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
