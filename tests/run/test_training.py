"""What batches of agents came to, together, and what counts as time of training."""

from types import SimpleNamespace

import numpy as np
import pytest

from ppo_jax import Config
from ppo_jax.run import training
from ppo_jax.run.experiment import Stopping
from ppo_jax.run.hooks import Evaluation
from ppo_jax.run.signals import Signals
from ppo_jax.run.training import Batch, Hook, Results, join, train_batch


def made_up(agent_ids, updates, evaluated=True):
    """Made-up agents after so many updates of 100 steps each; agent 1 is frozen one before."""
    agent_ids = np.array(agent_ids)
    return Results(
        agent_ids=agent_ids,
        params={"actor.0.bias": np.stack([agent_ids, agent_ids], 1)},
        made=np.where(agent_ids == 1, updates - 1, updates),
        updates=np.full(len(agent_ids), updates),
        env_steps=100 * updates + agent_ids,
        eval_returns=np.where(evaluated, agent_ids, np.nan),
        digests=np.repeat(agent_ids[:, None], 32, axis=1).astype(np.uint8),
    )


def test_batches_together_are_in_the_tables_order():
    whole = join([made_up([0, 3, 1], 4), made_up([4, 2], 4)])
    assert whole.agent_ids.tolist() == whole.eval_returns.tolist() == [0, 1, 2, 3, 4]
    assert whole.params["actor.0.bias"].tolist() == [[agent] * 2 for agent in range(5)]
    assert whole.frozen.tolist() == [False, True, False, False, False]
    assert whole.env_steps.tolist() == [400, 401, 402, 403, 404]
    assert whole.digests[:, 31].tolist() == [0, 1, 2, 3, 4]


def test_a_batch_that_stopped_early_made_fewer_updates_and_none_of_it_froze():
    whole = join([made_up([0, 3], 2), made_up([2], 4)])
    assert whole.agent_ids.tolist() == [0, 2, 3]
    assert whole.updates.tolist() == [2, 4, 2]
    assert not whole.frozen.any()


def test_a_signal_in_a_later_batch_leaves_what_was_trained():
    """Then that batch has no evaluations."""
    whole = join([made_up([0, 1], 4), made_up([2], 1, evaluated=False)])
    assert whole.params["actor.0.bias"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert whole.updates.tolist() == [4, 4, 1]
    np.testing.assert_array_equal(whole.eval_returns, [0, 1, np.nan])


class Clocked:
    """A batch whose chunks take 2 seconds an update, and its evaluations 50."""

    lap = Batch.lap

    def __init__(self, monkeypatch):
        self.now, self.seconds, self.num_updates, self._lap_began = 0.0, 0.0, 0, 0.0
        self.config, self.total_updates = Config(total_timesteps=None, num_updates=3), 3
        self.stop_reason, self.evaluation = None, None
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(training, "time", clock)

    def start_chunk(self, size):
        self.now += 2 * size
        self.num_updates += size

    def finish_chunk(self):
        pass

    def evaluate(self):
        self.now += 50
        return np.zeros(1)


def test_what_a_hook_prepares_is_no_time_of_training(monkeypatch):
    batch = Clocked(monkeypatch)

    class Compiling(Hook):
        def begin(self, batch):
            batch.now += 100

    train_batch(batch, [Compiling()], Signals())
    assert batch.num_updates == 3
    assert batch.seconds == pytest.approx(batch.now - 100)


def test_evaluations_are_no_time_of_training_for_the_hooks_after_them(monkeypatch):
    """These say the speed, and save the seconds."""
    batch, seen = Clocked(monkeypatch), []

    class After(Hook):
        def at_boundary(self, batch):
            seen.append(batch.seconds)
            batch.now += 1

    train_batch(batch, [Evaluation(Stopping(evaluate_every=1), None), After()], Signals())
    assert seen == [2, 5, 8]
    assert batch.seconds == 9
