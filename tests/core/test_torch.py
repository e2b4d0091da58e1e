"""Distributions and one whole update of each recipe against PyTorch's `torch.distributions`,
autograd and `torch.optim.Adam`, in float64."""

import jax
import numpy as np
import pytest

from ppo_jax import policy
from tests.helpers import oracle
from tests.helpers.distribution_problems import KINDS, evaluated, problem_of
from tests.helpers.problems import (
    CASES,
    FLOAT64,
    learn_and_orders,
    make_problem,
    metrics_of,
    moments_of,
    oracle_tree,
)

torch = pytest.importorskip("torch")
F, dist = torch.nn.functional, pytest.importorskip("torch.distributions")

pytestmark = pytest.mark.usefixtures("x64")


def tensors(layers):
    """Layers (kernel [in, out], bias [out]) as PyTorch's leaves (weight [out, in], bias [out])."""
    return [
        tuple(torch.tensor(array.T.copy(), requires_grad=True) for array in layer)
        for layer in layers
    ]


def flat(layers):
    return [tensor for layer in layers for tensor in layer]


def forward(layers, observation, activation):
    for weight, bias in layers[:-1]:
        observation = getattr(torch, activation)(F.linear(observation, weight, bias))
    return F.linear(observation, *layers[-1])


@torch.no_grad()
def returns_and_advantages(config, critic, data):
    """CleanRL's loop, with a termination that has no value after it and a truncation that has."""
    values = forward(critic, data["observation"], config.activation).squeeze(-1)
    following = forward(critic, data["final_observation"], config.activation).squeeze(-1)
    advantages = torch.zeros_like(values)
    last = torch.zeros_like(values[0])
    for t in reversed(range(len(values))):
        going_on = ~(data["terminated"][t] | data["truncated"][t])
        target = data["reward"][t] + config.discount * following[t] * ~data["terminated"][t]
        last = target - values[t] + config.discount * config.gae_lambda * last * going_on
        advantages[t] = last
    return values, advantages, advantages + values


def log_prob_and_entropy(actions, output, log_std, part):
    """By PyTorch's own distributions; the entropy of squashed actions from their noise."""
    if actions.kind == "categorical":
        nvec = actions.nvec or (output.shape[-1],)
        entries = part["action"].reshape(*output.shape[:-1], len(nvec)).unbind(-1)
        each = [dist.Categorical(logits=logits) for logits in output.split(nvec, dim=-1)]
        log_probs = [one.log_prob(entry) for one, entry in zip(each, entries, strict=True)]
        return sum(log_probs), sum(one.entropy() for one in each)
    normal = dist.Independent(dist.Normal(output, log_std.exp().expand_as(output)), 1)
    if actions.kind == "gaussian":
        return normal.log_prob(part["action"]), normal.entropy()
    low, high = torch.tensor(actions.low), torch.tensor(actions.high)
    squash = dist.ComposeTransform(
        [dist.TanhTransform(), dist.AffineTransform((low + high) / 2, (high - low) / 2)]
    )
    squashed = dist.TransformedDistribution(normal, squash)
    drawn = output + log_std.exp() * part["noise"]
    slopes = squash.log_abs_det_jacobian(drawn, squash(drawn))
    return squashed.log_prob(squash(part["action"])), normal.entropy() + slopes.sum(-1)


def losses(config, actions, actor, log_std, critic, part):
    """The losses of a minibatch by PyTorch's own distributions, `min`, `max` and `clamp`."""
    output = forward(actor, part["observation"], config.activation)
    log_prob, entropy = log_prob_and_entropy(actions, output, log_std, part)
    value = forward(critic, part["observation"], config.activation).squeeze(-1)
    advantage, epsilon = part["advantage"], config.clip_range
    if config.recompute_advantage:
        advantage = part["target"] - value.detach()
    if config.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    ratio = (log_prob - part["log_prob"]).exp()
    surrogates = ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage
    error = F.mse_loss(value, part["target"], reduction="none")
    if config.clip_value:
        moved = part["value"] + (value - part["value"]).clamp(-epsilon, epsilon)
        error = torch.max(error, F.mse_loss(moved, part["target"], reduction="none"))
    return {
        "policy_loss": -torch.min(*surrogates).mean(),
        "value_loss": config.value_coefficient * error.mean() / 2,
        "entropy": entropy.mean(),
    }


