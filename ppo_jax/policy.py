"""The policy: a network, a distribution and the observations' statistics as one set of functions.

Everything else carries `Params` whole, and of it sees only the two fields.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ppo_jax import (
    actions,
    env,
    fast,
    network,
    network_contract,
    normalize,
    recurrence,
    spaces,
)
from ppo_jax.config import BUILT_IN_NETWORKS, Config, nearest_divisor
from ppo_jax.distributions import Distribution


class Params(NamedTuple):
    """What an agent has learned (or anything of its shape)."""

    trainable: Any  # what the optimizer sees: the network's, and for a Box log σ
    statistics: Any  # of observations; () where they are not normalized


class Halves(NamedTuple):
    """Actor and critic, as one vector each or as trees; a half without parameters is empty."""

    actor: Any
    critic: Any


class Policy(NamedTuple):
    """Pure functions of one configuration, made inside a trace: action bounds may be traced."""

    init: Callable[[jax.Array], Params]
    """key -> initial parameters."""
    apply: Callable[..., tuple[Distribution, jax.Array, Any]]
    """(params, observation [..., *shape], memory=(), start=None) -> distribution over the actions,
    value [...], memory. A network without memory gives () back; one with it begins anew where
    `start` [...] is true, and nowhere if that is left out."""
    unroll: Callable[..., tuple[Distribution, jax.Array, Any]]
    """(params, observation [T, N, *shape], memory [N, ...], start [T, N]) -> distribution, value
    [T, N], memory after every step [T, N, ...]. Without memory it is `apply`."""
    initial_memory: Callable[[int], Any]
    """num_envs -> memory of fresh episodes, [num_envs, ...]; () without memory."""
    has_memory: bool
    """Whether the network has memory."""
    noise: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    """(key, leading shape) -> the noise that `Distribution.sample` takes, [*leading, ...]."""
    env_action: Callable[[jax.Array], jax.Array]
    """A sampled action -> what the environment receives, in its space's shape and bounds."""
    entropy_needs_noise: bool
    """Whether the noise of an action is kept for its entropy."""
    encode: Callable[[Params, Any], Any]
    """(params, observations [B, *shape]) -> what the network sees."""
    distribution: Callable[[Params, Any], Distribution]
    """(params, the network's outputs [..., A]) -> distribution over the actions."""


