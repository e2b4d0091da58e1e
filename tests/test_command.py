"""python -m ppo_jax.train: what it trains, writes, says and refuses."""

import csv
import json
import os
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
from ppo_jax.train import main

SMALL = ("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--total-timesteps", "1300")


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ppo_jax.train", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small run of two agents by the command itself, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = command(*SMALL, "--num-seeds", 2, "--seed", 5, "--out", out)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_a_run_says_what_it_does_and_where_it_wrote(finished):
    out, said = finished
    assert f"ppo_jax {__version__}: fast on CartPole-v1, seed 5 to 6, on cpu" in said
    assert "1,300 steps is not a multiple of the batch size, 128: 10 updates, 1,280 steps" in said
    assert "compiling fast for 2 agents" in said
    assert "training 100%: 2,560 steps" in said
    assert "steps/s, mean return" in said
    assert "over 100 fresh episodes (solved at 475)" in said
    assert f"wrote {out}" in said


def test_a_run_leaves_its_files(finished):
    out, _ = finished
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["recipe"], summary["env"]) == ("fast", "CartPole-v1")
    assert (summary["num_seeds"], summary["env_steps"]) == (2, 2560)
    assert summary["steps_per_second"] == pytest.approx(2560 / summary["train_seconds"])
    assert summary["compile_seconds"] > 0
    assert len(summary["eval_return_per_seed"]) == 2
    assert 0 <= summary["solved_fraction"] <= 1
    assert summary["finished"]
    assert json.loads((out / "config.json").read_text())["config"]["num_envs"] == 4
    assert list(out.glob("events.out.tfevents.*"))


def test_metrics_have_a_row_per_update_and_seed(finished):
    out, _ = finished
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["update"], row["seed"]) for row in rows] == [
        (str(update), seed) for update in range(1, 11) for seed in ("5", "6")
    ]
    assert [row["step"] for row in rows[::2]] == [str(128 * update) for update in range(1, 11)]
    assert all((row["episode_return"] == "") == (row["episodes"] == "0") for row in rows)


def test_the_command_trains_what_the_library_trains(finished):
    out, _ = finished
    run = load(out)
    states, metrics = jax.jit(jax.vmap(ppo.train, (0, None)))(
        population.agent_keys(5, 2), run.config
    )
    for ours, saved in zip(
        jax.tree.leaves(states.params), jax.tree.leaves(run.params), strict=True
    ):
        np.testing.assert_allclose(ours, saved, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics.policy_loss.T, run.metrics["policy_loss"], atol=1e-4)
    assert run.config == recipe(
        "fast", num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300
    )
    assert run.metrics["seed"].tolist() == [[5, 6]] * 10
    action = ppo.act(jax.tree.map(lambda leaf: leaf[0], run.params), np.zeros(4), run.config)
    assert action in (0, 1)


def test_tensorboard_has_the_originals_tags_as_means_over_agents(finished):
    out, _ = finished
    metrics = load(out).metrics
    events = _events(out)
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


def _events(folder):
    """TensorBoard events read with tensorboardX's own protocol buffers: tag → [(step, value)]."""
    from tensorboardX.proto.event_pb2 import Event

    data = next(iter(folder.glob("events.out.tfevents.*"))).read_bytes()
    events: dict[str, list[tuple[int, float]]] = {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            events.setdefault(value.tag, []).append((event.step, value.simple_value))
    return events


def test_a_run_can_be_repeated_from_its_config_with_flags_on_top(finished, tmp_path, capsys):
    out, _ = finished
    again = tmp_path / "again"
    arguments = ("--config", out / "config.json", "--num-seeds", 1, "--out", again, "--quiet")
    assert main([str(argument) for argument in arguments]) == 0
    assert capsys.readouterr().out == ""
    first, second = load(out), load(again)
    assert second.config == first.config
    assert second.metrics["seed"].tolist() == [[5]] * 10
    np.testing.assert_allclose(
        second.metrics["policy_loss"][:, 0], first.metrics["policy_loss"][:, 0], atol=1e-4
    )


def test_a_folder_that_holds_a_run_is_refused_and_untouched(finished, capsys):
    out, _ = finished
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert main(["--out", str(out)]) == 2
    assert "holds a run; give another folder, or --overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--learning-rate nan", "learning_rate is nan"),
        ("--discount 1.5", "discount is 1.5; it must be between 0 and 1"),
        ("--num-envs 3 --num-minibatches 7", "the nearest that does is 6"),
        ("--total-timesteps 10", "less than one update"),
        ("--recipe notebook --total-timesteps 5000", "give num_updates"),
        ("--total-timesteps 5000 --recipe notebook", "give num_updates"),
        ("--total-timesteps 5000 --num-updates 3", "say the same thing twice"),
        ("--env CartPol", "near it: CartPole-v1"),
        ("--seed -1", "--seed is -1"),
        ("--seed 4294967296", "seeds go from 0 to 4294967295"),
        ("--seed 4294967295 --num-seeds 2", "seeds go from 0 to 4294967295"),
        ("--num-seeds 0", "--num-seeds is 0"),
        ("--env nowhere:make", "does not import"),
        ("--env-params force 5.0", "has no parameter 'force'; there are: gravity"),
        ("--config missing.json", "No such file"),
        ("--config x --recipe fast", "leave out --recipe"),
    ],
)
def test_a_bad_flag_is_refused_with_code_2_one_line_and_nothing_written(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ["--learning-rte 1", "--num-envs many", "--recipe notebok"])
def test_the_flag_parser_refuses_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert "learning-rate" in capsys.readouterr().err or "learning-rte" not in arguments


