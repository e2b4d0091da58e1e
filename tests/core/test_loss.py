"""The loss of one minibatch and its gradients, against the float64 oracle and numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import loss, policy, ppo, recipe
from tests.helpers import oracle
from tests.helpers.problems import (
    CASES,
    FLOAT32_CASES,
    FLOAT64,
    assert_metrics,
    assert_parameters,
    make_problem,
    trainable,
    world,
)
from tests.helpers.quick import quick_jit


def loss_of(trainable, batch, config):
    return loss.loss(policy.Params(trainable, ()), batch, ppo.policy(config), config)


@quick_jit
def gradient(trainable, batch, config):
    return jax.grad(loss_of, has_aux=True)(trainable, batch, config)


@quick_jit
def gradients_one_by_one(trainable, batch, config):
    """The gradient of each transition's own loss with respect to the networks' last biases."""

    def of_one(one):
        alone = jax.tree.map(lambda leaf: leaf[None], one)
        return jax.grad(loss_of, has_aux=True)(trainable, alone, config)[0]

    gradients = jax.vmap(of_one)(batch)["network"]
    return policy.Halves(*(gradients[name]["output"]["bias"] for name in oracle.NETWORKS))


def random_minibatch(rng, problem, size):
    """Some of a problem's transitions, whose ratios and values have moved past both edges of a
    range of 0.2."""
    params, _, held = problem.judged
    chosen = rng.integers(held["reward"].size, size=size)
    fields = ("observation", "action", "noise", "log_prob")
    minibatch = {
        name: held[name].reshape(-1, *held[name].shape[2:])[chosen]
        for name in fields
        if name in held
    }
    activation = problem.settings.activation
    value = oracle.forward(params["critic"], minibatch["observation"], activation)[:, 0]
    return minibatch | {
        "value": value + rng.uniform(-0.5, 0.5, size),
        "advantage": rng.normal(size=size),
        "target": value + rng.normal(size=size),
    }


# What is particular to these is not in the loss, or is in the others as well.
SLOW = {
    *("notebook, turned", "notebook, one minibatch holds all", "standard, turned"),
    *("fast", "squashed, whole episodes"),
}


def gradient_both_ways(case, seed):
    problem = make_problem(case, seed)
    minibatch = random_minibatch(np.random.default_rng(seed), problem, size=24)
    arrays = {name: jnp.asarray(array) for name, array in minibatch.items()}
    batch = loss.Minibatch(**{"noise": (), **arrays})
    gradients, diagnostics = gradient(problem.params.trainable, batch, problem.config)
    scalars, expected = oracle.losses_and_gradients(problem.settings, problem.judged[0], minibatch)
    scalars = {name: scalars[name] for name in diagnostics._asdict()}
    return gradients, diagnostics, expected, scalars


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES],
)
def test_losses_and_gradients_are_the_oracles_in_float64(case):
    for seed in range(4):
        gradients, diagnostics, expected, scalars = gradient_both_ways(case, seed)
        assert_parameters(gradients, expected, **FLOAT64)
        assert_metrics(diagnostics._asdict(), scalars, **FLOAT64)


@pytest.mark.parametrize("case", FLOAT32_CASES)
def test_losses_and_gradients_are_the_oracles_in_float32(case):
    for seed in range(3):
        gradients, diagnostics, expected, scalars = gradient_both_ways(case, seed)
        # Entries that cancel to nearly nothing keep the rounding of what they cancelled.
        assert_parameters(gradients, expected, rtol=1e-4, atol=1e-6)
        assert_metrics(diagnostics._asdict(), scalars, rtol=1e-4, atol=1e-6)


def zero_networks():
    """Both actions have probability ½ and every value is 0, wherever."""
    return {
        "actor": [(np.zeros((1, 2)), np.zeros(2))],
        "critic": [(np.zeros((1, 1)), np.zeros(1))],
    }


def plain(**hyperparameters):
    """Only the losses as they are: nothing normalized, no entropy bonus, no hidden layer."""
    return recipe(
        "standard",
        env=world(2, observation_size=1),
        hidden_sizes=(),
        normalize_advantage=False,
        entropy_coefficient=0.0,
        num_updates=4,
        value_coefficient=1.0,
        **{"clip_value": False, **hyperparameters},
    )


@pytest.mark.usefixtures("x64")
def test_policy_gradient_stops_only_past_the_edge_that_the_advantage_pushes_to():
    edges = np.array([0.8 - 1e-6, 0.8 + 1e-6, 1.2 - 1e-6, 1.2 + 1e-6])
    ratio = np.tile(edges, 2)
    advantage = np.repeat([3.0, -3.0], 4)
    batch = loss.Minibatch(
        observation=jnp.ones((8, 1)),
        action=jnp.ones(8, jnp.int32),
        noise=(),
        log_prob=jnp.log(0.5 / ratio),
        value=jnp.zeros(8),
        advantage=jnp.asarray(advantage),
        target=jnp.zeros(8),
    )
    slopes = gradients_one_by_one(trainable(zero_networks()), batch, plain()).actor
    # -∂(ρ A)/∂logit of the action taken is -ρ A (1 - ½).
    moves = np.array([True, True, True, False, False, True, True, True])
    expected = np.where(moves, -ratio * advantage / 2, 0)
    np.testing.assert_allclose(slopes, np.stack([-expected, expected], axis=1), **FLOAT64)


@pytest.mark.usefixtures("x64")
def test_a_ratio_at_the_edge_is_not_clipped():
    """The policy that acted has ratios of 1, the edge of a range of 0."""
    params = trainable(zero_networks())
    zeros, action = jnp.zeros(8), jnp.zeros(8, jnp.int32)
    batch = loss.Minibatch(jnp.ones((8, 1)), action, (), zeros - np.log(2), zeros, zeros, zeros)
    diagnostics = gradient(params, batch, plain().replace(clip_range=0.0))[1]
    assert diagnostics.approx_kl == 0
    assert diagnostics.clip_fraction == 0


@pytest.mark.usefixtures("x64")
def test_value_gradient_stops_only_where_the_clipped_square_is_larger():
    moved = np.tile([-0.2 - 1e-6, -0.2 + 1e-6, 0.2 - 1e-6, 0.2 + 1e-6], 2)
    target = np.repeat([3.0, -3.0], 4)
    batch = loss.Minibatch(
        observation=jnp.ones((8, 1)),
        action=jnp.ones(8, jnp.int32),
        noise=(),
        log_prob=jnp.full(8, np.log(0.5)),
        value=jnp.asarray(-moved),  # V is 0
        advantage=jnp.zeros(8),
        target=jnp.asarray(target),
    )
    params = trainable(zero_networks())
    slopes = gradients_one_by_one(params, batch, plain(clip_value=True)).critic[:, 0]
    # Past an edge the square of the clipped value counts where V moved towards the target.
    moves = np.array([True, True, True, False, False, True, True, True])
    np.testing.assert_allclose(slopes, np.where(moves, -target, 0), **FLOAT64)
    slopes = gradients_one_by_one(params, batch, plain(clip_value=False)).critic[:, 0]
    np.testing.assert_allclose(slopes, -target, **FLOAT64)
