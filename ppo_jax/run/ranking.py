"""Ranks the settings of a run, with intervals, in a table and a file."""

import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import statistics
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.console import Console, counted, number, percent
from ppo_jax.run.storage import folder

_SHOWN = 20  # rows of the table on the screen; the file has all
_BOOTSTRAP = 0xB007  # key of the resampling
_QUARTILES = ("solved_after_q25", "solved_after", "solved_after_q75")

Row = dict[str, Any]


def write(
    path: Path,
    table: AgentTable,
    eval_returns: np.ndarray,
    metrics: dict[str, np.ndarray],
    solved_at: float | None,
    console: Console,
) -> list[Row]:
    """Show the ranked settings in what fits 80 columns, and write sweep.csv (of several settings).

    Args:
        eval_returns: [agents], greedy; NaN where an agent diverged, which counts as the worst.
        metrics: [updates, agents], the columns of metrics.csv; none without curves.
        solved_at: the return from which an agent counts as solved; none: none does.

    Returns: the ranked rows.
    """
    rows = rank(table, eval_returns, steps_to_solve(metrics, solved_at), solved_at)
    several, count = table.num_settings > 1, rows[0]["seeds"]
    seeds = counted(count, "seed")
    title = f"{len(rows):,} settings × {seeds}, best" if several else seeds
    title += ": interquartile mean of the greedy return, median steps to solve"
    left = len(rows) - _SHOWN
    note = f"and {left:,} more in {folder.SWEEP}" if left > 0 else ""
    console.table(title, *shown(rows[:_SHOWN], list(table.values)), note)
    if several:
        with open(path / folder.SWEEP, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return rows


def steps_to_solve(metrics: dict[str, np.ndarray], solved_at: float | None) -> np.ndarray | None:
    """Steps after which each agent first solved, [agents]; inf where it never did.

    metrics: [updates, agents], the columns of metrics.csv. None without curves or a threshold.
    """
    if not metrics or solved_at is None:
        return None
    steps = np.fmax.accumulate(metrics["step"], axis=0)  # one that stopped early keeps its last
    steps = steps.astype(np.float32)  # here: jax makes int64 int32, which 2**31 overflows
    returns = metrics["episode_return"].astype(np.float32)
    return np.asarray(jax.jit(statistics.steps_to_solve)(returns, steps, solved_at))


def rank(
    table: AgentTable, eval_returns: np.ndarray, solving: np.ndarray | None, solved_at: float | None
) -> list[Row]:
    """A row per setting, best interquartile mean of the final greedy returns first; of equals, the
    one that solved more, then earlier."""
    scores = np.where(np.isnan(eval_returns), -np.inf, eval_returns)
    scores = scores.reshape(table.num_settings, -1)
    compare = jax.jit(statistics.compare_settings)
    compared = compare(jax.random.key(_BOOTSTRAP), jnp.asarray(scores, float))
    settings, none = np.arange(len(scores)), np.full(len(scores), np.nan)
    after = np.full((len(scores), 3), np.inf)
    if solving is not None:
        after = np.asarray(
            statistics.quantiles_of_solving(jnp.asarray(solving).reshape(scores.shape))
        )
    columns = {
        "seeds": np.full(len(scores), scores.shape[1]),
        **{name: np.asarray(array) for name, array in compared._asdict().items()},
        "solved": none if solved_at is None else (scores >= solved_at).mean(axis=1),
        "diverged": np.isneginf(scores).sum(axis=1),
        **dict(zip(_QUARTILES, after.T, strict=True)),
    }
    columns["improvement"] = np.where(settings > 0, columns["improvement"], np.nan)
    if scores.shape[1] == 1:  # of which every resample is the same
        columns |= {"low": none, "high": none}
    worst_first = np.lexsort((-settings, -after[:, 1], columns["solved"], columns["iqm"]))
    return [
        {"rank": place, "setting": setting, **table.describe(setting)}
        | {name: _number(column[setting]) for name, column in columns.items()}
        for place, setting in enumerate(worst_first[::-1].tolist(), start=1)
    ]


def _number(value: Any) -> float | None:
    return value.item() if np.isfinite(value) else None


def shown(rows: list[Row], names: list[str]) -> tuple[list[str], list[list[str]]]:
    """The header and the cells of a table of these rows, for the hyperparameters of these names."""
    several, diverged = bool(names), any(row["diverged"] for row in rows)
    header = ["", *(name.removeprefix("env_params.") for name in names), "return", "95 % interval"]
    header += ["solved", "steps to solve", *["P(better)"] * several, *["diverged"] * diverged]
    cells = []
    for row in rows:
        place = f"{row['rank']}{' (default)' * (row['setting'] == 0)}" * several
        line = [place, *(number(row[name]) for name in names), number(row["iqm"]), interval(row)]
        line += [percent(row["solved"]), number(row["solved_after"])]
        line += [probability(row["improvement"])] * several + [str(row["diverged"])] * diverged
        cells.append(line)
    return header, cells


def interval(row: Row) -> str:
    """A row's interval in words."""
    return "–" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"


def probability(value: float | None) -> str:
    """A probability in two digits; a dash for none."""
    return "–" if value is None else f"{value:.2f}"
