"""The Pallas kernels, interpreted on a CPU: a rollout against XLA's loop from the same noise, which
tests/core/test_rollout.py holds to gymnax's own steps; the epochs against the NumPy oracle."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppo_jax import env, fast, population, ppo, recipe, rollout, spaces
from ppo_jax.config import with_hyperparameters
from ppo_jax.kernels import finite, noise, shuffles, summary
from tests.helpers import problems
from tests.helpers.own_parts import lottery
from tests.helpers.quick import quick_jit

# 3 environments fill a kernel's lanes in part, 20 units its matrices; episodes end all the time.
CARTPOLE = recipe(
    "standard", num_envs=3, num_steps=16, max_episode_steps=9, num_minibatches=2, hidden_sizes=(20,)
)
PENDULUM = recipe(
    "standard",
    env="Pendulum-v1",
    num_envs=3,
    num_steps=16,
    max_episode_steps=9,
    num_minibatches=2,
    hidden_sizes=(20, 7),
    activation="relu",
    noise_correlation=0.5,
    normalize_observation=True,
    previous_action=True,
    previous_reward=True,
)
CASES = {
    "CartPole": CARTPOLE,
    "Pendulum": PENDULUM,
    "whole episodes": recipe("notebook", max_episode_steps=40, num_updates=30),
    "three actions": recipe("fast", env="MountainCar-v0", num_envs=4, num_steps=32),
    "random steps": CARTPOLE.replace(env="PointRobot-misc"),
    "squashed": PENDULUM.replace(squash_action=True, time_limit="terminate"),
}


def collect(key, config):
    """A rollout with every step's final observation, which XLA's path keeps only where needed."""
    state, policy = ppo.init(key, config), ppo.policy(config)
    environment = env.make(config)._replace(truncates_early=True)
    rollout_key = jax.random.fold_in(key, 1)
    return rollout.collect(rollout_key, state.params, state.rollout, environment, policy, config)


def assert_equal(found, expected):
    """Whole numbers and booleans are equal, floats up to the order of a product's sum."""
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), path
        tolerance = 1e-5 if jnp.issubdtype(one.dtype, jnp.floating) else 0
        np.testing.assert_allclose(one, other, tolerance, tolerance, err_msg=str(path))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "Pendulum" else pytest.mark.slow) for name in CASES],
)
def test_a_rollout_equals_the_scan(name):
    config = CASES[name]
    expected = quick_jit(collect)(jax.random.key(3), config)
    state, transitions = quick_jit(collect)(jax.random.key(3), config.replace(kernel="pallas"))
    assert_equal((state, transitions), expected)
    if name != "three actions":
        assert np.sum(transitions.done & transitions.valid) >= 1


def draws(keys, shape):
    """What may be drawn in a rollout: by all steps together, and by each with a key of its own."""
    together, size = jax.random.normal(keys[0], (2 * math.prod(shape),)), math.prod(shape)

    def alone(key):
        one, two = jax.random.split(jax.random.fold_in(key, 7))
        return {
            "bits": [jax.random.bits(one, (1,), f"uint{width}") for width in (8, 16, 32)],
            "uniform": jax.random.uniform(two, (2,), minval=-1),
            "whole": jax.random.randint(one, (), -3, 9),
            "words": jax.random.key_data(two),
        }

    own = jax.random.split(keys[2], size)
    apart = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), jax.vmap(alone)(own))
    return together.reshape(*shape, 2), jax.random.split(keys[1], size).reshape(shape), apart


