"""python -m benchmarks.same_steps --purejaxrl ../purejaxrl: ours and the peers on the same steps.

Every contestant trains the tasks of `benchmarks/peers/tasks.py` to the end, with several seeds.
Nothing here is timed, so trainings run side by side; speeds are those of results/throughput.json,
and CleanRL's curves those of results/equivalence.json.

Interrupted, it goes on from the trainings that results/same_steps.json holds.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks import machine, throughput
from benchmarks.equivalence import THEIRS, area, filled, save
from benchmarks.peers.protocol import POINTS
from benchmarks.peers.tasks import TASKS
from benchmarks.throughput import OURS, Contestant
from benchmarks.workers import PeerError, Worker, interpreter, script_of

_MANY_AT_ONCE = ("ours", "rejax", "ajax", "purejaxrl")
_TITLES = (
    "task",
    "",
    "seeds",
    "area",
    "95 % interval",
    "return at the end",
    "steps/s",
    "ours ÷ it",
)
_LINES = {
    "PureJaxRL": ("tab:orange", "-"),
    "Ajax": ("tab:red", "-"),
    "rejax": ("tab:green", "-"),
    "SB3": ("tab:purple", "--"),
    "RecurrentPPO": ("tab:purple", ":"),
    "SBX": ("tab:brown", "--"),
    THEIRS: ("black", ":"),
    OURS: ("tab:blue", "-"),
}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Train ours and the peers on the same steps, and compare what they learn."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = tuple(TASKS)
    """Tasks to train."""
    seeds: int = 8
    """Seeds of a contestant that trains many at once."""
    slow_seeds: int = 4
    """Seeds of one that trains one at a time."""
    peers: tuple[str, ...] = throughput.Options.peers
    """Peers from PyPI, installed on first use."""
    purejaxrl: Path | None = None
    """Your checkout of luchris429/purejaxrl (none: left out)."""
    workers: int = os.cpu_count() or 1
    """Trainings side by side, a thread each."""
    markdown: bool = False
    """Print the table as Markdown."""
    out: Path = Path("benchmarks/results")
    """Folder for same_steps.json and same_steps.png."""


@dataclasses.dataclass(frozen=True)
class Training:
    """A process that trains one contestant with `agents` seeds."""

    task: str
    contestant: Contestant
    seed: int
    agents: int

    @property
    def row(self) -> Row:
        """What names it in the data."""
        name = self.contestant.name
        return {"task": self.task, "contestant": name, "seed": self.seed, "agents": self.agents}

    def replaces(self, row: Row) -> bool:
        """Whether a row of the data is of these seeds or some of them."""
        return all(row[name] == self.row[name] for name in ("task", "contestant", "seed"))

    def run(self) -> Row:
        """Curves and the return at the end, or why there are none."""
        options = {
            **self.contestant.options,
            "agents": self.agents,
            "seed": self.seed,
            "updates": TASKS[self.task].updates,
            "curves": True,
        }
        try:
            with Worker(
                self.contestant.worker, options, start_timeout=1800, turn_timeout=3600, tries=1
            ) as worker:
                result = worker.turn()
                versions = worker.ready["versions"]
        except PeerError as error:
            return self.left_out(error)
        final = result.get("final_return")
        return {
            **self.row,
            "curves": [
                [None if value is None else round(value, 2) for value in curve]
                for curve in result.get("curves", [])
            ],
            "final_return": None if final is None else round(final, 2),
            "versions": versions,
        }

    def left_out(self, error: PeerError) -> Row:
        """A row that says why it was not trained, in the peer's last words."""
        return {**self.row, "left_out": str(error).split("it said: ")[-1].splitlines()[-1]}


def trainings(options: Options) -> Iterator[Training]:
    """All, those of many seeds first."""
    field = throughput.Options(peers=options.peers, purejaxrl=options.purejaxrl)
    styles = ("PyTorch tuned", "PyTorch compiled")  # compute what PyTorch does: the tests hold that
    chosen = [
        (task, contestant)
        for task in options.tasks
        for contestant in throughput.contestants(task, 1, field)
        if contestant.name not in styles
    ]
    for task, contestant in chosen:
        if contestant.worker in _MANY_AT_ONCE and options.seeds:
            yield Training(task, contestant, 0, options.seeds)
    for task, contestant in chosen:
        if contestant.worker not in _MANY_AT_ONCE:
            for seed in range(options.slow_seeds):
                yield Training(task, contestant, seed, 1)


