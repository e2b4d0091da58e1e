"""--track: what Weights & Biases, or trackio, is told, by a module in its place."""

import importlib.machinery
import os
import signal
import subprocess
import sys
import types

import pytest

from ppo_jax import recipe
from ppo_jax.run import train
from tests.helpers.commands import SMALL, refused, run_command
from tests.helpers.events import read_events

CONFIG = recipe("fast", num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300)


class Tracked:
    """A run there."""

    def __init__(self, **options):
        self.options, self.logged, self.finished = options, [], 0

    def log(self, content):
        assert not self.finished
        self.logged.append(content)

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["trackio", "wandb"])
def library(request, monkeypatch):
    """The library's name, and the runs that were begun with it."""
    module, runs = types.ModuleType(request.param), []
    module.__spec__ = importlib.machinery.ModuleSpec(request.param, None)

    def init(**options):
        runs.append(Tracked(**options))
        return runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, runs


def values(runs):
    """What was logged: (step, value) by tag."""
    found = {}
    for run in runs:
        for content in run.logged:
            for tag in content:
                if not tag.endswith("/step"):
                    step = content[f"{tag}/step"]
                    found.setdefault(tag, []).append((step, pytest.approx(content[tag])))
    return found


def test_it_is_told_what_tensorboard_is(library, tmp_path):
    name, runs = library
    out = tmp_path / "run"
    flags = ("--track", name, "--evaluate-every", 5, "--quiet", "--out", out)
    assert run_command("train", *SMALL, *flags) == (0, "", "")
    (run,) = runs
    assert run.finished == 1
    assert run.options["project"] == "ppo_jax"
    assert run.options["name"] == "run"
    assert run.options["config"]["algorithm"]["num_envs"] == 4
    events = read_events(out)
    assert values(runs) == events
    assert len(events["eval/episode_return"]) == 2
    assert len(events["loss/action_loss"]) == 10


@pytest.mark.parametrize("library", ["wandb"], indirect=True)
def test_a_resumed_run_continues_the_same_run_there(library, tmp_path):
    name, runs = library
    out, track = str(tmp_path / "run"), {"track": name, "track_project": "mine"}

    class Interrupt:
        def at_boundary(self, batch):
            if batch.num_updates == 6:
                os.kill(os.getpid(), signal.SIGINT)

        def next_boundary(self, done):
            return done + 1

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, out=out, hooks=[Interrupt()], **track)
    train(CONFIG, out=out, resume="newest", **track)
    first, second = runs
    assert first.options == second.options
    assert first.options["resume"] == "allow"
    assert first.options["project"] == "mine"
    assert first.options["id"] == "run"
    assert (first.finished, second.finished) == (1, 1)
    steps = [step for step, _ in values(runs)["loss/action_loss"]]
    assert steps == [16 * update for update in range(1, 11)]
    assert len(values([first])["loss/action_loss"]) == 6


@pytest.mark.parametrize("library", ["trackio"], indirect=True)
@pytest.mark.parametrize("method", ["init", "log", "finish"])
def test_what_the_library_raises_is_one_line(library, method, tmp_path, monkeypatch):
    """No network, no account: it may raise anything, and at any time."""
    name, _ = library

    def fail(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(sys.modules[name] if method == "init" else Tracked, method, fail)
    flags = ("--track", name, "--quiet", "--out", tmp_path / "run")
    code, said, error = run_command("train", *SMALL, *flags)
    assert code in (2, 3)
    assert said == ""
    assert "no network" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_library_that_is_not_installed_is_refused_with_the_extra(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that there is none
    refused(2, f"pip install 'ppo-jax[{name}]'", "train", "--track", name)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_is_imported_without_torch(tmp_path):
    """Its seconds would be paid in every start; a later import of torch finds it."""
    (tmp_path / "torch.py").write_text("Tensor = object")
    script = """
import sys
from ppo_jax.run import sinks
assert sinks.import_tensorboard().__name__ == "tensorboardX" and "torch" not in sys.modules
import torch
assert sinks.import_tensorboard() and sys.modules["torch"] is torch
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
