"""ppo-jax train with --sweep, --search and groups: what it trains and writes. Statistics and ranks
are computed again from metrics.csv, returns from parameters.npz."""

import itertools
import json

import jax
import numpy as np
import pytest

from ppo_jax import population, ppo, recipe
from ppo_jax.run import load
from ppo_jax.run.storage import arrays
from tests.helpers.commands import read_rows, run_command
from tests.helpers.quick import quick_jit
from tests.helpers.statistics_by_definition import integrated_iqm, solving_by_definition

SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--num-updates", "12"),
    *("--device", "cpu"),
)
CONFIG = recipe("fast", num_envs=4, num_steps=32, hidden_sizes=(8,), num_updates=12)
SEED, SEEDS, UPDATES, GROUP = 3, 2, 12, 4
# The grid's, after the configuration's own, which it does not hold.
SETTINGS = [(2.5e-3, 0.98), *itertools.product((1e-2, 1e38), (0.9, 0.98))]
AGENTS = list(itertools.product(range(len(SETTINGS)), range(SEED, SEED + SEEDS)))
FROZEN = [agent for agent, (setting, _) in enumerate(AGENTS) if SETTINGS[setting][0] == 1e38]
SOLVED = 475.0
SWEPT = (
    *("--sweep", "learning_rate=1e-2,1e38", "--sweep", "discount=0.9,0.98", "--seed", SEED),
    *("--num-seeds", SEEDS, "--group-size", GROUP),
)


