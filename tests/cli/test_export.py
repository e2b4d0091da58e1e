"""ppo-jax export: what it writes, says and refuses."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import ppo_jax
from ppo_jax import population
from ppo_jax.run import export, load
from tests.helpers import quick
from tests.helpers.commands import SMALL, refused, run_command

PAGE = Path(ppo_jax.__file__).parents[1] / "docs" / "export.md"
FILES = (
    *("policy.onnx", "policy.stablehlo", "policy.npz", "run_policy.py"),
    *("contract.json", "results.json", "film.gif", "README.md"),
)


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    """Programs that compile quickly: none of them runs for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "COMPILER_OPTIONS", quick.options())
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two agents, one after another."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = (*SMALL, "--num-seeds", 2, "--group-size", 1, "--quiet", "--out", out)
    assert run_command("train", *arguments) == (0, "", "")
    return out


@pytest.fixture(scope="module")
def exported(run):
    """Agent 1's folder, and what was said."""
    code, said, error = run_command("export", run, "--agent", 1, "--seed", 5)
    assert (code, error) == (0, "")
    return run / "export-1", said


def read(path):
    return json.loads(path.read_text())


def test_all_files_are_written_and_said(exported):
    out, said = exported
    assert {file.name for file in out.iterdir()} == set(FILES)
    results = read(out / "results.json")
    mean, deviation = results["mean_reward"], results["std_reward"]
    assert said.splitlines() == [
        f"agent 1: mean return {mean:.4g} +/- {deviation:.4g}, 100 episodes",
        f"wrote {out}/: {', '.join(FILES)}",
    ]


def test_it_is_the_agents_policy(run, exported):
    examples = read(exported[0] / "contract.json")["examples"]
    observations = np.float32(examples["inputs"]["observation"])
    actions = [np.asarray(load(run).agent(number).act(observations)).tolist() for number in (0, 1)]
    assert examples["outputs"]["action"] == actions[1] != actions[0]


def test_the_results_are_those_of_evaluation(run, exported):
    """Means of a hundred and a thousand other episodes, five standard errors apart at most."""
    assert run_command("evaluate", run, "--agent", 1)[0] == 0
    (found,) = read(run / "evaluation.json")["agents"]
    results = read(exported[0] / "results.json")
    error = results["std_reward"] * (1 / 100 + 1 / 1000) ** 0.5
    assert abs(results["mean_reward"] - found["mean"]) < 5 * error


def test_the_contract_tells_the_environment(exported):
    contract = read(exported[0] / "contract.json")
    assert contract["environment"] == {
        "id": "CartPole-v1",
        "kwargs": {},
        "params": {},
        "max_episode_steps": 500,
        "previous_action": False,
        "previous_reward": False,
    }
    (given,), (taken,) = contract["inputs"], contract["outputs"]
    assert (given["name"], given["shape"], given["dtype"]) == (
        "observation",
        ["batch", 4],
        "float32",
    )
    assert given["space"]["high"][::2] == pytest.approx([4.8, 0.41887903])
    assert (taken["name"], taken["shape"], taken["dtype"]) == ("action", ["batch"], "int32")
    assert taken["space"] == {"type": "Discrete", "n": 2}
    assert contract["versions"]["ppo-jax"] == ppo_jax.__version__


def test_the_code_of_the_page_runs(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "run_policy", raising=False)
    codes = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(codes) == 4
    found = {}
    for code in codes:
        exec(code.replace('"runs/mine", 7', '"runs/mine", 1'), found)
        if "actions" in found:
            assert np.asarray(found.pop("actions")).shape == (3,)
    assert found["done"]


def test_a_folder_is_not_replaced_unasked(run, exported, tmp_path):
    out = shutil.copytree(exported[0], tmp_path / "out")
    (out / "film.gif").touch()
    before = {path: path.read_bytes() for path in out.iterdir()}
    refused(2, "exists; give another folder with --out, or --overwrite", *command(run, out))
    with pytest.raises(ValueError, match="exists; give another folder"):
        export(run, 0, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert run_command(*command(run, out), "--overwrite", "--quiet") == (0, "", "")
    assert (out / "contract.json").read_bytes() != before[out / "contract.json"]
    assert {file.name for file in out.iterdir()} == {*FILES, "film.gif"}
    assert export(load(run), 1, out, seed=5, overwrite=True) == out
    assert (out / "contract.json").read_bytes() == before[out / "contract.json"]


def command(run, out):
    return "export", run, "--agent", 0, "--out", out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("RUN --agent 2", 2, "agent is 2; the run's agents are 0 to 1"),
        ("RUN --agent -1", 2, "agent is -1; the run's agents are 0 to 1"),
        ("RUN --agent 0 --seed -1", 2, "seeds go from 0 to 4294967295"),
        ("RUN --agent 0 --out RUN --overwrite", 2, "holds a run, which is never overwritten"),
        ("RUN --agent 0 --out RUN/config.json", 3, "is a file; give a folder"),
        ("missing --agent 0", 2, "missing is not a run's folder: it has no config.json"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_is_written(
    arguments, code, message, run
):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    refused(code, message, "export", *arguments.replace("RUN", str(run)).split())
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_sampling_is_not_offered(run):
    code, _, error = run_command("export", run, "--agent", 0, "--sampled")
    assert code == 2
    assert "--sampled" in error
