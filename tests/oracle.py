"""One whole PPO update in NumPy float64, its gradients derived by hand.

The independent judge of the library: written from the algorithm's description alone, it shares no
code with it and uses no automatic differentiation. Clarity comes before speed everywhere.

Shapes: T time steps, N environments, B = T N transitions of an update, M of a minibatch,
D observation entries. Parameters are `{"actor": [(kernel [in, out], bias [out]), ...],
"critic": [...]}`; Adam's state is `{"count": int, "mean": like parameters, "square": likewise}`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

NETWORKS = ("actor", "critic")
ADAM_MEAN_DECAY = 0.9
ADAM_SQUARE_DECAY = 0.999
# Each activation, and its derivative as a function of the activation's value.
ACTIVATIONS = {
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "relu": (lambda z: np.maximum(z, 0.0), lambda y: np.where(y > 0, 1.0, 0.0)),
}


@dataclass(frozen=True)
class Settings:
    """Every hyperparameter and switch of an update."""

    learning_rate: float
    """Of the actor, before annealing."""
    critic_learning_rate: float
    """Of the critic, before annealing."""
    adam_epsilon: float
    """Added to the root of the second moment, outside the root."""
    max_grad_norm: float
    joint_clipping: bool
    """True: the norm of both networks' gradients together; False: each network by itself."""
    discount: float
    gae_lambda: float
    clip_range: float
    clip_value: bool
    value_coefficient: float
    entropy_coefficient: float
    normalize_advantage: bool
    recompute_advantage: bool
    """True: target - V(s) with the minibatch's current critic, without a gradient through it."""
    activation: str
    """"tanh" or "relu"."""
    num_epochs: int
    minibatch_size: int
    """The last minibatch of an epoch may be smaller."""


@dataclass(frozen=True)
class UpdateResult:
    """What an update ends with, and what it computed on the way."""

    params: dict
    adam: dict
    metrics: dict
    """Mean over the gradient steps of each scalar of `losses_and_gradients`."""
    gradients: list
    """The unclipped gradients of every gradient step."""
    advantages: np.ndarray
    """[T, N], from the rollout's values, not normalised."""
    targets: np.ndarray
    """[T, N], advantages + values."""
    values: np.ndarray
    """[T, N], V(s) of the critic at the update's start."""


def map_arrays(function, *trees):
    """Apply function to the matching arrays of parameter-shaped trees; returns such a tree."""
    return {
        name: [
            tuple(function(*arrays) for arrays in zip(*layers, strict=True))
            for layers in zip(*(tree[name] for tree in trees), strict=True)
        ]
        for name in NETWORKS
    }


# Returns and advantages ---------------------------------------------------------------------------


def returns_by_definition(rewards, discounts, bootstrap):
    """G[t] = Σ_k (Π_{j<k} discounts[t+j]) r[t+k] + (Π_{j<T-t} discounts[t+j]) bootstrap.

    rewards, discounts: [T, ...]; bootstrap: [...]. Returns [T, ...].
    """
    rewards, discounts, bootstrap = map(_float64, (rewards, discounts, bootstrap))
    returns = np.zeros_like(rewards)
    for t in range(len(rewards)):
        weight = np.ones_like(rewards[t])
        for later in range(t, len(rewards)):
            returns[t] += weight * rewards[later]
            weight = weight * discounts[later]
        returns[t] += weight * bootstrap
    return returns


def gae_by_definition(rewards, values, next_values, terminated, done, discount, gae_lambda):
    """A[t] = Σ_k (Π_{j<k} γ λ (1 - done[t+j])) δ[t+k], δ = r + γ (1 - terminated) V' - V.

    All arrays [T, ...]; next_values: V of the observation that each step really led to, [T, ...].
    Returns [T, ...].
    """
    arrays = (rewards, values, next_values, terminated, done)
    rewards, values, next_values, terminated, done = map(_float64, arrays)
    deltas = rewards + discount * (1 - terminated) * next_values - values
    advantages = np.zeros_like(deltas)
    for t in range(len(deltas)):
        weight = np.ones_like(deltas[t])
        for later in range(t, len(deltas)):
            advantages[t] += weight * deltas[later]
            weight = weight * discount * gae_lambda * (1 - done[later])
    return advantages


# Networks -----------------------------------------------------------------------------------------


def forward(layers, x, activation):
    """x ← activation(x kernel + bias) for every layer, the last without its activation.

    layers: list of (kernel [in, out], bias [out]); x: [..., in]. Returns [..., out].
    """
    return _layer_inputs(layers, x, activation)[-1]


