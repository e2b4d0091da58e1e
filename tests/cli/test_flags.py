"""What the flags of a training understand, and what they refuse."""

import json
import os
import subprocess
import sys

import pytest

from ppo_jax.cli import flags
from tests.helpers.commands import SMALL, finish, refused, run_command, start


def read(*arguments):
    return flags.read([str(argument) for argument in arguments], "train")


@pytest.mark.parametrize(
    ("alias", "field", "value"),
    [
        ("--gamma", "discount", 0.9),
        ("--lr", "learning_rate", 0.125),
        ("--ent-coef", "entropy_coefficient", 0.25),
        ("--ent_coef", "entropy_coefficient", 0.25),
        ("--vf-coef", "value_coefficient", 0.75),
        ("--clip-coef", "clip_range", 0.3),
        ("--total-steps", "total_timesteps", 1024),
        ("--env-id", "env", "Acrobot-v1"),
        ("--update-epochs", "num_epochs", 7),
    ],
)
def test_the_names_that_people_type_are_understood(alias, field, value):
    assert getattr(read().algorithm, field) != value
    assert getattr(read(alias, value).algorithm, field) == value
    assert getattr(read(f"{alias}={value}").algorithm, field) == value


@pytest.mark.parametrize(
    ("alias", "field", "value"),
    [
        ("--no-anneal-lr", "anneal_learning_rate", False),
        ("--no-norm-adv", "normalize_advantage", False),
        ("--clip-vloss", "clip_value", True),
        ("--norm-obs", "normalize_observation", True),
        ("--norm-reward", "normalize_reward", True),
    ],
)
def test_cleanrls_switches_are_understood(alias, field, value):
    assert getattr(read().algorithm, field) != value
    assert getattr(read(alias).algorithm, field) == value


def test_whole_numbers_may_have_an_exponent():
    found = read("--total-timesteps", "1.5e6", "--hidden-sizes", "1e2", 8, "--num-seeds", "1e3")
    sizes = found.algorithm.total_timesteps, *found.algorithm.hidden_sizes, found.agents.num_seeds
    assert sizes == (1_500_000, 100, 8, 1000)
    assert {type(size) for size in sizes} == {int}


def test_an_alias_after_the_flag_itself_wins_as_twice_the_flag_would():
    assert read("--discount", 0.5, "--gamma", 0.75).algorithm.discount == 0.75


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--learning-rte", "--learning-rate"),
        ("--learning-rat", "--learning-rate"),
        ("--gama", "--gamma"),
        ("--num-seed", "--num-seeds"),
        ("--checkpoint-evry", "--checkpoint-every"),
        ("--stop-when-solve", "--stop-when-solved"),
    ],
)
def test_an_unknown_flag_names_the_nearest(flag, nearest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = f"ppo_jax: Unrecognized options: {flag}, 1; did you mean {nearest}?\n"
    assert run_command("train", flag, "1") == (2, "", message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --num-envs many", "parsing --num-envs: invalid literal for int() with base 10: 'm"),
        (
            "train --recipe notebok",
            "--recipe is 'notebok'; there are notebook, standard, fast",
        ),
        ("train --num-seeds", "Missing value for argument '--num-seeds'"),
        ("train --num-seeds 1.5e0", "'1.5e0'; give --num-seeds INT"),
        ("train --total-timesteps 1M", "from ['1M']; give --total-timesteps {None}|INT"),
        ("train --hidden-sizes 64,64", "give --hidden-sizes [INT [INT ...]], such as 64 64"),
        (
            "train --env-kwargs size=20",
            "give --env-kwargs [STR STR [STR STR ...]], such as size 20",
        ),
        ("train --anneal-lr True", "Unrecognized options: True; a switch takes no value: give"),
        ("replay runs/x", "Missing from ppo-jax replay: --agent INT; see ppo-jax replay --help"),
        ("evaluate", "Missing from ppo-jax evaluate: RUN; see ppo-jax evaluate --help"),
        ("plan 3", "Unrecognized options: 3; see ppo-jax plan --help"),
    ],
)
def test_what_the_flag_parser_refuses_is_one_line(arguments, message):
    refused(2, message, *arguments.split())


