"""Signals, hooks that raise, and statistics of nothing, while a run trains."""

import os
import signal
import sys
import time

import numpy as np
import pytest

from ppo_jax import recipe
from ppo_jax.run import distributed, load, signals
from ppo_jax.run import train as train_from_python
from ppo_jax.run.errors import Interrupted
from ppo_jax.run.storage import checkpoints, folder
from tests.helpers.commands import finish, run_command, start
from tests.helpers.events import read_events
from tests.helpers.faults import EVERY, SMALL, UPDATES, resume, updates, wait_until
from tests.helpers.quick import slow_but
from tests.reliability.fingerprint import fingerprint


@pytest.mark.parametrize("number", slow_but([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_a_signal_while_compiling_leaves_nothing_half_written(number, tmp_path):
    """And is heeded at once: the compiler's end would be said."""
    out = tmp_path / "run"
    process = start(
        *("train", *SMALL, "--num-updates", UPDATES, "--no-compilation-cache", "--out", out)
    )
    wait_until((out / ".lock").exists, process)
    time.sleep(1)
    process.send_signal(number)
    code, said, error = finish(process, timeout=60)
    assert (code, error) == (128 + number, f"ppo_jax: stopped by {number.name}\n")
    assert "compiling" not in said
    assert not out.exists()


def test_a_signal_is_heeded_where_python_ignores_what_is_raised():
    """As in a callback of garbage collection, of which jax has one."""

    class Collected:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(100))  # the signal's handler raises in here

    def wait():
        with signals.catch_signals(at_once=True):
            Collected()
            time.sleep(10)

    before = sys.unraisablehook
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        wait()
    assert time.monotonic() - began < 5
    assert caught.value.code == 128 + signal.SIGTERM
    assert sys.unraisablehook is before


def test_a_folder_that_nothing_came_to_is_removed_again(tmp_path):
    for made in (False, True):
        out = tmp_path / f"{made}"
        if made:
            out.mkdir()
        with pytest.raises(ZeroDivisionError), folder.lock(out):
            raise ZeroDivisionError
        assert out.exists() == made
    with folder.lock(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.json"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(number):
    """The first is kept for the loop, the second left to the system; then all is as it was."""
    before = signal.getsignal(number)
    with signals.catch_signals() as caught:
        assert caught.agreed() == 0
        os.kill(os.getpid(), number)
        assert caught.agreed() == number
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("theirs", [0, signal.SIGINT])
def test_a_signal_that_comes_while_the_processes_agree_is_not_lost(theirs, monkeypatch):
    """It counts from the next boundary on."""

    def allreduce(own):
        os.kill(os.getpid(), signal.SIGTERM)
        return max(own, theirs)

    with signals.catch_signals() as caught:
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "allreduce", allreduce)
            assert caught.agreed() == theirs
        assert caught.agreed() == signal.SIGTERM


class Raises:
    """A hook that fails after some updates."""

    def at_boundary(self, batch):
        if batch.num_updates > 2 * EVERY:
            raise RuntimeError("no more of it\nand a second line")


def test_a_hook_that_raises_is_named_and_costs_no_checkpoint(finished, tmp_path):
    out = tmp_path / "run"
    config = recipe(
        "fast", num_envs=4, num_steps=32, hidden_sizes=(8,), anneal_learning_rate=False,
        num_updates=UPDATES,
    )  # fmt: skip
    with pytest.raises(ValueError) as caught:
        train_from_python(config, out=str(out), hooks=[Raises()], checkpoint_every=EVERY)
    said = "hook Raises: at_boundary raised RuntimeError (no more of it); the last checkpoint is"
    assert str(caught.value) == f"{said} intact"
    found, corrupt = checkpoints.newest_intact(out, lambda _: None)
    assert (updates(found), corrupt) == (2 * EVERY, [])
    assert resume(out) == (0, "")
    one, other = fingerprint(out), fingerprint(finished)
    assert one.pop("summary.json") != other.pop("summary.json")  # the recipe there is "custom"
    assert one == other


def test_before_any_episode_has_ended_there_is_no_mean(tmp_path):
    """Not 0: the tables have empty cells, TensorBoard no value, the screen says none."""
    arguments = ("--num-steps", 8, "--num-updates", 1, "--num-envs", 1, "--num-minibatches", 1)
    code, said, error = run_command("train", *SMALL[:-1], *arguments, "--out", tmp_path)
    assert (code, error) == (0, "")
    metrics = load(tmp_path).metrics
    assert metrics["episodes"].tolist() == [[0]]
    assert np.isnan(metrics["episode_return"]).all()
    (row,) = (tmp_path / "statistics.csv").read_text().splitlines()[1:]
    assert ",0," not in row.removeprefix("1,1,8,1,")
    tags = read_events(tmp_path)
    assert "losses/entropy" in tags
    assert "charts/episode_return" not in tags
    assert "mean return none yet" in said
