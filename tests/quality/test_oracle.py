"""The oracle against finite differences, hand-computed numbers and its own recurrences."""

import ast
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import oracle

SETTINGS = oracle.Settings(
    learning_rate=1e-2,
    critic_learning_rate=3e-2,
    adam_epsilon=1e-5,
    max_grad_norm=0.5,
    joint_clipping=False,
    discount=0.9,
    gae_lambda=0.8,
    clip_range=0.2,
    clip_value=True,
    value_coefficient=0.5,
    entropy_coefficient=0.05,
    normalize_advantage=False,
    recompute_advantage=False,
    activation="tanh",
    num_epochs=3,
    minibatch_size=20,
)

# Three outputs each.
ACTIONS = {
    "discrete": oracle.Actions(),
    "multidiscrete": oracle.Actions(nvec=(1, 2)),
    "gaussian": oracle.Actions("gaussian", low=np.full(3, -1.0), high=np.array([0.5, 1, 2])),
    "squashed": oracle.Actions("squashed", low=np.full(3, -1.0), high=np.array([0.5, 1, 2])),
}


def arrays_of(tree):
    return [array for layers in tree.values() for layer in layers for array in layer]


def largest_difference(tree, other):
    pairs = zip(arrays_of(tree), arrays_of(other), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


# Returns ------------------------------------------------------------------------------------------


def test_returns_on_numbers_by_hand():
    # 3 + ½ 8 = 7;  2 + 0 (a termination) = 2;  1 + ½ 2 = 2.
    returns = oracle.returns_by_definition([1, 2, 3], [0.5, 0, 0.5], 8)
    np.testing.assert_array_equal(returns, [2, 2, 7])
    returns = oracle.returns_by_definition([[1, 0], [1, 0]], [[1, 0.5], [1, 0.5]], [10, 4])
    np.testing.assert_array_equal(returns, [[12, 1], [11, 2]])


def test_gae_on_numbers_by_hand():
    # γ = ½, λ = ½. Step 1 is truncated, step 2 both, step 3 the rollout's end.
    advantages = oracle.gae_by_definition(
        rewards=[1, 1, 1, 1],
        values=[2, 4, 6, 8],
        next_values=[4, 20, 1000, 10],
        terminated=[False, False, True, False],
        done=[False, True, True, False],
        discount=0.5,
        gae_lambda=0.5,
    )
    # δ = 1 + 2 - 2, 1 + 10 - 4, 1 - 6, 1 + 5 - 8; only step 0 goes on: 1 + ¼ 7.
    np.testing.assert_array_equal(advantages, [2.75, 7, -5, -2])


@pytest.mark.parametrize("seed", range(3))
def test_gae_with_lambda_one_is_return_minus_value(seed):
    _, _, rollout, _ = oracle.random_problem(np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 100)
    terminated = rollout["terminated"]
    done = terminated | rollout["truncated"]
    values = rng.normal(size=done.shape)
    next_values = rng.normal(size=done.shape)
    # Within an episode a step leads to the next one's state.
    next_values[:-1] = np.where(done[:-1], next_values[:-1], values[1:])
    cut = done.copy()
    cut[-1] = True
    returns = oracle.returns_by_definition(
        rollout["reward"] + 0.9 * cut * ~terminated * next_values,
        0.9 * ~cut,
        np.full(done.shape[1], 1e300),  # No weight is left for a bootstrap.
    )
    advantages = oracle.gae_by_definition(
        rollout["reward"], values, next_values, terminated, done, 0.9, 1.0
    )
    np.testing.assert_allclose(advantages, returns - values, rtol=1e-12, atol=1e-12)


# Gradients ----------------------------------------------------------------------------------------


def random_minibatch(rng, params, rollout, activation):
    """A random problem's batch, with old values on both sides of both edges already."""
    batch = {name: array.reshape(-1, *array.shape[2:]) for name, array in rollout.items()}
    value = oracle.forward(params["critic"], batch["observation"], activation)[:, 0]
    return batch | {
        "value": value + rng.uniform(-0.5, 0.5, value.shape),
        "advantage": rng.normal(size=value.shape),
        "target": value + rng.normal(size=value.shape),
    }


def distances_from_kinks(settings, params, minibatch):
    """How far the pre-activations, the ratios and the values are from where a slope jumps."""
    observation, edge = minibatch["observation"], settings.clip_range
    value = oracle.forward(params["critic"], observation, settings.activation)[:, 0]
    log_prob = oracle.evaluate(settings, params, minibatch).log_prob
    ratio = np.exp(log_prob - minibatch["log_prob"])
    moved = value - minibatch["value"]
    clipped_value = minibatch["value"] + np.clip(moved, -edge, edge)
    error, clipped_error = value - minibatch["target"], clipped_value - minibatch["target"]
    outside = np.abs(moved) > edge
    distances = [np.abs(np.abs(ratio - 1) - edge), np.abs(np.abs(moved) - edge)]
    distances.append(np.abs(np.abs(error) - np.abs(clipped_error))[outside])
    for name in oracle.NETWORKS:
        for depth in range(1, len(params[name])):
            distances.append(np.abs(oracle.forward(params[name][:depth], observation, "relu")))
    branches = {
        "ratio below": (ratio < 1 - edge),
        "ratio between": (np.abs(ratio - 1) < edge),
        "ratio above": (ratio > 1 + edge),
    }
    branches = {
        f"{name}, advantage {sign}": where & (sign * minibatch["advantage"] > 0)
        for name, where in branches.items()
        for sign in (-1, 1)
    }
    branches |= {
        "value moved down, clipped square larger": (moved < -edge) & (error**2 < clipped_error**2),
        "value moved down, clipped square smaller": (moved < -edge) & (error**2 > clipped_error**2),
        "value between": ~outside,
        "value moved up, clipped square larger": (moved > edge) & (error**2 < clipped_error**2),
        "value moved up, clipped square smaller": (moved > edge) & (error**2 > clipped_error**2),
    }
    return min(d.min() for d in distances), branches


@pytest.mark.parametrize(
    ("actions", "activation", "clip_value", "normalize", "recompute"),
    [
        *itertools.product(["discrete"], ["tanh", "relu"], *[[False, True]] * 3),
        *itertools.product(list(ACTIONS)[1:], ["tanh", "relu"], [True], [False], [False]),
    ],
)
def test_gradients_are_finite_differences(actions, activation, clip_value, normalize, recompute):
    settings = replace(
        SETTINGS,
        activation=activation,
        clip_value=clip_value,
        normalize_advantage=normalize,
        recompute_advantage=recompute,
        actions=ACTIONS[actions],
    )
    rng = np.random.default_rng(1)
    params, _, rollout, _ = oracle.random_problem(
        rng, activation, hidden_sizes=(6, 5), actions=settings.actions
    )
    minibatch = random_minibatch(rng, params, rollout, activation)
    distance, branches = distances_from_kinks(settings, params, minibatch)
    step = 1e-6
    assert distance > 20 * step, "this seed stands on a kink: choose another"
    assert all(where.any() for where in branches.values()), "this seed leaves a branch untried"

    # The advantage is a number, whatever it was computed from: hold it, also when it is recomputed
    # (a difference of the critic's parameters would otherwise go through it).
    value = oracle.forward(params["critic"], minibatch["observation"], activation)[:, 0]
    held = minibatch["target"] - value if recompute else minibatch["advantage"]
    held_settings = replace(settings, recompute_advantage=False)
    held_minibatch = minibatch | {"advantage": held}

    def loss():
        scalars, _ = oracle.losses_and_gradients(held_settings, params, held_minibatch)
        bonus = settings.entropy_coefficient * scalars["entropy"]
        return scalars["policy_loss"] + scalars["value_loss"] - bonus

    scalars, gradients = oracle.losses_and_gradients(settings, params, minibatch)
    for array, gradient in zip(arrays_of(params), arrays_of(gradients), strict=True):
        difference = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = loss()
            array[index] = kept - step
            below = loss()
            array[index] = kept
            difference[index] = (above - below) / (2 * step)
        np.testing.assert_allclose(gradient, difference, rtol=1e-6, atol=1e-8)
        assert np.abs(gradient).max() > 1e-4, "nothing was compared"
    actor, critic = gradients["actor"] + gradients.get("log_std", []), gradients["critic"]
    for name, layers in (("actor", actor), ("critic", critic)):
        flat = np.concatenate([array.ravel() for layer in layers for array in layer])
        np.testing.assert_allclose(scalars[f"{name}_grad_norm"], np.linalg.norm(flat), rtol=1e-12)


def test_losses_on_numbers_by_hand():
    # Zero networks: both actions have probability ½, every value is 0.
    params = {
        "actor": [(np.zeros((1, 2)), np.zeros(2))],
        "critic": [(np.zeros((1, 1)), np.zeros(1))],
    }
    ratio = np.array([1.1, 1.5, 1.5, 0.5])
    minibatch = {
        "observation": np.ones((4, 1)),
        "action": np.array([0, 1, 0, 1]),
        "log_prob": np.log(0.5 / ratio),
        "value": np.array([0.1, 1.0, -1.0, 0.0]),
        "advantage": np.array([1.0, 2.0, -2.0, 4.0]),
        "target": np.array([2.0, 1.0, 0.5, -1.0]),
    }
    scalars, _ = oracle.losses_and_gradients(SETTINGS, params, minibatch)
    # min(1.1, 1.1), min(3, 2.4), min(-3, -2.4), min(2, 3.2).
    np.testing.assert_allclose(scalars["policy_loss"], -(1.1 + 2.4 - 3 + 2) / 4)
    # Moved by at most 0.2 the values are 0, 0.8, -0.8, 0; so the larger squares are these.
    np.testing.assert_allclose(scalars["value_loss"], 0.5 * 0.5 * (4 + 1 + 1.3**2 + 1) / 4)
    np.testing.assert_allclose(scalars["entropy"], np.log(2))
    np.testing.assert_allclose(scalars["approx_kl"], (0.6 - np.log(1.1 * 1.5 * 1.5 * 0.5)) / 4)
    np.testing.assert_allclose(scalars["clip_fraction"], 0.75)

    unclipped = replace(SETTINGS, clip_value=False, value_coefficient=2.0)
    scalars, _ = oracle.losses_and_gradients(unclipped, params, minibatch)
    np.testing.assert_allclose(scalars["value_loss"], (4 + 1 + 0.25 + 1) / 4)

    # Recomputed, the advantages are the targets here; normalized, (A - 1) / std = ±1.
    minibatch |= {"target": np.array([2.0, 0.0, 0.0, 2.0])}
    recomputed = replace(SETTINGS, recompute_advantage=True, normalize_advantage=True)
    scalars, _ = oracle.losses_and_gradients(recomputed, params, minibatch)
    # min(1.1, 1.1), min(-1.5, -1.2), min(-1.5, -1.2), min(0.5, 0.8).
    np.testing.assert_allclose(scalars["policy_loss"], -(1.1 - 1.5 - 1.5 + 0.5) / 4, rtol=1e-7)


# Actions and statistics ---------------------------------------------------------------------------


def test_log_probabilities_and_entropies_on_numbers_by_hand():
    # σ = 1 and 2; (a - μ) / σ = 0 and 1.
    output, log_std, action = np.array([0.0, 1.0]), np.log([1.0, 2.0]), np.array([0.0, 3.0])
    of_box = output, log_std, action
    gaussian = oracle.evaluate_actions(oracle.Actions("gaussian"), *of_box)
    np.testing.assert_allclose(gaussian.log_prob, -0.5 - np.log(2) - np.log(2 * np.pi))
    np.testing.assert_allclose(gaussian.entropy, 1 + np.log(2) + np.log(2 * np.pi))
    # a = 1 + tanh u and 2 tanh u have the slopes 1 and 2 at u = 0, and ¾ and 3/2 at tanh u = ½.
    box = oracle.Actions("squashed", low=np.array([0.0, -2.0]), high=np.array([2.0, 2.0]))
    half = np.arctanh(0.5)
    squashed = oracle.evaluate_actions(box, output, log_std, np.zeros(2), np.array([half, -0.5]))
    by_hand = -(0.25 / 2) - np.log(2) - np.log(2 * np.pi) - np.log(2)
    np.testing.assert_allclose(squashed.log_prob, by_hand)  # u = 0: (0 - 1) / 2 = -½
    np.testing.assert_allclose(squashed.entropy, gaussian.entropy + np.log(0.75) + np.log(2))
    np.testing.assert_allclose(oracle.env_action(box, np.array([half, -half])), [1.5, -1])
    clipping = replace(box, kind="gaussian")
    np.testing.assert_array_equal(oracle.env_action(clipping, np.array([-1, 1.5])), [0, 1.5])
    # Softmaxes (½, ½) and (¼, ¾).
    logits = np.log([1.0, 1.0, 1.0, 3.0])
    two = oracle.evaluate_actions(oracle.Actions(nvec=(2, 2)), logits, None, np.array([0, 1]))
    np.testing.assert_allclose(two.log_prob, np.log(0.5 * 0.75))
    np.testing.assert_allclose(two.entropy, np.log(2) + np.log(4) - 0.75 * np.log(3))


def test_statistics_on_numbers_by_hand():
    none = {"count": 0, "mean": np.zeros(2), "m2": np.zeros(2)}
    observation = np.array([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_array_equal(oracle.normalize(none, 50 * observation), 50 * observation)
    two = oracle.merge(none, observation)
    assert two["count"] == 2
    np.testing.assert_array_equal((two["mean"], two["m2"]), [(2, 5), (2, 0)])
    # 1, 3 and 8 have the mean 4, and lie 3, 1 and 4 from it.
    three = oracle.merge(two, np.array([[8.0, 5.0]]))
    np.testing.assert_allclose((three["mean"], three["m2"]), [(4, 5), (26, 0)])
    scaled = oracle.normalize(three, np.array([[7.0, 5.0 + 1e-4], [100.0, 4.0]]))
    np.testing.assert_allclose(scaled, [[3 / np.sqrt(26 / 3), 1], [10, -10]])


def test_scaled_rewards_on_numbers_by_hand():
    before = {"count": 1, "mean": 3.0, "m2": 0.0, "returns": np.array([2.0])}
    rewards, done = np.array([[1.0], [2.0], [40.0]]), np.array([[False], [True], [False]])
    # γ = ½: R = ½ 2 + 1 and ½ 2 + 2, which ends an episode, so that the next begins with its 40.
    after, scaled = oracle.scale_rewards(0.5, before, rewards, done)
    returns = np.array([3, 2, 3, 40])
    np.testing.assert_allclose((after["count"], after["mean"]), (4, returns.mean()))
    np.testing.assert_allclose(after["m2"] / 4, returns.var())
    np.testing.assert_array_equal(after["returns"], [40])
    np.testing.assert_allclose(scaled, rewards / returns.std())
    # Nothing but rewards of 0 has no deviation; the small one after it is cut.
    nothing = {"count": 0, "mean": 0.0, "m2": 0.0, "returns": np.zeros(1)}
    assert oracle.scale_rewards(0.5, nothing, np.array([[0.0]]), np.array([[True]]))[1] == 0
    rewards = np.array([[0.0]] * 999 + [[1.0]])
    assert oracle.scale_rewards(0.5, nothing, rewards, rewards > 2)[1].max() == 10


# Optimizer ----------------------------------------------------------------------------------------


def two_numbers(actor, critic):
    """A parameter-shaped tree that holds one number a network, and zeros."""
    return {
        "actor": [(np.array([[float(actor)]]), np.zeros(1))],
        "critic": [(np.array([[float(critic)]]), np.zeros(1))],
    }


def test_adam_on_numbers_by_hand():
    adam = {"count": 1, "mean": two_numbers(0.1, 0.1), "square": two_numbers(0.001, 0.001)}
    rates = {"actor": 0.5, "critic": 0.25}
    gradients = two_numbers(1, -2)
    params, new = oracle.adam_step(two_numbers(3, 3), gradients, adam, rates, epsilon=1.0)
    # The actor's two gradients were 1, so m̂ = v̂ = 1, and ε outside the root halves the step.
    np.testing.assert_allclose(params["actor"][0][0], 3 - 0.5 / 2)
    # The critic: m = 0.09 - 0.2, v = 0.000999 + 0.004.
    step = (-0.11 / 0.19) / (np.sqrt(0.004999 / 0.001999) + 1)
    np.testing.assert_allclose(params["critic"][0][0], 3 - 0.25 * step)
    np.testing.assert_allclose(new["mean"]["critic"][0][0], -0.11)
    np.testing.assert_allclose(new["square"]["critic"][0][0], 0.004999)
    assert new["count"] == 2
    assert params["actor"][0][1] == 0
    assert adam["count"] == 1


def test_clipping_takes_each_norm_or_both_together():
    def clipped(joint, actor, critic):
        settings = replace(SETTINGS, max_grad_norm=2.0, joint_clipping=joint)
        result = oracle.clip_gradients(settings, two_numbers(actor, critic))
        return result["actor"][0][0].item(), result["critic"][0][0].item()

    np.testing.assert_allclose(clipped(True, 3, 4), (1.2, 1.6))
    np.testing.assert_allclose(clipped(False, 3, 4), (2, 2))
    np.testing.assert_allclose(clipped(False, 1, 4), (1, 2))
    assert clipped(True, 1, 1) == (1, 1)
    # Neither alone passes the limit, both together do.
    np.testing.assert_allclose(clipped(True, 1.5, 2), (1.2, 1.6))
    assert clipped(False, 1.5, 1) == (1.5, 1)


# The update ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", ["discrete", "squashed"])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_update_is_its_parts_in_order(joint, actions, stop):
    settings = replace(SETTINGS, joint_clipping=joint, actions=ACTIONS[actions])
    params, adam, rollout, orders = oracle.random_problem(
        np.random.default_rng(0), actions=settings.actions
    )
    kept = oracle.map_arrays(np.copy, params)
    result = oracle.update(settings, params, adam, rollout, orders, update_fraction_done=0.25)
    assert largest_difference(params, kept) == 0, "the caller's parameters were written to"

    # 48 transitions are minibatches of 20, 20 and 8, in each of 3 epochs.
    assert len(result.gradients) == 9
    if stop:  # at the first divergence above all before it
        every = [scalars["approx_kl"] for scalars in result.scalars]
        steps = next(index for index in range(3, 9) if every[index] > max(every[:index]))
        settings = replace(settings, target_kl=0.999 * every[steps] / 1.5)
        assert any(later < every[steps] for later in every[steps:]), "nothing to leave out later"
        result = oracle.update(settings, params, adam, rollout, orders, update_fraction_done=0.25)
        assert len(result.gradients) == steps
    steps = len(result.gradients)
    assert result.adam["count"] == adam["count"] + steps
    np.testing.assert_array_equal(result.targets, result.advantages + result.values)
    expected, every_scalar = params, []
    sources = rollout | {
        "advantage": result.advantages,
        "target": result.targets,
        "value": result.values,
    }
    cuts = (slice(0, 20), slice(20, 40), slice(40, 48))
    for order, cut in list(itertools.product(orders, cuts))[:steps]:
        # Time-major: transition i of the batch is step i // N of environment i % N.
        pairs = [divmod(index, 3) for index in order[cut]]
        minibatch = {name: np.array([a[pair] for pair in pairs]) for name, a in sources.items()}
        scalars, gradients = oracle.losses_and_gradients(settings, expected, minibatch)
        assert largest_difference(gradients, result.gradients[len(every_scalar)]) < 1e-12
        every_scalar.append(scalars)
        gradients = oracle.clip_gradients(settings, gradients)
        rates = {"actor": 0.75e-2, "critic": 0.75 * 3e-2}
        expected, adam = oracle.adam_step(expected, gradients, adam, rates, 1e-5)
    assert largest_difference(result.params, expected) < 1e-12
    assert len(every_scalar) == steps
    for name, mean in result.metrics.items():
        np.testing.assert_allclose(mean, np.mean([s[name] for s in every_scalar]), rtol=1e-12)


def test_update_on_numbers_by_hand():
    # One terminated transition of zero networks: V = 0, A = G = 1, both probabilities ½.
    zeros = {
        "actor": [(np.zeros((1, 2)), np.zeros(2))],
        "critic": [(np.zeros((1, 1)), np.zeros(1))],
    }
    adam = {"count": 0, "mean": zeros, "square": zeros}
    rollout = {
        "observation": [[[2.0]]],
        "final_observation": [[[5.0]]],
        "action": [[1]],
        "log_prob": [[np.log(0.5)]],
        "reward": [[1.0]],
        "terminated": [[True]],
        "truncated": [[True]],
    }
    settings = replace(SETTINGS, max_grad_norm=np.inf, adam_epsilon=0.5, num_epochs=1)
    result = oracle.update(settings, zeros, adam, rollout, [[0]], update_fraction_done=0.5)
    assert result.targets.item() == result.advantages.item() == 1
    gradient = result.gradients[0]
    # -(onehot - p) by the observation, 2; and the critic's ½ (V - G).
    np.testing.assert_allclose(gradient["actor"][0][0], [[1, -1]])
    np.testing.assert_allclose(gradient["actor"][0][1], [0.5, -0.5])
    np.testing.assert_allclose(gradient["critic"][0][0], [[-1]])
    # A first step of Adam is rate g / (|g| + ε); the rates are halved.
    np.testing.assert_allclose(result.params["actor"][0][0], 0.5e-2 * np.array([[-1, 1]]) / 1.5)
    np.testing.assert_allclose(result.params["actor"][0][1], 0.5e-2 * np.array([-0.5, 0.5]))
    np.testing.assert_allclose(result.params["critic"][0][0], [[1.5e-2 / 1.5]])
    np.testing.assert_allclose(result.metrics["policy_loss"], -1)
    np.testing.assert_allclose(result.metrics["actor_grad_norm"], np.sqrt(2.5))


def test_update_normalizes_by_the_statistics_that_it_began_with():
    params, adam, rollout, orders = oracle.random_problem(np.random.default_rng(0))
    problem = params, adam, rollout, orders
    rng = np.random.default_rng(1)
    seen = {"count": 7, "mean": rng.normal(size=4), "m2": rng.uniform(1, 9, size=4)}
    earned = {"count": 3, "mean": 0.4, "m2": 2.0, "returns": rng.normal(size=3)}
    result = oracle.update(SETTINGS, *problem, statistics=seen, reward_statistics=earned)

    done = rollout["terminated"] | rollout["truncated"]
    after, scaled = oracle.scale_rewards(SETTINGS.discount, earned, rollout["reward"], done)
    by_hand = rollout | {"reward": scaled}
    for name in ("observation", "final_observation"):
        by_hand[name] = oracle.normalize(seen, rollout[name])
    plain = oracle.update(SETTINGS, params, adam, by_hand, orders)
    assert largest_difference(result.params, plain.params) == 0
    assert largest_difference(result.params, oracle.update(SETTINGS, *problem).params) > 1e-3
    assert plain.statistics is plain.reward_statistics is None
    for name, array in oracle.merge(seen, rollout["observation"].reshape(48, 4)).items():
        np.testing.assert_array_equal(result.statistics[name], array)
    for name, array in after.items():
        np.testing.assert_array_equal(result.reward_statistics[name], array)


def test_a_terminated_time_limit_has_no_value_after_it():
    params, adam, rollout, orders = oracle.random_problem(np.random.default_rng(0))
    settings = replace(SETTINGS, time_limit="terminate")
    result = oracle.update(settings, params, adam, rollout, orders)
    truncated = rollout["truncated"]
    np.testing.assert_allclose(result.targets[truncated], rollout["reward"][truncated])
    as_ever = oracle.update(SETTINGS, params, adam, rollout, orders)
    assert np.abs(result.targets - as_ever.targets)[truncated].max() > 0.1


def test_an_update_whose_first_minibatch_is_too_far_changes_nothing():
    params, adam, rollout, orders = oracle.random_problem(np.random.default_rng(0))
    settings = replace(SETTINGS, target_kl=1e-9)
    result = oracle.update(settings, params, adam, rollout, orders)
    assert largest_difference(result.params, params) == 0
    assert result.adam["count"] == adam["count"]
    assert result.gradients == []
    assert np.isnan(list(result.metrics.values())).all()


@pytest.mark.parametrize(("activation", "num_envs"), [("tanh", 3), ("relu", 1)])
def test_random_problem_reaches_every_branch(activation, num_envs):
    params, adam, rollout, orders = oracle.random_problem(
        np.random.default_rng(0), activation, num_envs=num_envs
    )
    kinds = set(zip(rollout["terminated"].ravel(), rollout["truncated"].ravel(), strict=True))
    assert len(kinds) == 4
    log_probs = oracle.log_softmax(
        oracle.forward(params["actor"], rollout["observation"], activation)
    )
    chosen = (np.eye(3)[rollout["action"]] * log_probs).sum(axis=-1)
    ratio = np.exp(chosen - rollout["log_prob"])
    assert (ratio < 0.8).any()
    assert (ratio > 1.2).any()
    assert (np.abs(ratio - 1) < 0.2).any()
    assert adam["count"] > 0
    assert all(
        (moment != 0).all() for moment in arrays_of(adam["mean"]) + arrays_of(adam["square"])
    )

    # With old values clipped an update ends elsewhere: some values moved past an edge.
    settings = replace(SETTINGS, activation=activation)
    clipped = oracle.update(settings, params, adam, rollout, orders)
    settings = replace(settings, clip_value=False)
    unclipped = oracle.update(settings, params, adam, rollout, orders)
    assert largest_difference(clipped.params, unclipped.params) > 1e-3


def test_oracle_uses_numpy_alone():
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"dataclasses", "itertools", "numpy"}
