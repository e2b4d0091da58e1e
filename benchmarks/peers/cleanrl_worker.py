# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium==0.29.1", # as CleanRL pins it; 1.x resets at another step
#     "numpy<2", # gymnasium 0.29.1 needs it
#     "torch==2.13.0",
#     "tyro",
#     "tensorboard",
# ]
# ///
# mypy: disable-error-code="import-not-found"
"""CleanRL's `ppo.py` (a checkout of vwxyzjn/cleanrl), a process a turn as its users run it."""

import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from protocol import (
    FULL_UPDATES,
    STEPS_OF_UPDATE,
    OptionError,
    Options,
    Peer,
    learning_curve,
    require,
    serve,
    updates_of_turn,
    versions,
)

NOTE = (
    "the same work as `standard`; a truncation counts as a termination; a turn is a training of its"
    " own, timed by itself (SPS, without imports), whose learning rate is annealed over the turn"
)


def start(options: Options) -> Peer:
    """Train for a moment, to see that it runs and how fast."""
    require(options, most_agents=1, checkout_of="vwxyzjn/cleanrl")
    script = Path(str(options.path), "cleanrl", "ppo.py").resolve()
    if not script.is_file():
        raise OptionError(f"path {options.path}: has no cleanrl/ppo.py")
    seeds = count(options.seed + 1)
    updates = updates_of_turn(options, lambda trial: train(script, trial, next(seeds))["seconds"])

    def turn() -> dict[str, Any]:
        return train(script, updates, next(seeds))

    return Peer(turn, None, versions("torch", "gymnasium", "numpy"), NOTE)


def train(script: Path, updates: int, seed: int) -> dict[str, Any]:
    """One training of so many updates, read from what it prints."""
    steps = updates * STEPS_OF_UPDATE
    arguments = ["--no-cuda", "--seed", str(seed), "--total-timesteps", str(steps)]
    with tempfile.TemporaryDirectory() as folder:  # it leaves its TensorBoard events in runs/
        output = subprocess.run(
            [sys.executable, script, *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    speed = int(re.findall(r"^SPS: (\d+)$", output, re.MULTILINE)[-1])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result = {
        "env_steps": steps,
        "seconds": steps / speed,
        "updates": updates,
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }
    if updates == FULL_UPDATES:
        result |= learning(list(episodes(output)))
    return result


def learning(ended: list[tuple[int, float]]) -> dict[str, Any]:
    """What the episodes of a full training say."""
    returns: list[list[float]] = [[] for _ in range(FULL_UPDATES)]
    for step, number in ended:
        returns[(step - 1) // STEPS_OF_UPDATE].append(number)
    last = [number for update in returns[-10:] for number in update]
    curve = learning_curve([sum(update) for update in returns], [len(update) for update in returns])
    return {"curves": [curve], **({"final_return": fmean(last)} if last else {})}


def episodes(output: str) -> Iterator[tuple[int, float]]:
    """The step of every episode's end, and its return."""
    for step, number in re.findall(r"global_step=(\d+), episodic_return=\[?([\d.]+)", output):
        yield int(step), float(number)


if __name__ == "__main__":
    serve(start)
