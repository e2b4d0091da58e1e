"""Two processes on one machine train one run, each its share; killed, they resume to the bit."""

import json
import os
import signal
import socket
import time

import jax
import numpy as np
import pytest

from ppo_jax.run import load
from ppo_jax.run.storage import checkpoints
from tests.helpers.commands import run_command, start
from tests.helpers.faults import updates, wait_until
from tests.reliability.fingerprint import fingerprint

SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--num-updates", "200"),
    *("--device", "cpu", "--quiet"),
)
SAVING = ("--num-seeds", "3", "--checkpoint-every", "10", "--resume", "auto")
ONE_DEVICE = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def begin():
    """Begins the two processes of a run; none outlives the test."""
    begun = []

    def two(*arguments):
        together = ("--distributed", "--coordinator", f"127.0.0.1:{free_port()}")
        together += ("--num-processes", 2, "--process-id")
        begun.extend(
            start("train", *SMALL, *arguments, *together, number, env=ONE_DEVICE)
            for number in (0, 1)
        )
        return begun[-2:]

    yield two
    for process in begun:
        process.kill()
        process.communicate()


def finish(processes):
    """Wait for the processes, whose exit codes are returned with what they said."""
    said = [process.communicate(timeout=200)[1] for process in processes]
    return [process.returncode for process in processes], said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the two processes leave where nobody disturbs them."""
    out = tmp_path_factory.mktemp("together") / "run"
    port = free_port()
    together = ("--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", 2)
    processes = [
        start(
            *("train", *SMALL, *SAVING, *together, "--process-id", number, "--out", out),
            env=ONE_DEVICE,
        )
        for number in (0, 1)
    ]
    try:
        codes, said = finish(processes)
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], said
    return fingerprint(out)


def disturb(begin, out, victims, number):
    """Send the signal once another checkpoint is saved: exit codes, seconds, what was said."""
    processes = begin(*SAVING, "--out", out)
    first = max(checkpoints.committed(out / "checkpoints"), default=0) + 1
    wait_until(lambda: first in checkpoints.committed(out / "checkpoints"), processes[0])
    sent = time.monotonic()
    for victim in victims:
        processes[victim].send_signal(number)
    codes, said = finish(processes)
    return codes, time.monotonic() - sent, said


@pytest.mark.slow
def test_two_processes_stopped_and_then_killed_resume_to_the_bit(begin, undisturbed, tmp_path):
    """A SIGTERM to one ends both, with a checkpoint of the same update; SIGKILL needs none."""
    codes, seconds, said = disturb(begin, tmp_path, (1,), signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM] * 2, said
    assert seconds < 60
    run = load(tmp_path)
    saved, corrupt = checkpoints.newest_intact(tmp_path, lambda _: None)
    assert (run.summary["finished"], corrupt) == (False, [])
    assert run.summary["num_updates"] == updates(saved) == len(run.metrics["update"])
    codes, _, said = disturb(begin, tmp_path, (0, 1), signal.SIGKILL)
    assert codes == [-signal.SIGKILL] * 2, said
    codes, said = finish(begin(*SAVING, "--out", tmp_path))
    assert codes == [0, 0], said
    assert fingerprint(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_other_ends_and_both_resume(begin, undisturbed, tmp_path, victim):
    """The other one ends by itself within two minutes, with whatever jax prints."""
    codes, seconds, said = disturb(begin, tmp_path, (victim,), signal.SIGKILL)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] != 0
    assert seconds < 120, said
    codes, said = finish(begin(*SAVING, "--out", tmp_path))
    assert codes == [0, 0], said
    assert fingerprint(tmp_path) == undisturbed


@pytest.mark.slow
def test_two_processes_give_what_one_gives(begin, tmp_path):
    """But for the last bits: agents lie otherwise in their batches."""
    agents = ("--num-seeds", 5, "--sweep", "learning_rate=1e-3,2.5e-3", "--num-updates", 10)
    codes, said = finish(begin(*agents, "--out", tmp_path / "together"))
    assert codes == [0, 0], said
    assert run_command("train", *SMALL, *agents, "--out", tmp_path / "alone") == (0, "", "")
    alone, both = load(tmp_path / "alone"), load(tmp_path / "together")
    for one, other in zip(jax.tree.leaves(alone.params), jax.tree.leaves(both.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert both.metrics["seed"][0].tolist() == [0, 1, 2, 3, 4] * 2
    for name in ("seed", "setting", "step"):
        np.testing.assert_array_equal(alone.metrics[name], both.metrics[name])
    np.testing.assert_allclose(
        alone.metrics["episode_return"][0], both.metrics["episode_return"][0], rtol=1e-5
    )
    assert both.summary["processes"] == 2
    assert both.summary["env_steps"] == alone.summary["env_steps"] == 12_800
    assert len(both.summary["eval_return_per_seed"]) == 10
    names = [
        {path.name.split(".")[0] for path in (tmp_path / run).iterdir()}
        for run in ("together", "alone")
    ]
    assert names[0] - {"checkpoints"} == names[1] - {"checkpoints"}


@pytest.mark.slow
def test_a_run_continues_with_another_number_of_processes(begin, tmp_path):
    """Its results are no longer equal to the bit, which it says."""
    codes, _, said = disturb(begin, tmp_path, (0, 1), signal.SIGKILL)
    assert codes == [-signal.SIGKILL] * 2, said
    code, _, error = run_command("train", *SMALL, *SAVING, "--out", tmp_path)
    assert code == 0, error
    assert "warning: the run is resumed elsewhere" in error
    assert "processes 2, now 1" in error
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["env_steps"] == 3 * 200 * 128
    assert load(tmp_path).metrics["update"][:, 0].tolist() == list(range(1, 201))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--coordinator 127.0.0.1:1", "--coordinator 127.0.0.1:1 needs --distributed"),
        ("--distributed --num-seeds 8 --evolve learning_rate=log:1e-5:1e-2", "leave out one"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments, message, tmp_path):
    code, _, error = run_command("train", *arguments.split(), "--out", tmp_path / "run")
    assert code == 2
    assert message in error
    assert list(tmp_path.iterdir()) == []
