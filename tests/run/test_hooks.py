"""Hooks of a user's own: what they see, change, and keep."""

import contextlib
import os
import signal

import jax
import numpy as np
import pytest

from ppo_jax import recipe
from ppo_jax.run import Hook, load, train
from ppo_jax.run.hooks import UserHook

CONFIG = recipe("fast", num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300)
AGENTS = {"num_seeds": 3, "group_size": 2}  # the second batch is filled up with the last agent
UPDATES = 10


class Watch:
    """Keeps what it sees at every boundary; nothing but this method is required of a hook."""

    def __init__(self):
        self.seen = []

    def at_boundary(self, batch):
        self.seen.append((batch.number, batch.num_updates, batch.metrics))
        self.agent_ids, self.is_real = batch.agent_ids, batch.is_real


class Every(Watch):
    """Is called at least every so many updates, and counts, over a resume as well."""

    def __init__(self, updates, act=lambda batch: None):
        super().__init__()
        self.updates, self.act, self.calls, self.restored = updates, act, 0, False

    def at_boundary(self, batch):
        super().at_boundary(batch)
        if batch.num_updates % self.updates == 0:
            self.calls += 1
            self.act(batch)

    def next_boundary(self, done):
        return done - done % self.updates + self.updates

    def state(self):
        return {"calls": np.array(self.calls)}

    def restore(self, tree):
        self.calls, self.restored = int(tree["calls"]), True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run with a hook that looks, and the hook."""
    watch = Watch()
    return train(CONFIG, **AGENTS, out=folder(tmp_path_factory), hooks=[watch]), watch


def folder(factory):
    return str(factory.mktemp("runs") / "run")


def hash_of(run):
    return run.summary["state_sha256"]


def test_a_hook_sees_every_update_of_every_lane(undisturbed):
    run, watch = undisturbed
    assert {number for number, _, _ in watch.seen} == {1, 2}
    assert watch.agent_ids.tolist() == [2, 2]
    assert watch.is_real.tolist() == [True, False]
    for number, agents in ((1, [0, 1]), (2, [2])):
        mine = [(done, metrics) for own, done, metrics in watch.seen if own == number]
        ends = [done for done, _ in mine]
        assert ends[-1] == UPDATES
        sizes = np.diff([0, *ends])
        for name in ("policy_loss", "env_steps", "episode_return"):
            leaves = [getattr(metrics, name) for _, metrics in mine]
            assert [leaf.shape for leaf in leaves] == [(size, 2) for size in sizes]
            together = np.concatenate(leaves)[:, : len(agents)]
            np.testing.assert_array_equal(together, run.metrics[name][:, agents].astype("f4"))


def test_a_hook_that_only_looks_changes_no_bit_however_often(undisturbed, tmp_path):
    """Nor do the lengths of the chunks."""
    often = Every(1)
    run = train(CONFIG, **AGENTS, out=str(tmp_path / "often"), hooks=[often])
    assert [done for _, done, _ in often.seen] == [*range(1, 11)] * 2
    assert hash_of(run) == hash_of(undisturbed[0])


def test_boundaries_are_where_any_hook_wants_one(tmp_path):
    three, four = Every(3), Every(4)
    train(CONFIG, out=str(tmp_path / "run"), hooks=[three, four], checkpoint_every=5)
    for hook in (three, four):
        ends = {done for _, done, _ in hook.seen}
        assert ends >= {3, 4, 5, 6, 8, 9, 10}
    assert (three.calls, four.calls) == (3, 2)


def test_a_boundary_once_asked_for_comes_whatever_the_clock_does(tmp_path):
    hook = Watch()
    hook.next_boundary = lambda done: done + 4
    train(CONFIG, out=str(tmp_path / "run"), hooks=[hook, Every(3)])
    assert {done for _, done, _ in hook.seen} >= {3, 4, 6, 8, 9, 10}


def test_a_hook_may_stop_a_batch(tmp_path, capsys):
    """Which is then evaluated and saved like any other; the next batch begins."""

    def stop(batch):
        if batch.number == 1:
            batch.stop("that is enough")

    alone = {"num_seeds": 2, "group_size": 1, "out": str(tmp_path / "run"), "quiet": False}
    run = train(CONFIG, **alone, hooks=[Every(4, stop)])
    assert capsys.readouterr().out.count("stopped after 4 of 10 updates: that is enough\n") == 1
    updates = (~np.isnan(run.metrics["step"])).sum(axis=0)
    assert updates.tolist() == [4, 10]
    assert run.summary["finished"]
    assert None not in run.summary["eval_return_per_seed"]
    assert run.summary["env_steps"] == 14 * CONFIG.batch_size


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_batch_may_end_as_it_begins(interrupted, tmp_path):
    """A signal leaves agents without an update, and none of another's numbers."""

    class Ends(Watch):
        def begin(self, batch):
            if batch.number == 2:
                batch.stop("that is enough")
                if interrupted:
                    os.kill(os.getpid(), signal.SIGINT)

    ends = pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext()
    with ends:
        train(CONFIG, num_seeds=2, group_size=1, out=str(tmp_path), hooks=[Ends()])
    run = load(tmp_path)
    updates = [(~np.isnan(run.agent(agent).metrics["update"])).sum() for agent in (0, 1)]
    assert updates == [UPDATES, 0 if interrupted else 1]
    assert run.summary["finished"] is not interrupted


