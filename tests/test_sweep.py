"""Grids, random searches and their crossing; who is trained; what the flags say; the ranking."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ppo_jax import population, recipe, sweep
from ppo_jax.run import outcome as outcomes
from ppo_jax.run import report, roster, settings
from ppo_jax.run.failure import Failure
from tests.test_statistics import integrated_iqm, solving_by_definition

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


# The roster


def make(axes=None, ranges=None, num_samples=0, seed=0, num_seeds=1, config=CONFIG):
    return roster.make(config, axes or {}, ranges or {}, num_samples, seed, num_seeds)


def described(agents):
    return [tuple(agents.describe(setting).values()) for setting in range(agents.num_settings)]


def test_the_configurations_own_setting_is_first_and_not_twice():
    """Its place in the grid, or whether it is there at all, makes no difference."""
    agents = make({"learning_rate": (1e-2, 2.5e-3, 1e-4), "discount": (0.9, 0.98)})
    assert described(agents) == [
        (2.5e-3, 0.98),
        *((1e-2, 0.9), (1e-2, 0.98), (2.5e-3, 0.9), (1e-4, 0.9), (1e-4, 0.98)),
    ]
    agents = make({"learning_rate": (1e-2, 1e-4), "discount": (0.9,)})
    assert described(agents) == [(2.5e-3, 0.98), (1e-2, 0.9), (1e-4, 0.9)]
    agents = make({"learning_rate": (2.5e-3,)})
    assert described(agents) == [(2.5e-3,)]
    assert agents.num_settings == 1


def test_a_settings_own_values_are_the_environments_or_what_others_default_to():
    agents = make({"env_params.force_mag": (5.0,), "critic_learning_rate": (1.0,)})
    assert described(agents) == [(10.0, 2.5e-3), (5.0, 1.0)]
    agents = make(
        {"env_params.force_mag": (5.0,)}, config=recipe("fast", env_params={"force_mag": 7.0})
    )
    assert described(agents) == [(7.0,), (5.0,)]


def test_every_setting_has_every_seed():
    agents = make({"discount": (0.5, 0.75)}, seed=2**32 - 3, num_seeds=3)
    assert agents.num_settings == 3
    assert agents.seeds.dtype == np.uint32
    assert list(zip(agents.setting, agents.seeds, strict=True)) == list(
        itertools.product(range(3), range(2**32 - 3, 2**32))
    )
    alone = make(num_seeds=4)
    assert (alone.num_settings, alone.values) == (1, {})
    assert alone.seeds.tolist() == [0, 1, 2, 3]
    assert alone.setting.tolist() == [0] * 4
    assert alone.describe(0) == {}


def test_agents_are_configured_with_their_settings_values():
    agents = make({"discount": (0.5, 0.75), "env_params.force_mag": (5.0,)}, num_seeds=2)
    config = agents.configure(CONFIG, np.array([5, 0, 3]))
    assert config.discount.tolist() == np.float32([0.75, 0.98, 0.5]).tolist()
    assert config.env_params["force_mag"].tolist() == [5, 10, 5]
    assert config.learning_rate == CONFIG.learning_rate
    assert make(num_seeds=2).configure(CONFIG, np.array([0, 1])) == CONFIG


def test_a_search_does_not_depend_on_the_agents_seeds_and_is_crossed_with_the_grid():
    ranges = {"learning_rate": ("log", 1e-5, 1e-2)}
    agents = make({"discount": (0.5, 0.75)}, ranges, num_samples=3, seed=1, num_seeds=2)
    own, *settings = described(agents)
    assert own == (0.98, 2.5e-3)
    assert [discount for discount, _ in settings] == [0.5] * 3 + [0.75] * 3
    rates = [rate for _, rate in settings]
    assert rates[:3] == rates[3:]
    assert len(set(rates)) == 3
    others = make({}, ranges, num_samples=3, seed=9)
    assert [rate for (rate,) in described(others)[1:]] == rates[:3]


@pytest.mark.parametrize("size", range(1, 9))
def test_groups_hold_every_agent_once_and_the_last_is_filled_up(size):
    agents = make({"discount": (0.5, 0.75)}, num_seeds=2)  # six agents
    groups = list(agents.groups(size))
    assert all(len(who) == size for who, _ in groups)
    counted = [agent for who, count in groups for agent in who[:count].tolist()]
    assert counted == list(range(6))
    who, count = groups[-1]
    assert (who[count:] == 5).all()
    assert len(groups) == -(-6 // size)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_agents_out_in_as_many_groups_each(processes, size):
    agents = make({"discount": (0.5, 0.75, 0.25)}, num_seeds=2)  # eight agents
    shares = [list(agents.groups(size, process, processes)) for process in range(processes)]
    assert len({len(groups) for groups in shares}) == 1
    assert all(len(who) == size for groups in shares for who, _ in groups)
    counted = [agent for groups in shares for who, count in groups for agent in who[:count]]
    assert counted == list(range(8))


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (CONFIG, "env_params.force", "CartPole-v1 has no parameter 'force'; there are: gravity, "),
        (CONFIG, "env_params.max_steps_in_episode", "static; give max_episode_steps"),
        (
            recipe("fast", max_grad_norm=None),
            "max_grad_norm",
            "max_grad_norm has no numeric default; set --max-grad-norm",
        ),
        (
            recipe("fast", env="Acrobot-v1"),
            "env_params.available_torque",
            "env_params.available_torque of Acrobot-v1 is an array; only a number varies",
        ),
        (CONFIG, "num_epochs", "num_epochs is static"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(config, name, message):
    assert message in refused(roster.make, config, {name: (1.0,)}, {}, 0, 0, 1)


# Groups together


def outcome(agents, updates, **others):
    """Made-up agents after so many updates of 100 steps each."""
    agents, steps = np.array(agents), 100 * np.arange(1, updates + 1)
    curves = np.broadcast_to(steps[:, None], (updates, len(agents)))
    fields = {
        "agents": agents,
        "params": {"actor.0.bias": np.stack([agents, agents], 1)},
        "updates": np.full(len(agents), updates),
        "frozen": agents == 1,
        "eval_returns": agents.astype(float),
        "returns": curves / 2 + agents,
        "env_steps": curves,
        "digests": np.zeros((len(agents), 32), np.uint8),
        "evolution": None,
    }
    return outcomes.Outcome(**{**fields, **others})


def test_groups_together_are_in_the_rosters_order():
    whole = outcomes.join([outcome([0, 3, 1], 4), outcome([4, 2], 4)])
    assert whole.agents.tolist() == whole.eval_returns.tolist() == [0, 1, 2, 3, 4]
    assert whole.params["actor.0.bias"].tolist() == [[agent] * 2 for agent in range(5)]
    assert whole.frozen.tolist() == [False, True, False, False, False]
    np.testing.assert_array_equal(whole.returns[-1], [200, 201, 202, 203, 204])
    np.testing.assert_array_equal(whole.env_steps[:, 2], [100, 200, 300, 400])


def test_a_group_that_stopped_early_made_no_more_steps():
    """Its agents' steps so far never fall, and it has no returns beyond."""
    whole = outcomes.join([outcome([0, 1], 2), outcome([2], 4)])
    assert whole.updates.tolist() == [2, 2, 4]
    assert np.isnan(whole.returns[2:, :2]).all()
    assert np.isfinite(whole.returns[:, 2]).all()
    np.testing.assert_array_equal(whole.env_steps[:, 0], [100, 200, 200, 200])
    np.testing.assert_array_equal(whole.env_steps[:, 2], [100, 200, 300, 400])