def make_optimizer(config, actor, critic, adam, scale):
    """Adam that goes on from the oracle's moments."""
    critic_rate = config.critic_learning_rate
    rates = config.learning_rate, config.learning_rate if critic_rate is None else critic_rate
    networks = actor, critic
    optimizer = torch.optim.Adam(
        [
            {"params": parameters, "lr": scale * rate}
            for parameters, rate in zip(networks, rates, strict=True)
        ],
        eps=config.adam_epsilon,
    )
    load_moments([optimizer], networks, adam)
    return optimizer


def load_moments(optimizers, networks, adam):
    owner = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    means, squares = oracle.halves(adam["mean"]), oracle.halves(adam["square"])
    for name, network in zip(("actor", "critic"), networks, strict=True):
        moments = zip(network, flat(means[name]), flat(squares[name]), strict=True)
        for parameter, mean, square in moments:
            owner[parameter].state[parameter] = {
                "step": torch.tensor(float(adam["count"])),
                "exp_avg": torch.tensor(mean.T.copy()),
                "exp_avg_sq": torch.tensor(square.T.copy()),
            }


def clip(parameters, limit):
    """As optax does it, without the 1e-6 of `clip_grad_norm_`."""
    norm = torch.linalg.vector_norm(torch.cat([p.grad.ravel() for p in parameters]))
    for parameter in parameters:
        parameter.grad *= torch.clamp(limit / norm, max=1)


def torch_update(problem, orders):
    """The parameters, Adam's state and the mean losses that PyTorch ends an update with."""
    config, (params, adam, held) = problem.config, problem.judged
    actor, critic = tensors(params["actor"]), tensors(params["critic"])
    log_std = flat(tensors(params.get("log_std", [])))
    networks = [*flat(actor), *log_std], flat(critic)
    both = [*networks[0], *networks[1]]
    scale = 1 - problem.num_updates / config.num_updates
    optimizer = make_optimizer(config, *networks, adam, scale)
    data = {name: torch.tensor(array) for name, array in held.items()}
    data["value"], data["advantage"], data["target"] = returns_and_advantages(config, critic, data)
    data = {name: tensor.flatten(0, 1) for name, tensor in data.items()}

    history = []
    for order in torch.tensor(orders):
        for chosen in order.split(config.transitions_per_minibatch):
            part = {name: tensor[chosen] for name, tensor in data.items()}
            loss = losses(
                config, problem.settings.actions, actor, *(log_std or [None]), critic, part
            )
            optimizer.zero_grad()
            bonus = config.entropy_coefficient * loss["entropy"]
            (loss["policy_loss"] + loss["value_loss"] - bonus).backward()
            for parameters in [both] if config.joint_grad_norm else networks:
                clip(parameters, config.max_grad_norm)
            optimizer.step()
            history.append({name: tensor.item() for name, tensor in loss.items()})
    means = {name: np.mean([loss[name] for loss in history]) for name in history[0]}
    return both, optimizer.state, means


def assert_same(tree, expected, tolerance=FLOAT64):
    """The library's trainable parameters against PyTorch's list."""
    arrays = [array for half in oracle.halves(oracle_tree(tree)).values() for array in flat(half)]
    for number, wanted in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(number, wanted.detach().numpy().T, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_distributions_and_their_gradients_are_pytorchs(kind):
    make, actions = KINDS[kind]
    problem = problem_of(kind, leading=(2, 4))
    output, log_std, action, noise = (torch.tensor(array) for array in problem)
    inputs = output.requires_grad_(), log_std.requires_grad_()
    judged = log_prob_and_entropy(actions, *inputs, {"action": action, "noise": noise})
    found = evaluated(make, *map(jax.numpy.asarray, problem))
    for (gradients, numbers), wanted in zip(found, judged, strict=True):
        np.testing.assert_allclose(numbers, wanted.detach(), **FLOAT64)
        expected = torch.autograd.grad(wanted.sum(), inputs, retain_graph=True, allow_unused=True)
        for gradient, tensor in zip(gradients, expected, strict=True):
            unused = torch.zeros(gradient.shape) if tensor is None else tensor
            np.testing.assert_allclose(gradient, unused, **FLOAT64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_update_is_pytorchs(case, seed):
    problem = make_problem(case, seed)
    (params, state, learned), _, orders = learn_and_orders(problem)
    expected, torchs, means = torch_update(problem, orders)
    adam, (_, to_tree) = moments_of(state), policy.halves(params)
    assert_same(params, expected)
    assert_same(to_tree(adam.mu), [torchs[parameter]["exp_avg"] for parameter in expected])
    assert_same(to_tree(adam.nu), [torchs[parameter]["exp_avg_sq"] for parameter in expected])
    for name, mean in means.items():
        np.testing.assert_allclose(metrics_of(learned)[name], mean, **FLOAT64)
