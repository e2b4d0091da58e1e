"""The one description of a run: its options, its config.json, its older formats."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest

from ppo_jax import Config, recipe
from ppo_jax.cli import flags
from ppo_jax.run import agents, load
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import (
    FORMAT,
    Agents,
    Experiment,
    Machine,
    Screen,
    Stopping,
    Storage,
    differences,
    read_description,
)
from tests.helpers import own_parts
from tests.helpers.commands import SMALL, refused, run_command

BOXES = (Agents, Stopping, Storage, Machine, Screen)
OPTIONS = [field.name for box in BOXES for field in dataclasses.fields(box)]


def test_every_option_is_a_flag_with_its_help():
    _, said, _ = run_command("train", "--help")
    flags = [f"--{name.replace('_', '-')}" for name in OPTIONS]
    assert [flag for flag in flags if not re.search(rf"{flag}[ ,]", said)] == []


def test_the_flags_are_what_python_says():
    arguments = "--num-seeds 3 --seed 7 --checkpoint-every 5 --device cpu --no-curves --out x"
    read = flags.read([*arguments.split(), "--sweep", "learning-rate=1e-3,0.01"], "train")
    options = {"num_seeds": 3, "seed": 7, "checkpoint_every": 5, "device": "cpu", "out": "x"}
    own = Experiment(recipe("fast")).replace(
        **options, curves=False, sweep=("learning_rate=0.001,1e-2",)
    )
    assert read == own.check()
    assert read.agents.sweep == ("learning_rate=0.001,0.01",)


def test_an_option_that_there_is_not_names_the_nearest():
    with pytest.raises(InputError, match=r"num_seed; did you mean num_seeds\?"):
        Experiment().replace(num_seed=3)


VARIED = Experiment(
    recipe("fast", num_envs=4, env_params={"force_mag": 7.0}, total_timesteps=5120),
    Agents(seed=3, num_seeds=2, sweep=("learning_rate=0.1,0.2",), group_size=2, curves=False),
    Stopping(stop_when_solved=0.5),
)


def test_a_description_is_read_back_through_json():
    description = json.loads(json.dumps(VARIED.check().describe()))
    assert description["format"] == FORMAT == 3
    read = read_description(description)
    assert read.algorithm == VARIED.algorithm
    assert (read.agents, read.stopping) == (VARIED.agents, VARIED.stopping)
    assert differences(read.describe(), description) == {}


def test_what_two_descriptions_differ_in_is_said_with_both_values():
    other = VARIED.replace(num_seeds=3, evaluate_every=5)
    other = dataclasses.replace(other, algorithm=other.algorithm.replace(discount=0.5))
    assert differences(other.describe(), VARIED.describe()) == {
        "num_seeds": "num_seeds 2 there, 3 asked for",
        "evaluate_every": "evaluate_every none there, 5 asked for",
        "discount": "discount 0.98 there, 0.5 asked for",
    }
    # Where files go and who is told of them does not decide a result.
    elsewhere = VARIED.replace(out="x", device="cpu", quiet=True, checkpoint_every=3)
    assert differences(elsewhere.describe(), VARIED.describe()) == {}


def test_sweeps_that_say_the_same_are_the_same():
    one, other = (
        Experiment().replace(sweep=(text,)).check().describe()
        for text in ("learning-rate=1e-3, 1e-2", "learning_rate=0.001,0.01")
    )
    assert differences(one, other) == {}


def format_2(config, **others):
    """A config.json by hand, as the tree before the boxes wrote it."""
    return {
        "format": 2,
        "recipe": "fast",
        "seed": 3,
        "num_seeds": 2,
        "sweep": {"learning_rate": [0.1, 0.2]},
        "search": {},
        "samples": 0,
        "evolve": {},
        "evolve_every": 20,
        "group_size": 2,
        "stop_when_solved": 0.5,
        "evaluate_every": 10,
        "drop_solved": False,
        "curves": False,
        "config": json.loads(json.dumps(config)),
        "versions": {"ppo_jax": "0.1.0", "jax": "0.10.2"},
        **others,
    }


def test_a_config_of_format_2_describes_the_same_run():
    old = format_2(VARIED.describe()["algorithm"])
    read = read_description(old)
    assert read.algorithm == VARIED.algorithm
    assert read.agents == VARIED.agents
    assert read.stopping == Stopping(stop_when_solved=0.5, evaluate_every=10)
    assert differences(read.describe(), old) == {}
    ranges = {"clip_range": ["uniform", 0.1, 0.4]}
    searched = read_description({**old, "search": ranges, "samples": 3, "sweep": {}})
    assert searched.agents.search == ("clip_range=uniform:0.1:0.4",)
    assert agents.table(searched).num_settings == 4
    evolved = read_description({**old, "evolve": ranges, "sweep": {}, "group_size": None})
    assert evolved.evolving == {"clip_range": ("uniform", 0.1, 0.4)}
    # An interval that nothing used is none: now it would evaluate.
    unused = read_description({**old, "stop_when_solved": None})
    assert unused.stopping.evaluation_updates is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run_command("train", *SMALL, "--out", out, "--quiet")[0] == 0
    return out


@pytest.fixture
def edited(run, tmp_path):
    """The run with another config.json, from what changes the one it has."""

    def edit(change):
        for path in run.iterdir():
            if path.is_file():
                (tmp_path / path.name).write_bytes(path.read_bytes())
        description = json.loads((run / "config.json").read_text())
        change(description)
        (tmp_path / "config.json").write_text(json.dumps(description))
        return tmp_path

    return edit


def test_a_run_of_format_2_is_loaded_and_repeated(run, edited):
    def change(description):
        config = description["algorithm"]
        description.clear()
        description |= format_2(config, seed=0, num_seeds=1, sweep={}, group_size=None)
        description |= {"stop_when_solved": None, "curves": True}

    old = edited(change)
    assert load(old).config == load(run).config
    again = old / "again"
    arguments = ("--config", old / "config.json", "--quiet", "--out", again)
    assert run_command("train", *arguments) == (0, "", "")
    hashes = [load(path).summary["state_sha256"] for path in (run, again)]
    assert hashes[0] == hashes[1]
    assert json.loads((again / "config.json").read_text())["format"] == FORMAT


def test_a_field_that_an_older_file_lacks_has_its_neutral_value(edited):
    """Never a recipe's, which may be another."""
    names = ("normalize_observation", "network", "time_limit", "target_kl", "env_kwargs")

    def change(description):
        for name in names:
            del description["algorithm"][name]
        description["algorithm"]["env"] = "MountainCar-v0"

    config = flags.read(["--config", str(edited(change) / "config.json")], "train").algorithm
    assert (config.normalize_observation, config.network) == (False, "mlp")
    assert recipe("fast", env="MountainCar-v0").normalize_observation
    assert config.target_kl is None


