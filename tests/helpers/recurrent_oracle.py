"""A PPO update of recurrent networks in NumPy float64, back-propagation through time by hand.

The judge of networks with memory, as `tests.helpers.oracle` is of those without, whose losses,
clipping and Adam it shares: written from the algorithm's description alone. Shapes as there, and H
entries of memory. A network's layers are its recurrent unit's arrays, named in `GATES`, and after
them those of a perceptron.
"""

from itertools import product

import numpy as np

from tests.helpers import oracle

GATES = ("W_ir", "b_ir", "W_iz", "b_iz", "W_in", "b_in", "W_hr", "W_hz", "W_hn", "b_hn")


def sigmoid(x):
    """σ(x) = 1 / (1 + e^-x) = (1 + tanh(x / 2)) / 2."""
    return (1 + np.tanh(x / 2)) / 2


# The recurrent unit -------------------------------------------------------------------------------


def gates(unit, x, memory):
    """(r, z, n, W_hn h + b_hn) of one step: x [n, D], memory h [n, H].

    r = σ(W_ir x + b_ir + W_hr h), z = σ(W_iz x + b_iz + W_hz h),
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)).
    """
    w = dict(zip(GATES, unit, strict=True))
    r = sigmoid(x @ w["W_ir"] + w["b_ir"] + memory @ w["W_hr"])
    z = sigmoid(x @ w["W_iz"] + w["b_iz"] + memory @ w["W_hz"])
    recalled = memory @ w["W_hn"] + w["b_hn"]
    return r, z, np.tanh(x @ w["W_in"] + w["b_in"] + r * recalled), recalled


def remember(unit, x, memory, start):
    """Memories after every step [T, n, H], h' = (1 - z) n + z h with h = 0 where start.

    x: [T, n, D]; memory: [n, H], before the first step; start: [T, n].
    """
    after = []
    for inputs, begins in zip(x, start, strict=True):
        memory = np.where(begins[:, None], 0.0, memory)
        _, z, n, _ = gates(unit, inputs, memory)
        memory = (1 - z) * n + z * memory
        after.append(memory)
    return np.stack(after)


def remember_backward(unit, x, memory, start, memory_gradients):
    """∂L/∂(the unit's arrays), given ∂L/∂(memory after every step) [T, n, H] by what reads it
    there; from the last step to the first, through every memory that no start forgets."""
    w = dict(zip(GATES, unit, strict=True))
    before = np.concatenate([memory[None], remember(unit, x, memory, start)[:-1]])
    before = np.where(start[..., None], 0.0, before)
    gradients = {name: np.zeros_like(array) for name, array in w.items()}
    later = np.zeros_like(memory)
    for t in reversed(range(len(x))):
        r, z, n, recalled = gates(unit, x[t], before[t])
        gradient = memory_gradients[t] + later
        # Of what the nonlinearities were given: σ' = σ (1 - σ) and tanh' = 1 - tanh².
        to_n = gradient * (1 - z) * (1 - n**2)
        to_z = gradient * (before[t] - n) * z * (1 - z)
        to_r = to_n * recalled * r * (1 - r)
        for gate, own in (("r", to_r), ("z", to_z), ("n", to_n)):
            gradients[f"W_i{gate}"] += x[t].T @ own
            gradients[f"b_i{gate}"] += own.sum(axis=0)
        gradients["W_hr"] += before[t].T @ to_r
        gradients["W_hz"] += before[t].T @ to_z
        gradients["W_hn"] += before[t].T @ (to_n * r)
        gradients["b_hn"] += (to_n * r).sum(axis=0)
        later = gradient * z + to_r @ w["W_hr"].T + to_z @ w["W_hz"].T + (to_n * r) @ w["W_hn"].T
        later = np.where(start[t][:, None], 0.0, later)
    return tuple(gradients[name] for name in GATES)


# Networks -----------------------------------------------------------------------------------------


def unroll(layers, x, memory, start, activation):
    """The network's outputs [T, n, P] and memories after every step [T, n, H]."""
    memories = remember(layers[0], x, memory, start)
    return oracle.forward(layers[1:], memories, activation), memories


def backward(layers, x, memory, start, activation, output_gradient):
    """∂L/∂layers, given ∂L/∂output [T, n, P]."""
    memories = remember(layers[0], x, memory, start)
    flat, gradient = (array.reshape(-1, array.shape[-1]) for array in (memories, output_gradient))
    head = oracle.backward(layers[1:], flat, activation, gradient)
    # On to what the perceptron was given, for its own gradients stop at its first layer.
    inputs, slope = (
        oracle._layer_inputs(layers[1:], flat, activation),
        oracle.ACTIVATIONS[activation][1],
    )
    for index, (kernel, _) in reversed(list(enumerate(layers[1:]))):
        gradient = gradient @ kernel.T
        if index > 0:
            gradient = gradient * slope(inputs[index])
    unit = remember_backward(layers[0], x, memory, start, gradient.reshape(memories.shape))
    return [unit, *head]


