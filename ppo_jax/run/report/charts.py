"""Draws charts as HTML figures with an inline SVG each: functions of arrays, and nothing else.

The SVG holds what is drawn, stretched to the figure's width; the labels are HTML, so that they keep
their size on a phone. Every path carries its values for page.js, which shows them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from ppo_jax.run import console
from ppo_jax.run.console import number

_SIZE = 1000  # of the SVG's own coordinates, both ways
_COLORS = 8  # of page.css

Axis = Callable[[float], int]


class Line(NamedTuple):
    """A curve, with a band or without; or dots."""

    name: str
    keys: str  # what the legend's entries switch, separated by blanks
    color: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    kind: str = "line"  # or "thin" or "dots"
    labels: Sequence[str] = ()  # of dots


class Level(NamedTuple):
    """A horizontal line across a chart."""

    name: str
    y: float


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    levels: Sequence[Level] = (),
    log: str = "",
    percent: bool = False,
    names: Sequence[str] = (),
) -> str:
    """A figure with the lines over x; empty where none has a value.

    Args:
        levels: lines across.
        log: the axes that are logarithmic, of "xy".
        percent: whether values are fractions, to be shown as percentages, from 0 to 100.
        names: of whole numbers on the x axis, instead of the numbers.
    """
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return ""
    left, right = (-0.5, len(names) - 0.5) if names else _ends(lines, "x" in log)
    bottom, top = (-0.04, 1.04) if percent else _limits(lines, levels, "y" in log)
    x, y = _axis(left, right, "x" in log), _axis(top, bottom, "y" in log)
    y_ticks = _ticks(bottom, top, 5, "y" in log)
    x_ticks = list(range(len(names))) if names else _ticks(left, right, 4, "x" in log)
    shapes = [f'<path class="grid" d="M0 {y(tick)}H{_SIZE}"/>' for tick in y_ticks]
    shapes += [f'<path class="level" d="M0 {y(level.y)}H{_SIZE}"/>' for level in levels]
    for line in sorted(lines, key=lambda line: line.kind != "thin"):
        shapes += _shapes(line, x, y)
    form = console.percent if percent else number
    texts = [_text("y", f"top:{y(tick) / 10:g}%", form(tick)) for tick in y_ticks]
    texts += [
        _text("x", f"left:{x(tick) / 10:g}%", names[round(tick)] if names else number(tick))
        for tick in x_ticks
    ]
    for level, side in zip(levels, ("left", "right"), strict=False):  # they may be close
        below = " below" * (y(level.y) < _SIZE / 10)  # not in the title
        texts.append(_text(f"mark{below}", f"{side}:1%;top:{y(level.y) / 10:g}%", level.name))
    texts.append(_text("label", "", x_label))
    data = f'data-x="{left:.6g} {right:.6g}" data-unit="{escape(x_label)}"'
    data += " data-log" * ("x" in log) + " data-percent" * percent + " data-names" * bool(names)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}'
        f"{_cut_off(lines, bottom, top)}</figcaption>"
        f'<div class="plot" {data}><svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none"'
        f' role="img" aria-label="{escape(_describe(title, lines, x_label, form))}">'
        f"{''.join(shapes)}</svg>{''.join(texts)}</div></figure>"
    )


def spread(count: int, at: float) -> np.ndarray:
    """Places of so many dots within 0.35 of `at`, so that equal values do not cover each other."""
    return at + 0.7 * ((np.arange(count) * 0.618034 + 0.5) % 1 - 0.5)


def _axis(first: float, last: float, log: bool) -> Axis:
    """From values to the SVG's whole coordinates."""
    scaled = math.log if log else float
    length = scaled(last) - scaled(first)

    def place(value: float) -> int:
        at = _SIZE * (scaled(value) - scaled(first)) / length
        return round(min(max(at, -_SIZE), 2 * _SIZE))  # beyond is cut off anyway

    return place


