"""Reduces a run's metrics to the curves that a report draws, in NumPy: nothing compiles."""

import functools
from typing import NamedTuple

import numpy as np

POINTS = 100  # of a curve, at most
_RESAMPLES = 2000  # of the bootstrap; fewer where there are so many agents that it matters little
_FEWEST, _DRAWS = 200, 2_000_000


class Curve(NamedTuple):
    """A statistic over agents along training, [points] each; NaN where there is none."""

    steps: np.ndarray  # environment steps of an agent
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def binned(values: np.ndarray) -> np.ndarray:
    """Means over equal parts of training, [points, agents], of values [updates, agents]; NaN are
    left out."""
    known, edges = ~np.isnan(values), _edges(len(values))[:-1]
    counts = np.add.reduceat(known.astype(int), edges)
    sums = np.add.reduceat(np.where(known, values, 0), edges)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def ends(values: np.ndarray) -> np.ndarray:
    """The rows at the ends of these parts, [points, agents]."""
    return values[_edges(len(values))[1:] - 1]


def carried(values: np.ndarray) -> np.ndarray:
    """The values with each NaN replaced by the last value before it, down the first axis."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)


def interquartile(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interquartile means over agents, and the ends of their 95 % bootstrap intervals.

    values: [points, agents]; a NaN is left out. Returns three arrays [points]; no interval of one
    agent. As `statistics.stratified_bootstrap` says of one stratum, but without a sort for each
    resample: a resample is how often each of the ordered values was drawn, so that one draw and
    one product of matrices serve all points with as many values.
    """
    ordered, counts = np.sort(values, axis=1), (~np.isnan(values)).sum(axis=1)
    middle, low, high = np.full((3, len(values)), np.nan)
    for count in np.unique(counts[counts > 0]):
        at, own = counts == count, ordered[counts == count, :count]
        middle[at] = own @ _weights(np.ones((1, count)))[0]
        if count > 1:
            means = own.astype(np.float32) @ _resampled_weights(count)
            low[at], high[at] = np.quantile(means, [0.025, 0.975], axis=1)
    return middle, low, high


def _edges(updates: int) -> np.ndarray:
    return np.linspace(0, updates, min(POINTS, updates) + 1).astype(int)


@functools.lru_cache(maxsize=2)  # most metrics have values of all agents
def _resampled_weights(count: int) -> np.ndarray:
    """The weights of so many ordered values in resamples of them, [count, resamples]; the same in
    every report."""
    number = min(_RESAMPLES, max(_FEWEST, _DRAWS // count))
    drawn = np.random.default_rng(count).integers(count, size=(number, count))
    drawn += count * np.arange(number)[:, None]
    times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return _weights(times).T.astype(np.float32)


def _weights(times: np.ndarray) -> np.ndarray:
    """What each of n ordered values, drawn so many times, counts in the interquartile mean: its
    share of the middle half. [..., n]."""
    upto, count = times.cumsum(axis=-1), times.shape[-1]
    middle = np.minimum(upto, 0.75 * count) - np.maximum(upto - times, 0.25 * count)
    return middle.clip(0) / (count / 2)
