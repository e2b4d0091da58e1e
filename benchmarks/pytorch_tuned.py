"""The PPO of `benchmarks.pytorch_ppo`, tuned for its small networks on a CPU.

The same algorithm with fewer and cheaper calls into PyTorch: actions drawn without a distribution
object, values and log-probabilities of a whole rollout computed at once, storage written through
numpy, Adam fused into one call, and gradients clipped with the few operations it takes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.pytorch_ppo import (
    OBSERVATION_SIZE,
    Batch,
    Environment,
    Environments,
    Episodes,
    Rollouts,
    Settings,
    Style,
    descend,
    parameter_groups,
    play_episodes,
    surrogate_losses,
    take_ended,
    with_advantages,
)


def make_optimizers(
    actor: nn.Module, critic: nn.Module, settings: Settings, recipe: str
) -> list[Adam]:
    """The same optimizers, each taking its step in one call."""
    sets = parameter_groups(actor, critic, settings, recipe)
    return [Adam(groups, eps=settings.adam_epsilon, fused=True) for groups in sets]


@torch.inference_mode()
def sample_actions(actor: nn.Module, observation: np.ndarray) -> np.ndarray:
    """Draw actions [N] from the policy at observations [N, D]."""
    probabilities = actor(torch.from_numpy(observation)).softmax(-1)
    return torch.multinomial(probabilities, 1).squeeze(-1).numpy()


def log_prob_of(log_probs: Tensor, action: Tensor) -> Tensor:
    """Pick from log-probabilities [..., A] those of the actions [...]."""
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def whole_episodes(
    env: Environment, actor: nn.Module, critic: nn.Module, settings: Settings, seed: int
) -> Rollouts:
    """Yield batches of whole episodes, with the log-probabilities of a batch computed at once."""

    def act(observation: np.ndarray) -> int:
        return int(sample_actions(actor, observation[None])[0])

    for batch, episodes in play_episodes(env, act, critic, settings, seed):
        log_probs = actor(batch["observation"]).log_softmax(-1)
        batch["log_prob"] = log_prob_of(log_probs, batch["action"])
        yield batch, episodes


@torch.no_grad()
def fixed_rollouts(
    envs: Environments, actor: nn.Module, critic: nn.Module, settings: Settings, seed: int
) -> Rollouts:
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
    running = np.zeros(settings.num_envs)
    observation, _ = envs.reset(seed=seed * settings.num_envs)
    while True:
        episodes: Episodes = []
        for t in range(settings.num_steps):
            action = sample_actions(actor, observation)
            following, reward, terminated, truncated, info = envs.step(action)
            done = terminated | truncated
            env_steps += settings.num_envs
            running += reward
            final = following
            if done.any():
                final = following.copy()
                final[done] = np.stack(info["final_obs"][done])
                episodes += take_ended(running, done, env_steps)
            step = (observation, final, action, reward, terminated, done)
            for array, row in zip(arrays, step, strict=True):
                array[t] = row
            observation = following

        # Acting needs the actor alone, so the critic sees the whole rollout at once.
        stored = {
            "observation": observations,
            "action": actions,
            "log_prob": log_prob_of(actor(observations).log_softmax(-1), actions),
            "value": critic(observations).squeeze(-1),
        }
        next_values = critic(final_observations).squeeze(-1) * ~terminations
        yield with_advantages(stored, rewards, next_values, dones, settings), episodes


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> None:
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
    """Take the same gradient step without a distribution object."""
    log_probs = actor(minibatch["observation"]).log_softmax(-1)
    log_prob = log_prob_of(log_probs, minibatch["action"])
    value = critic(minibatch["observation"]).squeeze(-1)
    losses = surrogate_losses(log_prob, value, minibatch, settings, recipe)
    if settings.entropy_coefficient:
        losses["entropy"] = -(log_probs.exp() * log_probs).sum(-1).mean()
    return descend(losses, optimizers, settings, clip_gradients)


STYLE = Style(make_optimizers, fixed_rollouts, whole_episodes, update_minibatch)
