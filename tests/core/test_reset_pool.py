"""Reset states: fresh ones for every step, or drawn from a pool; how many fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppo_jax import env, policy, ppo, recipe, rollout
from tests.helpers.own_parts import lottery
from tests.helpers.quick import quick_jit

PLAUSIBLE = 1e-4
FIXED = recipe(
    "fast",
    num_envs=4,
    num_steps=6,
    max_episode_steps=16,
    num_updates=30,
    num_epochs=1,
    num_minibatches=2,
    hidden_sizes=(8,),
)


def tickets(reset_pool, keys, num_envs=4, num_steps=16):
    """The tickets [agents, updates, T, N] of agents' first two rollouts; the very first ones are
    those that the agent began with."""
    config = FIXED.replace(
        env=LOTTERY, num_envs=num_envs, num_steps=num_steps, reset_pool=reset_pool
    )
    environment, own_policy = env.make(config), policy.make(config)

    def one(key):
        state = ppo.init(key, config)
        carried, seen = state.rollout, []
        for update in range(2):
            carried, transitions = rollout.collect(
                *(jax.random.fold_in(state.key, update), state.params, carried),
                *(environment, own_policy, config),
            )
            seen.append(transitions.observation[..., 0])
        return jnp.stack(seen), carried.observation

    return [np.asarray(leaf) for leaf in quick_jit(jax.vmap(one))(keys)]


LOTTERY = lottery()


def test_a_pool_holds_so_many_reset_states_of_an_agent_and_rollout():
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    seen, last = tickets(5, keys)
    pools = []
    for agent in range(3):
        for update in range(2):
            drawn = seen[agent, update, 1:]  # the first are of the rollout before
            pool = np.unique(drawn)
            assert len(pool) == 5
            for environment in range(4):
                assert len(np.unique(drawn[:, environment])) > 1
            for one in range(3):  # environments share it, and draw by themselves
                assert set(drawn[:, one]) & set(drawn[:, one + 1])
                assert (drawn[:, one] != drawn[:, one + 1]).any()
            pools.append(pool)
        assert set(seen[agent, 1, 0]) <= set(pools[-2])
        assert set(last[agent, :, 0]) <= set(pools[-1])
    assert len(np.unique(pools)) == 5 * len(pools)
    alone = tickets(5, keys[1:2])[0][0]
    np.testing.assert_array_equal(alone, seen[1])


def test_places_in_a_pool_are_drawn_uniformly_each_by_itself():
    drawn = tickets(4, jax.vmap(jax.random.key)(jnp.arange(1)), 64, 64)[0][0, :, 1:]
    for rollout_drawn in drawn:
        places = np.unique(rollout_drawn, return_inverse=True)[1].reshape(rollout_drawn.shape)
        assert stats.chisquare(np.bincount(places.ravel(), minlength=4)).pvalue > PLAUSIBLE
        over_time, beside = (places[:-1], places[1:]), (places[:, :-1], places[:, 1:])
        for one, other in (over_time, beside):
            table = np.bincount((4 * one + other).ravel(), minlength=16).reshape(4, 4)
            assert stats.chi2_contingency(table).pvalue > PLAUSIBLE


def test_places_in_a_pool_come_of_a_key_that_no_reset_had():
    """Else an environment that begins with what its key draws would tell of them."""
    config = FIXED.replace(env=LOTTERY, reset_pool=4)
    places, randint = [], jax.random.randint

    def record(key, *more):
        places.append(key)
        return randint(key, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "randint", record)
        with jax.disable_jit():
            environment = env.make(config)
            keys = jax.random.split(jax.random.key(0), 3)
            rollout._draw(keys, (6, 4), environment, policy.make(config), 4)
    pool = jax.random.split(keys[2], 4)
    assert not np.isin(jax.random.key_data(places[-1]), jax.random.key_data(pool)).all()


def test_without_a_pool_every_reset_is_fresh():
    seen, _ = tickets(None, jax.vmap(jax.random.key)(jnp.arange(2)))
    assert len(np.unique(seen)) == seen.size


def test_reset_states_that_take_too_much_are_refused_with_the_remedy():
    """A ticket's state and observation are 4 bytes each."""
    config = FIXED.replace(env=LOTTERY, num_envs=4, num_steps=16)
    environment = env.make(config)
    clock = 4  # bytes; the library counts the time limit
    assert rollout.reset_bytes(config, environment) == 4 * 16 * (8 + clock)
    assert rollout.reset_bytes(config.replace(reset_pool=5), environment) == 5 * (8 + clock)
    agents = 2**31 // (4 * 16 * (8 + clock))
    rollout.check_resets(config, environment, agents)
    with pytest.raises(
        ValueError, match=r"takes 2.0 GiB for \d+ agents at once.*reset_pool"
    ) as refusal:
        rollout.check_resets(config, environment, agents + 1)
    assert "\n" not in str(refusal.value)
    rollout.check_resets(config.replace(reset_pool=5), environment, agents + 1)


def test_an_update_refuses_reset_states_beyond_two_gibibytes():
    huge = recipe("standard", env="Pong-misc", num_envs=4096, num_minibatches=1, num_updates=1)
    state = jax.eval_shape(lambda: ppo.init(jax.random.key(0), huge))
    with pytest.raises(ValueError, match=r"takes 7\.. GiB, more than 2 GiB; give --reset-pool"):
        jax.eval_shape(ppo.update, state, huge)
