"""python -m benchmarks.learning_curves: learning curves of the recipes, with bands over seeds.

With --torch-seeds, PyTorch's curves of the same recipes stand beside ours: equal learning is what
makes the speeds of `benchmarks.throughput` comparable.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from rich.console import Console

from benchmarks import machine, pytorch_ppo
from ppo_jax import population, ppo, recipe

POINTS = 200


@dataclasses.dataclass(frozen=True)
class Options:
    """Train every recipe with many seeds, and draw mean return against environment steps."""

    recipes: tuple[str, ...] = ("fast", "standard", "notebook")
    """Recipes to train."""
    seeds: int = 32
    """Seeds of ours, trained at once."""
    torch_seeds: int = 0
    """Seeds of PyTorch's (minutes each; `fast` has no PyTorch twin)."""
    redraw: bool = False
    """Only draw the figure again, from learning_curves.json."""
    out: Path = Path("benchmarks/results")
    """Folder for learning_curves.json and learning_curves.png."""


def on_grid(steps: np.ndarray, returns: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The newest known return at each grid point, NaN before the first."""
    known = ~np.isnan(returns)
    steps, returns = steps[known], returns[known]
    newest = np.searchsorted(steps, grid, side="right") - 1
    return np.where(newest >= 0, returns[np.maximum(newest, 0)], np.nan)


def ours(name: str, seeds: int) -> dict[str, Any]:
    """Curves [seeds, points] and greedy returns of our agents."""
    config = recipe(name)
    keys = population.agent_keys(0, seeds)
    options = population.COMPILER_OPTIONS
    train = jax.jit(jax.vmap(ppo.train, (0, None))).lower(keys, config).compile(options)
    started = time.perf_counter()
    states, metrics = jax.block_until_ready(train(keys, config))
    seconds = time.perf_counter() - started
    evaluate = jax.jit(population.evaluate, static_argnums=3)
    greedy = np.asarray(evaluate(states.params, config, keys, 100)).mean(axis=1)
    steps = np.cumsum(np.asarray(metrics.env_steps, np.int64), axis=1)
    grid = np.linspace(0, np.median(steps[:, -1]), POINTS)
    returns = np.asarray(metrics.episode_return)
    curves = [on_grid(*agent, grid) for agent in zip(steps, returns, strict=True)]
    return summary("ppo_jax", name, grid, curves, greedy, seconds)


def theirs(name: str, seeds: int, grid: np.ndarray) -> dict[str, Any]:
    """The same of PyTorch, a process per core, each on one thread."""
    started = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(_torch_run, [name] * seeds, range(seeds)))
    seconds = time.perf_counter() - started
    curves = []
    for episodes, _ in runs:
        steps, returns = np.array(episodes).T
        # Ours are means over an update; a mean over ten episodes is as smooth.
        smooth = np.convolve(returns, np.full(10, 0.1), "valid")
        curves.append(on_grid(steps[9:], smooth, grid))
    return summary("PyTorch", name, grid, curves, np.array([run[1] for run in runs]), seconds)


def _torch_run(name: str, seed: int) -> tuple[list[tuple[int, float]], float]:
    result = pytorch_ppo.train(name, seed)
    return result.returns, pytorch_ppo.evaluate(result.actor, seed + 1_000_000)


def summary(
    who: str,
    name: str,
    grid: np.ndarray,
    curves: list[np.ndarray],
    greedy: np.ndarray,
    seconds: float,
) -> dict[str, Any]:
    """One contestant's mean and quantiles over seeds at every grid point; None: no episode yet."""
    table = np.array(curves)
    known = ~np.isnan(table).all(axis=0)  # before the first episode's end there is nothing to say

    def listed(reduce: Callable[..., np.ndarray]) -> list[float | None]:
        values = np.full(len(grid), np.nan)
        values[known] = reduce(table[:, known], axis=0)
        return [None if np.isnan(value) else float(value) for value in values]

    return {
        "who": who,
        "recipe": name,
        "seeds": len(curves),
        "env_steps": grid.tolist(),
        "mean": listed(np.nanmean),
        "low": listed(partial(np.nanquantile, q=0.1)),
        "high": listed(partial(np.nanquantile, q=0.9)),
        "greedy_return_per_seed": greedy.tolist(),
        "solved": int((greedy >= 475).sum()),
        "seconds": seconds,
    }


def draw(curves: list[dict[str, Any]], path: Path) -> None:
    """A panel a recipe: mean return, and the band from the 10 % to the 90 % quantile of seeds."""
    names = list(dict.fromkeys(curve["recipe"] for curve in curves))
    figure, panels = plt.subplots(
        1, len(names), figsize=(3.6 * len(names), 2.9), sharey=True, layout="constrained"
    )
    for panel, name in zip(np.atleast_1d(panels), names, strict=True):
        for curve in (curve for curve in curves if curve["recipe"] == name):
            is_ours = curve["who"] == "ppo_jax"
            color = "tab:blue" if is_ours else "tab:gray"
            steps = np.array(curve["env_steps"]) / 1000
            mean, low, high = (np.array(curve[key], float) for key in ("mean", "low", "high"))
            label = f"{curve['who']}: {curve['solved']} of {curve['seeds']} seeds solve it"
            panel.plot(steps, mean, color=color, label=label, zorder=2 + is_ours)
            panel.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        panel.axhline(475, color="black", linewidth=0.6, linestyle=":")
        panel.set(title=name, xlabel="thousand environment steps", ylim=(0, 510))
        panel.legend(loc="lower right", fontsize=7, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("mean return, CartPole-v1")
    figure.savefig(path, dpi=150)


def main(options: Options) -> None:
    """Train, print what was solved, write the data and the figure."""
    matplotlib.use("agg")
    console = Console()
    data = options.out / "learning_curves.json"
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        curves: list[dict[str, Any]] = []
        for name in options.recipes:
            curves.append(ours(name, options.seeds))
            if options.torch_seeds and name in pytorch_ppo.RECIPES:
                grid = np.array(curves[-1]["env_steps"])
                curves.append(theirs(name, options.torch_seeds, grid))
        content = {"setting": machine.describe("torch", "gymnax"), "curves": curves}
        data.write_text(json.dumps(content) + "\n")
    curves = json.loads(data.read_text())["curves"]
    for curve in curves:
        mean = float(np.mean(curve["greedy_return_per_seed"]))
        console.print(
            f"{curve['recipe']}, {curve['who']}: {curve['solved']} of {curve['seeds']} seeds"
            f" solved, mean greedy return {mean:.1f}, {curve['seconds']:.1f} s for all"
        )
    draw(curves, options.out / "learning_curves.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
