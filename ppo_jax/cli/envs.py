"""ppo-jax envs: lists the environments and their spaces."""

import dataclasses

from ppo_jax.cli import flags
from ppo_jax.run.console import Console


@dataclasses.dataclass(frozen=True)
class Options:
    """List the environments that train by name: their spaces, time limit, and the mean return from
    which they count as solved."""

    debug: bool = False
    """Print the traceback of an error."""


def main(arguments: list[str]) -> int:
    """Print the table, and return the process's exit code."""
    flags.parse(Options, arguments, "envs")
    from ppo_jax import env  # gymnax: seconds

    header = ["environment", "observation", "action", "steps", "solved at"]
    rows = [_row(name) for name in env.names()]
    Console(quiet=False).table(f"{len(rows)} environments", header, rows)
    return 0


def _row(name: str) -> list[str]:
    from ppo_jax import Config, env, spaces

    try:
        made = env.make(Config(env=name))
    except ValueError:  # its data set or another package is absent
        return [name, "cannot be made here", "", "", ""]
    described = map(spaces.describe, (made.observation_space, made.action_space))
    solved = f"{env.SOLVED_AT[name]:g}" if name in env.SOLVED_AT else "–"
    return [name, *described, f"{made.max_episode_steps:,}", solved]
