"""Agents that diverge: each is frozen by itself, to the bit, and the others go on as without it."""

import jax
import numpy as np
import pytest

from tests.helpers.populations import (
    AGENTS,
    SETTINGS_OF,
    STORAGE,
    VICTIM,
    assert_nothing,
    batch_of,
    host,
    joined,
    per_agent,
    poison,
    without,
)
from tests.helpers.tiny_recipes import SETTINGS
from tests.helpers.trees import lane, numbers, same_bits


@pytest.fixture
def standard():
    return batch_of("standard", SETTINGS)


@pytest.fixture
def pendulum():
    return batch_of("pendulum", SETTINGS_OF["pendulum"])


INJECTIONS = (
    *("rate of 1e38", "NaN hyperparameter"),
    *("NaN params", "NaN moments", "NaN worlds", "infinite critic"),
)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_an_agent_that_cannot_go_on_keeps_its_state_and_the_others_theirs(standard, injection):
    """All to the bit."""
    assert_frozen_alone(standard, injection)


OF_STATISTICS = ("NaN statistics", "NaN reward statistics", "infinite reward statistics")


@pytest.mark.parametrize("injection", [*OF_STATISTICS, "NaN params", "NaN worlds"])
def test_an_agent_with_statistics_that_cannot_go_on_keeps_them(pendulum, injection):
    assert_frozen_alone(pendulum, injection)


def assert_frozen_alone(batch, injection):
    calm, calm_metrics = batch.run(batch.states, batch.configs, 2)
    assert (calm.num_updates == 2).all()
    assert np.isfinite(calm_metrics.policy_loss).all()
    states, configs = poison(batch, injection)
    frozen, metrics = batch.run(states, configs, 2)
    kept = lane(host(states), VICTIM)
    assert same_bits(lane(host(frozen), VICTIM), kept)
    assert kept.num_updates == 0
    assert_nothing(lane(host(metrics), np.s_[:2, VICTIM]))
    assert not any(np.any(leaf[2:]) for leaf in host(metrics))
    assert same_bits(without(frozen, VICTIM), without(calm, VICTIM))
    assert same_bits(without(metrics, VICTIM, 1), without(calm_metrics, VICTIM, 1))
    again, metrics = batch.run(frozen, configs, 2)
    assert same_bits(lane(host(again), VICTIM), kept)
    assert_nothing(lane(host(metrics), np.s_[:2, VICTIM]))


LATE = np.arange(SETTINGS.index("discount"), AGENTS)


@pytest.fixture(scope="module")
def late():
    """A run in which the agents LATE diverge one after another, for their critics climb the loss:
    configuration, states, metrics."""
    batch = batch_of("standard", SETTINGS)
    configs = per_agent(lambda leaf: leaf.at[LATE].set(leaf[0]), batch.configs)
    rates = configs.critic_learning_rate.at[LATE].set(-np.logspace(17, 17.6, len(LATE)))
    configs = configs.replace(critic_learning_rate=rates, num_updates=STORAGE)
    return configs, *batch.run(batch.states, configs, STORAGE)


def test_an_agent_that_diverges_late_keeps_the_state_before(standard, late):
    """That of a run which ends there; the batch's other agents go on as without it."""
    configs, states, metrics = late[0], *host(late[1:])
    updates = states.num_updates
    assert len(set(updates[LATE])) >= 3
    assert 0 < updates[LATE].min() <= updates[LATE].max() < STORAGE
    others = np.delete(np.arange(AGENTS), LATE)
    assert (updates[others] == STORAGE).all()
    for agent in LATE:
        until, rows = host(standard.run(standard.states, configs, updates[agent]))
        assert same_bits(lane(states, agent), lane(until, agent))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(lane(until.params, agent)))
        before = lane(metrics, np.s_[: updates[agent], agent])
        assert same_bits(before, lane(rows, np.s_[: updates[agent], agent]))
        assert np.isfinite(before.value_loss).all()
        assert (before.env_steps == 16).all()
        assert_nothing(lane(metrics, np.s_[updates[agent] :, agent]))
    own = standard.configs.replace(num_updates=STORAGE)
    calm, calm_metrics = standard.run(standard.states, own, STORAGE)
    assert same_bits(without(states, LATE), without(calm, LATE))
    assert same_bits(without(metrics, LATE, 1), without(calm_metrics, LATE, 1))


def test_the_update_that_was_not_taken_was_not_finite(standard, late):
    """By the core's own update, which freezes nothing."""
    configs, states, _ = late
    pick = jax.jit(
        lambda both, agent: (lane(both[0], agent), per_agent(lambda leaf: leaf[agent], both[1]))
    )
    for agent in (0, *LATE):
        state, row = standard.run_alone(*pick((states, configs), agent))
        learned = state.params, row.policy_loss, row.value_loss, row.critic_grad_norm
        finite = all(np.isfinite(leaf).all() for leaf in numbers(learned))
        assert finite == (agent not in LATE)


def test_an_agent_that_diverges_in_a_later_chunk_is_frozen_there(standard, late):
    configs, states, metrics = late
    middle, first = standard.run(standard.states, configs, 5)
    end, second = standard.run(middle, configs, 3)
    assert same_bits(end, states)
    assert same_bits(joined((first, 5), (second, 3)), metrics)
