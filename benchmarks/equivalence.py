"""python -m benchmarks.equivalence --cleanrl ../cleanrl: does `standard` learn as CleanRL does?

Two one-sided tests (Schuirmann 1987) on the normalized area under CartPole's learning curve: the
mean over 100 equal parts of the training of the mean return of the episodes that ended in each,
divided by 500. Equivalent means that the 90 % interval (Welch) of the difference of the means over
seeds lies within ±`MARGIN`, which was written down before the first training.

CleanRL takes a truncation for a termination. So ours is tested as it is, which is the claim, and
with `time_limit="terminate"`, which computes what CleanRL computes.

Interrupted, it goes on from the trainings that results/equivalence.json holds.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from rich.console import Console
from scipy import stats

from benchmarks import machine
from benchmarks.peers.protocol import FULL_UPDATES, POINTS, STEPS_OF_UPDATE, learning_curve
from benchmarks.workers import Worker, interpreter, script_of
from ppo_jax import population, ppo, recipe

MARGIN = 0.015
BEST = 500.0
THEIRS = "CleanRL"
OURS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard, time_limit=terminate": {"time_limit": "terminate"},
}
_AT_ONCE = 25


@dataclasses.dataclass(frozen=True)
class Options:
    """Train both with many seeds, and test whether they learn alike."""

    cleanrl: Path | None = None
    """Your checkout of vwxyzjn/cleanrl (none: tests what was trained before)."""
    seeds: int = 100
    """Seeds of ours, of each kind."""
    cleanrl_seeds: int = 20
    """Seeds of CleanRL's, minutes each."""
    workers: int = os.cpu_count() or 1
    """CleanRL's trainings side by side, a thread each."""
    out: Path = Path("benchmarks/results")
    """Folder for equivalence.json and equivalence.png."""


Curves = dict[str, dict[str, list[float | None]]]  # contestant -> seed -> curve


def area(curve: Sequence[float | None], low: float, high: float) -> float:
    """The normalized area under a learning curve, 0 for `low` all along and 1 for `high`.

    Where no episode ended the curve is what it was before, and `low` before the first.
    """
    return (float(np.mean(filled(curve, low))) - low) / (high - low)


def filled(curve: Sequence[float | None], newest: float) -> list[float]:
    """The curve where no episode ended too: what it was before, and `newest` before the first."""
    values = []
    for value in curve:
        newest = newest if value is None else value
        values.append(newest)
    return values


def compare(ours: Sequence[float], theirs: Sequence[float], margin: float) -> dict[str, Any]:
    """Whether the means of two samples are equivalent within ±margin, at the 5 % level."""
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(0.90)
    difference = float(np.mean(ours) - np.mean(theirs))
    error = np.hypot(stats.sem(ours), stats.sem(theirs))
    return {
        "difference": difference,
        "interval_90": [float(interval.low), float(interval.high)],
        # The larger of the two one-sided tests'.
        "p_value": float(stats.t.sf((margin - abs(difference)) / error, test.df)),
        "equivalent": bool(-margin < interval.low and interval.high < margin),
    }


def our_curves(overrides: dict[str, Any], seeds: range) -> dict[str, list[float | None]]:
    """Learning curves of `standard` by seed."""
    config = recipe("standard", **overrides)
    keys = population.agent_keys(seeds.start, len(seeds))
    train = jax.jit(jax.vmap(ppo.train, (0, None)))
    compiled = train.lower(keys, config).compile(population.COMPILER_OPTIONS)
    metrics = compiled(keys, config)[1]
    episodes = np.asarray(metrics.episodes)
    sums = np.where(episodes > 0, np.asarray(metrics.episode_return) * episodes, 0.0)
    return {
        str(seed): learning_curve(*agent)
        for seed, *agent in zip(seeds, sums.tolist(), episodes.tolist(), strict=True)
    }


def their_curve(path: Path, seed: int) -> list[float | None]:
    """A learning curve of CleanRL's."""
    work = {"path": str(path.resolve()), "updates": FULL_UPDATES, "seed": seed}
    with Worker("cleanrl", work, turn_timeout=7200.0) as worker:
        return worker.turn()["curves"][0]


