"""Initial parameters, the networks' outputs, and the actions drawn from them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from ppo_jax import policy, ppo, recipe
from tests.helpers import oracle
from tests.helpers.problems import oracle_tree, trainable, world
from tests.helpers.quick import quick_jit

PLAUSIBLE = 1e-4
NUM_KEYS = 4096

init = quick_jit(lambda key, config: ppo.policy(config).init(key))


def orthogonal(*hidden_sizes, observation_size=4, num_actions=2):
    env = world(num_actions, observation_size)
    return recipe("standard", env=env, hidden_sizes=hidden_sizes)


def uniform(*hidden_sizes, observation_size=4, num_actions=2):
    env = world(num_actions, observation_size)
    return recipe("notebook", env=env, hidden_sizes=hidden_sizes)


def layers_of(params, name):
    """A network's layers, first to last."""
    return list(params.trainable["network"][name].values())


def library(params):
    """The oracle's parameters as the library's."""
    return policy.Params(trainable(params), ())


@functools.cache
def many(config_of, *sizes, **of_world):
    """The initial parameters of many keys, [K, ...]."""
    config = config_of(*sizes, **of_world)

    def init(key):
        return ppo.policy(config).init(key)

    keys = jax.random.split(jax.random.key(0), NUM_KEYS)
    return jax.tree.map(np.asarray, quick_jit(jax.vmap(init))(keys))


# Initial parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(64, 64), (3, 9, 5)])
def test_orthogonal_kernels_are_orthonormal_times_their_gain(sizes):
    params = init(jax.random.key(0), orthogonal(*sizes, num_actions=6))
    shapes = list(zip((4, *sizes), (*sizes, 6), strict=True))
    for name, head in (("actor", 0.01), ("critic", 1.0)):
        layers = layers_of(params, name)
        assert len(layers) == len(shapes)
        gains = [np.sqrt(2)] * len(sizes) + [head]
        for layer, gain, (inputs, outputs) in zip(layers, gains, shapes, strict=True):
            outputs = 1 if (layer is layers[-1] and name == "critic") else outputs
            assert layer["kernel"].shape == (inputs, outputs)
            assert not layer["bias"].any()
            assert layer["bias"].shape == (outputs,)
            short = np.asarray(layer["kernel"], np.float64) / gain
            short = short if inputs <= outputs else short.T
            np.testing.assert_allclose(short @ short.T, np.eye(len(short)), atol=2e-6)


def test_orthogonal_matrices_are_uniformly_distributed():
    kernels = layers_of(many(orthogonal, 4, 3), "actor")[0]["kernel"] / np.sqrt(2)
    judges = np.linalg.qr(np.random.default_rng(0).normal(size=(NUM_KEYS, 4, 4)))
    signs = np.sign(np.diagonal(judges.R, axis1=1, axis2=2))
    judges = judges.Q * signs[:, None, :]
    # A square of an entry of a uniformly random unit vector in 4 dimensions is Beta(½, 3/2).
    for row, column in np.ndindex(4, 4):
        squares = kernels[:, row, column] ** 2
        assert stats.kstest(squares, stats.beta(0.5, 1.5).cdf).pvalue > PLAUSIBLE
    for statistic in (np.linalg.det, lambda q: np.trace(q, axis1=1, axis2=2), lambda q: q[:, 0, 3]):
        found, wanted = statistic(kernels), statistic(judges)
        if statistic is np.linalg.det:
            found, wanted = np.sign(found), np.sign(wanted)
        assert stats.ks_2samp(found, wanted).pvalue > PLAUSIBLE
    np.testing.assert_allclose((kernels**4).mean(axis=0), 3 / (4 * 6), rtol=0.1)
    assert stats.binomtest(int((np.linalg.det(kernels) > 0).sum()), NUM_KEYS).pvalue > PLAUSIBLE


