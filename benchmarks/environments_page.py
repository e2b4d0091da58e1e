"""Judges what `benchmarks.environments` measured, and writes its figure and its page."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.environments_reference import ROWS, SOURCES, WORLDS, Peer, Row

COLUMNS = 8  # of the figure
HEADER = (
    "row",
    "network",
    "steps",
    "seeds",
    "greedy",
    "sampled",
    "aim",
    "seeds that reach it",
    "verdict",
    "best possible",
    "regret",
    "published",
)
WORLDS_HEADER = (
    "row",
    "steps",
    "seeds",
    "random",
    "greedy",
    "sampled",
    "aim",
    "verdict",
    "best possible",
    "minutes",
    "published",
)
GYMNAX = tuple(row for row in ROWS if row not in WORLDS)
Records = dict[str, dict[str, Any]]


# Judging ------------------------------------------------------------------------------------------


def judge(row: Row, record: dict[str, Any]) -> dict[str, Any]:
    """What the row's aim and optimum say of a record: the fraction of the seeds that reach the aim,
    or are solved; met, missed, or no aim; and the regret. All by greedy returns. With what there is
    to reach, and what others have."""
    iqm, per_seed = record["greedy"]["iqm"], np.array(record["greedy"]["per_seed"])
    bar = row.aim if row.solved_at is None else row.solved_at
    reached = None if bar is None else float(np.mean(_is_reached(row, per_seed, bar)))
    verdict = "no aim"
    if row.aim is not None and reached is not None:
        met = bool(_is_reached(row, iqm, row.aim)) and reached >= row.fraction
        verdict = "met" if met else "missed"
    return {
        "aim": row.aim,
        "reached": reached,
        "verdict": verdict,
        "regret": None if row.best is None else float(f"{row.best.value - iqm:.6g}"),
        "best": row.best and dataclasses.asdict(row.best),
        "published": [dataclasses.asdict(peer) for peer in row.peers],
    }


def _is_reached(row: Row, returns: Any, bar: float) -> Any:
    return returns <= bar + row.slack if row.at_most else returns >= bar - row.slack


def sentence(row: Row, record: dict[str, Any]) -> str:
    """A record in words."""
    greedy, sampled = (_interval(record[name]) for name in ("greedy", "sampled"))
    verdict = "" if row.aim is None else f": {judge(row, record)['verdict']}"
    return f"greedy {greedy}, sampled {sampled}, {_aim(row)}{verdict}"


# The page -----------------------------------------------------------------------------------------


def write(records: Records, figure: Path, path: Path) -> None:
    """Write the figure, if there is anything to draw, and the page that shows it."""
    if records:
        draw(records, figure)
    link = os.path.relpath(figure, path.parent) if records else None
    path.write_text("\n".join(lines(records, link)) + "\n")


def lines(records: Records, figure: str | None) -> Iterator[str]:
    """The page, line by line."""
    yield "# Environments"
    yield ""
    yield from _introduction(records)
    yield ""
    yield from _table(HEADER, (_cells(row, records.get(row.name)) for row in GYMNAX))
    yield ""
    yield from _legend()
    yield from _worlds(records)
    if figure:
        yield ""
        yield "## Learning curves"
        yield ""
        yield f"![Learning curves of every row]({figure})"
        yield ""
        yield "Returns while training, of sampled actions: interquartile mean over seeds, and the"
        yield "band between the quartiles. Dashed is the aim, dotted the best possible return."
    yield from _missed(records)
    yield from _notes()
    yield from _reproducing(records)


def _table(header: tuple[str, ...], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def _worlds(records: Records) -> Iterator[str]:
    yield from ("", "## Worlds from elsewhere", "")
    yield "Environments of [other suites](how-to-environment.md#from-other-suites), by the same"
    yield "command where its package is installed. **random** is the return of uniformly drawn"
    yield "actions, continuous ones drawn from N(0, 1) and clipped. **minutes** are of training all"
    yield "seeds together and of compiling, on a machine that other programs used as well."
    yield ""
    measured = [row for row in WORLDS if row.name in records]
    yield from _table(WORLDS_HEADER, (_world_cells(row, records[row.name]) for row in measured))


def _world_cells(row: Row, record: dict[str, Any]) -> Iterator[str]:
    verdict = str(judge(row, record)["verdict"])
    yield row.name
    yield f"{record['steps']:,}"
    yield str(record["experiment"]["agents"]["num_seeds"])
    yield from (_interval(record[name]) for name in ("random", "greedy", "sampled"))
    yield _aim(row) if row.aim is not None else "–"
    yield f"**{verdict}**" if verdict == "missed" else verdict
    yield _best(row)
    train, compiling = record["train_seconds"] / 60, record["compile_seconds"] / 60
    yield f"{train:.1f} + {compiling:.1f}"
    yield "; ".join(map(_peer, row.peers)) or "–"


def _introduction(records: Records) -> Iterator[str]:
    rows = [row for row in GYMNAX if row.name in records]
    verdicts = [judge(row, records[row.name])["verdict"] for row in rows]
    measurable = sum(not row.impossible for row in GYMNAX)
    yield "Every environment of gymnax's registry and `CartPoleNoVelocity-v1`, trained with the"
    yield "recipe `fast` (`python -m benchmarks environments`, which writes this page)."
    yield (
        f"{len(rows)} of {measurable} rows are measured;"
        f" {verdicts.count('met')} aims are met, {verdicts.count('missed')} missed."
    )
    yield "SimpleBandit pays every policy 0.5, so there is nothing to learn, and MNISTBandit cannot"
    yield "be made offline."


def _cells(row: Row, record: dict[str, Any] | None) -> Iterator[str]:
    yield row.name
    if record is None:
        yield from ("", "", "", "cannot be made" if row.impossible else "not measured", "")
    else:
        algorithm, agents = (record["experiment"][name] for name in ("algorithm", "agents"))
        yield str(algorithm["network"])
        yield f"{record['steps']:,}"
        yield str(agents["num_seeds"])
        yield _interval(record["greedy"])
        yield _interval(record["sampled"])
    yield _aim(row) if row.aim is not None or row.solved_at is not None else "–"
    judged = judge(row, record) if record else {}
    reached, verdict = judged.get("reached"), str(judged.get("verdict", ""))
    yield "–" if reached is None else _percent(reached)
    yield f"**{verdict}**" if verdict == "missed" else verdict
    yield _best(row)
    yield _number(judged.get("regret"))
    yield "; ".join(map(_peer, row.peers)) or "–"


def _aim(row: Row) -> str:
    sign = "≤" if row.at_most else "≥"
    said = f"{sign} {_number(row.aim)}" if row.aim is not None else "no aim"
    if row.solved_at is not None:
        said += f"; solved {sign} {_number(row.solved_at)}"
    return said + (f" on {_percent(row.fraction)} of seeds" if row.fraction else "")


def _best(row: Row) -> str:
    if row.best is None:
        return "unknown"
    sign = {"optimum": "", "bound": "≤ ", "best known": "≈ "}[row.best.kind]
    return f"{sign}{_number(row.best.value)}"


def _peer(peer: Peer) -> str:
    steps = "" if peer.steps is None else f"{_short(peer.steps)}, "
    return f"{peer.who} {peer.value} ({steps}{peer.source})"


def _legend() -> Iterator[str]:
    yield "- **greedy**, **sampled**: interquartile mean over seeds of each seed's mean return,"
    yield "  with the 95 % interval of a bootstrap over seeds. Episodes of each seed's evaluation:"
    yield f"  {_episodes()}. The verdict is by the greedy returns."
    yield "- **seeds that reach it**: the fraction of seeds at the aim, or where the row says from"
    yield "  which return a seed is solved, at that one."
    yield "- **best possible**: the optimum; ≤, what no policy exceeds; ≈, the best return that we"
    yield "  know of. **regret** is how far greedy is from it; below 0 it is better than that."
    yield "- **published**: the best results that we know with at most the row's steps, and PPO's"
    yield "  beside them; on MinAtar with more, for nothing is published at 2 million. Sources:"
    for name, text in SOURCES.items():
        yield f"    - {name}: {text}"


def _episodes() -> str:
    usual = Row("").episodes
    others: dict[int, list[str]] = {}
    for row in ROWS:
        others.setdefault(row.episodes, []).append(row.name)
    del others[usual]
    named = [f"{number:,} for {_names(names)}" for number, names in sorted(others.items())]
    return f"{usual}; {'; '.join(named)}"


def _names(names: list[str]) -> str:
    minatar = [name for name in names if "MinAtar" in name]
    return ", ".join([*(["MinAtar"] if minatar else []), *(n for n in names if n not in minatar)])


def _missed(records: Records) -> Iterator[str]:
    missed = [
        row
        for row in ROWS
        if row.name in records and judge(row, records[row.name])["verdict"] == "missed"
    ]
    if missed:
        yield from ("", "## Missed, and what was tried", "")
    for row in missed:
        judged = judge(row, records[row.name])
        yield (
            f"- **{row.name}**: {_interval(records[row.name]['greedy'])} where the aim is"
            f" {_aim(row)}; {_percent(judged['reached'])} of the seeds reach it. "
            + (row.tried or "Nothing else was tried yet.")
        )


def _notes() -> Iterator[str]:
    yield from ("", "## Notes", "")
    for row in ROWS:
        source = "" if row.best is None else f"{row.best.kind}: {row.best.source}"
        said = "; ".join(filter(None, (row.impossible, row.note, source)))
        if said:
            yield f"- {row.name}: {said}."


def _reproducing(records: Records) -> Iterator[str]:
    yield from ("", "## Reproduce it", "")
    yield "`python -m benchmarks environments` measures what is not measured yet, or with other"
    yield "settings; it can be interrupted, and the same command goes on. `python -m benchmarks"
    yield "environments Acrobot-v1` measures the rows of one environment, and `--page` only writes"
    yield "this page again. `ppo-jax evaluate runs/environments/ROW --episodes 128`, with and"
    yield "without `--sampled`, plays the same episodes. The data, with every seed's returns, the"
    yield "whole configuration and the machine, are in `benchmarks/results/environments.json`."
    if not records:
        return
    total = sum(record["train_seconds"] for record in records.values())
    machines = sorted({record["setting"]["processor"] for record in records.values()})
    yield f"Training took {total / 3600:.1f} hours in all on {'; '.join(machines)}."
    yield "The trainings, one by one:"
    yield ""
    yield "```bash"
    for row in ROWS:
        if row.name in records:
            yield records[row.name]["command"]
    yield "```"


# Numbers ------------------------------------------------------------------------------------------


def _interval(values: dict[str, Any]) -> str:
    low, high = (_number(values[name]) for name in ("low", "high"))
    return f"{_number(values['iqm'])} [{low}, {high}]"


def _number(value: float | None) -> str:
    """Four digits; what rounds to 0 has no sign."""
    return "–" if value is None else f"{round(value, 4) + 0.0:.4g}"


def _percent(fraction: float) -> str:
    return f"{fraction:.0%}".replace("%", " %")


def _short(steps: int) -> str:
    return f"{steps / 1e6:g} M" if steps >= 1_000_000 else f"{steps / 1e3:g} k"


# The figure ---------------------------------------------------------------------------------------


def draw(records: Records, path: Path) -> None:
    """A panel a row: the curve over seeds while training, the aim and the best possible return."""
    rows = [row for row in ROWS if row.name in records]
    width = min(COLUMNS, len(rows))
    height = -(-len(rows) // width)
    figure, axes = plt.subplots(
        height,
        width,
        figsize=(2.1 * width + 0.3, 1.8 * height + 0.3),
        layout="constrained",
        squeeze=False,
    )
    for panel in axes.flat[len(rows) :]:
        panel.set_axis_off()
    for panel, row in zip(axes.flat, rows, strict=False):
        _draw_row(panel, row, records[row.name]["curve"])
    figure.supxlabel("thousand environment steps", fontsize=9)
    figure.supylabel("return while training", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_row(panel: Any, row: Row, curve: dict[str, Any]) -> None:
    steps = np.array(curve["steps"]) / 1000
    iqm, low, high = (np.array(curve[key], float) for key in ("iqm", "low", "high"))
    panel.plot(steps, iqm, color="tab:blue", linewidth=1.2)
    panel.fill_between(steps, low, high, color="tab:blue", alpha=0.2, linewidth=0)
    if row.aim is not None:
        panel.axhline(row.aim, color="tab:red", linewidth=0.9, linestyle="--")
    if row.best is not None and row.best.value != row.aim:
        panel.axhline(row.best.value, color="black", linewidth=0.8, linestyle=":")
    panel.set_title(row.name.rpartition("::")[2], fontsize=8)
    panel.set_xlim(0, steps[-1])
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
