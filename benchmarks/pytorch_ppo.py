"""PPO on gymnasium's CartPole-v1 as PyTorch's users write it, recipes `notebook` and `standard`.

`python -m benchmarks.pytorch_ppo --recipe standard --steps 50000 --seed 0` prints a line of JSON;
with `--tuned` the functions of `benchmarks.pytorch_tuned` take the place of those in `PLAIN`.
Shapes: T time steps, N environments, M transitions of a minibatch, D observed numbers, A actions.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam

ENVIRONMENT, OBSERVATION_SIZE, NUM_ACTIONS = "CartPole-v1", 4, 2

Batch = dict[str, Tensor]
Environment = gymnasium.Env[np.ndarray, int]
Environments = VectorEnv[np.ndarray, np.ndarray, np.ndarray]
Episodes = list[tuple[int, float]]
Rollouts = Iterator[tuple[Batch, Episodes]]


@dataclass(frozen=True)
class Settings:
    """The numbers of one recipe, by default `standard`; the rest branches on the recipe's name."""

    num_envs: int = 4
    num_steps: int = 128
    """Steps of every environment in one update; `notebook`: the fewest that its episodes give."""
    num_updates: int = 976
    hidden: tuple[int, ...] = (64, 64)
    activation: type[nn.Module] = nn.Tanh
    actor_learning_rate: float = 2.5e-4
    critic_learning_rate: float = 2.5e-4
    adam_epsilon: float = 1e-5
    epochs: int = 4
    minibatch_size: int = 128
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.01
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    max_gradient_norm: float = 0.5


RECIPES = {
    "standard": Settings(),
    "notebook": Settings(
        num_envs=1,
        num_steps=32,
        num_updates=1000,
        hidden=(100,),
        activation=nn.ReLU,
        actor_learning_rate=1e-3,
        critic_learning_rate=3e-3,
        adam_epsilon=1e-8,
        epochs=10,
        minibatch_size=32,
        value_coefficient=2.0,
        entropy_coefficient=0.0,
        gae_lambda=1.0,
    ),
}


@dataclass
class Result:
    """What a run has done so far; `seconds` is the time spent in the training loop."""

    actor: nn.Module
    critic: nn.Module
    updates: int = 0
    env_steps: int = 0
    gradient_steps: int = 0
    seconds: float = 0.0
    returns: Episodes = field(default_factory=list)
    """(environment step of its end, return) of every finished episode."""
    losses: dict[str, float] = field(default_factory=dict)
    """Means over the gradient steps of the last update."""