def test_uniform_kernels_and_biases_fill_their_bounds_uniformly():
    params = many(uniform, 5, 3, observation_size=7, num_actions=2)
    for name in oracle.NETWORKS:
        for layer in layers_of(params, name):
            bound = layer["kernel"].shape[1] ** -0.5
            for array in layer.values():
                assert np.abs(array).max() <= bound
                assert np.abs(array).max() > 0.999 * bound
                flat = array.reshape(NUM_KEYS, -1)
                distribution = stats.uniform(-bound, 2 * bound)
                for entry in (flat[:, 0], flat[:, -1], flat.ravel()):
                    assert stats.kstest(entry, distribution.cdf).pvalue > PLAUSIBLE


@pytest.mark.parametrize("config_of", [orthogonal, uniform])
def test_no_two_initial_numbers_are_correlated(config_of):
    params = many(config_of, 4, 3)
    leaves = [leaf.reshape(NUM_KEYS, -1) for leaf in jax.tree.leaves(params) if leaf.any()]
    # One entry may be the other's mirror image only in a repeated draw: of one key, one size.
    correlations = np.corrcoef(np.concatenate(leaves, axis=1).T)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5.5 / np.sqrt(NUM_KEYS)


@pytest.mark.parametrize("config_of", [orthogonal, uniform])
def test_an_agent_among_many_starts_as_it_would_alone(config_of):
    together = many(config_of, 4, 3)
    for index in (0, 77):
        key = jax.random.split(jax.random.key(0), NUM_KEYS)[index]
        alone = init(key, config_of(4, 3))
        jax.tree.map(
            lambda many, one, index=index: np.testing.assert_allclose(many[index], one, atol=1e-5),
            together,
            alone,
        )


# Outputs ------------------------------------------------------------------------------------------

ACT = quick_jit(ppo.act)
VALUE = quick_jit(ppo.value)


def agent(activation="tanh"):
    """A random policy that is far from uniform, on CartPole."""
    params = oracle.random_problem(np.random.default_rng(0), num_actions=2)[0]
    return params, recipe("fast", hidden_sizes=(8, 7), activation=activation)


@pytest.mark.parametrize(
    ("leading", "activation"),
    [*((leading, "tanh") for leading in ((), (5,), (2, 3), (0,))), ((2, 3), "relu")],
)
def test_greedy_actions_and_values_of_any_leading_shape(leading, activation):
    params, config = agent(activation)
    observation = np.random.default_rng(1).normal(size=(*leading, 4))
    logits = oracle.forward(params["actor"], observation, activation)
    values = oracle.forward(params["critic"], observation, activation)[..., 0]
    actions = ACT(library(params), observation, config)
    assert actions.shape == leading
    assert jnp.issubdtype(actions.dtype, jnp.integer)
    np.testing.assert_array_equal(actions, logits.argmax(axis=-1))
    found = VALUE(library(params), observation, config)
    assert found.shape == leading
    np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5)
    sampled = ACT(library(params), observation, config, jax.random.key(0))
    assert sampled.shape == leading


def test_observations_that_are_grids_are_flattened():
    config = recipe("standard", env="Catch-bsuite", hidden_sizes=(3,))
    params = init(jax.random.key(0), config)
    grids = np.random.default_rng(0).random((2, 3, 10, 5))
    found = VALUE(params, grids, config)
    expected = oracle.forward(
        oracle_tree(params.trainable)["critic"], grids.reshape(2, 3, 50), "tanh"
    )
    np.testing.assert_allclose(found, expected[..., 0], rtol=1e-4, atol=1e-5)
    assert ACT(params, grids[0, 0], config).shape == ()


def test_sampled_actions_have_the_softmaxs_frequencies():
    params, config = agent()
    observations = np.random.default_rng(2).normal(size=(3, 4))
    probabilities = special.softmax(oracle.forward(params["actor"], observations, "tanh"), axis=-1)
    assert np.ptp(probabilities) > 0.5
    tiled = np.broadcast_to(observations, (20_000, 3, 4))
    actions = np.asarray(ACT(library(params), tiled, config, jax.random.key(5)))
    for column, probability in zip(actions.T, probabilities, strict=True):
        counts = np.bincount(column, minlength=2)
        assert stats.chisquare(counts, probability * 20_000).pvalue > PLAUSIBLE
    other = ACT(library(params), tiled, config, jax.random.key(6))
    assert (actions != other).any()
