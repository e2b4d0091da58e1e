"""Reports a run: settings ranked with intervals, in a table, a file and a figure."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import statistics
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.console import Console
from ppo_jax.run.storage import folder

_SHOWN = 20  # rows of the table on the screen; the file has all
_DRAWN = 8  # curves in the figure
_BOOTSTRAP = 0xB007  # key of the resampling

_QUARTILES = ("solved_after_q25", "solved_after", "solved_after_q75")

Row = dict[str, Any]


def write(
    path: Path,
    agents: AgentTable,
    eval_returns: np.ndarray,
    returns: np.ndarray | None,
    env_steps: np.ndarray | None,
    solved_at: float | None,
    console: Console,
) -> list[Row]:
    """Rank the settings, best first; show the table, write sweep.csv (with several settings) and,
    where curves [updates, agents] were kept, the figure. Returns the ranked rows.

    An agent that diverged counts as the worst.
    """
    rows = rank(agents, eval_returns, returns, env_steps, solved_at)
    console.table(*_table(rows, agents))
    if agents.num_settings > 1:
        with folder.file_system(path), open(path / folder.SWEEP, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {name: "" if value is None else value for name, value in row.items()}
                for row in rows
            )
    if returns is not None and env_steps is not None:
        with folder.file_system(path):
            draw(path / folder.FIGURE, rows, agents, returns, env_steps, solved_at)
    return rows


def rank(
    agents: AgentTable,
    eval_returns: np.ndarray,
    returns: np.ndarray | None,
    env_steps: np.ndarray | None,
    solved_at: float | None,
) -> list[Row]:
    """A row per setting, best interquartile mean of the final greedy returns first; of equals, the
    one that solved more."""
    solving = None
    if returns is not None and env_steps is not None and solved_at is not None:
        steps = env_steps.astype(np.float32)  # here: jax makes int64 int32, which 2**31 overflows
        solving = np.asarray(_steps_to_solve(returns, steps, solved_at))
    scores = np.where(np.isnan(eval_returns), -np.inf, eval_returns)
    by_setting = scores.reshape(agents.num_settings, -1)
    intervals = _intervals(jnp.asarray(by_setting, float))
    better = jax.jit(jax.vmap(statistics.probability_of_improvement, (0, None)))(
        jnp.asarray(by_setting, float), jnp.asarray(by_setting[0], float)
    )
    rows = []
    for setting, own in enumerate(by_setting):
        row: Row = {"rank": 0, "setting": setting, **agents.describe(setting), "seeds": len(own)}
        row |= {name: _number(intervals[name][setting]) for name in ("iqm", "low", "high")}
        row["improvement"] = None if setting == 0 else _number(better[setting])
        row["solved"] = None if solved_at is None else float(np.mean(own >= solved_at))
        row["diverged"] = int(np.isneginf(own).sum())
        quartiles: list[float | None] = [None] * 3
        if solving is not None:
            chosen = jnp.asarray(solving[agents.setting == setting])
            quartiles = [_number(value) for value in statistics.quantiles_of_solving(chosen)]
        row |= dict(zip(_QUARTILES, quartiles, strict=True))
        rows.append(row)
    rows.sort(key=_merit, reverse=True)
    for place, row in enumerate(rows, start=1):
        row["rank"] = place
    return rows


def _merit(row: Row) -> tuple[float, float]:
    """The interquartile mean; of equals, such as 500 and 500, the fraction solved."""
    return -math.inf if row["iqm"] is None else row["iqm"], row["solved"] or 0.0


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


@jax.jit
def _steps_to_solve(returns: jax.Array, env_steps: jax.Array, solved_at: float) -> jax.Array:
    return statistics.steps_to_solve(returns, env_steps, solved_at)


@jax.jit
def _intervals(scores: jax.Array) -> dict[str, jax.Array]:
    """Interquartile means of scores [settings, seeds] with their 95 % intervals, [settings]."""

    def one(own: jax.Array) -> dict[str, jax.Array]:
        low, high = statistics.stratified_bootstrap(
            jax.random.key(_BOOTSTRAP),
            own[None],
            lambda values: statistics.interquartile_mean(values.reshape(-1)),
        )
        return {"iqm": statistics.interquartile_mean(own), "low": low, "high": high}

    return jax.lax.map(one, scores)


def _table(rows: list[Row], agents: AgentTable) -> tuple[str, list[str], list[list[str]], str]:
    """Title, header, cells and note of the table on the screen: what fits 80 columns; sweep.csv has
    the rest."""
    names = list(agents.values)
    several, diverged = bool(names), any(row["diverged"] for row in rows)
    header = ["", *(name.removeprefix("env_params.") for name in names), "return", "95 % interval"]
    header += ["solved", "after steps", *["P(better)"] * several, *["diverged"] * diverged]
    cells = []
    for row in rows[:_SHOWN]:
        place = f"{row['rank']}{' default' if row['setting'] == 0 else ''}"
        line = [place if several else ""]
        line += [f"{row[name]:.4g}" for name in names]
        line.append(_shown(row["iqm"], ".1f"))
        line.append(f"{_shown(row['low'], '.1f')} to {_shown(row['high'], '.1f')}")
        line += [_shown(row["solved"], ".1%"), _shown(row["solved_after"], ",.0f")]
        line += [_shown(row["improvement"], ".2f")] * several + [str(row["diverged"])] * diverged
        cells.append(line)
    seeds = f"{rows[0]['seeds']:,} seeds"
    title = f"{len(rows):,} settings × {seeds}, best" if several else seeds
    title += ": interquartile mean of the greedy return, median steps to solve"
    left = len(rows) - len(cells)
    return title, header, cells, f"and {left:,} more in {folder.SWEEP}" if left else ""


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def draw(
    path: Path,
    rows: list[Row],
    agents: AgentTable,
    returns: np.ndarray,
    env_steps: np.ndarray,
    solved_at: float | None,
) -> None:
    """Learning curves over agents, the interquartile mean and the middle half, of the best settings
    and of the default, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no screen, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.add_subplot()
    drawn = [row for row in rows[:_DRAWN] if row["setting"]] if agents.num_settings > 1 else []
    summarize: Callable[..., Any] = jax.jit(statistics.summarize)
    own = next(row for row in rows if row["setting"] == 0)
    for row in [own, *drawn[: _DRAWN - 1]]:
        mask = agents.setting == row["setting"]
        steps = env_steps[:, mask].mean(axis=1)
        summary = jax.tree.map(np.asarray, summarize(jnp.asarray(returns[:, mask])))
        known = ~np.isnan(summary.iqm)
        label = ", ".join(f"{name} {row[name]:.4g}" for name in agents.values)
        label = f"{label} (default)" if row["setting"] == 0 and agents.values else label
        style: dict[str, Any] = {"color": "black"} if row["setting"] == 0 else {}
        (line,) = panel.plot(steps[known], summary.iqm[known], label=label, **style)
        panel.fill_between(
            steps[known],
            summary.quantiles[known, 1],
            summary.quantiles[known, 3],
            alpha=0.15,
            color=line.get_color(),
            linewidth=0,
        )
    if solved_at is not None:
        panel.axhline(solved_at, color="gray", linewidth=0.8, linestyle="--")
    seeds = rows[0]["seeds"]
    panel.set(
        xlabel="environment steps of an agent",
        ylabel="episode return while training",
        title=f"interquartile mean and middle half of {seeds:,} seeds",
    )
    if agents.values:
        figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
