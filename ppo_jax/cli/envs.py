"""ppo-jax envs: lists the environments and their spaces, and the suites of other packages."""

import dataclasses
from typing import Annotated

import tyro

from ppo_jax.cli import flags
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """List the environments that train by name: their spaces, time limit, and the mean return from
    which they count as solved."""

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None
    """A suite of another package, such as brax, for its environments' names, or one environment,
    such as brax::ant. Without it the environments of gymnax are listed, and the suites."""
    debug: bool = False
    """Print the traceback of an error."""


def main(arguments: list[str]) -> None:
    """Print the table."""
    asked = flags.parse(Options, arguments, "envs").name
    from ppo_jax import env  # gymnax: seconds
    from ppo_jax.envs import suites

    console = Console(quiet=False)
    header = ["environment", "observation", "action", "steps", "solved at"]
    try:
        if asked in suites.PACKAGES:
            names = [[f"{asked}::{name}"] for name in suites.names(asked)]
            console.table(f"{len(names)} environments of {asked}", header[:1], names)
        elif asked:
            console.table(asked, header, [_row(asked)])
        else:
            rows = [_row_of_many(name) for name in env.names()]
            console.table(f"{len(rows)} environments", header, rows)
            others = [
                [suite, "yes" if suites.is_installed(suite) else f"no (the extra {suite})"]
                for suite in [*suites.PACKAGES, "envelope"]
            ]
            note = "their environments are SUITE::ID; ppo-jax envs SUITE lists them"
            console.table("Suites of other packages", ["suite", "installed"], others, note)
    except (ValueError, ImportError) as error:
        raise InputError(str(error)) from error


def _row(name: str) -> list[str]:
    from ppo_jax import env, recipe, spaces

    made = env.make(recipe(env=name))
    described = map(spaces.describe, (made.observation_space, made.action_space))
    solved = f"{env.SOLVED_AT[name]:g}" if name in env.SOLVED_AT else "–"
    return [name, *described, f"{made.max_episode_steps:,}", solved]


def _row_of_many(name: str) -> list[str]:
    try:
        return _row(name)
    except ValueError:  # its data set or another package is absent
        return [name, "cannot be made here", "", "", ""]
