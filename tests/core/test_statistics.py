"""Statistics over agents against SciPy, and against NumPy float64 definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ppo_jax import statistics
from tests.helpers.statistics_by_definition import integrated_iqm, solving_by_definition

FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}
FLOAT32 = {"rtol": 1e-4, "atol": 1e-3}
# Few lengths: every one is compiled once.
LENGTHS = [1, 6, 7]

interquartile_mean = jax.jit(statistics.interquartile_mean, static_argnames="axis")
summarize = jax.jit(statistics.summarize, static_argnames="axis")
probability_of_improvement = jax.jit(statistics.probability_of_improvement)
paired_improvement = jax.jit(statistics.paired_improvement)
steps_to_solve = jax.jit(statistics.steps_to_solve, static_argnames="window")
quantiles_of_solving = jax.jit(statistics.quantiles_of_solving)
examples = settings(max_examples=30, deadline=None, derandomize=True, database=None)

# Many ties, and numbers that share nothing; XLA takes subnormal ones for 0.
numbers = st.integers(-3, 3).map(float) | st.floats(-1e3, 1e3, allow_subnormal=False)


@st.composite
def samples(draw, elements=numbers, lengths=LENGTHS):
    return draw(st_numpy.arrays(np.float64, draw(st.sampled_from(lengths)), elements=elements))


def in_float64(function, *args, **kwargs):
    with jax.enable_x64(True):
        result = function(*map(jnp.asarray, args), **kwargs)
        chosen = [leaf for leaf in jax.tree.leaves(result) if leaf.dtype != jnp.int64]
        assert all(leaf.dtype == jnp.float64 for leaf in chosen)
        return jax.tree.map(np.asarray, result)


# The definitions ----------------------------------------------------------------------------------


def resampled_means(rng, values, num_resamples):
    """The mean of every resample of [strata, runs], with NumPy."""
    rows = [
        stratum[rng.integers(len(stratum), size=(num_resamples, len(stratum)))].mean(1)
        for stratum in values
    ]
    return np.mean(rows, axis=0)


# The interquartile mean ---------------------------------------------------------------------------


@pytest.mark.parametrize("length", [4, 1000])
def test_a_multiple_of_four_is_scipys_trimmed_mean(length):
    values = np.random.default_rng(length).normal(size=(3, length))
    expected = scipy.stats.trim_mean(values, 0.25, axis=1)
    np.testing.assert_allclose(in_float64(interquartile_mean, values), expected, **FLOAT64)
    np.testing.assert_allclose(interquartile_mean(values), expected, **FLOAT32)


@examples
@given(samples())
def test_any_number_of_values_is_the_quantile_functions_integral(values):
    expected = integrated_iqm(values)
    np.testing.assert_allclose(in_float64(interquartile_mean, values), expected, **FLOAT64)
    np.testing.assert_allclose(interquartile_mean(values), expected, **FLOAT32)


def test_the_interquartile_mean_of_ten_thousand_agents_is_precise_in_float32():
    values = np.random.default_rng(0).normal(400, 100, 10_001).astype(np.float32)
    expected = integrated_iqm(values.astype(np.float64))
    np.testing.assert_allclose(interquartile_mean(values), expected, rtol=1e-5)
    np.testing.assert_array_equal(interquartile_mean(jnp.full(10_001, 500.0)), 500)


def test_every_number_of_values_up_to_sixty_in_one_mask():
    values = np.random.default_rng(0).normal(size=60)
    where = np.tri(60, dtype=bool)  # the first n, for every n
    result = in_float64(interquartile_mean, np.broadcast_to(values, where.shape), where=where)
    expected = [integrated_iqm(values[:n]) for n in range(1, 61)]
    np.testing.assert_allclose(result, expected, **FLOAT64)


def test_the_interquartile_mean_by_hand():
    # Of 6, a quarter is 1.5: the second and fifth count half.
    np.testing.assert_array_equal(interquartile_mean(jnp.array([9.0, 2, 4, 6, 0, 8])), 5)
    np.testing.assert_allclose(
        interquartile_mean(jnp.array([100.0, 2, 4, 6, 0, 9])), (1 + 4 + 6 + 4.5) / 3, rtol=1e-6
    )


@examples
@given(samples(), st.data())
def test_masked_values_are_as_if_they_were_not_there(values, data):
    where = data.draw(st_numpy.arrays(bool, values.shape))
    result = in_float64(interquartile_mean, np.where(where, values, np.nan), where=where)
    if where.any():
        np.testing.assert_allclose(result, integrated_iqm(values[where]), **FLOAT64)
    else:
        assert np.isnan(result)
    # What is masked has no influence, whatever it is.
    for filler in (-np.inf, np.inf, 0.0):
        other = in_float64(interquartile_mean, np.where(where, values, filler), where=where)
        np.testing.assert_array_equal(other, result)


def test_a_nan_that_counts_is_not_hidden():
    values = jnp.array([1.0, 2, 3, jnp.nan])
    assert jnp.isnan(interquartile_mean(values))
    assert jnp.isnan(interquartile_mean(values, where=jnp.array([True, True, False, True])))
    assert interquartile_mean(values, where=~jnp.isnan(values)) == 2


def test_an_infinity_counts_only_where_it_has_weight():
    values = np.array([-np.inf, 1, 2, 3, 4, 5, 6, np.inf])
    assert interquartile_mean(values) == 3.5
    assert interquartile_mean(np.where(values < 3, -np.inf, values)) == -np.inf
    assert interquartile_mean(np.where(values > 4, np.inf, values)) == np.inf


# Summaries ----------------------------------------------------------------------------------------


@examples
@given(samples(elements=numbers | st.just(np.nan)))
def test_a_summary_is_numpys_of_the_agents_with_a_value(values):
    summary = in_float64(summarize, values, solved_at=1.0)
    known = values[~np.isnan(values)]
    assert summary.count == len(known)
    if len(known) == 0:
        assert all(np.isnan(leaf).all() for leaf in summary[:-1])
        return
    np.testing.assert_allclose(summary.mean, known.mean(), **FLOAT64)
    np.testing.assert_allclose(summary.iqm, integrated_iqm(known), **FLOAT64)
    np.testing.assert_allclose(
        summary.quantiles, np.quantile(known, statistics.QUANTILES), **FLOAT64
    )
    np.testing.assert_allclose(summary.solved, np.mean(known >= 1), **FLOAT64)


def test_the_quantiles_are_at_twentieths():
    # The implementation counts in twentieths; a quantile in between would be rounded silently.
    twentieths = np.array(statistics.QUANTILES) * 20
    np.testing.assert_allclose(twentieths, np.round(twentieths), rtol=0, atol=1e-9)


@pytest.mark.parametrize("axis", [-1, 0])
def test_a_summary_of_updates_is_each_updates_own(axis):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 7))  # [updates, agents]
    values[rng.random(values.shape) < 0.3] = np.nan
    values[2] = np.nan
    together = summarize(values if axis else values.T, solved_at=0.0, axis=axis)
    assert together.quantiles.shape == (5, 5)
    apart = [summarize(row, solved_at=0.0) for row in values]
    for leaf, rows in zip(together, zip(*apart, strict=True), strict=True):
        np.testing.assert_allclose(leaf, jnp.stack(rows), rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(together.iqm), np.arange(5) == 2)
    over_updates = jax.vmap(partial(summarize, solved_at=0.0))(jnp.asarray(values))
    for leaf, other in zip(together, over_updates, strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-6)


def test_without_a_threshold_nothing_is_said_of_solving():
    values = jnp.array([0.1, 0.0])
    assert jnp.isnan(summarize(values).solved)
    assert jnp.isnan(summarize(values, solved_at=jnp.nan).solved)
    assert summarize(values, solved_at=0.1).solved == 0.5  # at the threshold, also in float32


def test_no_agents_are_none():
    summary = summarize(jnp.zeros((2, 0)), solved_at=1.0)
    np.testing.assert_array_equal(summary.count, [0, 0])
    assert all(jnp.isnan(leaf).all() for leaf in summary[:-1])
    assert summary.quantiles.shape == (2, 5)


def test_diverged_agents_counted_as_the_worst_keep_the_quantiles_numbers():
    # 21 agents: the 5 % quantile is the second smallest, exactly, beside an infinity.
    values = jnp.arange(21.0).at[0].set(-jnp.inf)
    summary = summarize(values, solved_at=16)
    np.testing.assert_array_equal(summary.quantiles, [1, 5, 10, 15, 19])
    assert summary.iqm == 10
    assert summary.mean == -jnp.inf
    np.testing.assert_allclose(summary.solved, 5 / 21, rtol=1e-6)
    low = summarize(jnp.arange(11.0).at[0].set(-jnp.inf)).quantiles[0]
    assert low == -jnp.inf  # half way between


def test_the_interval_of_a_mean_leaves_out_agents_without_a_value():
    values = np.random.default_rng(0).normal(size=(3, 20))
    values[1, 5:] = np.nan
    values[2] = np.nan
    found = np.array(statistics.mean_interval(jnp.asarray(values)))
    for row, known in enumerate((values[0], values[1, :5])):
        mean, half = known.mean(), 1.959964 * known.std(ddof=1) / np.sqrt(len(known))
        np.testing.assert_allclose(found[:, row], [mean, mean - half, mean + half], rtol=1e-5)
    assert np.isnan(found[:, 2]).all()


# The bootstrap ------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=2)
def mean_interval(key, values, num_resamples, confidence=0.95):
    return statistics.stratified_bootstrap(key, values, jnp.mean, num_resamples, confidence)


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_the_interval_is_scipys_within_monte_carlo_error(confidence):
    values = np.random.default_rng(0).exponential(size=40)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=4000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = mean_interval(jax.random.key(0), values[None], 4000, confidence)
    # A quantile of R draws has the standard error √(p (1 - p) / R) / density; the density is about
    # a normal's, with the mean's standard error. Either side has one; 4 of their difference.
    error = values.std() / np.sqrt(len(values))
    tail = (1 - confidence) / 2
    density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(tail)) / error
    tolerance = 4 * np.sqrt(2 * tail * (1 - tail) / 4000) / density
    assert tolerance < 0.25 * error  # the ends for 0.9 would be 0.31 away
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_every_stratum_is_resampled_on_its_own():
    rng = np.random.default_rng(0)
    values = np.repeat([[0.0], [100.0], [-7.0]], 20, axis=1)
    ends = mean_interval(jax.random.key(0), values, 4000)
    np.testing.assert_allclose(ends, (31, 31), rtol=1e-6)  # pooled, it would be 19 to 43
    # Strata of unequal spread; the tolerance is as above, with the mean's error over strata.
    values = rng.normal(size=(3, 20)) * np.array([[1.0], [3.0], [10.0]]) + [[0.0], [50.0], [-50.0]]
    theirs = np.quantile(resampled_means(rng, values, 4000), [0.025, 0.975])
    ours = mean_interval(jax.random.key(1), values, 4000)
    error = np.sqrt((values.var(axis=1) / 20).sum()) / 3
    tolerance = 4 * np.sqrt(2 * 0.025 * 0.975 / 4000) / scipy.stats.norm.pdf(1.96) * error
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says():
    # 200 repeats: the standard error of a coverage of 0.95 is 0.015.
    values = jax.random.normal(jax.random.key(0), (200, 1, 50))
    keys = jax.random.split(jax.random.key(1), 200)
    low, high = jax.vmap(partial(mean_interval, num_resamples=300))(keys, values)
    assert jnp.all(low < high)
    assert 0.88 < jnp.mean((low <= 0) & (high >= 0)) < 0.99


def test_resamples_do_not_depend_on_the_batch(monkeypatch):
    values = jax.random.normal(jax.random.key(0), (2, 30))
    intervals = []
    for held in (1, 7 * 60):  # 1 and 7 resamples at once, of 101
        monkeypatch.setattr(statistics, "BOOTSTRAP_VALUES", held)
        interval = jax.jit(lambda *args: statistics.stratified_bootstrap(*args, jnp.mean, 101))
        intervals.append(interval(jax.random.key(1), values))
    np.testing.assert_allclose(*intervals, rtol=1e-6)


@pytest.mark.slow
def test_two_thousand_resamples_of_a_thousand_runs_stay_small():
    def interval(key, values):
        return statistics.stratified_bootstrap(
            key, values, lambda values: statistics.interquartile_mean(values.ravel())
        )

    key, values = jax.random.key(0), jax.random.normal(jax.random.key(1), (1, 1000))
    compiled = jax.jit(interval).lower(key, values).compile()
    # All at once they would be 8 MB of values, 8 of indices and their random bits.
    assert compiled.memory_analysis().temp_size_in_bytes < 12e6
    low, high = compiled(key, values)
    assert low < statistics.interquartile_mean(values[0]) < high
    # The error of a normal's interquartile mean is 1.09 of the mean's (asymptotic efficiency 0.84).
    np.testing.assert_allclose(high - low, 2 * 1.96 * 1.09 / np.sqrt(1000), rtol=0.1)


def test_resamples_without_a_value_are_not_hidden():
    # Of 3 runs, two diverged: 8 of 27 resamples hold nothing.
    values = jnp.array([[1.0, jnp.nan, jnp.nan]])
    interval = jax.jit(
        lambda values: statistics.stratified_bootstrap(jax.random.key(0), values, jnp.nanmax, 200)
    )
    np.testing.assert_array_equal(interval(values), (np.nan, np.nan))
    worst = jnp.where(jnp.isnan(values), -jnp.inf, values)
    np.testing.assert_array_equal(interval(worst), (-np.inf, 1))


@pytest.mark.parametrize(("shape", "num_resamples"), [((1, 0), 10), ((0, 3), 10), ((1, 3), 0)])
def test_a_bootstrap_of_nothing_is_refused(shape, num_resamples):
    with pytest.raises(ValueError, match="needs a run and a resample"):
        statistics.stratified_bootstrap(
            jax.random.key(0), jnp.zeros(shape), jnp.mean, num_resamples
        )


# Comparisons --------------------------------------------------------------------------------------


@examples
@given(st.sampled_from([(1, 1), (7, 12)]), st.data())
def test_the_probability_of_improvement_is_mann_and_whitneys(lengths, data):
    values, baseline = (data.draw(samples(lengths=[length])) for length in lengths)
    expected = scipy.stats.mannwhitneyu(values, baseline, method="asymptotic").statistic
    expected = expected / (len(values) * len(baseline))
    result = in_float64(probability_of_improvement, values, baseline)
    np.testing.assert_allclose(result, expected, **FLOAT64)
    other = in_float64(probability_of_improvement, baseline, values)
    np.testing.assert_allclose(result + other, 1, **FLOAT64)


@examples
@given(
    samples(st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0, np.inf, np.nan]), [7]),
    samples(st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0, np.inf, np.nan]), [4]),
)
def test_infinities_and_signed_zeros_are_compared_and_nans_left_out(values, baseline):
    ours = in_float64(probability_of_improvement, values, baseline)
    values, baseline = values[~np.isnan(values)], baseline[~np.isnan(baseline)]
    if len(values) == 0 or len(baseline) == 0:
        assert np.isnan(ours)
        return
    pairs = values[:, None], baseline[None, :]
    expected = np.mean(pairs[0] > pairs[1]) + np.mean(pairs[0] == pairs[1]) / 2
    np.testing.assert_allclose(ours, expected, **FLOAT64)


def test_ten_thousand_against_ten_thousand_need_no_matrix():
    rng = np.random.default_rng(0)
    values, baseline = rng.integers(0, 500, (2, 10_000)).astype(np.float32)
    compiled = probability_of_improvement.lower(values, baseline).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2e6  # the matrix would be 400 MB
    expected = scipy.stats.mannwhitneyu(values, baseline, method="asymptotic").statistic / 1e8
    np.testing.assert_allclose(compiled(values, baseline), expected, rtol=1e-5)


@examples
@given(st.sampled_from([1, 5]), st.data())
def test_paired_improvement_is_the_fraction_of_seeds(length, data):
    elements = st.sampled_from([-np.inf, 0.0, 1.0, 2.0, np.nan])
    pairs = data.draw(st_numpy.arrays(np.float64, (2, length), elements=elements))
    result = in_float64(paired_improvement, *pairs)
    values, baseline = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if len(values) == 0:
        assert np.isnan(result)
        return
    expected = np.mean(np.where(values == baseline, 0.5, values > baseline))
    np.testing.assert_allclose(result, expected, **FLOAT64)


def test_pairs_see_what_all_pairs_do_not():
    # Every seed better by a little, the seeds far apart.
    baseline = jnp.arange(10.0)
    assert paired_improvement(baseline + 0.1, baseline) == 1
    np.testing.assert_allclose(
        probability_of_improvement(baseline + 0.1, baseline), 0.55, rtol=1e-6
    )


def test_many_settings_are_compared_with_one_baseline_by_vmap():
    values = np.random.default_rng(0).normal(size=(4, 9))
    together = jax.vmap(probability_of_improvement, (0, None))(values, values[0])
    apart = [probability_of_improvement(row, values[0]) for row in values]
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    assert together[0] == 0.5


# Time to solve ------------------------------------------------------------------------------------


@examples
@given(st.data(), st.sampled_from([3, 20]))
def test_steps_to_solve_are_the_definitions(data, window):
    shape = (8, 3)
    elements = st.sampled_from([0.0, 1.0, 2.0, 3.0, np.nan])
    returns = data.draw(st_numpy.arrays(np.float64, shape, elements=elements))
    added = data.draw(st_numpy.arrays(np.int32, shape, elements=st.integers(0, 5)))
    env_steps = np.cumsum(added, axis=0)
    result = in_float64(steps_to_solve, returns, env_steps, solved_at=2.0, window=window)
    expected = solving_by_definition(returns, env_steps, 2.0, window)
    np.testing.assert_array_equal(result, expected)
    in_float32 = steps_to_solve(
        returns.astype(np.float32), env_steps.astype(np.int32), solved_at=2.0, window=window
    )
    np.testing.assert_array_equal(in_float32, expected)


def test_steps_to_solve_by_hand():
    nan = np.nan
    returns = np.array(
        [
            [500.0, nan, 100, 0, 100, nan],
            [0, nan, 500, 0, 500, nan],
            [0, 500, 450, 0, nan, nan],
            [0, 0, 500, 0, nan, nan],
        ]
    )
    env_steps = np.cumsum(np.full(returns.shape, 128), axis=0)
    # At once; in the third update; 500 and 450 in the third; never; stopped, with one good
    # update after a bad one, when the bad one left the window; no episode at all.
    result = steps_to_solve(returns, env_steps, 475, window=2)
    np.testing.assert_array_equal(result, [128, 384, 384, np.inf, np.inf, np.inf])


def test_at_the_threshold_is_reached_whatever_the_rounding():
    for solved_at in (0.1, 0.7, 475.0, -110.0):
        returns = jnp.full((10, 1), solved_at)
        env_steps = jnp.arange(10.0)[:, None]
        # Also where the first update is not the one: a lone lower value before.
        assert steps_to_solve(returns, env_steps, solved_at, window=3)[0] == 0
        returns = returns.at[0].add(-1)
        assert steps_to_solve(returns, env_steps, solved_at, window=3)[0] == 3


def test_an_infinite_return_leaves_the_window():
    returns = jnp.array([[-jnp.inf], [5.0], [5.0], [5.0]])
    result = steps_to_solve(returns, jnp.arange(4)[:, None], 5.0, window=2)
    np.testing.assert_array_equal(result, [2])


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 update"):
        steps_to_solve(jnp.ones((2, 2)), jnp.ones((2, 2)), 1.0, window=0)


@examples
@given(samples(elements=st.integers(0, 9).map(float) | st.just(np.inf)))
def test_quantiles_of_solving_are_order_statistics(steps):
    result = in_float64(quantiles_of_solving, steps)
    np.testing.assert_array_equal(
        result, np.quantile(steps, [0.25, 0.5, 0.75], method="inverted_cdf")
    )
    assert np.isinf(result[1]) == (np.isfinite(steps).sum() < len(steps) / 2)


def test_quantiles_of_solving_by_hand():
    steps = jnp.array([[jnp.inf, 10, jnp.inf, 20], [jnp.inf, 10, jnp.inf, jnp.inf]])
    np.testing.assert_array_equal(
        quantiles_of_solving(steps), [[10, 20, np.inf], [10, np.inf, np.inf]]
    )
    np.testing.assert_array_equal(quantiles_of_solving(jnp.full(3, jnp.inf)), [np.inf] * 3)
    with pytest.raises(ValueError, match="no agents"):
        quantiles_of_solving(jnp.zeros(0))


# Dtypes -------------------------------------------------------------------------------------------


def everything(values):
    """One array [6, 5] through every function."""
    key = jax.random.key(0)
    return {
        "iqm": statistics.interquartile_mean(values),
        "summary": statistics.summarize(values, 2.0)._replace(count=values.ravel()[0] + 0.0),
        "bootstrap": statistics.stratified_bootstrap(key, values, jnp.mean, 20),
        "probability": statistics.probability_of_improvement(values[0], values[1]),
        "paired": statistics.paired_improvement(values[0], values[1]),
        "steps": statistics.steps_to_solve(values, jnp.cumsum(values, axis=0), 2.0, window=2),
        "quantiles": statistics.quantiles_of_solving(values),
    }


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_every_result_has_its_inputs_dtype_with_x64(dtype, x64):
    values = jnp.zeros((6, 5), dtype)
    results = jax.eval_shape(everything, values)
    expected = jnp.float32 if dtype == "float32" else jnp.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(expected)}
    assert statistics.summarize(values).count.dtype == jnp.int64


def test_every_result_is_float32_without_x64():
    for dtype in (jnp.float32, jnp.int32):
        results = jax.eval_shape(everything, jnp.zeros((6, 5), dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(jnp.float32)}
