"""ppo-jax replay: what it trains again, plays, writes and refuses."""

import csv
import json
import os
import shutil

import gymnax
import jax
import numpy as np
import pytest

from ppo_jax import evaluate, ppo
from ppo_jax.run import devices, load, replaying
from tests.helpers.commands import finish, read_rows, refused, run_command, start

SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--num-updates", "12"),
    *("--sweep", "learning_rate=1e-3,1e38,1e-2", "--sweep", "discount=0.98", "--seed", "5"),
)
DIVERGING = 2  # the agent whose learning rate is 1e38


def summary(path):
    return json.loads((path / "summary.json").read_text())


def replay(*arguments):
    code, said, error = run_command("replay", *arguments)
    assert (code, error) == (0, "")
    return said


def edit(path, box=None, **changes):
    content = json.loads(path.read_text())
    (content[box] if box else content).update(changes)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four settings of one seed, in as many lanes: the programs of test_sweep, compiled once."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = (*SMALL, "--device", "cpu", "--quiet", "--out", out)
    assert run_command("train", *arguments) == (0, "", "")
    return out


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    one = jax.devices("cpu")[:1]
    monkeypatch.setattr(devices, "select", lambda _: one)


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


@pytest.mark.slow
def test_on_two_devices_with_a_lane_to_fill_an_agent_is_the_same_bit_for_bit(tmp_path):
    """In processes of their own, with two CPU devices whatever the cores."""
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    out = tmp_path / "run"
    assert finish(start("train", *SMALL, "--out", out, env=environment))[0] == 0
    assert (summary(out)["devices"], summary(out)["lanes"]) == (2, 4)
    code, said, error = finish(start("replay", out, "--agent", 1, env=environment))
    assert (code, error) == (0, "")
    assert "a batch of 4 on 2 devices" in said
    check_bits(out, said, out / "replay-1")


def check_bits(run, said, out):
    assert f"agent 1 of {run}, seed 5, setting 1 (learning_rate 0.001, discount 0.98)" in said
    assert "bit for bit: all 107 parameters are the saved ones" in said
    found = summary(out)
    assert found["bit_for_bit"]
    assert found["parameter_difference"] == 0
    assert read_rows(out / "metrics.csv") == rows_of(run, 1)


def rows_of(run, agent):
    """The agent's rows of the run's metrics."""
    return [row for row in read_rows(run / "metrics.csv") if row["setting"] == str(agent)]


def same_up_to_rounding(rows, saved):
    """That an agent's rows are those that were saved; its actions were the same."""
    assert len(rows) == len(saved)
    for row, other in zip(rows, saved, strict=True):
        for name in ("update", "seed", "step", "episodes", "episode_return", "episode_length"):
            assert row[name] == other[name]
        assert float(row["policy_loss"]) == pytest.approx(float(other["policy_loss"]), abs=1e-5)


def test_at_the_runs_batch_shape_an_agent_is_the_same_bit_for_bit(run, tmp_path):
    said = replay(run, "--agent", 1, "--out", tmp_path / "out")
    assert "a batch of 4 on 1 device" in said
    check_bits(run, said, tmp_path / "out")


@pytest.mark.slow
def test_alone_an_agent_is_the_same_up_to_rounding(run, tmp_path):
    said = replay(run, "--agent", 1, "--how", "alone", "--out", tmp_path / "out")
    found = summary(tmp_path / "out")
    differ = "not bit for bit: parameters differ by up to"
    assert ("bit for bit: all 107" if found["bit_for_bit"] else differ) in said
    assert found["parameter_difference"] < 1e-4
    same_up_to_rounding(read_rows(tmp_path / "out" / "metrics.csv"), rows_of(run, 1))


def test_a_run_that_stopped_early_is_replayed_as_far(copied):
    for name in ("metrics.csv", "statistics.csv"):
        kept = [line for line in read_rows(copied / name) if int(line["update"]) <= 4]
        with open(copied / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)
    replay(copied, "--agent", 1, "--quiet")
    found = summary(copied / "replay-1")
    assert found["num_updates"] == 4
    assert read_rows(copied / "replay-1" / "metrics.csv") == rows_of(copied, 1)
    assert len(rows_of(copied, 1)) == 4


def test_a_diverged_agent_is_replayed_up_to_its_frozen_state(run, tmp_path):
    for how in ("batch", "load"):
        out = tmp_path / how
        said = replay(run, "--agent", DIVERGING, "--how", how, "--out", out)
        assert "it froze after update 0 of 12" in said
        assert summary(out)["frozen_after"] == 0
    diverged = read_rows(tmp_path / "batch" / "metrics.csv")
    assert {row["policy_loss"] for row in diverged} == {""}
    assert diverged == rows_of(run, DIVERGING)