def test_an_object_is_named_in_config_json_and_must_be_given_to_load(edited):
    def change(description):
        description["algorithm"]["env"] = {"object": "mine.Mine"}

    out, said = edited(change), "no file holds its env (mine.Mine), given as a Python object"
    with pytest.raises(ValueError, match=rf"^{re.escape(f'{out}: {said}')}.*load\(path, env=...\)"):
        load(out)
    assert load(out, env="CartPole-v1").config.env == "CartPole-v1"
    for command in ("evaluate", "film", "export"):
        refused(2, f"{out}: {said}", command, out)
    refused(2, f"{out}: {said}", "replay", out, "--agent", 0)
    refused(2, f"{out / 'config.json'}: {said}", "train", "--resume", "--out", out)
    arguments = ("--config", out / "config.json", "--out", out / "again")
    refused(2, f"{out / 'config.json'}: {said}", "train", *arguments)


@pytest.mark.parametrize(
    "change",
    [
        lambda description: description.pop("algorithm"),
        lambda description: description["algorithm"].update(discount="high"),
        lambda description: description["agents"].update(num_seeds=0),
        lambda description: description["agents"].update(seeds=3),
        lambda description: description.update(agents=[]),
    ],
)
def test_a_description_that_cannot_be_is_refused_in_one_line(edited, change):
    out = edited(change)
    arguments = ("--config", out / "config.json", "--out", out / "again")
    refused(2, "config.json is corrupt", "train", *arguments)
    with pytest.raises(ValueError, match="is corrupt"):
        load(out)
    assert not (out / "again").exists()


def test_a_part_that_does_not_import_is_named(edited):
    out = edited(lambda description: description["algorithm"].update(network="nowhere:Net"))
    said = re.escape(f"{out}: network 'nowhere:Net' does not import (No module named 'nowhere')")
    with pytest.raises(ValueError, match=f"^{said}"):
        load(out)


def test_a_configuration_by_itself_is_an_experiment():
    assert Experiment(Config()).check() == Experiment()


@pytest.mark.parametrize("part", [{"env": own_parts.lottery()}, {"network": own_parts.Shared}])
def test_the_file_of_a_users_own_object_is_remembered(part):
    [source] = Experiment(recipe("standard", **part)).describe()["sources"].values()
    content = Path(own_parts.__file__).read_bytes()
    assert source == {"file": "own_parts.py", "sha256": hashlib.sha256(content).hexdigest()}