# Losses -------------------------------------------------------------------------------------------


def losses_and_gradients(settings, params, minibatch):
    """As `oracle.losses_and_gradients`, of sequences: [T, n, ...], `start` [T, n] and `memory`,
    {"actor": [n, H], "critic": [n, H]}, before the first step."""
    observation, start, memory = (minibatch[name] for name in ("observation", "start", "memory"))

    def of(name):
        return params[name], observation, memory[name], start, settings.activation

    flat = {
        name: array.reshape(-1, *array.shape[2:])
        for name, array in minibatch.items()
        if name != "memory"
    }
    output, values = (unroll(*of(name))[0] for name in oracle.NETWORKS)
    log_std = params["log_std"][0][0] if "log_std" in params else None
    evaluated = oracle.evaluate_actions(
        settings.actions,
        output.reshape(-1, output.shape[-1]),
        log_std,
        flat["action"],
        flat.get("noise"),
    )
    value = values.reshape(-1)
    advantage = flat["target"] - value if settings.recompute_advantage else flat["advantage"]
    if settings.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std(ddof=0) + 1e-8)
    policy, (actor_gradient, log_std_gradient) = oracle._policy_loss(
        settings, evaluated, flat["log_prob"], advantage
    )
    value_loss, value_gradient = oracle._value_loss(settings, value, flat)
    gradients = {
        "actor": backward(*of("actor"), actor_gradient.reshape(output.shape) / value.size),
        "critic": backward(*of("critic"), value_gradient.reshape(values.shape) / value.size),
    }
    if "log_std" in params:
        gradients["log_std"] = [(log_std_gradient.sum(axis=0) / value.size,)]
    halves = oracle.halves(gradients)
    norms = {f"{name}_grad_norm": oracle.global_norm(half) for name, half in halves.items()}
    scalars = policy | {"value_loss": value_loss} | norms
    return {name: float(number) for name, number in scalars.items()}, gradients


# The update ---------------------------------------------------------------------------------------


def update(settings, params, adam, rollout, orders, update_fraction_done=0.0):
    """As `oracle.update`, of a rollout that has `start` [T, N] and `memory`, before its first step,
    as well; its observations are those that the networks see.

    orders: [num_epochs, N], of environments; a minibatch is `minibatch_size` / T whole ones.
    """
    observation, start, memory = (rollout[name] for name in ("observation", "start", "memory"))
    values, memories = unroll(
        params["critic"], observation, memory["critic"], start, settings.activation
    )
    # V of what every step led to, by the memory that has seen the step's own observation.
    never = np.zeros_like(start[0])[None]
    next_values = np.stack(
        [
            unroll(params["critic"], final[None], seen, never, settings.activation)[0][0]
            for final, seen in zip(rollout["final_observation"], memories, strict=True)
        ]
    )
    values, next_values = values[..., 0], next_values[..., 0]
    terminated = rollout["terminated"]
    done = terminated | rollout["truncated"]
    decays = settings.discount, settings.gae_lambda
    advantages = oracle.gae_by_definition(
        rollout["reward"], values, next_values, terminated, done, *decays
    )
    targets = advantages + values

    names = ("observation", "start", "action", "noise", "log_prob")
    batch = {name: rollout[name] for name in names if name in rollout}
    batch |= {"value": values, "advantage": advantages, "target": targets}
    num_steps, num_envs = values.shape
    size = settings.minibatch_size // num_steps
    assert orders.shape == (settings.num_epochs, num_envs)
    assert (np.sort(orders, axis=1) == np.arange(num_envs)).all()

    learning_rates = {
        "actor": settings.learning_rate * (1 - update_fraction_done),
        "critic": settings.critic_learning_rate * (1 - update_fraction_done),
    }
    every_scalar, every_gradient = [], []
    for order, first in product(orders, range(0, num_envs, size)):
        chosen = order[first : first + size]
        minibatch = {name: array[:, chosen] for name, array in batch.items()}
        minibatch["memory"] = {name: array[chosen] for name, array in memory.items()}
        scalars, gradients = losses_and_gradients(settings, params, minibatch)
        every_scalar.append(scalars)
        every_gradient.append(gradients)
        clipped = oracle.clip_gradients(settings, gradients)
        params, adam = oracle.adam_step(
            params, clipped, adam, learning_rates, settings.adam_epsilon
        )
    metrics = {
        name: float(np.mean([one[name] for one in every_scalar])) for name in every_scalar[0]
    }
    return oracle.UpdateResult(
        params,
        adam,
        metrics,
        every_scalar,
        every_gradient,
        advantages,
        targets,
        values,
        None,
        None,
    )
