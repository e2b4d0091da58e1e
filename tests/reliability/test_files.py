"""What the file system refuses ends with code 3 and costs no checkpoint; damaged files of a run are
found, and never read as another run's."""

import errno
import io
import json
import os
import pickle
import resource
import shutil
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from ppo_jax.run import load
from ppo_jax.run.errors import FileSystemError, InputError
from ppo_jax.run.storage import checkpoints, folder, tables
from tests.helpers.commands import run_command
from tests.helpers.faults import EVERY, UPDATES, contents, damages, one_line, resume, train, updates
from tests.reliability.fingerprint import fingerprint

MANY = pytest.param(60, marks=pytest.mark.slow)


class Limit:
    """No file may become larger than this, as on a full disk."""

    def __init__(self, most_bytes):
        self._most = most_bytes

    def __enter__(self):
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._most, self._before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


def newest(path):
    """Updates of the run's newest intact checkpoint."""
    found, corrupt = checkpoints.newest_intact(path, lambda _: None)
    assert not corrupt
    return updates(found)


# Saving


def test_a_save_that_failed_surfaces_at_the_next_boundary(tmp_path):
    numbers = {"numbers": np.random.default_rng(0).normal(size=10**5)}
    writer = checkpoints.Writer(tmp_path, 3)
    writer.save(numbers, {"done": 1})
    writer.save(numbers, {"done": 2})
    writer.close()
    writer = checkpoints.Writer(tmp_path, 3)
    with Limit(10_000):
        writer.save(numbers, {"done": 3})  # in the background
        with pytest.raises(FileSystemError) as caught:
            until_it_fails(writer)
    line = str(caught.value)
    assert "\n" not in line
    assert "a checkpoint could not be written" in line
    assert "File too large" in line
    assert "earlier ones are intact" in line
    writer.check()  # it is said once
    writer.close()
    last, corrupt = checkpoints.newest_intact(tmp_path, lambda _: None)
    assert (last.metadata["done"], corrupt) == (2, [])
    np.testing.assert_array_equal(last.arrays["numbers"], numbers["numbers"])


def until_it_fails(writer):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        writer.check()
        time.sleep(0.02)


def test_a_run_whose_save_failed_ends_with_code_3_and_resumes(finished, tmp_path, monkeypatch):
    """The failure is of the second save, in the background; the third boundary says it."""
    out, replace = tmp_path / "run", os.replace

    def full(source, target):
        if Path(target).name == "2":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, error = train("--num-updates", UPDATES, "--out", out)
    assert code == 3
    one_line(
        error,
        *("a checkpoint could not be written", "No space left on device"),
        "earlier ones are intact: make room, then --resume",
    )
    assert checkpoints.committed(out / "checkpoints") == [1]
    assert newest(out) == EVERY
    assert not (out / "summary.json").exists()
    assert resume(out) == (0, "")
    assert fingerprint(out) == fingerprint(finished)


def test_a_full_disk_costs_no_checkpoint(finished, tmp_path):
    out = tmp_path / "run"
    with Limit(20_000):  # half of the events
        code, error = train("--num-updates", UPDATES, "--out", out)
    assert code == 3
    one_line(error, f"{out}: File too large", "give a folder that can be written")
    assert not (out / "summary.json").exists()
    numbers = checkpoints.committed(out / "checkpoints")
    assert newest(out) == EVERY * numbers[-1]
    assert resume(out) == (0, "")
    assert fingerprint(out) == fingerprint(finished)


