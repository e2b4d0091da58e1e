"""python -m ppo_jax.replay: what it trains again, plays, writes and refuses."""

import csv
import json
import os
import shutil
import subprocess
import sys

import gymnax
import jax
import numpy as np
import pytest

from ppo_jax import evaluate, ppo
from ppo_jax.replay import Flags, _shape, main
from ppo_jax.run import load, programs, retrain, trace

pytestmark = pytest.mark.slow  # it trains runs to replay them

SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--num-updates", "10"),
    *("--sweep", "learning_rate=1e-3,1e38", "--seed", "5"),
)
DIVERGING = 2  # the agent whose learning rate is 1e38


def command(module, *arguments):
    """The command in a process of its own, with two CPU devices whatever the cores."""
    flags = "--xla_force_host_platform_device_count=2"
    result = subprocess.run(
        [sys.executable, "-m", f"ppo_jax.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def summary(path):
    return json.loads((path / "summary.json").read_text())


def replay(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three settings of one seed, in 4 lanes on 2 devices: the last lane only fills the batch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command("train", *SMALL, "--out", out)
    assert (summary(out)["devices"], summary(out)["lanes"]) == (2, 4)
    return out


@pytest.fixture(scope="module")
def compile_once():
    """Programs for one lane are compiled once for all tests that train an agent alone."""
    compiled = []
    real = programs.compile_programs

    def once(config, lanes, devices):
        assert lanes == len(devices) == 1
        if not compiled:
            compiled.append(real(config, lanes, devices))
        return compiled[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "compile_programs", once)
        yield


def test_at_the_runs_batch_shape_an_agent_is_the_same_bit_for_bit(run, tmp_path):
    said = command("replay", run, "--agent", 1, "--out", tmp_path / "out")
    assert f"agent 1 of {run}, seed 5, setting 1 (learning_rate 0.001)" in said
    assert "4 lanes on 2 devices" in said
    assert "bit for bit: all 107 parameters are the saved ones" in said
    found = summary(tmp_path / "out")
    assert found["bit_for_bit"]
    assert found["curves"]["same_returns"] == 10
    assert set(found["curves"]["differences"].values()) == {0.0}
    saved = [row for row in rows(run / "metrics.csv") if row["setting"] == "1"]
    assert rows(tmp_path / "out" / "metrics.csv") == saved


def test_alone_an_agent_is_the_same_up_to_rounding(run, compile_once, tmp_path, capsys):
    assert replay(run, "--agent", 1, "--how", "alone", "--out", tmp_path / "out") == 0
    found = summary(tmp_path / "out")
    same = "bit for bit" if found["bit_for_bit"] else "returns while training are the same\n"
    assert same in capsys.readouterr().out
    assert found["curves"]["same_returns"] == 10
    assert found["parameter_difference"] < 1e-4
    assert found["curves"]["differences"]["policy_loss"] < 1e-5


def test_the_lengths_of_chunks_do_not_change_a_bit(run, compile_once, tmp_path, monkeypatch):
    lengths = []
    own = retrain._own

    def observed(rows, size, lane):
        lengths.append(size)
        return own(rows, size, lane)

    monkeypatch.setattr(retrain, "_own", observed)
    for number, seconds in enumerate((0, 1e9)):
        monkeypatch.setattr(retrain, "_CHUNK_SECONDS", seconds)
        assert replay(run, "--agent", 1, "--how", "alone", "--out", tmp_path / str(number)) == 0
    assert lengths == [*[1] * 10, 1, 9]
    first, second = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("0", "1"))
    assert first == second


def test_a_run_that_stopped_early_is_replayed_as_far(run, compile_once, tmp_path):
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    for name in ("metrics.csv", "statistics.csv"):
        kept = [line for line in rows(stopped / name) if int(line["update"]) <= 4]
        with open(stopped / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)
    assert replay(stopped, "--agent", 1, "--how", "alone", "--quiet") == 0
    found = summary(stopped / "replay-1")
    assert found["num_updates"] == 4
    assert found["curves"]["differences"]["policy_loss"] < 1e-5
    assert len(rows(stopped / "replay-1" / "metrics.csv")) == 4


def test_a_diverged_agent_is_replayed_up_to_its_frozen_state(run, compile_once, tmp_path, capsys):
    for how in ("alone", "load"):
        out = tmp_path / how
        assert replay(run, "--agent", DIVERGING, "--how", how, "--out", out) == 0
        assert "it froze after update 0 of 10" in capsys.readouterr().out
        assert summary(out)["frozen_after"] == 0
    diverged = rows(tmp_path / "alone" / "metrics.csv")
    assert {row["policy_loss"] for row in diverged} == {""}
    assert summary(tmp_path / "alone")["curves"]["same_returns"] == 10


def test_the_trace_is_what_the_saved_agent_does_stepped_by_hand(run, tmp_path):
    """Both are brought together at every step: a pole's fall magnifies rounding."""
    assert replay(run, "--agent", 1, "--how", "load", "--seed", 3, "--out", tmp_path) == 0
    written = rows(tmp_path / "trace.csv")
    saved = load(run)
    params = jax.tree.map(lambda leaf: leaf[1], saved.params)
    environment, parameters = gymnax.make("CartPole-v1")
    step_env = jax.jit(environment.step_env)
    _, state = environment.reset_env(jax.random.key(0), parameters)
    observation, total = seen(written[0]), 0.0
    for step, row in enumerate(written):
        assert (row["episode"], row["step"]) == ("0", str(step))
        np.testing.assert_allclose(seen(row), observation, rtol=1e-5, atol=1e-6)
        state = state.replace(**dict(zip(STATE, seen(row), strict=True)))
        action = ppo.act(params, seen(row), saved.config)
        assert int(row["action"]) == action
        value = ppo.value(params, seen(row), saved.config)
        assert float(row["value"]) == pytest.approx(float(value), rel=1e-5)
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


STATE = ("x", "x_dot", "theta", "theta_dot")


def seen(row):
    return np.array([row[f"observation_{index}"] for index in range(4)], np.float32)


def test_greedy_episodes_are_the_evaluations_own_and_sampled_ones_are_not_greedy(run, tmp_path):
    flags = (run, "--agent", 0, "--how", "load", "--episodes", 5, "--seed", 7, "--quiet")
    assert replay(*flags, "--out", tmp_path / "greedy") == 0
    assert replay(*flags, "--out", tmp_path / "sampled", "--sampled") == 0
    saved = load(run)
    params = jax.tree.map(lambda leaf: leaf[0], saved.params)
    expected = evaluate.evaluate(params, saved.config, jax.random.key(7), 5)
    assert summary(tmp_path / "greedy")["episode_returns"] == expected.tolist()
    for name, greedy in (("greedy", True), ("sampled", False)):
        steps = rows(tmp_path / name / "trace.csv")
        most_probable = [
            row["action"] == str(int(float(row["probability_1"]) > float(row["probability_0"])))
            for row in steps
        ]
        assert all(most_probable) == greedy
        assert [row["episode"] for row in steps if row["step"] == "0"] == list("01234")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("RUN --agent 3", 2, "--agent is 3; the run's agents are 0 to 2"),
        ("RUN --agent -1", 2, "agents count from 0"),
        ("RUN --agent 0 --episodes 0", 2, "--episodes is 0"),
        ("RUN --agent 0 --seed -1", 2, "seeds go from 0 to 4294967295"),
        ("RUN --agent 0 --out RUN --overwrite", 2, "holds a run, which a replay never overwrites"),
        ("RUN --agent 0 --out RUN/config.json", 3, "is a file; give a folder"),
        ("RUN --agent 0 --how load --out RUN/config.json/below", 3, "Not a directory"),
        ("RUN --agent 0", 4, "the run used 2 devices, here is 1; --how alone needs 1"),
        ("missing --agent 0", 2, "missing is not a run's folder: it has no config.json"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line_and_nothing_is_written(
    arguments, code, message, run, capsys, monkeypatch
):
    one = jax.devices("cpu")[:1]
    monkeypatch.setattr(trace.devices, "select", lambda _: one)
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert replay(*arguments.replace("RUN", str(run)).split()) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_the_shape_of_a_run_that_did_not_write_it_follows_from_its_settings():
    summary = {"num_settings": 3, "device": "cpu (cpu), 2 devices"}
    for group_size, lanes in ((None, 10), (4, 4), (3, 4), (20, 10)):
        settings = {"num_seeds": 3, "group_size": group_size}
        assert _shape(Flags("run", 0), settings, summary) == (2, lanes)
    assert _shape(Flags("run", 0), {"num_seeds": 3}, {"device": "cpu (cpu)"}) == (1, 3)


def test_a_replay_is_not_replaced_unasked(run, tmp_path, capsys):
    flags = (run, "--agent", 0, "--how", "load", "--out", tmp_path / "out")
    assert replay(*flags) == 0
    first = (tmp_path / "out" / "trace.csv").read_bytes()
    assert replay(*flags, "--seed", 1) == 2
    assert "exists; give another folder with --out, or --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "trace.csv").read_bytes() == first
    assert replay(*flags, "--seed", 1, "--overwrite") == 0
    assert (tmp_path / "out" / "trace.csv").read_bytes() != first


def test_of_a_run_that_did_not_finish_only_what_it_saved_can_be_had(run, tmp_path, capsys):
    unfinished = tmp_path / "run"
    shutil.copytree(run, unfinished)
    (unfinished / "summary.json").unlink()
    assert replay(unfinished, "--agent", 0) == 2
    assert "the run did not finish; --how load takes what it saved" in capsys.readouterr().err
    load_it = (unfinished, "--how", "load", "--quiet", "--agent")
    assert replay(*load_it, 0) == 0
    assert replay(*load_it, 3) == 2
    assert "the run's agents are 0 to 2" in capsys.readouterr().err
    parameters = unfinished / "parameters.npz"
    for content in (parameters.read_bytes()[:50], b""):
        parameters.write_bytes(content)
        assert replay(*load_it, 1) == 2
        assert "is not a whole run" in capsys.readouterr().err
    parameters.unlink()
    assert replay(*load_it, 1) == 2
    assert "has no parameters.npz" in capsys.readouterr().err
    for content in ("{", "[1]", "{}"):
        (unfinished / "config.json").write_text(content)
        assert replay(*load_it, 1) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_of_processes_that_were_stopped_the_first_groups_of_each_were_saved(run, tmp_path, capsys):
    """Two processes of a lane each: one trained agents 0 and 1, the other 2, when a signal came
    between the groups."""
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    edit(stopped / "summary.json", finished=False, processes=2, devices=1, lanes=1)
    with np.load(run / "parameters.npz") as arrays:
        np.savez(stopped / "parameters.npz", **{name: arrays[name][[0, 2]] for name in arrays})
    flags = ("--how", "load", "--quiet", "--agent")
    for folder in (run, stopped):
        assert replay(folder, *flags, 2, "--out", tmp_path / f"{folder == run}") == 0
    first, second = ((tmp_path / name / "trace.csv").read_bytes() for name in ("True", "False"))
    assert first == second
    assert replay(stopped, *flags, 1) == 2
    assert "stopped after 2 of its 3 agents, before this one" in capsys.readouterr().err


def test_an_agent_that_evolved_can_only_be_loaded(run, tmp_path, capsys):
    evolved = tmp_path / "run"
    shutil.copytree(run, evolved)
    ranges = {"env_params.force_mag": ["uniform", 5, 15]}
    edit(evolved / "config.json", sweep={}, num_seeds=3, evolve=ranges, evolve_every=5)
    edit(evolved / "summary.json", num_settings=1)
    lines = ("update,agent,parent,fitness,env_params.force_mag", "0,1,,,7.0", "5,1,0,9.5,12.5")
    (evolved / "evolution.csv").write_text("\n".join(lines))
    assert replay(evolved, "--agent", 1) == 2
    assert "evolved its agents" in capsys.readouterr().err
    assert replay(evolved, "--agent", 1, "--how", "load", "--quiet") == 0
    found = summary(evolved / "replay-1")
    assert found["coefficients"] == {"env_params.force_mag": 12.5}
    one, two = (float(rows(evolved / "replay-1" / "trace.csv")[i]["observation_1"]) for i in (0, 1))
    assert abs(two - one) == pytest.approx(12.5 * 0.02, rel=0.05)  # force × time / mass, about


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_help_answers_without_jax():
    code = (
        "import sys\nfrom ppo_jax.replay import main\ntry: main(['--help'])\n"
        "finally: sys.exit('jax' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert "--agent" in result.stdout
