"""A policy's return over many episodes: pure, jittable, vmappable."""

import jax
import jax.numpy as jnp

from ppo_jax import env, network
from ppo_jax.config import Config
from ppo_jax.distributions import Categorical


def evaluate(
    params: network.Parameters, config: Config, key: jax.Array, num_episodes: int
) -> jax.Array:
    """Undiscounted return of each of `num_episodes` fresh episodes with the greedy policy.

    The episodes run side by side, each to its termination or truncation.
    Returns [num_episodes], in the reward's unit.
    """
    environment = env.make(config)
    reset_key, step_key = jax.random.split(key)
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(reset_key, num_episodes))

    def running(carry):
        return jnp.any(~carry[2])

    def step(carry):
        env_state, observation, ended, total, index = carry
        logits = network.apply(params.actor, observation, config.activation)
        keys = jax.random.split(jax.random.fold_in(step_key, index), num_episodes)
        env_state, timestep = jax.vmap(environment.step)(
            keys, env_state, Categorical(logits).mode()
        )
        total = total + jnp.where(ended, 0, timestep.reward)
        ended = ended | timestep.terminated | timestep.truncated
        return env_state, timestep.observation, ended, total, index + 1

    ended = jnp.zeros(num_episodes, bool)
    carry = env_state, observation, ended, jnp.zeros(num_episodes), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(running, step, carry)[3]