def test_a_signal_in_a_later_group_leaves_what_was_trained():
    """Then there are no evaluations, and, without a chunk, no curves."""
    for missing in (("eval_returns",), ("eval_returns", "returns", "env_steps")):
        whole = outcomes.join([outcome([0, 1], 4), outcome([2], 1, **dict.fromkeys(missing))])
        assert whole.params["actor.0.bias"].tolist() == [[0, 0], [1, 1], [2, 2]]
        assert whole.updates.tolist() == [4, 4, 1]
        assert whole.eval_returns is None


# The flags


def read(sweep=(), search=(), samples=0):
    return settings.read(sweep, search, samples, CONFIG)


def test_sweeps_and_searches_are_read():
    axes, ranges = read(
        ["learning-rate=1e-4, 3e-4", " env_params.force_mag =5,-1", "discount=1"],
        ["clip_range=uniform:0.1:0.3", "adam-epsilon=log:1e-8:1e-4"],
        7,
    )
    assert axes == {
        "learning_rate": (1e-4, 3e-4),
        "env_params.force_mag": (5.0, -1.0),
        "discount": (1.0,),
    }
    assert ranges == {"clip_range": ("uniform", 0.1, 0.3), "adam_epsilon": ("log", 1e-8, 1e-4)}
    assert settings.count(axes) == 4
    assert read() == ({}, {})
    assert settings.count({}) == 1


