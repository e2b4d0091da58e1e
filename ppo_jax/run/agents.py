"""The agents of a run: every setting of the hyperparameters with every seed, and their batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import env, sweep
from ppo_jax.config import Config, check_hyperparameter, with_hyperparameters
from ppo_jax.run.experiment import Experiment

_SEARCH = 0x5EA2C4  # the search draws from its own key: settings do not depend on the agents' seeds
_EVOLUTION = 3  # child of the run's key; agents use the first three children of theirs


class Lanes(NamedTuple):
    """Which agents this process trains in the lanes of one batch; lanes beyond them fill it."""

    agent_ids: np.ndarray  # [lanes]
    is_real: np.ndarray  # [lanes], false where a lane only fills the batch


@dataclasses.dataclass(frozen=True)
class AgentTable:
    """All agents, setting by setting, the same seeds in each; setting 0 is the configuration's own,
    with which the others are compared."""

    experiment: Experiment
    seeds: np.ndarray  # [agents]
    setting: np.ndarray  # [agents], index of the agent's setting
    values: dict[str, np.ndarray]  # [settings], of the hyperparameters that vary

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def num_settings(self) -> int:
        """How many settings there are; 1 where nothing varies."""
        return int(self.setting[-1]) + 1

    def configure(self, agent_ids: np.ndarray) -> Config:
        """The configuration with the hyperparameters that these agents start with, [agents].

        Those that evolve are each agent's own draw. Raises ValueError for one that cannot evolve.
        """
        config, setting = self.experiment.algorithm, self.setting[agent_ids]
        own = {name: values[setting] for name, values in self.values.items()}
        config, evolving = with_hyperparameters(config, own), self.experiment.evolving
        for name in evolving:
            _check_number(config, name, "evolves")
        key = jax.random.fold_in(evolution_key(self.experiment.agents.seed), 0)
        drawn = sweep.search(key, evolving, self.experiment.agents.num_seeds)
        own = {name: np.asarray(array)[agent_ids] for name, array in drawn.items()}
        return with_hyperparameters(config, own)

    def describe(self, setting: int) -> dict[str, float]:
        """The setting's hyperparameters, of those that vary."""
        return {name: float(str(values[setting])) for name, values in self.values.items()}

    def per_process(self, processes: int) -> int:
        """Agents of each process, at most."""
        return -(-len(self) // processes)

    def lanes(self, processes: int, devices: int) -> int:
        """Agents that each process trains at once, filled up to a multiple of its devices."""
        share = self.per_process(processes)
        wanted = min(self.experiment.agents.group_size or share, share)
        return -(-wanted // devices) * devices

    def batches(
        self,
        lanes: int,
        process: int = 0,
        processes: int = 1,
        finished: Sequence[int] = (),
        current: Sequence[int] = (),
    ) -> Iterator[Lanes]:
        """A process's batches of `lanes` agents: the current one of a resumed run, then those that
        are not finished. Every process has as many, filled up with its last agent."""
        shares = []
        for each in range(processes):
            share = self.per_process(processes)
            own = np.arange(each * share, min((each + 1) * share, len(self)))
            begun = own[np.isin(own, current)]
            left = own[~np.isin(own, [*finished, *current])]
            shares.append((begun, left))
        begun, left = shares[process]
        if len(current):
            yield _fill(begun, lanes)
        for first in range(0, max(len(left) for _, left in shares), lanes):
            yield _fill(left[first : first + lanes], lanes)


def _fill(agent_ids: np.ndarray, lanes: int) -> Lanes:
    """The agents in as many lanes, the last agent in those that are left."""
    filled = np.resize(agent_ids[-1:], lanes)  # zeros where there is no agent
    filled[: len(agent_ids)] = agent_ids
    return Lanes(filled, np.arange(lanes) < len(agent_ids))


def table(experiment: Experiment) -> AgentTable:
    """All agents of a grid, a random search, both crossed, or of the configuration alone.

    Raises ValueError for a hyperparameter that cannot vary, or a bad value or range.
    """
    config, agents = experiment.algorithm, experiment.agents
    axes, ranges = experiment.axes, experiment.ranges
    settings = sweep.cross(
        sweep.grid(axes) if axes else {},
        sweep.search(jax.random.key(_SEARCH), ranges, agents.samples) if ranges else {},
    )
    values = _own_first(config, {name: np.asarray(array) for name, array in settings.items()})
    count = sweep.count(values)
    seeds = np.arange(agents.seed, agents.seed + agents.num_seeds, dtype=np.uint32)
    made = AgentTable(
        experiment,
        np.tile(seeds, count),
        np.repeat(np.arange(count), agents.num_seeds),
        values,
    )
    made.configure(np.arange(len(made)) if not experiment.evolving else np.arange(1))
    return made


def evolution_key(seed: int) -> jax.Array:
    """The root of all that evolution draws."""
    return jax.random.fold_in(jax.random.key(np.uint32(seed)), _EVOLUTION)


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
        return _check_number(config, name, "varies")
    value = getattr(config, name)
    if value is None and name == "critic_learning_rate":
        value = config.learning_rate
    if value is None:
        raise ValueError(f"{name} has no numeric default; set --{name.replace('_', '-')}")
    return float(jnp.asarray(value))


def _check_number(config: Config, name: str, what: str) -> float:
    """The value of an environment's parameter. Raises ValueError where it is not a number."""
    if not name.startswith("env_params."):
        return 0.0
    try:
        return env.parameter(config, name.removeprefix("env_params."))
    except TypeError:
        raise ValueError(f"{name} of {config.env} is an array; only a number {what}") from None