def train_all(options: Options, content: dict[str, Any], path: Path, console: Console) -> None:
    """Every training that is not held already, saved as each ends; who was left out tries again."""

    def keep(training: Training, row: Row) -> None:
        said = row.get("left_out") or f"{row['final_return']} at the end"
        console.print(f"{training.task}, {training.contestant.name}, seed {training.seed}: {said}")
        before = [held for held in content["trainings"] if training.replaces(held)]
        if "left_out" in row and any("left_out" not in held for held in before):
            return  # fewer seeds than asked for are better than none
        others = [held for held in content["trainings"] if held not in before]
        content["trainings"] = [*others, row]
        save(content, path)

    def held(training: Training) -> bool:
        return any(
            training.replaces(row) and row["agents"] >= training.agents and "left_out" not in row
            for row in content["trainings"]
        )

    missing = [training for training in trainings(options) if not held(training)]
    if missing:
        content["setting"] = machine.describe("gymnax", "optax")
    absent: dict[str, PeerError] = {}
    for name in {training.contestant.worker for training in missing}:
        try:
            interpreter(name, script_of(name))  # installed once, before all ask for it
        except PeerError as error:
            absent[name] = error
    os.environ["OMP_NUM_THREADS"] = "1"  # PyTorch's would wait for each other side by side
    pool = ThreadPoolExecutor(options.workers)
    running = {}
    for training in missing:
        if training.contestant.worker in absent:
            keep(training, training.left_out(absent[training.contestant.worker]))
        else:
            running[pool.submit(training.run)] = training
    try:
        for ended in as_completed(running):
            keep(running[ended], ended.result())
    finally:
        pool.shutdown(cancel_futures=True)


def with_cleanrl(rows: list[Row], path: Path) -> list[Row]:
    """The trainings, and CleanRL's of the equivalence test."""
    curves = json.loads(path.read_text())["curves"].get(THEIRS, {}) if path.exists() else {}
    return rows + [
        {
            "task": "standard",
            "contestant": THEIRS,
            "seed": int(seed),
            "agents": 1,
            "curves": [curve],
            "final_return": filled(curve, 0.0)[-1],
        }
        for seed, curve in curves.items()
    ]


def summarize(rows: list[Row], speeds: list[Row]) -> list[Row]:
    """A row a task and contestant, ours last of a task."""
    pairs = {(row["task"], row["contestant"]) for row in rows}
    order = list(TASKS), list(_LINES)

    def place(pair: tuple[str, str]) -> tuple[int, int]:
        task, name = pair
        return order[0].index(task), order[1].index(name) if name in order[1] else -1

    return [
        summary(
            task, name, [row for row in rows if (row["task"], row["contestant"]) == (task, name)]
        )
        | speed(task, name, speeds)
        for task, name in sorted(pairs, key=place)
    ]


def summary(task: str, name: str, rows: list[Row]) -> Row:
    """What a contestant learned of a task: its area with a 95 % interval, and its last return."""
    done = [row for row in rows if "left_out" not in row]
    if not done:
        return {"task": task, "contestant": name, "left_out": rows[0]["left_out"]}
    low, high = TASKS[task].low, TASKS[task].high
    areas = [area(curve, low, high) for row in done for curve in row["curves"]]
    ended = [row for row in done if row["final_return"] is not None]
    return {
        "task": task,
        "contestant": name,
        "seeds": sum(row["agents"] for row in done),
        "area": float(np.mean(areas)) if areas else None,
        "interval_95": interval(areas),
        "final_return": _mean_return(ended) if ended else None,
    }


def _mean_return(rows: list[Row]) -> float:
    """Over seeds: a row's return is the mean of its agents."""
    agents = [row["agents"] for row in rows]
    return float(np.average([row["final_return"] for row in rows], weights=agents))


