"""The ranking of the settings of a sweep, by the definitions of its columns."""

import itertools

import numpy as np
import pytest

from ppo_jax.run import ranking
from tests.helpers.agents import make_table
from tests.helpers.statistics_by_definition import integrated_iqm, solving_by_definition

SOLVED = 475.0
SEEDS, UPDATES = 9, 25
QUARTILES = ("solved_after_q25", "solved_after", "solved_after_q75")


@pytest.fixture(scope="module")
def ranked():
    """Made-up agents of five settings: of setting 2 some diverged, of setting 3 all did; the
    environment steps go beyond 2**31."""
    draw = np.random.default_rng(0)
    agents = make_table("discount=0.5,0.6,0.7,0.8", num_seeds=SEEDS)
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
    solving = ranking.steps_to_solve({"episode_return": returns, "step": steps}, SOLVED)
    rows = ranking.rank(agents, eval_returns, solving, SOLVED)
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


def test_of_settings_with_equal_returns_the_one_that_solved_earlier_is_better():
    agents = make_table("discount=0.5,0.6", num_seeds=3)
    solving = np.array([900, 900, np.inf, 300, 300, 300, 600, 600, 600], np.float32)
    rows = ranking.rank(agents, np.full(9, 500.0), solving, SOLVED)
    assert [row["setting"] for row in rows] == [1, 2, 0]


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


def test_one_seed_has_no_interval():
    rows = ranking.rank(make_table("discount=0.5"), np.array([400.0, 500.0]), None, SOLVED)
    assert [row["iqm"] for row in rows] == [500, 400]
    assert {row[end] for row in rows for end in ("low", "high")} == {None}
    assert [cells[3] for cells in ranking.shown(rows, ["discount"])[1]] == ["–", "–"]


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
    metrics = {"episode_return": returns, "step": steps}
    without_curves = ranking.rank(agents, eval_returns, ranking.steps_to_solve({}, SOLVED), SOLVED)
    none = ranking.steps_to_solve(metrics, None)
    without_threshold = ranking.rank(agents, eval_returns, none, None)
    for row, one, other in zip(rows, without_curves, without_threshold, strict=True):
        for name in row:
            if name.startswith("solved"):
                assert one[name] == (row["solved"] if name == "solved" else None)
                assert other[name] is None
            else:
                assert row[name] == one[name] == other[name]
