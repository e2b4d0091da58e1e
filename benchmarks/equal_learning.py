"""python -m benchmarks.equal_learning: what a full training reaches, ours and the peers'.

Every contestant trains for 500,000 steps, and its return at the end of training stands beside its
speed (`benchmarks.throughput`). Nothing here is timed, so contestants run side by side.
"""

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.throughput import OURS, Contestant
from benchmarks.throughput import Options as Field
from benchmarks.throughput import contestants as all_contestants
from benchmarks.workers import PeerError, Worker
from ppo_jax import recipe


@dataclasses.dataclass(frozen=True)
class Options:
    """Train every contestant of `standard` to the end, and state its return."""

    agents: int = 4
    """Agents of the contestants that train several."""
    peers: tuple[str, ...] = Field.peers
    """Peers from PyPI, installed on first use."""
    cleanrl: Path | None = None
    """Your checkout of vwxyzjn/cleanrl (none: left out)."""
    purejaxrl: Path | None = None
    """Your checkout of luchris429/purejaxrl (none: left out)."""
    out: Path = Path("benchmarks/results")
    """Folder for equal_learning.json."""


def trained(contestant: Contestant, options: Options) -> dict[str, Any]:
    """One contestant's return at the end of a full training, or why there is none."""
    one_at_a_time = contestant.worker not in ("ours", "rejax", "purejaxrl")
    agents = 1 if one_at_a_time else options.agents
    work = {**contestant.options, "agents": agents, "updates": recipe("standard").num_updates}
    row = {"contestant": contestant.name, "agents": agents}
    try:
        with Worker(contestant.worker, work, turn_timeout=1800.0, start_timeout=1800.0) as worker:
            return {**row, **worker.turn(), "note": worker.ready["note"]}
    except PeerError as error:
        return {**row, "left_out": str(error)}


def main(options: Options) -> None:
    """Train all, as many side by side as there are cores; print a line and write the data as each
    of them ends, then print the table."""
    console = Console(width=100)
    field = Field(
        peers=options.peers, cleanrl=options.cleanrl, purejaxrl=options.purejaxrl, rl_tools=None
    )
    styles = ("PyTorch tuned", "PyTorch compiled")  # compute what PyTorch does: the tests hold that
    chosen = [one for one in all_contestants("standard", 1, field) if one.name not in styles]
    console.print(f"training {', '.join(one.name for one in chosen)}: minutes each")
    content: dict[str, Any] = {
        "setting": machine.describe("torch", "gymnax", "optax"),
        "options": dataclasses.asdict(options),
        "rows": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    # PyTorch's threads spin while they wait: side by side on two cores CleanRL made 150 steps/s.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        quickest_first = reversed(chosen)
        trainings = [pool.submit(trained, one, options) for one in quickest_first]
        for training in as_completed(trainings):
            row = training.result()
            console.print(f"{row['contestant']}: {said(row)}")
            content["rows"].append(row)
            text = json.dumps(content, indent=2, default=lambda path: path.name) + "\n"
            (options.out / "equal_learning.json").write_text(text)
    table = Table("", "agents", "return at the end of training")
    for row in content["rows"]:
        style = "bold" if row["contestant"] == OURS else None
        table.add_row(row["contestant"], str(row["agents"]), said(row), style=style)
    console.print(table)


def said(row: dict[str, Any]) -> str:
    """A contestant's return, or why it has none."""
    return row.get("left_out") or f"{row.get('final_return', float('nan')):.1f}"


if __name__ == "__main__":
    main(tyro.cli(Options))
