"""The table of environments: its judgement and its page, by the command that writes them; nothing
is trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ppo_jax import env

ROOT = Path(__file__).parents[2]
# Rows, invented returns of four seeds, and what they come to: verdict, reached, regret.
JUDGED = {
    "Catch-bsuite": ([1, 1, 1, 0.5], "met", 0.75, 0),
    "Acrobot-v1": ([-80, -76, -76, -60], "missed", 0.25, 6.9),
    "Pong-misc": ([999.99995] * 4, "met", 1, 5e-5),  # rounding
    "UmbrellaChain-bsuite": ([0.95] * 4, "met", 1, 0.05),  # the evaluation's noise
    "DeepSea-bsuite": ([0, 0.99, 0.99, 0.99], "missed", 0.75, 0),  # too few seeds
    "MountainCar-v0": ([-110, -106, -106, -109], "missed", 1, 6.7),  # solved, and yet too slow
    "MemoryChain-bsuite-mlp": ([0, 0.05, 0.05, 0.3], "met", 0.75, -0.05),  # a control
    "MountainCar-v0-250k": ([-111, -109, -109, -105], "no aim", 0.75, 8.2),
    "SimpleBandit-bsuite": ([0.5] * 4, "no aim", None, 0),
}


def a_record(per_seed):
    """What is measured, as the file has it."""
    middle = sum(sorted(per_seed)[1:3]) / 2
    returns = {"iqm": middle, "low": middle - 1, "high": middle + 1, "per_seed": per_seed}
    return {
        "experiment": {"algorithm": {"network": "mlp"}, "agents": {"num_seeds": 4}},
        "episodes": 128,
        "command": "python -m ppo_jax train --of-this-row",
        "setting": {"processor": "a processor"},
        "steps": 2048,
        "train_seconds": 1.0,
        "greedy": returns,
        "sampled": returns,
        "curve": {"steps": [1024, 2048], "iqm": [None, 1], "low": [None, 0], "high": [None, 2]},
    }


def write_page(folder, *arguments):
    """The finished command that measures nothing, and writes its page into the folder."""
    folders = "--out", str(folder), "--docs", str(folder)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "environments", "--page", *arguments, *folders],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a table with the invented records."""
    path = tmp_path_factory.mktemp("table")
    records = {name: a_record(per_seed) for name, (per_seed, *_) in JUDGED.items()}
    (path / "environments.json").write_text(json.dumps({"rows": records}))
    done = write_page(path)
    assert (done.returncode, done.stderr) == (0, "")
    return path


@pytest.mark.parametrize("name", JUDGED)
def test_verdict_fraction_and_regret(written, name):
    record = json.loads((written / "environments.json").read_text())["rows"][name]
    _, verdict, reached, regret = JUDGED[name]
    assert (record["verdict"], record["reached"]) == (verdict, reached)
    assert record["regret"] == pytest.approx(regret)


def test_the_page_has_a_row_for_every_registered_environment(written):
    page = (written / "environments.md").read_text()
    rows = {line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if "|" in line}
    assert {name for name in env.names() if "Probe" not in name} <= rows
    assert set(JUDGED) <= rows
    missed = page.partition("## Missed")[2].partition("##")[0]
    names = {name for name, (_, verdict, *_) in JUDGED.items() if verdict == "missed"}
    assert {line.split("**")[1] for line in missed.splitlines() if "**" in line} == names
    assert page.count("--of-this-row") == len(JUDGED)
    assert (written / "environments.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_row_that_is_not_there_is_refused(tmp_path):
    done = write_page(tmp_path, "Acrobot")
    assert done.returncode == 2
    assert done.stderr.startswith("no row Acrobot; there are CartPole-v1,")