@pytest.mark.slow
@pytest.mark.parametrize(  # two blocks of the kernel, or a part of one
    ("precision", "shape"), [("float32", (130, 4)), ("float64", (5, 3))]
)
def test_random_numbers_are_those_of_jax(precision, shape, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    keys = jax.random.split(jax.random.key(3), 2)
    expected = jax.vmap(lambda key: draws(jax.random.split(key, 3), shape))(keys)
    found = quick_jit(jax.vmap(lambda key: noise.draw(key, draws, shape)))(keys)
    assert_equal(*(jax.tree.map(in_numbers, tree) for tree in (found, expected)))


def in_numbers(leaf):
    """The leaf, or a key's words."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@pytest.mark.parametrize(("capacity", "length"), [(40, 40), (700, 671)])
def test_orders_are_those_of_the_loops(capacity, length):
    keys = jax.random.split(jax.random.key(5), 2)

    def orders(function):
        of_agents = jax.vmap(lambda key, length: function(key, capacity, length, 3), (0, None))
        return quick_jit(of_agents)(keys, length)

    found, expected = orders(shuffles.epoch_orders), orders(ppo.epoch_orders)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_valid", [None, 23, 0])
def test_what_is_counted_of_an_update_is_what_the_loops_count(num_valid):
    rng, size = np.random.default_rng(0), 37
    steps = ppo._Steps(
        None if num_valid is None else np.arange(size) < num_valid,
        *(rng.random((2, size)) < 0.3),
        rng.normal(size=size),
        rng.integers(9, size=size),
        *rng.normal(size=(2, size)),
    )
    held = ppo._summarize(jax.tree.map(jnp.asarray, steps))
    found = jax.jit(lambda steps: summary.summarize(ppo._summarize, steps))(steps)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, 1e-12), found, held)
    assert found["env_steps"] == (size if num_valid is None else num_valid)


def test_agents_of_one_kernel_have_their_own_worlds():
    config = with_hyperparameters(
        CARTPOLE, {"env_params.force_mag": np.array([5.0, 10.0, 20.0], np.float32)}
    )
    keys = jax.random.split(jax.random.key(0), 3)

    def agents(config):
        axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, config)
        return quick_jit(jax.vmap(collect, (0, axes)))(keys, config)

    found = agents(config.replace(kernel="pallas"))
    assert_equal(found, agents(config))
    assert len(np.unique(found[0].observation[:, 0, 1])) == 3


LEARNED = [case for case in problems.CASES if case not in ("MultiDiscrete", "fast, turned")]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == "notebook, turned" else pytest.mark.slow)
        for case in LEARNED
    ],
)
def test_the_epochs_are_the_oracles_in_float64(case):
    learned_as_the_oracle_does(problems.make_problem(case, 0))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", ["notebook, turned", "standard"])
def test_the_first_minibatch_that_went_too_far_ends_the_epochs(case):
    problem = problems.make_problem(case, 1)
    every = [scalars["approx_kl"] for scalars in learned_as_the_oracle_does(problem).scalars]
    number = np.argmax(every)  # above all before it
    assert 0 < number < len(every) - 1
    target = 0.99 * every[number] / 1.5
    settings = dataclasses.replace(problem.settings, target_kl=target)
    config = problem.config.replace(target_kl=target)
    expected = learned_as_the_oracle_does(problem._replace(config=config, settings=settings))
    assert len(expected.scalars) == number


def learned_as_the_oracle_does(problem):
    """What the oracle makes of a problem, after the kernel was held to it."""
    problem = problem._replace(config=problem.config.replace(kernel="pallas"))
    (params, state, stats), _, expected = problems.learn_both_ways(problem)
    adam, tolerance = problems.moments_of(state), problems.FLOAT64
    assert stats.gradient_steps == len(expected.gradients)
    problems.assert_metrics(problems.metrics_of(stats), expected.metrics, **tolerance)
    assert adam.count == expected.adam["count"]
    problems.assert_parameters(adam.mu, expected.adam["mean"], **tolerance)
    problems.assert_parameters(adam.nu, expected.adam["square"], **tolerance)
    problems.assert_parameters(params, expected.params, **tolerance)
    return expected


@pytest.mark.slow
def test_a_large_network_whose_moments_are_trees_is_trained_as_by_the_loops(monkeypatch):
    monkeypatch.setattr(fast, "FEW_PARAMETERS", 10)

    def train(config):
        return quick_jit(ppo.train)(jax.random.key(0), config)

    config = CARTPOLE.replace(num_updates=2)
    (state, metrics), expected = train(config.replace(kernel="pallas")), train(config)
    assert isinstance(problems.moments_of(state.optimizer_state).mu.actor, dict)
    assert_equal((state.params, metrics), (expected[0].params, expected[1]))


@pytest.mark.slow
def test_agents_of_a_sweep_are_trained_as_by_the_loops():
    rates = {"learning_rate": np.array([1e-3, 1e-2]), "clip_range": np.array([1e-3, 0.3])}
    config = with_hyperparameters(CARTPOLE, rates)

    def train(config):
        return quick_jit(population.train)(population.agent_keys(0, 2), config)

    config = config.replace(num_updates=2)
    (states, metrics), expected = train(config.replace(kernel="pallas")), train(config)
    assert_equal((states.params, metrics), (expected[0].params, expected[1]))
    assert metrics.clip_fraction[1, 0] > metrics.clip_fraction[1, 1]


def test_an_agent_that_learned_something_infinite_keeps_all_that_it_was():
    rng = np.random.default_rng(0)

    def agents():  # 1,500 numbers are more than the kernel looks at together
        drawn = {shape: rng.normal(size=(4, *shape)) for shape in ((), (3, 500), (7,))}
        return [*drawn.values(), rng.random((4, 2)) < 0.5, rng.integers(9, size=(4, 5))]

    learned, new, old = agents()[:3], agents(), agents()
    learned[0][1], learned[1][2, 2, 499] = np.nan, -np.inf
    row, rows = (np.arange(4), rng.random(4)), (rng.integers(9, size=(3, 4)), rng.random((3, 4)))
    arguments = jax.tree.map(jnp.asarray, (1, learned, (new, old), (row, rows)))
    states, metrics = jax.jit(finite.keep_finite)(*arguments)
    for one, fresh, kept in zip(states, new, old, strict=True):
        expected = [(kept if agent in (1, 2) else fresh)[agent] for agent in range(4)]
        np.testing.assert_array_equal(one, np.stack(expected).astype(one.dtype))
    for found, own, before, none in zip(metrics, row, rows, (0, np.nan), strict=True):
        expected = [before[0], [own[0], none, none, own[3]], before[2]]
        np.testing.assert_array_equal(found, np.array(expected).astype(found.dtype))


REFUSED = {
    "network": ({"network": "gru", "num_minibatches": 1}, "network is 'gru'"),
    "no hidden layer": ({"hidden_sizes": ()}, "hidden_sizes is empty"),
    "optimizer": ({"optimizer": optax.sgd(0.1)}, "optimizer is Gradient"),
    "pool": ({"reset_pool": 8}, "reset_pool is 8"),
    "indices": ({"env": "Acrobot-v1"}, "gather"),
    "images": ({"env": "Breakout-MinAtar"}, "400 numbers, above 64"),
    "key": (
        {"env": lottery()._replace(reset=lambda key: (key, jnp.zeros(1)))},
        "the environment's state holds a key",
    ),
    "several actions": (
        {"env": lottery()._replace(action_space=spaces.MultiDiscrete((2, 3)))},
        "actions are Multi",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_kernel_is_refused_with_the_remedy(name):
    changes, said = REFUSED[name]
    config = CARTPOLE.replace(kernel="pallas", **changes)
    with pytest.raises(ValueError, match=f"{said}.*give --kernel xla") as found:
        jax.eval_shape(collect, jax.random.key(0), config)
    assert "\n" not in str(found.value)


def test_keys_of_another_generator_are_refused():
    config = CARTPOLE.replace(kernel="pallas")
    with pytest.raises(ValueError, match=r"keys are of rbg, not threefry2x32.*--kernel xla"):
        jax.eval_shape(collect, jax.random.key(0, impl="rbg"), config)
    with jax.threefry_partitionable(False), pytest.raises(ValueError, match=r"is False.*--kernel"):
        jax.eval_shape(collect, jax.random.key(0), config)
