"""The agents that come with the package: all load, play as their files say, and stay untouched."""

import json
from pathlib import Path

import jax
import pytest

import ppo_jax
from ppo_jax import evaluate
from ppo_jax.run import load
from tests.helpers.commands import refused, run_command
from tests.helpers.quick import quick_jit

FOLDER = Path(ppo_jax.__file__).parent / "pretrained"
NAMES = sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_agent_loads_with_its_configuration(name):
    run = load(f"pretrained:{name}")
    assert run.config.env == name
    assert run.numbers.tolist() == [0]
    assert all(len(leaf) == 1 for leaf in jax.tree.leaves(run.params))
    summary = json.loads((FOLDER / name / "summary.json").read_text())
    assert run.table.seeds.tolist() == [summary["seed"]]


def test_together_they_are_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 1_000_000


@pytest.mark.parametrize("name", ["CartPole-v1", "CartPoleNoVelocity-v1", "MountainCar-v0"])
def test_an_agent_plays_as_its_summary_says(name):
    agent = load(f"pretrained:{name}").agent(0)
    play = quick_jit(lambda params: evaluate.evaluate(params, agent.config, jax.random.key(5), 20))
    (said,) = json.loads((FOLDER / name / "summary.json").read_text())["eval_return_per_seed"]
    assert play(agent.params).mean() == pytest.approx(said, abs=5)


def test_the_command_evaluates_one_and_writes_nothing():
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    code, said, error = run_command("evaluate", "pretrained:CartPole-v1", "--episodes", 20)
    assert (code, error) == (0, "")
    assert said.split()[-4:] == ["500", "500", "to", "500"]
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before


def test_another_name_is_refused_with_those_that_there_are():
    refused(2, "there are Acrobot-v1, ", "evaluate", "pretrained:CartPole-v0")
    with pytest.raises(ValueError, match=r"pretrained:CartPole-v0 does not exist"):
        load("pretrained:CartPole-v0")
