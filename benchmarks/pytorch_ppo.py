"""PPO in PyTorch on gymnasium's CartPole-v1, recipes `notebook` and `standard`: a fair opponent.

`python -m benchmarks.pytorch_ppo --recipe standard --steps 50000 --seed 0` prints a line of JSON.
Shapes: T time steps, N environments, M transitions of a minibatch, D observed numbers, A actions.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor, nn
from torch.optim import Adam

ENVIRONMENT, OBSERVATION_SIZE, NUM_ACTIONS = "CartPole-v1", 4, 2

Batch = dict[str, Tensor]
Environment = gymnasium.Env[np.ndarray, int]
Environments = VectorEnv[np.ndarray, np.ndarray, np.ndarray]
Episodes = list[tuple[int, float]]


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
    """What a run has done so far; `seconds` is the training loop alone, without `on_update`."""

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


def make_optimizers(
    actor: nn.Module, critic: nn.Module, settings: Settings, recipe: str
) -> list[Adam]:
    """One Adam for each set of parameters whose gradient is clipped together."""
    groups = [
        {"params": [*actor.parameters()], "lr": settings.actor_learning_rate},
        {"params": [*critic.parameters()], "lr": settings.critic_learning_rate},
    ]
    sets = [groups] if recipe == "standard" else [[group] for group in groups]
    return [Adam(groups, eps=settings.adam_epsilon, fused=True) for groups in sets]


@torch.inference_mode()
def sample_actions(actor: nn.Module, observation: np.ndarray) -> np.ndarray:
    """Draw actions [N] from the policy at observations [N, D]."""
    probabilities = actor(torch.from_numpy(observation)).softmax(-1)
    return torch.multinomial(probabilities, 1).squeeze(-1).numpy()


def log_prob_of(log_probs: Tensor, action: Tensor) -> Tensor:
    """Pick from log-probabilities [..., A] those of the actions [...]."""
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


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


@torch.no_grad()
def whole_episodes(
    env: Environment, actor: nn.Module, critic: nn.Module, settings: Settings, seed: int
) -> Iterator[tuple[Batch, Episodes]]:
    """Yield batches of whole episodes, `num_steps` transitions or more, with their returns."""
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
                action = sample_actions(actor, observation[None])[0]
                observations.append(observation)
                actions.append(action)
                observation, reward, terminated, truncated, _ = env.step(action)
                rewards.append(float(reward))
            bootstrap = 0.0 if terminated else critic(torch.from_numpy(observation)).item()
            targets += discounted_returns(rewards, settings.discount, bootstrap)
            env_steps += len(rewards)
            episodes.append((env_steps, sum(rewards)))
        batch = {
            "observation": torch.from_numpy(np.stack(observations)),
            "action": torch.tensor(actions),
            "target": torch.tensor(targets),
        }
        log_probs = actor(batch["observation"]).log_softmax(-1)
        batch["log_prob"] = log_prob_of(log_probs, batch["action"])
        yield batch, episodes


@torch.no_grad()
def fixed_rollouts(
    envs: Environments, actor: nn.Module, critic: nn.Module, settings: Settings, seed: int
) -> Iterator[tuple[Batch, Episodes]]:
    """Yield batches of `num_steps` steps of every environment, with the ended episodes' returns."""
    size = (settings.num_steps, settings.num_envs)
    storage = (
        torch.empty(*size, OBSERVATION_SIZE),
        torch.empty(*size, OBSERVATION_SIZE),
        torch.empty(size, dtype=torch.int64),
        torch.empty(size),
        torch.empty(size, dtype=torch.bool),
        torch.empty(size, dtype=torch.bool),
    )
    observations, final_observations, actions, rewards, terminations, dones = storage
    # The same memory seen by numpy, where assigning a row costs a fraction of PyTorch's time.
    arrays = [tensor.numpy() for tensor in storage]

    env_steps = 0
    episode_returns = np.zeros(settings.num_envs)
    observation, _ = envs.reset(seed=seed * settings.num_envs)
    while True:
        episodes: Episodes = []
        for t in range(settings.num_steps):
            action = sample_actions(actor, observation)
            following, reward, terminated, truncated, info = envs.step(action)
            done = terminated | truncated
            env_steps += settings.num_envs
            episode_returns += reward
            final = following
            if done.any():
                final = following.copy()
                final[done] = np.stack(info["final_obs"][done])
                episodes += [(env_steps, float(total)) for total in episode_returns[done]]
                episode_returns[done] = 0
            step = (observation, final, action, reward, terminated, done)
            for array, row in zip(arrays, step, strict=True):
                array[t] = row
            observation = following

        # Acting needs the actor alone, so the critic sees the whole rollout at once.
        values = critic(observations).squeeze(-1)
        final_values = critic(final_observations).squeeze(-1)
        deltas = rewards + settings.discount * final_values * ~terminations - values
        advantages = gae(deltas, settings.discount * settings.gae_lambda * ~dones)
        log_probs = actor(observations).log_softmax(-1)
        batch = {
            "observation": observations,
            "action": actions,
            "log_prob": log_prob_of(log_probs, actions),
            "advantage": advantages,
            "target": advantages + values,
            "value": values,
        }
        yield {name: tensor.flatten(0, 1) for name, tensor in batch.items()}, episodes


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Scale the gradients to a joint norm of at most `max_norm` (`clip_grad_norm_` adds 1e-6)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    scale = (max_norm / norm).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


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
    target, clip_range = minibatch["target"], settings.clip_range
    value = critic(minibatch["observation"]).squeeze(-1)
    squared_error = (value - target).square()
    if recipe == "notebook":
        advantage = target - value.detach()
    else:
        advantage = minibatch["advantage"]
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        old_value = minibatch["value"]
        clipped_value = old_value + (value - old_value).clamp(-clip_range, clip_range)
        squared_error = torch.maximum(squared_error, (clipped_value - target).square())
    value_loss = settings.value_coefficient * 0.5 * squared_error.mean()

    log_probs = actor(minibatch["observation"]).log_softmax(-1)
    ratio = (log_prob_of(log_probs, minibatch["action"]) - minibatch["log_prob"]).exp()
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
    policy_loss = -torch.minimum(ratio * advantage, clipped_ratio * advantage).mean()
    losses = {"policy_loss": policy_loss, "value_loss": value_loss}
    # The networks share no parameter: one backward pass gives each its own loss's gradient.
    loss = policy_loss + value_loss
    if settings.entropy_coefficient:
        losses["entropy"] = -(log_probs.exp() * log_probs).sum(-1).mean()
        loss = loss - settings.entropy_coefficient * losses["entropy"]

    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        groups = optimizer.param_groups
        clip_gradients((p for group in groups for p in group["params"]), settings.max_gradient_norm)
        optimizer.step()
    return {name: tensor.item() for name, tensor in losses.items()}


