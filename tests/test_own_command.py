"""An environment and a network of one's own from the command line: trained, killed, resumed to the
bit, replayed, loaded."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ppo_jax import ppo, recipe
from ppo_jax.run import checkpoint, load
from ppo_jax.train import main

MINE = '''
import jax, jax.numpy as jnp
from flax import linen as nn
from gymnax.environments import CartPole, spaces
from ppo_jax.env import Environment, Step
from ppo_jax.spaces import Box


class Shared(nn.Module):
    num_outputs: int

    @nn.compact
    def __call__(self, observation):
        hidden = nn.tanh(nn.Dense(8)(observation))
        return nn.Dense(self.num_outputs)(hidden), nn.Dense(1)(hidden)[:, 0]


class Mine(CartPole):
    """A gymnax environment."""


def make_walk(size=1.0):
    """Be near the origin: position in the plane, velocity as the action."""

    def reset(key):
        position = jax.random.uniform(key, (2,), minval=-size, maxval=size)
        return position, position

    def step(key, position, action):
        position = jnp.clip(position + 0.1 * action, -size, size)
        return position, Step(position, -jnp.abs(position).sum(), False, False)

    return Environment(reset, step, Box(-size, size, (2,)), Box(-1, 1, (2,)), 20)


def broken():
    good = make_walk()
    return good._replace(reset=lambda key: (jnp.zeros(2, int), jnp.zeros(2)))
'''
SMALL = (
    *("--recipe", "standard", "--num-updates", "48", "--num-steps", "32", "--num-seeds", "2"),
    *("--network", "mine:Shared", "--normalize-observation", "--normalize-reward", "--quiet"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    (path / "mine.py").write_text(MINE)
    return path


def start(folder, *arguments):
    command = [sys.executable, "-m", "ppo_jax.train", *arguments]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, error = process.communicate(timeout=300)
    return process.returncode, error


def hash_of(out):
    return json.loads((out / "summary.json").read_text())["state_sha256"]


@pytest.mark.parametrize(
    "name", [pytest.param("mine:Mine", marks=pytest.mark.slow), "mine:make_walk"]
)
def test_ones_own_parts_train_and_resume_to_the_bit_after_a_kill(folder, name):
    whole, killed = (folder / f"{kind}-{name[5:]}" for kind in ("whole", "killed"))
    own = (*SMALL, "--env", name, "--checkpoint-every", "2", "--checkpoint-seconds", "None")
    assert finish(start(folder, *own, "--out", whole.name)) == (0, "")
    process = start(folder, *own, "--out", killed.name)
    deadline = time.monotonic() + 200
    while not checkpoint.committed(killed / "checkpoints"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    assert finish(start(folder, "--resume", "--out", killed.name, "--quiet")) == (0, "")
    assert hash_of(killed) == hash_of(whole)


def test_ones_own_parts_are_replayed_to_the_bit(folder):
    result = subprocess.run(
        [sys.executable, "-m", "ppo_jax.replay", "whole-make_walk", "--agent", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "\nbit for bit: all" in result.stdout, result.stdout + result.stderr
    trace = (folder / "whole-make_walk" / "replay-1" / "trace.csv").read_text().splitlines()
    assert trace[0] == (
        "episode,step,observation_0,observation_1,action_0,action_1,reward,value,deviation_0,"
        "deviation_1,mean_0,mean_1,terminated,truncated"
    )
    assert len(trace) == 21  # the time limit is the library's


def test_ones_own_parts_are_loaded(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    run = load(folder / "whole-make_walk")
    agent = run.agent(1)
    observation = np.array([[0.5, -0.5], [0.0, 0.25], [-1.0, 1.0]])
    actions, values = agent.act(observation), agent.value(observation)
    assert (actions.shape, values.shape) == ((3, 2), (3,))
    assert np.abs(actions).max() <= 1
    np.testing.assert_array_equal(actions, ppo.act(agent.params, observation, agent.config))
    np.testing.assert_array_equal(agent.metrics["value_loss"], run.metrics["value_loss"][:, 1])
    with pytest.raises(IndexError, match="agent 2: the run saved agents 0 to 1"):
        run.agent(2)


def test_what_is_wrong_with_an_environment_is_said_before_training(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    assert main([*SMALL, "--env", "mine:broken", "--out", "broken"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the state is int32[2] after reset and float32[2] after step" in error
    assert not Path("broken").exists()


def test_each_agent_of_a_sweep_has_its_own_configuration(tmp_path):
    small = ("--num-updates", "2", "--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8")
    sweep = ("--sweep", "env_params.force_mag=5,20", "--sweep", "learning_rate=1e-3")
    assert (
        main([*small, *sweep, "--num-seeds", "2", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    )
    run = load(tmp_path / "run")
    found = [run.agent(number).config for number in range(6)]
    assert [config.env_params["force_mag"] for config in found] == [10, 10, 5, 5, 20, 20]
    assert [config.learning_rate for config in found] == pytest.approx([2.5e-3] * 2 + [1e-3] * 4)
    assert [dict(run.config.env_params)] == [{}]


def test_an_object_is_named_in_config_json_and_must_be_given_to_load(tmp_path):
    small = ("--num-updates", "2", "--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8")
    out = tmp_path / "run"
    assert main([*small, "--out", str(out), "--quiet"]) == 0
    settings = json.loads((out / "config.json").read_text())
    settings["config"]["env"] = {"object": "mine.Mine"}
    (out / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"env was the object mine.Mine.*load\(path, env=...\)"):
        load(out)
    assert load(out, env="CartPole-v1").config.env == "CartPole-v1"
    assert main(["--config", str(out / "config.json"), "--out", str(tmp_path / "again")]) == 2


def test_a_field_that_an_older_file_lacks_has_its_neutral_value(tmp_path):
    out = tmp_path / "run"
    small = ("--num-updates", "2", "--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8")
    assert (
        main([*small, "--env", "Catch-bsuite", "--no-normalize-observation", "--out", str(out)])
        == 0
    )
    settings = json.loads((out / "config.json").read_text())
    for name in ("normalize_observation", "network", "time_limit", "target_kl", "env_kwargs"):
        del settings["config"][name]
    (out / "config.json").write_text(json.dumps(settings))
    config = load(out).config
    assert (config.normalize_observation, config.network) == (False, "mlp")
    assert recipe("fast", env="Catch-bsuite").normalize_observation  # the recipe's is another


def test_the_readmes_example_trains_the_agents_of_the_command(tmp_path):
    from ppo_jax import population

    small = ("--num-updates", "3", "--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8")
    assert main([*small, "--num-seeds", "3", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    config = recipe("fast", num_updates=3, num_envs=4, num_steps=16, hidden_sizes=(8,))
    keys = population.agent_keys(0, 3)
    _, metrics = jax.jit(jax.vmap(ppo.train, (0, None)))(keys, config)
    saved = load(tmp_path / "run")
    np.testing.assert_allclose(
        metrics.value_loss.T, saved.metrics["value_loss"], rtol=1e-4, atol=1e-6
    )