def test_a_path_that_no_folder_can_have_is_refused(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["--out", str(file)]) == 3
    assert main(["--out", "a\0b"]) == 2
    assert main([*SMALL, "--out", str(file / "below")]) == 3
    assert "Not a directory" in capsys.readouterr().err


def test_a_missing_device_is_refused_with_code_4(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    result = command("--device", "gpu", cwd=tmp_path, env=environment)
    assert result.returncode == 4
    assert "--device gpu: jax finds none" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_agents_that_all_diverge_end_with_code_5(tmp_path, capsys):
    arguments = [*SMALL, "--learning-rate", "1e38", "--max-grad-norm", "None"]
    arguments += ["--out", str(tmp_path / "run"), "--quiet"]
    assert main(arguments) == 5
    assert "every agent diverged" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["diverged_seeds"] == [0]


def test_version_and_help_answer_without_jax():
    code = "import sys; from ppo_jax.train import main; main(['--version']); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.startswith(f"ppo_jax {__version__}")
    assert "jax" not in result.stdout.split()
    said = command("--help").stdout
    assert "--num-seeds" in said
    assert "Reward discount γ" in said
    assert "0.98" in said


def test_help_shows_the_recipes_own_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["--help", "--recipe", "notebook"])
    assert "0.003" in capsys.readouterr().out


def test_help_shows_the_row_of_the_environment(capsys):
    with pytest.raises(SystemExit):
        main(["--help", "--env", "Pendulum-v1"])
    said = capsys.readouterr().out
    assert "Pendulum-v1" in said
    assert "(default: 0.95)" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_its_chunk_and_keeps_what_was_trained(tmp_path, number, code):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ppo_jax.train", "--out", "run"),
            *("--recipe", "standard", "--total-timesteps", "50000000", "--hidden-sizes", "8"),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 2):
        assert time.monotonic() < deadline, "the run never began"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert f"stopped by {number.name}" in error
    run = load(tmp_path / "run")
    assert not run.summary["finished"]
    assert run.summary["env_steps"] == run.metrics["step"][-1].sum()
    assert run.summary["eval_return_per_seed"] is None


def test_a_closed_pipe_does_not_stop_the_training(tmp_path):
    script = f"{sys.executable} -m ppo_jax.train {' '.join(SMALL)} --out run | head -n 1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"]


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_ends_the_same(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    entries = []
    for name in ("first", "second"):
        assert command(*SMALL, "--out", tmp_path / name, env=environment).returncode == 0
        entries.append(set((tmp_path / "cache" / "ppo_jax").rglob("*-cache")))
    assert len(entries[0]) > 3
    assert entries[0] == entries[1]
    first, second = (
        (tmp_path / name / "parameters.npz").read_bytes() for name in ("first", "second")
    )
    assert first == second
    uncached = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "empty")}
    arguments = (*SMALL, "--no-compilation-cache", "--out", tmp_path / "third")
    assert command(*arguments, env=uncached).returncode == 0
    assert not (tmp_path / "empty" / "ppo_jax").exists()


def test_tensorboard_is_imported_without_torch(tmp_path):
    """Its seconds would be paid in every start; a later import of torch finds it."""
    Path(tmp_path, "torch.py").write_text("Tensor = object")
    script = """
import sys
from ppo_jax.run import log
assert log.import_tensorboard().__name__ == "tensorboardX" and "torch" not in sys.modules
import torch
assert log.import_tensorboard() and sys.modules["torch"] is torch
"""
    subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
    )


def test_runs_of_the_default_folder_are_fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--quiet"]) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("CartPole-v1-fast-seed0-")
