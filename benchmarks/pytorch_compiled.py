"""The PPO of `benchmarks.pytorch_tuned` with its gradient step compiled, PyTorch at its best here.

`torch.compile` makes one program of a minibatch's losses, their gradients, the clipping and Adam,
for which all parameters of a network lie in one vector. Acting stays as it is: compiled it took
as long or longer, and gymnasium's CartPole vectorised in NumPy is no faster than four of them
stepped one after the other (docs/performance.md).
"""

import functools
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from torch.optim.adam import adam

from benchmarks import pytorch_tuned
from benchmarks.pytorch_ppo import (
    NUM_ACTIONS,
    OBSERVATION_SIZE,
    Batch,
    Settings,
    Style,
    parameter_groups,
    surrogate_losses,
    train,
)

Moments = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""Adam's means, mean squares and step counts, each of actor and critic."""


class FlatAdam(Adam):
    """Adam of one network or both, whose parameters become views of one vector a network."""

    def __init__(self, groups: list[dict], epsilon: float) -> None:
        super().__init__(groups, eps=epsilon)
        self.vectors = [_flattened(group["params"]) for group in groups]

    @functools.cached_property
    def moments(self) -> Moments:
        """The moments as vectors: those that `state` holds at the first step, or else zero."""
        means, squares, counts = [], [], []
        for group, vector in zip(self.param_groups, self.vectors, strict=True):
            held = [self.state[parameter] for parameter in group["params"]]
            means.append(_joined(held, "exp_avg", vector))
            squares.append(_joined(held, "exp_avg_sq", vector))
            counts.append(held[0].get("step", torch.zeros(())).double())
        return means, squares, counts


def _flattened(parameters: list[nn.Parameter]) -> Tensor:
    vector = nn.utils.parameters_to_vector(parameters).detach()
    nn.utils.vector_to_parameters(vector, parameters)  # views of it, from here on
    return vector


def _joined(held: list[dict[str, Tensor]], name: str, like: Tensor) -> Tensor:
    if not held[0]:
        return torch.zeros_like(like)
    return torch.cat([state[name].flatten() for state in held])


def make_optimizers(
    actor: nn.Module, critic: nn.Module, settings: Settings, recipe: str
) -> list[Adam]:
    """The same optimizers, over vectors."""
    sets = parameter_groups(actor, critic, settings, recipe)
    return [FlatAdam(groups, settings.adam_epsilon) for groups in sets]


def forward(vector: Tensor, observation: Tensor, outputs: int, settings: Settings) -> Tensor:
    """A network's outputs [M, outputs] for observations [M, D], its parameters one vector."""
    sizes = list(pairwise((OBSERVATION_SIZE, *settings.hidden, outputs)))
    lengths = [length for rows, columns in sizes for length in (rows * columns, columns)]
    pieces = vector.split(lengths)
    nonlinearity = {nn.Tanh: torch.tanh, nn.ReLU: torch.relu}[settings.activation]
    for layer, (rows, columns) in enumerate(sizes):
        weight, bias = pieces[2 * layer].view(columns, rows), pieces[2 * layer + 1]
        observation = functional.linear(observation, weight, bias)
        if layer < len(sizes) - 1:
            observation = nonlinearity(observation)
    return observation


def loss_of(
    vectors: list[Tensor], minibatch: Batch, settings: Settings, recipe: str
) -> tuple[Tensor, Batch]:
    """The minibatch's loss to descend on, and the numbers that it is made of."""
    observation = minibatch["observation"]
    log_probs = forward(vectors[0], observation, NUM_ACTIONS, settings).log_softmax(-1)
    log_prob = pytorch_tuned.log_prob_of(log_probs, minibatch["action"])
    value = forward(vectors[1], observation, 1, settings).squeeze(-1)
    losses = surrogate_losses(log_prob, value, minibatch, settings, recipe)
    loss = losses["policy_loss"] + losses["value_loss"]
    if settings.entropy_coefficient:
        losses["entropy"] = -(log_probs.exp() * log_probs).sum(-1).mean()
        loss = loss - settings.entropy_coefficient * losses["entropy"]
    return loss, losses


def clipped(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """The gradients scaled to a joint norm of at most `max_norm`."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    scale = (max_norm / norm).clamp(max=1.0)
    return [gradient * scale for gradient in gradients]


@torch.compile
def gradient_step(
    vectors: list[Tensor],
    moments: Moments,
    rates: list[Tensor],
    minibatch: Batch,
    settings: Settings,
    recipe: str,
) -> Tensor:
    """Take one step of Adam in place, from actor's and critic's vectors; the losses, stacked."""
    gradients, losses = torch.func.grad(loss_of, has_aux=True)(vectors, minibatch, settings, recipe)
    limit = settings.max_gradient_norm
    if recipe == "standard":
        gradients = clipped(gradients, limit)
    else:  # each network by itself
        gradients = [clipped([gradient], limit)[0] for gradient in gradients]
    for network, rate in enumerate(rates):
        means, squares, counts = ([of_both[network]] for of_both in moments)
        adam(
            [vectors[network]],
            [gradients[network]],
            means,
            squares,
            [],
            counts,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=settings.adam_epsilon,
            maximize=False,
            foreach=False,
            capturable=True,
        )
    return torch.stack(list(losses.values()))


_NAMES = ("observation", "action", "log_prob", "value", "advantage", "target")


@torch.no_grad()
def update_minibatch(
    actor: nn.Module,
    critic: nn.Module,
    optimizers: Sequence[Adam],
    minibatch: Batch,
    settings: Settings,
    recipe: str,
) -> dict[str, float]:
    """Take the same gradient step in one compiled program."""
    vectors, rates = [], []
    moments: Moments = ([], [], [])
    for optimizer in optimizers:
        assert isinstance(optimizer, FlatAdam)
        vectors += optimizer.vectors
        rates += [
            torch.tensor(group["lr"], dtype=torch.float64) for group in optimizer.param_groups
        ]
        for of_both, own in zip(moments, optimizer.moments, strict=True):
            of_both += own
    # A dictionary in another order would be another program.
    ordered = {name: minibatch[name] for name in _NAMES if name in minibatch}
    losses = gradient_step(vectors, moments, rates, ordered, settings, recipe)
    return dict(zip(("policy_loss", "value_loss", "entropy"), losses.tolist(), strict=False))


STYLE = Style(
    make_optimizers,
    pytorch_tuned.fixed_rollouts,
    pytorch_tuned.whole_episodes,
    update_minibatch,
)


def warm_up(recipe: str, threads: int = 1) -> float:
    """Compile the recipe's gradient step by a short training; returns the seconds.

    An epoch of whole episodes ends in a smaller minibatch: one program more serves all sizes, and
    one those of one transition, which a hundred updates are long enough to meet.
    """
    started = time.perf_counter()
    num_updates = 100 if recipe == "notebook" else 2
    train(recipe, seed=0, num_updates=num_updates, threads=threads, style=STYLE)
    return time.perf_counter() - started
