"""ppo-jax plan: says what a training would need, in memory and time."""

from collections.abc import Sequence

from ppo_jax.cli import train
from ppo_jax.run.errors import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the flags of `ppo-jax train`, plan it, and return the process's exit code."""
    return run_command(lambda given: train.start(given, "plan"), arguments)
