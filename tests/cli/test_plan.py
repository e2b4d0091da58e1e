"""ppo-jax plan: what a run would need, held against what it takes."""

import json
import re
import subprocess
import sys
from typing import get_args

import jax
import pytest

from ppo_jax.run import absent, devices, planning
from ppo_jax.run.experiment import Device
from tests.helpers.commands import SMALL, finish, refused, run_command, start

# Both in a process of their own, where the imports' memory is known.
PLAN = """
import sys
from ppo_jax.run import xla
xla.set_flags(8)
from ppo_jax import cli
from ppo_jax.run import planning
show = planning.show
planning.show = lambda *arguments: print(show(*arguments))
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
    assert first == second
    assert second.agents.num_seeds == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_a_group_size_that_does(monkeypatch):
    monkeypatch.setattr(devices, "memory_free", lambda _: 0)
    assert "give --group-size 1" in run_command("plan", *SMALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("long", "sizes"), [(0, [1]), (1000, [1, 3])])
def test_an_update_that_takes_long_is_not_timed_again(long, sizes, monkeypatch):
    monkeypatch.setattr(planning, "_LONG", long)
    made, start_chunk = [], planning.Batch.start_chunk
    monkeypatch.setattr(
        planning.Batch,
        "start_chunk",
        lambda batch, size: made.append(size) or start_chunk(batch, size),
    )
    assert "s of training" in run_command("plan", *SMALL)[1]
    assert made == sizes


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "curves"), [(64, True), (4096, False)])
def test_the_planned_memory_is_within_a_quarter_of_what_a_run_takes(tmp_path, num_seeds, curves):
    arguments = ["--num-seeds", num_seeds, "--num-updates", 20]
    arguments += [] if curves else ["--no-curves"]
    planned = run(PLAN, *arguments)
    taken = run(RUN, *arguments, "--out", tmp_path / "run")
    assert planned == pytest.approx(taken, rel=0.25)


def test_an_absent_device_is_for_a_plan_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = "--device gpu:h100 is for ppo-jax plan; train on auto, cpu, gpu or tpu"
    refused(2, said, "train", *SMALL, "--device", "gpu:h100")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "install"),
    [
        ("gpu:h100", "--no-deps jax-cuda13-plugin=={0} jax-cuda13-pjrt=={0}"),
        ("tpu:v5e:2x2", "'jax[tpu]=={0}'"),
    ],
)
def test_a_missing_plugin_is_said_with_what_installs_it(device, install, monkeypatch):
    def missing(**_):
        raise NotImplementedError("topology not implemented")

    monkeypatch.setattr(absent.topologies, "get_topology_desc", missing)
    said = f"--device {device}: jax {jax.__version__} cannot compile for it"
    refused(4, f"pip install {install.format(jax.__version__)}", "plan", *SMALL, "--device", device)
    refused(4, said, "plan", *SMALL, "--device", device)


def test_every_absent_device_has_a_description():
    names = {name for name in get_args(Device) if ":" in name}
    assert names == {*absent._GPUS, *absent._TPUS}


@pytest.mark.slow
def test_a_plan_for_a_gpu_that_is_not_here():
    """The whole command, in a process of its own. Skipped where jax has no plugin."""
    arguments = (*SMALL, "--num-seeds", "3", "--device", "gpu:h100")
    code, said, error = finish(start("plan", *arguments))
    if code == 4:
        pytest.skip(error.strip())
    assert (code, error) == (0, "")
    assert "on gpu (NVIDIA H100 80GB HBM3)" in said
    assert "of 63.7 GB" in said  # three quarters of the card's memory
    fit = int(re.search(r"about ([\d,]+) agents fit at once; they fit", said)[1].replace(",", ""))
    assert 100_000 < fit < 10_000_000  # of some 100 kB each
    launched = int(re.search(r"an update launches ([\d,]+) kernels", said)[1].replace(",", ""))
    trips = [int(trips) for trips in re.findall(r"^  (\d+) trips: ", said, re.MULTILINE)]
    assert trips[:1] == [32]  # steps of the rollout
    assert launched > 32 * 10
