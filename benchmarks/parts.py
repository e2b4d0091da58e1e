"""What the benchmarks of our own programs share: compiling, arithmetic, and an update's parts.

A part is a loop of its own over the agents' states, [agents, ...]. XLA takes what does not change
out of a loop, and leaves out what nobody reads: so every turn of it reads something of the turn
before it, and the last one's outcome is returned.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from ppo_jax import Config, env, loss, network, optimizer, population, ppo, rollout

Count = jax.Array | int


def compiler_options() -> dict[str, Any] | None:
    """The options that programs are compiled with where they run: those of a CPU, or none."""
    return population.COMPILER_OPTIONS if jax.default_backend() == "cpu" else None


def agents_at_once() -> int | None:
    """How many agents a kernel computes where programs run, as the command has it."""
    return population.CPU_AGENTS_AT_ONCE if jax.default_backend() == "cpu" else None


def flops_per_step(config: Config) -> int:
    """Arithmetic of one environment step in the networks' products, F + epochs (3 F - F₁).

    F, a multiplication and an addition for every weight of both networks, is a forward pass: the
    actor's to act, the critic's for the value. An epoch takes a forward pass, and two products of
    its size to go back: for the weights' gradient and for the inputs', which the first layers (F₁)
    do not need. Biases, nonlinearities, Adam and the environment do not count.
    """
    environment = env.make(config)
    hidden = (environment.observation_size, *config.hidden_sizes)
    networks = [
        [2 * inputs * outputs for inputs, outputs in pairwise((*hidden, last))]
        for last in (environment.num_actions, 1)
    ]
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
    environment = env.make(config)
    bare = config.replace(hidden_sizes=())
    sizes = environment.observation_size, environment.num_actions
    nobody = jax.tree.map(
        jnp.zeros_like, network.init(jax.random.key(0), bare, *sizes).actor
    )  # the smallest actor: one matrix, of zeros

    def one(state: ppo.TrainState) -> tuple[jax.Array, rollout.RolloutState]:
        def step(index: jax.Array, carry: tuple[jax.Array, rollout.RolloutState]):
            key = jax.random.fold_in(state.key, index)
            rollout_state, transitions = rollout.collect(key, nobody, carry[1], environment, config)
            return carry[0] + jnp.sum(transitions.valid, dtype=jnp.int32), rollout_state

        return jax.lax.fori_loop(0, updates, step, (jnp.int32(0), state.rollout))

    return _over_agents(one)(states)


def rollouts(
    states: ppo.TrainState, config: Config, updates: Count
) -> tuple[jax.Array, rollout.Transition]:
    """Steps taken by rollouts with the policy, [agents], and the last rollout's transitions."""
    environment = env.make(config)

    def one(state: ppo.TrainState) -> tuple[jax.Array, rollout.Transition]:
        def collect(index: jax.Array, rollout_state: rollout.RolloutState):
            key = jax.random.fold_in(state.key, index)
            return rollout.collect(key, state.params.actor, rollout_state, environment, config)

        def step(index: jax.Array, carry: tuple[rollout.RolloutState, jax.Array, Any]):
            rollout_state, transitions = collect(index, carry[0])
            return (
                rollout_state,
                carry[1] + jnp.sum(transitions.valid, dtype=jnp.int32),
                transitions,
            )

        empty = _zeros(jax.eval_shape(collect, 0, state.rollout)[1])
        carry = state.rollout, jnp.int32(0), empty
        return jax.lax.fori_loop(0, updates, step, carry)[1:]

    return _over_agents(one)(states)


def returns(
    states: ppo.TrainState,
    transitions: rollout.Transition,
    config: Config,
    updates: Count,
) -> loss.Minibatch:
    """The update's batches that values and advantages of the transitions make."""

    def one(state: ppo.TrainState, transitions: rollout.Transition) -> loss.Minibatch:
        def step(_: jax.Array, batch: loss.Minibatch) -> loss.Minibatch:
            nearly = jax.tree.map(lambda leaf: leaf + 1e-30 * batch.value[0], state.params.critic)
            return ppo.compute_advantages(nearly, transitions, config)

        empty = jax.eval_shape(ppo.compute_advantages, state.params.critic, transitions, config)
        return jax.lax.fori_loop(0, updates, step, _zeros(empty))

    return _over_agents(one)(states, transitions)


def shuffles(
    states: ppo.TrainState, batches: loss.Minibatch, config: Config, updates: Count
) -> jax.Array:
    """The orders of the epochs' transitions, [agents, epochs, transitions]."""

    def one(state: ppo.TrainState, batch: loss.Minibatch) -> jax.Array:
        size = batch.action.shape[0]
        capacity = size + -size % config.transitions_per_minibatch
        valid = size if batch.valid is None else jnp.sum(batch.valid, dtype=jnp.int32)

        def step(index: jax.Array, _: jax.Array) -> jax.Array:
            key = jax.random.fold_in(state.key, index)
            return ppo.epoch_orders(key, capacity, valid, config.num_epochs)

        empty = jnp.zeros((config.num_epochs, capacity), jnp.int32)
        return jax.lax.fori_loop(0, updates, step, empty)

    return _over_agents(one)(states, batches)


def gradient_steps(
    states: ppo.TrainState, batches: loss.Minibatch, config: Config, updates: Count
) -> network.Parameters:
    """The parameters after updates from the same batches; the shuffles are in it."""

    def one(state: ppo.TrainState, batch: loss.Minibatch) -> network.Parameters:
        def step(index: jax.Array, carry: Any) -> Any:
            key = jax.random.fold_in(state.key, index)
            params, adam = carry
            return ppo.optimize(key, params, adam, batch, 1.0, config)[:2]

        return jax.lax.fori_loop(0, updates, step, (state.params, state.optimizer_state))[0]

    return _over_agents(one)(states, batches)


def optimizer_steps(
    states: ppo.TrainState, batches: loss.Minibatch, config: Config, updates: Count
) -> network.Parameters:
    """The parameters after updates' steps of the optimiser alone, along one gradient."""

    def one(state: ppo.TrainState, batch: loss.Minibatch) -> network.Parameters:
        size = batch.action.shape[0]
        valid = size if batch.valid is None else jnp.sum(batch.valid, dtype=jnp.int32)
        minibatches = -(-valid // config.transitions_per_minibatch)
        vectors, to_params = network.flatten(state.params)
        adam = optimizer.map_moments(
            lambda moment: network.flatten(moment)[0], state.optimizer_state
        )

        def step(_: jax.Array, carry: Any) -> Any:
            vectors, adam = carry
            gradient = jax.tree.map(lambda leaf: 1e-3 * leaf, vectors)
            return optimizer.step(vectors, gradient, adam, 1.0, config)[:2]

        steps = updates * config.num_epochs * minibatches
        return to_params(jax.lax.fori_loop(0, steps, step, (vectors, adam))[0])

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


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
