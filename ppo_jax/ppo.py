"""PPO as one pure function: init, update, and the compiled training loop."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppo_jax import env, fast, loss, normalize, objects, optimizer, returns, rollout, shuffle
from ppo_jax.config import Config
from ppo_jax.policy import Params, Policy
from ppo_jax.policy import make as policy

_FIELDS = dataclasses.fields(Config)
jax.tree_util.register_dataclass(
    Config,
    data_fields=[field.name for field in _FIELDS if not field.metadata.get("static")],
    meta_fields=[field.name for field in _FIELDS if field.metadata.get("static")],
)


class TrainState(NamedTuple):
    """One agent in training: arrays only, so that it can be saved, sharded and resumed."""

    params: Params
    optimizer_state: Any
    rollout: rollout.RolloutState  # environment states, current observations, running episodes
    reward_statistics: Any  # () where rewards are not normalized
    key: jax.Array  # the updates' root key: update i uses fold_in(key, i)
    num_updates: jax.Array  # done so far, []


class Metrics(NamedTuple):
    """What one update did, reduced over its transitions and gradient steps, all [].

    Losses, entropy, KL, clip fraction and gradient norms are means over the applied gradient steps;
    the episode's return (undiscounted, in the environment's own unit) and length (in steps) are
    means over the episodes that ended, NaN where none did.
    """

    env_steps: jax.Array  # transitions collected by this update
    gradient_steps: jax.Array  # that this update applied
    episodes: jax.Array  # that ended in this update
    episode_return: jax.Array
    episode_length: jax.Array
    policy_loss: jax.Array
    value_loss: jax.Array
    entropy: jax.Array
    approx_kl: jax.Array
    clip_fraction: jax.Array
    explained_variance: jax.Array  # 1 - Var(G - V) / Var(G); -∞ or NaN where G is constant
    actor_grad_norm: jax.Array
    critic_grad_norm: jax.Array


def init(key: jax.Array, config: Config) -> TrainState:
    """A fresh agent from its key.

    The key is first split into a root for all that is initial and a root for the updates.

    Args:
        key: The agent's own; the command line's agents have those of `population.agent_keys`.
        config: One number for each hyperparameter; arrays of them are for `ppo_jax.population`.

    Returns:
        The state before the first update.

    Raises:
        ValueError: For a network, optimizer, environment or space that cannot be served.
    """
    init_key, updates_key = jax.random.split(key)
    network_key, env_key = jax.random.split(init_key)
    environment, own_policy = env.make(config), policy(config)
    params = own_policy.init(network_key)
    return TrainState(
        params=params,
        optimizer_state=optimizer.init(params.trainable, config),
        rollout=rollout.start(env_key, environment, own_policy, config.num_envs),
        reward_statistics=(
            normalize.init_rewards(config.num_envs) if config.normalize_reward else ()
        ),
        key=updates_key,
        num_updates=jnp.zeros((), jnp.int32),
    )


def update(state: TrainState, config: Config) -> tuple[TrainState, Metrics]:
    """One update: collect transitions, estimate advantages, optimize on epochs of minibatches.

    The observations' statistics that the rollout began with serve all of it; the rollout is merged
    into them at the end.

    Args:
        state: One agent's, from `init` or an earlier update.
        config: As for `init`; hyperparameters may have changed since.

    Returns:
        The state after the update.
        The update's metrics, [] each.

    Raises:
        ValueError: As for `init`, and where the rollout's reset states would take more than 2 GiB.

    Schulman et al., arXiv:1707.06347, algorithm 1.
    """
    environment, own_policy = env.make(config), policy(config)
    params = state.params
    rollout_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.num_updates))
    rollout_state, transitions = rollout.collect(
        rollout_key, params, state.rollout, environment, own_policy, config
    )
    reward_statistics, rewards = scale_rewards(state.reward_statistics, transitions, config)
    batch = compute_advantages(
        params, transitions._replace(reward=rewards), rollout_state, own_policy, config
    )
    trainable, optimizer_state, stats = optimize(
        shuffle_key, params, state.optimizer_state, batch, state.num_updates, own_policy, config
    )
    statistics = normalize.merge(params.statistics, transitions.observation, transitions.valid)
    new_state = TrainState(
        params=Params(trainable, statistics),
        optimizer_state=optimizer_state,
        rollout=rollout_state,
        reward_statistics=reward_statistics,
        key=state.key,
        num_updates=state.num_updates + 1,
    )
    return new_state, _metrics(transitions, batch, stats, config)


def run(state: TrainState, config: Config, num_updates: int) -> tuple[TrainState, Metrics]:
    """`num_updates` more updates of an agent.

    Args:
        state: One agent's, from `init` or an earlier update.
        num_updates: Static, because it sizes the metrics.

    Returns:
        The state after the last update.
        The updates' metrics, [num_updates] each.
    """

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return update(state, config)

    return jax.lax.scan(step, state, length=num_updates)


def train(key: jax.Array, config: Config) -> tuple[TrainState, Metrics]:
    """One agent's whole training, a pure function of its key.

    Args:
        key: The agent's, as for `init`.
        config: As for `init`; training takes `config.num_updates` updates.

    Returns:
        The state after the last update.
        The updates' metrics, [num_updates] each.
    """
    assert config.num_updates is not None
    return run(init(key, config), config, config.num_updates)


def act(
    params: Params, observation: Any, config: Config, key: jax.Array | None = None
) -> jax.Array:
    """The action that the environment receives for each observation: greedy, or sampled with a key.

    Args:
        params: One agent's.
        observation: One, or a batch, [..., *shape of one], as the environment gives it.
        key: For one sample; None gives the distribution's mode.

    Returns:
        [..., *shape of an action], in the action space's shape and within its bounds.

    Raises:
        ValueError: For a network with memory, or an observation of another shape.
    """
    own_policy = _without_memory(config)
    distribution, values, _ = own_policy.apply(params, observation)
    if key is None:
        return own_policy.env_action(distribution.mode())
    return own_policy.env_action(distribution.sample(own_policy.noise(key, values.shape)))


def value(params: Params, observation: Any, config: Config) -> jax.Array:
    """The critic's value V(s) of each observation.

    Args:
        params: One agent's.
        observation: One, or a batch, [..., *shape of one], as the environment gives it.

    Returns:
        [...], in the reward's unit; where rewards are normalized, in their scaled unit.

    Raises:
        ValueError: For a network with memory, or an observation of another shape.
    """
    own_policy = _without_memory(config)
    return own_policy.apply(params, observation)[1]


def _without_memory(config: Config) -> Policy:
    own_policy = policy(config)
    if own_policy.has_memory:
        raise ValueError(
            f"network {objects.name(config.network)} has memory, which one observation does not"
            " tell; give ppo.policy(config).apply its memory, from initial_memory(num_envs)"
        )
    return own_policy


def scale_rewards(
    statistics: Any, transitions: rollout.Transition, config: Config
) -> tuple[Any, jax.Array]:
    """The rewards to learn from: scaled by `normalize.scale_rewards` if so configured.

    Args:
        statistics: Of the rewards so far; () where they are not normalized.
        transitions: [T, N, ...].

    Returns:
        The statistics with these rewards merged; () stays ().
        The rewards, [T, N].
    """
    if not config.normalize_reward:
        return statistics, transitions.reward
    return normalize.scale_rewards(
        statistics, transitions.reward, transitions.done, transitions.valid, config.discount
    )


def compute_advantages(
    params: Params,
    transitions: rollout.Transition,
    rollout_state: rollout.RolloutState,
    policy: Policy,
    config: Config,
) -> loss.Minibatch:
    """The update's batch: log-probabilities, advantages A by GAE, returns G = A + V(s).

    The policy that the rollout was made with is evaluated once, over all of it. A termination has
    no value after it; a truncation, and the rollout's end, go on with that of the state they
    really led to.

    Args:
        params: Those that the rollout was collected with.
        transitions: [T, N, ...], with the rewards of `scale_rewards`.
        rollout_state: After the rollout's last step.

    Returns:
        [B, ...], B = T N; for a network with memory [T, N, ...], as it was collected.
    """
    if config.kernel == "pallas":
        from ppo_jax.kernels import advantages as kernel  # Pallas takes a while to import

        log_probs, values, advantages, targets = kernel.evaluate(
            params, transitions, policy, config
        )
    else:
        distribution, values, memories = policy.unroll(
            params, transitions.observation, transitions.memory, transitions.start
        )
        log_probs = distribution.log_prob(transitions.action)
        advantages = returns.gae(
            transitions.reward,
            values,
            rollout.next_values(params, transitions, values, memories, rollout_state, policy),
            transitions.terminated,
            transitions.done,
            config.discount,
            config.gae_lambda,
        )
        targets = advantages + values
    batch = loss.Minibatch(
        observation=transitions.observation,
        action=transitions.action,
        noise=transitions.noise,
        log_prob=log_probs,
        value=values,
        advantage=advantages,
        target=targets,
        valid=transitions.valid if config.whole_episodes else None,
        memory=transitions.memory,
        start=transitions.start,
    )
    if policy.has_memory:
        return batch
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)


class UpdateStats(NamedTuple):
    """Means over an update's applied gradient steps, and their number."""

    gradient_steps: jax.Array
    diagnostics: loss.Diagnostics
    norms: optimizer.GradNorms