def make_mlp(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """A multilayer perceptron with a linear last layer, weights and biases in ±1/√fan_in."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def orthogonal_(network: nn.Sequential, head_gain: float) -> None:
    """Make weights orthogonal, with gain √2 but `head_gain` in the last layer, and biases zero."""
    *hidden, head = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, gain in [*((layer, math.sqrt(2)) for layer in hidden), (head, head_gain)]:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)


def make_networks(settings: Settings, recipe: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The actor [M, D] -> logits [M, A] and the critic [M, D] -> [M, 1]."""
    body = (OBSERVATION_SIZE, *settings.hidden)
    actor = make_mlp((*body, NUM_ACTIONS), settings.activation)
    critic = make_mlp((*body, 1), settings.activation)
    if recipe == "standard":
        orthogonal_(actor, head_gain=0.01)
        orthogonal_(critic, head_gain=1.0)
    return actor, critic


def parameter_groups(
    actor: nn.Module, critic: nn.Module, settings: Settings, recipe: str
) -> list[list[dict[str, Any]]]:
    """Adam's parameter groups, in a list of their own those whose gradient is clipped together."""
    groups = [
        {"params": [*actor.parameters()], "lr": settings.actor_learning_rate},
        {"params": [*critic.parameters()], "lr": settings.critic_learning_rate},
    ]
    return [groups] if recipe == "standard" else [[group] for group in groups]


def make_optimizers(
    actor: nn.Module, critic: nn.Module, settings: Settings, recipe: str
) -> list[Adam]:
    """One Adam for each set of parameters whose gradient is clipped together."""
    sets = parameter_groups(actor, critic, settings, recipe)
    return [Adam(groups, eps=settings.adam_epsilon) for groups in sets]


def discounted_returns(rewards: Sequence[float], discount: float, bootstrap: float) -> list[float]:
    """Discounted reward-to-go of one episode, G[t] = r[t] + γ G[t+1], G[T] = bootstrap."""
    returns, following = [], bootstrap
    for reward in reversed(rewards):
        following = reward + discount * following
        returns.append(following)
    return returns[::-1]


def gae(deltas: Tensor, decays: Tensor) -> Tensor:
    """Generalised advantages [T, N], A[t] = δ[t] + decay[t] A[t+1], A[T] = 0."""
    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + decays[t] * following
        advantages[t] = following
    return advantages


def make_envs(num_envs: int) -> Environments:
    """Environments stepped one after the other, whose info has the observation before a reset."""
    return SyncVectorEnv(
        [lambda: gymnasium.make(ENVIRONMENT)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
    )


def take_ended(running: np.ndarray, done: np.ndarray, env_steps: int) -> Episodes:
    """Take from the running returns [N] those of the ended episodes, which start again at 0."""
    ended = [(env_steps, float(total)) for total in running[done]]
    running[done] = 0
    return ended


def with_advantages(
    stored: Batch, rewards: Tensor, next_values: Tensor, dones: Tensor, settings: Settings
) -> Batch:
    """The stored transitions [T, N] with generalised advantages and value targets, as [T * N]."""
    deltas = rewards + settings.discount * next_values - stored["value"]
    advantages = gae(deltas, settings.discount * settings.gae_lambda * ~dones)
    batch = stored | {"advantage": advantages, "target": advantages + stored["value"]}
    return {name: tensor.flatten(0, 1) for name, tensor in batch.items()}


@torch.no_grad()
def play_episodes(
    env: Environment,
    act: Callable[[np.ndarray], int],
    critic: nn.Module,
    settings: Settings,
    seed: int,
) -> Rollouts:
    """Yield whole episodes, `num_steps` transitions or more and no log_prob, with their returns."""
    env_steps = 0
    env.reset(seed=seed)
    while True:
        observations: list[np.ndarray] = []
        actions: list[int] = []
        targets: list[float] = []
        episodes: Episodes = []
        while len(actions) < settings.num_steps:
            observation, _ = env.reset()
            rewards: list[float] = []
            terminated = truncated = False
            while not (terminated or truncated):
                action = act(observation)
                observations.append(observation)
                actions.append(action)
                observation, reward, terminated, truncated, _ = env.step(action)
                rewards.append(float(reward))
            bootstrap = 0.0 if terminated else critic(torch.as_tensor(observation)).item()
            targets += discounted_returns(rewards, settings.discount, bootstrap)
            env_steps += len(rewards)
            episodes.append((env_steps, sum(rewards)))
        batch = {
            "observation": torch.as_tensor(np.stack(observations)),
            "action": torch.tensor(actions),
            "target": torch.tensor(targets),
        }
        yield batch, episodes


def whole_episodes(
    env: Environment, actor: nn.Module, critic: nn.Module, settings: Settings, seed: int
) -> Rollouts:
    """Yield batches of whole episodes, with the log-probabilities stored when acting."""
    log_probs: list[Tensor] = []

    def act(observation: np.ndarray) -> int:
        policy = Categorical(logits=actor(torch.as_tensor(observation)))
        action = policy.sample()
        log_probs.append(policy.log_prob(action))
        return int(action.item())

    for batch, episodes in play_episodes(env, act, critic, settings, seed):
        batch["log_prob"] = torch.stack(log_probs)
        log_probs.clear()
        yield batch, episodes


@torch.no_grad()
def fixed_rollouts(
    envs: Environments, actor: nn.Module, critic: nn.Module, settings: Settings, seed: int
) -> Rollouts:
    """Yield batches of `num_steps` steps of every environment, with the ended episodes' returns."""
    size = (settings.num_steps, settings.num_envs)
    stored = {
        "observation": torch.empty(*size, OBSERVATION_SIZE),
        "action": torch.empty(size, dtype=torch.int64),
        "log_prob": torch.empty(size),
        "value": torch.empty(size),
    }
    rewards = torch.empty(size)
    dones = torch.empty(size, dtype=torch.bool)

    env_steps = 0
    running = np.zeros(settings.num_envs)
    first, _ = envs.reset(seed=seed * settings.num_envs)
    observation = torch.as_tensor(first)
    while True:
        episodes: Episodes = []
        final_values = torch.zeros(size)  # of the states that truncations cut off
        for t in range(settings.num_steps):
            policy = Categorical(logits=actor(observation))
            action = policy.sample()
            stored["observation"][t] = observation
            stored["action"][t] = action
            stored["log_prob"][t] = policy.log_prob(action)
            stored["value"][t] = critic(observation).squeeze(-1)
            following, reward, terminated, truncated, info = envs.step(action.numpy())
            done, cut_off = terminated | truncated, truncated & ~terminated
            rewards[t] = torch.as_tensor(reward)
            dones[t] = torch.as_tensor(done)
            if cut_off.any():
                final = torch.as_tensor(np.stack(info["final_obs"][cut_off]))
                final_values[t, torch.as_tensor(cut_off)] = critic(final).squeeze(-1)
            env_steps += settings.num_envs
            running += reward
            episodes += take_ended(running, done, env_steps)
            observation = torch.as_tensor(following)

        last_value = critic(observation).squeeze(-1)
        next_values = torch.cat([stored["value"][1:], last_value.unsqueeze(0)])
        next_values = torch.where(dones, final_values, next_values)
        yield with_advantages(stored, rewards, next_values, dones, settings), episodes


def surrogate_losses(
    log_prob: Tensor, value: Tensor, minibatch: Batch, settings: Settings, recipe: str
) -> Batch:
    """The clipped losses of the policy and of the value, means over the minibatch [M]."""
    target, clip_range = minibatch["target"], settings.clip_range
    squared_error = (value - target).square()
    if recipe == "notebook":
        advantage = target - value.detach()
    else:
        advantage = minibatch["advantage"]
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        old_value = minibatch["value"]
        clipped_value = old_value + (value - old_value).clamp(-clip_range, clip_range)
        squared_error = torch.maximum(squared_error, (clipped_value - target).square())
    ratio = (log_prob - minibatch["log_prob"]).exp()
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
    return {
        "policy_loss": -torch.minimum(ratio * advantage, clipped_ratio * advantage).mean(),
        "value_loss": settings.value_coefficient * 0.5 * squared_error.mean(),
    }


def descend(
    losses: Batch,
    optimizers: Sequence[Adam],
    settings: Settings,
    clip: Callable[[list[Tensor], float], object],
) -> dict[str, float]:
    """Take one step of every optimizer along its clipped gradient; return the losses' numbers."""
    # The networks share no parameter: one backward pass gives each its own loss's gradient.
    loss = losses["policy_loss"] + losses["value_loss"]
    if "entropy" in losses:
        loss = loss - settings.entropy_coefficient * losses["entropy"]
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        clip(parameters, settings.max_gradient_norm)
        optimizer.step()
    return {name: tensor.item() for name, tensor in losses.items()}


def update_minibatch(
    actor: nn.Module,
    critic: nn.Module,
    optimizers: Sequence[Adam],
    minibatch: Batch,
    settings: Settings,
    recipe: str,
) -> dict[str, float]:
    """Take one gradient step on observation [M, D] and the rest of the minibatch [M].

    That is action, log_prob and target; `standard` needs the rollout's advantage and value as well.
    """
    policy = Categorical(logits=actor(minibatch["observation"]))
    log_prob = policy.log_prob(minibatch["action"])
    value = critic(minibatch["observation"]).squeeze(-1)
    losses = surrogate_losses(log_prob, value, minibatch, settings, recipe)
    if settings.entropy_coefficient:
        losses["entropy"] = policy.entropy().mean()
    return descend(losses, optimizers, settings, clip_grad_norm_)


class Style(NamedTuple):
    """The functions that a way of writing PPO in PyTorch does its own way."""

    make_optimizers: Callable[[nn.Module, nn.Module, Settings, str], list[Adam]]
    fixed_rollouts: Callable[[Environments, nn.Module, nn.Module, Settings, int], Rollouts]
    whole_episodes: Callable[[Environment, nn.Module, nn.Module, Settings, int], Rollouts]
    update_minibatch: Callable[
        [nn.Module, nn.Module, Sequence[Adam], Batch, Settings, str], dict[str, float]
    ]


PLAIN = Style(make_optimizers, fixed_rollouts, whole_episodes, update_minibatch)


def training(
    recipe: str,
    seed: int,
    max_env_steps: int | None = None,
    num_updates: int | None = None,
    threads: int = 1,
    style: Style = PLAIN,
) -> Iterator[Result]:
    """Train up to a limit (with none, the recipe's own length), and yield after every update.

    `standard` anneals its learning rate to 0 over the updates that the limits leave it.
    """
    settings = RECIPES[recipe]
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    actor, critic = make_networks(settings, recipe)
    optimizers = style.make_optimizers(actor, critic, settings, recipe)
    limit = math.inf if max_env_steps is None else max_env_steps
    if num_updates is None:
        num_updates = settings.num_updates if max_env_steps is None else sys.maxsize
    if recipe == "standard":
        num_updates = int(min(num_updates, limit // (settings.num_envs * settings.num_steps)))
        envs = make_envs(settings.num_envs)
        batches = style.fixed_rollouts(envs, actor, critic, settings, seed)
    else:
        env = gymnasium.make(ENVIRONMENT)
        batches = style.whole_episodes(env, actor, critic, settings, seed)
    if num_updates < 1:
        raise ValueError(f"{max_env_steps=} and {num_updates=} leave no update of {recipe!r}")

    result = Result(actor, critic)
    while result.updates < num_updates and result.env_steps < limit:
        start = time.perf_counter()
        if recipe == "standard":
            rate = settings.actor_learning_rate * (1 - result.updates / num_updates)
            for group in optimizers[0].param_groups:
                group["lr"] = rate
        batch, episodes = next(batches)
        losses = []
        for _ in range(settings.epochs):
            permutation = torch.randperm(len(batch["action"]))
            for index in torch.split(permutation, settings.minibatch_size):
                part = {name: tensor[index] for name, tensor in batch.items()}
                losses.append(
                    style.update_minibatch(actor, critic, optimizers, part, settings, recipe)
                )
        result.updates += 1
        result.env_steps += len(batch["action"])
        result.gradient_steps += len(losses)
        result.returns += episodes
        result.losses = {name: fmean(loss[name] for loss in losses) for name in losses[0]}
        result.seconds += time.perf_counter() - start
        yield result


def train(
    recipe: str,
    seed: int,
    max_env_steps: int | None = None,
    num_updates: int | None = None,
    threads: int = 1,
    style: Style = PLAIN,
) -> Result:
    """The result of a whole `training`."""
    *_, result = training(recipe, seed, max_env_steps, num_updates, threads, style)
    return result


@torch.inference_mode()
def evaluate(actor: nn.Module, seed: int, num_episodes: int = 100) -> float:
    """Mean return of the greedy policy over one episode in each of `num_episodes` environments."""
    envs = make_envs(num_episodes)
    returns, running = np.zeros(num_episodes), np.ones(num_episodes, dtype=bool)
    observation, _ = envs.reset(seed=seed)
    while running.any():
        action = actor(torch.from_numpy(observation)).argmax(-1).numpy()
        observation, reward, terminated, truncated, _ = envs.step(action)
        returns += reward * running
        running &= ~(terminated | truncated)
    return float(returns.mean())


def main() -> None:
    """Train once as the command line says and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="standard")
    parser.add_argument("--steps", type=int, help="environment steps, at most")
    parser.add_argument("--updates", type=int, help="updates, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tuned", action="store_true", help="the functions of pytorch_tuned")
    options = parser.parse_args()
    style = PLAIN
    if options.tuned:
        from benchmarks import pytorch_tuned  # which itself imports this module

        style = pytorch_tuned.STYLE
    result = train(
        options.recipe, options.seed, options.steps, options.updates, options.threads, style
    )
    evaluation_seed = options.seed + 1_000_000  # episodes never trained on
    report = vars(options) | {
        "env_steps": result.env_steps,
        "seconds": round(result.seconds, 3),
        "steps_per_second": round(result.env_steps / result.seconds, 1),
        "gradient_steps_per_second": round(result.gradient_steps / result.seconds, 1),
        "evaluation_return": evaluate(result.actor, evaluation_seed),
        "torch": torch.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