def make(config: Config) -> Policy:
    """The policy of a configuration.

    Args:
        config: Its hyperparameters may be traced.

    Returns:
        Pure functions that close over the configuration's values; valid in the current trace only.

    Raises:
        ValueError: In one line, for a network or a space that cannot be served.
    """
    environment = env.make(config)
    action_space = environment.action_space
    example = jax.eval_shape(lambda: environment.reset(jax.random.key(0))[1])
    encode = _encoder(config, environment.observation_space, example)

    def statistics() -> Any:
        if not config.normalize_observation:
            return ()
        return normalize.init(environment.observation_space, example)

    def seen(observation: Any) -> Any:  # by the network of a fresh agent
        return encode(statistics(), observation)

    module = network.make(config, jax.eval_shape(seen, example), action_space)
    has_memory = network_contract.has_memory(module)
    if has_memory:
        _check_sequences(config)
    _check_noise(config, action_space)
    action = actions.make(action_space, config.squash_action)

    def initial_memory(num_envs: int) -> Any:
        return network_contract.initial_memory(module, num_envs) if has_memory else ()

    def init(key: jax.Array) -> Params:
        zeros = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), example)
        inputs = (zeros, initial_memory(1), jnp.ones(1, bool)) if has_memory else (zeros,)
        trainable = {"network": _init_network(key, module, seen, inputs, config)}
        if isinstance(action_space, spaces.Box):
            trainable["log_std"] = jnp.full(action_space.size, config.log_std_init, float)
        return Params(trainable, statistics())

    @partial(jax.jit, inline=True)  # traced once for all that calls it, and part of its program
    def forward(variables: Any, inputs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            outputs = module.apply({"params": variables}, *inputs)
        # A module may compute in half precision.
        return jax.tree.map(network_contract.as_float, outputs)

    def outputs(params: Params, observation: Any, memory: Any, start: Any) -> Any:
        batch, leading = _flatten(observation, example)
        inputs: tuple[Any, ...] = (encode(params.statistics, batch),)
        if has_memory:
            begins = jnp.zeros(leading, bool) if start is None else start
            inputs = *inputs, *jax.tree.map(partial(_merge_axes, leading), (memory, begins))
        # Of an update's products those of a minibatch, or of a rollout's step, are the largest.
        most = max(config.transitions_per_minibatch, config.num_envs)
        found = fast.rows(forward, most)(params.trainable["network"], inputs)
        given, values, *memories = jax.tree.map(
            lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), found
        )
        return given, values, memories[0] if has_memory else memory

    def distribution(params: Params, given: Any) -> Distribution:
        return action.distribution(given, params.trainable.get("log_std"))

    def apply(params: Params, observation: Any, memory: Any = (), start: Any = None) -> Any:
        given, values, memory = outputs(params, observation, memory, start)
        return distribution(params, given), values, memory

    def unroll(params: Params, observation: Any, memory: Any, start: Any) -> Any:
        if not has_memory:
            return apply(params, observation, memory)

        def step(variables: Any, memory: Any, inputs: tuple[Any, jax.Array]) -> Any:
            *given, after = forward(variables, (inputs[0], memory, inputs[1]))
            return given, after

        batch, leading = _flatten(observation, example)
        seen = encode(params.statistics, batch)
        seen = jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), seen)
        variables = params.trainable["network"]
        (given, values), memories = recurrence.unroll(step, variables, memory, (seen, start))
        return distribution(params, given), values, memories

    return Policy(
        init=init,
        apply=apply,
        unroll=unroll,
        initial_memory=initial_memory,
        has_memory=has_memory,
        noise=action.noise,
        env_action=action.env_action,
        entropy_needs_noise=action.entropy_needs_noise,
        encode=lambda params, observation: encode(params.statistics, observation),
        distribution=distribution,
    )


def halves(trainable: Any) -> tuple[Halves, Callable[[Halves], Any]]:
    """The trainable parameters as one vector each of actor and critic, and the way back.

    Args:
        trainable: `Params.trainable`, or gradients of its shape.

    Returns:
        Two vectors; that of a half without parameters is empty.
        The function that makes a tree like `trainable` of such vectors.
    """
    trees, join = split(trainable)
    (actor, to_actor), (critic, to_critic) = _ravel(trees.actor), _ravel(trees.critic)

    def unflatten(vectors: Halves) -> Any:
        return join(Halves(to_actor(vectors.actor), to_critic(vectors.critic)))

    return Halves(actor, critic), unflatten


def split(trainable: Any) -> tuple[Halves, Callable[[Halves], Any]]:
    """The trainable parameters as one tree each of actor and critic, and the way back.

    Args:
        trainable: `Params.trainable`, or gradients of its shape.

    Returns:
        Two trees: the network's parameters under `critic`, and all others, log σ among them.
        The function that makes a tree like `trainable` of such trees.
    """
    layers = dict(trainable["network"])
    critic = {"critic": layers.pop("critic")} if "critic" in layers else {}

    def join(trees: Halves) -> Any:
        actor, critic = trees
        return {**actor, "network": {**actor["network"], **critic}}

    return Halves({**trainable, "network": layers}, critic), join


