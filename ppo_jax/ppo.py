"""PPO as one pure function: init, update, and the compiled training loop."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ppo_jax import env, loss, network, optimizer, returns, rollout, shuffle
from ppo_jax.config import Config
from ppo_jax.distributions import Categorical

_FIELDS = dataclasses.fields(Config)
jax.tree_util.register_dataclass(
    Config,
    data_fields=[field.name for field in _FIELDS if not field.metadata.get("static")],
    meta_fields=[field.name for field in _FIELDS if field.metadata.get("static")],
)


class TrainState(NamedTuple):
    """One agent in training: arrays only, so that it can be saved, sharded and resumed."""

    params: network.Parameters
    optimizer_state: optax.ScaleByAdamState
    rollout: rollout.RolloutState  # environment states, current observations, running episodes
    key: jax.Array  # the updates' root key: update i uses fold_in(key, i)
    num_updates: jax.Array  # done so far, []


class Metrics(NamedTuple):
    """What one update did, reduced over its transitions and gradient steps, all [].

    Losses, entropy, KL, clip fraction and gradient norms are means over the gradient steps; the
    episode's return and length are means over the episodes that ended, NaN where none did.
    """

    env_steps: jax.Array  # transitions collected by this update
    gradient_steps: jax.Array  # of this update
    episodes: jax.Array  # that ended in this update
    episode_return: jax.Array
    episode_length: jax.Array
    policy_loss: jax.Array
    value_loss: jax.Array
    entropy: jax.Array
    approx_kl: jax.Array
    clip_fraction: jax.Array
    explained_variance: jax.Array  # 1 - Var(G - V) / Var(G), of the rollout's critic
    actor_grad_norm: jax.Array
    critic_grad_norm: jax.Array


def init(key: jax.Array, config: Config) -> TrainState:
    """A fresh agent from its key.

    The key is first split into a root for all that is initial and a root for the updates.
    """
    init_key, updates_key = jax.random.split(key)
    network_key, env_key = jax.random.split(init_key)
    environment = env.make(config)
    params = network.init(
        network_key, config, environment.observation_size, environment.num_actions
    )
    return TrainState(
        params=params,
        optimizer_state=optimizer.init(params, config),
        rollout=rollout.start(env_key, environment, config.num_envs),
        key=updates_key,
        num_updates=jnp.zeros((), jnp.int32),
    )


def update(state: TrainState, config: Config) -> tuple[TrainState, Metrics]:
    """One update: collect transitions, estimate advantages, descend on epochs of minibatches.

    Schulman et al., arXiv:1707.06347, algorithm 1.
    """
    environment = env.make(config)
    rollout_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.num_updates))
    rollout_state, transitions = rollout.collect(
        rollout_key, state.params.actor, state.rollout, environment, config
    )
    batch = compute_advantages(state.params.critic, transitions, config)
    scale = learning_rate_scale(state.num_updates, config)
    params, optimizer_state, stats = optimize(
        shuffle_key, state.params, state.optimizer_state, batch, scale, config
    )
    return (
        TrainState(params, optimizer_state, rollout_state, state.key, state.num_updates + 1),
        _metrics(transitions, batch, stats),
    )


def run(state: TrainState, config: Config, num_updates: int) -> tuple[TrainState, Metrics]:
    """`num_updates` more updates of an agent; metrics [num_updates, ...]."""

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return update(state, config)

    return jax.lax.scan(step, state, length=num_updates)


def train(key: jax.Array, config: Config) -> tuple[TrainState, Metrics]:
    """One agent's whole training, a pure function of its key; metrics [num_updates, ...]."""
    assert config.num_updates is not None
    return run(init(key, config), config, config.num_updates)


def act(
    params: network.Parameters,
    observation: jax.Array,
    config: Config,
    key: jax.Array | None = None,
) -> jax.Array:
    """The action for each observation [..., *shape of one]: greedy, or sampled with a key."""
    logits = network.apply(params.actor, env.make(config).flatten(observation), config.activation)
    if key is None:
        return Categorical(logits).mode()
    return Categorical(logits).sample(jax.random.gumbel(key, logits.shape, logits.dtype))


def value(params: network.Parameters, observation: jax.Array, config: Config) -> jax.Array:
    """The critic's value V(s), [...], for each observation [..., *shape of one]."""
    flat = env.make(config).flatten(observation)
    return network.apply(params.critic, flat, config.activation)[..., 0]


def learning_rate_scale(num_updates: jax.Array, config: Config) -> jax.Array | float:
    """The factor on the learning rates of update i (from 0): 1 - i / num_updates, if annealed."""
    if not config.anneal_learning_rate:
        return 1.0
    assert config.num_updates is not None
    return 1 - jnp.asarray(num_updates, float) / config.num_updates