def backward(layers, x, activation, output_gradient):
    """∂L/∂kernel = inputᵀ ∂L/∂output and ∂L/∂bias = Σ ∂L/∂output, from the last layer to the first.

    x: [M, in]; output_gradient: ∂L/∂(network's output), [M, out]. Returns a list like layers.
    """
    inputs = _layer_inputs(layers, x, activation)
    gradients = []
    gradient = output_gradient
    for index in reversed(range(len(layers))):
        kernel, _ = layers[index]
        gradients.append((inputs[index].T @ gradient, gradient.sum(axis=0)))
        # The observation (index 0) passed no activation, and its gradient is not wanted.
        if index > 0:
            slope = ACTIVATIONS[activation][1]
            gradient = (gradient @ kernel.T) * slope(inputs[index])
    return gradients[::-1]


def _layer_inputs(layers, x, activation):
    """The input of every layer, and after them the network's output."""
    inputs = [x]
    for index, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        if index < len(layers) - 1:
            x = ACTIVATIONS[activation][0](x)
        inputs.append(x)
    return inputs


def log_softmax(logits):
    """log p[a] = logits[a] - log Σ_b exp(logits[b]); [..., A] to [..., A]."""
    # Shifted, so that large logits do not overflow.
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# Losses -------------------------------------------------------------------------------------------


def losses_and_gradients(settings, params, minibatch):
    """The losses and diagnostics of a minibatch, and ∂(policy + value - c_H entropy)/∂params.

    minibatch: observation [M, D], action [M] int, and [M] each of log_prob, value (both as the
    rollout had them), advantage and target. Returns (dict of floats, gradients like params).
    """
    observation, action = minibatch["observation"], minibatch["action"]
    size = len(action)
    logits = forward(params["actor"], observation, settings.activation)
    value = forward(params["critic"], observation, settings.activation)[:, 0]

    advantage = minibatch["advantage"]
    if settings.recompute_advantage:
        # Used as a number below: nothing is differentiated through it.
        advantage = minibatch["target"] - value
    if settings.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std(ddof=0) + 1e-8)

    policy, logits_gradient = _policy_loss(settings, logits, action, minibatch, advantage)
    value_loss, value_gradient = _value_loss(settings, value, minibatch)
    # The losses are means: each transition's gradient counts for one in M.
    output_gradients = {"actor": logits_gradient / size, "critic": value_gradient[:, None] / size}
    gradients = {
        name: backward(params[name], observation, settings.activation, output_gradients[name])
        for name in NETWORKS
    }
    scalars = policy | {
        "value_loss": value_loss,
        "actor_grad_norm": global_norm(gradients["actor"]),
        "critic_grad_norm": global_norm(gradients["critic"]),
    }
    return {name: float(number) for name, number in scalars.items()}, gradients


def _policy_loss(settings, logits, action, minibatch, advantage):
    """-mean min(ratio A, clip(ratio) A), entropy; and each transition's gradient, [M, A]."""
    log_probs = log_softmax(logits)
    probs = np.exp(log_probs)
    chosen = np.eye(logits.shape[-1])[action]
    log_ratio = (chosen * log_probs).sum(axis=-1) - minibatch["log_prob"]
    ratio = np.exp(log_ratio)
    clipped = np.clip(ratio, 1 - settings.clip_range, 1 + settings.clip_range)
    entropy = -(probs * log_probs).sum(axis=-1)

    # Of min(ratio A, clip(ratio) A) only the first depends on the ratio, except between the edges,
    # where the two are the same. And ∂ratio = ratio ∂log p(action).
    active = ratio * advantage <= clipped * advantage
    ratio_gradient = np.where(active, advantage, 0.0)
    # ∂log p[a] / ∂logits[b] = [a = b] - p[b];   ∂H / ∂logits[b] = -p[b] (log p[b] + H).
    logits_gradient = -(ratio_gradient * ratio)[:, None] * (chosen - probs)
    entropy_gradient = -probs * (log_probs + entropy[:, None])
    scalars = {
        "policy_loss": -np.minimum(ratio * advantage, clipped * advantage).mean(),
        "entropy": entropy.mean(),
        "approx_kl": ((ratio - 1) - log_ratio).mean(),
        "clip_fraction": (np.abs(ratio - 1) > settings.clip_range).mean(),
    }
    return scalars, logits_gradient - settings.entropy_coefficient * entropy_gradient


def _value_loss(settings, value, minibatch):
    """c ½ mean (V - G)², or of the larger square; and each transition's gradient, [M]."""
    target, old_value = minibatch["target"], minibatch["value"]
    square = (value - target) ** 2
    gradient = value - target
    if settings.clip_value:
        moved = value - old_value
        inside = np.abs(moved) <= settings.clip_range
        clipped_value = old_value + np.clip(moved, -settings.clip_range, settings.clip_range)
        clipped_square = (clipped_value - target) ** 2
        # Past an edge the clipped square is constant. Between them the two squares are the same
        # but for rounding, which must not decide whether there is a gradient.
        gradient = np.where(inside | (square >= clipped_square), gradient, 0.0)
        square = np.maximum(square, clipped_square)
    hyperparameter = settings.value_coefficient
    return hyperparameter * 0.5 * square.mean(), hyperparameter * gradient