def test_what_the_flag_parser_refuses_is_one_line_in_ascii_too():
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    found = finish(start("replay", "runs/x", env=environment))
    line = "ppo_jax: Missing from ppo-jax replay: --agent INT; see ppo-jax replay --help\n"
    assert found == (2, "", line)


EVOLVE = "--num-seeds 4 --evolve clip_range=log:0.1:0.2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--recipe notebook --total-timesteps 5000", "give num_updates"),
        ("--total-timesteps 5000 --recipe notebook", "give num_updates"),
        ("--config x --recipe fast", "leave out --recipe"),
        ("--init-from x --agent -1", "--agent is -1"),
        ("--num-seeds 300000000", "300000000 agents at once make"),
        # sweeps
        ("--sweep learning_rate=1e-50", "learning_rate is 1e-50; it must be positive and finite"),
        ("--sweep discount=1 --search discount=log:0.1:1 --samples 2", "discount varies twice"),
        ("--search discount=log:0.1:1", "--samples is 0; say how many settings --search draws"),
        ("--search discount=log:0.1:1 --samples -2", "--samples is -2"),
        ("--samples 3", "--samples is 3, but there is no --search"),
        ("--samples 3 --sweep discount=1", "--samples is 3, but there is no --search"),
        # evolution
        (f"{EVOLVE} --evolve clip_range=log:0.2:0.3", "varies twice"),
        (f"{EVOLVE} --num-seeds 3", "--num-seeds is 3; --evolve needs a population of at least 4"),
        (f"{EVOLVE} --evolve-every 0", "--evolve-every is 0"),
        (f"{EVOLVE} --evolve-every 2", "--evolve-every is 2, but the run has 2 updates"),
        (f"{EVOLVE} --sweep discount=0.9", "goes with none of --sweep"),
        (f"{EVOLVE} --group-size 4", "goes with none of --sweep"),
        (f"{EVOLVE} --search discount=uniform:0:1 --samples 2", "goes with none of --sweep"),
        (
            "--num-seeds 4 --evolve-every 1 --evolve env_params.force=uniform:1:9",
            "has no parameter 'force'",
        ),
        # stopping
        ("--stop-when-solved 2", "--stop-when-solved is 2.0; it must be above 0 and at most 1"),
        ("--stop-when-solved 0", "--stop-when-solved is 0.0; it must be above 0 and at most 1"),
        ("--stop-when-solved nan", "--stop-when-solved is nan; it must be above 0 and at most 1"),
        ("--evaluate-every 0", "--evaluate-every is 0; it must be a whole number of at least 1"),
        # storage and machine
        ("--resume auto", "--resume needs --out"),
        ("--coordinator host:1", "--coordinator host:1 needs --distributed"),
        (f"{EVOLVE} --evolve-every 1 --distributed", "leave out one"),
    ],
)
def test_a_bad_flag_is_refused_with_code_2_one_line_and_nothing_written(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    budget = () if "updates" in arguments or "total" in arguments else ("--num-updates", "2")
    refused(2, message, "train", *arguments.split(), *budget)
    assert list(tmp_path.iterdir()) == []


def test_reading_the_flags_needs_no_jax(tmp_path):
    code = """
import sys
from ppo_jax.cli import flags
flags.read(
    "--sweep discount=0.9 --search clip_range=log:0.1:1 --samples 2 --num-seeds 3".split(), "train"
)
print("jax" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_flags_on_top_of_a_config_replace_its_sweeps(tmp_path):
    """A repeated flag that is given stands for all that the file has of it."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(read(*SMALL, "--sweep", "discount=0.9").describe()))
    kept, other = (
        read("--config", config, *more).agents.sweep
        for more in ((), ("--sweep", "learning_rate=1e-2,1e-3"))
    )
    assert kept == ("discount=0.9",)
    assert other == ("learning_rate=0.01,0.001",)
