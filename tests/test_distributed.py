"""Two processes on one machine train one run: each its share, the first writes the union."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from ppo_jax.run import load
from ppo_jax.run.roster import Roster
from ppo_jax.train import main

SMALL = ("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--total-timesteps", "1300")
ONE_DEVICE = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "ppo_jax.train", *SMALL, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_DEVICE,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def finish(processes):
    """Each process's output and errors; none outlives the test."""
    try:
        said = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), said
    return said


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    agents = ("--num-seeds", 5, "--sweep", "learning_rate=1e-3,2.5e-3")
    together = (*agents, "--out", tmp_path / "together", "--distributed")
    together += ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2)
    said = finish([start(*together, "--process-id", number) for number in (0, 1)])
    assert "2 processes, at most 5 agents in each" in said[0][0]
    assert "ppo_jax" not in said[1][0]  # the second is silent
    finish([start(*agents, "--out", tmp_path / "alone")])

    alone, both = load(tmp_path / "alone"), load(tmp_path / "together")
    for one, other in zip(jax.tree.leaves(alone.params), jax.tree.leaves(both.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert both.metrics["seed"][0].tolist() == [0, 1, 2, 3, 4] * 2
    np.testing.assert_array_equal(alone.metrics["seed"], both.metrics["seed"])
    np.testing.assert_array_equal(alone.metrics["setting"], both.metrics["setting"])
    np.testing.assert_allclose(alone.metrics["step"], both.metrics["step"])
    np.testing.assert_allclose(
        alone.metrics["episode_return"][0], both.metrics["episode_return"][0], rtol=1e-5
    )
    assert both.summary["processes"] == 2
    assert both.summary["env_steps"] == alone.summary["env_steps"] == 12_800
    assert len(both.summary["eval_return_per_seed"]) == 10
    assert {path.name.split(".")[0] for path in (tmp_path / "together").iterdir()} == {
        path.name.split(".")[0] for path in (tmp_path / "alone").iterdir()
    }


@pytest.mark.parametrize("number", [1, 2, 5, 7, 12])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_the_processes_groups_are_every_agent_once_and_equally_many(number, processes, size):
    roster = Roster(np.arange(number), np.zeros(number, int), {})
    size = min(size, roster.share(processes))
    groups = [list(roster.groups(size, process, processes)) for process in range(processes)]
    assert len({len(own) for own in groups}) == 1
    assert all(len(who) == size for own in groups for who, _ in own)
    trained = [agent for own in groups for who, count in own for agent in who[:count].tolist()]
    assert sorted(trained) == list(range(number))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--coordinator 127.0.0.1:1", "--coordinator 127.0.0.1:1 needs --distributed"),
        ("--distributed --num-seeds 8 --evolve learning_rate=log:1e-5:1e-2", "leave out one"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments, message, capsys, tmp_path):
    assert main([*arguments.split(), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