def train_all(options: Options, curves: Curves, keep: Callable[[], None], console: Console) -> None:
    """Every training that is not held already, saved as each ends."""
    for name, overrides in OURS.items():
        held = curves.setdefault(name, {})
        for first in range(len(held), options.seeds, _AT_ONCE):
            held |= our_curves(overrides, range(first, min(first + _AT_ONCE, options.seeds)))
            keep()
            console.print(f"{name}: {len(held)} of {options.seeds} seeds")
    held = curves.setdefault(THEIRS, {})
    missing = [seed for seed in range(options.cleanrl_seeds) if str(seed) not in held]
    if options.cleanrl is None:
        return
    interpreter("cleanrl", script_of("cleanrl"))  # installed once, before all ask for it
    os.environ["OMP_NUM_THREADS"] = "1"  # its threads would wait for each other side by side
    pool = ThreadPoolExecutor(options.workers)
    path = options.cleanrl
    trainings = {pool.submit(their_curve, path, seed): seed for seed in missing}
    try:
        for training in as_completed(trainings):
            held[str(trainings[training])] = training.result()
            keep()
            console.print(f"{THEIRS}: {len(held)} of {options.cleanrl_seeds} seeds")
    finally:
        pool.shutdown(cancel_futures=True)


def test(curves: Curves) -> list[dict[str, Any]]:
    """Each kind of ours beside CleanRL's."""
    areas = {
        name: [area(curve, 0.0, BEST) for curve in held.values()] for name, held in curves.items()
    }
    return [
        {
            "ours": name,
            "seeds": [len(areas[name]), len(areas[THEIRS])],
            "area": [float(np.mean(areas[name])), float(np.mean(areas[THEIRS]))],
            "standard_deviation": [
                float(np.std(areas[name], ddof=1)),
                float(np.std(areas[THEIRS], ddof=1)),
            ],
            **compare(areas[name], areas[THEIRS], MARGIN),
        }
        for name in OURS
    ]


def draw(curves: Curves, path: Path) -> None:
    """Mean curves over seeds, with the band from the 10 % to the 90 % quantile."""
    figure, panel = plt.subplots(figsize=(6, 3.2), layout="constrained")
    steps = np.arange(1, POINTS + 1) * FULL_UPDATES * STEPS_OF_UPDATE / POINTS / 1000
    for name, color in zip((*OURS, THEIRS), ("tab:blue", "tab:cyan", "tab:gray"), strict=True):
        table = np.array(list(curves[name].values()), float)
        low, high = np.nanquantile(table, (0.1, 0.9), axis=0)
        panel.plot(steps, np.nanmean(table, axis=0), color=color, label=f"{name}, {len(table)}")
        panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    panel.set(xlabel="thousand environment steps", ylabel="return, CartPole-v1", ylim=(0, 510))
    panel.legend(title="mean, and 10 % to 90 % of seeds", fontsize=8, title_fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def save(content: dict[str, Any], path: Path) -> None:
    """Write the file as a whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content) + "\n")
    beside.replace(path)


def main(options: Options) -> None:
    """Train what is missing, test, print the outcome, and draw the curves."""
    matplotlib.use("agg")
    console = Console(width=110)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "equivalence.json"
    content = json.loads(path.read_text()) if path.exists() else {"curves": {}}
    content |= {"setting": machine.describe("gymnax", "optax"), "margin": MARGIN}

    train_all(options, content["curves"], lambda: save(content, path), console)
    content["tests"] = test(content["curves"])
    save(content, path)
    for row in content["tests"]:
        low, high = row["interval_90"]
        said = "equivalent" if row["equivalent"] else "not shown to be equivalent"
        console.print(
            f"{row['ours']}: area {row['area'][0]:.4f}, {THEIRS} {row['area'][1]:.4f}, difference"
            f" {row['difference']:+.4f}, 90 % interval {low:+.4f} to {high:+.4f}: {said}"
            f" within ±{MARGIN}"
        )
    draw(content["curves"], options.out / "equivalence.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
