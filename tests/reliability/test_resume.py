"""A run that was cut off and resumed leaves what an uninterrupted one leaves, to the bit; what
cannot be resumed so is refused, or said.

Here the cut is an exception between two chunks, in this process; real kills of real processes are
in test_chaos.py.
"""

import json
import shutil
import signal

import jax
import pytest

from ppo_jax.run.checkpointer import Checkpointer
from ppo_jax.run.signals import Signals
from ppo_jax.run.storage import checkpoints
from tests.helpers.commands import run_command
from tests.helpers.events import read_events
from tests.helpers.faults import UPDATES, contents, one_line, resume, rewrite, train
from tests.reliability.fingerprint import fingerprint

SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--num-updates", "12"),
    *("--device", "cpu", "--quiet"),
)
CASES = {
    "evaluated seeds": ("--num-seeds", "3", "--evaluate-every", "4"),
    "groups": (
        *("--num-seeds", "3", "--sweep", "learning_rate=1e-3,3e-3", "--group-size", "4"),
        "--no-curves",
    ),
    "evolution": (
        *("--num-seeds", "4", "--evolve", "learning_rate=log:1e-4:1e-2"),
        *("--evolve-every", "4"),
    ),
}
MORE = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "evaluated seeds"]


class Cut(Exception):  # noqa: N818
    """The end of a process, as far as a test can have it."""


def cut_at_save(monkeypatch, number, before):
    """Let the run end just before, or after, it saves that checkpoint."""
    save, saved = Checkpointer.save, []

    def cut(self, batch):
        saved.append(batch)
        if before and len(saved) == number:
            raise Cut
        save(self, batch)
        if len(saved) == number:
            self.close()
            raise Cut

    monkeypatch.setattr(Checkpointer, "save", cut)