class _Carry(NamedTuple):
    """What one gradient step hands to the next."""

    optimized: Any  # the trainable parameters, as the optimizer sees them
    optimizer_state: Any
    sums: Any  # of diagnostics and norms
    gradient_steps: jax.Array  # applied
    stopped: jax.Array  # by the limit on the KL divergence


def optimize(
    key: jax.Array,
    params: Params,
    optimizer_state: Any,
    batch: loss.Minibatch,
    num_updates: jax.Array | int,
    policy: Policy,
    config: Config,
) -> tuple[Any, Any, UpdateStats]:
    """Gradient steps over `num_epochs` epochs of minibatches.

    Every epoch visits every valid transition exactly once, in a fresh random order; the valid
    ones come first in the batch. The last minibatch of an epoch may be smaller. For a network with
    memory minibatches are of whole environments. With `target_kl` a minibatch whose approximate KL
    divergence exceeds 1.5 times it is not applied, nor any after it.

    Args:
        key: For the order of each epoch.
        params: Before the first step; the observations' statistics stay as they are.
        optimizer_state: From `optimizer.init`, or an earlier update.
        batch: From `compute_advantages`, [B, ...]; for a network with memory [T, N, ...].
        num_updates: [], the updates before this one, with which annealed learning rates fall.

    Returns:
        The trainable parameters after the last step.
        The optimizer's state after it.
        Means over the applied steps, [] each.
    """
    capacity, size, minibatch_at = _minibatches(batch, policy, config)
    num_valid = capacity if batch.valid is None else jnp.sum(batch.valid, dtype=jnp.int32)
    num_minibatches = -(-num_valid // size)
    shape = capacity + -capacity % size, num_valid, config.num_epochs
    if config.kernel == "pallas":
        from ppo_jax.kernels import epochs, shuffles  # Pallas takes a while to import

        orders = shuffles.epoch_orders(key, *shape)
        trainable, optimizer_state, steps, diagnostics, norms = epochs.optimize(
            orders, num_valid, params, optimizer_state, batch, num_updates, policy, config
        )
        return trainable, optimizer_state, UpdateStats(steps, diagnostics, norms)
    orders = epoch_orders(key, *shape)
    # With whole episodes every agent has its own number of transitions, so its own `first`.
    slice_row = fast.plain_slice_row if batch.valid is None else fast.slice_row
    optimized, to_trainable = optimizer.to_optimized(params.trainable, config)
    transformation = optimizer.make(config, num_updates)

    def loss_of(optimized: Any, minibatch: loss.Minibatch) -> Any:
        own = params._replace(trainable=to_trainable(optimized))
        return loss.loss(own, minibatch, policy, config)

    def step(index: jax.Array, carry: _Carry) -> _Carry:
        epoch, first = index // num_minibatches, index % num_minibatches * size
        minibatch = minibatch_at(slice_row(orders, epoch, first, size))
        if batch.valid is not None:
            minibatch = minibatch._replace(valid=first + jnp.arange(size) < num_valid)
        gradients, diagnostics = jax.grad(loss_of, has_aux=True)(carry.optimized, minibatch)
        updates, own_state = transformation.update(
            gradients, carry.optimizer_state, carry.optimized
        )
        row, _ = fast.together((diagnostics, optimizer.norms(gradients, config)))
        taken = _Carry(
            optax.apply_updates(carry.optimized, updates),
            own_state,
            jax.tree.map(jnp.add, carry.sums, row),
            carry.gradient_steps + 1,
            carry.stopped,
        )
        if config.target_kl is None:
            return taken
        stopped = carry.stopped | (diagnostics.approx_kl > 1.5 * config.target_kl)
        kept = carry._replace(stopped=stopped)
        return jax.tree.map(lambda new, old: jnp.where(stopped, old, new), taken, kept)

    zeros = jnp.zeros((), batch.log_prob.dtype)
    none = [zeros] * len(loss.Diagnostics._fields)
    each = loss.Diagnostics(*none), optimizer.GradNorms(zeros, zeros)
    sums, apart = fast.together(each)
    taken = jnp.zeros((), jnp.int32)
    carry = _Carry(optimized, optimizer_state, sums, taken, jnp.zeros((), bool))
    carry = jax.lax.fori_loop(0, config.num_epochs * num_minibatches, step, carry)
    means = jax.tree.map(lambda total: total / carry.gradient_steps, carry.sums)
    return (
        to_trainable(carry.optimized),
        carry.optimizer_state,
        UpdateStats(carry.gradient_steps, *apart(means)),
    )


def _minibatches(
    batch: loss.Minibatch, policy: Policy, config: Config
) -> tuple[int, int, Callable[[jax.Array], loss.Minibatch]]:
    """The number of transitions in the batch and in a minibatch, and the function of indices that
    gives a minibatch; for a network with memory, environments instead of transitions."""
    size = config.transitions_per_minibatch
    if not policy.has_memory:
        return len(batch.log_prob), size, fast.gather(batch._replace(valid=None))
    num_steps, num_envs = batch.log_prob.shape

    def environments_at(chosen: jax.Array) -> loss.Minibatch:
        sequences = jax.tree.map(lambda leaf: leaf[:, chosen], batch._replace(memory=()))
        memory = jax.tree.map(lambda leaf: leaf[chosen], batch.memory)
        return sequences._replace(memory=memory)

    return num_envs, size // num_steps, environments_at


def epoch_orders(
    key: jax.Array, capacity: int, num_valid: jax.Array | int, num_epochs: int
) -> jax.Array:
    """Random orders: each row's first `num_valid` entries are a permutation of 0..num_valid-1, the
    others 0.

    Args:
        capacity: Entries in each row.
        num_valid: [], at most `capacity`; may be traced.

    Returns:
        Integers, [num_epochs, capacity].
    """
    positions = jnp.arange(capacity)
    orders = jax.vmap(lambda key: shuffle.permute(key, positions, num_valid))(
        jax.random.split(key, num_epochs)
    )
    # Not to be fused with the gather that reads them: LLVM (jaxlib 0.11.2) would take time
    # exponential in the rounds of the shuffle.
    return jax.lax.optimization_barrier(jnp.where(positions < num_valid, orders, 0))


class _Steps(NamedTuple):
    """What is counted of an update's steps, as many numbers each."""

    valid: Any  # None where all of them are
    terminated: jax.Array
    truncated: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    target: jax.Array
    value: jax.Array


def _metrics(
    transitions: rollout.Transition, batch: loss.Minibatch, stats: UpdateStats, config: Config
) -> Metrics:
    steps = _Steps(
        batch.valid,
        transitions.terminated,
        transitions.truncated,
        transitions.episode_return,
        transitions.episode_length,
        batch.target,
        batch.value,
    )
    summarize = _summarize
    if config.kernel == "pallas":
        from ppo_jax.kernels import summary  # Pallas takes a while to import

        if steps.value.size <= summary.MOST_STEPS:
            summarize = partial(summary.summarize, _summarize)
    return Metrics(
        gradient_steps=stats.gradient_steps.astype(jnp.int32),
        **stats.diagnostics._asdict(),
        actor_grad_norm=stats.norms.actor,
        critic_grad_norm=stats.norms.critic,
        **summarize(steps),
    )


def _summarize(steps: _Steps) -> dict[str, jax.Array]:
    done, valid = steps.terminated | steps.truncated, steps.valid
    ended = done if valid is None else done & valid.reshape(done.shape)
    unexplained = jnp.var(steps.target - steps.value, where=valid)
    return {
        "env_steps": jnp.sum(jnp.ones_like(done) if valid is None else valid, dtype=jnp.int32),
        "episodes": jnp.sum(ended, dtype=jnp.int32),
        "episode_return": jnp.mean(steps.episode_return, where=ended),
        "episode_length": jnp.mean(steps.episode_length.astype(float), where=ended),
        "explained_variance": 1 - unexplained / jnp.var(steps.target, where=valid),
    }
