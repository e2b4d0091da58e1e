"""A policy's return over many episodes: pure, jittable, vmappable."""

from typing import Any

import jax
import jax.numpy as jnp

from ppo_jax import env, policy
from ppo_jax.config import Config


def evaluate(
    params: policy.Params,
    config: Config,
    key: jax.Array,
    num_episodes: int,
    sampled: bool = False,
) -> jax.Array:
    """Undiscounted return of each of `num_episodes` fresh episodes, greedy or `sampled`.

    The episodes run side by side, each to its termination or truncation; observations are scaled
    by the statistics in `params`, which stay as they are.
    Returns [num_episodes], in the reward's own unit.
    """
    environment, own_policy = env.make(config), policy.make(config)
    reset_key, step_key = jax.random.split(key)
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(reset_key, num_episodes))

    def running(carry: Any) -> jax.Array:
        return jnp.any(~carry[4])

    def step(carry: Any) -> Any:
        env_state, observation, memory, start, ended, total, index = carry
        distribution, _, memory = own_policy.apply(params, observation, memory, start)
        own_key = jax.random.fold_in(step_key, index)
        action = distribution.mode()
        if sampled:
            noise_key = jax.random.fold_in(own_key, num_episodes)
            action = distribution.sample(own_policy.noise(noise_key, (num_episodes,)))
        keys = jax.random.split(own_key, num_episodes)
        env_state, timestep = jax.vmap(environment.step)(
            keys, env_state, own_policy.env_action(action)
        )
        total = total + jnp.where(ended, 0, timestep.reward)
        ended = ended | timestep.terminated | timestep.truncated
        start = jnp.zeros(num_episodes, bool)
        return env_state, timestep.observation, memory, start, ended, total, index + 1

    carry = (
        env_state,
        observation,
        own_policy.initial_memory(num_episodes),
        jnp.ones(num_episodes, bool),
        jnp.zeros(num_episodes, bool),
        jnp.zeros(num_episodes),
        jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(running, step, carry)[5]
