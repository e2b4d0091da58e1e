"""python -m benchmarks.targets: the speeds that this project promises itself, and those measured.

Reads what the other benchmarks left in benchmarks/results.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare the newest results with the targets."""

    out: Path = Path("benchmarks/results")
    """Folder of the results, and for targets.json."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A promise: a measured value, and what it should be at least (or at most)."""

    what: str
    value: float | None
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it holds; None where it was not measured."""
        if self.value is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound


class Results:
    """The results' files, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> dict[str, Any]:
        """A result, or nothing where there is none."""
        path = self._folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def row(self, name: str, **wanted: Any) -> dict[str, Any]:
        """The row of a result that has these values, or nothing."""
        for row in self.read(name).get("rows", []):
            if all(row.get(key) == value for key, value in wanted.items()):
                return row
        return {}

    def ratio(self, contestant: str, agents: int, recipe: str = "standard") -> float | None:
        """How many times as fast as a contestant ours was, in the same turns."""
        wanted = {"recipe": recipe, "agents": agents, "contestant": contestant}
        newest = self.row("throughput", **wanted) or self.row("throughput_earlier", **wanted)
        return newest.get("ours_over_it")


def targets(results: Results) -> Iterator[Target]:
    """What is promised for two CPU cores."""
    yield Target("standard, 1 agent, × PureJaxRL", results.ratio("PureJaxRL", 1), 2)
    yield Target("standard, 1 agent, × rejax", results.ratio("rejax", 1), 2)
    yield Target("standard, 32 agents, × PureJaxRL", results.ratio("PureJaxRL", 32), 3)
    yield Target("standard, 1 agent, × Ajax", results.ratio("Ajax", 1), 1.5)
    yield Target("standard, 16 agents, × Ajax", results.ratio("Ajax", 16), 2)
    yield Target("Pendulum, 1 agent, × Ajax", results.ratio("Ajax", 1, "continuous"), 1.5)
    yield Target("recurrent, 1 agent, × Ajax", results.ratio("Ajax", 1, "recurrent"), 1.5)
    yield Target("Breakout, 1 agent, × PureJaxRL", results.ratio("PureJaxRL", 1, "minatar"), 1.5)
    yield Target("Breakout, 8 agents, × PureJaxRL", results.ratio("PureJaxRL", 8, "minatar"), 2)
    flagged = results.ratio("PureJaxRL, our flags", 32)
    yield Target("standard, 32 agents, × PureJaxRL with our flags", flagged, 1.5)
    yield Target("standard, 32 agents, × CleanRL", results.ratio("CleanRL", 32), 130)
    share = results.row("profile", recipe="standard", agents=32).get("share_of_peak")
    yield Target("standard, 32 agents, share of the measured peak", share, 1 / 3)
    yield Target("notebook, 1 agent, × PyTorch", results.ratio("PyTorch", 1, "notebook"), 120)
    yield Target("notebook, 64 agents, × PyTorch", results.ratio("PyTorch", 64, "notebook"), 250)
    yield from _solving(results.read("solve"))
    theirs = results.row("throughput", recipe="standard", agents=1, contestant="PureJaxRL")
    alone = results.row("throughput", recipe="standard", agents=1, contestant="ppo_jax")
    compiling = alone["compile_seconds"] / theirs["compile_seconds"] if theirs and alone else None
    yield Target("standard, compile time ÷ PureJaxRL's", compiling, 0.5, at_most=True)
    memory = results.row("memory", contestant="PureJaxRL").get("it_over_ours")
    yield Target(
        "memory of 1,000 agents ÷ PureJaxRL's", 1 / memory if memory else None, 0.25, at_most=True
    )


def _solving(solve: dict[str, Any]) -> Iterator[Target]:
    warm = solve.get("warm", {}).get("seconds", {}).get("median")
    cold = solve.get("cold", {}).get("later_start", {}).get("median")
    yield Target("fast, warm: median seconds to solve", warm, 1, at_most=True)
    yield Target("fast, a process with a warm cache, seconds", cold, 10, at_most=True)


def main(options: Options) -> None:
    """Print the table of targets, and write it."""
    table = Table("", "measured", "target", "")
    rows = []
    for target in targets(Results(options.out)):
        said = {None: "not measured", True: "met", False: "missed"}[target.met]
        value = "" if target.value is None else f"{target.value:,.3g}"
        bound = f"{'at most' if target.at_most else 'at least'} {target.bound:.3g}"
        table.add_row(target.what, value, bound, said)
        rows.append({**dataclasses.asdict(target), "met": target.met})
    Console(width=110).print(table)
    (options.out / "targets.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