def column(rows, name, dtype=float):
    return np.array([dtype(row[name]) if row[name] else np.nan for row in rows])


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Ten agents, five settings with two seeds each, in groups of four; two settings diverge."""
    out = tmp_path_factory.mktemp("runs") / "swept"
    code, said, error = run_command("train", *SMALL, *SWEPT, "--out", out)
    assert (code, error) == (0, "")
    return out, said, json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def curves(swept):
    """metrics.csv's columns, [updates, agents] each, the agents in the table's order."""
    rows = read_rows(swept[0] / "metrics.csv")
    rows.sort(key=lambda row: int(row["update"]))  # groups come one after another
    return {name: column(rows, name).reshape(UPDATES, len(AGENTS)) for name in rows[0]}


def test_metrics_have_a_row_per_update_setting_and_seed(swept):
    out, _, summary = swept
    rows = read_rows(out / "metrics.csv")
    groups = [AGENTS[first : first + GROUP] for first in range(0, len(AGENTS), GROUP)]
    assert [len(group) for group in groups] == [4, 4, 2]
    assert [(row["update"], row["setting"], row["seed"]) for row in rows] == [
        (str(update), str(setting), str(seed))
        for group in groups
        for update in range(1, UPDATES + 1)
        for setting, seed in group
    ]
    active = len(AGENTS) - len(FROZEN)
    assert summary["env_steps"] == active * UPDATES * CONFIG.batch_size
    assert summary["num_updates"] == UPDATES
    assert (summary["num_settings"], summary["num_seeds"]) == (5, 2)


def test_frozen_agents_have_empty_cells(swept, curves):
    _, _, summary = swept
    assert summary["frozen_agents"] == {str(agent): 0 for agent in FROZEN}
    assert len(FROZEN) == 4
    for agent in range(len(AGENTS)):
        active = agent not in FROZEN
        np.testing.assert_array_equal(curves["env_steps"][:, agent], active * CONFIG.batch_size)
        steps = np.arange(1, UPDATES + 1) * CONFIG.batch_size * active
        np.testing.assert_array_equal(curves["step"][:, agent], steps)
        np.testing.assert_array_equal(np.isnan(curves["policy_loss"][:, agent]), not active)
        assert (curves["gradient_steps"][:, agent] > 0).all() == active


def test_settings_are_paired_by_their_seeds(curves):
    """An agent's first rollout is its seed's alone, and so are its first episodes."""
    for name in ("episodes", "episode_return", "episode_length"):
        first = curves[name][0].reshape(len(SETTINGS), SEEDS)
        trained = first[[0, 1, 2]]
        np.testing.assert_array_equal(trained, np.broadcast_to(trained[0], trained.shape))
        assert trained[0, 0] != trained[0, 1]
    # What they learn from them is not.
    for losses in curves["value_loss"][1, :6].reshape(3, SEEDS).T:
        assert len(set(losses)) == 3


def test_agents_frozen_at_the_start_keep_their_paired_initial_parameters(swept):
    with np.load(swept[0] / "parameters.npz") as saved:
        for seed in range(SEEDS):
            fresh = jax.jit(ppo.init)(jax.random.key(SEED + seed), CONFIG)
            for name, expected in arrays.to_named(fresh.params).items():
                for setting in (3, 4):
                    own = saved[name][setting * SEEDS + seed]
                    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)
                    np.testing.assert_array_equal(own, saved[name][3 * SEEDS + seed])
        trained = saved["trainable.network.actor.hidden_0.kernel"][: 3 * SEEDS]
    assert len(np.unique(trained.reshape(len(trained), -1), axis=0)) == len(trained)


def test_statistics_are_those_of_the_rows(swept, curves):
    rows = iter(read_rows(swept[0] / "statistics.csv"))
    quantiles = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
    some = 0
    for group, first in enumerate(range(0, len(AGENTS), GROUP), start=1):
        own = {name: values[:, first : first + GROUP] for name, values in curves.items()}
        steps = own["env_steps"].cumsum(axis=0).mean(axis=1)
        for update in range(UPDATES):
            row = next(rows)
            assert (row["group"], row["update"]) == (str(group), str(update + 1))
            assert row["step"] == str(round(steps[update]))
            assert row["agents"] == str(np.sum(own["gradient_steps"][update] > 0))
            known = own["episode_return"][update]
            known = known[~np.isnan(known)]
            some += len(known)
            if not known.size:
                assert all(row[name] == "" for name in ("mean", "iqm", *quantiles, "solved"))
                continue
            expected = {"mean": known.mean(), "iqm": integrated_iqm(known)}
            expected |= {name: np.quantile(known, at) for name, at in quantiles.items()}
            expected["solved"] = np.mean(known >= SOLVED)
            for name, value in expected.items():
                assert float(row[name]) == pytest.approx(value, rel=1e-5), name
    assert next(rows, None) is None
    assert some > UPDATES * 4


def test_the_agents_of_parameters_are_those_of_the_summary(swept):
    """Each agent's greedy return, computed again from its parameters and its own key, in a batch of
    all."""
    out, _, summary = swept
    with np.load(out / "parameters.npz") as saved:
        params = arrays.to_parameters(dict(saved), CONFIG)
    keys = population.agent_keys(SEED, SEEDS)[np.array([seed - SEED for _, seed in AGENTS])]
    evaluate = quick_jit(population.evaluate, static_argnums=3)
    returns = np.asarray(evaluate(params, CONFIG, keys, 100)).mean(axis=1)
    said = summary["eval_return_per_seed"]
    assert len(said) == len(AGENTS)
    for agent, value in enumerate(said):
        if value is not None:
            assert value == pytest.approx(returns[agent], abs=0.5)
    trained = [value for agent, value in enumerate(said) if agent not in FROZEN]
    assert min(abs(a - b) for a, b in itertools.combinations(trained, 2)) > 0.5


def test_agents_that_diverged_are_the_worst(swept):
    """Although an agent that never learned has finite parameters, and a return."""
    out, _, summary = swept
    for agent, value in enumerate(summary["eval_return_per_seed"]):
        assert (value is None) == (agent in FROZEN)
    rows = {int(row["setting"]): row for row in read_rows(out / "sweep.csv")}
    assert [rows[setting]["diverged"] for setting in range(5)] == ["0", "0", "0", "2", "2"]
    assert {rows[setting]["rank"] for setting in (3, 4)} == {"4", "5"}


def test_settings_are_ranked_as_the_agents_returns_say(swept, curves):
    out, _, summary = swept
    rows = read_rows(out / "sweep.csv")
    returns = np.array(summary["eval_return_per_seed"], float).reshape(len(SETTINGS), SEEDS)
    scores = np.where(np.isnan(returns), -np.inf, returns)
    # Of two, the interquartile mean is the mean, and resamples' percentiles are the two.
    means = scores.mean(axis=1)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [means[int(row["setting"])] for row in rows] == sorted(means, reverse=True)
    assert {int(row["setting"]) for row in rows} == set(range(5))
    solving = solving_by_definition(
        curves["episode_return"], curves["env_steps"].cumsum(axis=0), SOLVED, window=10
    ).reshape(len(SETTINGS), SEEDS)
    for row in rows:
        setting = int(row["setting"])
        own = scores[setting]
        assert (float(row["learning_rate"]), float(row["discount"])) == SETTINGS[setting]
        assert row["seeds"] == str(SEEDS)
        for name, value in (("iqm", own.mean()), ("low", own.min()), ("high", own.max())):
            if np.isfinite(value):
                assert float(row[name]) == pytest.approx(value, rel=1e-5)
            else:
                assert row[name] == ""
        wins = [(x > y) + (x == y) / 2 for x, y in itertools.product(own, scores[0])]
        assert row["improvement"] == ("" if setting == 0 else str(np.mean(wins)))
        assert float(row["solved"]) == np.mean(own >= SOLVED)
        assert np.isinf(solving[setting]).all()
        assert row["solved_after_q25"] == row["solved_after"] == row["solved_after_q75"] == ""
    assert summary["solved_fraction"] == np.mean(scores >= SOLVED)
    assert [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in summary["statistics"]
    ] == rows


def test_the_screen_has_the_ranking_and_the_groups(swept):
    out, said, summary = swept
    assert "seed 3 to 4, 5 settings, on cpu" in said
    assert "10 agents in 3 groups of 4, one after another" in said
    assert "5 settings × 2 seeds, best: interquartile mean of the greedy return" in said
    lines = said.splitlines()
    first = next(index for index, line in enumerate(lines) if "learning_rate" in line)
    shown = [line.split() for line in lines[first + 2 : first + 7]]
    for cells, row in zip(shown, summary["statistics"], strict=True):
        assert cells[0] == str(row["rank"])
        assert ("(default)" in cells) == (row["setting"] == 0)
        assert f"{row['learning_rate']:.4g}" in cells
        assert ("–" if row["iqm"] is None else f"{row['iqm']:.4g}") in cells
    for name in ("sweep.csv", "report.html", "statistics.csv", "metrics.csv"):
        assert name in lines[-1]
        assert (out / name).exists()


def test_the_report_of_the_end_is_the_command_s(swept, tmp_path):
    report = (swept[0] / "report.html").read_bytes()
    assert run_command("report", swept[0], "--out", tmp_path / "again.html", "--quiet")[0] == 0
    assert report == (tmp_path / "again.html").read_bytes()


def test_the_run_again_without_curves_has_the_same_statistics(swept, tmp_path):
    """And the same agents, to the bit."""
    out, other = swept[0], tmp_path / "run"
    again = ("--config", out / "config.json", "--device", "cpu", "--no-curves", "--quiet")
    assert run_command("train", *again, "--out", other) == (0, "", "")
    assert not (other / "metrics.csv").exists()
    assert b"There are no curves." in (other / "report.html").read_bytes()
    assert (other / "statistics.csv").read_bytes() == (out / "statistics.csv").read_bytes()
    with np.load(out / "parameters.npz") as one, np.load(other / "parameters.npz") as two:
        assert one.files == two.files
        assert all(one[name].tobytes() == two[name].tobytes() for name in one.files)
    for row, same in zip(read_rows(out / "sweep.csv"), read_rows(other / "sweep.csv"), strict=True):
        known = {name: "" if name.startswith("solved_after") else row[name] for name in row}
        assert same == known


def search(out, *ranges):
    """Runs a search of three samples, and returns its rows in the settings' order."""
    flags = itertools.chain(*(("--search", text) for text in ranges))
    arguments = (*SMALL, *flags, "--samples", 3, "--quiet", "--out", out)
    assert run_command("train", *arguments) == (0, "", "")
    return sorted(read_rows(out / "sweep.csv"), key=lambda row: int(row["setting"]))


