"""The agents of a run: every setting of the hyperparameters with every seed, and their batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ppo_jax import env, sweep
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.run.experiment import Experiment

_SEARCH = 0x5EA2C4  # the search draws from its own key: settings do not depend on the agents' seeds
_EVOLUTION = 3  # child of the run's key; agents use the first three children of theirs


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

    @property
    def num_settings(self) -> int:
        """How many settings there are; 1 where nothing varies."""
        return int(self.setting[-1]) + 1

    def configure(self, agent_ids: np.ndarray) -> Config:
        """The configuration with the hyperparameters that these agents start with, [agents].

        Those that evolve are each agent's own draw. Raises ValueError for one that cannot evolve.
        """
        setting = self.setting[agent_ids]
        own = {name: values[setting] for name, values in self.values.items()}
        config = with_hyperparameters(self.experiment.algorithm, own)
        evolving = self.experiment.evolving
        for name in evolving:
            if name.startswith("env_params."):
                env.parameter(config, name.removeprefix("env_params."))  # a number, or refused
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
        return -(-min(self.experiment.agents.group_size or share, share) // devices) * devices

    def place(self, lanes: int, processes: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch, from 0, and the lane in it of each agent, [agents] each, where none has been
        trained before."""
        return np.divmod(np.arange(len(self)) % self.per_process(processes), lanes)

    def batches(
        self,
        lanes: int,
        process: int = 0,
        processes: int = 1,
        finished: Sequence[int] = (),
        current: Sequence[int] = (),
    ) -> Iterator[np.ndarray]:
        """A process's batches, the agent in each lane: the current one of a resumed run, then those
        that are not finished. Every process has as many.

        -1, which is the table's last agent as well, is in lanes that only fill the batch.
        """
        numbers, share = np.arange(len(self)), self.per_process(processes)
        others = numbers[~np.isin(numbers, [*finished, *current])]
        if len(current):
            yield _fill(np.sort(np.array(current)[np.array(current) // share == process]), lanes)
        left = [others[others // share == each] for each in range(processes)]
        for first in range(0, max(map(len, left)), lanes):
            yield _fill(left[process][first : first + lanes], lanes)


def table(experiment: Experiment) -> AgentTable:
    """All agents of a grid, a random search, both crossed, or of the configuration alone.

    Raises ValueError for a hyperparameter that cannot vary or evolve, or a bad value or range.
    """
    agents, axes, ranges = experiment.agents, experiment.axes, experiment.ranges
    settings = sweep.cross(
        sweep.grid(axes) if axes else {},
        sweep.search(jax.random.key(_SEARCH), ranges, agents.samples) if ranges else {},
    )
    values = sweep.with_own(experiment.algorithm, settings)
    count, seeds = sweep.count(values), np.arange(agents.num_seeds) + agents.seed
    setting = np.repeat(np.arange(count), agents.num_seeds)
    made = AgentTable(experiment, np.tile(seeds.astype(np.uint32), count), setting, values)
    made.configure(np.arange(1 if experiment.evolving else len(made)))  # refuses what is wrong
    return made


def best_known(experiment: Experiment, name: Any) -> env.Best | None:
    """The highest return that is known of the environment of that name; none where parameters,
    arguments or a time limit make it another one."""
    config = experiment.algorithm
    varied = [*experiment.axes, *experiment.ranges, *experiment.evolving]
    changed = config.env_params or config.env_kwargs or config.max_episode_steps
    if changed or any(one.startswith("env_params.") for one in varied):
        return None
    return env.BEST.get(name)


def evolution_key(seed: int) -> jax.Array:
    """The root of all that evolution draws."""
    return jax.random.fold_in(jax.random.key(np.uint32(seed)), _EVOLUTION)


def _fill(agent_ids: np.ndarray, lanes: int) -> np.ndarray:
    return np.pad(agent_ids, (0, lanes - len(agent_ids)), constant_values=-1)
