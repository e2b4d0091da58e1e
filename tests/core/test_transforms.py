"""The core under JAX's transformations: jit, vmap over keys and hyperparameters, float64, resuming,
and agents of a batch that must not feel each other."""

import functools
import re
import subprocess
import sys

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import evaluate, policy, ppo, recipe
from tests.helpers.own_parts import lottery
from tests.helpers.quick import quick_jit, slow_but
from tests.helpers.tiny_recipes import FIXED, HYPERPARAMETERS, SETTINGS, TINY, WHOLE, configured
from tests.helpers.trees import lane, nan_like, numbers, same_bits, stack

RECIPES = {
    "standard": recipe("standard", **FIXED, **TINY),
    "notebook": recipe("notebook", **WHOLE, **TINY),
    "fast": recipe("fast", **FIXED, **TINY),
}

LANES = [(seed, setting) for seed in (0, 1) for setting in SETTINGS]


def two_updates(state, config):
    return ppo.run(state, config, 2)


class Batch:
    """Two updates of every seed with every setting: all in one compiled batch, or one alone."""

    def __init__(self, name):
        self.config, self.traces = RECIPES[name], 0
        init = quick_jit(jax.vmap(ppo.init, (0, None)))
        seeds = init(jax.vmap(jax.random.key)(jnp.arange(4)), self.config)
        self.states = stack([lane(seeds, seed) for seed, _ in LANES])
        self.others = stack([lane(seeds, seed + 2) for seed, _ in LANES])
        self.configs = stack([configured(self.config, setting) for _, setting in LANES])
        self.run = quick_jit(jax.vmap(two_updates))
        self.result = self.run(self.states, self.configs)
        self.run_alone = quick_jit(self._run_alone)

    def _run_alone(self, state, config):
        self.traces += 1
        return two_updates(state, config)

    def alone(self, seed, setting):
        start = lane(self.states, LANES.index((seed, setting)))
        return self.run_alone(start, configured(self.config, setting))


batch_of = functools.cache(Batch)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("standard", "fast")]


@pytest.fixture(params=["notebook", *SLOW])
def batch(request):
    return batch_of(request.param)


@pytest.fixture
def standard():
    return batch_of("standard")


# One agent, and many


def test_an_agent_of_a_batch_is_the_agent_alone(batch):
    """For every seed and every hyperparameter, which one compiled program serves."""
    for index, (seed, setting) in enumerate(LANES):
        pairs = zip(
            numbers(lane(batch.result, index)), numbers(batch.alone(seed, setting)), strict=True
        )
        for many, one in pairs:
            np.testing.assert_allclose(many, one, rtol=1e-3, atol=2e-5, err_msg=setting)
    assert batch.traces == 1


@pytest.mark.parametrize("setting", HYPERPARAMETERS)
def test_every_hyperparameter_is_felt(batch, setting):
    for seed in (0, 1):
        one, other = (lane(batch.result, LANES.index((seed, name))) for name in ("base", setting))
        distances = [
            np.abs(a - b).max()
            for a, b in zip(numbers(one[0].params), numbers(other[0].params), strict=True)
        ]
        assert max(distances) > 1e-4


def test_seeds_make_different_agents(batch):
    one, other = (lane(batch.result, LANES.index((seed, "base"))) for seed in (0, 1))
    assert not same_bits(one[0].params, other[0].params)
    assert not same_bits(one[0].rollout.observation, other[0].rollout.observation)


def test_the_same_batch_twice_has_the_same_bits(batch):
    assert same_bits(batch.run(batch.states, batch.configs), batch.result)


