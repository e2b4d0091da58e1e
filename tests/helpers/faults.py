"""Small runs to damage, the damages, and what a command answers to them."""

import hashlib
import json
import shutil
import time

from tests.helpers.commands import run_command

# With a constant learning rate the budget is no part of the programs: one compilation serves all.
UPDATES, EVERY = 64, 16
SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--no-anneal-learning-rate"),
    *("--checkpoint-every", str(EVERY), "--checkpoints-kept", "9", "--quiet"),
)


def train(*arguments):
    """A small run in this process: its exit code, and what it said on standard error."""
    code, out, err = run_command("train", *SMALL, *arguments)
    assert out == ""
    return code, err


def resume(path, *arguments):
    """A run goes on in this process: its exit code, and what it said on standard error."""
    code, out, err = run_command("train", "--resume", "--out", path, "--quiet", *arguments)
    assert out == ""
    return code, err


def one_line(error, *fragments):
    """That this is one line for the user, which has the fragments."""
    assert error.startswith("ppo_jax: ")
    assert error.count("\n") == 1, error
    for fragment in fragments:
        assert fragment in error


def contents(path):
    """Every file below a folder but its lock: its bytes, and when it was written."""
    return {
        file.relative_to(path): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def damages(content, generator, count):
    """Copies of the bytes with one bit flipped, or cut off: `count` of each."""
    for bit in generator.integers(8 * len(content), size=count).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    for length in generator.integers(len(content), size=count).tolist():
        yield content[:length]


def as_if_killed(path, number):
    """A run's folder as if the process had been killed after that checkpoint."""
    (path / "summary.json").unlink()
    for one in (path / "checkpoints").iterdir():
        if int(one.name) > number:
            shutil.rmtree(one)
    return path


def updates(checkpoint):
    """How many updates had been made, whatever that array is called."""
    (done,) = (
        array
        for name, array in checkpoint.arrays.items()
        if name.endswith(".num_updates") and array.ndim == 0
    )
    return int(done)


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def seal(path):
    """Rewrite a checkpoint's manifest, as if its files were what had been saved."""
    manifest = {
        file.relative_to(path).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in files_of(path)
        if file.name != "manifest.json"
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


def rewrite(path, change):
    """Change a checkpoint's metadata, and seal it again."""
    metadata = json.loads((path / "metadata.json").read_text())
    change(metadata)
    (path / "metadata.json").write_text(json.dumps(metadata))
    seal(path)


def wait_until(condition, process, seconds=150):
    """Wait for the condition, while the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
