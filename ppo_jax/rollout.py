"""Transitions from the current policy: fixed-length rollouts, and whole episodes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax import network
from ppo_jax.config import Config
from ppo_jax.distributions import Categorical
from ppo_jax.env import Environment


class Transition(NamedTuple):
    """Steps of N environments, time-major [T, N, ...].

    `final_observation` is what the step really led to, also where a reset followed it.
    `valid` is false past the end of whole episodes. The episode's return and length are those of
    the episode that the step belongs to, counted up to and including it.
    """

    observation: jax.Array  # [T, N, D]
    logits: jax.Array  # [T, N, A], of the policy that acted
    action: jax.Array  # [T, N]
    reward: jax.Array  # [T, N]
    terminated: jax.Array  # [T, N]
    truncated: jax.Array  # [T, N]
    final_observation: jax.Array  # [T, N, D]
    episode_return: jax.Array  # [T, N]
    episode_length: jax.Array  # [T, N]
    valid: jax.Array  # [T, N]

    @property
    def done(self) -> jax.Array:
        """Whether the episode ended here, [T, N]."""
        return self.terminated | self.truncated

    @property
    def log_prob(self) -> jax.Array:
        """Log-probability of the action by the policy that took it, [T, N]."""
        return Categorical(self.logits).log_prob(self.action)


class RolloutState(NamedTuple):
    """Where the N environments stand: all that a rollout needs to go on."""

    env_state: Any
    observation: jax.Array  # [N, D]
    episode_return: jax.Array  # [N], of the running episode
    episode_length: jax.Array  # [N]


class _Noise(NamedTuple):
    """Everything random in a rollout, drawn before its loop: a draw in a loop's body is a small
    loop of its own, and slow."""

    action: jax.Array  # [T, N, A]
    step_key: jax.Array  # [T, N]
    reset_state: Any  # [T, N, ...], the states that resets will need
    reset_observation: jax.Array  # [T, N, D]


def start(key: jax.Array, environment: Environment, num_envs: int) -> RolloutState:
    """N freshly reset environments."""
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(key, num_envs))
    return RolloutState(env_state, observation, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))


def length(config: Config, environment: Environment) -> int:
    """T, the steps that a rollout holds: its capacity.

    Whole episodes fill it only in part: the longest case holds one transition less than
    `min_transitions` when an episode of the full time limit begins.
    """
    if config.min_transitions is None:
        assert config.num_steps is not None
        return config.num_steps
    return config.min_transitions - 1 + environment.max_episode_steps


def collect(
    key: jax.Array,
    actor: network.MLP,
    state: RolloutState,
    environment: Environment,
    config: Config,
) -> tuple[RolloutState, Transition]:
    """One update's transitions [T, N, ...] with the policy π = softmax(actor(observation)).

    Fixed-length rollouts reset an environment that is done and go on. Whole episodes stop, with
    every later step invalid, when an episode has ended and `min_transitions` are held.
    """
    num_actions = actor[-1].bias.shape[0]
    noise = _draw(key, environment, (length(config, environment), config.num_envs, num_actions))
    minimum = config.min_transitions

    def step(carry: tuple[RolloutState, jax.Array, jax.Array], noise: _Noise):
        state, num_collected, done = carry
        next_state, transition = _step(actor, state, ~done, noise, environment, config)
        if minimum is not None:
            next_state = _where(done, state, next_state)
            num_collected = num_collected + ~done
            done = done | (transition.done[0] & (num_collected >= minimum))
        return (next_state, num_collected, done), transition

    carry = state, jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    (state, _, _), transitions = jax.lax.scan(step, carry, noise)
    return state, transitions


def _step(
    actor: network.MLP,
    state: RolloutState,
    valid: jax.Array,
    noise: _Noise,
    environment: Environment,
    config: Config,
) -> tuple[RolloutState, Transition]:
    logits = _logits(actor, state.observation, config.activation)
    action = Categorical(logits).sample(noise.action)
    env_state, timestep = jax.vmap(environment.step)(noise.step_key, state.env_state, action)
    transition = Transition(
        observation=state.observation,
        logits=logits,
        action=action,
        reward=timestep.reward,
        terminated=timestep.terminated,
        truncated=timestep.truncated,
        final_observation=timestep.observation,
        episode_return=state.episode_return + timestep.reward,
        episode_length=state.episode_length + 1,
        valid=jnp.broadcast_to(valid, action.shape),
    )
    active = RolloutState(
        env_state, timestep.observation, transition.episode_return, transition.episode_length
    )
    fresh = RolloutState(
        noise.reset_state,
        noise.reset_observation,
        jnp.zeros_like(active.episode_return),
        jnp.zeros_like(active.episode_length),
    )
    return _where(transition.done, fresh, active), transition


_FEW = 8  # environments


def _logits(actor: network.MLP, observation: jax.Array, activation: str) -> jax.Array:
    """The policy's logits [N, A] at observations [N, D], for the loop's body.

    One agent on a CPU takes its few environments one by one: XLA compiles matrix-vector products
    into the loop's own function, while for matrix products it calls a library, and the loop is a
    list of kernels. Many agents share the list's cost, and take theirs in one product
    (benchmarks/NOTES.md).
    """
    together = partial(network.apply, activation=activation)

    @jax.custom_batching.custom_vmap
    def one_by_one(actor: network.MLP, observation: jax.Array) -> jax.Array:
        return jnp.stack([together(actor, one) for one in observation])

    @one_by_one.def_vmap
    def _(_: int, batched: Any, actor: network.MLP, observation: jax.Array):
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        return jax.vmap(together, axes)(actor, observation), True

    actor = jax.lax.stop_gradient(actor)  # what was seen is given; and custom_vmap has no gradient
    if len(observation) > _FEW:
        return together(actor, observation)
    return jax.lax.platform_dependent(actor, observation, cpu=one_by_one, default=together)


def _draw(key: jax.Array, environment: Environment, shape: tuple[int, int, int]) -> _Noise:
    action_key, step_key, reset_key = jax.random.split(key, 3)
    steps, num_envs, num_actions = shape

    def unflatten(flat: jax.Array) -> jax.Array:
        return flat.reshape(steps, num_envs, *flat.shape[1:])

    # All draws are flat: XLA compiles those several times faster than [T, N, ...] ones.
    reset_keys = jax.random.split(reset_key, steps * num_envs)
    reset_state, reset_observation = jax.vmap(environment.reset)(reset_keys)
    return _Noise(
        action=jax.random.gumbel(action_key, (steps * num_envs * num_actions,)).reshape(shape),
        step_key=unflatten(jax.random.split(step_key, steps * num_envs)),
        reset_state=jax.tree.map(unflatten, reset_state),
        reset_observation=unflatten(reset_observation),
    )


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`jnp.where` over pytrees; the condition's axes are the leaves' leading ones."""

    def select(one: jax.Array, other: jax.Array) -> jax.Array:
        extra = (1,) * (one.ndim - condition.ndim)
        return jnp.where(condition.reshape(*condition.shape, *extra), one, other)

    return jax.tree.map(select, yes, no)
