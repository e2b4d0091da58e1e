"""Many agents at once: the update vmapped over agents, and the loop outside the vmap.

An agent is a key and the hyperparameters it runs with. Here every traced leaf of a `Config` is
either one number for all agents or [agents], each agent's own; `ppo_jax.sweep` makes such
configurations.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ppo_jax import evaluate as evaluation
from ppo_jax import fast, policy, ppo, rollout, statistics
from ppo_jax.config import Config

# For `jax.jit(..., compiler_options=COMPILER_OPTIONS)`: XLA's CPU runtime otherwise spreads these
# small kernels over threads, and waits for them longer than they take (docs/performance.md).
COMPILER_OPTIONS: dict[str, Any] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
# Agents a kernel of a small network, for `run`: more leave a core's caches (docs/performance.md).
CPU_AGENTS_AT_ONCE = 16


def cpu_agents_at_once(config: Config) -> int:
    """How many agents one kernel should compute on a CPU: of a large network, whose products fill
    a core by themselves, one.
    """
    one = jax.tree.map(lambda leaf: jnp.ravel(leaf)[0], config)  # of a sweep
    trainable = jax.eval_shape(ppo.policy(one).init, jax.random.key(0)).trainable
    numbers = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    return CPU_AGENTS_AT_ONCE if numbers <= fast.FEW_PARAMETERS else 1


def agent_keys(seed: jax.Array | int, num_seeds: int) -> jax.Array:
    """The agents' keys: agent i has `jax.random.key(seed + i)`, whatever their number.

    Args:
        seed: From 0 to 2³² - 1; a larger sum wraps around.
        num_seeds: The number of agents; static.

    Returns:
        [num_seeds].
    """
    return jax.vmap(jax.random.key)(jnp.uint32(seed) + jnp.arange(num_seeds, dtype=jnp.uint32))


def init(keys: jax.Array, config: Config) -> ppo.TrainState:
    """Fresh agents.

    Args:
        keys: [agents].
        config: Each hyperparameter is a number for all, or [agents].

    Returns:
        The states before the first update, every leaf [agents, ...].

    Raises:
        ValueError: In one line, for keys or hyperparameters of other shapes.
    """
    typed = jnp.issubdtype(jnp.result_type(keys), jax.dtypes.prng_key)
    if jnp.ndim(keys) != (1 if typed else 2):  # a legacy key is a vector of numbers
        raise ValueError(
            f"keys have the shape {jnp.shape(keys)}; give a key for each agent, such as"
            " population.agent_keys(seed, num_seeds)"
        )
    return _over_agents(ppo.init, config, len(keys))(keys, config)


def run(
    states: ppo.TrainState,
    config: Config,
    num_updates: jax.Array | int,
    capacity: int,
    agents_at_once: int | None = None,
) -> tuple[ppo.TrainState, ppo.Metrics]:
    """`num_updates` more updates of every agent.

    An agent whose losses, gradient norms, parameters (with the observations' statistics) or reward
    statistics would become non-finite is frozen: it keeps its last finite state, and `num_updates`
    of that state tells when. Every later update of it would draw the same and fail the same, so it
    stays frozen without a flag. Its metrics are then NaN, its counts 0.

    Args:
        states: From `init` or an earlier call, every leaf [agents, ...].
        config: Each hyperparameter is a number for all, or [agents].
        num_updates: [], at most `capacity`; may be traced, so that one compiled program serves
            chunks of any length.
        capacity: Rows of the metrics; static.
        agents_at_once: How many agents one kernel computes, the others following in every update;
            None is all of them. On a CPU `cpu_agents_at_once(config)` keeps what kernels hand on to
            one another in the caches.

    Returns:
        The states after the last update.
        The metrics, [capacity, agents] each; rows from `num_updates` on are zeros.
    """
    update = _over_agents(ppo.update, config, len(states.num_updates), agents_at_once)
    update = jax.jit(update, inline=True)  # traced once, for its shapes and for the loop

    def step(
        index: jax.Array, carry: tuple[ppo.TrainState, ppo.Metrics]
    ) -> tuple[ppo.TrainState, ppo.Metrics]:
        states, metrics = carry
        attempted, row = update(states, config)
        if config.kernel == "pallas":
            from ppo_jax.kernels import finite  # Pallas takes a while to import

            learned = _learned(attempted, row)
            return finite.keep_finite(index, learned, (attempted, states), (row, metrics))
        all_finite = _all_finite(attempted, row)
        none = jax.tree.map(_nan_like, row)
        states, row = rollout.where(all_finite, (attempted, row), (states, none))
        return states, jax.tree.map(lambda rows, one: rows.at[index].set(one), metrics, row)

    one_row = jax.eval_shape(update, states, config)[1]
    empty = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), one_row)
    return jax.lax.fori_loop(0, num_updates, step, (states, empty))


def train(
    keys: jax.Array, config: Config, agents_at_once: int | None = None
) -> tuple[ppo.TrainState, ppo.Metrics]:
    """Every agent's whole training from its key.

    Args:
        keys: [agents].
        config: Each hyperparameter is a number for all, or [agents].
        agents_at_once: As in `run`.

    Returns:
        The states after the last update, every leaf [agents, ...].
        The updates' metrics, [num_updates, agents] each.
    """
    assert config.num_updates is not None
    return run(init(keys, config), config, config.num_updates, config.num_updates, agents_at_once)


def evaluate(
    params: policy.Params,
    config: Config,
    keys: jax.Array,
    num_episodes: int,
    sampled: bool = False,
) -> jax.Array:
    """Undiscounted returns of fresh episodes of every agent.

    Args:
        params: Every leaf [agents, ...].
        config: Each hyperparameter is a number for all, or [agents].
        keys: [agents], the same as for `init`. The episodes' keys come from them and differ from
            training's, which uses their first two children.
        num_episodes: Of each agent; static.
        sampled: Draw actions instead of taking the greedy ones.

    Returns:
        [agents, num_episodes], in the environment's own reward unit.
    """

    def one(params: policy.Params, config: Config, key: jax.Array) -> jax.Array:
        episodes_key = jax.random.fold_in(key, 2)
        return evaluation.evaluate(params, config, episodes_key, num_episodes, sampled)

    return jax.vmap(one, in_axes=(0, _axes(config), 0))(params, config, keys)


class Statistics(NamedTuple):
    """What the agents did in each update, all [updates]; NaN where no agent has a value."""

    agents: jax.Array  # that were not frozen
    env_steps: jax.Array  # of all agents together; so the next two
    gradient_steps: jax.Array
    episodes: jax.Array
    means: dict[str, jax.Array]  # over agents, of every other metric
    returns: statistics.Summary  # of the agents' mean episode returns


def summarize(
    metrics: ppo.Metrics, counted: jax.Array, solved_at: jax.Array | float | None
) -> Statistics:
    """Statistics over agents of what they did in each update.

    Args:
        metrics: [updates, agents] each.
        counted: [agents], booleans: which agents count.
        solved_at: [], the mean return from which an agent counts as solved; None for an environment
            without one.

    Returns:
        [updates] each.
    """
    values = metrics._asdict()
    totals = {
        name: jnp.sum(values.pop(name), axis=1, where=counted[None])
        for name in ("env_steps", "gradient_steps", "episodes")
    }
    own = {name: jnp.where(counted[None], value, jnp.nan) for name, value in values.items()}
    means = {name: jnp.nanmean(value, axis=1) for name, value in own.items()}
    active = jnp.sum((metrics.gradient_steps > 0) & counted[None], axis=1)
    returns = statistics.summarize(own["episode_return"], solved_at)
    return Statistics(active, **totals, means=means, returns=returns)


def shard_over_agents(
    function: Callable[..., Any], mesh: Mesh, out_specs: Any
) -> Callable[..., Any]:
    """The function with its agents shared out over the mesh's devices.

    Each device runs the function on its own agents alone, with nothing to wait for. An agent's
    results on other numbers of devices agree up to rounding, for the compiled programs differ.

    Args:
        function: Its arguments' arrays are [agents, ...], the agents a multiple of the devices;
            numbers, [], go to every device.
        mesh: With one axis, `agents`.
        out_specs: Where the outputs have their agents: `AGENTS`, or `TIME_AGENTS` for
            [capacity, agents].
    """

    @wraps(function)  # profiles and compilers name programs after it
    def sharded(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        full = [leaf for leaf in leaves if jnp.size(leaf)]

        def with_empty(*full: Any) -> Any:
            # jaxlib 0.11.2 crashes when an array without elements passes through, such as the
            # moments of a critic that has no parameters of its own, so those are made inside.
            each = iter(full)
            own = [
                next(each) if jnp.size(leaf) else jnp.zeros(_share(leaf, mesh), leaf.dtype)
                for leaf in leaves
            ]
            return function(*jax.tree.unflatten(structure, own))

        in_specs = tuple(AGENTS if jnp.ndim(leaf) else REPLICATED for leaf in full)
        # check_vma: loops start from constants, the same everywhere, and go on with each device's.
        return jax.shard_map(
            with_empty, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )(*full)

    return sharded


def _share(leaf: jax.Array, mesh: Mesh) -> tuple[int, ...]:
    """The shape of one device's part."""
    return leaf.shape[0] // mesh.size, *leaf.shape[1:]


AGENTS, TIME_AGENTS, REPLICATED = (
    PartitionSpec("agents"),
    PartitionSpec(None, "agents"),
    PartitionSpec(),
)


def _over_agents(
    function: Callable[..., Any], config: Config, agents: int, agents_at_once: int | None = None
) -> Callable[..., Any]:
    """The function of (agents, config) vmapped, over `agents_at_once` agents at a time; one
    agent goes without: a batch of one pays for loops of unequal length that it does not have."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(config):
        if jnp.ndim(leaf) and len(leaf) != agents:
            raise ValueError(
                f"config{jax.tree_util.keystr(path)} has {len(leaf)} values for {agents} agents;"
                " give one for each, or a number for all"
            )
    if agents == 1:
        return partial(_without_vmap, function)
    mapped = jax.vmap(function, in_axes=(0, _axes(config)))
    if agents_at_once is None or agents <= agents_at_once:
        return mapped
    if agents_at_once == 1:
        mapped = partial(_without_vmap, function)
    return partial(_in_batches, mapped, agents_at_once)


def _without_vmap(function: Callable[..., Any], agents: Any, config: Config) -> Any:
    own = jax.tree.map(lambda leaf: leaf[0] if jnp.ndim(leaf) else leaf, config)
    outcome = function(jax.tree.map(lambda leaf: leaf[0], agents), own)
    return jax.tree.map(lambda leaf: leaf[None], outcome)


def _in_batches(function: Callable[..., Any], size: int, agents: Any, config: Config) -> Any:
    """The function of (agents, config) on `size` agents at a time."""
    hyperparameters, structure = jax.tree.flatten(config)
    own = [leaf if jnp.ndim(leaf) else None for leaf in hyperparameters]

    def one_batch(agents: Any, own: list[jax.Array | None]) -> Any:
        leaves = [
            shared if leaf is None else leaf
            for shared, leaf in zip(hyperparameters, own, strict=True)
        ]
        return function(agents, jax.tree.unflatten(structure, leaves))

    return fast.in_batches(one_batch, size, agents, own)


def _axes(config: Config) -> Config:
    return jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, config)


def _learned(states: ppo.TrainState, row: ppo.Metrics) -> Any:
    """All that must be finite after an update, every leaf [agents, ...]."""
    return (
        row.policy_loss,
        row.value_loss,
        row.actor_grad_norm,
        row.critic_grad_norm,
        states.params,
        states.reward_statistics,
    )


def _all_finite(states: ppo.TrainState, row: ppo.Metrics) -> jax.Array:
    """Whether an agent's update left everything that it learns finite, [agents]."""
    numbers = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(_learned(states, row))]
    return jnp.isfinite(jnp.concatenate(numbers, axis=1)).all(axis=1)


def _nan_like(leaf: jax.Array) -> jax.Array:
    none = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
    return jnp.full_like(leaf, none)
