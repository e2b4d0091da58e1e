"""Grids, random searches, their crossing, and the agents that they make."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppo_jax import population, recipe, sweep

CONFIG = recipe("fast")
SOLVED = 475.0


def rows_of(values):
    """The settings as tuples, one a setting."""
    return list(zip(*(np.asarray(array).tolist() for array in values.values()), strict=True))


def refused(function, *arguments):
    """The one line with which the function refuses."""
    with pytest.raises(ValueError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


# Settings


def test_a_grid_is_every_combination_the_last_name_fastest():
    axes = {"discount": [0.5, 0.75, 1.0], "clip_range": [0.25, 0.5], "entropy_coefficient": [0, 2]}
    grid = sweep.grid(axes)
    assert list(grid) == list(axes)
    assert rows_of(grid) == list(itertools.product(*axes.values()))
    assert sweep.count(grid) == 12
    assert all(values.shape == (12,) and values.dtype == jnp.float32 for values in grid.values())


def test_without_axes_there_is_the_one_setting_of_the_configuration():
    assert sweep.grid({}) == {}
    assert sweep.count({}) == 1
    keys, config = sweep.agents(population.agent_keys(3, 2), CONFIG, {})
    assert keys.shape == (2,)
    assert config == CONFIG


RANGES = {
    "learning_rate": ("log", 1e-5, 1e-2),
    "discount": ("uniform", 0.9, 0.999),
    "env_params.force_mag": ("uniform", -4.0, 6.0),
    "clip_range": ("log", 0.1, 0.4),
}


@pytest.fixture(scope="module")
def searched():
    """Many random settings of all the ranges, in float64."""
    found = sweep.search(jax.random.key(0), RANGES, 4000)
    assert list(found) == list(RANGES)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


@pytest.mark.parametrize("name", RANGES)
def test_a_search_is_uniform_in_its_range_or_in_its_logarithm(searched, name):
    scale, low, high = RANGES[name]
    values = searched[name]
    assert values.shape == (4000,)
    # Up to float32's rounding, of the logarithm too.
    slack = 1e-5 * max(abs(low), abs(high)) if scale == "uniform" else 1e-5 * low
    assert low - slack <= values.min() < values.max() <= high + slack
    if scale == "log":
        values, low, high = np.log(values), np.log(low), np.log(high)
    uniform = scipy.stats.uniform(low, high - low)
    assert scipy.stats.kstest(values, uniform.cdf).pvalue > 0.01
    # The test has power: squares are not uniform.
    squares = ((values - low) / (high - low)) ** 2
    assert scipy.stats.kstest(squares, "uniform").pvalue < 1e-6


def test_a_searchs_values_are_independent(searched):
    logs = np.stack([scipy.stats.rankdata(values) for values in searched.values()])
    correlations = np.corrcoef(logs)[np.triu_indices(len(RANGES), 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(4000)


def test_a_search_depends_on_its_key_alone():
    one, same, other = (sweep.search(jax.random.key(key), RANGES, 5) for key in (1, 1, 2))
    assert rows_of(one) == rows_of(same)
    assert not set(rows_of(one)) & set(rows_of(other))
    assert len(set(rows_of(one))) == 5


@pytest.mark.parametrize(
    ("bounds", "shown"),
    [
        (("uniform", 1.0, 1.0), "uniform:1:1"),
        (("uniform", 2.0, 1.0), "uniform:2:1"),
        (("log", 0.0, 1.0), "log:0:1"),
        (("log", -1.0, 1.0), "log:-1:1"),
        (("uniform", float("nan"), 1.0), "uniform:nan:1"),
    ],
)
def test_a_range_that_holds_nothing_is_refused(bounds, shown):
    message = refused(sweep.search, jax.random.key(0), {"discount": bounds}, 3)
    assert message == (
        f"the range of discount is {shown}; it needs low < high, and above 0 for log"
    )


def test_settings_are_crossed_the_second_fastest():
    one = {"discount": jnp.array([0.5, 0.75]), "clip_range": jnp.array([1.0, 2.0])}
    other = {"entropy_coefficient": jnp.array([0.0, 1.0, 2.0])}
    crossed = sweep.cross(one, other)
    assert list(crossed) == ["discount", "clip_range", "entropy_coefficient"]
    pairs = itertools.product(rows_of(one), rows_of(other))
    assert rows_of(crossed) == [(*first, *second) for first, second in pairs]
    for only in (sweep.cross(one, {}), sweep.cross({}, one)):
        assert rows_of(only) == rows_of(one)


# Agents


def test_agents_are_setting_by_setting_with_the_same_keys_in_each():
    keys = population.agent_keys(3, 4)
    values = {
        "learning_rate": jnp.array([1e-3, 1e-4, 1e-5]),
        "env_params.force_mag": jnp.array([5.0, 10.0, 20.0]),
    }
    every, config = sweep.agents(keys, CONFIG, values)
    data = jax.random.key_data(every)
    assert data.shape == (12, 2)
    for agent, (setting, seed) in enumerate(itertools.product(range(3), range(4))):
        assert data[agent].tolist() == [0, 3 + seed]
        assert config.learning_rate[agent] == values["learning_rate"][setting]
        assert config.env_params["force_mag"][agent] == values["env_params.force_mag"][setting]
    assert config.discount == CONFIG.discount
    assert CONFIG.env_params == {}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("num_envs", [1, 2], "num_envs is static: it sizes arrays or chooses a formula"),
        ("activation", [1], "activation is static"),
        ("clip_value", [0, 1], "clip_value is static"),
        (
            "learning_rte",
            [1e-3],
            "'learning_rte' is not a sweepable hyperparameter; did you mean learning_rate?",
        ),
        ("lr", [1e-3], "'lr' is not a sweepable hyperparameter; did you mean learning_rate?"),
        (
            "env_params",
            [1],
            "'env_params' is not a sweepable hyperparameter; did you mean env_params.NAME?",
        ),
        (
            "quux",
            [1],
            "'quux' is not a sweepable hyperparameter; there are env_params.NAME, learning_rate, ",
        ),
        ("discount", [0.9, 1.5], "discount is 1.5; it must be between 0 and 1"),
        ("learning_rate", [1e-3, 0], "learning_rate is 0.0; it must be positive and finite"),
        ("learning_rate", [np.nan], "learning_rate is nan; it must be positive and finite"),
        ("entropy_coefficient", [-1], "entropy_coefficient is -1.0; it must be at least 0"),
        ("env_params.force_mag", [1, np.inf], "env_params force_mag is inf; it must be finite"),
        ("clip_range", [], "clip_range is empty; give a value"),
    ],
)
def test_what_agents_cannot_differ_in_is_refused_in_one_line(name, values, message):
    said = refused(sweep.agents, population.agent_keys(0, 2), CONFIG, {name: jnp.array(values)})
    assert message in said
