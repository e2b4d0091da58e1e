"""A thousand agents at once: no value that is not finite, unless one is put there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import population, recipe

pytestmark = pytest.mark.slow

AGENTS, VICTIM = 1000, 617
CONFIG = recipe("fast", num_updates=64)


def run(states, updates):
    """The states after so many updates, and the metrics [updates, agents] of the last 64."""
    step = jax.jit(
        lambda states, number: population.run(
            states, CONFIG, number, 64, population.CPU_AGENTS_AT_ONCE
        )
    )
    while updates:
        number = min(updates, 64)
        states, metrics = step(states, number)
        updates -= number
    return states, jax.tree.map(lambda leaf: np.asarray(leaf)[:number], metrics)


def arrays(states):
    """The arrays of the states, [agents, ...] each, without the keys."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(states._replace(key=states.num_updates))]


def test_a_thousand_agents_train_to_the_end_with_finite_values():
    states = population.init(population.agent_keys(0, AGENTS), CONFIG)
    states, metrics = run(states, CONFIG.num_updates)
    assert all(np.isfinite(array).all() for array in arrays(states))
    assert (np.asarray(states.num_updates) == CONFIG.num_updates).all()
    for name, values in metrics._asdict().items():
        of_episodes = name in ("episode_return", "episode_length")  # NaN where none has ended
        known = metrics.episodes > 0 if of_episodes else np.ones(values.shape, bool)
        assert np.isfinite(values[known]).all(), name


def test_a_value_that_is_not_finite_stays_in_its_agent():
    calm = population.init(population.agent_keys(0, AGENTS), CONFIG)

    def poison(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        first = name.endswith("actor/hidden_0/kernel")
        return leaf.at[VICTIM, 0, 0].set(jnp.nan) if first else leaf

    poisoned = calm._replace(params=jax.tree_util.tree_map_with_path(poison, calm.params))
    assert sum(np.isnan(array).sum() for array in arrays(poisoned)) == 1
    (calm, _), (poisoned, _) = run(calm, 3), run(poisoned, 3)
    assert poisoned.num_updates[VICTIM] == 0
    for ours, expected in zip(arrays(poisoned), arrays(calm), strict=True):
        np.testing.assert_array_equal(
            np.delete(ours, VICTIM, axis=0), np.delete(expected, VICTIM, axis=0)
        )
