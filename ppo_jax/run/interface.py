"""Trains from Python what the command line trains."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

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
    options = _as_flags({"recipe": CUSTOM, "quiet": True, **flags, **named})
    experiment = Experiment(_with_numbers(config.check())).replace(**options).check()
    _check_can_train(experiment)
    path = folder.choose(out, experiment.label)
    with xla.compilation_cache(experiment.machine.compilation_cache):
        pipeline.run(experiment, path, Console(experiment.console.quiet), hooks)
    return saved.load(path, **{name: getattr(config, name) for name in OBJECTS})


def _check_can_train(experiment: Experiment) -> None:
    """Raise InputError for flags that only a command can follow."""
    if experiment.console.plan:
        raise InputError("plan=True trains nothing; leave it out, or run ppo-jax plan")
    if experiment.machine.distributed and not jax.distributed.is_initialized():
        raise InputError(
            "distributed=True needs jax.distributed.initialize(...) before jax is used; call it in"
            " each process, or run ppo-jax train --distributed"
        )


def _with_numbers(config: Config) -> Config:
    """The configuration as its file will have it. Raises InputError for an array."""
    fields = {name: _as_flags(one) for name, one in vars(config).items() if name not in OBJECTS}
    for name, value in {**fields, **fields["env_params"]}.items():
        if isinstance(value, (np.ndarray, jax.Array)):
            raise InputError(
                f"{name} is an array of {value.size} values, and a run has one; with"
                f" sweep=['{name}=1,2'] its agents differ"
            )
    return config.replace(**fields)


def _as_flags(value: Any) -> Any:
    """A value as its flag has it: paths are text, lists tuples, and numbers Python's own."""
    match value:
        case os.PathLike():
            return os.fspath(value)
        case list() | tuple():
            return tuple(map(_as_flags, value))
        case Mapping():
            return {name: _as_flags(one) for name, one in value.items()}
        case np.generic() | np.ndarray() | jax.Array() if value.ndim == 0:
            return value.item()
    return value