def _shapes(line: Line, x: Axis, y: Axis) -> Iterator[str]:
    """What is drawn of a line: its band, then itself with its values."""
    known = np.flatnonzero(np.isfinite(line.y)).tolist()
    same = f'c{line.color % _COLORS}" data-keys="{escape(line.keys)}"'
    data = f'{same} data-name="{escape(line.name)}" data-y="{_numbers(line.y[known])}"'
    if line.low is not None and line.high is not None:
        low, high = line.low, line.high
        banded = [one for one in known if math.isfinite(low[one]) and math.isfinite(high[one])]
        if len(banded) > 1:
            upper = [f"{x(line.x[one])} {y(high[one])}" for one in banded]
            lower = [f"{x(line.x[one])} {y(low[one])}" for one in reversed(banded)]
            yield f'<path class="band {same} d="M{"L".join(upper + lower)}Z"/>'
        if banded == known:
            data += f' data-low="{_numbers(low[known])}" data-high="{_numbers(high[known])}"'
    if line.labels:
        data += f' data-labels="{escape("|".join(line.labels[one] for one in known))}"'
    places = [f"{x(line.x[one])} {y(line.y[one])}" for one in known]
    if line.kind == "dots":  # lines of no length, whose round ends no stretching makes oval
        shape = "".join(f"M{place}h0" for place in places)
    else:
        shape = f"M{'L'.join(places)}"
    yield f'<path class="{line.kind} {data} d="{shape}"/>'


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _text(kind: str, place: str, text: str) -> str:
    style = f' style="{place}"' if place else ""
    return f'<span class="{kind}"{style} aria-hidden="true">{escape(text)}</span>'


def _describe(title: str, lines: Sequence[Line], x_label: str, form: Callable[[float], str]) -> str:
    """The chart in words, for those who do not see it."""
    shown = [line for line in lines if line.kind != "thin"] or lines
    said = []
    for line in shown[:_COLORS]:
        known = line.y[np.isfinite(line.y)]
        if line.kind == "dots":
            said.append(f"{line.name} from {form(known.min())} to {form(known.max())}")
        else:
            said.append(f"{line.name} goes from {form(known[0])} to {form(known[-1])}")
    return f"{title} over {x_label}: {'; '.join(said)}"


def _ends(lines: Sequence[Line], log: bool) -> tuple[float, float]:
    """The ends of the x axis: zero where that is near, and room for dots at either end."""
    left, right = _range(np.concatenate([line.x[np.isfinite(line.y)] for line in lines]))
    if not log and 0 < left < (right - left) / 5:
        left = 0.0
    if right > left and any(line.kind == "dots" for line in lines):
        return _apart(left, right, log)
    if right > left:
        return left, right
    return (left / 2, right * 2) if log else (left - 0.5, right + 0.5)


def _limits(lines: Sequence[Line], levels: Sequence[Level], log: bool) -> tuple[float, float]:
    """The ends of the y axis: levels and dots are within; of curves 96 %, and what is no further
    from these than they are apart, so that an outlier does not flatten the rest."""
    curves = [line for line in lines if line.kind != "dots"]
    every = [edge for line in curves for edge in (line.y, line.low, line.high) if edge is not None]
    ends = [level.y for level in levels]
    ends += [end for line in lines if line.kind == "dots" for end in _range(line.y)]
    if every:
        values = np.concatenate(every)
        low, high = np.quantile(values[np.isfinite(values)], [0.02, 0.98]).tolist()
        room = (high - low) or math.inf
        ends += np.clip(_range(values), low - room, high + room).tolist()
    bottom, top = min(ends), max(ends)
    if bottom == top:
        return bottom - (0.5 * abs(bottom) or 1), top + (0.5 * abs(top) or 1)
    return _apart(bottom, top, log)


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return float(known.min()), float(known.max())


def _cut_off(lines: Sequence[Line], bottom: float, top: float) -> str:
    """Says in the title how far curves go beyond the ends of the y axis."""
    lowest, highest = _range(np.concatenate([line.y for line in lines]))
    beyond = [f"lowest {number(lowest)}"] * (lowest < bottom)
    beyond += [f"highest {number(highest)}"] * (highest > top)
    return f" <small>(cut off: {', '.join(beyond)})</small>" if beyond else ""


def _apart(low: float, high: float, log: bool) -> tuple[float, float]:
    """The ends, 4 % of their distance further apart."""
    if log:
        return low / (high / low) ** 0.04, high * (high / low) ** 0.04
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _ticks(low: float, high: float, about: int, log: bool) -> list[float]:
    """Round numbers, about so many, from `low` to `high`; powers of ten of a logarithmic axis that
    has two."""
    if log:
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        if len(powers) > 1:
            return [10.0**power for power in powers]
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]
