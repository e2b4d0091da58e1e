"""Returns and advantages against their definitions, for every pattern of episode ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ppo_jax import returns
from tests.helpers import oracle

FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}
FLOAT32 = {"rtol": 1e-4, "atol": 1e-3}
# Few shapes: every one is compiled once.
SHAPES = [(1,), (2, 3), (7,), (11, 2)]

discounted_returns = jax.jit(returns.discounted_returns)
gae = jax.jit(returns.gae)
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def numbers(shape):
    return st_numpy.arrays(np.float64, shape, elements=st.floats(-10, 10))


def fractions(shape):
    edges = st.sampled_from([0.0, 1.0, 0.99])
    return st_numpy.arrays(np.float64, shape, elements=edges | st.floats(0, 1))


@st.composite
def rollouts(draw):
    """What `gae` takes, but values and next values that have nothing to do with each other."""
    shape = draw(st.sampled_from(SHAPES))
    # 0: the episode goes on; then terminated, truncated and both.
    kind = draw(st_numpy.arrays(np.int8, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 3])))
    return {
        "rewards": draw(numbers(shape)),
        "values": draw(numbers(shape)),
        "next_values": draw(numbers(shape)),
        "terminated": kind % 2 == 1,
        "done": kind > 0,
        "discount": draw(fractions(())).item(),
        "gae_lambda": draw(fractions(())).item(),
    }


def in_float64(function, *args, **kwargs):
    with jax.enable_x64(True):
        result = function(*map(jnp.asarray, args), **jax.tree.map(jnp.asarray, kwargs))
        assert result.dtype == jnp.float64
        return np.asarray(result)


# Against the definitions --------------------------------------------------------------------------


@examples
@given(st.data())
def test_returns_are_the_definitions_sum(data):
    shape = data.draw(st.sampled_from(SHAPES))
    args = data.draw(numbers(shape)), data.draw(fractions(shape)), data.draw(numbers(shape[1:]))
    expected = oracle.returns_by_definition(*args)
    np.testing.assert_allclose(in_float64(discounted_returns, *args), expected, **FLOAT64)
    result = discounted_returns(*args)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, **FLOAT32)


@examples
@given(rollouts())
def test_advantages_are_the_definitions_sum(rollout):
    expected = oracle.gae_by_definition(**rollout)
    np.testing.assert_allclose(in_float64(gae, **rollout), expected, **FLOAT64)
    result = gae(**rollout)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, **FLOAT32)


def test_every_pattern_of_ends_agrees_with_the_definition():
    # 4 steps, each of 4 kinds: 256 patterns, side by side as environments.
    kind = np.stack(np.meshgrid(*[np.arange(4)] * 4), axis=0).reshape(4, -1)
    rng = np.random.default_rng(0)
    rollout = {name: rng.normal(size=kind.shape) for name in ("rewards", "values", "next_values")}
    rollout |= {"terminated": kind % 2 == 1, "done": kind > 0}
    for discount, gae_lambda in ((0.9, 0.8), (1.0, 1.0), (0.0, 0.5), (0.5, 0.0)):
        rollout |= {"discount": discount, "gae_lambda": gae_lambda}
        expected = oracle.gae_by_definition(**rollout)
        np.testing.assert_allclose(in_float64(gae, **rollout), expected, **FLOAT64)


def test_advantages_on_numbers_by_hand():
    # γ = λ = ½. Step 1 is truncated, step 2 terminated and truncated, step 3 the rollout's end.
    advantages = returns.gae(
        rewards=jnp.array([1.0, 1, 1, 1]),
        values=jnp.array([2.0, 4, 6, 8]),
        next_values=jnp.array([4.0, 20, 1000, 10]),
        terminated=jnp.array([False, False, True, False]),
        done=jnp.array([False, True, True, False]),
        discount=0.5,
        gae_lambda=0.5,
    )
    # δ = 1 + 2 - 2, 1 + 10 - 4, 1 - 6, 1 + 5 - 8; and A[0] = 1 + ¼ 7.
    np.testing.assert_array_equal(advantages, [2.75, 7, -5, -2])


@pytest.mark.parametrize("bootstrap", [jnp.array(8.0), 8.0, 8])
def test_returns_on_numbers_by_hand(bootstrap):
    # 3 + ½ 8 = 7;  2 + 0 (an episode's end) = 2;  1 + ½ 2 = 2.
    result = returns.discounted_returns(jnp.array([1.0, 2, 3]), jnp.array([0.5, 0, 0.5]), bootstrap)
    np.testing.assert_array_equal(result, [2, 2, 7])


@pytest.mark.parametrize("flag", [jnp.int8, jnp.uint8, jnp.float16, jnp.float32, jnp.float64])
def test_flags_of_any_type_leave_the_values_their_precision(flag):
    rng = np.random.default_rng(1)
    kind = rng.integers(4, size=(6, 5))
    rollout = {name: rng.normal(size=(6, 5)) for name in ("rewards", "values", "next_values")}
    ends = {"terminated": kind % 2 == 1, "done": kind > 0}
    hyperparameters = {"discount": 0.9, "gae_lambda": 0.8}
    expected = oracle.gae_by_definition(**rollout, **ends, **hyperparameters)
    with jax.enable_x64(True):
        for dtype, tolerance in ((jnp.float32, FLOAT32), (jnp.float64, FLOAT64)):
            result = returns.gae(
                **{name: jnp.asarray(array, dtype) for name, array in rollout.items()},
                **{name: jnp.asarray(array, flag) for name, array in ends.items()},
                **hyperparameters,
            )
            assert result.dtype == dtype
            np.testing.assert_allclose(result, expected, **tolerance)


@pytest.mark.parametrize(
    "types",
    [
        (jnp.float32, jnp.float32, jnp.int32),
        (jnp.float32, jnp.float64, jnp.float32),
        (jnp.int32, jnp.float64, jnp.int8),
    ],
)
def test_returns_are_of_the_widest_type_given(types):
    with jax.enable_x64(True):
        arrays = [[1, 2, 3], [0.5, 0, 0.25], 8]
        arrays = [jnp.asarray(array, dtype) for array, dtype in zip(arrays, types, strict=True)]
        result = returns.discounted_returns(*arrays)
        assert result.dtype == types[1]
        np.testing.assert_array_equal(result, [2, 2, 5])


# Shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "discounts", "bootstrap"),
    [((5,), (4,), ()), ((5, 2), (5,), (2,)), ((5, 2), (5, 2), ()), ((5, 2), (5, 2), (2, 1))],
)
def test_returns_of_unequal_shapes_are_refused(rewards, discounts, bootstrap):
    with pytest.raises(AssertionError):
        returns.discounted_returns(jnp.zeros(rewards), jnp.zeros(discounts), jnp.zeros(bootstrap))


@pytest.mark.parametrize("wrong", range(5))
@pytest.mark.parametrize("shape", [(5, 2, 1), (5,), (1, 2), (2, 5)])
def test_advantages_of_unequal_shapes_are_refused(wrong, shape):
    arrays = [jnp.zeros((5, 2))] * 5
    arrays[wrong] = jnp.zeros(shape)
    with pytest.raises(AssertionError):
        returns.gae(*arrays, 0.9, 0.9)
