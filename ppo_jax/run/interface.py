"""Trains from Python what the command line trains."""

import os
from collections.abc import Sequence
from typing import Any

from ppo_jax.config import OBJECTS, Config
from ppo_jax.run import pipeline, saved, xla
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import CUSTOM, Experiment
from ppo_jax.run.saved import Run
from ppo_jax.run.storage import folder


def train(
    config: Config,
    *,
    num_seeds: int = 1,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    hooks: Sequence[Any] = (),
    **flags: Any,
) -> Run:
    """Train, save and load a run, as `ppo-jax train` does; quiet, unless told otherwise.

    Args:
        config: Of every agent; `sweep` and `evolve` among the flags make them differ.
        num_seeds: The number of agents, for each setting of a sweep.
        seed: Agent i has the key of seed + i.
        out: The folder for the results; None is a fresh one under runs/.
        hooks: Called between chunks of updates; each has a method at_boundary(batch).
        flags: Any other option of `ppo-jax train --help`, with underscores.

    Returns:
        What `load(out)` returns.

    Raises:
        ValueError: For bad input, or a hook that raised.
        OSError: For what the file system refuses.
        RuntimeError: Where a device fails or every agent diverged.
        KeyboardInterrupt: After a signal.
    """
    if not isinstance(config, Config):
        raise InputError(
            f"config is a {type(config).__name__}; give a Config, such as recipe('fast')"
        )
    if not isinstance(hooks, Sequence):
        raise InputError(f"hooks is a {type(hooks).__name__}; give a list of hooks")
    named = {"num_seeds": num_seeds, "seed": seed, "out": out}
    options = {"recipe": CUSTOM, "quiet": True, **flags, **named}
    for name, value in options.items():  # as its flag has it: paths are text, lists are tuples
        if isinstance(value, os.PathLike):
            options[name] = os.fspath(value)
        elif isinstance(value, list):
            options[name] = tuple(value)
    experiment = Experiment(config.check()).replace(**options).check()
    path = folder.choose(out, experiment.label)
    with xla.compilation_cache(experiment.machine.compilation_cache):
        pipeline.run(experiment, path, Console(experiment.console.quiet), hooks)
    return saved.load(path, **{name: getattr(config, name) for name in OBJECTS})
