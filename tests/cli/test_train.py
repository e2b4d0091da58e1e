"""ppo-jax train: what it trains, writes and says."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ppo_jax import __version__, population, ppo, recipe
from ppo_jax.run import load
from ppo_jax.run.experiment import FORMAT
from tests.helpers.commands import SMALL, finish, read_rows, refused, run_command, start
from tests.helpers.events import read_events
from tests.helpers.quick import quick_jit

TWO = (*SMALL, "--num-seeds", "2", "--seed", "5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small run of two agents, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    code, said, error = run_command("train", *TWO, "--out", out)
    assert (code, error) == (0, "")
    return out, said


def test_a_run_says_what_it_does_and_where_it_wrote(finished):
    out, said = finished
    assert f"ppo_jax {__version__}: fast on CartPole-v1, seed 5 to 6, on cpu" in said
    assert "1,280 of 1,300 steps for each agent: a multiple of the batch size 128" in said
    assert "compiling fast for 2 agents" in said
    assert "training 100%: 2,560 steps" in said
    assert "steps/s, mean return" in said
    assert "over 100 fresh episodes (solved at 475; optimum: 500)" in said
    assert f"wrote {out}" in said


def test_a_run_leaves_its_files(finished):
    out, said = finished
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["recipe"], summary["env"]) == ("fast", "CartPole-v1")
    assert (summary["num_seeds"], summary["env_steps"]) == (2, 2560)
    assert summary["steps_per_second"] == pytest.approx(2560 / summary["train_seconds"])
    assert summary["compile_seconds"] > 0
    assert len(summary["eval_return_per_seed"]) == 2
    assert 0 <= summary["solved_fraction"] <= 1
    assert summary["finished"]
    description = json.loads((out / "config.json").read_text())
    assert description["format"] == FORMAT == 3
    assert description["algorithm"]["num_envs"] == 4
    assert (description["agents"]["seed"], description["agents"]["num_seeds"]) == (5, 2)
    assert list(out.glob("events.out.tfevents.*"))
    told = said.splitlines()[-1].partition(": ")[2].split(", ")
    assert set(told) - {"TensorBoard events"} == {path.name for path in out.glob("*.*")} - {
        path.name for path in out.glob("events.*")
    } - {".lock"}


def test_metrics_have_a_row_per_update_and_seed(finished):
    out, _ = finished
    rows = read_rows(out / "metrics.csv")
    assert [(row["update"], row["seed"]) for row in rows] == [
        (str(update), seed) for update in range(1, 11) for seed in ("5", "6")
    ]
    assert [row["step"] for row in rows[::2]] == [str(128 * update) for update in range(1, 11)]
    assert all((row["episode_return"] == "") == (row["episodes"] == "0") for row in rows)


def test_the_command_trains_what_the_library_trains(finished):
    """The README's few lines of Python, whose keys are the command's."""
    out, _ = finished
    run = load(out)
    config = recipe("fast", num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300)
    assert run.config == config
    states, metrics = quick_jit(jax.vmap(ppo.train, (0, None)))(population.agent_keys(5, 2), config)
    for ours, saved in zip(
        jax.tree.leaves(states.params), jax.tree.leaves(run.params), strict=True
    ):
        np.testing.assert_allclose(ours, saved, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics.policy_loss.T, run.metrics["policy_loss"], atol=1e-4)
    np.testing.assert_allclose(
        metrics.value_loss.T, run.metrics["value_loss"], rtol=1e-4, atol=1e-5
    )
    assert run.metrics["seed"].tolist() == [[5, 6]] * 10


def test_tensorboard_has_the_originals_tags_as_means_over_agents(finished):
    out, _ = finished
    metrics, events = load(out).metrics, read_events(out)
    losses = events["loss/action_loss"]
    np.testing.assert_allclose(
        [value for _, value in losses], metrics["policy_loss"].mean(axis=1), rtol=1e-5
    )
    assert [step for step, _ in losses] == (np.arange(1, 11) * 16).tolist()
    assert len(events["loss/value_loss"]) == 10
    episodes = metrics["episodes"].cumsum(axis=0).mean(axis=1)
    lengths = dict(events["liveTime/livestep"])
    last = int(np.flatnonzero(metrics["episodes"].sum(axis=1))[-1])
    assert lengths[round(episodes[last])] == pytest.approx(
        np.nanmean(metrics["episode_length"][last]), rel=1e-5
    )
    assert "eval/episode_return" not in events
    assert not (out / "evaluations.csv").exists()


def test_a_run_can_be_repeated_from_its_config_with_flags_on_top(finished, tmp_path):
    out, again = finished[0], tmp_path / "again"
    arguments = ("--config", out / "config.json", "--num-seeds", 1, "--out", again, "--quiet")
    assert run_command("train", *arguments) == (0, "", "")
    first, second = load(out), load(again)
    assert second.config == first.config
    assert second.metrics["seed"].tolist() == [[5]] * 10
    np.testing.assert_allclose(
        second.metrics["policy_loss"][:, 0], first.metrics["policy_loss"][:, 0], atol=1e-4
    )


@pytest.mark.slow
def test_a_closed_pipe_does_not_stop_the_training(tmp_path):
    script = shlex.join([sys.executable, "-m", "ppo_jax.train", *TWO, "--out", "run"])
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{script} | head -n 1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"]


def test_agents_that_all_diverge_end_with_code_5(tmp_path):
    out = tmp_path / "run"
    arguments = (*SMALL, "--learning-rate", "1e38", "--out", out, "--quiet")
    refused(5, "every agent diverged", "train", *arguments)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["diverged_seeds"] == [0]
    assert summary["frozen_agents"] == {"0": 0}


def test_runs_of_the_default_folder_are_fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command("train", *SMALL, "--quiet") == (0, "", "")
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("CartPole-v1-fast-seed0-")


def test_evaluations_are_written_where_nothing_stops_early(tmp_path):
    """Greedy returns every four updates: in evaluations.csv, TensorBoard and load()."""
    out = tmp_path / "run"
    assert run_command("train", *SMALL, "--evaluate-every", 4, "--quiet", "--out", out)[0] == 0
    rows, run = read_rows(out / "evaluations.csv"), load(out)
    assert [row["update"] for row in rows] == ["4", "8"]
    assert [row["step"] for row in rows] == [str(4 * 128), str(8 * 128)]
    assert {row["seed"] for row in rows} == {"0"}
    returns = [float(row["eval_return"]) for row in rows]
    assert run.evaluations["eval_return"].tolist() == [[value] for value in returns]
    assert run.evaluations["update"].tolist() == [[4], [8]]
    events = read_events(out)["eval/episode_return"]
    assert [step for step, _ in events] == [512, 1024]
    np.testing.assert_allclose([value for _, value in events], returns, rtol=1e-6)
    assert run.summary["num_updates"] == 10


def test_evaluations_that_never_came_are_loaded_as_none(tmp_path):
    out = tmp_path / "run"
    assert run_command("train", *SMALL, "--evaluate-every", 50, "--quiet", "--out", out)[0] == 0
    assert read_rows(out / "evaluations.csv") == []
    assert load(out).evaluations["eval_return"].size == 0


@pytest.mark.slow
def test_a_run_stops_once_enough_agents_are_solved(tmp_path):
    out = tmp_path / "run"
    arguments = ("--recipe", "fast", "--num-seeds", 2, "--stop-when-solved", 0.5, "--device", "cpu")
    assert run_command("train", *arguments, "--evaluate-every", 20, "--out", out)[0] == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished"]
    assert summary["solved_fraction"] >= 0.5
    assert 20 <= summary["num_updates"] < 195
    assert summary["num_updates"] % 20 == 0
    assert summary["env_steps"] == 2 * summary["num_updates"] * 512
    assert len(read_rows(out / "metrics.csv")) == 2 * summary["num_updates"]
    assert len(read_rows(out / "statistics.csv")) == summary["num_updates"]
    assert len(read_rows(out / "evaluations.csv")) == 2 * summary["num_updates"] // 20
    assert not (out / "sweep.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_its_chunk_and_keeps_what_was_trained(tmp_path, number, code):
    long = ("--num-envs", 4, "--num-steps", 32, "--hidden-sizes", 8, "--num-updates", 1_000_000)
    process = start("train", *long, "--out", "run", "--quiet", cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 2):
        assert time.monotonic() < deadline, "the run never began"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(number)
    found, _, error = finish(process)
    assert found == code, error
    assert f"stopped by {number.name}; ppo-jax train --out run --resume continues it" in error
    run = load(tmp_path / "run")
    assert not run.summary["finished"]
    assert run.summary["env_steps"] == run.metrics["step"][-1].sum()
    assert run.summary["eval_return_per_seed"] is None


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_ends_the_same(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    entries = []
    for name in ("first", "second"):
        process = start("train", *SMALL, "--out", tmp_path / name, env=environment)
        assert finish(process)[0] == 0
        entries.append(set((tmp_path / "cache" / "ppo_jax").rglob("*-cache")))
    assert len(entries[0]) > 3
    assert entries[0] == entries[1]
    first, second = (
        (tmp_path / name / "parameters.npz").read_bytes() for name in ("first", "second")
    )
    assert first == second
    uncached = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "empty")}
    arguments = (*SMALL, "--no-compilation-cache", "--out", tmp_path / "third")
    assert finish(start("train", *arguments, env=uncached))[0] == 0
    assert not (tmp_path / "empty" / "ppo_jax").exists()


def test_whole_episodes_have_no_batch_size_to_be_said(tmp_path):
    small = "--recipe notebook --num-updates 1 --hidden-sizes 4 --min-transitions 8"
    code, said, error = run_command("train", *small.split(), "--out", tmp_path / "run")
    assert (code, error) == (0, "")
    assert "batch size" not in said
