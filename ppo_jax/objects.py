"""A user's own objects: environments, networks and optimizers by path, and in words."""

import importlib
from typing import Any


def load(path: str, field: str) -> Any:
    """The object at "package.module:name". Raises ValueError, in one line, where there is none."""
    module, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"{field} {path!r} does not import ({first_line(error)}); give package.module:name,"
            " from the current folder or installed"
        ) from error
    return found


def name(given: Any) -> str:
    """An object in words: a name or path as it is, else the name of it or of its class."""
    if isinstance(given, str):
        return given
    return str(getattr(given, "__name__", type(given).__name__))


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