# Optimiser ----------------------------------------------------------------------------------------


def global_norm(layers):
    """√ Σ g² over every entry of every kernel and bias of a list of layers."""
    return np.sqrt(sum((array**2).sum() for layer in layers for array in layer))


def clip_gradients(settings, gradients):
    """g ← g max_norm / norm where norm ≥ max_norm, of both networks together or of each."""
    if settings.joint_clipping:
        together = global_norm(gradients["actor"] + gradients["critic"])
        norms = dict.fromkeys(NETWORKS, together)
    else:
        norms = {name: global_norm(gradients[name]) for name in NETWORKS}
    limit = settings.max_grad_norm
    scales = {name: limit / norm if norm >= limit else 1.0 for name, norm in norms.items()}
    return _scale(gradients, scales)


def _scale(tree, factors):
    """Multiply each network's arrays by its own factor."""
    return {
        name: [(factors[name] * kernel, factors[name] * bias) for kernel, bias in tree[name]]
        for name in NETWORKS
    }


def adam_step(params, gradients, adam, learning_rates, epsilon):
    """m ← 0.9 m + 0.1 g, v ← 0.999 v + 0.001 g², p ← p - rate m̂ / (√v̂ + ε), the hats unbiased.

    m̂ = m / (1 - 0.9^count) and v̂ = v / (1 - 0.999^count), the count including this step.
    learning_rates: {"actor": float, "critic": float}. Returns (params, adam), both new.
    """
    count = int(adam["count"]) + 1

    def next_mean(m, g):
        return ADAM_MEAN_DECAY * m + (1 - ADAM_MEAN_DECAY) * g

    def next_square(v, g):
        return ADAM_SQUARE_DECAY * v + (1 - ADAM_SQUARE_DECAY) * g**2

    def direction(m, v):
        unbiased_mean = m / (1 - ADAM_MEAN_DECAY**count)
        unbiased_square = v / (1 - ADAM_SQUARE_DECAY**count)
        return unbiased_mean / (np.sqrt(unbiased_square) + epsilon)

    mean = map_arrays(next_mean, adam["mean"], gradients)
    square = map_arrays(next_square, adam["square"], gradients)
    steps = _scale(map_arrays(direction, mean, square), learning_rates)
    params = map_arrays(np.subtract, params, steps)
    return params, {"count": count, "mean": mean, "square": square}


# The update ---------------------------------------------------------------------------------------


def update(settings, params, adam, rollout, orders, update_fraction_done=0.0):
    """One update: advantages, then every epoch's minibatches; rate (1 - update_fraction_done).

    rollout: observation, final_observation [T, N, D], and [T, N] each of action (int), log_prob,
    reward, terminated and truncated; flattened as [T, N] to [B]. For whole episodes N is 1 and T
    the count of transitions. A rollout that ends undone goes on with V(final_observation).
    orders: [num_epochs, B] int, a permutation of the batch each; minibatch j of epoch e is
    orders[e, j M : (j + 1) M]. Returns UpdateResult.
    """
    params = map_arrays(_float64, params)
    moments = {name: map_arrays(_float64, adam[name]) for name in ("mean", "square")}
    adam = {"count": int(adam["count"])} | moments
    observation = _float64(rollout["observation"])
    final_observation = _float64(rollout["final_observation"])
    values = forward(params["critic"], observation, settings.activation)[..., 0]
    next_values = forward(params["critic"], final_observation, settings.activation)[..., 0]
    terminated = np.asarray(rollout["terminated"], bool)
    done = terminated | np.asarray(rollout["truncated"], bool)
    decays = settings.discount, settings.gae_lambda
    advantages = gae_by_definition(
        rollout["reward"], values, next_values, terminated, done, *decays
    )
    targets = advantages + values

    batch = {
        "observation": observation.reshape(-1, observation.shape[-1]),
        "action": np.asarray(rollout["action"]).reshape(-1),
        "log_prob": _float64(rollout["log_prob"]).reshape(-1),
        "value": values.reshape(-1),
        "advantage": advantages.reshape(-1),
        "target": targets.reshape(-1),
    }
    orders = np.asarray(orders)
    size = len(batch["action"])
    # A wrong order would make the judge silently judge another update.
    assert orders.shape == (settings.num_epochs, size), (orders.shape, settings.num_epochs, size)
    assert (np.sort(orders, axis=1) == np.arange(size)).all(), "an order is not a permutation"

    learning_rates = {
        "actor": settings.learning_rate * (1 - update_fraction_done),
        "critic": settings.critic_learning_rate * (1 - update_fraction_done),
    }
    every_scalar, every_gradient = [], []
    for order in orders:
        for start in range(0, size, settings.minibatch_size):
            chosen = order[start : start + settings.minibatch_size]
            minibatch = {name: array[chosen] for name, array in batch.items()}
            scalars, gradients = losses_and_gradients(settings, params, minibatch)
            every_scalar.append(scalars)
            every_gradient.append(gradients)
            clipped = clip_gradients(settings, gradients)
            params, adam = adam_step(params, clipped, adam, learning_rates, settings.adam_epsilon)
    metrics = {
        name: float(np.mean([scalars[name] for scalars in every_scalar]))
        for name in every_scalar[0]
    }
    return UpdateResult(params, adam, metrics, every_gradient, advantages, targets, values)


