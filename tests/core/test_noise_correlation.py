"""Noise of continuous actions that is correlated in time: within an episode, as likely as before,
and no further."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppo_jax import env, ppo, recipe, rollout, spaces
from tests.helpers.problems import BOX, CHOICES
from tests.helpers.quick import quick_jit
from tests.helpers.recurrent import drift, random_params, some_state
from tests.helpers.trees import same_bits

ENVS, STEPS, PLAUSIBLE = 512, 12, 1e-4
WORLD = drift(BOX, limit=40, ends=0.1)
CONFIG = recipe(
    "fast",
    env=WORLD,
    num_envs=ENVS,
    num_steps=STEPS,
    num_minibatches=1,
    hidden_sizes=(4,),
    squash_action=True,
    noise_correlation=0.7,
)
KEYS = jax.random.key(3), jax.random.key(4)  # of two rollouts, one after the other


@quick_jit
def two_rollouts(config):
    """Two rollouts of an agent, one after the other: their transitions [2, ...], the noise drawn
    afresh, and the batches that are learned from."""
    environment, policy = env.make(config), ppo.policy(config)
    state = some_state(KEYS[0], config)

    def collect(before, key):
        after, transitions = rollout.collect(key, state.params, before, environment, policy, config)
        batch = ppo.compute_advantages(state.params, transitions, after, policy, config)
        distribution = policy.apply(state.params, transitions.observation)[0]
        drawn = distribution.sample(transitions.noise)
        entropy = distribution.entropy(transitions.noise)
        fresh = policy.noise(jax.random.split(key, 3)[0], (STEPS, config.num_envs))
        return after, (before, transitions, fresh, batch, drawn, entropy)

    return jax.lax.scan(collect, state.rollout, jnp.stack(KEYS))


@functools.cache
def found(correlation):
    after, parts = two_rollouts(CONFIG.replace(noise_correlation=correlation))
    before, *others = parts
    return jax.tree.map(np.asarray, (after, before, *others))


def starts_of(before, transitions):
    done = transitions.terminated | transitions.truncated
    return np.concatenate([before.start[:, None], done[:, :-1]], axis=1)


def test_without_correlation_every_bit_is_as_it_was_drawn():
    _, _, transitions, fresh, *_ = found(0.0)
    assert same_bits(transitions.noise, fresh)
    assert CONFIG.replace(noise_correlation=0.0).noise_correlation == recipe().noise_correlation


def test_noise_goes_on_within_an_episode_and_from_one_rollout_to_the_next():
    """ε_t = ρ ε_{t-1} + √(1 - ρ²) ξ_t, and ξ_t where an episode begins."""
    after, before, transitions, fresh, *_ = found(0.7)
    start, noise = starts_of(before, transitions), transitions.noise
    previous = np.concatenate([before.noise[:, None], noise[:, :-1]], axis=1)
    wanted = np.where(start[..., None], fresh, 0.7 * previous + np.sqrt(1 - 0.7**2) * fresh)
    np.testing.assert_allclose(noise, wanted, rtol=1e-5, atol=1e-6)
    assert start[0, 0].all()
    assert 0.02 < start[1, 0].mean() < 0.5  # most episodes go on in the second rollout
    np.testing.assert_array_equal(before.noise[1], noise[0, -1])
    np.testing.assert_array_equal(after.noise, noise[1, -1])


def plausible_mean(samples, mean):
    return stats.ttest_1samp(samples, mean).pvalue > PLAUSIBLE


def test_every_noise_is_a_standard_normal_one_however_old_the_episode_is():
    """Of the second rollout's last step: every environment has its own."""
    for correlation in (0.0, 0.7, 0.95):
        noise = found(correlation)[2].noise[1, -1].ravel()
        assert stats.kstest(noise, "norm").pvalue > PLAUSIBLE
        assert plausible_mean(noise, 0)
        assert plausible_mean(noise**2, 1)


@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.95])
def test_the_correlation_is_the_one_asked_for_within_an_episode_and_none_across(correlation):
    _, before, transitions, *_ = found(correlation)
    noise, start = transitions.noise, starts_of(before, transitions)
    products = noise[:, 1:] * noise[:, :-1]
    # One step of each environment: those of one episode depend on one another.
    last = products[1, -1][~start[1, -1]]
    assert plausible_mean(last.ravel(), correlation)
    further = (noise[1, -1] * noise[1, -3])[~start[1, -1] & ~start[1, -2]]
    assert plausible_mean(further.ravel(), correlation**2)
    across = products[start[:, 1:]]
    assert len(across) > 500
    assert plausible_mean(across.ravel(), 0)
    of_other_entries = noise[1, -1, :, 0] * noise[1, -1, :, 1]
    assert plausible_mean(of_other_entries, 0)


def test_log_probabilities_are_those_of_the_action_and_entropies_of_its_noise():
    _, _, transitions, _, batch, drawn, entropy = found(0.7)
    np.testing.assert_allclose(transitions.action, drawn, rtol=1e-5, atol=1e-5)
    params = random_params(CONFIG)

    @quick_jit
    def said(observation, action):
        distribution = ppo.policy(CONFIG).apply(params, observation)[0]
        return distribution.mean, distribution.log_std, distribution.log_prob(action)

    found_here = said(transitions.observation, transitions.action)
    mean, log_std, log_prob = jax.tree.map(np.asarray, found_here)
    distance = (transitions.action - mean) / np.exp(log_std)
    u = transitions.action.astype(np.float64)
    slope = np.log(1 - np.tanh(u) ** 2 + 1e-300) + np.log((BOX.high - BOX.low) / 2)
    wanted = (-(distance**2) / 2 - log_std - np.log(2 * np.pi) / 2 - slope).sum(axis=-1)
    inside = (np.abs(u) < 4).all(axis=-1)
    np.testing.assert_allclose(log_prob[inside], wanted[inside], rtol=1e-3, atol=1e-3)
    flat = batch.log_prob.reshape(log_prob.shape)
    np.testing.assert_allclose(flat, log_prob, rtol=1e-5, atol=1e-5)
    # ½ log 2πe σ² and the slope at μ + σ ε, where the action itself was drawn.
    gaussian = (np.log(2 * np.pi * np.e) / 2 + log_std).sum()
    wanted = gaussian + slope.sum(axis=-1)
    np.testing.assert_allclose(entropy[inside], wanted[inside], rtol=1e-3, atol=1e-3)
    assert same_bits(batch.noise.reshape(transitions.noise.shape), transitions.noise)


@pytest.mark.parametrize("actions", [spaces.Discrete(3), CHOICES])
def test_discrete_actions_have_no_noise_to_correlate(actions):
    config = recipe("fast", env=drift(actions), noise_correlation=0.5)
    said = rf"^noise_correlation is 0.5, and [^\n]*{re.escape(spaces.describe(actions))}[^\n]* out$"
    with pytest.raises(ValueError, match=said):
        ppo.policy(config)


def test_a_correlation_beyond_its_range_is_refused():
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=rf"^noise_correlation is {wrong}; [^\n]*0 and 1$"):
            recipe("fast", env=WORLD, noise_correlation=wrong)
