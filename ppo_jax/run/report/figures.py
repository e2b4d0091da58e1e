"""The figures of a report: which lines of which agents each of them has."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from ppo_jax.run.console import number
from ppo_jax.run.ranking import interval
from ppo_jax.run.report.charts import Level, Line, chart, spread
from ppo_jax.run.report.curves import POINTS, Curve
from ppo_jax.run.report.data import DIAGNOSTICS, Group

_STEPS = "environment steps of an agent"
FEW = 3  # groups that leave room for more than their means
_DOTS = 200  # of a group, at most
_CELLS = 144  # of a heat map, at most

Groups = Sequence[Group]
Row = dict[str, Any]


def learning(groups: Groups, levels: Sequence[Level]) -> str:
    """Returns while training: a thin line for each seed that is drawn, below all interquartile
    means."""
    thin = [
        Line(_seed_of(group, seed, groups), keys, color, _steps(group), own, kind="thin")
        for color, group in enumerate(groups)
        if group.lines.shape[1] > 1
        for seed, own in zip(group.seeds, group.lines.T, strict=False)
        for keys in [f"seeds s{seed:.0f}" if len(groups) == 1 else f"seeds g{color}"]
    ]
    lines = [*thin, *_lines(groups, "episode_return")]
    return chart("episode return while training", lines, _STEPS, levels=levels)


def legend(groups: Groups) -> str:
    """A button for each group, one for the seeds' lines, which of many groups begin switched off,
    and of a single group one for each seed."""
    names = [group.name for group in groups] if len(groups) > 1 else ["interquartile mean"]
    entries = [(f"g{color}", name, f"var(--c{color})") for color, name in enumerate(names)]
    if any(group.lines.shape[1] > 1 for group in groups):
        entries.append(("seeds", "each seed", "var(--soft)"))
        drawn = groups[0].seeds[: groups[0].lines.shape[1]] if len(groups) == 1 else ()
        entries += [(f"s{seed:.0f}", f"seed {seed:.0f}", "var(--c0)") for seed in drawn]
    buttons = (
        f'<button type="button" data-key="{key}" style="--swatch:{color}"'
        f' aria-pressed="{"false" if key == "seeds" and len(groups) > FEW else "true"}">'
        f"{escape(name)}</button>"
        for key, name, color in entries
    )
    return f'<div class="legend">{"".join(buttons)}</div>' if len(entries) > 1 else ""


def results(groups: Groups, levels: Sequence[Level]) -> str:
    """The evaluations while training; of several seeds also how many are at the threshold, how many
    have been, and where each of them ended."""
    title = "greedy return while training"
    evaluations = chart(title, _lines(groups, "eval_return"), _STEPS, levels=levels)
    if sum(len(group.seeds) for group in groups) == 1:
        return _side_by_side([evaluations])
    solved = chart(
        "share of seeds at the threshold", _lines(groups, "solved"), _STEPS, percent=True
    )
    return _side_by_side([evaluations, solved, _solving(groups), _finals(groups, levels)])


def diagnostics(groups: Groups) -> str:
    """A figure for each; with bands where there are few groups."""
    banded = len(groups) < FEW
    lines = {title: _lines(groups, metric, banded) for metric, title in DIAGNOSTICS.items()}
    return _side_by_side([chart(title, own, _STEPS) for title, own in lines.items()])


def settings(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Returns of a sweep: a heat map of a full grid of two hyperparameters; otherwise a figure for
    each, with intervals where it is the only one."""
    grid = {tuple(row[name] for name in names): row for row in rows}
    varied = [row for row in rows if row["setting"] != 0] or rows  # the default need not lie on it
    axes = [sorted({row[name] for row in varied}) for name in names]
    cells = [(one, other) for one in axes[0] for other in axes[-1]]
    if len(names) == 2 and len(cells) <= _CELLS and all(cell in grid for cell in cells):
        return _heat(names, axes, grid)
    return _side_by_side([_margin(rows, name, len(names) == 1) for name in names])


def evolution(curves: dict[str, Curve]) -> str:
    """A figure for each hyperparameter that evolved."""
    made = []
    for name, curve in curves.items():
        lines = [
            Line("best agent", "", 0, curve.steps, curve.middle),
            Line("lowest", "", 6, curve.steps, curve.low, kind="thin"),
            Line("highest", "", 6, curve.steps, curve.high, kind="thin"),
        ]
        log = "y" * _spans(np.concatenate([curve.low, curve.high]))
        made.append(chart(name, lines, "updates", log=log))
    return _side_by_side(made)


