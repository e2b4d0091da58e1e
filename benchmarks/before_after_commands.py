"""python -m benchmarks.before_after_commands ../before: whole commands beside another tree's.

The same training is started by both trees in turns, A B B A ..., with a warm compilation cache.
Each pair gives a ratio of wall seconds, from the start of Python to its end, and one of the
training speed that the run's summary.json has; their medians are quoted with 95 % bootstrap
intervals. A ratio above 1: this tree takes longer, or trains faster.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.before_after import median_with_interval

CASES = {
    "one agent of standard": ["--recipe", "standard"],
    "64 agents of fast": ["--num-seeds", "64"],
    "a start": ["--num-updates", "1"],
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare whole commands with an earlier checkout's, in turns."""

    before: Annotated[Path, tyro.conf.Positional]
    """The earlier checkout."""
    pairs: int = 15
    """Pairs of runs."""
    out: Path = Path("benchmarks/results/before_after_commands.json")
    """File for the results."""


def run(tree: Path, flags: list[str], folder: Path) -> tuple[float, float]:
    """Wall seconds of one command, and its training's steps a second."""
    command = [
        sys.executable,
        "-m",
        "ppo_jax.train",
        "--quiet",
        "--overwrite",
        "--out",
        str(folder),
    ]
    paths = {"PYTHONPATH": str(tree.absolute()), "XDG_CACHE_HOME": str(folder.parent / "cache")}
    started = time.perf_counter()
    subprocess.run([*command, *flags], cwd=tree, env={**os.environ, **paths}, check=True)
    seconds = time.perf_counter() - started
    summary = json.loads((folder / "summary.json").read_text())
    return seconds, summary["steps_per_second"]


def compare(case: str, options: Options, folder: Path) -> dict[str, Any]:
    """The ratios of this tree to the earlier one, from alternating runs."""
    trees, pairs = (options.before, Path()), []
    for pair in range(options.pairs + 1):  # the first fills the cache, and does not count
        order = (0, 1) if pair % 2 else (1, 0)
        found = {place: run(trees[place], CASES[case], folder / "run") for place in order}
        pairs.append([found[0], found[1]])
    seconds, speeds = np.moveaxis(np.array(pairs[1:]), -1, 0)  # [pairs, before and now]
    names = ("before", "now")
    return {
        "case": case,
        "flags": CASES[case],
        "seconds": dict(zip(names, np.median(seconds, axis=0).tolist(), strict=True)),
        "seconds_ratio": median_with_interval(seconds[:, 1] / seconds[:, 0]),
        "steps_per_second": dict(zip(names, np.median(speeds, axis=0).tolist(), strict=True)),
        "speed_ratio": median_with_interval(speeds[:, 1] / speeds[:, 0]),
    }


def main(options: Options) -> None:
    """Measure case by case, and write each as it comes."""
    rows = []
    command = f"python -m benchmarks.before_after_commands ../before --pairs {options.pairs}"
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            rows.append(compare(case, options, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
            content = {"command": command, "rows": rows}
            options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
