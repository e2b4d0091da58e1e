"""Runs killed for real, resumed, and compared with uninterrupted ones; determinism, too."""

import dataclasses
import json

import pytest

from tests.reliability import chaos, determinism
from tests.reliability.fingerprint import fingerprint


@pytest.mark.slow
def test_thirty_kills_lose_no_run_and_change_no_bit(tmp_path):
    options = chaos.Options(kills=30, kills_per_run=5, seed=1000, fresh=True, out=tmp_path)
    assert chaos.main(options) == 0
    result = json.loads((tmp_path / "chaos.json").read_text())
    assert result["kills"] == 30
    assert result["runs_that_differ_or_are_lost"] == 0
    assert result["kills_by_moment"]["saving"] > 0


@pytest.mark.slow
def test_fresh_processes_have_one_final_state(tmp_path):
    """With the flags that the command sets by itself; the sizes are those that use threads."""
    options = determinism.Options(
        processes=3, cases=("standard, 1 agent",), flags=("default", "pinned"), out=tmp_path
    )
    assert determinism.main(options) == 0
    rows = json.loads((tmp_path / "determinism.json").read_text())["rows"]
    assert [row["different_states"] for row in rows] == [1, 1]


def test_a_run_that_differs_or_cannot_go_on_is_found():
    """The harness itself: other expectations, and an end with another code."""
    kill = chaos.Kill("one agent", "training", "SIGTERM", 3, 143, 0.1)
    assert not chaos._ended_wrong(kill)
    assert chaos._ended_wrong(dataclasses.replace(kill, exit_code=1))
    summary = chaos.summarize(
        [chaos.Campaign("one agent", [kill], None), chaos.Campaign("groups", [], "differs")]
    )
    assert summary["kills"] == 1
    assert summary["runs_that_differ_or_are_lost"] == 1
    assert summary["wrong"] == ["groups: differs"]


@pytest.mark.parametrize(
    "name", ["metrics.csv", "statistics.csv", "parameters.npz", "summary.json", "events.out.*"]
)
def test_every_file_has_its_part_in_a_fingerprint(name, finished, whole):
    (path,) = whole.glob(name)
    content = bytearray(path.read_bytes())
    place = content.rindex(b'"seed": 0') + 8 if name == "summary.json" else len(content) - 6
    content[place] ^= 1
    path.write_bytes(content)
    assert fingerprint(whole) != fingerprint(finished)
