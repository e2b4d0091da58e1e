"""What became of the agents of a run."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax.policy import Params


class Results(NamedTuple):
    """Arrays of agents of all processes, in the order of `agent_ids`."""

    agent_ids: np.ndarray  # [agents]
    params: Params  # [agents, ...]
    made: np.ndarray  # [agents], updates that an agent made
    updates: np.ndarray  # [agents], that its batch made: an agent that made fewer was frozen
    env_steps: np.ndarray  # [agents]
    eval_returns: np.ndarray  # [agents], greedy; NaN where frozen, or not evaluated
    digests: np.ndarray  # [agents, 32], of all arrays of each agent's last state

    @property
    def frozen(self) -> np.ndarray:
        """Which agents diverged, and were frozen at their last finite state, [agents]."""
        return self.made < self.updates


def join(results: list[Results]) -> Results:
    """The batches' results as one, in the order of the agent table."""
    order = np.argsort(np.concatenate([one.agent_ids for one in results]))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *results)


def none(states: Any) -> Results:
    """Results of no agent, with parameters like those of the states."""
    params = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), states.params)
    ids, steps, digests = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 32), np.uint8)
    return Results(ids, params, ids, ids, steps, np.zeros(0), digests)
