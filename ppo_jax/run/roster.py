"""Who is trained: every setting of the hyperparameters with every seed, as agents in a row."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import env, sweep
from ppo_jax.config import Config, check_hyperparameter, with_hyperparameters

_SEARCH = 0x5EA2C4  # the search draws from its own key: settings do not depend on the agents' seeds


class Roster(NamedTuple):
    """The agents, setting by setting, the same seeds for each; setting 0 is the configuration's
    own, with which the others are compared."""

    seeds: np.ndarray  # [agents]
    setting: np.ndarray  # [agents], index of the agent's setting
    values: dict[str, np.ndarray]  # [settings], of the hyperparameters that vary

    @property
    def num_settings(self) -> int:
        """How many settings there are, S; 1 where nothing varies."""
        return int(self.setting[-1]) + 1

    def configure(self, config: Config, agents: np.ndarray) -> Config:
        """The configuration with these agents' own hyperparameters, [agents]."""
        chosen = self.setting[agents]
        return with_hyperparameters(
            config, {name: values[chosen] for name, values in self.values.items()}
        )

    def describe(self, setting: int) -> dict[str, float]:
        """The setting's hyperparameters, of those that vary."""
        return {name: float(str(values[setting])) for name, values in self.values.items()}

    def groups(
        self, size: int, process: int = 0, processes: int = 1, begin: int = 0
    ) -> Iterator[tuple[np.ndarray, int]]:
        """A process's agents in groups of `size`, and how many of each group count: groups are
        filled up with the last agent, so that one compiled program serves all groups, and every
        process has as many."""
        total, share = len(self.seeds), self.share(processes)
        for first in range(max(process * share, begin), (process + 1) * share, size):
            lanes = np.arange(first, first + size)
            end = min((process + 1) * share, total)
            yield np.minimum(lanes, total - 1), max(0, min(size, end - first))

    def share(self, processes: int) -> int:
        """Agents of each process, at most."""
        return -(-len(self.seeds) // processes)


def make(
    config: Config,
    axes: Mapping[str, tuple[float, ...]],
    ranges: Mapping[str, sweep.Bounds],
    num_samples: int,
    seed: int,
    num_seeds: int,
) -> Roster:
    """All agents of a grid, a random search, both crossed, or of the configuration alone.

    Raises ValueError for a hyperparameter that cannot vary, or a bad value or range.
    """
    settings = sweep.cross(
        sweep.grid(axes) if axes else {},
        sweep.search(jax.random.key(_SEARCH), ranges, num_samples) if ranges else {},
    )
    values = _own_first(config, {name: np.asarray(array) for name, array in settings.items()})
    count = sweep.count(values)
    seeds = np.arange(seed, seed + num_seeds, dtype=np.uint32)
    roster = Roster(np.tile(seeds, count), np.repeat(np.arange(count), num_seeds), values)
    roster.configure(config, np.arange(len(roster.seeds)))  # refuses what is wrong
    return roster


def of_settings(config: Config, settings: Mapping[str, Any]) -> Roster:
    """The agents of a run whose config.json has these settings."""
    return make(
        config,
        {name: tuple(values) for name, values in settings["sweep"].items()},
        {name: tuple(bounds) for name, bounds in settings["search"].items()},
        settings["samples"],
        settings["seed"],
        settings["num_seeds"],
    )


def saved_numbers(agents: Roster, summary: Mapping[str, Any], count: int) -> np.ndarray:
    """The numbers of the `count` agents that a run saved, in order: batches train one after
    another, so a run that was stopped saved those of the first ones."""
    numbers = np.arange(len(agents.seeds))
    place = numbers % agents.share(summary.get("processes", 1))  # in its process
    batch = place // (summary.get("lanes") or len(numbers))
    return np.sort(numbers[np.argsort(batch, kind="stable")][:count])


def _own_first(config: Config, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The settings with the configuration's own one before all others."""
    if not values:
        return {}
    own = {name: np.asarray(_own(config, name), array.dtype) for name, array in values.items()}
    another = np.any([array != own[name] for name, array in values.items()], axis=0)
    return {name: np.append(own[name], array[another]) for name, array in values.items()}


def _own(config: Config, name: str) -> float:
    check_hyperparameter(name)
    if name.startswith("env_params."):
        try:
            return env.parameter(config, name.removeprefix("env_params."))
        except TypeError:
            raise ValueError(f"{name} of {config.env} is an array; only a number varies") from None
    value = getattr(config, name)
    if value is None and name == "critic_learning_rate":
        value = config.learning_rate
    if value is None:
        flag = name.replace("_", "-")
        raise ValueError(f"{name} has no numeric default; set --{flag}")
    return float(jnp.asarray(value))
