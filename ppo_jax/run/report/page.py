"""Writes the page of a report: what `data` reads, in sections of figures and tables."""

import base64
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ppo_jax import statistics
from ppo_jax.run import ranking
from ppo_jax.run.console import counted, number, percent
from ppo_jax.run.ranking import interval, probability
from ppo_jax.run.report import figures
from ppo_jax.run.report.charts import Level
from ppo_jax.run.report.data import Group, Run, differences, options, shown
from ppo_jax.run.report.figures import side_by_side
from ppo_jax.run.storage import folder

_FRAMES, _EVERY, _FRAME_WIDTH = 4, 10, 240  # of the film
_ROWS = 100  # of a ranking, at most


def one_run(run: Run) -> str:
    """The report of a run."""
    agents, summary, settings = run.description["agents"], run.summary, run.table.num_settings
    title = f"{run.env} · {agents['recipe']}"
    size = counted(agents["num_seeds"], "seed")
    size += f" × {settings:,} settings" * (settings > 1) + f", {run.updates:,} updates"
    badges = ["not finished"] * (not summary.get("finished"))
    diverged = len(summary.get("diverged_seeds", ()))
    badges += [f"{diverged:,} of {len(run.table):,} agents diverged"] * bool(diverged)
    head = f"<h1>{escape(title)}</h1><p class='soft'>{size}</p>"
    head += "".join(f'<span class="badge">{badge}</span>' for badge in badges) + _tiles(run)
    best = [Level(f"{run.best.kind} {run.best.value:g}", run.best.value)] if run.best else []
    note = f"{len(run.groups)} of {settings:,} settings drawn: the default and the best."
    parts = [head, *_results(run.groups, run.solved_at, best, note * (len(run.groups) < settings))]
    parts += [_ranking(run), _evolution(run), _film(run.path), _configuration(run), _machine(run)]
    return _render(title, parts)


