"""What the benchmarks of our own programs share: compiling, arithmetic, and an update's parts.

A part is a loop of its own over the agents' states, [agents, ...]. XLA takes what does not change
out of a loop, and leaves out what nobody reads: so every turn of it reads something of the turn
before it, and the last one's outcome is returned.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from ppo_jax import Config, env, loss, optimizer, population, ppo, rollout
from ppo_jax.policy import Policy

Count = jax.Array | int
Collected = tuple[rollout.RolloutState, rollout.Transition]


def compiler_options() -> dict[str, Any] | None:
    """The options that programs are compiled with where they run: those of a CPU, or none."""
    return population.COMPILER_OPTIONS if jax.default_backend() == "cpu" else None


def agents_at_once(config: Config) -> int | None:
    """How many agents a kernel computes where programs run, as the command has it."""
    return population.cpu_agents_at_once(config) if jax.default_backend() == "cpu" else None


def flops_per_step(config: Config) -> int:
    """Arithmetic of one environment step in the networks' products, F + epochs (3 F - F₁).

    F, a multiplication and an addition for every weight of both networks, is a forward pass: the
    actor's to act, the critic's for the value. An epoch takes a forward pass, and two products of
    its size to go back: for the weights' gradient and for the inputs', which the first layers (F₁)
    do not need. Biases, nonlinearities, Adam and the environment do not count. For `mlp` alone.
    """
    shapes = jax.eval_shape(ppo.policy(config).init, jax.random.key(0)).trainable["network"]
    networks = [[2 * layer["kernel"].size for layer in half.values()] for half in shapes.values()]
    forward = sum(sum(layers) for layers in networks)
    first = sum(layers[0] for layers in networks)
    return forward + config.num_epochs * (3 * forward - first)


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median and range of some turns."""
    turns = list(values)
    return {"median": statistics.median(turns), "range": [min(turns), max(turns)]}


def environment_only(
    states: ppo.TrainState, config: Config, updates: Count
) -> tuple[jax.Array, rollout.RolloutState]:
    """Steps taken by rollouts without networks, [agents], and where the environments then stand:
    every action is as likely as another, and no transition is kept."""
    own_policy = ppo.policy(config)

    def apply(*arguments: Any) -> Any:
        distribution, value, memory = own_policy.apply(*arguments)
        return _zeros(distribution), value, memory  # so nobody reads the network's outputs

    steps, (rollout_state, _) = _rollouts(states, config, own_policy._replace(apply=apply), updates)
    return steps, rollout_state


def rollouts(states: ppo.TrainState, config: Config, updates: Count) -> tuple[jax.Array, Collected]:
    """Steps taken by rollouts with the policy, [agents], and what the last one collected."""
    return _rollouts(states, config, ppo.policy(config), updates)


def _rollouts(
    states: ppo.TrainState, config: Config, policy: Policy, updates: Count
) -> tuple[jax.Array, Collected]:
    environment = env.make(config)

    def one(state: ppo.TrainState) -> tuple[jax.Array, Collected]:
        def collect(index: jax.Array | int, rollout_state: rollout.RolloutState) -> Collected:
            key = jax.random.fold_in(state.key, index)
            return rollout.collect(key, state.params, rollout_state, environment, policy, config)

        def step(index: jax.Array, carry: tuple[jax.Array, Collected]) -> Any:
            steps, (rollout_state, _) = carry
            collected = collect(index, rollout_state)
            return steps + jnp.sum(collected[1].valid, dtype=jnp.int32), collected

        empty = _zeros(jax.eval_shape(collect, 0, state.rollout)[1])
        return jax.lax.fori_loop(0, updates, step, (jnp.int32(0), (state.rollout, empty)))

    return _over_agents(one)(states)


def returns(
    states: ppo.TrainState, collected: Collected, config: Config, updates: Count
) -> loss.Minibatch:
    """The update's batches that values and advantages of the transitions make."""
    own_policy = ppo.policy(config)

    def one(state: ppo.TrainState, collected: Collected) -> loss.Minibatch:
        rollout_state, transitions = collected

        def advantages(params: Any) -> loss.Minibatch:
            return ppo.compute_advantages(params, transitions, rollout_state, own_policy, config)

        def step(_: jax.Array, batch: loss.Minibatch) -> loss.Minibatch:
            return advantages(
                jax.tree.map(lambda leaf: leaf + 1e-30 * batch.value[0], state.params)
            )

        empty = _zeros(jax.eval_shape(advantages, state.params))
        return jax.lax.fori_loop(0, updates, step, empty)

    return _over_agents(one)(states, collected)


