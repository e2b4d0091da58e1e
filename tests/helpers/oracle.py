"""One whole PPO update in NumPy float64, its gradients derived by hand.

The independent judge of the library: written from the algorithm's description alone, it shares no
code with it and uses no automatic differentiation. Clarity comes before speed everywhere.

Shapes: T time steps, N environments, B = T N transitions of an update, M of a minibatch,
D observation entries, K action entries, P outputs of the actor. Parameters are `{"actor":
[(kernel [in, out], bias [out]), ...], "critic": [...]}`, for Box actions with `"log_std": [(log σ
[K],)]`; Adam's state is `{"count": int, "mean": like parameters, "square": likewise}`; statistics
are `{"count": float, "mean": array, "m2": array}`, of rewards with each environment's own
`"returns": [N]`.
"""

from dataclasses import dataclass, field
from itertools import pairwise, product

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
class Actions:
    """What the actor's P outputs say of an action."""

    kind: str = "categorical"
    """"categorical" (logits), "gaussian" (a mean) or "squashed" (the mean of u, before tanh)."""
    nvec: tuple | None = None
    """Choices of each entry of a MultiDiscrete action [K]; None: of one entry, all outputs."""
    low: np.ndarray | None = None
    """Of the Box, [K]."""
    high: np.ndarray | None = None


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
    time_limit: str = "truncate"
    """"terminate": what was truncated was terminated."""
    target_kl: float | None = None
    """A minibatch whose approximate KL exceeds 1.5 times it is not applied, nor any after it."""
    actions: Actions = field(default_factory=Actions)


@dataclass(frozen=True)
class UpdateResult:
    """What an update ends with, and what it computed on the way."""

    params: dict
    adam: dict
    metrics: dict
    """Mean over the gradient steps of each scalar of `losses_and_gradients`."""
    scalars: list
    """Those scalars of every gradient step; without it where `target_kl` stopped the update."""
    gradients: list
    """The unclipped gradients of every gradient step, likewise."""
    advantages: np.ndarray
    """[T, N], from the rollout's values, not normalized."""
    targets: np.ndarray
    """[T, N], advantages + values."""
    values: np.ndarray
    """[T, N], V(s) of the critic at the update's start."""
    statistics: dict | None
    """Of observations, the rollout's merged; None where they are not normalized."""
    reward_statistics: dict | None