@pytest.mark.parametrize("case", ["evaluated seeds", *MORE])
def test_a_run_cut_off_twice_ends_as_if_it_had_not_been(case, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_command("train", *SMALL, *CASES[case], "--out", whole) == (0, "", "")
    every = ("--checkpoint-every", 3)
    for number, before, how in ((2, True, ()), (3, False, ("--resume",))):
        with monkeypatch.context() as patch:
            cut_at_save(patch, number, before)
            with pytest.raises(Cut):
                run_command("train", *SMALL, *CASES[case], *every, "--out", cut, *how)
    assert run_command("train", *SMALL, "--out", cut, "--resume", "auto") == (0, "", "")
    assert fingerprint(cut) == fingerprint(whole)
    assert len(list(cut.glob("events.out.tfevents.*"))) == 3
    steps = [step for step, _ in read_events(cut)["losses/entropy"]]
    assert steps == [128 * update for update in range(1, 13)]  # none twice, none backward


def test_the_last_checkpoints_are_kept(tmp_path):
    arguments = ("--num-updates", UPDATES, "--checkpoints-kept", 2)
    assert train(*arguments, "--out", tmp_path) == (0, "")
    assert checkpoints.committed(tmp_path / "checkpoints") == [4, 5]


def test_a_run_saves_as_time_passes(tmp_path):
    """Every chunk is later than this."""
    arguments = ("--num-updates", UPDATES, "--checkpoint-every", "None")
    assert train(*arguments, "--checkpoint-seconds", 1e-9, "--out", tmp_path) == (0, "")
    assert checkpoints.committed(tmp_path / "checkpoints")


def test_a_signal_before_the_first_update_costs_nothing(finished, tmp_path, monkeypatch):
    """Then there is a checkpoint, and no row yet."""

    def agreed(self):
        self.received = signal.SIGTERM
        return self.received

    with monkeypatch.context() as patch:
        patch.setattr(Signals, "agreed", agreed)
        code, error = train("--num-updates", UPDATES, "--out", tmp_path)
    assert code == 128 + signal.SIGTERM
    one_line(error, "stopped by SIGTERM")
    assert resume(tmp_path) == (0, "")
    assert fingerprint(tmp_path) == fingerprint(finished)


# What is left to do


def test_a_finished_run_is_left_as_it_is(whole, empty):
    before = contents(whole)
    code, said, error = run_command("train", "--resume", "--out", whole)
    assert (code, error) == (0, "")
    assert said == f"{whole}: run already finished; nothing was changed\n"
    assert contents(whole) == before


def test_there_is_no_checkpoint_to_resume_from(killed, empty):
    shutil.rmtree(killed / "checkpoints")
    before = contents(killed)
    code, error = resume(killed)
    assert code == 2
    one_line(error, "holds no checkpoint to resume from; --resume auto starts afresh")
    assert contents(killed) == before


# Another run than the one that was begun


def test_another_configuration_lists_what_differs(killed, empty):
    before = contents(killed)
    code, error = resume(killed, "--discount", 0.5, "--num-envs", 8, "--seed", 3)
    assert code == 2
    one_line(
        error,
        *("discount 0.98 there, 0.5 asked for", "num_envs 4 there, 8 asked for"),
        *("seed 0 there, 3 asked for", "give another folder"),
    )
    assert contents(killed) == before


def test_a_longer_budget_is_as_if_uninterrupted(whole, tmp_path):
    longer = tmp_path / "longer"
    assert train("--num-updates", UPDATES + 6, "--out", longer) == (0, "")
    (whole / "evaluation.json").write_text("{}")  # of agents that are to train longer
    assert resume(whole, "--num-updates", UPDATES + 6) == (0, "")
    assert fingerprint(whole) == fingerprint(longer)
    assert not (whole / "evaluation.json").exists()


def test_a_budget_that_is_spent_already_is_refused(killed, empty):
    code, error = resume(killed, "--num-updates", 40)
    assert code == 2
    one_line(error, f"num_updates {UPDATES} there, 40 asked for", "has made 48 updates already")


def test_a_budget_that_the_learning_rate_falls_over_is_fixed(killed, empty):
    """As if the run had been begun so."""

    def anneal(metadata):
        metadata["experiment"]["algorithm"]["anneal_learning_rate"] = True

    rewrite(killed / "checkpoints" / "3", anneal)
    metadata = checkpoints.read(killed / "checkpoints" / "3").metadata
    (killed / "config.json").write_text(json.dumps(metadata["experiment"]))
    code, error = resume(killed, "--num-updates", 80)
    assert code == 2
    one_line(
        error,
        *(f"num_updates {UPDATES} there, 80 asked for", "the learning rate falls to 0 over the"),
        "start a new run",
    )


@pytest.mark.parametrize("name", ["prng", "x64"])
def test_other_random_numbers_or_precision_are_refused(name, killed, empty):
    other = {
        "prng": lambda: jax.default_prng_impl("rbg"),
        "x64": lambda: jax.enable_x64(True),
    }[name]
    before = contents(killed)
    with other():
        code, error = resume(killed)
    assert code == 2
    one_line(error, f"({name}) are", "JAX_DEFAULT_PRNG_IMPL=threefry2x32, JAX_ENABLE_X64=False")
    assert contents(killed) == before


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("device", "cpu (cpu), 2 devices"),
        pytest.param("XLA_FLAGS", "--other=true", marks=pytest.mark.slow),
    ],
)
def test_another_machine_is_warned_of(name, before, finished, killed):
    """Which here is this one, so the results are equal after all."""
    rewrite(
        killed / "checkpoints" / "3", lambda metadata: metadata["machine"].update({name: before})
    )
    code, error = resume(killed)
    assert code == 0
    one_line(error, "warning:", f"{name} '{before}', now '", "differ bitwise")
    assert fingerprint(killed) == fingerprint(finished)


# The user's own files; test_own_parts.py of tests/cli has real ones


def test_a_changed_file_of_ones_own_is_warned_of(finished, killed):
    own = {"env": {"file": "mine.py", "sha256": "0" * 64}}
    rewrite(
        killed / "checkpoints" / "3",
        lambda metadata: metadata["experiment"].update({"sources": own}),
    )
    code, error = resume(killed)
    assert code == 0
    one_line(error, "warning: mine.py, which env comes from, has changed since the run began")
    assert fingerprint(killed) == fingerprint(finished)


def test_a_file_of_ones_own_that_is_gone_is_refused(killed, empty):
    content = (killed / "config.json").read_text().replace("CartPole-v1", "nowhere:make")
    (killed / "config.json").write_text(content)
    before = contents(killed)
    code, error = resume(killed)
    assert code == 2
    one_line(error, "env 'nowhere:make' does not import")
    assert contents(killed) == before