NEIGHBOURS = ["other seeds", "NaN params", "NaN rate", "NaN worlds"]


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
@pytest.mark.parametrize("victim", [0, 5])
def test_an_agent_does_not_feel_its_neighbours(batch, victim, neighbours):
    """To the bit, whatever they hold."""
    states, configs = batch.states, batch.configs

    def poison(tree, poisoned):
        """The tree with all lanes but the victim's from the other one."""
        return jax.tree.map(lambda leaf, other: other.at[victim].set(leaf[victim]), tree, poisoned)

    if neighbours == "other seeds":
        states = poison(states, batch.others)
    elif neighbours == "NaN params":
        states = states._replace(params=poison(states.params, nan_like(states.params)))
    elif neighbours == "NaN rate":
        rate = poison(configs.learning_rate, nan_like(configs.learning_rate))
        configs = configs.replace(learning_rate=rate)
    else:
        states = states._replace(rollout=poison(states.rollout, nan_like(states.rollout)))
    result = batch.run(states, configs)
    assert same_bits(lane(result, victim), lane(batch.result, victim))
    for index in (victim - 1, victim + 1):
        assert not same_bits(lane(result, index), lane(batch.result, index))
        actor = result[0].params.trainable["network"]["actor"]
        broken = np.isnan(actor["hidden_0"]["kernel"][index]).any()
        assert broken == (neighbours != "other seeds")


# Compiled or not, at once or in parts


@pytest.mark.slow
def test_jit_is_eager(standard):
    state, rows = lane(standard.states, 0), []
    for _ in range(2):
        state, metrics = ppo.update(state, standard.config)
        rows.append(metrics)
    expected = standard.alone(0, "base")
    for eager, jitted in zip(numbers((state, stack(rows))), numbers(expected), strict=True):
        np.testing.assert_allclose(eager, jitted, rtol=1e-3, atol=2e-5)


@pytest.mark.slow  # test_resume has it of whole runs
def test_two_runs_of_two_updates_are_one_of_four(standard):
    """To the bit, although the two are different programs."""
    middle, first = standard.alone(0, "base")
    end, second = standard.run_alone(middle, standard.config)
    whole = quick_jit(functools.partial(ppo.run, num_updates=4))(
        lane(standard.states, 0), standard.config
    )
    joined = jax.tree.map(lambda *rows: jnp.concatenate(rows), first, second)
    assert end.num_updates == 4
    assert same_bits((end, joined), whole)


# Types


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_a_run_keeps_its_types_with_x64_on_or_off(name, enabled):
    with jax.enable_x64(enabled):
        state = jax.eval_shape(ppo.init, jax.random.key(0), RECIPES[name])
        after, metrics = jax.eval_shape(two_updates, state, RECIPES[name])
    assert types(after) == types(state)
    floats = [leaf.dtype for leaf in jax.tree.leaves((state.params, metrics.policy_loss))]
    assert set(floats) == {jnp.dtype("float64" if enabled else "float32")}
    assert state.num_updates.dtype == metrics.env_steps.dtype == jnp.int32


SAME = jnp.ones(1)
WITHOUT_GRADIENT = {
    "units of the ReLU that never fire": RECIPES["notebook"].replace(activation="relu"),
    "an actor whose advantages are all equal": recipe(
        "standard",
        env=lottery()._replace(reset=lambda key: (SAME, SAME)),
        num_steps=8,
        num_minibatches=16,  # the mean of two equal numbers is exact
        num_updates=9,
        entropy_coefficient=0.0,
    ),
}