def map_arrays(function, *trees):
    """Apply function to the matching arrays of parameter-shaped trees; returns such a tree."""
    return {
        name: [
            tuple(function(*arrays) for arrays in zip(*layers, strict=True))
            for layers in zip(*(tree[name] for tree in trees), strict=True)
        ]
        for name in trees[0]
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


# Actions ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """What the policy says of actions, and the gradients of it with respect to the actor's output
    [..., P] and log σ [..., K] (zeros where there is none)."""

    log_prob: np.ndarray
    log_prob_gradients: tuple
    entropy: np.ndarray
    entropy_gradients: tuple


def evaluate_actions(actions, output, log_std, action, noise=None):
    """Log-probabilities and entropies [...] of actions [...] (categorical) or [..., K].

    output: [..., P]; log_std: [K], of a Box; noise: [..., K], that squashed actions were drawn
    with: their entropy is estimated at u = mean + σ noise.
    """
    if actions.kind == "categorical":
        return _evaluate_categorical(actions, output, action)
    std = np.exp(log_std) + np.zeros_like(output)
    distance = (action - output) / std
    # log N = -½ z² - log σ - ½ log 2π with z = (a - μ) / σ.
    log_prob = (-(distance**2) / 2 - np.log(std) - np.log(2 * np.pi) / 2).sum(axis=-1)
    log_prob_gradients = distance / std, distance**2 - 1
    entropy = (np.log(2 * np.pi * np.e * std**2) / 2).sum(axis=-1)
    entropy_gradients = np.zeros_like(std), np.ones_like(std)
    if actions.kind == "squashed":
        log_prob = log_prob - _log_slope(actions, action).sum(axis=-1)
        drawn = output + std * noise
        entropy = entropy + _log_slope(actions, drawn).sum(axis=-1)
        # ∂log(1 - tanh² u) / ∂u = -2 tanh u, and ∂u / ∂μ = 1, ∂u / ∂log σ = σ noise.
        curve = -2 * np.tanh(drawn)
        entropy_gradients = curve, 1 + curve * std * noise
    return Evaluated(log_prob, log_prob_gradients, entropy, entropy_gradients)


def env_action(actions, action):
    """What the environment receives of stored actions."""
    if actions.kind == "gaussian":
        return np.minimum(np.maximum(action, actions.low), actions.high)
    if actions.kind == "squashed":
        middle, half = (actions.high + actions.low) / 2, (actions.high - actions.low) / 2
        return middle + half * np.tanh(action)
    return action


def _evaluate_categorical(actions, logits, action):
    """Sums over the entries, each of which has a softmax of its own."""
    nvec = (logits.shape[-1],) if actions.nvec is None else actions.nvec
    action = action[..., None] if actions.nvec is None else action
    log_prob, entropy, log_prob_gradients, entropy_gradients = 0.0, 0.0, [], []
    ends = np.cumsum(nvec)
    for entry, (end, choices) in enumerate(zip(ends, nvec, strict=True)):
        log_probs = log_softmax(logits[..., end - choices : end])
        probs, chosen = np.exp(log_probs), np.eye(choices)[action[..., entry]]
        own_entropy = -(probs * log_probs).sum(axis=-1)
        log_prob = log_prob + (chosen * log_probs).sum(axis=-1)
        entropy = entropy + own_entropy
        # ∂log p[a] / ∂logits[b] = [a = b] - p[b];   ∂H / ∂logits[b] = -p[b] (log p[b] + H).
        log_prob_gradients.append(chosen - probs)
        entropy_gradients.append(-probs * (log_probs + own_entropy[..., None]))
    none = np.zeros((*logits.shape[:-1], 0))
    return Evaluated(
        log_prob,
        (np.concatenate(log_prob_gradients, axis=-1), none),
        entropy,
        (np.concatenate(entropy_gradients, axis=-1), none),
    )


def _log_slope(actions, u):
    """log of ∂(environment's action) / ∂u = (high - low)/2 / cosh² u, [..., K]."""
    # cosh u = e^|u| (1 + e^(-2|u|)) / 2, so that a large u does not overflow.
    log_cosh = np.abs(u) + np.log1p(np.exp(-2 * np.abs(u))) - np.log(2)
    return np.log((actions.high - actions.low) / 2) - 2 * log_cosh


# Statistics ---------------------------------------------------------------------------------------


def merge(statistics, samples):
    """The statistics of all samples so far and of these [n, ...]: the mean, and the sum m2 of
    squared deviations from it, of which the old ones' moves by count (old mean - mean)²."""
    count = statistics["count"] + len(samples)
    mean = (statistics["count"] * statistics["mean"] + samples.sum(axis=0)) / count
    moved = statistics["count"] * (statistics["mean"] - mean) ** 2
    return {
        "count": count,
        "mean": mean,
        "m2": statistics["m2"] + moved + ((samples - mean) ** 2).sum(axis=0),
    }


def normalize(statistics, observation):
    """(o - mean) / √(m2 / count + 1e-8), at most 10 in size; as it is where nothing was counted."""
    if statistics is None or statistics["count"] == 0:
        return observation
    deviation = np.sqrt(statistics["m2"] / statistics["count"] + 1e-8)
    return np.clip((observation - statistics["mean"]) / deviation, -10, 10)


def scale_rewards(discount, statistics, rewards, done):
    """The statistics with the discounted returns R ← γR + r of a rollout [T, N], 0 after an
    episode's last step; and the rewards over the deviation of R, at most 10 in size."""
    running, returns = statistics["returns"], []
    for reward, ends in zip(rewards, done, strict=True):
        returns.append(discount * running + reward)
        running = np.where(ends, 0.0, returns[-1])
    merged = merge(statistics, np.ravel(returns))
    scaled = rewards / np.sqrt(merged["m2"] / merged["count"] + 1e-8)
    return merged | {"returns": running}, np.clip(scaled, -10, 10)


# Losses -------------------------------------------------------------------------------------------


def losses_and_gradients(settings, params, minibatch):
    """The losses and diagnostics of a minibatch, and ∂(policy + value - c_H entropy)/∂params.

    minibatch: observation [M, D], action [M] int or [M, K], for squashed actions noise [M, K], and
    [M] each of log_prob, value (both as the rollout had them), advantage and target. Returns (dict
    of floats, gradients like params).
    """
    observation = minibatch["observation"]
    size = len(observation)
    evaluated = evaluate(settings, params, minibatch)
    value = forward(params["critic"], observation, settings.activation)[:, 0]

    advantage = minibatch["advantage"]
    if settings.recompute_advantage:
        # Used as a number below: nothing is differentiated through it.
        advantage = minibatch["target"] - value
    if settings.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std(ddof=0) + 1e-8)

    policy, (actor_gradient, log_std_gradient) = _policy_loss(
        settings, evaluated, minibatch["log_prob"], advantage
    )
    value_loss, value_gradient = _value_loss(settings, value, minibatch)
    # The losses are means: each transition's gradient counts for one in M.
    output_gradients = {"actor": actor_gradient / size, "critic": value_gradient[:, None] / size}
    gradients = {
        name: backward(params[name], observation, settings.activation, output_gradients[name])
        for name in NETWORKS
    }
    if "log_std" in params:
        gradients["log_std"] = [(log_std_gradient.sum(axis=0) / size,)]
    norms = {f"{name}_grad_norm": global_norm(half) for name, half in halves(gradients).items()}
    scalars = policy | {"value_loss": value_loss} | norms
    return {name: float(number) for name, number in scalars.items()}, gradients


def evaluate(settings, params, data):
    """`evaluate_actions` of observations, actions and noise by the actor with these parameters."""
    output = forward(params["actor"], data["observation"], settings.activation)
    log_std = params["log_std"][0][0] if "log_std" in params else None
    return evaluate_actions(settings.actions, output, log_std, data["action"], data.get("noise"))


def _policy_loss(settings, evaluated, old_log_prob, advantage):
    """-mean min(ratio A, clip(ratio) A), entropy; and each transition's gradients, [M, P] and
    [M, K]."""
    log_ratio = evaluated.log_prob - old_log_prob
    ratio = np.exp(log_ratio)
    clipped = np.clip(ratio, 1 - settings.clip_range, 1 + settings.clip_range)

    # Of min(ratio A, clip(ratio) A) only the first depends on the ratio, except between the edges,
    # where the two are the same. And ∂ratio = ratio ∂log p(action).
    active = ratio * advantage <= clipped * advantage
    ratio_gradient = np.where(active, advantage, 0.0)
    pairs = zip(evaluated.log_prob_gradients, evaluated.entropy_gradients, strict=True)
    gradients = [
        -(ratio_gradient * ratio)[:, None] * log_prob_gradient
        - settings.entropy_coefficient * entropy_gradient
        for log_prob_gradient, entropy_gradient in pairs
    ]
    scalars = {
        "policy_loss": -np.minimum(ratio * advantage, clipped * advantage).mean(),
        "entropy": evaluated.entropy.mean(),
        "approx_kl": ((ratio - 1) - log_ratio).mean(),
        "clip_fraction": (np.abs(ratio - 1) > settings.clip_range).mean(),
    }
    return scalars, gradients


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
    coefficient = settings.value_coefficient
    return coefficient * 0.5 * square.mean(), coefficient * gradient


# Optimizer ----------------------------------------------------------------------------------------


def global_norm(layers):
    """√ Σ g² over every entry of every array of a list of layers."""
    return np.sqrt(sum((array**2).sum() for layer in layers for array in layer))


def halves(tree):
    """The layers of each half, log σ with the actor's."""
    return {"actor": tree["actor"] + tree.get("log_std", []), "critic": tree["critic"]}


def clip_gradients(settings, gradients):
    """g ← g max_norm / norm where norm ≥ max_norm, of both networks together or of each."""
    if settings.joint_clipping:
        together = np.hypot(*map(global_norm, halves(gradients).values()))
        norms = dict.fromkeys(NETWORKS, together)
    else:
        norms = {name: global_norm(half) for name, half in halves(gradients).items()}
    limit = settings.max_grad_norm
    scales = {name: limit / norm if norm >= limit else 1.0 for name, norm in norms.items()}
    return _scale(gradients, scales)


def _scale(tree, factors):
    """Multiply the arrays of each half by its own factor."""
    factors = dict.fromkeys(tree, factors["actor"]) | {"critic": factors["critic"]}
    return {
        name: [tuple(factors[name] * array for array in layer) for layer in layers]
        for name, layers in tree.items()
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


def update(
    settings,
    params,
    adam,
    rollout,
    orders,
    update_fraction_done=0.0,
    statistics=None,
    reward_statistics=None,
):
    """One update: advantages, then every epoch's minibatches; rate (1 - update_fraction_done).

    rollout: observation, final_observation [T, N, D], action [T, N] int or [T, N, K], for squashed
    actions noise [T, N, K], and [T, N] each of log_prob, reward, terminated and truncated;
    flattened as [T, N] to [B]. For whole episodes N is 1 and T the count of transitions. A rollout
    that ends undone goes on with V(final_observation).
    orders: [num_epochs, B] int, a permutation of the batch each; minibatch j of epoch e is
    orders[e, j M : (j + 1) M].
    statistics, reward_statistics: as they were when the rollout began; None: nothing is normalized.
    Returns UpdateResult.
    """
    params = map_arrays(_float64, params)
    moments = {name: map_arrays(_float64, adam[name]) for name in ("mean", "square")}
    adam = {"count": int(adam["count"])} | moments
    raw_observation = _float64(rollout["observation"])
    observation = normalize(statistics, raw_observation)
    final_observation = normalize(statistics, _float64(rollout["final_observation"]))
    values = forward(params["critic"], observation, settings.activation)[..., 0]
    next_values = forward(params["critic"], final_observation, settings.activation)[..., 0]
    terminated = np.asarray(rollout["terminated"], bool)
    done = terminated | np.asarray(rollout["truncated"], bool)
    rewards = _float64(rollout["reward"])
    if reward_statistics is not None:
        reward_statistics, rewards = scale_rewards(
            settings.discount, reward_statistics, rewards, done
        )
    if settings.time_limit == "terminate":
        terminated = done
    decays = settings.discount, settings.gae_lambda
    advantages = gae_by_definition(rewards, values, next_values, terminated, done, *decays)
    targets = advantages + values

    transitions = {
        name: np.asarray(rollout[name])
        for name in ("action", "noise", "log_prob")
        if name in rollout
    }
    transitions |= {
        "observation": observation,
        "value": values,
        "advantage": advantages,
        "target": targets,
    }
    batch = {name: array.reshape(-1, *array.shape[2:]) for name, array in transitions.items()}
    orders = np.asarray(orders)
    size = values.size
    # A wrong order would make the judge silently judge another update.
    assert orders.shape == (settings.num_epochs, size), (orders.shape, settings.num_epochs, size)
    assert (np.sort(orders, axis=1) == np.arange(size)).all(), "an order is not a permutation"

    learning_rates = {
        "actor": settings.learning_rate * (1 - update_fraction_done),
        "critic": settings.critic_learning_rate * (1 - update_fraction_done),
    }
    every_scalar, every_gradient = [], []
    for order, start in product(orders, range(0, size, settings.minibatch_size)):
        chosen = order[start : start + settings.minibatch_size]
        minibatch = {name: array[chosen] for name, array in batch.items()}
        scalars, gradients = losses_and_gradients(settings, params, minibatch)
        if settings.target_kl is not None and scalars["approx_kl"] > 1.5 * settings.target_kl:
            break
        every_scalar.append(scalars)
        every_gradient.append(gradients)
        clipped = clip_gradients(settings, gradients)
        params, adam = adam_step(params, clipped, adam, learning_rates, settings.adam_epsilon)
    metrics = {
        name: float(np.mean([scalars[name] for scalars in every_scalar]))
        if every_scalar
        else np.nan
        for name in scalars
    }
    return UpdateResult(
        params,
        adam,
        metrics,
        every_scalar,
        every_gradient,
        advantages,
        targets,
        values,
        # Only now: the statistics that the rollout began with have served all of it.
        statistics and merge(statistics, raw_observation.reshape(size, -1)),
        reward_statistics,
    )


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
    actions=None,
):
    """A random update to compute: (params, adam, rollout, orders), as `update` takes them.

    rng: numpy.random.Generator; num_actions: the actor's outputs, P. Ratios of new to old
    probability lie in exp(±0.5), so on both sides of both edges at a clip_range of 0.2; with four
    transitions or more, every combination of terminated and truncated occurs.
    """

    def layers(sizes):
        return [
            (rng.normal(size=(a, b)) / np.sqrt(a), 0.1 * rng.normal(size=b))
            for a, b in pairwise(sizes)
        ]

    actions = actions or Actions()
    hidden_sizes = tuple(hidden_sizes)
    params = {
        "actor": layers((observation_size, *hidden_sizes, num_actions)),
        "critic": layers((observation_size, *hidden_sizes, 1)),
    }
    if actions.kind != "categorical":
        params["log_std"] = [(rng.uniform(-1, 0.5, num_actions),)]
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

    output, log_std, drawn = forward(params["actor"], observation, activation), None, {}
    if actions.kind != "categorical":
        log_std = params["log_std"][0][0]
        drawn["noise"] = rng.normal(size=output.shape)
        action = output + np.exp(log_std) * drawn["noise"]
    elif actions.nvec is None:
        action = rng.integers(num_actions, size=shape)
    else:
        action = rng.integers(actions.nvec, size=(*shape, len(actions.nvec)))
    log_prob = evaluate_actions(actions, output, log_std, action, **drawn).log_prob
    rollout = {
        "observation": observation,
        "action": action,
        # Off the current policy, as if it had already learned for a while. The old number need not
        # be a real policy's (it may exceed zero): the losses take it as it is.
        "log_prob": log_prob + rng.uniform(-0.5, 0.5, size=shape),
        "reward": rng.normal(size=shape),
        "terminated": terminated,
        "truncated": truncated,
        "final_observation": final_observation,
        **drawn,
    }
    orders = np.stack([rng.permutation(size) for _ in range(num_epochs)])
    return params, adam, rollout, orders
