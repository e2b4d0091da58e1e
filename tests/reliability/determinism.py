"""python -m tests.reliability.determinism: the same run in fresh processes, its different results.

Counts the different `state_sha256` of the command's runs: with the flags that it sets by itself,
and with XLA's thread pool kept out of the products as well (`PINNED`).
"""

import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from ppo_jax.run.storage import folder
from tests.helpers.setting import describe_setting

PINNED = "--xla_cpu_multi_thread_eigen=false"
CASES = {
    "standard, 1 agent": ("--recipe", "standard", "--total-timesteps", "40960"),
    "standard, 33 agents": (
        *("--recipe", "standard", "--total-timesteps", "10240", "--num-seeds", "33"),
        "--no-curves",
    ),
    "fast, 1 agent": (),
    "wide, 1 agent": (
        *("--num-envs", "64", "--hidden-sizes", "256", "256", "--total-timesteps", "40960"),
    ),
}
FLAGS = {"default": "", "pinned": PINNED}


@dataclasses.dataclass(frozen=True)
class Options:
    """Run the same training in fresh processes, and count the different final states."""

    processes: int = 20
    """Fresh processes for each case and set of flags."""
    jobs: int = 2
    """Processes at the same time."""
    cases: tuple[str, ...] = tuple(CASES)
    """Which runs."""
    flags: tuple[str, ...] = tuple(FLAGS)
    """With which flags: default, pinned."""
    out: Path = Path("tests/reliability/results")
    """Folder for determinism.json."""


def final_state(case: str, flags: str) -> str:
    """The hash of the final state of a fresh process."""
    with tempfile.TemporaryDirectory() as out:
        given = os.environ.get("XLA_FLAGS", "")
        subprocess.run(
            [
                *(sys.executable, "-m", "ppo_jax.train", *CASES[case], "--quiet"),
                *("--out", out, "--checkpoint-seconds", "None"),
            ],
            check=True,
            env={**os.environ, "XLA_FLAGS": f"{given} {FLAGS[flags]}".strip()},
            stdout=subprocess.DEVNULL,
        )
        return json.loads(Path(out, folder.SUMMARY).read_text())["state_sha256"]


def count(case: str, flags: str, options: Options) -> dict[str, Any]:
    """How often each final state came out."""
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        states = pool.map(lambda _: final_state(case, flags), range(options.processes))
        counted = Counter(states)
    return {
        "case": case,
        "flags": flags,
        "XLA_FLAGS": FLAGS[flags],
        "processes": options.processes,
        "different_states": len(counted),
        "states": dict(counted),
    }


def main(options: Options) -> int:
    """Count for all cases and flags; 1 where pinned flags gave more than one state."""
    console = Console()
    rows = []
    for flags in options.flags:
        for case in options.cases:
            row = count(case, flags, options)
            rows.append(row)
            console.print(
                f"{case}, {flags} flags: {row['different_states']} different state(s) of"
                f" {options.processes} processes"
            )
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"setting": describe_setting("tests.reliability.determinism"), "rows": rows}
    (options.out / "determinism.json").write_text(json.dumps(result, indent=2) + "\n")
    return int(any(row["different_states"] > 1 for row in rows if row["flags"] == "pinned"))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tests.reliability.determinism")))