def train(
    recipe: str,
    seed: int,
    max_env_steps: int | None = None,
    num_updates: int | None = None,
    threads: int = 1,
    on_update: Callable[[Result], bool | None] | None = None,
) -> Result:
    """Train until a limit (with none, the recipe's own length) or until `on_update` returns True.

    `standard` anneals its learning rate to 0 over the updates that the limits leave it.
    """
    settings = RECIPES[recipe]
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    actor, critic = make_networks(settings, recipe)
    optimizers = make_optimizers(actor, critic, settings, recipe)
    limit = math.inf if max_env_steps is None else max_env_steps
    if num_updates is None:
        num_updates = settings.num_updates if max_env_steps is None else sys.maxsize
    if recipe == "standard":
        num_updates = int(min(num_updates, limit // (settings.num_envs * settings.num_steps)))
        batches = fixed_rollouts(make_envs(settings.num_envs), actor, critic, settings, seed)
    else:
        batches = whole_episodes(gymnasium.make(ENVIRONMENT), actor, critic, settings, seed)
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
                losses.append(update_minibatch(actor, critic, optimizers, part, settings, recipe))
        result.updates += 1
        result.env_steps += len(batch["action"])
        result.gradient_steps += len(losses)
        result.returns += episodes
        result.losses = {name: fmean(loss[name] for loss in losses) for name in losses[0]}
        result.seconds += time.perf_counter() - start
        if on_update is not None and on_update(result):
            break
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
    options = vars(parser.parse_args())
    seed = options["seed"]
    result = train(
        options["recipe"], seed, options["steps"], options["updates"], options["threads"]
    )
    report = options | {
        "env_steps": result.env_steps,
        "seconds": round(result.seconds, 3),
        "steps_per_second": round(result.env_steps / result.seconds, 1),
        "gradient_steps_per_second": round(result.gradient_steps / result.seconds, 1),
        "evaluation_return": evaluate(result.actor, seed + 1_000_000),  # episodes never trained on
        "torch": torch.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