def _float64(array):
    return np.asarray(array, np.float64)


# Permutations -------------------------------------------------------------------------------------


def swap_or_not(pivots, keys, position, length):
    """Where a swap-or-not shuffle of 0..length-1 with these rounds sends a position.

    Hoang, Morris & Rogaway (CRYPTO 2012), fig. 1: x' = K - x mod n, and x ← x' if the round's coin
    of max(x, x') says so; here the last bit of `lowbias32`(max xor the round's key).
    """
    for pivot, key in zip(map(int, pivots), map(int, keys), strict=True):
        partner = (pivot - position) % length
        if lowbias32(max(position, partner) ^ key) % 2 == 1:
            position = partner
    return position


def lowbias32(word):
    """The 32-bit hash of that name, in Python's integers (Wellons, Hash Prospector, 2018)."""
    word ^= word >> 16
    word = word * 0x7FEB352D % 2**32
    word ^= word >> 15
    word = word * 0x846CA68B % 2**32
    return word ^ word >> 16


# Random problems ----------------------------------------------------------------------------------


def random_problem(
    rng,
    activation="tanh",
    num_steps=16,
    num_envs=3,
    observation_size=4,
    num_actions=3,
    hidden_sizes=(8, 7),
    num_epochs=3,
):
    """A random update to compute: (params, adam, rollout, orders), as `update` takes them.

    rng: numpy.random.Generator. Ratios of new to old probability lie in exp(±0.5), so on both sides
    of both edges at a clip_range of 0.2; with four transitions or more, every combination of
    terminated and truncated occurs.
    """

    def layers(sizes):
        return [
            (rng.normal(size=(a, b)) / np.sqrt(a), 0.1 * rng.normal(size=b))
            for a, b in pairwise(sizes)
        ]

    hidden_sizes = tuple(hidden_sizes)
    params = {
        "actor": layers((observation_size, *hidden_sizes, num_actions)),
        "critic": layers((observation_size, *hidden_sizes, 1)),
    }
    # Moments as `count` steps with gradients of about 0.02 leave them: a moment of another scale
    # would either drown the new gradients or not be felt.
    count = int(rng.integers(3, 20))
    mean_share, square_share = 1 - ADAM_MEAN_DECAY**count, 1 - ADAM_SQUARE_DECAY**count
    adam = {
        "count": count,
        "mean": map_arrays(lambda p: 0.02 * mean_share * rng.normal(size=p.shape), params),
        "square": map_arrays(
            lambda p: square_share * rng.uniform(0.01, 0.04, size=p.shape) ** 2, params
        ),
    }

    shape = (num_steps, num_envs)
    size = num_steps * num_envs
    kinds = rng.choice(4, size=size, p=(0.7, 0.12, 0.12, 0.06))
    kinds[: min(4, size)] = np.arange(min(4, size))
    kinds = rng.permutation(kinds).reshape(shape)
    terminated, truncated = kinds % 2 == 1, kinds >= 2

    final_observation = rng.normal(size=(*shape, observation_size))
    observation = rng.normal(size=(*shape, observation_size))
    # Only an episode's end separates where a step led to from where the next begins.
    goes_on = ~(terminated | truncated)[:-1, :, None]
    observation[1:] = np.where(goes_on, final_observation[:-1], observation[1:])

    action = rng.integers(num_actions, size=shape)
    log_probs = log_softmax(forward(params["actor"], observation, activation))
    log_prob = np.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]
    rollout = {
        "observation": observation,
        "action": action,
        # Off the current policy, as if it had already learnt for a while. The old number need not
        # be a real policy's (it may exceed zero): the losses take it as it is.
        "log_prob": log_prob + rng.uniform(-0.5, 0.5, size=shape),
        "reward": rng.normal(size=shape),
        "terminated": terminated,
        "truncated": truncated,
        "final_observation": final_observation,
    }
    orders = np.stack([rng.permutation(size) for _ in range(num_epochs)])
    return params, adam, rollout, orders
