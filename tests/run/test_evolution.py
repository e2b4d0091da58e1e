"""Population-based training by the command: its generations are the library's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import pbt, recipe, sweep
from ppo_jax.run import load, train
from ppo_jax.run.evolution import Evolution
from tests.helpers.commands import finish, read_rows, start
from tests.helpers.generations import RATES, some_states

pytestmark = pytest.mark.slow

SMALL = ("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--num-updates", "10")
EVOLVE = ("--evolve", "learning-rate=log:1e-6:1e-1", "--evolve", "clip_range=uniform:0.1:0.4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run of 5 agents by the command itself: on two cores, with a lane that fills up."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = (*SMALL, *EVOLVE, "--num-seeds", "5", "--seed", "7", "--evolve-every", "3")
    assert finish(start("train", *flags, "--quiet", "--out", out)) == (0, "", "")
    return out, read_rows(out / "evolution.csv")


def test_the_commands_generations_are_the_librarys(finished):
    out, rows = finished
    assert [row["update"] for row in rows] == [
        str(update) for update in (0, 3, 6, 9) for _ in "12345"
    ]
    assert [row["agent"] for row in rows] == list("01234") * 4
    ranges = {"learning_rate": RATES, "clip_range": ("uniform", 0.1, 0.4)}
    columns = {
        name: np.array([row[name] or "nan" for row in rows], np.float32).reshape(4, 5)
        for name in ("parent", "fitness", *ranges)
    }
    assert np.isnan(columns["parent"][0]).all()
    assert np.isnan(columns["fitness"][0]).all()
    root = jax.random.fold_in(jax.random.key(7), 3)
    first = sweep.search(jax.random.fold_in(root, 0), ranges, 5)
    returns, before = load(out).metrics["episode_return"], np.full(5, np.nan)
    for name in ranges:
        np.testing.assert_allclose(columns[name][0], first[name], rtol=1e-6)
    for generation, done in enumerate((3, 6, 9), start=1):
        chunk = returns[done - 3 : done]
        fitness = np.where(
            np.isnan(chunk).all(axis=0), before, np.nansum(chunk, 0) / np.sum(chunk == chunk, 0)
        )
        np.testing.assert_allclose(columns["fitness"][generation], fitness, rtol=1e-5)
        config = recipe("fast").replace(
            **{name: jnp.asarray(columns[name][generation - 1]) for name in ranges}
        )
        _, config, parents = pbt.evolve(
            *(jax.random.fold_in(root, done), some_states(0, 5, [done] * 5), config),
            *(jnp.asarray(columns["fitness"][generation]), ranges),
        )
        expected = np.where(parents == np.arange(5), np.nan, parents)
        np.testing.assert_array_equal(columns["parent"][generation], expected)
        for name in ranges:
            np.testing.assert_allclose(columns[name][generation], getattr(config, name), rtol=1e-6)
        before = fitness[np.asarray(parents)]


def test_compiling_a_generation_is_time_of_compiling(tmp_path, monkeypatch):
    begin, compiled = Evolution.begin, []

    def watched(self, batch):
        begin(self, batch)
        compiled.append(self.compile_seconds)
        self.compile_seconds += 1000

    monkeypatch.setattr(Evolution, "begin", watched)
    config = recipe("fast", num_envs=4, num_steps=32, hidden_sizes=(8,), num_updates=4)
    options = {"num_seeds": 4, "evolve_every": 2, "evolve": ["learning_rate=log:1e-4:1e-2"]}
    summary = train(config, out=tmp_path / "run", **options).summary
    assert compiled[0] > 0
    assert summary["compile_seconds"] > 1000 > summary["train_seconds"]


def test_the_command_tells_the_best_agents_hyperparameters(finished):
    out, rows = finished
    summary = json.loads((out / "summary.json").read_text())
    best = summary["evolution"]
    assert best["agent"] == np.argmax(summary["eval_return_per_seed"])
    assert best["seed"] == 7 + best["agent"]
    last = rows[-5 + best["agent"]]
    assert best["coefficients"] == {
        name: float(last[name]) for name in ("learning_rate", "clip_range")
    }
    assert (summary["num_settings"], summary["num_seeds"]) == (1, 5)
    assert len(summary["statistics"]) == 1
    agents = json.loads((out / "config.json").read_text())["agents"]
    assert agents["evolve"] == ["learning_rate=log:1e-06:0.1", "clip_range=uniform:0.1:0.4"]
    assert agents["evolve_every"] == 3
