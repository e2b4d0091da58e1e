"""An environment and a network of one's own from the command line: trained, killed, resumed to the
bit, replayed, loaded."""

import json
import time

import numpy as np
import pytest

from ppo_jax import ppo
from ppo_jax.run import load
from ppo_jax.run.storage import checkpoints
from tests.helpers.commands import finish, refused, start

MINE = '''
import jax, jax.numpy as jnp
from flax import linen as nn
from gymnax.environments import CartPole
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


def hash_of(out):
    return json.loads((out / "summary.json").read_text())["state_sha256"]


OWN = (*SMALL, "--checkpoint-every", "2", "--checkpoint-seconds", "None")


@pytest.fixture(scope="module")
def whole(folder):
    """The folder, in which whole-make_walk is a run that nothing disturbed."""
    arguments = ("--env", "mine:make_walk", "--out", "whole-make_walk")
    assert finish(start("train", *OWN, *arguments, cwd=folder)) == (0, "", "")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine:Mine", "mine:make_walk"])
def test_ones_own_parts_train_and_resume_to_the_bit_after_a_kill(whole, name):
    undisturbed, killed = (whole / f"{kind}-{name[5:]}" for kind in ("whole", "killed"))
    own = (*OWN, "--env", name)
    if not undisturbed.exists():
        assert finish(start("train", *own, "--out", undisturbed.name, cwd=whole))[0] == 0
    process = start("train", *own, "--out", killed.name, cwd=whole)
    deadline = time.monotonic() + 200
    while not checkpoints.committed(killed / "checkpoints"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    assert not (killed / "summary.json").exists(), "it was killed too late"
    again = ("--resume", "--out", killed.name, "--quiet")
    assert finish(start("train", *again, cwd=whole)) == (0, "", "")
    assert hash_of(killed) == hash_of(undisturbed)


@pytest.mark.slow
def test_ones_own_parts_are_replayed_to_the_bit(whole):
    process = start("replay", "whole-make_walk", "--agent", "1", cwd=whole)
    code, said, error = finish(process)
    assert (code, error) == (0, "")
    assert "\nbit for bit: all" in said
    trace = (whole / "whole-make_walk" / "replay-1" / "trace.csv").read_text().splitlines()
    assert trace[0] == (
        "episode,step,observation_0,observation_1,action_0,action_1,reward,value,deviation_0,"
        "deviation_1,mean_0,mean_1,terminated,truncated"
    )
    assert len(trace) == 21  # the time limit is the library's


def test_ones_own_parts_are_loaded(whole, monkeypatch):
    monkeypatch.syspath_prepend(whole)
    run = load(whole / "whole-make_walk")
    agent = run.agent(1)
    observation = np.array([[0.5, -0.5], [0.0, 0.25], [-1.0, 1.0]])
    actions, values = agent.act(observation), agent.value(observation)
    assert (actions.shape, values.shape) == ((3, 2), (3,))
    assert np.abs(actions).max() <= 1
    np.testing.assert_array_equal(actions, ppo.act(agent.params, observation, agent.config))
    np.testing.assert_array_equal(agent.metrics["value_loss"], run.metrics["value_loss"][:, 1])
    with pytest.raises(IndexError, match=r"^agent is 2; the run's agents are 0 to 1"):
        run.agent(2)


def test_the_hashes_of_ones_own_files_are_kept_and_another_file_is_warned_of(whole):
    """A finished run has nothing left to do; one that goes on says what has changed."""
    out = whole / "whole-make_walk"
    sources = json.loads((out / "config.json").read_text())["sources"]
    assert {name: one["file"] for name, one in sources.items()} == {
        "env": "mine.py",
        "network": "mine.py",
    }
    (out / "summary.json").unlink()
    mine = whole / "mine.py"
    mine.write_text(f"{MINE}\n# changed\n")
    code, _, error = finish(start("train", "--resume", "--out", out.name, "--quiet", cwd=whole))
    mine.write_text(MINE)
    assert code == 0
    assert error.splitlines() == [
        f"ppo_jax: warning: mine.py, which {name} comes from, has changed since the run began:"
        " results may differ from those of an uninterrupted run"
        for name in ("env", "network")
    ]


def test_what_is_wrong_with_an_environment_is_said_before_training(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    message = "the state is int32[2] after reset and float32[2] after step"
    refused(2, message, "train", *SMALL, "--env", "mine:broken", "--out", "broken")
    assert not (folder / "broken").exists()
