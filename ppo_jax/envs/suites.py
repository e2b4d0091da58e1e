"""Environments of other packages, named "suite::id"; each suite's adapter is a file beside this."""

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax

# What is imported for each suite; its extra has the suite's name. All others are jax-envelope's.
PACKAGES = {
    "brax": "brax",
    "craftax": "craftax",
    "jumanji": "jumanji",
    "navix": "navix",
    "playground": "mujoco_playground",
}


def is_installed(suite: str) -> bool:
    """Whether the package of a suite can be imported, which is not tried."""
    return find_spec(PACKAGES.get(suite, "envelope")) is not None


def names(suite: str) -> list[str]:
    """The ids of a suite, without its name. Raises ValueError, in one line, where its package is
    absent, or there is no such suite."""
    return sorted(_adapter(suite).names(suite))


def find(name: str) -> Callable[..., Any]:
    """The function that makes the environment "suite::id" of its arguments.

    Raises ValueError, in one line, for an unknown suite or id, or where the package is absent.
    """
    suite, _, identifier = name.partition("::")
    known = names(suite)
    if known and identifier not in known:
        raise ValueError(f"environment {name!r} is unknown to {suite}; {_near(identifier, known)}")
    return partial(_adapter(suite).make, name if suite not in PACKAGES else identifier)


def _adapter(suite: str) -> Any:
    kind = suite if suite in PACKAGES else "envelope"
    if not is_installed(suite):
        late = kind in ("navix", "envelope") and sys.version_info < (3, 12)
        remedy = f"pip install 'ppo-jax[{kind}]'{', on Python 3.12 or later' * late}"
        if kind == "envelope":
            raise ValueError(
                f"there is no adapter for the suite {suite!r}, only for {', '.join(PACKAGES)};"
                f" jax-envelope may have one: {remedy}"
            )
        raise ValueError(f"the environments of {suite} need its package: {remedy}")
    with jax.ensure_compile_time_eval():  # arrays of its modules must be no tracers
        return importlib.import_module(f"ppo_jax.envs.{kind}_suite")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"near it: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