def _ravel(tree: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    if not jax.tree.leaves(tree):  # ravel_pytree makes float32 of nothing, x64 or not
        return jnp.zeros(0, float), lambda _: tree
    return ravel_pytree(tree)


def _encoder(config: Config, space: spaces.Space, example: Any) -> Callable[[Any, Any], Any]:
    """The function of (statistics, observations [B, ...]) that gives what the network sees.

    Built-in networks see floats: one-hot Discrete parts, and bytes (uint8) divided by 255 where
    they are not normalized.
    """
    kinds = spaces.leaves(space, example)
    built_in = config.network in BUILT_IN_NETWORKS

    def as_floats(kind: Any, leaf: jax.Array) -> jax.Array:
        floats = spaces.as_floats(kind, leaf)
        return floats / 255 if leaf.dtype == jnp.uint8 and isinstance(kind, spaces.Box) else floats

    def encode(statistics: Any, observation: Any) -> Any:
        if isinstance(statistics, normalize.Statistics):
            observation = normalize.apply(statistics, observation)
        if not built_in:
            return observation
        leaves, structure = jax.tree.flatten(observation)
        return jax.tree.unflatten(structure, map(as_floats, kinds, leaves))

    return encode


def _check_sequences(config: Config) -> None:
    """Raise ValueError where minibatches would cut the sequences of a network with memory."""
    if config.whole_episodes:
        raise ValueError(
            "a network with memory learns from rollouts of fixed length, and min_transitions"
            f" {config.min_transitions} collects whole episodes; give num_steps instead"
        )
    per_environment = config.num_steps or 1
    size = config.transitions_per_minibatch
    if size % per_environment == 0:
        return
    # Minibatches of whole environments: their number divides that of the environments.
    nearest = nearest_divisor(config.num_envs, config.batch_size // size)
    said, remedy = f"num_minibatches {config.num_minibatches}", f"num_minibatches {nearest}"
    if config.minibatch_size is not None:
        said, remedy = f"minibatch_size {size}", f"minibatch_size {config.batch_size // nearest}"
    raise ValueError(
        f"{said} cuts the sequences of {config.num_envs} environments × {per_environment} steps,"
        " and the network has memory, which needs whole environments in a minibatch; the nearest"
        f" that works is {remedy}"
    )


def _check_noise(config: Config, space: spaces.Space) -> None:
    """Raise ValueError for correlated noise of actions that are not continuous."""
    correlation = config.noise_correlation
    if isinstance(space, spaces.Box) or isinstance(correlation, jax.core.Tracer):
        return
    if np.any(np.asarray(correlation) != 0):
        raise ValueError(
            f"noise_correlation is {correlation}, and actions are {spaces.describe(space)}; only"
            " the noise of continuous actions is correlated, so leave it out"
        )


def _init_network(
    key: jax.Array,
    module: Any,
    seen: Callable[[Any], Any],
    inputs: tuple[Any, ...],
    config: Config,
) -> Any:
    def init_module(key: jax.Array) -> Any:
        params = module.init(key, seen(inputs[0]), *inputs[1:])["params"]
        return jax.tree.map(network_contract.as_float, params)

    if config.network in BUILT_IN_NETWORKS:
        shapes = jax.eval_shape(init_module, key)
        return network.init_built_in(key, shapes, config.initialization)
    # One agent after another: an initializer may call LAPACK, whose batched calls lock up a small
    # machine's threads.
    return jax.custom_batching.sequential_vmap(init_module)(key)


def _merge_axes(leading: tuple[int, ...], leaf: jax.Array) -> jax.Array:
    return leaf.reshape(-1, *leaf.shape[len(leading) :])


def _flatten(observation: Any, example: Any) -> tuple[Any, tuple[int, ...]]:
    """The observations [..., *shape] as [B, *shape], and their leading shape.

    Raises ValueError for observations of another structure or shape.
    """
    leaves, ones = jax.tree.leaves(observation), jax.tree.leaves(example)
    leading = jnp.shape(leaves[0])[: jnp.ndim(leaves[0]) - ones[0].ndim] if leaves else ()
    wanted = [(*leading, *one.shape) for one in ones]
    structure: Any = jax.tree.structure(observation)
    if structure != jax.tree.structure(example) or [*map(jnp.shape, leaves)] != wanted:
        raise ValueError(
            f"the observation's shape is {jax.tree.map(jnp.shape, observation)}; it must be"
            f" {jax.tree.map(lambda one: one.shape, example)}, after any axes of a batch"
        )
    return (
        jax.tree.map(lambda leaf, one: jnp.reshape(leaf, (-1, *one.shape)), observation, example),
        leading,
    )
