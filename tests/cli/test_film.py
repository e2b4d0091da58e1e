"""ppo-jax film and train --render: what they film, write and refuse."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ppo_jax import evaluate, population
from ppo_jax.film import grid, writing
from ppo_jax.run import devices, load, replaying
from tests.helpers import quick
from tests.helpers.commands import SMALL, UPDATES, refused, run_command


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """On one device, whose programs training and the grid share; those of films compile quickly."""
    one = jax.devices("cpu")[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "select", lambda _: one)
        patch.setattr(population, "COMPILER_OPTIONS", quick.options())
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two agents, and the film that --render made of the first."""
    out = tmp_path_factory.mktemp("runs") / "run"
    found = run_command("train", *SMALL, "--num-seeds", "2", "--render", "--out", out)
    assert (found[0], found[2]) == (0, "")
    assert f"wrote {out / 'film.gif'}" in found[1]
    assert "film.gif" in found[1].splitlines()[-1]
    return out


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def film(*arguments):
    code, said, error = run_command("film", *arguments)
    assert (code, error) == (0, "")
    return said


def measure(path):
    """The frames of a GIF, the seconds that it takes, and its size."""
    total = 0
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            total += image.info["duration"]
        return image.n_frames, total / 1000, image.size


def edit(path, box=None, **changes):
    content = json.loads(path.read_text())
    (content[box] if box else content).update(changes)
    path.write_text(json.dumps(content))


def test_render_films_the_first_agent_and_is_no_part_of_the_experiment(run, tmp_path):
    film(run, "--out", tmp_path / "again.gif")
    assert (tmp_path / "again.gif").read_bytes() == (run / "film.gif").read_bytes()
    assert "render" not in (run / "config.json").read_text()


def test_an_agents_film_is_its_greedy_episodes(run):
    said = film(run, "--agent", 1, "--episodes", 2, "--seed", 5, "--fps", 10)
    agent = load(run).agent(1)
    returns = evaluate.evaluate(agent.params, agent.config, jax.random.key(5), 2)
    steps = int(returns.sum())
    assert f"filmed 2 greedy episodes of agent 1, mean return {returns.mean():g}" in said
    assert f"{steps} steps shown" in said
    number, total, _ = measure(run / "film-1.gif")
    assert f"wrote {run / 'film-1.gif'}: {steps + 2} frames" in said  # two ends
    assert number == steps + 2
    assert total == pytest.approx(0.1 * steps + 2 * 1.5)


def test_the_grid_trains_the_agents_again_and_films_every_stage(run, monkeypatch):
    """At the run's own number of lanes the last stage is what the run saved, bit for bit."""
    hooks, train = [], replaying.train_again

    def watched(*given):
        hooks.extend(one for one in given if isinstance(one, grid.Snapshots))
        return train(*given)

    monkeypatch.setattr(replaying, "train_again", watched)
    said = film(run, "--grid", 16)  # there are two
    made = hooks[0].made
    updates = np.unique(np.round(np.linspace(0, 1, 8) ** 2.5 * UPDATES))
    assert [snapshot.env_steps for snapshot in made] == (128 * updates).tolist()
    assert made[0].env_steps == 0
    saved = load(run).params
    for ours, theirs in zip(*map(jax.tree.leaves, (made[-1].params, saved)), strict=True):
        assert np.array_equal(ours, theirs)
    different = [np.any(leaf != jax.tree.leaves(saved)[0]) for leaf in jax.tree.leaves(made[0])[:1]]
    assert different == [True]
    assert f"wrote {run / 'film-grid.gif'}" in said
    _, total, size = measure(run / "film-grid.gif")
    assert size == (2 * 142 + 6, 56 + 102)
    assert total > 8


def test_a_film_is_never_overwritten_unasked(copied):
    before = (copied / "film.gif").read_bytes()
    refused(2, "film.gif exists; give another file with --out, or --overwrite", "film", copied)
    assert (copied / "film.gif").read_bytes() == before
    (copied / "film.gif").write_bytes(b"")
    assert film(copied, "--overwrite", "--quiet") == ""
    assert (copied / "film.gif").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--out", "film.webm"), "--out is film.webm; a film's name ends in .gif or .mp4"),
        (("--out", "film.mp4"), "MP4 needs imageio-ffmpeg; pip install 'ppo-jax[mp4]'"),
        (("--agent", 2, "--out", "new.gif"), "agent is 2; the run's agents are 0 to 1"),
        (("--agent", -1), "--agent is -1; it must be from 0"),
        (("--episodes", 0), "--episodes is 0; it must be from 1"),
        (("--grid", 0), "--grid is 0; it must be from 1"),
        (("--fps", 0.5), "--fps is 0.5; it must be from 1 to 50"),
        (("--grid", 4, "--agent", 1), "leave out --agent and --episodes"),
        (("--seed", -1), "--seed is -1"),
    ],
)
def test_what_cannot_be_filmed_is_refused(run, monkeypatch, tmp_path, arguments, fragment):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writing, "find_spec", lambda _: None)
    refused(2, fragment, "film", run, *arguments)
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_is_refused(tmp_path):
    refused(2, f"{tmp_path} is not a run's folder: it has no config.json", "film", tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    refused(3, f"{tmp_path / 'file'}", "film", run, "--quiet", "--out", tmp_path / "file" / "a.gif")


def test_agents_that_cannot_be_trained_again_make_no_grid(copied):
    new = "--out", copied / "new.gif"
    edit(copied / "summary.json", finished=False)
    refused(
        2, f"{copied} was interrupted; finish it with --resume", "film", copied, "--grid", 3, *new
    )
    edit(copied / "summary.json", finished=True)
    edit(copied / "config.json", "agents", evolve=["learning_rate=log:1e-4:1e-2"])
    (copied / "evolution.csv").write_text("update,agent,learning_rate\n0,0,0.001\n0,1,0.001\n")
    refused(2, "the run evolved its agents", "film", copied, "--grid", 3, *new)
