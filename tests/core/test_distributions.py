"""The policy's distributions: numbers by hand, the float64 oracle, SciPy, and what they sample."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from ppo_jax.distributions import Categorical, MultiCategorical, Normal, TanhNormal
from tests.helpers import oracle
from tests.helpers.distribution_problems import KINDS, evaluated, problem_of

PLAUSIBLE = 1e-4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_entropies_and_gradients_are_the_oracles(kind):
    (make, actions), leading = KINDS[kind], (2, 4)
    for scale in (1.0, 20.0):
        problem = problem_of(kind, leading, scale)
        of_log_prob, of_entropy = evaluated(make, *map(jnp.asarray, problem))
        expected = oracle.evaluate_actions(actions, *problem)
        axes = tuple(range(len(leading)))
        for (gradients, found), wanted, wanted_gradients in (
            (of_log_prob, expected.log_prob, expected.log_prob_gradients),
            (of_entropy, expected.entropy, expected.entropy_gradients),
        ):
            assert found.shape == leading
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
            to_output, to_log_std = wanted_gradients
            np.testing.assert_allclose(gradients[0], to_output, rtol=1e-10, atol=1e-12)
            summed = to_log_std.sum(axis=axes) if to_log_std.size else np.zeros(3)
            np.testing.assert_allclose(gradients[1], summed, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_describes_itself_by_numbers_of_its_shape(kind):
    output, log_std, _, noise = problem_of(kind, (5,))
    one = KINDS[kind][0](jnp.asarray(output), jnp.asarray(log_std))
    described = one.describe()
    entries = {"Categorical": (), "MultiCategorical": (2,)}.get(kind, (3,))
    assert one.mode().shape == one.sample(jnp.asarray(noise)).shape == (5, *entries)
    assert one.mode().dtype == (jnp.float32 if entries == (3,) else jnp.int32)
    if "probability" in described:
        total = 1 if kind == "Categorical" else 2
        np.testing.assert_allclose(described["probability"].sum(axis=-1), total, rtol=1e-6)
    else:
        np.testing.assert_allclose(described["mean"], output, rtol=1e-6)
        expected = np.broadcast_to(np.exp(log_std), (5, 3))
        np.testing.assert_allclose(described["deviation"], expected, rtol=1e-6)


# Discrete actions ---------------------------------------------------------------------------------


def test_log_probabilities_and_entropy_are_scipys():
    rng, shape = np.random.default_rng(0), (2, 4, 7)
    logits = (30 * rng.normal(size=shape)).astype(np.float32)
    action = rng.integers(shape[-1], size=shape[:-1])
    policy = Categorical(jnp.asarray(logits))
    log_probs = special.log_softmax(logits.astype(np.float64), axis=-1)
    expected = np.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]
    found = policy.log_prob(jnp.asarray(action))
    assert found.shape == shape[:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    entropy = stats.entropy(np.exp(log_probs), axis=-1)
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(policy.mode(), logits.argmax(axis=-1))


def test_huge_logits_give_finite_numbers_and_gradients():
    def score(logits):
        policy = Categorical(logits)
        return policy.log_prob(jnp.array(1)) + policy.entropy()

    number, gradient = jax.value_and_grad(score)(jnp.array([1e4, -1e4, 0.0]))
    np.testing.assert_allclose(number, -2e4)
    np.testing.assert_allclose(gradient, [-1, 1, 0])


def test_samples_have_the_softmaxs_frequencies():
    logits = jnp.array([0.0, 1.5, -2.0, 0.7])
    noise = jax.random.gumbel(jax.random.key(0), (50_000, 4))
    samples = Categorical(jnp.broadcast_to(logits, noise.shape)).sample(noise)
    assert samples.shape == (50_000,)
    expected = special.softmax(np.asarray(logits, np.float64)) * 50_000
    assert stats.chisquare(np.bincount(samples, minlength=4), expected).pvalue > PLAUSIBLE


def test_entries_are_sampled_independently_each_by_its_softmax():
    each = [np.log([0.3, 0.7]), np.log([0.2, 0.5, 0.3])]
    noise = jax.random.gumbel(jax.random.key(0), (50_000, 5))
    logits = tuple(jnp.broadcast_to(jnp.asarray(one), (50_000, len(one))) for one in each)
    samples = np.asarray(MultiCategorical(logits).sample(noise))
    assert samples.shape == (50_000, 2)
    counts = np.bincount(samples[:, 0] * 3 + samples[:, 1], minlength=6)
    expected = np.outer(*map(np.exp, each)).ravel() * 50_000
    assert stats.chisquare(counts, expected).pvalue > PLAUSIBLE


def test_entries_on_numbers_by_hand():
    policy = MultiCategorical((jnp.log(jnp.array([1.0, 1.0])), jnp.log(jnp.array([1.0, 3.0, 4.0]))))
    np.testing.assert_allclose(policy.log_prob(jnp.array([0, 1])), math.log(1 / 2 * 3 / 8))
    entropy = math.log(2) + math.log(8) - (3 * math.log(3) + 4 * math.log(4)) / 8
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-6)
    np.testing.assert_array_equal(policy.mode(), [0, 2])


# Continuous actions -------------------------------------------------------------------------------


def test_a_gaussian_on_numbers_by_hand():
    # σ = 1 and 2, and the actions lie 0 and -1 of them from the mean.
    policy = Normal(jnp.array([0.0, 1.0]), jnp.log(jnp.array([1.0, 2.0])))
    log_prob = -1 / 2 - math.log(2) - math.log(2 * math.pi)
    np.testing.assert_allclose(policy.log_prob(jnp.array([0.0, -1.0])), log_prob, rtol=1e-6)
    entropy = 1 + math.log(2 * math.pi) + math.log(2)
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-6)
    np.testing.assert_allclose(policy.sample(jnp.array([3.0, -1.0])), [3, -1])
    np.testing.assert_array_equal(policy.mode(), [0, 1])


def test_a_squashed_gaussian_on_numbers_by_hand():
    # a = 2 tanh u and (tanh u + 1) / 2 have the slopes 2 (1 - ¼) and ½ where tanh u is ½ and 0.
    policy = TanhNormal(jnp.zeros(2), jnp.zeros(2), jnp.array([-2.0, 0.0]), jnp.array([2.0, 1.0]))
    u = jnp.array([math.atanh(0.5), 0.0])
    slope = math.log(2 * 3 / 4) + math.log(1 / 2)
    log_prob = -(math.atanh(0.5) ** 2) / 2 - math.log(2 * math.pi) - slope
    np.testing.assert_allclose(policy.log_prob(u), log_prob, rtol=1e-6)
    entropy = 1 + math.log(2 * math.pi) + slope
    np.testing.assert_allclose(policy.entropy(u), entropy, rtol=1e-6)  # the noise is u here
    np.testing.assert_array_equal(policy.sample(u), u)
    np.testing.assert_array_equal(policy.mode(), [0, 0])


@pytest.mark.usefixtures("x64")
def test_a_squashed_density_integrates_to_one_and_its_entropy_estimate_is_unbiased():
    low, high = jnp.array([-2.0]), jnp.array([1.0])
    # Cells of the action's interval, and their middles as u = artanh of where they lie in it.
    cells = 200_000
    middles = np.tanh(np.linspace(-9, 9, cells + 1))
    widths, middles = 1.5 * np.diff(middles), np.arctanh((middles[1:] + middles[:-1]) / 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    for mean, log_std in ((0.0, 0.0), (0.7, -0.5)):
        policy = TanhNormal(jnp.array([mean]), jnp.array([log_std]), low, high)
        wide = policy._replace(mean=jnp.full((cells, 1), mean))
        log_density = np.asarray(wide.log_prob(jnp.asarray(middles[:, None])))
        mass = widths * np.exp(log_density)
        np.testing.assert_allclose(mass.sum(), 1, rtol=1e-6)
        wide = policy._replace(mean=jnp.full((200, 1), mean))
        estimates = np.asarray(wide.entropy(jnp.asarray(nodes[:, None])))
        average = (weights * estimates).sum() / weights.sum()
        np.testing.assert_allclose(average, -(mass * log_density).sum(), rtol=1e-5)


def test_squashed_actions_far_out_have_finite_densities_and_gradients():
    """Where tanh is 1 to rounding, log(1 - tanh² u) still is 2 log 2 - 2 |u|."""
    u = jnp.array([[-60.0, 60.0]])
    bounds = jnp.array([-1.0, -1.0]), jnp.array([1.0, 1.0])

    def score(mean, log_std):
        policy = TanhNormal(mean, log_std, *bounds)
        return policy.log_prob(u).sum() + policy.entropy(u).sum()

    gradients = jax.grad(score, argnums=(0, 1))(jnp.zeros((1, 2)), jnp.zeros(2))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    found = TanhNormal(jnp.zeros((1, 2)), jnp.zeros(2), *bounds).log_prob(u)
    expected = stats.norm.logpdf(60) * 2 - 2 * (2 * math.log(2) - 2 * 60)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gaussian_samples_have_the_mean_and_deviation():
    mean, log_std = jnp.array([1.0, -3.0]), jnp.log(jnp.array([0.5, 2.0]))
    noise = jax.random.normal(jax.random.key(0), (20_000, 2))
    policy = Normal(jnp.broadcast_to(mean, noise.shape), log_std)
    for column, center, deviation in zip(
        np.asarray(policy.sample(noise)).T, (1, -3), (0.5, 2), strict=True
    ):
        assert stats.kstest(column, stats.norm(center, deviation).cdf).pvalue > PLAUSIBLE
