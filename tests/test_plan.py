"""--plan: what a run would need, held against what it takes."""

import json
import subprocess
import sys

import pytest

from ppo_jax.run import plan
from ppo_jax.train import main

SMALL = ("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--total-timesteps", "1280")

# Both in a process of their own, where the imports' memory is known.
PLAN = """
import json, sys
from ppo_jax.run import xla
xla.set_flags(8)
from ppo_jax import train
from ppo_jax.run import plan
show = plan.show
plan.show = lambda *arguments: print(json.dumps(show(*arguments)._asdict()))
sys.exit(train.main([*sys.argv[1:], "--plan", "--quiet"]))
"""
RUN = """
import json, sys
from ppo_jax.run import xla
xla.set_flags(8)
from ppo_jax.run import log
log.import_tensorboard()
from ppo_jax import train
from ppo_jax.run import loop, plan
prepare, resident = loop.prepare, []
def prepared(job):
    agents = prepare(job)  # imports gymnax
    resident.append(plan._peak())
    return agents
loop.prepare = prepared
code = train.main([*sys.argv[1:], "--quiet", "--no-compilation-cache"])
print(json.dumps(plan._peak() - resident[0]))
sys.exit(code)
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_plan_says_what_a_run_needs_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--num-seeds", "6", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "6 agents, all at once" in said
    assert "fit at once; they fit" in said
    assert "s of training" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_a_group_size_that_does(monkeypatch, capsys):
    monkeypatch.setattr(plan, "_free", lambda _: 0)
    assert main([*SMALL, "--num-seeds", "6", "--plan"]) == 0
    assert "give --group-size 1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "curves"), [(64, True), (4096, False)])
def test_the_planned_memory_is_within_a_quarter_of_what_a_run_takes(tmp_path, num_seeds, curves):
    arguments = ["--num-seeds", num_seeds, "--num-updates", 20]
    arguments += [] if curves else ["--no-curves"]
    planned = run(PLAN, *arguments)
    taken = run(RUN, *arguments, "--out", tmp_path / "run")
    assert planned["bytes_in_all"] == pytest.approx(taken, rel=0.25)
