"""ppo-jax envs: lists the environments, their spaces and recipes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ppo_jax.cli import flags
from ppo_jax.run.console import Console
from ppo_jax.run.errors import run_command


@dataclasses.dataclass(frozen=True)
class Options:
    """List the environments that train by name: their spaces, the recipe that `fast` has for them,
    and the mean return from which they count as solved."""

    debug: bool = False
    """Print the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and return the process's exit code."""
    return run_command(_main, arguments)


def _main(arguments: list[str]) -> int:
    flags.parse(Options, arguments, "envs")
    flags.check_versions()
    from ppo_jax import env  # gymnax: seconds

    header = ["environment", "observation", "action", "steps", "recipe", "solved at"]
    rows = [_row(name) for name in env.names()]
    Console(quiet=False).table(f"{len(rows)} environments", header, rows)
    return 0


def _row(name: str) -> list[str]:
    from ppo_jax import Config, env
    from ppo_jax.recipes import FAST

    config = Config(env=name)
    try:
        made = env.make(config)
    except ValueError as error:
        return [name, "–", "–", "–", "–", str(error).partition(";")[0]]
    return [
        name,
        _describe(made.observation_space),
        _describe(made.action_space),
        f"{made.max_episode_steps:,}",
        "tuned" if name in FAST else "general",
        f"{env.SOLVED_AT[name]:g}" if name in env.SOLVED_AT else "–",
    ]


def _describe(space: Any) -> str:
    """A space in one short text."""
    kind = type(space).__name__
    inner = getattr(space, "n", getattr(space, "nvec", getattr(space, "shape", "")))
    return f"{kind}{inner}" if isinstance(inner, tuple) else f"{kind}({inner})"