def test_a_search_trains_the_configurations_own_setting_and_its_samples(tmp_path):
    """Four agents at once, of the sweep's hyperparameters: compiled already."""
    rows = search(tmp_path, "learning_rate=log:1e-4:1e-2", "discount=uniform:0.5:0.9")
    values = [(float(row["learning_rate"]), float(row["discount"])) for row in rows]
    assert values[0] == (2.5e-3, 0.98)
    assert len(set(values)) == 4
    assert all(1e-4 <= rate <= 1e-2 and 0.5 <= discount <= 0.9 for rate, discount in values[1:])
    metrics = read_rows(tmp_path / "metrics.csv")
    assert [(row["update"], row["setting"], row["seed"]) for row in metrics] == [
        (str(update), str(setting), "0") for update in range(1, UPDATES + 1) for setting in range(4)
    ]
    agents = json.loads((tmp_path / "config.json").read_text())["agents"]
    assert agents["samples"] == 3
    assert agents["search"] == ["learning_rate=log:0.0001:0.01", "discount=uniform:0.5:0.9"]
    # Each agent that is loaded has its own.
    run = load(tmp_path)
    found = [run.agent(number).config for number in range(4)]
    assert [(one.learning_rate, one.discount) for one in found] == values
    assert (run.config.learning_rate, run.config.discount) == values[0]


@pytest.mark.slow
def test_a_searchs_agents_run_with_their_samples(tmp_path):
    """Each agent of the file is the one that the library trains with the row's values."""
    rows = search(tmp_path, "learning_rate=log:1e-4:1e-2", "env_params.force_mag=uniform:5:15")
    rates, forces = column(rows, "learning_rate"), column(rows, "env_params.force_mag")
    assert len(set(forces)) == 4

    def train(rate, force):
        config = CONFIG.replace(learning_rate=rate, env_params={"force_mag": force})
        return ppo.train(jax.random.key(0), config)

    states, _ = jax.jit(jax.vmap(train))(rates, forces)
    with np.load(tmp_path / "parameters.npz") as saved:
        for name, expected in arrays.to_named(states.params).items():
            np.testing.assert_allclose(saved[name], expected, rtol=1e-3, atol=1e-3)
