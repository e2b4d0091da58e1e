"""What varies between agents, as --sweep, --search and --evolve say it. Needs no jax."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.run.errors import InputError

Axes = dict[str, tuple[float, ...]]
Ranges = dict[str, tuple[str, float, float]]


def read_grid(sweep: Iterable[str], config: Config) -> Axes:
    """The values of each hyperparameter in a grid. Raises InputError."""
    axes: Axes = {}
    for text in sweep:
        name, values = _split("--sweep", text, "learning_rate=1e-4,3e-4", axes)
        axes[name] = tuple(_number("--sweep", text, value) for value in values.split(","))
        _check(config, "--sweep", text, name, axes[name])
    return axes


def read_ranges(flag: str, ranges: Iterable[str], config: Config) -> Ranges:
    """The range of each hyperparameter that a search or an evolution draws. Raises InputError."""
    found: Ranges = {}
    for text in ranges:
        name, bounds = _split(flag, text, "learning_rate=log:1e-5:1e-2", found)
        scale, *ends = bounds.split(":")
        if scale not in ("log", "uniform") or len(ends) != 2:
            raise InputError(
                f"{flag} {text!r}: the range is not of the form log:LOW:HIGH or uniform:…"
            )
        low, high = (_number(flag, text, end) for end in ends)
        if not low < high or (scale == "log" and low <= 0):
            raise InputError(f"{flag} {text!r}: LOW must be below HIGH, and above 0 for log")
        _check(config, flag, text, name, (low, high))
        found[name] = (scale, low, high)
    return found


def to_flags(read: Mapping[str, Any]) -> tuple[str, ...]:
    """A grid or ranges as the flags that say them, in one spelling."""
    return tuple(
        f"{name}={(':' if isinstance(values[0], str) else ',').join(map(str, values))}"
        for name, values in read.items()
    )


def _split(flag: str, text: str, example: str, known: Mapping[str, Any]) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not values:
        raise InputError(f"{flag} {text!r} is not of the form {example}")
    if name in known:
        raise InputError(f"{flag} {text!r}: {name} varies twice; give all its values at once")
    return name, values


def _number(flag: str, text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{flag} {text!r}: {value!r} is not a number") from None


def _check(config: Config, flag: str, text: str, name: str, values: tuple[float, ...]) -> None:
    try:
        with_hyperparameters(config, {name: np.array(values)})
    except ValueError as error:
        raise InputError(f"{flag} {text!r}: {error}") from error