def test_the_trace_is_what_the_saved_agent_does_stepped_by_hand(run, tmp_path):
    """Both are brought together at every step: a pole's fall magnifies rounding."""
    replay(run, "--agent", 1, "--how", "load", "--seed", 3, "--out", tmp_path)
    written = read_rows(tmp_path / "trace.csv")
    agent = load(run).agent(1)
    environment, parameters = gymnax.make("CartPole-v1")
    step_env = jax.jit(environment.step_env)
    _, state = environment.reset_env(jax.random.key(0), parameters)
    observation, total = seen(written[0]), 0.0
    for step, row in enumerate(written):
        assert (row["episode"], row["step"]) == ("0", str(step))
        np.testing.assert_allclose(seen(row), observation, rtol=1e-5, atol=1e-6)
        state = state.replace(**dict(zip(STATE, seen(row), strict=True)))
        action = agent.act(seen(row))
        assert int(row["action"]) == action
        assert float(row["value"]) == pytest.approx(float(agent.value(seen(row))), rel=1e-5)
        odds = [float(row["probability_0"]), float(row["probability_1"])]
        assert sum(odds) == pytest.approx(1)
        assert np.argmax(odds) == action
        observation, state, reward, terminated, _ = step_env(
            jax.random.key(0), state, action, parameters
        )
        truncated = environment.is_truncated(state, parameters)
        assert (row["terminated"], row["truncated"]) == (str(int(terminated)), str(int(truncated)))
        assert bool(terminated | truncated) == (step == len(written) - 1)
        total += float(reward)
    assert summary(tmp_path)["episode_returns"] == [total]
    assert not (tmp_path / "metrics.csv").exists()


def test_the_trace_names_the_parts_of_an_observation(tmp_path):
    numbers = np.arange(4, dtype=np.float32).reshape(2, 1, 2)  # two steps of one episode
    one = numbers[..., 0]
    trace = evaluate.Trace(
        observation={"goal": one, "place": {"xy": numbers}},
        **{"action": one, "reward": one, "value": one, "policy": {"mean": numbers}},
        **{"terminated": one, "truncated": one, "valid": one < 1, "env_state": ()},
    )
    replaying._write_trace(tmp_path / "trace.csv", trace)
    assert (tmp_path / "trace.csv").read_text().split() == [
        "episode,step,observation_goal_0,observation_place_xy_0,observation_place_xy_1,action,"
        "reward,value,mean_0,mean_1,terminated,truncated",
        "0,0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,1.0,0,0",
    ]


STATE = ("x", "x_dot", "theta", "theta_dot")


def seen(row):
    return np.array([row[f"observation_{index}"] for index in range(4)], np.float32)


