"""A policy's return over many episodes, and what it saw and did: pure, jittable, vmappable."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax import env, policy
from ppo_jax.config import Config


class _Episodes(NamedTuple):
    """Episodes under way, [episodes, ...]."""

    env_state: Any
    observation: Any
    memory: Any
    start: jax.Array
    ended: jax.Array
    total: jax.Array  # the return so far
    time: jax.Array  # the step, []


def evaluate(
    params: policy.Params,
    config: Config,
    key: jax.Array,
    num_episodes: int,
    sampled: bool = False,
) -> jax.Array:
    """Undiscounted return of each of `num_episodes` fresh episodes.

    The episodes run side by side, each to its termination or truncation; observations are scaled
    by the statistics in `params`, which stay as they are.

    Args:
        params: One agent's.
        num_episodes: Static.
        sampled: Draw actions, with noise of its own in every step (no `noise_correlation`), instead
            of greedy ones. Static.

    Returns:
        [num_episodes], in the environment's own reward unit.
    """
    environment, own_policy = env.make(config), policy.make(config)
    reset_key, step_key = jax.random.split(key)
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(reset_key, num_episodes))

    def step(now: _Episodes) -> _Episodes:
        distribution, _, memory = own_policy.apply(params, now.observation, now.memory, now.start)
        own_key = jax.random.fold_in(step_key, now.time)
        action = distribution.mode()
        if sampled:
            noise_key = jax.random.fold_in(own_key, num_episodes)
            action = distribution.sample(own_policy.noise(noise_key, (num_episodes,)))
        keys = jax.random.split(own_key, num_episodes)
        env_state, timestep = jax.vmap(environment.step)(
            keys, now.env_state, own_policy.env_action(action)
        )
        return _Episodes(
            env_state=env_state,
            observation=timestep.observation,
            memory=memory,
            start=jnp.zeros(num_episodes, bool),
            ended=now.ended | timestep.terminated | timestep.truncated,
            total=now.total + jnp.where(now.ended, 0, timestep.reward),
            time=now.time + 1,
        )

    first = _Episodes(
        env_state=env_state,
        observation=observation,
        memory=own_policy.initial_memory(num_episodes),
        start=jnp.ones(num_episodes, bool),
        ended=jnp.zeros(num_episodes, bool),
        total=jnp.zeros(num_episodes),
        time=jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(lambda now: jnp.any(~now.ended), step, first).total


class Trace(NamedTuple):
    """What an agent saw and did in every step of its episodes, [T, episodes, ...].

    `valid` is false after an episode's end.
    """

    observation: Any  # that the agent acted on
    action: jax.Array  # as the environment received it
    reward: jax.Array
    value: jax.Array  # V(observation)
    policy: dict[str, jax.Array]  # what the distribution says of itself, [T, episodes, n] each
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array
    env_state: Any  # that the agent acted in; drop it in a jitted function that has no need of it


def play(
    params: policy.Params,
    config: Config,
    key: jax.Array,
    num_episodes: int,
    sampled: bool,
    num_steps: int | None = None,
) -> Trace:
    """Fresh episodes, as everything that the agent saw and did.

    With the same key the greedy episodes are those of `evaluate`.

    Args:
        params: One agent's.
        num_episodes: Static.
        sampled: Draw actions instead of taking the greedy ones.
        num_steps: T, the steps of each; None is the time limit.

    Returns:
        [T, num_episodes, ...]; rewards in the environment's own unit.
    """
    environment, own_policy = env.make(config), policy.make(config)
    limit = num_steps or environment.max_episode_steps
    assert limit is not None
    shape = limit, num_episodes
    reset_key, step_key = jax.random.split(key)
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(reset_key, num_episodes))
    step_keys = jax.vmap(
        lambda index: jax.random.split(jax.random.fold_in(step_key, index), num_episodes)
    )(jnp.arange(shape[0]))
    noise = own_policy.noise(jax.random.fold_in(key, 2), shape)

    def step(carry: Any, drawn: tuple[jax.Array, jax.Array]) -> Any:
        env_state, observation, memory, start, active = carry
        keys, noise = drawn
        distribution, value, memory = own_policy.apply(params, observation, memory, start)
        action = own_policy.env_action(
            distribution.sample(noise) if sampled else distribution.mode()
        )
        next_state, timestep = jax.vmap(environment.step)(keys, env_state, action)
        one = Trace(
            observation=observation,
            action=action,
            reward=timestep.reward,
            value=value,
            policy=distribution.describe(),
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            valid=active,
            env_state=env_state,
        )
        active = active & ~(timestep.terminated | timestep.truncated)
        start = jnp.zeros(num_episodes, bool)
        return (next_state, timestep.observation, memory, start, active), one

    begins = jnp.ones(num_episodes, bool)
    carry = env_state, observation, own_policy.initial_memory(num_episodes), begins, begins
    return jax.lax.scan(step, carry, (step_keys, noise))[1]
