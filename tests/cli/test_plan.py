"""ppo-jax plan: what a run would need, held against what it takes."""

import json
import subprocess
import sys

import pytest

from ppo_jax.run import devices, planning
from tests.helpers.commands import SMALL, run_command

# Both in a process of their own, where the imports' memory is known.
PLAN = """
import json, sys
from ppo_jax.run import xla
xla.set_flags(8)
from ppo_jax import cli
from ppo_jax.run import devices, planning
show = planning.show
planning.show = lambda *arguments: print(json.dumps(show(*arguments)._asdict()))
sys.exit(cli.main(["plan", *sys.argv[1:], "--quiet"]))
"""
RUN = """
import json, sys
from ppo_jax.run import xla
xla.set_flags(8)
from ppo_jax.run import sinks
sinks.import_tensorboard()
from ppo_jax import cli
from ppo_jax.run import devices, pipeline
make_plan, resident = pipeline.make_plan, []
def made(experiment):
    plan = make_plan(experiment)  # imports gymnax
    resident.append(devices.memory("VmHWM"))
    return plan
pipeline.make_plan = made
code = cli.main(["train", *sys.argv[1:], "--quiet", "--no-compilation-cache"])
print(json.dumps(devices.memory("VmHWM") - resident[0]))
sys.exit(code)
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_plan_says_what_a_run_needs_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, error = run_command("plan", *SMALL, "--num-seeds", 6, "--group-size", 1)
    assert (code, error) == (0, "")
    assert "6 agents, 1 at once" in said
    assert "fit at once; they fit" in said
    assert "s of training" in said
    assert list(tmp_path.iterdir()) == []


def test_the_flag_of_a_training_is_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = []
    monkeypatch.setattr(planning, "show", lambda experiment, _: planned.append(experiment))
    for arguments in (("train", "--plan"), ("plan",)):
        assert run_command(*arguments, *SMALL, "--num-seeds", 3) == (0, "", "")
    first, second = planned
    assert first.replace(plan=False) == second
    assert second.agents.num_seeds == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_a_group_size_that_does(monkeypatch):
    monkeypatch.setattr(devices, "memory_free", lambda _: 0)
    assert "give --group-size 1" in run_command("plan", *SMALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "curves"), [(64, True), (4096, False)])
def test_the_planned_memory_is_within_a_quarter_of_what_a_run_takes(tmp_path, num_seeds, curves):
    arguments = ["--num-seeds", num_seeds, "--num-updates", 20]
    arguments += [] if curves else ["--no-curves"]
    planned = run(PLAN, *arguments)
    taken = run(RUN, *arguments, "--out", tmp_path / "run")
    assert planned["bytes_in_all"] == pytest.approx(taken, rel=0.25)
