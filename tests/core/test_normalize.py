"""Running statistics: numbers by hand, NumPy on all data at once, and the float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import normalize, spaces
from tests.helpers import oracle

FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}
ONE = spaces.Box(-np.inf, np.inf, ())


def rollout(*numbers):
    """Numbers as observations [T, 1] of one environment, and all of them valid."""
    column = jnp.array(numbers)[:, None]
    return column, jnp.ones(column.shape, bool)


def test_moments_on_numbers_by_hand():
    statistics = normalize.init(ONE, jnp.zeros(()))
    assert statistics.count == 0
    two = normalize.merge(statistics, *rollout(1.0, 3.0))
    np.testing.assert_array_equal((two.count, *two.parts[0]), (2, 2, 2))
    # 1, 3 and 8 have the mean 4, and lie 3, 1 and 4 from it.
    three = normalize.merge(two, *rollout(8.0))
    np.testing.assert_allclose((three.count, *three.parts[0]), (3, 4, 26), rtol=1e-6)
    scaled = normalize.apply(three, jnp.array([4.0, 7.0, 100.0, -100.0]))
    np.testing.assert_allclose(scaled, [0, 3 / np.sqrt(26 / 3), 10, -10], rtol=1e-6)


def test_a_fresh_agent_sees_observations_as_they_are():
    statistics = normalize.init(ONE, jnp.zeros(()))
    observation = jnp.array([-1e6, 0.5, 300.0])
    np.testing.assert_array_equal(normalize.apply(statistics, observation), observation)


def test_what_never_changes_becomes_zero():
    statistics = normalize.merge(normalize.init(ONE, jnp.zeros(())), *rollout(*[0.1] * 5))
    np.testing.assert_allclose(normalize.apply(statistics, jnp.full(3, 0.1)), 0, atol=1e-3)
    np.testing.assert_array_equal(normalize.apply(statistics, jnp.array([0.2, 0.0])), [10, -10])


SPACE = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (2, 2, 1), jnp.uint8),
        "place": spaces.Discrete(5),
        "vector": spaces.Box(-np.inf, np.inf, (3,)),
    }
)


def observations(rng, *leading):
    return {
        "image": rng.integers(256, size=(*leading, 2, 2, 1), dtype=np.uint8),
        "place": rng.integers(5, size=leading),
        "vector": rng.normal(3, 20, (*leading, 3)),
    }


@pytest.mark.usefixtures("x64")
def test_rollouts_merged_one_by_one_are_all_data_at_once():
    """Of every box, bytes too, and the valid observations only; a whole number passes."""
    rng = np.random.default_rng(0)
    statistics = normalize.init(SPACE, jax.tree.map(jnp.asarray, observations(rng)))
    seen = {"image": [], "vector": []}
    judged = {name: {"count": 0, "mean": 0.0, "m2": 0.0} for name in seen}
    for steps in (7, 1, 4):
        found, valid = observations(rng, steps, 2), rng.random((steps, 2)) < 0.6
        valid[0, 0] = True
        found["vector"][~valid] = 1e9
        for name in seen:
            chosen = found[name][valid].astype(float)
            seen[name].append(chosen)
            judged[name] = oracle.merge(judged[name], chosen)
        statistics = normalize.merge(
            statistics, jax.tree.map(jnp.asarray, found), jnp.asarray(valid)
        )
    image, place, vector = statistics.parts
    assert place == ()
    assert statistics.count.dtype == vector.mean.dtype == jnp.float64
    for name, part in (("image", image), ("vector", vector)):
        together = np.concatenate(seen[name])
        assert statistics.count == judged[name]["count"] == len(together)
        np.testing.assert_allclose(part.mean, together.mean(axis=0), **FLOAT64)
        np.testing.assert_allclose(part.m2, together.var(axis=0) * len(together), **FLOAT64)
        np.testing.assert_allclose(part.m2, judged[name]["m2"], **FLOAT64)

    fresh = observations(rng, 9)
    fresh["vector"][0] = 1e5
    scaled = normalize.apply(statistics, jax.tree.map(jnp.asarray, fresh))
    np.testing.assert_array_equal(scaled["place"], fresh["place"])
    assert scaled["place"].dtype == fresh["place"].dtype
    for name in seen:
        expected = oracle.normalize(judged[name], fresh[name].astype(float))
        np.testing.assert_allclose(scaled[name], expected, **FLOAT64)
    np.testing.assert_array_equal(scaled["vector"][0], 10)


def test_a_small_deviation_beside_a_large_mean_survives_float32():
    rng = np.random.default_rng(0)
    data = (1e4 + rng.normal(size=(20, 50, 4))).astype(np.float32)
    statistics = normalize.init(ONE, jnp.zeros(()))
    for one in data:
        statistics = normalize.merge(statistics, jnp.asarray(one), jnp.ones(one.shape, bool))
    exact = data.astype(np.float64)
    np.testing.assert_allclose(statistics.parts[0].mean, exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(statistics.parts[0].m2 / exact.size, exact.var(), rtol=1e-3)


def test_without_statistics_nothing_is_merged():
    assert normalize.merge((), *rollout(1.0)) == ()


# Rewards ------------------------------------------------------------------------------------------


def test_scaled_rewards_on_numbers_by_hand():
    """γ = ½: R is 1, ½ 1 + 2 at an episode's end, then 40 and ½ 40 + 0."""
    rewards, valid = rollout(1.0, 2.0, 40.0, 0.0)
    done = jnp.array([[False], [True], [False], [False]])
    before = normalize.init_rewards(1)
    after, scaled = normalize.scale_rewards(before, rewards, done, valid, 0.5)
    returns = np.array([1, 2.5, 40, 20])
    np.testing.assert_allclose((after.count, after.mean), (4, returns.mean()), rtol=1e-6)
    np.testing.assert_allclose(after.m2 / 4, returns.var(), rtol=1e-6)
    np.testing.assert_array_equal(after.returns, [20])
    np.testing.assert_allclose(scaled, np.asarray(rewards) / returns.std(), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_scaled_rewards_are_the_oracles_over_several_rollouts(discount):
    rng = np.random.default_rng(0)
    found = normalize.init_rewards(3)
    judged = {name: np.asarray(array) for name, array in found._asdict().items()}
    for steps in (6, 1, 8):
        rewards, done = 5 + 9 * rng.normal(size=(steps, 3)), rng.random((steps, 3)) < 0.3
        judged, expected = oracle.scale_rewards(discount, judged, rewards, done)
        # Past the end of whole episodes nothing counts, and no R moves.
        absurd = np.full((2, 3), 1e9)
        padded = np.concatenate([rewards, absurd]), np.concatenate([done, absurd > 0])
        valid = np.arange(steps + 2)[:, None] < np.full(3, steps)
        found, scaled = normalize.scale_rewards(
            found, *map(jnp.asarray, padded), jnp.asarray(valid), discount
        )
        np.testing.assert_allclose(scaled[:steps], expected, **FLOAT64)
        for name, array in judged.items():
            np.testing.assert_allclose(getattr(found, name), array, **FLOAT64)


def test_a_reward_far_above_the_deviation_is_clipped():
    rewards, valid = rollout(*[0.0] * 999, 1.0, -2.0)
    ended = jnp.ones(rewards.shape, bool)
    _, scaled = normalize.scale_rewards(normalize.init_rewards(1), rewards, ended, valid, 0.9)
    np.testing.assert_array_equal(scaled[-2:, 0], [10, -10])
    # Rewards of 0 have no deviation, and stay 0.
    _, scaled = normalize.scale_rewards(
        normalize.init_rewards(1), rewards[:9], ended[:9], valid[:9], 0.9
    )
    np.testing.assert_array_equal(scaled, 0)


def test_a_child_takes_its_parents_moments_and_keeps_its_own_returns():
    child, parent = (
        normalize.RewardStatistics(*map(jnp.asarray, numbers), jnp.array(returns))
        for numbers, returns in (((1.0, 2.0, 3.0), [4.0, 5.0]), ((6.0, 7.0, 8.0), [9.0, 10.0]))
    )
    found = normalize.inherit(child, parent)
    np.testing.assert_array_equal(found[:3], [6, 7, 8])
    np.testing.assert_array_equal(found.returns, [4, 5])
    assert normalize.inherit((), ()) == ()
