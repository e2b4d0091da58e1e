"""python -m benchmarks.memory: what a full training of many agents holds, by XLA's own analysis.

The programs that train so many agents of `standard` from beginning to end are compiled and not run:
their results, and the most that they hold beside them, are what XLA allocates.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.workers import PeerError, Worker
from ppo_jax import recipe
from ppo_jax.run import xla


@dataclasses.dataclass(frozen=True)
class Options:
    """State the memory that a full training of many agents needs, ours and the JAX peers'."""

    agents: int = 1000
    """Agents trained at once."""
    rejax: bool = True
    """Compare with rejax, from PyPI."""
    purejaxrl: Path | None = None
    """Your checkout of luchris429/purejaxrl (none: left out)."""
    out: Path = Path("benchmarks/results")
    """Folder for memory.json."""


def measure(title: str, worker: str, options: Options, **more: Any) -> dict[str, Any]:
    """A row: the bytes of a program that trains all agents to the end."""
    updates = recipe("standard").num_updates
    work = {"agents": options.agents, "updates": updates, "plan": True, **more}
    with Worker(worker, work, xla.flags(2)) as process:
        needed = process.turn()["program_bytes"]
        return {"contestant": title, "program_bytes": needed, "ready": process.ready}


def main(options: Options) -> None:
    """Compile, print the table, write the data."""
    console = Console(width=100)
    jobs: list[tuple[str, str, dict[str, Any]]] = [("ppo_jax", "ours", {})]
    if options.rejax:
        jobs.append(("rejax", "rejax", {}))
    if options.purejaxrl:
        jobs.append(("PureJaxRL", "purejaxrl", {"path": str(options.purejaxrl.resolve())}))
    rows = []
    for title, worker, more in jobs:
        try:
            rows.append(measure(title, worker, options, **more))
        except PeerError as error:
            console.print(f"left out: {title}: {error}")
    table = Table("", f"GB for {options.agents:,} agents", "it ÷ ours")
    for row in rows:
        row["it_over_ours"] = row["program_bytes"] / rows[0]["program_bytes"]
        table.add_row(
            row["contestant"], f"{row['program_bytes'] / 1e9:.2f}", f"{row['it_over_ours']:.1f}"
        )
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    content = {
        "setting": machine.describe("gymnax", "optax"),
        "options": dataclasses.asdict(options),
        "rows": rows,
    }
    text = json.dumps(content, indent=2, default=lambda path: path.name) + "\n"
    (options.out / "memory.json").write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
