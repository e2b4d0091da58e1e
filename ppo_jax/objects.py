"""A user's own objects: environments, networks and optimizers by path, and in words."""

import importlib
import sys
import traceback
from typing import Any

_NOT_THE_USERS = {"ppo_jax", "jax", "jaxlib", "flax", "gymnax", "optax", "numpy"}


class NotImportedError(ValueError):
    """A user's own part is not where its path says, or no file can hold it."""


def load(path: str, field: str) -> Any:
    """The object at "package.module:name".

    Args:
        path: Its module is in the current folder, or installed.
        field: Of `Config`, for messages.

    Raises:
        NotImportedError: In one line, where there is none.
    """
    import jax  # here: names are needed where jax is not

    module, _, attribute = path.partition(":")
    try:
        with jax.ensure_compile_time_eval():  # inside a trace its constants would be tracers
            found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything
        raise NotImportedError(
            f"{field} {path!r} does not import ({explain(error)}); give package.module:name,"
            " from the current folder or installed"
        ) from error
    return found


def check_hashable(given: Any, field: str) -> None:
    """Check that an object can be hashed: compiled programs are kept by it.

    Args:
        field: Of `Config`, for messages.

    Raises:
        ValueError: In one line, with the part that cannot be hashed.
    """
    if _is_hashable(given):
        return
    parts = dict(given) if isinstance(given, tuple) else getattr(given, "__dict__", {})
    found = [
        f"its {part} is a {type(value).__name__}"
        for part, value in parts.items()
        if not part.startswith("_") and not _is_hashable(value)
    ]
    said = f"{field} {name(given)}" if field != "env_kwargs" else field
    raise ValueError(
        f"{said} cannot be hashed{': ' * bool(found)}{', '.join(found)}; compiled programs are kept"
        " by it, so give types that can, such as a tuple for a list"
    )


def _is_hashable(given: Any) -> bool:
    try:
        hash(given)
    except TypeError:
        return False
    return True


def name(given: Any) -> str:
    """An object in words: a name or path as it is, else the name of it or of its class."""
    if isinstance(given, str):
        return given
    return str(getattr(given, "__name__", type(given).__name__))


def describe(given: Any) -> Any:
    """What a field that may hold an object is in JSON: an object by the name of its class."""
    if given is None or isinstance(given, str):
        return given
    kind = given if isinstance(given, type) else type(given)
    return {"object": f"{kind.__module__}.{kind.__qualname__}"}


def first_line(error: Exception) -> str:
    """The first line of what an error says, without flax's link to its documentation."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" (https://flax")[0]


_REMEDIES = {  # of what a traced value is often taken for
    "TracerBoolConversionError": " Branch with jnp.where or jax.lax.cond.",
    "TracerArrayConversionError": "; use jax.numpy in place of numpy",
    "ConcretizationTypeError": "; keep it an array, without float() or int()",
}


def explain(error: Exception) -> str:
    """The first line of what a user's own code raised, and which line of that code it was."""
    said = first_line(error)
    said += _REMEDIES.get(type(error).__name__, "")
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module not in _NOT_THE_USERS | sys.stdlib_module_names:
            return f"{said} ({frame.f_code.co_filename}, line {line})"
    return said
