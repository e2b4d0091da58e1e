"""Many agents at once: the update vmapped over agents, and the loop outside the vmap."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppo_jax import evaluate as evaluation
from ppo_jax import network, ppo
from ppo_jax.config import Config

# For `jax.jit(..., compiler_options=COMPILER_OPTIONS)`: XLA's CPU scheduler otherwise spreads these
# small kernels over threads, and waits for them longer than they take (benchmarks/NOTES.md).
COMPILER_OPTIONS: dict[str, Any] = {"xla_cpu_enable_concurrency_optimized_scheduler": False}


def agent_keys(seed: jax.Array | int, num_seeds: int) -> jax.Array:
    """The agents' keys, [num_seeds]: agent i has `jax.random.key(seed + i)`, whatever their
    number."""
    return jax.vmap(jax.random.key)(jnp.uint32(seed) + jnp.arange(num_seeds, dtype=jnp.uint32))


def init(keys: jax.Array, config: Config) -> ppo.TrainState:
    """Fresh agents, every leaf [agents, ...]."""
    return jax.vmap(ppo.init, in_axes=(0, None))(keys, config)


def run(
    states: ppo.TrainState, config: Config, num_updates: jax.Array | int, storage: int
) -> tuple[ppo.TrainState, ppo.Metrics]:
    """`num_updates` more updates of every agent, and their metrics [storage, agents].

    `num_updates` may be traced and is at most `storage`, which is static: one compiled program
    serves chunks of any length. The metrics' rows from `num_updates` on are zeros.
    """
    update = _over_agents(ppo.update, len(states.num_updates))

    def step(index: jax.Array, carry: tuple[ppo.TrainState, ppo.Metrics]):
        states, metrics = carry
        states, row = update(states, config)
        return states, jax.tree.map(lambda rows, one: rows.at[index].set(one), metrics, row)

    one_row = jax.eval_shape(update, states, config)[1]
    empty = jax.tree.map(lambda leaf: jnp.zeros((storage, *leaf.shape), leaf.dtype), one_row)
    return jax.lax.fori_loop(0, num_updates, step, (states, empty))


def _over_agents(update: Callable[..., Any], agents: int) -> Callable[..., Any]:
    """The update vmapped; one agent goes without: a batch of one pays for loops of unequal length
    that it does not have."""
    if agents > 1:
        return jax.vmap(update, in_axes=(0, None))

    def alone(states: ppo.TrainState, config: Config) -> tuple[ppo.TrainState, ppo.Metrics]:
        outcome = update(jax.tree.map(lambda leaf: leaf[0], states), config)
        return jax.tree.map(lambda leaf: leaf[None], outcome)

    return alone


def evaluate(
    params: network.Parameters, config: Config, keys: jax.Array, num_episodes: int
) -> jax.Array:
    """Greedy returns of fresh episodes of every agent, [agents, num_episodes].

    `keys` are the agents' keys; the episodes' come from them and differ from training's, which
    uses their first two children.
    """

    def one(params: network.Parameters, key: jax.Array) -> jax.Array:
        return evaluation.evaluate(params, config, jax.random.fold_in(key, 2), num_episodes)

    return jax.vmap(one)(params, keys)