def _side_by_side(figures: Sequence[str]) -> str:
    """The figures in as many columns as there is room for."""
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def _lines(groups: Groups, metric: str, banded: bool = True) -> list[Line]:
    lines = [
        Line(group.name, f"g{color}", color, *group.curves[metric])
        for color, group in enumerate(groups)
        if metric in group.curves
    ]
    return lines if banded else [line._replace(low=None, high=None) for line in lines]


def _solving(groups: Groups) -> str:
    lines = []
    for color, group in enumerate(groups):
        steps = np.sort(group.solving[np.isfinite(group.solving)])
        if len(steps):
            share = np.arange(1, len(steps) + 1) / len(group.solving)
            places = np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))
            end = max(steps[-1], _steps(group)[-1])  # the slowest may need more than the average
            x = np.concatenate([[0], steps[places].repeat(2), [end]])  # stairs
            y = np.concatenate([[0, 0], share[places].repeat(2)])
            lines.append(Line(group.name, f"g{color}", color, x, y))
    return chart("share of seeds that have solved it", lines, _STEPS, percent=True)


def _finals(groups: Groups, levels: Sequence[Level]) -> str:
    lines = []
    for color, group in enumerate(groups):
        shown = np.flatnonzero(~np.isnan(group.returns))[:_DOTS]
        labels = [_seed_of(group, seed, groups) for seed in group.seeds[shown]]
        x, y = spread(len(shown), color), group.returns[shown]
        lines.append(Line(group.name, f"g{color}", color, x, y, kind="dots", labels=labels))
    names = [str(place) if len(groups) > 1 else "" for place in range(1, len(groups) + 1)]
    label = "in the legend's order" if len(groups) > 1 else "seeds"
    many = any(len(group.returns) > _DOTS for group in groups)
    title = f"greedy return at the end{f', {_DOTS} seeds' if many else ', by seed'}"
    return chart(title, lines, label, levels=levels, names=names)


def _heat(
    names: Sequence[str], axes: Sequence[Sequence[float]], grid: dict[Any, dict[str, Any]]
) -> str:
    """Interquartile means as a table in colors."""
    means = [row["iqm"] for row in grid.values() if row["iqm"] is not None]
    low, high = min(means, default=0), max(means, default=0)

    def cell(row: Row) -> str:
        heat = 0 if row["iqm"] is None else (row["iqm"] - low) / ((high - low) or 1)
        return f'<td style="--heat:{heat:.2f}" title="{interval(row)}">{number(row["iqm"])}</td>'

    head = "".join(f"<th>{value:.4g}</th>" for value in axes[1])
    body = "".join(
        f"<tr><th>{one:.4g}</th>{''.join(cell(grid[one, other]) for other in axes[1])}</tr>"
        for one in axes[0]
    )
    return (
        f"<p class='soft'>Interquartile mean of the greedy return; down {escape(names[0])}, across"
        f" {escape(names[1])}.</p><div class='scroll'><table class='heat'><tr><th></th>{head}</tr>"
        f"{body}</table></div>"
    )


def _margin(rows: Sequence[Row], name: str, alone: bool) -> str:
    """Final returns over one hyperparameter."""
    rows = sorted(rows, key=lambda row: row[name])
    columns = ([row[one] for row in rows] for one in (name, "iqm", "low", "high"))
    x, y, low, high = (np.array(column, float) for column in columns)  # None becomes NaN
    labels = [f"{name} {value:.4g}" for value in x]
    lines = [Line("setting", "", 0, x, y, kind="dots", labels=labels)]
    lines += [Line("interquartile mean", "", 0, x, y, low, high)] if alone else []
    return chart("greedy return", lines, name, log="x" * _spans(x))


def _spans(values: np.ndarray) -> bool:
    """Whether values span so much that a logarithmic axis shows them better."""
    return bool(values.min() > 0 and values.max() / values.min() > 20)


def _seed_of(group: Group, seed: float, groups: Groups) -> str:
    return f"{group.name}, seed {seed:.0f}" if len(groups) > 1 else f"seed {seed:.0f}"


def _steps(group: Group) -> np.ndarray:
    return group.curves["episode_return"].steps