def interval(values: Sequence[float]) -> list[float] | None:
    """Where the mean lies, at 95 % by Student's t; None of fewer than two values."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def speed(task: str, name: str, rows: list[Row]) -> Row:
    """Environment steps/s of one agent, and how many times as fast ours was."""
    wanted = (task, 1, name)
    for row in rows:
        if (row["recipe"], row["agents"], row["contestant"]) == wanted:
            median = row["env_steps_per_second"]["median"]
            return {"env_steps_per_second": median, "ours_over_it": row["ours_over_it"]}
    return {"env_steps_per_second": None, "ours_over_it": None}


def cells(row: Row) -> list[str]:
    """A row of the table."""
    name = f"**{OURS}**" if row["contestant"] == OURS else row["contestant"]
    if "left_out" in row:
        return [row["task"], name, f"left out: {row['left_out']}", *[""] * 5]
    low, high = row["interval_95"] or (None, None)
    return [
        row["task"],
        name,
        str(row["seeds"]),
        _number(row["area"], ".3f"),
        "–" if low is None else f"{low:.3f} to {high:.3f}",
        _number(row["final_return"], ".1f"),
        _number(row["env_steps_per_second"], ",.0f"),
        _number(row["ours_over_it"] if row["contestant"] != OURS else None, ".1f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def show(rows: list[Row], markdown: bool, console: Console) -> None:
    """The table, on the screen or as Markdown."""
    if markdown:
        lines = [_TITLES, ["---"] * 2 + ["--:"] * 6, *map(cells, rows)]
        print(*(f"| {' | '.join(line)} |" for line in lines), sep="\n")
        return
    table = Table(*_TITLES[:2])
    for title in _TITLES[2:]:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*(cell.strip("*") for cell in cells(row)))
    console.print(table)


def draw(rows: list[Row], path: Path) -> None:
    """A panel a task: the mean learning curve of every contestant over its seeds."""
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    columns = min(3, len(tasks))
    figure, grid = plt.subplots(
        -(-len(tasks) // columns),
        columns,
        figsize=(max(4.5, 3 * columns), 0.6 + 2.3 * -(-len(tasks) // columns)),
        layout="constrained",
        squeeze=False,
    )
    for panel in grid.flat[len(tasks) :]:
        panel.remove()
    shown: dict[str, Any] = {}
    for panel, task in zip(grid.flat, tasks, strict=False):
        shown |= _draw_task(panel, task, [row for row in rows if row["task"] == task])
    names = [name for name in reversed(_LINES) if name in shown]
    figure.legend(
        [shown[name] for name in names],
        names,
        loc="outside lower center",
        ncols=len(names),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path, dpi=150)


def _draw_task(panel: Any, task: str, rows: list[Row]) -> dict[str, Any]:
    steps = np.arange(1, POINTS + 1) * TASKS[task].steps / POINTS / 1000
    lines = {}
    for name, (color, style) in _LINES.items():
        curves = [
            filled(curve, np.nan)
            for row in rows
            if row["contestant"] == name
            for curve in row.get("curves", [])
        ]
        if curves:
            width = 2.5 if name == OURS else 1.2
            mean = np.mean(curves, axis=0)
            (lines[name],) = panel.plot(steps, mean, style, color=color, linewidth=width)
    panel.set_title(f"{task.replace('_', ', ')}: {TASKS[task].env}", fontsize=8.5)
    panel.set_xlabel("thousand environment steps", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    return lines


def main(options: Options) -> int:
    """Train what is missing, print the table, draw the curves; returns 2 for an unknown task."""
    matplotlib.use("agg")
    console = Console(width=150, stderr=options.markdown)
    if unknown := sorted(set(options.tasks) - set(TASKS)):
        console.print(f"no task {', '.join(unknown)}; there are {', '.join(TASKS)}", style="red")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "same_steps.json"
    content = json.loads(path.read_text()) if path.exists() else {"trainings": []}
    train_all(options, content, path, console)
    rows = with_cleanrl(content["trainings"], options.out / "equivalence.json")
    speeds = options.out / "throughput.json"
    content["rows"] = summarize(
        rows, json.loads(speeds.read_text())["rows"] if speeds.exists() else []
    )
    save(content, path)
    show(content["rows"], options.markdown, console)
    if any(row.get("curves") for row in rows):
        draw(rows, options.out / "same_steps.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