def test_greedy_episodes_are_the_evaluations_own_and_sampled_ones_are_not_greedy(run, tmp_path):
    flags = (run, "--agent", 0, "--how", "load", "--episodes", 5, "--seed", 7, "--quiet")
    replay(*flags, "--out", tmp_path / "greedy")
    replay(*flags, "--out", tmp_path / "sampled", "--sampled")
    agent = load(run).agent(0)
    expected = evaluate.evaluate(agent.params, agent.config, jax.random.key(7), 5)
    assert summary(tmp_path / "greedy")["episode_returns"] == expected.tolist()
    for name, greedy in (("greedy", True), ("sampled", False)):
        steps = read_rows(tmp_path / name / "trace.csv")
        most_probable = [
            row["action"] == str(int(float(row["probability_1"]) > float(row["probability_0"])))
            for row in steps
        ]
        assert all(most_probable) == greedy
        assert [row["episode"] for row in steps if row["step"] == "0"] == list("01234")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("RUN --agent 4", 2, "agent is 4; the run's agents are 0 to 3"),
        ("RUN --agent -1", 2, "--agent is -1"),
        ("RUN --agent 0 --episodes 0", 2, "--episodes"),
        ("RUN --agent 0 --seed -1", 2, "seeds go from 0 to 4294967295"),
        ("RUN --agent 0 --out RUN --overwrite", 2, "holds a run, which is never overwritten"),
        ("RUN --agent 0 --out RUN/config.json", 3, "is a file; give a folder"),
        ("RUN --agent 0 --how load --out RUN/config.json/below", 3, "Not a directory"),
        ("missing --agent 0", 2, "missing is not a run's folder: it has no config.json"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line_and_nothing_is_written(
    arguments, code, message, run
):
    before = {path: path.read_bytes() for path in run.iterdir()}
    refused(code, message, "replay", *arguments.replace("RUN", str(run)).split())
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_fewer_devices_than_the_run_had_are_refused(copied):
    edit(copied / "summary.json", devices=2, lanes=4)
    refused(
        4, "the run used 2 devices, here is 1; --how alone needs 1", "replay", copied, "--agent", 0
    )


def test_a_replay_is_not_replaced_unasked(run, tmp_path):
    flags = (run, "--agent", 0, "--how", "load", "--out", tmp_path / "out")
    replay(*flags)
    first = (tmp_path / "out" / "trace.csv").read_bytes()
    message = "exists; give another folder with --out, or --overwrite"
    refused(2, message, "replay", *flags, "--seed", 1)
    assert (tmp_path / "out" / "trace.csv").read_bytes() == first
    replay(*flags, "--seed", 1, "--overwrite")
    assert (tmp_path / "out" / "trace.csv").read_bytes() != first


@pytest.mark.parametrize("held", [False, True])
def test_a_replay_that_fails_leaves_nothing_and_what_was_there(held, run, tmp_path, monkeypatch):
    out, flags = tmp_path / "out", (run, "--agent", 0, "--how", "load", "--overwrite")
    if held:
        replay(*flags, "--out", out)
    before = {path.name: path.read_bytes() for path in out.glob("*")}

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(replaying, "_write_trace", fail)
    refused(4, "out of memory", "replay", *flags, "--seed", 1, "--quiet", "--out", out)
    assert out.exists() == held
    assert {path.name: path.read_bytes() for path in out.glob("*")} == before


def test_an_agent_of_the_package_has_no_training_to_repeat(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent, message = "pretrained:CartPole-v1", "pretrained:CartPole-v1 comes without its training"
    refused(2, message, "replay", agent, "--agent", 0)
    refused(2, message, "film", agent, "--grid", 2)
    refused(2, message, "report", agent)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_whole_is_refused_in_one_line(copied):
    flags = ("replay", copied, "--how", "load", "--quiet", "--agent")
    parameters = copied / "parameters.npz"
    for content in (parameters.read_bytes()[:50], b""):
        parameters.write_bytes(content)
        refused(2, "is corrupt", *flags, 1)
    parameters.unlink()
    refused(2, "has no parameters.npz", *flags, 1)
    (copied / "summary.json").unlink()
    refused(2, "has no summary.json: the run saved no agents yet", *flags, 1)
    for content in ("{", "[1]", "{}"):
        (copied / "config.json").write_text(content)
        refused(2, str(copied), *flags, 1)


def test_of_processes_that_were_stopped_the_first_groups_of_each_were_saved(run, copied, tmp_path):
    """Two processes of a lane each: one trained agents 0 and 1, the other 2 and 3, when a signal
    came between the groups."""
    edit(copied / "summary.json", finished=False, processes=2, devices=1, lanes=1)
    with np.load(run / "parameters.npz") as arrays:
        np.savez(copied / "parameters.npz", **{name: arrays[name][[0, 2]] for name in arrays})
    flags = ("--how", "load", "--quiet", "--agent")
    for folder in (run, copied):
        replay(folder, *flags, 2, "--out", tmp_path / f"{folder == run}")
    first, second = ((tmp_path / name / "trace.csv").read_bytes() for name in ("True", "False"))
    assert first == second
    message = "stopped after 2 of its 4 agents, before this one"
    refused(2, message, "replay", copied, *flags, 1)
    with pytest.raises(IndexError, match=message):
        load(copied).agent(1)


def test_an_agent_that_evolved_can_only_be_loaded(copied):
    evolve = ["env_params.force_mag=uniform:5:15"]
    edit(copied / "config.json", "agents", sweep=[], num_seeds=4, evolve=evolve, evolve_every=5)
    edit(copied / "summary.json", num_settings=1)
    (copied / "metrics.csv").unlink()  # its rows are of other agents
    lines = ("update,agent,parent,fitness,env_params.force_mag", "0,1,,,7.0", "5,1,0,9.5,12.5")
    others = (f"5,{agent},,9.5,10.0" for agent in (0, 2, 3))
    (copied / "evolution.csv").write_text("\n".join([*lines, *others]))
    refused(2, "evolved its agents", "replay", copied, "--agent", 1, "--quiet")
    assert not (copied / "replay-1").exists()
    replay(copied, "--agent", 1, "--how", "load", "--quiet")
    found = summary(copied / "replay-1")
    assert found["coefficients"] == {"env_params.force_mag": 12.5}
    rows = read_rows(copied / "replay-1" / "trace.csv")
    one, two = (float(rows[step]["observation_1"]) for step in (0, 1))
    assert abs(two - one) == pytest.approx(12.5 * 0.02, rel=0.05)  # force × time / mass, about


def test_an_action_by_the_library_is_the_agents(run):
    loaded = load(run)
    agent = loaded.agent(1)
    observation = np.array([[0.0, 0.5, -0.1, 0.2], [0.1, -0.5, 0.1, -0.2]])
    actions = ppo.act(jax.tree.map(lambda leaf: leaf[1], loaded.params), observation, agent.config)
    np.testing.assert_array_equal(agent.act(observation), actions)
    np.testing.assert_array_equal(agent.metrics["value_loss"], loaded.metrics["value_loss"][:, 1])
    with pytest.raises(IndexError, match="the run's agents are 0 to 3"):
        loaded.agent(4)