@pytest.mark.parametrize("reason", slow_but(WITHOUT_GRADIENT, "units of the ReLU that never fire"))
def test_updates_have_a_derivative_by_the_learning_rate(reason):
    """Central differences agree with it, though something has no gradient at all."""
    config = WITHOUT_GRADIENT[reason]
    with jax.enable_x64(True):
        state = quick_jit(ppo.init)(jax.random.key(0), config)

        @quick_jit
        def trained(rate):
            return two_updates(state, config.replace(learning_rate=rate))[0].params.trainable

        rate, step = 1e-3, 1e-8
        _, derivative = jax.jvp(trained, (rate,), (1.0,))
        above, below = trained(rate + step), trained(rate - step)
        differences = jax.tree.map(lambda a, b: (a - b) / (2 * step), above, below)
        chex.assert_trees_all_close(derivative, differences, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_a_state_holds_arrays_only(name):
    state = jax.eval_shape(ppo.init, jax.random.key(0), RECIPES[name])
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    assert state.key.shape == state.num_updates.shape == ()


def test_initialization_calls_no_lapack():
    config, keys = RECIPES["standard"], jax.random.split(jax.random.key(0), 4)
    program = str(jax.make_jaxpr(jax.vmap(ppo.init, (0, None)))(keys, config))
    assert not re.search(r"= qr\b", program)  # which flax's orthogonal initializer calls


@pytest.mark.slow
@pytest.mark.parametrize("num_updates", [0, 2])
def test_many_agents_start_on_two_cores_without_locking_up(num_updates):
    """Batched LAPACK calls of several agents once waited for each other's threads for ever."""
    code = f"""
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, numpy as np
from ppo_jax import ppo, recipe
config = recipe("standard")
train = jax.jit(jax.vmap(lambda key: ppo.run(ppo.init(key, config), config, {num_updates})))
states, _ = train(jax.random.split(jax.random.key(0), 4))
assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states.params))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# Evaluation

# So narrow that the cart of a balanced pole rolls out, which ends an episode, and in again.
NARROW = {"x_threshold": 0.06}
JUDGED = recipe(
    "fast", max_episode_steps=200, env_params=NARROW, initialization="uniform", hidden_sizes=(8,)
)


def judged(seed):
    """The parameters of a policy that nobody has trained."""
    return policy.make(JUDGED).init(jax.random.key(seed))


def regulator():
    """A policy that balances the pole: right where a linear function of the state is positive."""
    params = judged(2)
    gains = jnp.array([1, 1.6, 18.7, 3.5])
    actor = {
        "hidden_0": {"kernel": jnp.zeros((4, 8)).at[:, 0].set(gains), "bias": jnp.zeros(8)},
        "output": {
            "kernel": jnp.zeros((8, 2)).at[0].set(jnp.array([-1.0, 1.0])),
            "bias": jnp.zeros(2),
        },
    }
    network = {**params.trainable["network"], "actor": actor}
    return params._replace(trainable={**params.trainable, "network": network})


@pytest.fixture(scope="module")
def judge():
    """The returns of six episodes, compiled."""
    return quick_jit(lambda params, key: evaluate.evaluate(params, JUDGED, key, 6))


@pytest.fixture(scope="module")
def params():
    return stack([judged(2), judged(3), regulator()])


def test_evaluation_gives_each_episodes_return(judge, params):
    first = judge(lane(params, 0), jax.random.key(0))
    assert first.shape == (6,)
    assert len(np.unique(first)) > 1
    np.testing.assert_array_equal(first, judge(lane(params, 0), jax.random.key(0)))
    assert (first != judge(lane(params, 0), jax.random.key(1))).any()


def test_evaluation_is_a_greedy_loop_over_gymnax(judge, params):
    cartpole, parameters = gymnax.make("CartPole-v1")
    parameters = parameters.replace(**NARROW)
    act = jax.jit(lambda params, observation: ppo.act(params, observation, JUDGED))
    step = jax.jit(cartpole.step_env)
    for index in range(3):
        agent = lane(params, index)
        returns = judge(agent, jax.random.key(0))
        reset_keys = jax.random.split(jax.random.split(jax.random.key(0))[0], 6)
        for episode in range(6):
            observation, state = cartpole.reset_env(reset_keys[episode], parameters)
            total, terminated, steps = 0.0, False, 0
            while not terminated and steps < 200:
                observation, state, reward, terminated, _ = step(
                    jax.random.key(0), state, act(agent, observation), parameters
                )
                total, steps = total + float(reward), steps + 1
            assert returns[episode] == total
