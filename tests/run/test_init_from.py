"""--init-from RUN --agent N: training begins with a trained agent's parameters."""

import jax
import numpy as np
import pytest

from ppo_jax import recipe
from ppo_jax.run import load, train
from ppo_jax.run.storage import arrays
from tests.helpers.commands import SMALL, refused, run_command
from tests.helpers.own_parts import SMALL as OWN
from tests.helpers.own_parts import teller

CONFIG = recipe("fast", num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of two agents, one after another."""
    out = tmp_path_factory.mktemp("runs") / "base"
    arguments = ("--num-seeds", 2, "--group-size", 1, "--quiet", "--out", out)
    assert run_command("train", *SMALL, *arguments) == (0, "", "")
    return out


def parameters(run, agent):
    return arrays.to_named(load(run).agent(agent).params)


def equal(one, other):
    assert one.keys() == other.keys()
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_every_agent_begins_with_those_parameters_to_the_bit(base, tmp_path):
    """A learning rate that moves nothing shows them at the end; the rollouts are each agent's."""
    out = tmp_path / "run"
    arguments = ("--init-from", base, "--agent", 1, "--learning-rate", 1e-30, "--quiet")
    more = ("--num-seeds", 2, "--group-size", 1, "--seed", 7, "--out", out)
    assert run_command("train", *SMALL, *arguments, *more) == (0, "", "")
    for agent in (0, 1):
        assert equal(parameters(out, agent), parameters(base, 1))
    assert not equal(parameters(base, 0), parameters(base, 1))
    losses = load(out).metrics["value_loss"]
    assert (losses[:, 0] != losses[:, 1]).all()
    # What is trained is what is replayed, and evaluated.
    code, said, error = run_command("replay", out, "--agent", 1)
    assert (code, error) == (0, "")
    assert "bit for bit: all 107 parameters are the saved ones" in said
    moved = base.rename(base.with_name("moved"))
    refused(2, f"--init-from {base}: [Errno 2] No", "replay", out, "--agent", 0, "--quiet")
    moved.rename(base)


def test_a_hook_sees_them_before_the_first_update(base, tmp_path):
    class Look:
        def begin(self, batch):
            self.first = {
                name: leaf[0] for name, leaf in arrays.to_named(batch.states.params).items()
            }

        def at_boundary(self, batch):
            pass

    look, out = Look(), tmp_path / "run"
    options = {"init_from": str(base), "agent": 0, "seed": 3}
    run = train(CONFIG, out=str(out), hooks=[look], **options)
    assert equal(look.first, parameters(base, 0))
    assert not equal(arrays.to_named(run.agent(0).params), look.first)
    fresh = train(CONFIG, out=str(tmp_path / "fresh"), seed=3)
    # The first rollout has the same start states, and other actions.
    assert fresh.metrics["value_loss"][0, 0] != run.metrics["value_loss"][0, 0]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--hidden-sizes", 16), "is of shape (8,); such a network's is (16,)"),
        (("--hidden-sizes", 8, 8), "env and network"),
        (("--env", "Acrobot-v1"), "env and network"),
        (("--agent", 2), "the run's agents are 0 to 1"),
        (("--init-from", "nowhere"), "--init-from nowhere"),
    ],
)
def test_what_cannot_be_begun_from_is_refused_in_one_line(
    base, tmp_path, monkeypatch, arguments, fragment
):
    monkeypatch.chdir(tmp_path)
    flags = (*SMALL, "--init-from", base, "--agent", 1, *arguments)
    refused(2, fragment, "train", *flags, "--out", "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_whole_is_refused(base, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    for name in ("config.json", "summary.json"):
        (half / name).write_bytes((base / name).read_bytes())
    (half / "parameters.npz").write_bytes(b"nothing")
    flags = (*SMALL, "--init-from", half, "--agent", 0, "--out", tmp_path / "run")
    refused(2, f"--init-from {half}", "train", *flags)


def test_another_start_is_another_run(base, tmp_path):
    """A run is not resumed as one that began elsewhere."""
    out = tmp_path / "run"
    flags = ("--init-from", base, "--agent", 0, "--quiet", "--out", out)
    assert run_command("train", *SMALL, *flags) == (0, "", "")
    (out / "summary.json").unlink()
    refused(2, "agent 0 there, 1 asked for", "train", "--resume", "--agent", 1, "--out", out)
    assert np.isfinite(load_metrics(out)).all()


def load_metrics(out):
    return np.genfromtxt(out / "metrics.csv", delimiter=",", names=True)["policy_loss"]


def test_a_run_of_an_object_begins_another_one_of_it(tmp_path):
    """Which no file holds."""
    config = OWN.replace(env=teller(), learning_rate=1e-30)
    train(config, seed=3, out=tmp_path / "one")
    train(config, out=tmp_path / "other", init_from=tmp_path / "one", agent=0)
    one, other = (load(tmp_path / name, env=teller()) for name in ("one", "other"))
    for before, after in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-20)


@pytest.mark.usefixtures("x64")
def test_the_other_run_may_be_of_another_precision(base, tmp_path):
    config = CONFIG.replace(learning_rate=1e-30)
    train(config, out=tmp_path / "run", init_from=base, agent=1)
    found, before = parameters(tmp_path / "run", 0), parameters(base, 1)
    for name, leaf in found.items():
        assert leaf.dtype == np.float64
        np.testing.assert_allclose(leaf, before[name], rtol=1e-12)
