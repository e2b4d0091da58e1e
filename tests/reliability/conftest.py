"""What the reliability tests share: an empty folder in which nothing compiles, finished runs."""

import shutil
from pathlib import Path

import pytest

from ppo_jax.run import compiled
from ppo_jax.run.storage import checkpoints
from tests.helpers.faults import UPDATES, as_if_killed, train


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working folder, in which nothing is compiled."""

    def build(*_, **__):
        raise AssertionError("it was compiled")

    monkeypatch.setattr(compiled, "build", build)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run with checkpoints 1 to 4, of every 16 updates, and 5, of its end."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train("--num-updates", UPDATES, "--out", out) == (0, "")
    assert checkpoints.committed(out / "checkpoints") == [1, 2, 3, 4, 5]
    return out


@pytest.fixture
def whole(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def killed(whole):
    """A copy as if it had been killed after its third checkpoint."""
    return as_if_killed(whole, 3)
