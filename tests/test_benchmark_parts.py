"""What the benchmarks compute beside their clocks: arithmetic, summaries, a tiny measurement."""

import sys

import numpy as np
import pytest
import tyro

from benchmarks import gpu, parts, solve, waterfall
from ppo_jax import recipe

TINY = {"num_envs": 2, "num_steps": 6, "num_epochs": 2, "num_minibatches": 3, "hidden_sizes": (4,)}


@pytest.fixture
def quick(monkeypatch):
    """Slow code that compiles fast: each program here runs a few times."""
    options = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(parts, "compiler_options", lambda: options)


@pytest.mark.parametrize(
    ("name", "forward", "first_layers", "epochs"),
    [
        # Actor 4-64-64-2 and critic 4-64-64-1; 4-100-2 and 4-100-1.
        ("standard", 2 * (256 + 4096 + 128 + 256 + 4096 + 64), 2 * (256 + 256), 4),
        ("notebook", 2 * (400 + 200 + 400 + 100), 2 * (400 + 400), 10),
    ],
)
def test_flops_are_the_hand_count(name, forward, first_layers, epochs):
    counted = forward + epochs * (forward + forward + (forward - first_layers))
    assert parts.flops_per_step(recipe(name)) == counted


@pytest.mark.parametrize(("name", "kiloflops"), [("standard", 227), ("notebook", 52)])
def test_flops_are_the_houses(name, kiloflops):
    assert round(parts.flops_per_step(recipe(name)) / 1000) == kiloflops


def test_spread():
    assert parts.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "range": [1.0, 3.0]}


def agents(*seconds):
    return [{"train_seconds": one or 9.0, "solved": one is not None} for one in seconds]


@pytest.mark.parametrize(
    ("seconds", "median", "late"),
    [
        ((4.0, 2.0, 1.0, 3.0, 5.0), 3.0, 5.0),
        ((4.0, 2.0, 1.0, 3.0, None), 3.0, None),
        ((None, None, 1.0, None, None), None, None),
    ],
)
def test_unsolved_agents_are_the_slowest(seconds, median, late):
    found = solve.summary(agents(*seconds), "train_seconds")
    assert found == {"median": median, "quantile_90": late}


def test_processes_without_any_have_no_median():
    assert solve.processes([]) == {"median": None, "processes": []}
    assert solve.processes([{"seconds": 2.0}, {"seconds": 4.0}])["median"] == 3.0


def test_waterfall_says_what_is_left_of_the_environments_speed():
    speeds = {"environment only": [90.0, 100.0, 110.0], "+ policy": [30.0, 20.0, 25.0]}
    rows = waterfall.summarize("standard", 4, speeds, {"environment only": 1.0, "+ policy": 2.0})
    assert [row["left"] for row in rows] == [1.0, 0.25]
    assert rows[1]["env_steps_per_second"] == {"median": 25.0, "range": [20.0, 30.0]}
    assert [row["compile_seconds"] for row in rows] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("number", "said"), [(12.3, "12.3"), (4567, "4.57 k"), (1.5e6, "1.5 M"), (2e9, "2 G")]
)
def test_large_numbers_in_short(number, said):
    assert waterfall.in_short(number) == said


@pytest.mark.parametrize("number", [1, 3, 4])
def test_equal_shares(number):
    left, taken = 1.0, []
    for share in gpu.equal(0.6, number):
        taken.append(share * left)
        left -= taken[-1]
    np.testing.assert_allclose(taken, 0.6 / number)


def test_turns_keep_to_their_time():
    assert gpu.in_time(gpu.TURN_SECONDS / 8.5, most=20) == 8
    assert gpu.in_time(gpu.TURN_SECONDS / 8.5, most=5) == 5
    assert gpu.in_time(10 * gpu.TURN_SECONDS, most=20) == 1


def test_options_survive_their_command_line(tmp_path):
    options = gpu.Options(agents=(3, 1), task="sweep", seconds=1.5, out=tmp_path)
    assert tyro.cli(gpu.Options, args=gpu.as_flags(options)) == options


def test_speeds_are_shares_of_the_float32_peak():
    row = {"env_steps_per_second": {"median": 20.0}, "flops_per_step": 3}
    peaks = [
        {"matmul": "DEFAULT", "flops_per_second": 999.0},
        {"matmul": "HIGHEST", "flops_per_second": 120.0},
    ]
    content = {"matmul": peaks, "sweep": [row, {"stopped": "time"}]}
    shared = gpu.with_peak_share(content)["sweep"]
    assert shared == [row | {"share_of_peak": 0.5}, {"stopped": "time"}]
    assert gpu.with_peak_share({"sweep": [row]}) == {"sweep": [row]}


def test_a_process_that_takes_too_long_leaves_what_it_said():
    program = "import time; print('first', flush=True); time.sleep(60)"
    said, trouble = gpu.finished([sys.executable, "-c", program], {}, seconds=1)
    assert said == "first\n"
    assert "ended after" in trouble


def test_a_process_that_fails_says_why():
    said, trouble = gpu.finished([sys.executable, "-c", "raise SystemExit('no')"], {}, seconds=30)
    assert (said, trouble) == ("", "no\n")


def test_figure_and_table_of_what_was_cut_short(tmp_path, capsys):
    content = {"sweep": [{"recipe": "fast", "agents": 8, "stopped": "time: 3 s left"}]}
    gpu.draw(content, tmp_path / "gpu.png")
    gpu.show(content, gpu.Console())
    assert "time: 3 s left" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_tiny_sweep():
    config = recipe("standard", **TINY)
    row = gpu.training_row(config, agents=2, updates=2, repeats=1)
    assert row["env_steps_per_second"]["median"] > 0
    assert row["program_bytes_per_agent"] > 4 * 2 * 3 * (4 * 4 + 4)  # the parameters and moments


@pytest.mark.usefixtures("quick")
def test_an_update_taken_apart():
    took = gpu.milliseconds(recipe("standard", **TINY), agents=2, updates=2, repeats=1)
    assert list(took) == ["update", *gpu.PARTS]
    assert took["rollout"] > 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("agents", [1, 2])
def test_stages_take_every_step(monkeypatch, agents):
    monkeypatch.setattr(waterfall, "recipe", lambda name: recipe(name, **TINY))
    turns, compile_seconds = waterfall.stages("standard", agents, updates=3)
    for turn in turns.values():
        np.testing.assert_array_equal(turn(), [3 * 2 * 6] * agents)
    assert set(compile_seconds) == {"start", *turns}