def test_a_hook_may_assign_the_states(tmp_path):
    def clear(batch):
        if batch.num_updates == UPDATES:
            zeros = jax.tree.map(lambda leaf: 0 * leaf, batch.states.params)
            batch.states = batch.states._replace(params=zeros)

    run = train(CONFIG, out=str(tmp_path / "run"), hooks=[Every(5, clear)])
    assert all(not leaf.any() for leaf in jax.tree.leaves(run.params))


@pytest.mark.parametrize("sweep", [(), ("learning_rate=2.5e-3,1e-3",)])
def test_a_hook_may_assign_the_configuration(sweep, tmp_path):
    """From update 4 on with a learning rate that moves nothing; one number does for many."""
    kept = {}

    def still(batch):
        if batch.num_updates == 4:
            kept["params"] = jax.tree.map(np.array, batch.states.params)
            batch.config = batch.config.replace(learning_rate=1e-30, entropy_coefficient=0)

    run = train(CONFIG, out=str(tmp_path / "run"), hooks=[Every(4, still)], sweep=sweep)
    jax.tree.map(np.testing.assert_array_equal, run.params, kept["params"])
    assert run.summary["num_updates"] == UPDATES


def test_agents_differ_only_in_what_varies_from_the_start(tmp_path):
    def differ(batch):
        batch.config = batch.config.replace(learning_rate=np.array([1e-3, 2e-3]))

    said = r"^hook Every: at_boundary raised InputError \(config of other types[^\n]*--sweep[^\n]*$"
    with pytest.raises(ValueError, match=said):
        train(CONFIG, num_seeds=2, out=str(tmp_path / "run"), hooks=[Every(4, differ)])


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_hooks_state_survives_a_signal_and_a_resume(number, code, undisturbed, tmp_path):
    """The run ends after the chunk, saves, and continues to the bits of an undisturbed one; two
    hooks of one class have each its own state."""
    out = str(tmp_path / "run")

    def interrupt(batch):
        if (batch.number, batch.num_updates) == (2, 4):
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt, match=f"stopped by {number.name}") as stopped:
        train(CONFIG, **AGENTS, out=out, hooks=[Every(2, interrupt), Every(3)])
    assert stopped.value.code == code
    half = load(out)
    assert not half.summary["finished"]
    assert half.summary["eval_return_per_seed"] is None
    assert half.summary["env_steps"] == np.nanmax(half.metrics["step"], axis=0).sum()
    hook, other = Every(2), Every(3)
    run = train(CONFIG, **AGENTS, out=out, hooks=[hook, other], resume="newest")
    assert hook.restored
    assert hook.seen[0][0] == 2
    assert hook.seen[0][1] > 4
    assert (hook.calls, other.calls) == (10, 6)
    assert hash_of(run) == hash_of(undisturbed[0])


@pytest.mark.parametrize("method", [name for name in vars(Hook) if name[0] != "_"])
def test_whatever_method_raises_is_named(method):
    class Faulty(Watch):
        pass

    def fail(*_):
        raise RuntimeError(f"no {method}")

    setattr(Faulty, method, fail)
    message = rf"hook Faulty: {method} raised RuntimeError \(no {method}\)"
    with pytest.raises(ValueError, match=message):
        getattr(UserHook(Faulty()), method)(None)


def test_a_state_that_no_checkpoint_can_keep_is_named(tmp_path):
    class Named(Watch):
        def state(self):
            return {"calls": np.array(3), "name": "abc"}

    hook = UserHook(Named())
    with pytest.raises(ValueError, match=r"^hook Named: state has 'abc'; a checkpoint keeps num"):
        hook.state()


def test_what_is_no_hook_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"hook object has no method at_boundary\(batch\)"):
        train(CONFIG, out=str(tmp_path / "run"), hooks=[object()])
    assert list(tmp_path.iterdir()) == []