# The folder


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "give a folder that can be written"),
        (errno.EACCES, "give a folder that can be written"),
        (errno.ENOSPC, "make room, then run it again (train: --resume auto)"),
    ],
)
def test_a_folder_that_cannot_be_made(number, remedy, monkeypatch, empty):
    def refuse(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, _, error = run_command("train", "--out", "run")
    assert code == 3
    one_line(error, f"run: {os.strerror(number)}; {remedy}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these paths are Linux's")
@pytest.mark.parametrize("path", ["/proc/self/nothing/run", "/dev/null/run", "/dev/full", __file__])
def test_a_path_that_cannot_be_written(path, empty):
    """Not even by root, whom the next test must do without."""
    code, _, error = run_command("train", "--out", path)
    assert code == 3
    one_line(error, "give", "a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(empty):
    (empty / "run").mkdir(mode=0o500)
    code, _, error = run_command("train", "--out", "run")
    assert code == 3
    one_line(error, "Permission denied; give a folder that can be written")


@pytest.mark.parametrize("how", [(), ("--overwrite",), ("--resume",)])
def test_a_second_run_in_a_folder_is_told_who_holds_it(how, killed, empty):
    before = contents(killed)
    with folder.lock(killed):
        code, _, error = run_command("train", "--out", killed, *how)
    assert code == 3
    one_line(error, f"is being written by process {os.getpid()} on", "wait for it, or give another")
    assert contents(killed) == before


def test_a_second_run_in_a_fresh_folder_is_refused(empty):
    with folder.lock(empty / "run"):
        code, _, error = run_command("train", "--out", "run")
    assert code == 3
    one_line(error, f"--out run is being written by process {os.getpid()} on")


def test_a_stale_lock_is_recovered(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on a machine that is long gone, and more of it")
    with folder.lock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on")
        assert "long gone" not in (tmp_path / ".lock").read_text()


def test_a_folder_that_holds_another_run_is_left_as_it_is(whole, empty):
    before = contents(whole)
    code, _, error = run_command("train", "--out", whole)
    assert code == 2
    one_line(error, "holds a run; give another folder, or --overwrite to replace it")
    assert contents(whole) == before


# The run's own files


@pytest.mark.parametrize("name", ["metrics.csv", "statistics.csv", "events.out.tfevents.*"])
@pytest.mark.parametrize("damage", ["cut", "last row", "gone"])
def test_a_damaged_table_makes_its_checkpoint_corrupt(name, damage, finished, killed):
    """The one before it, of fewer rows, is used; with no row of it left, none."""
    (path,) = killed.glob(name)
    content = bytearray(path.read_bytes())
    recorded = checkpoints.read(killed / "checkpoints" / "3").metadata["files"][path.name]["bytes"]
    assert recorded < len(content)
    content[-1] ^= 1  # after the third checkpoint: nothing of it is kept
    if damage == "cut":
        content = content[: recorded - 1]
    if damage == "last row":
        content[recorded - 3] ^= 1
    path.write_bytes(content)
    if damage == "gone":
        path.unlink()
        code, error = resume(killed)
        assert code == 2
        one_line(error, "no checkpoint is intact", f"{path.name}: No such file")
        return
    said = "is shorter than it was" if damage == "cut" else "is not what it was"
    line = f"checkpoint 3 is corrupt: {path.name} {said}"
    found, corrupt = checkpoints.newest_intact(
        killed, lambda metadata: tables.check_offsets(killed, metadata["files"])
    )
    assert (updates(found), corrupt) == (2 * EVERY, [line])
    if (name, damage) == ("metrics.csv", "last row"):  # one of them to the end
        code, error = resume(killed)
        assert code == 0
        one_line(error, f"warning: {line}")
        assert fingerprint(killed) == fingerprint(finished)


@pytest.mark.parametrize("count", [100, pytest.param(5_000, marks=pytest.mark.slow)])
def test_a_damaged_configuration_is_refused_or_another_one(killed, count):
    from ppo_jax.cli import flags

    path = killed / "config.json"
    content, refusals = path.read_bytes(), []
    for damaged in damages(content, np.random.default_rng(0), count):
        path.write_bytes(damaged)
        try:
            flags.read(["--resume", "newest", "--out", str(killed)], "train")
        except InputError as refusal:
            refusals.append(str(refusal))
    assert len(refusals) > count
    assert not any("\n" in line for line in refusals)


def test_a_lost_configuration_is_given_again(finished, killed, empty, monkeypatch):
    """The checkpoint knows it, and refuses another one."""
    (killed / "config.json").write_text("{")
    before = contents(killed)
    code, error = resume(killed)
    assert code == 2
    one_line(error, "config.json is corrupt", "remove it")
    assert contents(killed) == before
    (killed / "config.json").unlink()
    code, error = resume(killed)
    assert code == 2
    one_line(error, "num_envs 4 there, 8 asked for", "hidden_sizes [8] there, [64] asked for")
    monkeypatch.undo()
    assert train("--num-updates", UPDATES, "--resume", "--out", killed) == (0, "")
    assert fingerprint(killed) == fingerprint(finished)


def test_a_damaged_summary_is_none(finished, whole):
    """A run whose end is not known goes on from its last checkpoint, and writes it again."""
    path = whole / "summary.json"
    path.write_bytes(path.read_bytes()[:-9])
    (whole / "parameters.npz").unlink()
    assert resume(whole) == (0, "")
    assert fingerprint(whole) == fingerprint(finished)


@pytest.mark.parametrize("count", [25, MANY])
def test_damaged_parameters_are_refused_or_those_that_were_saved(whole, count):
    path = whole / "parameters.npz"
    content, saved = path.read_bytes(), load(whole).params
    refusals = 0
    for damaged in damages(content, np.random.default_rng(2), count):
        path.write_bytes(damaged)
        try:
            read = load(whole).params
        except ValueError:
            refusals += 1
        else:  # nobody reads those bits
            for one, other in zip(jax.tree.leaves(read), jax.tree.leaves(saved), strict=True):
                np.testing.assert_array_equal(one, other)
    assert refusals > count


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_parameters_are_refused_and_never_executed(whole, tmp_path):
    witness = tmp_path / "executed"
    content = np.array([Bomb(witness)], dtype=object)
    np.savez(whole / "parameters.npz", **{"actor.0.kernel": content})
    with pytest.raises(ValueError, match="is corrupt"):
        load(whole)
    (whole / "parameters.npz").write_bytes(pickle.dumps(Bomb(witness)))
    with pytest.raises(ValueError, match="is corrupt"):
        load(whole)
    assert not witness.exists()


@pytest.mark.parametrize("length", [10**9, 10**12])
def test_more_parameters_than_a_file_can_have_take_no_memory(length, whole):
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(whole / "parameters.npz", "w") as file:
        file.writestr("actor.0.kernel.npy", header.getvalue())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="is corrupt"):
        load(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_parameters_that_unpack_to_more_than_their_file_take_no_memory(whole):
    np.savez_compressed(whole / "parameters.npz", **{"actor.0.kernel": np.zeros(10**7)})
    tracemalloc.start()
    with pytest.raises(ValueError, match="unpacks to more bytes than it has"):
        load(whole)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_what_fails_before_it_can_begin_costs_no_run(finished, tmp_path, monkeypatch):
    """--overwrite takes the old run away only once the new one is compiled."""
    from ppo_jax.run import compiled

    out = shutil.copytree(finished, tmp_path / "run")
    before = contents(out)

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(compiled, "build", refuse)
    code, error = train("--num-updates", UPDATES, "--out", out, "--overwrite")
    assert code == 4
    one_line(error, "RESOURCE_EXHAUSTED")
    assert contents(out) == before
    assert json.loads((out / "summary.json").read_text())["finished"]


@pytest.mark.parametrize("how", [(), ("--resume", "auto")])
@pytest.mark.parametrize("name", ["film.gif", "statistics.csv", "events.out.tfevents.1.here.0"])
def test_files_of_others_are_not_taken_for_an_old_runs(name, how, empty):
    (empty / "mine").mkdir()
    (empty / "mine" / name).write_text("mine")
    code, error = train("--out", "mine", *how)
    assert code == 2
    one_line(error, f"--out mine holds no run, but {name}, which a run would replace; give another")
    assert [file.read_text() for file in (empty / "mine").iterdir()] == ["mine"]


def test_a_run_that_is_replaced_leaves_no_numbers(tmp_path):
    names = (*folder.FILES, "evaluation.json", "events.out.tfevents.1.here.0")
    for name in (*names, "notes.txt"):
        (tmp_path / name).touch()
    folder.empty(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
