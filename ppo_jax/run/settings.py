"""--sweep, --search and --evolve, read: what varies between agents. Needs no jax."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.run.failure import Failure

Axes = dict[str, tuple[float, ...]]
Ranges = dict[str, tuple[str, float, float]]


def read(
    sweep: Iterable[str], search: Iterable[str], num_samples: int, config: Config
) -> tuple[Axes, Ranges]:
    """The grid's values and the search's ranges, by hyperparameter. Raises Failure (2)."""
    axes: Axes = {}
    ranges: Ranges = {}
    for text in sweep:
        name, values = _split("--sweep", text, "learning_rate=1e-4,3e-4", {**axes, **ranges})
        axes[name] = tuple(_number("--sweep", text, value) for value in values.split(","))
        _check(config, "--sweep", text, name, axes[name])
    for text in search:
        name, ranges[name] = _read_range("--search", text, {**axes, **ranges}, config)
    if ranges and num_samples < 1:
        raise Failure(f"--samples is {num_samples}; say how many settings --search draws")
    if num_samples and not ranges:
        raise Failure(f"--samples is {num_samples}, but there is no --search to draw them from")
    return axes, ranges


def read_evolve(
    evolve: Iterable[str], every: int, crossed: bool, num_seeds: int, config: Config
) -> Ranges:
    """The ranges of the hyperparameters that evolve; `crossed`: whether other flags make
    settings or groups. Raises Failure (2)."""
    ranges: Ranges = {}
    for text in evolve:
        name, ranges[name] = _read_range("--evolve", text, ranges, config)
    if ranges and crossed:
        raise Failure("--evolve goes with none of --sweep, --search and --group-size")
    if ranges and num_seeds < 4:
        raise Failure(f"--num-seeds is {num_seeds}; --evolve needs a population of at least 4")
    if ranges and every >= (config.num_updates or 0):
        raise Failure(
            f"--evolve-every is {every}, but the run has {config.num_updates} updates: there would"
            " be no second generation"
        )
    return ranges


def as_flags(saved: Mapping[str, Any]) -> tuple[str, ...]:
    """What config.json has of a sweep, a search or an evolution, as the flags that say it."""
    return tuple(
        f"{name}={(':' if isinstance(values[0], str) else ',').join(map(str, values))}"
        for name, values in saved.items()
    )


def count(axes: Mapping[str, tuple[float, ...]]) -> int:
    """Settings of the grid."""
    return math.prod(len(values) for values in axes.values())


def _split(flag: str, text: str, example: str, known: Mapping[str, Any]) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not values:
        raise Failure(f"{flag} {text!r} is not of the form {example}")
    if name in known:
        raise Failure(f"{flag} {text!r}: {name} varies twice; give all its values at once")
    return name, values


def _number(flag: str, text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise Failure(f"{flag} {text!r}: {value!r} is not a number") from None
    if math.isfinite(number) and abs(number) > float(np.finfo(np.float32).max):
        raise Failure(f"{flag} {text!r}: {value} is too large for float32")
    return number


def _read_range(
    flag: str, text: str, known: Mapping[str, Any], config: Config
) -> tuple[str, tuple[str, float, float]]:
    name, bounds = _split(flag, text, "learning_rate=log:1e-5:1e-2", known)
    scale, *ends = bounds.split(":")
    if scale not in ("log", "uniform") or len(ends) != 2:
        raise Failure(f"{flag} {text!r}: the range is not of the form log:LOW:HIGH or uniform:…")
    low, high = (_number(flag, text, end) for end in ends)
    if not low < high or (scale == "log" and low <= 0):
        raise Failure(f"{flag} {text!r}: LOW must be below HIGH, and above 0 for log")
    _check(config, flag, text, name, (low, high))
    return name, (scale, low, high)


def _check(config: Config, flag: str, text: str, name: str, values: tuple[float, ...]) -> None:
    try:
        with_hyperparameters(config, {name: np.array(values)})
    except ValueError as error:
        raise Failure(f"{flag} {text!r}: {error}") from error