def several_runs(runs: Sequence[Run]) -> str:
    """The comparison of runs, each by its best setting, with the first of them."""
    title, names = f"{runs[0].env}: {len(runs)} runs", [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    swept = [run.table.num_settings > 1 for run in runs]
    groups = [
        run.groups[0]._replace(name=name + f": {run.groups[0].name}" * several)
        for run, name, several in zip(runs, names, swept, strict=True)
    ]
    header = ["run", "seeds", "greedy return", "95 % interval", "solved", "steps to solve"]
    header += ["steps/s", f"P(better than {names[0]})"]
    rows = [_compared(run, group.name, runs[0]) for run, group in zip(runs, groups, strict=True)]
    note = "<p class='soft'>Of a sweep its best setting is shown.</p>" * any(swept)
    options_of = [{name: shown(value) for _, name, value in options(run)} for run in runs]
    different = [
        [name, *(own[name] for own in options_of)]
        for name in options_of[0]
        if len({own[name] for own in options_of}) > 1
    ]
    return _render(
        title,
        [
            f"<h1>{escape(title)}</h1>{_table(header, rows)}{note}",
            *_results(groups, runs[0].solved_at, [], ""),
            f"<h2>Options that differ</h2>{_table(['option', *names], different, 'words')}",
        ],
    )


# Sections -----------------------------------------------------------------------------------------


def _tiles(run: Run) -> str:
    """The numbers that come first, each with its name and a note."""
    tiles = (
        f"<div><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(note)}</span></div>"
        for name, value, note in _facts(run)
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _facts(run: Run) -> Iterator[tuple[str, str, str]]:
    summary, group, row = run.summary, run.groups[0], run.rows[0] if run.rows else None
    best = " of the best setting" if run.table.num_settings > 1 else ""
    value = _final(run)
    if value is not None:
        note = f"mean of {summary['eval_episodes']:,} episodes{best}"
        if row and row["seeds"] > 1:
            note = f"95 %: {interval(row)}; interquartile mean of the seeds{best}"
        yield "greedy return", number(value), note
    if len(group.returns) and run.solved_at is not None:
        solved, count = int((group.returns >= run.solved_at).sum()), len(group.returns)
        note = f"{solved:,} of {count:,} seeds{best} at {run.solved_at:g}"
        yield "solved", percent(solved / count), note
    if np.isfinite(group.solving).any():
        low, middle, high = map(number, _quartiles(group.solving))
        note = f"of an agent; quartiles {low} and {high}" if len(group.solving) > 1 else ""
        yield "steps to solve", middle, note
    if value is not None and run.best is not None:
        kind = "bound, which no policy exceeds:" if run.best.kind == "bound" else run.best.kind
        yield "regret", f"{run.best.value - value:.4g}", f"to the {kind} {run.best.value:g}"
    if summary.get("steps_per_second"):
        note = f"{number(summary['env_steps'])} in {summary['train_seconds']:.3g} s, after"
        note += f" {summary['compile_seconds']:.3g} s of compiling"
        yield "steps per second", number(summary["steps_per_second"]), note


def _results(
    groups: Sequence[Group], solved_at: float | None, best: list[Level], note: str
) -> Iterator[str]:
    """Learning curves with their legend, how and when agents solved, returns, and diagnostics."""
    levels = [] if solved_at is None else [Level(f"solved at {solved_at:g}", solved_at)]
    curve = figures.learning(groups, levels)
    drawn, seeds = sum(g.lines.shape[1] for g in groups), sum(len(g.seeds) for g in groups)
    if seeds > len(groups):
        some = f"{drawn:,} of {seeds:,} seeds" if drawn < seeds else "each seed"
        some += ", which the legend switches on" * (len(groups) > figures.FEW)
        note = f"Interquartile mean, its 95 % bootstrap interval, and {some}. {note}"
    if curve:
        yield f"<h2>Learning</h2>{figures.legend(groups)}{side_by_side([curve])}"
        yield f"<p class='soft'>{note}</p>"
    else:
        yield "<h2>Learning</h2><p>There are no curves.</p>"
    yield side_by_side(figures.results(groups, levels + best))
    found = side_by_side(figures.diagnostics(groups))
    yield f"<h2>Diagnostics</h2>{found}" if found else ""


def _ranking(run: Run) -> str:
    names = list(run.table.values)
    if not run.rows or not names:
        return ""
    left = len(run.rows) - _ROWS
    more = f"<p class='soft'>and {left:,} more in {folder.SWEEP}</p>" if left > 0 else ""
    charts = figures.settings(run.rows, names)
    return f"<h2>Settings</h2>{charts}{_table(*ranking.shown(run.rows[:_ROWS], names))}{more}"


def _evolution(run: Run) -> str:
    found = side_by_side(figures.evolution(run.evolution))
    note = "The agent of the best fitness, and the lowest and the highest of the population."
    return f"<h2>Evolution</h2><p class='soft'>{note}</p>{found}" if found else ""


def _film(path: Path) -> str:
    """The first frames of the run's film, if there is one, as small pictures."""
    if not (path / folder.FILM).exists():
        return ""
    from PIL import Image

    pictures = []
    with Image.open(path / folder.FILM) as film:
        for place in range(getattr(film, "n_frames", 1))[: _FRAMES * _EVERY : _EVERY]:
            film.seek(place)
            picture, content = film.convert("RGB"), io.BytesIO()
            picture.thumbnail((_FRAME_WIDTH, _FRAME_WIDTH))
            picture.quantize(64).save(content, "PNG", optimize=True)
            data = base64.b64encode(content.getvalue()).decode()
            picture_of = f"frame {place} of the run's film"
            pictures.append(f'<img alt="{picture_of}" src="data:image/png;base64,{data}">')
    return f"<h2>Film</h2><div class='film'>{''.join(pictures)}</div>"


def _configuration(run: Run) -> str:
    recipe, changed = run.description["agents"]["recipe"], differences(run)
    usual = "the defaults" if recipe == "custom" else f"the recipe {recipe}"
    all_options = [[name, shown(value)] for _, name, value in options(run)]
    return (
        f"<h2>Configuration</h2><p>Different from {usual}:{'' if changed else ' nothing'}</p>"
        f"{_table(['option', 'here', usual], changed, 'words') if changed else ''}"
        "<details><summary>All options</summary>"
        f"{_table(['option', 'value'], all_options, 'words')}</details>"
    )


def _machine(run: Run) -> str:
    """On what it ran, and the command that does it again."""
    summary = run.summary
    versions = summary.get("versions") or run.description["versions"]
    facts = [["versions", ", ".join(f"{name} {version}" for name, version in versions.items())]]
    names = ("device", "machine", "processes", "state_sha256")
    facts += [[name, str(summary[name])] for name in names if name in summary]
    again = escape(f"ppo-jax train --config {shlex.quote(str(run.path / folder.CONFIG))}")
    return (
        f"<h2>Machine</h2>{_table(['', ''], facts, 'words')}<p>Run it again:"
        f" <code>{again}</code></p>"
    )


def _compared(run: Run, name: str, first: Run) -> list[str]:
    group, solved = run.groups[0], None
    if len(group.returns) and run.solved_at is not None:
        solved = float((group.returns >= run.solved_at).mean())
    return [
        name,
        f"{run.description['agents']['num_seeds']:,}",
        number(_final(run)),
        interval(run.rows[0]) if run.rows else "–",
        percent(solved),
        number(_quartiles(group.solving)[1] if len(group.solving) else None),
        number(run.summary.get("steps_per_second")),
        probability(None if run is first else _improvement(group, first.groups[0])),
    ]


def _improvement(group: Group, first: Group) -> float | None:
    """How probably an agent has a higher return than one of the first group."""
    returns = group.returns, first.returns
    if not all(map(len, returns)):
        return None
    scores = (np.where(np.isnan(one), -np.inf, one) for one in returns)  # diverged: the worst
    return float(statistics.probability_of_improvement(*map(jnp.asarray, scores)))


# Parts --------------------------------------------------------------------------------------------


def _render(title: str, sections: Sequence[str]) -> str:
    """The page, with its style and its script inside."""
    here = resources.files(__package__)
    parts = {one: here.joinpath(f"page.{one}").read_text("utf-8") for one in ("html", "css", "js")}
    parts |= {"title": escape(title), "body": "\n".join(filter(None, sections))}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], parts["html"])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(one)}</td>' for one in row)}</tr>" for row in rows)
    head = f"<tr>{head}</tr>" if any(header) else ""
    return f'<div class="scroll"><table class="{kind}">{head}{body}</table></div>'


def _final(run: Run) -> float | None:
    """The run's greedy return: of several agents the interquartile mean, of the best setting."""
    if run.rows:
        return run.rows[0]["iqm"]
    known = run.groups[0].returns[~np.isnan(run.groups[0].returns)]
    return float(known[0]) if known.size else None


def _quartiles(steps: np.ndarray) -> np.ndarray:
    """Order statistics, as `statistics.quantiles_of_solving`: infinite where too few solved."""
    return np.quantile(steps, [0.25, 0.5, 0.75], method="inverted_cdf")
