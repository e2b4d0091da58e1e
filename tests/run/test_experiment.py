"""The one description of a run: its options, its config.json, its older formats."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest

import ppo_jax
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
from tests.helpers.commands import SMALL, refused, run_command

PACKAGE = Path(ppo_jax.__file__).parent
BOXES = (Agents, Stopping, Storage, Machine, Screen)
OPTIONS = [field.name for box in BOXES for field in dataclasses.fields(box)]
REPEATED = {"sweep", "search", "evolve"}

# Where an option's name stands once more, and why.
ALLOWED = {
    "cli/__init__.py": {"plan", "version"},  # a command; `ppo-jax --version`
    "cli/envs.py": {"debug", "quiet"},  # options of its own
    "cli/evaluate.py": {"agent", "seed"},  # options of its own
    "cli/export.py": {"agent", "out", "overwrite", "seed", "quiet"},  # options of its own
    "cli/film.py": {"agent", "out", "overwrite", "seed"},  # options of its own
    "cli/flags.py": {  # those that decide the others' defaults, and the repeated, which are
        *("recipe", "resume", "out", *REPEATED),  # appended to theirs; options of other commands
        *("seed", "device", "quiet", "debug", "plan"),
    },
    "cli/replay.py": {  # options of its own; one that a run may have had
        *("agent", "device", "out", "overwrite", "evolve"),
    },
    "cli/report.py": {"out", "quiet", "debug"},  # options of its own
    "cli/train.py": {"agent", "plan"},  # a key of summary.json, the other command
    "run/checkpointer.py": {"device"},  # a key of a checkpoint's metadata
    "run/console.py": {"quiet"},  # rich's
    "run/errors.py": {"debug"},  # how errors are shown, before anything is read
    "run/evolution.py": {"agent", "seed"},  # columns of evolution.csv, keys of summary.json
    "run/experiment.py": {  # one rule for three; repeated flags' one spelling; format 2
        *("coordinator", "num_processes", "process_id", *REPEATED, "seed"),
        *("stop_when_solved", "evaluate_every"),
    },
    "run/interface.py": {"recipe", "quiet", "num_seeds", "seed", "out"},  # what Python sets
    "run/pipeline.py": {"device", "recipe", "seed", "num_seeds"},  # keys of summary.json
    "run/replaying.py": {"agent", "seed"},  # a replay's request, and its summary
    "run/report/data.py": {"curves", "seed", "recipe"},  # what a run was asked for
    "run/report/page.py": {"num_seeds", "recipe", "device"},  # what a run was asked for
    "run/saved.py": {"agent"},  # a column of evolution.csv
    "run/sinks.py": {"seed", "resume"},  # a column of metrics.csv; the tracking library's
    "run/storage/tables.py": {"agent", "seed"},  # columns
    "run/sweeps.py": {"sweep"},  # in its errors
}


def spelled(source, names):
    """The names that a file declares as fields, gives by keyword, or holds as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found = node.target.id
        elif isinstance(node, ast.keyword):
            found = node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = node.value.strip("-").replace("-", "_")
        else:
            continue
        if found in names:
            yield found


@pytest.mark.parametrize(
    "source",
    [
        "class Box:\n    group_size: int = 3",
        "Other(group_size=3)",
        "{'group_size': 3}",
        "x['group_size']",
        "getattr(x, 'group_size')",
        "parser.add('--group-size')",
    ],
)
def test_what_is_planted_is_found(source):
    assert list(spelled(source, OPTIONS)) == ["group_size"]
    assert list(spelled("x.group_size + group_size(3)", OPTIONS)) == []


def test_an_option_is_one_line_in_one_place():
    """Its declaration: flags, help, checks, config.json and what resume compares follow."""
    assert len(OPTIONS) == len(set(OPTIONS))
    experiment = (PACKAGE / "run" / "experiment.py").read_text()
    for name in OPTIONS:
        fields = [
            node
            for node in ast.walk(ast.parse(experiment))
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name
        ]
        assert len(fields) == 1, name
    elsewhere = {}
    for folder in ("run", "cli"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            file = path.relative_to(PACKAGE).as_posix()
            found = list(spelled(path.read_text(), OPTIONS))
            if file == "run/experiment.py":
                for name in OPTIONS:  # once for the declaration
                    found.remove(name)
            elsewhere[file] = set(found) - ALLOWED.get(file, set())
    assert {file: names for file, names in elsewhere.items() if names} == {}


def test_a_common_option_has_no_exception():
    """The list above may not grow into the nine places that there were."""
    free = set(OPTIONS) - set.union(*ALLOWED.values())
    assert {"checkpoint_every", "checkpoints_kept", "track", "init_from", "samples"} <= free


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
