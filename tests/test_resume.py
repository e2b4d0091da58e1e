"""A run that was cut off and resumed leaves what an uninterrupted one leaves, to the bit.

Here the cut is an exception between two chunks, in this process; real kills of real processes are
in test_chaos.py.
"""

import contextlib
import signal

import numpy as np
import pytest

from benchmarks.fingerprint import events, fingerprint
from ppo_jax.run import keeper, load, signals
from ppo_jax.train import main

SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--num-updates", "12"),
    *("--device", "cpu", "--quiet"),
)
CASES = {
    "seeds": ("--num-seeds", "3"),
    "groups": (
        *("--num-seeds", "3", "--sweep", "learning_rate=1e-3,3e-3", "--group-size", "4"),
        "--no-curves",
    ),
    "evolution": (
        *("--num-seeds", "4", "--evolve", "learning_rate=log:1e-4:1e-2"),
        *("--evolve-every", "4"),
    ),
}

MORE = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "seeds"]


class Cut(Exception):  # noqa: N818
    """The end of a process, as far as a test can have it."""


def cut_at_save(monkeypatch, number, before):
    """Let the run end just before, or after, it saves that checkpoint."""
    save, saved = keeper.Keeper.save, []

    def cut(self, group):
        saved.append(group)
        if before and len(saved) == number:
            raise Cut
        save(self, group)
        if len(saved) == number:
            self.writer.close()
            raise Cut

    monkeypatch.setattr(keeper.Keeper, "save", cut)


def train(*arguments):
    return main([*SMALL, *map(str, arguments)])


@pytest.mark.parametrize("case", ["seeds", *MORE])
def test_a_run_cut_off_twice_ends_as_if_it_had_not_been(case, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(*CASES[case], "--out", whole) == 0
    every = ("--checkpoint-every", 3)
    for number, before, resume in ((2, True, ()), (3, False, ("--resume",))):
        with monkeypatch.context() as patch:
            cut_at_save(patch, number, before)
            with pytest.raises(Cut):
                train(*CASES[case], *every, "--out", cut, *resume)
    assert train("--out", cut, "--resume", "auto") == 0
    assert fingerprint(cut) == fingerprint(whole)
    assert len(list(cut.glob("events.out.tfevents.*"))) == 3
    steps = [step for tag, step, _ in events(cut) if tag == "losses/entropy"]
    assert steps == [128 * update for update in range(1, 13)]  # none twice, none backward
    assert not capsys.readouterr().err


def test_the_last_checkpoints_are_kept(tmp_path):
    assert train("--checkpoint-every", 2, "--checkpoints-kept", 2, "--out", tmp_path) == 0
    kept = sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert len(kept) == 2
    assert np.diff(kept) == 1


def test_a_run_saves_as_time_passes(tmp_path):
    """Every chunk is later than this."""
    assert train("--checkpoint-seconds", 1e-9, "--out", tmp_path) == 0
    assert list((tmp_path / "checkpoints").iterdir())


def test_a_signal_before_the_first_update_costs_nothing(tmp_path, monkeypatch):
    """Then there is a checkpoint, and no row yet."""
    with monkeypatch.context() as patch:
        patch.setattr(signals, "collected", lambda: contextlib.nullcontext([signal.SIGTERM]))
        assert train("--out", tmp_path) == 128 + signal.SIGTERM
    assert train("--out", tmp_path, "--resume") == 0
    assert load(tmp_path).metrics["update"][:, 0].tolist() == list(range(1, 13))