def shuffles(
    states: ppo.TrainState, batches: loss.Minibatch, config: Config, updates: Count
) -> jax.Array:
    """The orders of the epochs' transitions, [agents, epochs, transitions]."""

    def one(state: ppo.TrainState, batch: loss.Minibatch) -> jax.Array:
        size = batch.value.shape[0]
        capacity = size + -size % config.transitions_per_minibatch

        def step(index: jax.Array, _: jax.Array) -> jax.Array:
            key = jax.random.fold_in(state.key, index)
            return ppo.epoch_orders(key, capacity, _num_valid(batch), config.num_epochs)

        empty = jnp.zeros((config.num_epochs, capacity), jnp.int32)
        return jax.lax.fori_loop(0, updates, step, empty)

    return _over_agents(one)(states, batches)


def gradient_steps(
    states: ppo.TrainState, batches: loss.Minibatch, config: Config, updates: Count
) -> Any:
    """The parameters after updates from the same batches; the shuffles are in it."""
    own_policy = ppo.policy(config)

    def one(state: ppo.TrainState, batch: loss.Minibatch) -> Any:
        def step(index: jax.Array, carry: Any) -> Any:
            key = jax.random.fold_in(state.key, index)
            trainable, adam = carry
            params = state.params._replace(trainable=trainable)
            return ppo.optimize(key, params, adam, batch, 0, own_policy, config)[:2]

        carry = state.params.trainable, state.optimizer_state
        return jax.lax.fori_loop(0, updates, step, carry)[0]

    return _over_agents(one)(states, batches)


def optimizer_steps(
    states: ppo.TrainState, batches: loss.Minibatch, config: Config, updates: Count
) -> Any:
    """The parameters after updates' steps of the optimizer alone, along one gradient."""

    def one(state: ppo.TrainState, batch: loss.Minibatch) -> Any:
        optimized, to_trainable = optimizer.to_optimized(state.params.trainable, config)
        transformation = optimizer.make(config, 0)

        def step(_: jax.Array, carry: Any) -> Any:
            optimized, own_state = carry
            gradient = jax.tree.map(lambda leaf: 1e-3 * leaf, optimized)
            changes, own_state = transformation.update(gradient, own_state, optimized)
            return optax.apply_updates(optimized, changes), own_state

        minibatches = -(-_num_valid(batch) // config.transitions_per_minibatch)
        steps = updates * config.num_epochs * minibatches
        carry = optimized, state.optimizer_state
        return to_trainable(jax.lax.fori_loop(0, steps, step, carry)[0])

    return _over_agents(one)(states, batches)


def peak_flops(mesh: Mesh, size: int = 512, products: int = 60, turns: int = 8) -> float:
    """float32 operations per second that the mesh's devices reach together in large products."""

    def multiply(matrices: jax.Array) -> jax.Array:
        def step(_: jax.Array, product: jax.Array) -> jax.Array:
            return jnp.matmul(product, matrices, precision=jax.lax.Precision.HIGHEST) / size

        return jax.lax.fori_loop(0, products, step, matrices)

    agents = population.AGENTS
    ones = jax.device_put(jnp.ones((mesh.size, size, size)), NamedSharding(mesh, agents))
    program = jax.jit(population.shard_over_agents(multiply, mesh, agents)).lower(ones)
    compiled: Any = program.compile(compiler_options())
    compiled(ones).block_until_ready()
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        compiled(ones).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return mesh.size * products * 2 * size**3 / min(seconds)


def _over_agents(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of one agent's arrays for [agents, ...]; a single one goes without `vmap`, as
    in `population`."""

    def batched(*arguments: Any) -> Any:
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return jax.vmap(function)(*arguments)
        outcome = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], outcome)

    return batched


def _num_valid(batch: loss.Minibatch) -> Count:
    if batch.valid is None:
        return batch.value.shape[0]
    return jnp.sum(batch.valid, dtype=jnp.int32)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