def compute_advantages(
    critic: network.MLP, transitions: rollout.Transition, config: Config
) -> loss.Minibatch:
    """The update's batch [B, ...]: advantages A by GAE, and returns G = A + V(s).

    The critic is the one that the rollout was made with. A termination has no value after it; a
    truncation, and the rollout's end, go on with that of the state they really led to.
    """

    def evaluate(observation: jax.Array) -> jax.Array:
        return network.apply(critic, observation, config.activation)[..., 0]

    values = evaluate(transitions.observation)
    advantages = returns.gae(
        transitions.reward,
        values,
        evaluate(transitions.final_observation),
        transitions.terminated,
        transitions.done,
        config.discount,
        config.gae_lambda,
    )
    batch = loss.Minibatch(
        observation=transitions.observation,
        action=transitions.action,
        log_prob=transitions.log_prob,
        value=values,
        advantage=advantages,
        target=advantages + values,
        valid=transitions.valid if config.whole_episodes else None,
    )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)


class UpdateStats(NamedTuple):
    """Means over an update's gradient steps, and their number."""

    gradient_steps: jax.Array
    diagnostics: loss.Diagnostics
    norms: optimizer.GradNorms


def optimize(
    key: jax.Array,
    params: network.Parameters,
    optimizer_state: optax.ScaleByAdamState,
    batch: loss.Minibatch,
    scale: jax.Array | float,
    config: Config,
) -> tuple[network.Parameters, optax.ScaleByAdamState, UpdateStats]:
    """Gradient steps over `num_epochs` epochs of minibatches of the batch [B, ...].

    Every epoch visits every valid transition exactly once, in a fresh random order; the valid
    ones come first in the batch. The last minibatch of an epoch may be smaller.
    """
    capacity, size = batch.action.shape[0], config.transitions_per_minibatch
    num_valid = capacity if batch.valid is None else jnp.sum(batch.valid, dtype=jnp.int32)
    num_minibatches = -(-num_valid // size)
    orders = epoch_orders(key, capacity + -capacity % size, num_valid, config.num_epochs)
    # Minibatches are gathered from one table, and the loop carries one vector a network: a step is
    # then a few long kernels, where leaf by leaf it would be many short ones.
    rows, to_minibatch = _as_rows(batch._replace(valid=None))
    vectors, to_params = network.flatten(params)
    adam = optimizer.map_moments(lambda moment: network.flatten(moment)[0], optimizer_state)

    def step(index: jax.Array, carry: Any) -> Any:
        vectors, adam, sums = carry
        epoch, first = index // num_minibatches, index % num_minibatches * size
        chosen = jax.lax.dynamic_slice(orders, (epoch, first), (1, size))[0]
        minibatch = to_minibatch(rows[chosen])
        if batch.valid is not None:
            minibatch = minibatch._replace(valid=first + jnp.arange(size) < num_valid)
        gradients, diagnostics = jax.grad(loss.loss, has_aux=True)(
            to_params(vectors), minibatch, config
        )
        vectors, adam, norms = optimizer.step(
            vectors, network.flatten(gradients)[0], adam, scale, config
        )
        return vectors, adam, jax.tree.map(jnp.add, sums, (diagnostics, norms))

    zeros = jnp.zeros((), batch.log_prob.dtype)
    nothing = loss.Diagnostics(*[zeros] * 5), optimizer.GradNorms(zeros, zeros)
    gradient_steps = config.num_epochs * num_minibatches
    vectors, adam, sums = jax.lax.fori_loop(0, gradient_steps, step, (vectors, adam, nothing))
    diagnostics, norms = jax.tree.map(lambda total: total / gradient_steps, sums)
    return (
        to_params(vectors),
        optimizer.map_moments(to_params, adam),
        UpdateStats(jnp.asarray(gradient_steps), diagnostics, norms),
    )


def _as_rows(
    batch: loss.Minibatch,
) -> tuple[jax.Array, Callable[[jax.Array], loss.Minibatch]]:
    """The batch as a table, a row a transition, and the function that makes rows a batch again."""
    to_transition = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], batch))[1]
    return jax.vmap(lambda transition: ravel_pytree(transition)[0])(batch), jax.vmap(to_transition)


def epoch_orders(
    key: jax.Array, capacity: int, num_valid: jax.Array | int, num_epochs: int
) -> jax.Array:
    """Random orders [num_epochs, capacity]: each row's first `num_valid` entries are a permutation
    of 0..num_valid-1, the others 0."""
    positions = jnp.arange(capacity)
    orders = jax.vmap(lambda key: shuffle.permute(key, positions, num_valid))(
        jax.random.split(key, num_epochs)
    )
    return jnp.where(positions < num_valid, orders, 0)


def _metrics(transitions: rollout.Transition, batch: loss.Minibatch, stats: UpdateStats) -> Metrics:
    ended = transitions.done & transitions.valid
    unexplained = jnp.var(batch.target - batch.value, where=batch.valid)
    return Metrics(
        env_steps=jnp.sum(transitions.valid, dtype=jnp.int32),
        gradient_steps=stats.gradient_steps.astype(jnp.int32),
        episodes=jnp.sum(ended, dtype=jnp.int32),
        episode_return=jnp.mean(transitions.episode_return, where=ended),
        episode_length=jnp.mean(transitions.episode_length, where=ended),
        **stats.diagnostics._asdict(),
        explained_variance=1 - unexplained / jnp.var(batch.target, where=batch.valid),
        actor_grad_norm=stats.norms.actor,
        critic_grad_norm=stats.norms.critic,
    )
