"""ppo-jax evaluate: its returns beside a loop of one's own over gymnasium's CartPole."""

import json
import shutil

import gymnasium
import numpy as np
import pytest
from scipy import stats

from ppo_jax.run import load
from tests.helpers.commands import SMALL, refused, run_command

EPISODES = 200  # of the loop in Python


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three agents, one after another."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = (*SMALL, "--num-seeds", 3, "--group-size", 1, "--quiet", "--out", out)
    assert run_command("train", *arguments) == (0, "", "")
    return out


@pytest.fixture(scope="module")
def evaluated(run):
    """What is said and written of all agents."""
    code, said, error = run_command("evaluate", run, "--seed", 3)
    assert (code, error) == (0, "")
    return said, read(run)


def read(run):
    return json.loads((run / "evaluation.json").read_text())


def play(run, agent, force=10.0, sampled=False):
    """Returns of episodes of gymnasium's CartPole, the network in NumPy, [EPISODES]."""
    with np.load(run / "parameters.npz") as saved:
        hidden, hidden_bias, output, output_bias = (
            saved[f"trainable.network.actor.{name}"][agent].astype(float)
            for name in ("hidden_0.kernel", "hidden_0.bias", "output.kernel", "output.bias")
        )
    draw, returns = np.random.default_rng(0), []
    world = gymnasium.make("CartPole-v1")
    world.unwrapped.force_mag = force
    for episode in range(EPISODES):
        observation, total, done = world.reset(seed=episode)[0], 0.0, False
        while not done:
            logits = np.tanh(observation @ hidden + hidden_bias) @ output + output_bias
            odds = 1 / (1 + np.exp(logits[0] - logits[1]))
            action = int(draw.random() < odds) if sampled else int(odds > 0.5)
            observation, reward, terminated, truncated, _ = world.step(action)
            total, done = total + reward, terminated or truncated
        returns.append(total)
    return np.array(returns)


def agrees(found, returns, episodes=1000):
    """Whether a mean is that of such returns, and its interval is as wide as theirs."""
    deviation = returns.std(ddof=1)
    error = deviation * np.sqrt(1 / len(returns) + 1 / episodes)
    assert abs(found["mean"] - returns.mean()) < 4.5 * error
    low, high = stats.norm.interval(0.95, returns.mean(), deviation / np.sqrt(episodes))
    assert found["high"] - found["low"] == pytest.approx(high - low, rel=0.25)
    assert found["mean"] == pytest.approx((found["low"] + found["high"]) / 2)


def test_every_agents_mean_is_that_of_gymnasiums_episodes(run, evaluated):
    _, written = evaluated
    assert (written["episodes"], written["sampled"], written["seed"]) == (1000, False, 3)
    assert [one["agent"] for one in written["agents"]] == [0, 1, 2]
    assert all(set(one) == {"agent", "mean", "low", "high"} for one in written["agents"])
    for agent, found in enumerate(written["agents"]):
        agrees(found, play(run, agent))
    means = [one["mean"] for one in written["agents"]]
    assert len(set(means)) == 3


def test_what_is_written_is_said(run, evaluated):
    said, written = evaluated
    lines = said.splitlines()
    assert "mean greedy return" in lines
    for one in written["agents"]:
        expected = f"{one['mean']:.4g} {one['low']:.4g} to {one['high']:.4g}"
        assert any(line.split() == [f"{one['agent']}", *expected.split()] for line in lines)
    assert lines[-1] == f"wrote {run / 'evaluation.json'}"


def test_several_runs_are_evaluated_one_after_another(run, evaluated, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "evaluation.json").unlink()
    code, said, error = run_command("evaluate", run, other, "--seed", 3)
    assert (code, error) == (0, "")
    for path in (run, other):
        assert f"mean greedy return of {path}" in " ".join(said.split())
        assert read(path) == evaluated[1]


def test_sampled_actions_are_sampled(run, evaluated):
    arguments = ("--agent", 1, "--sampled", "--episodes", 500, "--quiet")
    assert run_command("evaluate", run, *arguments) == (0, "", "")
    written = read(run)
    assert (written["episodes"], written["sampled"]) == (500, True)
    (found,) = written["agents"]
    assert found["agent"] == 1
    agrees(found, play(run, 1, sampled=True), 500)
    assert found["high"] < evaluated[1]["agents"][1]["low"], "greedy is better here"


def test_an_agent_has_its_own_episodes_whoever_is_evaluated_beside_it(run, evaluated):
    flags = ("--seed", 3, "--quiet")
    for arguments, agents in ((("--agent", 2), [2]), (("--all",), [0, 1, 2])):
        assert run_command("evaluate", run, *arguments, *flags) == (0, "", "")
        written = read(run)
        assert [one["agent"] for one in written["agents"]] == agents
        for one in written["agents"]:
            before = evaluated[1]["agents"][one["agent"]]
            assert one["mean"] == pytest.approx(before["mean"], rel=0.01)
    assert run_command("evaluate", run, "--agent", 2, "--seed", 4, "--quiet") == (0, "", "")
    assert read(run)["agents"][0]["mean"] != evaluated[1]["agents"][2]["mean"]


def test_each_agent_plays_in_its_own_environment(run, tmp_path):
    """The same agents, said to be of a sweep of the force: gymnasium's with that force."""
    swept = tmp_path / "run"
    shutil.copytree(run, swept)
    description = json.loads((swept / "config.json").read_text())
    description["agents"] |= {"num_seeds": 1, "sweep": ["env_params.force_mag=3,25"]}
    (swept / "config.json").write_text(json.dumps(description))
    assert run_command("evaluate", swept, "--quiet") == (0, "", "")
    assert load(swept).hyperparameters["env_params.force_mag"].tolist() == [10, 3, 25]
    for found, force in zip(read(swept)["agents"], (10.0, 3.0, 25.0), strict=True):
        agrees(found, play(swept, found["agent"], force))


def test_an_interval_is_scipys(run):
    """Of two episodes whose returns are whole numbers, which mean and interval tell."""
    assert run_command("evaluate", run, "--episodes", 2, "--quiet") == (0, "", "")
    differences = []
    for found in read(run)["agents"]:
        half = (found["high"] - found["low"]) / 2
        difference = 2 * half / stats.norm.ppf(0.975)  # standard error: |a - b| / 2
        returns = [found["mean"] - difference / 2, found["mean"] + difference / 2]
        np.testing.assert_allclose(returns, np.round(returns), atol=1e-3)
        low, high = stats.norm.interval(0.95, found["mean"], stats.sem(returns))
        assert (found["low"], found["high"]) == pytest.approx((low, high), rel=1e-5)
        differences.append(difference)
    assert max(differences) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("RUN --agent 3", "agent is 3; the run's agents are 0 to 2"),
        ("RUN --agent -1", "agent is -1; the run's agents are 0 to 2"),
        ("RUN --agent 1 --all", "--agent 1 and --all: leave out one"),
        ("RUN --episodes 1", "--episodes is 1"),
        ("RUN --seed -1", "seeds go from 0 to 4294967295"),
        ("missing", "missing is not a run's folder: it has no config.json"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(arguments, message, run):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    refused(2, message, "evaluate", *arguments.replace("RUN", str(run)).split())
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_run_that_saved_no_agents_is_refused(run, tmp_path):
    half = tmp_path / "run"
    half.mkdir()
    shutil.copy(run / "config.json", half)
    refused(2, "the run saved no agents yet", "evaluate", half)
    shutil.copy(run / "summary.json", half)
    (half / "parameters.npz").write_bytes(b"nothing")
    refused(2, "is corrupt", "evaluate", half)
