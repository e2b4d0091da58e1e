"""The sortless permutation: a bijection at every length, and a uniformly random one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppo_jax import ppo, shuffle
from tests.helpers import oracle
from tests.helpers.quick import quick_jit

LONGEST = 2000
permute = quick_jit(shuffle.permute)
epoch_orders = quick_jit(ppo.epoch_orders, static_argnums=(1, 3))


@functools.partial(jax.jit, static_argnums=2)
def permutations(keys, length, width):
    """The first positions of each key's permutation [K, width]; those past the length are 0."""
    positions = jnp.arange(width)
    return jax.vmap(
        lambda key: jnp.where(positions < length, shuffle.permute(key, positions, length), 0)
    )(keys)


@jax.jit
def whole_permutations(key, lengths):
    """Permutations of several lengths; positions past a length stay where they are."""
    positions = jnp.arange(LONGEST)
    return jax.vmap(
        lambda length: jnp.where(
            positions < length, shuffle.permute(key, positions, length), positions
        )
    )(lengths)


@functools.cache
def many(length, seed=0):
    """Permutations [K, length] of K keys."""
    # Few sizes: every one is compiled once.
    count, width = (2**16, 12) if length <= 12 else (2**14, 128)
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(permutations(keys, length, width))[:, :length]


def assert_plausible(statistic, degrees_of_freedom):
    """Neither too uneven to be chance, nor too even."""
    assert 1e-4 < stats.chi2.sf(statistic, degrees_of_freedom) < 1 - 1e-4


def unevenness(counts, expected):
    return ((counts - expected) ** 2 / expected).sum()


# A bijection --------------------------------------------------------------------------------------


def test_every_length_up_to_2000_is_permuted():
    identity = np.arange(LONGEST)
    for lengths in np.arange(1, LONGEST + 1).reshape(-1, 500):
        results = np.asarray(whole_permutations(jax.random.key(0), lengths))
        np.testing.assert_array_equal(np.sort(results, axis=1), np.tile(identity, (500, 1)))
        # Not only onto each other: the range is kept.
        inside = identity < lengths[:, None]
        np.testing.assert_array_equal(results[~inside], np.tile(identity, (500, 1))[~inside])


@pytest.mark.parametrize("length", [1, 100_003])
def test_a_static_length_gives_the_same_permutation(length):
    key, positions = jax.random.key(4), jnp.arange(length)
    static = quick_jit(shuffle.permute, static_argnums=2)(key, positions, length)
    np.testing.assert_array_equal(np.sort(static), np.arange(length))
    np.testing.assert_array_equal(static, permute(key, positions, length))


@pytest.mark.parametrize("length", [1, 2, 7, 60, 1000, 2**30 - 1])
def test_a_permutation_is_swap_or_not_by_its_definition(length):
    """To the number: a run's replay depends on it, and uniformity says little of the hash."""
    for seed in range(3):
        key = jax.random.key(seed)
        pivots, keys = np.split(np.asarray(jax.random.bits(key, (48,), jnp.uint32)), 2)
        positions = np.unique(np.linspace(0, length - 1, 60).astype(np.int32))
        expected = [oracle.swap_or_not(pivots % length, keys, int(x), length) for x in positions]
        np.testing.assert_array_equal(permute(key, positions, length), expected)


def test_positions_keep_their_shape_and_need_not_be_all():
    key, positions = jax.random.key(9), jnp.arange(60)
    whole = permute(key, positions, 60)
    some = jnp.array([[3, 59, 3], [0, 7, 21]], jnp.uint8)
    np.testing.assert_array_equal(permute(key, some, 60), whole[some])


# A random one -------------------------------------------------------------------------------------


def test_different_keys_give_different_orders():
    results = many(31)
    assert len(np.unique(results, axis=0)) == len(results)


@pytest.mark.parametrize("length", [2, 3, 5, 8, 31, 128])
def test_every_element_comes_to_every_position_equally_often(length):
    results = many(length)
    counts = np.stack([np.bincount(column, minlength=length) for column in results.T])
    # Rows and columns of the table are fixed: (n - 1)² numbers are free, and vary the less for it.
    statistic = unevenness(counts, len(results) / length) * (length - 1) / length
    assert_plausible(statistic, (length - 1) ** 2)


@pytest.mark.parametrize("length", [4, 7, 12])
@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (0, -1), (2, 3), (1, -2)])
def test_two_elements_come_to_every_two_positions_equally_often(length, pair):
    first, second = many(length, seed=1)[:, pair].T
    counts = np.bincount(first * length + second, minlength=length**2).reshape(length, length)
    assert counts.trace() == 0
    possible = counts[~np.eye(length, dtype=bool)]
    assert_plausible(unevenness(possible, possible.mean()), len(possible) - 1)


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_all_permutations_occur_equally_often(length):
    results = many(length, seed=2)
    code = results @ length ** np.arange(length)
    everything = np.array(list(itertools.permutations(range(length))))
    counts = np.array(
        [(code == wanted @ length ** np.arange(length)).sum() for wanted in everything]
    )
    assert counts.sum() == len(results)
    assert_plausible(unevenness(counts, counts.mean()), len(counts) - 1)


# The epochs of an update --------------------------------------------------------------------------


@pytest.mark.parametrize("num_valid", [1, 2, 19, 40])
def test_every_epoch_visits_every_valid_transition_once(num_valid):
    orders = epoch_orders(jax.random.key(3), 40, num_valid, 6)
    assert orders.shape == (6, 40)
    np.testing.assert_array_equal(
        np.sort(orders[:, :num_valid], axis=1), np.tile(np.arange(num_valid), (6, 1))
    )
    assert not orders[:, num_valid:].any()
    if num_valid > 2:
        assert len(np.unique(orders, axis=0)) == 6, "an epoch repeats another's order"


def test_orders_do_not_depend_on_the_storage_and_change_with_the_key():
    one, two = (epoch_orders(jax.random.key(3), capacity, 19, 6) for capacity in (19, 40))
    np.testing.assert_array_equal(one, two[:, :19])
    assert (two != epoch_orders(jax.random.key(4), 40, 19, 6)).any(axis=1).all()


def test_orders_are_made_before_rows_are_taken_at_them():
    """Fused with the gather, the rounds do not finish compiling (jaxlib 0.11.2). They would be
    with one minibatch an update, for XLA unrolls a loop of one trip."""
    table = np.random.default_rng(0).standard_normal((128, 5))

    def rows(key):
        return jnp.asarray(table)[ppo.epoch_orders(key, 128, 128, 1)[0]]

    assert "optimization_barrier" in str(jax.make_jaxpr(rows)(jax.random.key(0)))
    order = epoch_orders(jax.random.key(0), 128, 128, 1)[0]
    np.testing.assert_allclose(jax.jit(rows)(jax.random.key(0)), table[order], rtol=1e-6)
