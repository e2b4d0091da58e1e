"""Values, log-probabilities and advantages of a rollout as one GPU kernel."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton

from ppo_jax import kernels, rollout
from ppo_jax.config import Config
from ppo_jax.kernels import memory, network
from ppo_jax.kernels.actor_critic import ActorCritic, rows_at
from ppo_jax.policy import Params, Policy

_WARPS = 8
_ROWS = 128  # transitions that are evaluated at once
_READ = ("observation", "final_observation", "action", "reward", "terminated", "truncated")


class _Inputs(NamedTuple):
    """What the kernel reads."""

    constants: Any  # of the actor and critic
    arrays: Any  # among discount and lambda
    parameters: Any  # each leaf flat
    transitions: Any  # by name, [T, N, ...]


class _Outputs(NamedTuple):
    """What the kernel writes, [T, N] each."""

    log_probs: Any
    values: Any
    advantages: Any
    targets: Any
    next_values: Any


def evaluate(
    params: Params, transitions: rollout.Transition, policy: Policy, config: Config
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Log-probabilities, values, advantages and returns [T, N] of transitions whose final
    observations are those of every step: what `ppo.compute_advantages` makes of `Policy.unroll`
    and `returns.gae`.

    Raises ValueError, in one line, for what the kernel does not serve.
    """
    kernels.check(config)
    length, num_envs = transitions.reward.shape
    size, lanes = length * num_envs, memory.padded(num_envs)
    rows = min(_ROWS, memory.padded(size))
    parts = transitions.observation, transitions.action, transitions.noise
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[2:]), leaf.dtype), parts)
    actor_critic = ActorCritic(params, policy, config.activation, *one)
    places = network.places(params.trainable)
    arrays, numbers_of = memory.numbers((config.discount, config.gae_lambda))

    def advantages_kernel(inputs: _Inputs, outputs: _Outputs, barrier: Any) -> None:
        log_probs, values, advantages, targets, next_values = outputs
        discount, gae_lambda = numbers_of(inputs.arrays)
        pieces = memory.read(places, inputs.parameters)
        observations, finals, actions, rewards, terminations, truncations = (
            inputs.transitions[name] for name in _READ
        )

        def evaluate_rows(index: jax.Array, _: jax.Array) -> jax.Array:
            row = index * rows + jax.lax.broadcasted_iota(jnp.int32, (rows,), 0)
            source = jnp.minimum(row, size - 1)
            observation, final, action = rows_at(
                (observations, finals, actions),
                source // num_envs,
                source % num_envs,
            )
            distribution, value = actor_critic(rows, inputs.constants, pieces, observation)
            next_value = actor_critic.value(rows, inputs.constants, pieces, final)
            for ref, vector in (
                (log_probs, distribution.log_prob(action)),
                (values, value),
                (next_values, next_value),
            ):
                triton.store(ref.at[row // num_envs, row % num_envs], vector, mask=row < size)
            return _

        jax.lax.fori_loop(0, -(-size // rows), evaluate_rows, jnp.zeros((), jnp.int32))
        barrier()
        lane = jax.lax.broadcasted_iota(jnp.int32, (lanes,), 0)

        def step(index: jax.Array, following: jax.Array) -> jax.Array:
            at = length - 1 - index, jnp.minimum(lane, num_envs - 1)
            terminated, truncated = terminations[at], truncations[at]
            continues = discount * (1 - terminated.astype(following.dtype))
            next_value = jnp.where(terminated, 0, next_values[at])
            value = values[at]
            delta = rewards[at] + continues * next_value - value
            decay = discount * gae_lambda * (1 - (terminated | truncated).astype(following.dtype))
            advantage = delta + decay * following
            for ref, vector in ((advantages, advantage), (targets, advantage + value)):
                triton.store(ref.at[at[0], lane], vector, mask=lane < num_envs)
            return advantage

        jax.lax.fori_loop(0, length, step, jnp.zeros(lanes, rewards.dtype))

    output = jax.ShapeDtypeStruct(transitions.reward.shape, transitions.reward.dtype)
    written = memory.call(
        advantages_kernel,
        _Inputs(
            actor_critic.constants,
            arrays,
            jax.tree.map(jnp.ravel, params.trainable),
            {name: getattr(transitions, name) for name in _READ},
        ),
        _Outputs(*[output] * 5),
        _WARPS,
    )
    return written.log_probs, written.values, written.advantages, written.targets
