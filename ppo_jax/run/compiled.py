"""Compiles the programs of a run: for one batch of agents, shared out over the devices."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppo_jax import env, population, ppo
from ppo_jax.config import Config
from ppo_jax.policy import Params

EVAL_EPISODES = 100
_CHUNK_UPDATES = 64


class Programs(NamedTuple):
    """Compiled for batches of `lanes` agents, a multiple of the devices; leaves [lanes, ...]."""

    init: Callable[..., ppo.TrainState]  # (seeds, config)
    chunk: Callable[..., tuple[ppo.TrainState, ppo.Metrics]]  # (states, config, num_updates)
    summarize: Callable[..., population.Statistics]  # (metrics, is_real)
    evaluate: Callable[..., jax.Array]  # (params, seeds, config)

    def memory(self) -> int:
        """Bytes that the programs need on each device, by their own analysis: the agents' states,
        and the most that one program holds beside them."""
        programs: tuple[Any, ...] = self  # jax.stages.Compiled, which is not typed as callable
        read = [program.memory_analysis() for program in programs]
        beside = (
            one.output_size_in_bytes - one.alias_size_in_bytes + one.temp_size_in_bytes
            for one in read
        )
        return read[1].argument_size_in_bytes + max(beside)


def capacity(config: Config) -> int:
    """Updates that one call of the chunk can make."""
    return min(config.num_updates or 1, _CHUNK_UPDATES)


def build(
    config: Config,
    lanes: int,
    devices: Sequence[jax.Device],
    options: Mapping[str, Any] = population.COMPILER_OPTIONS,
) -> Programs:
    """Compile the programs, all at the same time: XLA leaves cores idle with one.

    Args:
        config: of one batch; every hyperparameter a number, or [lanes].
        lanes: agents that train at once, a multiple of the devices.
        options: XLA's.
    """
    mesh = Mesh(np.array(devices), ("agents",))
    agents, rows = population.AGENTS, population.TIME_AGENTS
    seeds = jax.ShapeDtypeStruct((lanes,), jnp.uint32)
    agents_at_once = population.cpu_agents_at_once(config) if devices[0].platform == "cpu" else None

    def init(seeds: jax.Array, config: Config) -> ppo.TrainState:
        return population.init(jax.vmap(jax.random.key)(seeds), config)

    def chunk(
        states: ppo.TrainState, config: Config, num_updates: jax.Array
    ) -> tuple[ppo.TrainState, ppo.Metrics]:
        return population.run(states, config, num_updates, capacity(config), agents_at_once)

    def summarize(metrics: ppo.Metrics, is_real: jax.Array) -> population.Statistics:
        return population.summarize(metrics, is_real, env.SOLVED_AT.get(config.env))

    def evaluate(params: Params, seeds: jax.Array, config: Config) -> jax.Array:
        keys = jax.vmap(jax.random.key)(seeds)
        return population.evaluate(params, config, keys, EVAL_EPISODES)

    init = population.shard_over_agents(init, mesh, agents)
    chunk = population.shard_over_agents(chunk, mesh, (agents, rows))
    evaluate = population.shard_over_agents(evaluate, mesh, agents)
    states = _placed(jax.eval_shape(init, seeds, config), mesh, agents)
    metrics = _placed(jax.eval_shape(chunk, states, config, 1)[1], mesh, rows)
    is_real = jax.ShapeDtypeStruct((lanes * jax.process_count(),), jnp.bool)
    if jax.process_count() > 1:  # gathered from all of them
        metrics = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0], *is_real.shape), leaf.dtype), metrics
        )

    def submit(function: Any, *arguments: Any) -> Any:
        # Lowered here, for jax's settings, such as the precision, may be this thread's own.
        lowered = function.lower(*arguments)
        return pool.submit(lowered.compile, compiler_options=dict(options))

    pool = ThreadPoolExecutor(len(Programs._fields))
    try:
        wanted = (
            submit(jax.jit(init), seeds, config),
            submit(jax.jit(chunk, donate_argnums=0), states, config, 1),
            submit(jax.jit(summarize), metrics, is_real),
            submit(jax.jit(evaluate), states.params, seeds, config),
        )
        return Programs(*(program.result() for program in wanted))
    finally:
        pool.shutdown(wait=False)  # a signal does not wait for the compiler


def _placed(shapes: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """The shapes as the program that makes them will leave them on the devices: arrays without
    elements, such as the moments of a critic without parameters of its own, are on each."""

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec if leaf.size else population.REPLICATED)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, shapes)
