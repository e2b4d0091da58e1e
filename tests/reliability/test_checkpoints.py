"""A damaged, half-written, foreign or hostile checkpoint is passed over or refused: never used,
never executed, never overwritten."""

import json
import pickle
import resource
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax.run.storage import checkpoints
from tests.helpers.commands import run_command
from tests.helpers.faults import (
    EVERY,
    contents,
    damages,
    files_of,
    one_line,
    resume,
    rewrite,
    seal,
    updates,
)
from tests.reliability.fingerprint import fingerprint

FORMAT = checkpoints.FORMAT


def newest(path):
    """The run's newest intact checkpoint, and the lines about those that are not."""
    return checkpoints.newest_intact(path, lambda _: None)


def same_arrays(one, other):
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert (array.dtype, array.shape) == (other.arrays[name].dtype, other.arrays[name].shape)
        assert array.tobytes() == other.arrays[name].tobytes()


def test_the_manifest_is_of_every_other_file(killed):
    """The test's own is the one that was written, so `seal` forges what `read` takes for true."""
    path = killed / "checkpoints" / "3"
    written = json.loads((path / "manifest.json").read_text())
    seal(path)
    assert json.loads((path / "manifest.json").read_text()) == written
    assert {"metadata.json", *(name for name in written if name.startswith("arrays/"))} == set(
        written
    )


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "complex64", "bool", "int8"])
def test_numbers_of_every_type_are_restored(kind, tmp_path):
    """Also those that are not NumPy's, such as an optimizer's moments may be."""
    array = np.array([[0, 1], [1, 0]]).astype(jnp.dtype(kind))
    writer = checkpoints.Writer(tmp_path, 3)
    writer.save({"numbers": array}, {})
    writer.close()
    found, corrupt = newest(tmp_path)
    assert not corrupt
    assert found.arrays["numbers"].dtype == array.dtype
    assert found.arrays["numbers"].tobytes() == array.tobytes()


