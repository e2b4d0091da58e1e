"""Environments as two pure functions: made from a configuration, checked, named."""

from ppo_jax import objects
from ppo_jax.config import Config
from ppo_jax.environment import Environment, State, Step
from ppo_jax.envs import sources, wrappers
from ppo_jax.envs.check import check_environment
from ppo_jax.envs.scores import BEST, SOLVED_AT, Best
from ppo_jax.envs.sources import in_gymnax, is_known, names, parameter

__all__ = [
    "BEST",
    "SOLVED_AT",
    "Best",
    "Environment",
    "State",
    "Step",
    "check_environment",
    "in_gymnax",
    "is_known",
    "make",
    "names",
    "parameter",
]


def make(config: Config) -> Environment:
    """The environment that `config` names, or holds, with its parameters and its time limit.

    Args:
        config: Values of `env_params` may be traced.

    Returns:
        Functions of one environment; a reset and a step give the same types.

    Raises:
        ValueError: In one line, for an unknown name, a parameter or argument that the environment
            does not have, or one without a time limit.
        ImportError: For gymnax older than 1.0.
    """
    raw, counts = sources.as_written(config)
    if not raw.max_episode_steps:
        raise ValueError(
            f"{objects.name(config.env)} has no time limit of its own; give max_episode_steps"
        )
    environment = wrappers.with_stable_types(raw)
    if not counts:
        environment = wrappers.with_clock(environment, raw.max_episode_steps)
    if config.previous_action or config.previous_reward:
        environment = wrappers.with_previous(environment, config)
    return wrappers.terminating(environment) if config.time_limit == "terminate" else environment