SWEEP_FORM = "is not of the form learning_rate=1e-4,3e-4"
SEARCH_FORM = "is not of the form learning_rate=log:1e-5:1e-2"
RANGE_FORM = "the range is not of the form log:LOW:HIGH or uniform:…"
ENDS = "LOW must be below HIGH, and above 0 for log"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"'' {SWEEP_FORM}"),
        ("learning_rate", f"'learning_rate' {SWEEP_FORM}"),
        ("learning_rate=", f"'learning_rate=' {SWEEP_FORM}"),
        ("=1,2", f"'=1,2' {SWEEP_FORM}"),
        (" =1", f"' =1' {SWEEP_FORM}"),
        ("discount=0.9,", "'discount=0.9,': '' is not a number"),
        ("discount=high", "'discount=high': 'high' is not a number"),
        ("discount=0.9:0.99", "'discount=0.9:0.99': '0.9:0.99' is not a number"),
        ("discount=0.9=1", "'discount=0.9=1': '0.9=1' is not a number"),
        ("discount=1.1", "'discount=1.1': discount is 1.1; it must be between 0 and 1"),
        ("discount=nan", "'discount=nan': discount is nan; it must be between 0 and 1"),
        (
            "learning_rate=-1",
            "'learning_rate=-1': learning_rate is -1.0; it must be positive and finite",
        ),
        ("learning_rate=1e39", "'learning_rate=1e39': 1e39 is too large for float32"),
        ("env_params.x=inf", "'env_params.x=inf': env_params x is inf; it must be finite"),
        ("num_envs=1,2", "'num_envs=1,2': num_envs is static: it sizes arrays or chooses a"),
        ("num-envs=1,2", "'num-envs=1,2': num_envs is static: it sizes arrays or chooses a"),
        (
            "rate=1",
            "'rate=1': 'rate' is not a sweepable hyperparameter; "
            "there are env_params.NAME, learning_rate",
        ),
        (
            "env_params=1",
            "'env_params=1': 'env_params' is not a sweepable hyperparameter; "
            "did you mean env_params",
        ),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line_that_has_it(text, message):
    with pytest.raises(Failure) as error:
        read(["clip_range=0.1", text])
    assert str(error.value).startswith(f"--sweep {message}")
    assert error.value.code == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"'' {SEARCH_FORM}"),
        ("discount", f"'discount' {SEARCH_FORM}"),
        ("discount=", f"'discount=' {SEARCH_FORM}"),
        ("discount=0.9:1", f"'discount=0.9:1': {RANGE_FORM}"),
        ("discount=uniform:0.9", f"'discount=uniform:0.9': {RANGE_FORM}"),
        ("discount=uniform:0:1:2", f"'discount=uniform:0:1:2': {RANGE_FORM}"),
        ("discount=normal:0:1", f"'discount=normal:0:1': {RANGE_FORM}"),
        ("discount=log:a:1", "'discount=log:a:1': 'a' is not a number"),
        ("discount=log::1", "'discount=log::1': '' is not a number"),
        ("discount=uniform:1:0", f"'discount=uniform:1:0': {ENDS}"),
        ("discount=uniform:1:1", f"'discount=uniform:1:1': {ENDS}"),
        ("discount=uniform:nan:1", f"'discount=uniform:nan:1': {ENDS}"),
        ("discount=log:0:1", f"'discount=log:0:1': {ENDS}"),
        ("discount=uniform:0:2", "'discount=uniform:0:2': discount is 2.0; it must be between 0"),
        (
            "learning_rate=uniform:0:1",
            "'learning_rate=uniform:0:1': learning_rate is 0.0; it must be positive and finite",
        ),
        ("num_steps=log:1:2", "'num_steps=log:1:2': num_steps is static"),
        (
            "discont=log:1:2",
            "'discont=log:1:2': 'discont' is not a sweepable hyperparameter; "
            "did you mean discount?",
        ),
    ],
)
def test_a_bad_search_is_refused_in_one_line_that_has_it(text, message):
    with pytest.raises(Failure) as error:
        read([], [text], 3)
    assert str(error.value).startswith(f"--search {message}")
    assert error.value.code == 2
    assert "\n" not in str(error.value)