@pytest.mark.parametrize("count", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_a_damaged_file_of_any_kind_makes_its_checkpoint_corrupt(killed, count):
    """One flipped bit, a cut, nothing left, no file at all."""
    generator, path = np.random.default_rng(count), killed / "checkpoints" / "3"
    before = checkpoints.read(killed / "checkpoints" / "2")
    assert (updates(before), updates(checkpoints.read(path))) == (2 * EVERY, 3 * EVERY)
    for file in files_of(path):
        content = file.read_bytes()
        for damaged in (*damages(content, generator, count), b""):
            file.write_bytes(damaged)
            with pytest.raises(ValueError):
                checkpoints.read(path)
        file.unlink()
        found, (line,) = newest(killed)
        same_arrays(found, before)
        assert found.metadata == before.metadata
        assert line.startswith("checkpoint 3 is corrupt: ")
        file.write_bytes(content)
    assert updates(newest(killed)[0]) == 3 * EVERY


@pytest.mark.parametrize("name", ["more", "arrays/d/more", ".hidden"])
def test_a_file_that_was_not_saved_makes_its_checkpoint_corrupt(killed, name):
    (killed / "checkpoints" / "3" / name).write_bytes(b"")
    found, (line,) = newest(killed)
    assert updates(found) == 2 * EVERY
    assert line == f"checkpoint 3 is corrupt: {name} is not what was saved"


def test_a_run_continues_from_its_newest_intact_checkpoint(finished, killed):
    """Past one with a flipped bit, one that was never finished, and a lock whose process is gone;
    the abandoned one is removed."""
    path = killed / "checkpoints"
    largest = max(files_of(path / "3"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    for abandoned in ("4.tmp", "9.tmp"):
        shutil.copytree(path / "2", path / abandoned)
    (killed / ".lock").write_text("process 1 on another machine")
    code, error = resume(killed, "--checkpoint-every", EVERY, "--checkpoints-kept", 9)
    assert code == 0
    one_line(error, "warning: checkpoint 3 is corrupt", "is not what was saved")
    assert fingerprint(killed) == fingerprint(finished)
    assert not list(path.glob("*.tmp"))
    assert checkpoints.committed(path) == [1, 2, 3, 4, 5, 6]  # a corrupt one is not overwritten


def test_a_half_written_checkpoint_is_none(killed, empty):
    for number in (1, 2, 3):
        path = killed / "checkpoints" / str(number)
        path.rename(path.with_name(f"{number}.tmp"))
    assert newest(killed) == (None, [])
    code, error = resume(killed)
    assert code == 2
    one_line(error, "holds no checkpoint to resume from; --resume auto starts afresh")


@pytest.mark.parametrize("how", ["newest", "auto"])
def test_none_intact_is_refused(how, killed, empty):
    """Never a silent restart."""
    for path in (killed / "checkpoints").glob("*/metadata.json"):
        path.write_bytes(path.read_bytes()[:-5])
    before = contents(killed)
    code, _, error = run_command("train", "--resume", how, "--out", killed)
    assert code == 2
    one_line(error, "no checkpoint is intact", "--overwrite starts")
    assert contents(killed) == before


# Other formats


@pytest.mark.parametrize("how", ["newest", "auto"])
def test_a_checkpoint_of_an_older_format_is_refused(how, killed, empty):
    shutil.rmtree(killed / "checkpoints")
    old = killed / "checkpoints" / "7"
    (old / "arrays").mkdir(parents=True)
    (old / "facts").mkdir()
    (old / "facts" / "metadata").write_text('{"format": 2, "done": 48}')
    before = contents(killed)
    code, _, error = run_command("train", "--resume", how, "--out", killed)
    assert code == 2
    one_line(error, "checkpoints/7 has format 2 or older", f"reads format {FORMAT}")
    assert contents(killed) == before


def test_a_checkpoint_of_a_later_format_is_refused(killed, empty):
    """An older one beside it would lose what was done since."""
    rewrite(
        killed / "checkpoints" / "3", lambda metadata: metadata.update(format=FORMAT + 1, new={})
    )
    code, error = resume(killed)
    assert code == 2
    one_line(error, f"checkpoints/3 has format {FORMAT + 1}", f"reads format {FORMAT}")


def test_a_checkpoint_of_another_run_is_refused(killed):
    """With all that it declares, but of fewer arrays than this run has."""
    writer = checkpoints.Writer(killed, 9)
    saved = checkpoints.read(killed / "checkpoints" / "3")
    metadata = {name: value for name, value in saved.metadata.items() if name != "format"}
    few = {name: array for name, array in saved.arrays.items() if "optimizer" not in name}
    writer.save(few, metadata)
    writer.close()
    code, error = resume(killed)
    assert code == 2
    one_line(error, "checkpoint is not that of such a run", "optimizer_state", "is missing")


# Hostile ones: well sealed, but they declare what no run saves


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def declare(name, kind, shape):
    def change(metadata):
        metadata["arrays"][name] = [kind, shape]

    return change


HOSTILE = {
    "absurd shape": declare("batch.agent_ids", "<i4", [10**12]),
    "absurd shape of nothing": declare("batch.agent_ids", "<i4", [0, 10**30]),
    "negative shape": declare("batch.agent_ids", "<i4", [-(10**12)]),
    "shape of fractions": declare("batch.agent_ids", "<i4", [1e12]),
    "shape beyond 64 bits": declare("batch.agent_ids", "<i4", [2**62, 4]),
    "new array": declare("more", "<f4", [10**12]),
    "object": declare("batch.agent_ids", "|O", [1]),
    "text": declare("batch.agent_ids", "<U4", [1]),
    "void": declare("batch.agent_ids", "|V8", [1]),
    "no type": declare("batch.agent_ids", "os.system", [1]),
    "no pair": lambda metadata: metadata["arrays"].update({"batch.agent_ids": 3}),
    "no arrays": lambda metadata: metadata.pop("arrays"),
    "no format": lambda metadata: metadata.pop("format"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_what_no_run_declares_is_corrupt_and_takes_no_memory(change, killed):
    path = killed / "checkpoints" / "3"
    rewrite(path, change)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, (line,) = newest(killed)
    assert updates(found) == 2 * EVERY
    assert line.startswith("checkpoint 3 is corrupt: ")
    assert "\n" not in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ["absurd shape", "object", "no arrays"])
def test_hostile_checkpoints_alone_are_refused(name, killed, empty):
    for number in (1, 2, 3):
        rewrite(killed / "checkpoints" / str(number), HOSTILE[name])
    before = contents(killed)
    code, error = resume(killed)
    assert code == 2
    one_line(error, "no checkpoint is intact", "checkpoint 1 is corrupt")
    assert contents(killed) == before


@pytest.mark.parametrize("length", [10**9, 10**12])
def test_an_absurd_shape_that_the_arrays_have_as_well_takes_no_memory(length, killed):
    """The arrays' own table declares it too, so nothing contradicts it."""
    import tensorstore

    path = killed / "checkpoints" / "3"
    base = f"file://{path / 'arrays'}/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    declared = json.loads(store["batch.agent_ids/.zarray"])
    store["batch.agent_ids/.zarray"] = json.dumps({**declared, "shape": [length]}).encode()
    rewrite(path, declare("batch.agent_ids", "<i4", [length]))
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="more than its files hold"):
        checkpoints.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert time.monotonic() - began < 20


# Not ours: orbax's threads answer to its event loop, which it closes at the first error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pickle_is_never_executed(killed, empty):
    """In place of any file, well sealed or not; and where every checkpoint is so, exit 2."""
    witness, path, refused = killed / "executed", killed / "checkpoints" / "3", set()
    before = checkpoints.read(path)
    for file in set(files_of(path)) - {path / "manifest.json"}:
        content = file.read_bytes()
        file.write_bytes(pickle.dumps(Bomb(witness)))
        with pytest.raises(ValueError, match=f"{file.name} is not what was saved"):
            checkpoints.read(path)
        seal(path)
        try:
            same_arrays(checkpoints.read(path), before)  # a file that nobody reads
        except ValueError:
            refused.add(file.name)
        file.write_bytes(content)
        seal(path)
    assert {"metadata.json", "_METADATA", "manifest.ocdbt"} <= refused
    for number in (1, 2, 3):
        path = killed / "checkpoints" / str(number) / "metadata.json"
        path.write_bytes(pickle.dumps(Bomb(witness)))
        seal(path.parent)
    code, error = resume(killed)
    assert code == 2
    one_line(error, "no checkpoint is intact")
    assert not witness.exists()