TWICE = "discount varies twice; give all its values at once"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["discount=1", "discount=0.5"],), f"--sweep 'discount=0.5': {TWICE}"),
        (
            (["discount=1"], ["discount=log:0.5:1"], 3),
            f"--search 'discount=log:0.5:1': {TWICE}",
        ),
        (([], ["discount=log:0.5:1"]), "--samples is 0; say how many settings --search draws"),
        (([], ["discount=log:0.5:1"], -2), "--samples is -2; say how many settings --search draws"),
        (([], [], 3), "--samples is 3, but there is no --search to draw them from"),
        ((["discount=1"], [], 3), "--samples is 3, but there is no --search to draw them from"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(Failure) as error:
        read(*arguments)
    assert str(error.value) == message
    assert error.value.code == 2


def test_reading_the_flags_needs_no_jax():
    code = """
import sys
from ppo_jax.config import Config
from ppo_jax.run import settings
settings.read(["discount=0.9"], ["clip_range=log:0.1:1"], 2, Config())
print("jax" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


# The ranking


SEEDS, UPDATES = 9, 25
QUARTILES = ("solved_after_q25", "solved_after", "solved_after_q75")


@pytest.fixture(scope="module")
def ranked():
    """Made-up agents of five settings: of setting 2 some diverged, of setting 3 all did; the
    environment steps go beyond 2**31."""
    draw = np.random.default_rng(0)
    agents = make({"discount": (0.5, 0.6, 0.7, 0.8)}, num_seeds=SEEDS)
    centres = np.array([440, 470, 480, 480, 410])[agents.setting]
    eval_returns = np.minimum(draw.normal(centres, 30), 500)
    eval_returns[agents.setting == 3] = np.nan
    eval_returns[np.flatnonzero(agents.setting == 2)[:2]] = np.nan
    learning = np.linspace(-150, 50, UPDATES)[:, None]
    returns = np.minimum(centres + learning + draw.normal(0, 30, (UPDATES, len(centres))), 500)
    returns[draw.random(returns.shape) < 0.1] = np.nan
    steps = draw.integers(2**27, 2**28, returns.shape).cumsum(axis=0)
    assert steps[-1].min() > 2**31
    returns = returns.astype(np.float32)
    rows = report.rank(agents, eval_returns, returns, steps, SOLVED)
    return agents, eval_returns, returns, steps, rows


def test_settings_are_ranked_by_their_interquartile_means(ranked):
    agents, eval_returns, _, _, rows = ranked
    scores = np.where(np.isnan(eval_returns), -np.inf, eval_returns)
    means = [integrated_iqm(scores[agents.setting == setting]) for setting in range(5)]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["setting"] for row in rows] == np.argsort(means)[::-1].tolist()
    assert rows[-1]["setting"] == 3
    assert rows[-1]["iqm"] is rows[-1]["low"] is rows[-1]["high"] is None
    for row in rows:
        own = scores[agents.setting == row["setting"]]
        assert row["discount"] == (0.98, 0.5, 0.6, 0.7, 0.8)[row["setting"]]
        assert row["seeds"] == SEEDS
        assert row["solved"] == np.mean(own >= SOLVED)
        assert row["diverged"] == np.isneginf(own).sum() == {2: 2, 3: 9}.get(row["setting"], 0)
        if row["setting"] != 3:
            assert row["iqm"] == pytest.approx(means[row["setting"]], rel=1e-5)


def test_an_interval_is_the_percentiles_of_resampled_means(ranked):
    agents, eval_returns, _, _, rows = ranked
    draw = np.random.default_rng(1)
    for row in rows:
        own = eval_returns[agents.setting == row["setting"]]
        if np.isnan(own).any():
            continue
        means = [integrated_iqm(draw.choice(own, SEEDS)) for _ in range(2000)]
        low, high = np.quantile(means, [0.025, 0.975])
        width = high - low
        assert row["low"] == pytest.approx(low, abs=width / 8)
        assert row["high"] == pytest.approx(high, abs=width / 8)
        assert row["low"] < row["iqm"] < row["high"]


def test_an_improvement_is_over_all_pairs_with_the_default(ranked):
    agents, eval_returns, _, _, rows = ranked
    scores = np.where(np.isnan(eval_returns), -np.inf, eval_returns)
    default = scores[agents.setting == 0]
    for row in rows:
        if row["setting"] == 0:
            assert row["improvement"] is None
            continue
        own = scores[agents.setting == row["setting"]]
        wins = [(x > y) + (x == y) / 2 for x, y in itertools.product(own, default)]
        assert row["improvement"] == pytest.approx(np.mean(wins), rel=1e-5)


def test_steps_to_solve_are_counted_beyond_32_bits(ranked):
    agents, _, returns, steps, rows = ranked
    solving = solving_by_definition(returns.astype(np.float64), steps, SOLVED, window=10)
    known = 0
    for row in rows:
        own = np.sort(solving[agents.setting == row["setting"]])
        for quarter, name in enumerate(QUARTILES, start=1):
            expected = own[-(-quarter * SEEDS // 4) - 1]
            if np.isinf(expected):
                assert row[name] is None
            else:
                known += expected > 2**31
                assert row[name] == pytest.approx(expected, rel=1e-6)
    assert known >= 3


def test_without_curves_or_a_threshold_there_are_no_steps_to_solve(ranked):
    agents, eval_returns, returns, steps, rows = ranked
    without_curves = report.rank(agents, eval_returns, None, None, SOLVED)
    without_threshold = report.rank(agents, eval_returns, returns, steps, None)
    for row, one, other in zip(rows, without_curves, without_threshold, strict=True):
        for name in row:
            if name.startswith("solved"):
                assert one[name] == (row["solved"] if name == "solved" else None)
                assert other[name] is None
            else:
                assert row[name] == one[name] == other[name]
