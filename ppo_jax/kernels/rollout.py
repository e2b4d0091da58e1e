"""A rollout as one GPU kernel: actor, environment and resets in the body of one loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import triton

from ppo_jax.config import Config
from ppo_jax.kernels import is_key, memory, network
from ppo_jax.kernels.entries import Entries, Program, entries, to_keys
from ppo_jax.policy import Params, Policy

_WARPS = 4


def scan(
    step: Callable[[Policy, Any, Any], Any],
    carry: Any,
    noise: Any,
    params: Params,
    policy: Policy,
    config: Config,
) -> Any:
    """What `jax.lax.scan` of `step(policy, carry, noise)` gives: carry and outputs [T, N, ...].

    The step is traced for one environment, with a policy whose network's output is given. The
    kernel computes that output for all environments at once, then the step entry by entry.

    carry: the rollout's state [N, ...], then whatever else, numbers too; noise: [T, N, ...].

    Raises ValueError, in one line, for an operation that no kernel has.
    """
    length, num_envs = jax.tree.leaves(noise)[0].shape[:2]
    lanes = memory.padded(num_envs)
    actor = network.half(params.trainable, "actor")
    weights = network.half(network.places(params.trainable), "actor")

    def step_given(output: jax.Array, carry: Any, noise: Any) -> Any:
        def apply(params: Params, *_: Any) -> Any:
            return policy.distribution(params, output), None, ()

        return step(policy._replace(apply=apply), carry, noise)

    one = jax.tree.map(lambda leaf: _like(leaf, leaf.shape and (1, *leaf.shape[1:])), carry)
    one_noise = jax.tree.map(lambda leaf: _like(leaf, (1, *leaf.shape[2:])), noise)
    see = Program(partial(policy.encode, params), one[0].observation)
    act = Program(step_given, network.output(params.trainable), one, one_noise)

    def rollout_kernel(inputs: Any, outputs: Any, _: Any) -> None:
        constants, parameters, start, drawn = inputs
        end, rows = outputs
        lane = jax.lax.broadcasted_iota(jnp.int32, (lanes,), 0)
        source = jnp.minimum(lane, num_envs - 1)  # lanes too many repeat the last environment
        half = memory.read(weights, parameters)

        def read(ref: Any, like: Any, *time: jax.Array) -> Entries:
            if not like.shape:
                return entries((), lambda: jnp.full(lanes, ref[0]))
            shape = (1, *ref.shape[len(time) + 1 :])  # of a key's words, if it is one
            numbers = entries(shape, lambda _, *place: ref[(*time, source, *place)])
            return to_keys(numbers) if is_key(like) else numbers

        def write(ref: Any, leaf: Entries, *time: jax.Array) -> None:
            for place in np.ndindex(leaf.shape[1:]):
                at, count = ref.at[(*time, lane, *place)], num_envs if leaf.shape else 1
                triton.store(at, leaf[(0, *place)[: leaf.ndim]], mask=lane < count)

        def step(time: jax.Array, vectors: list[jax.Array]) -> list[jax.Array]:
            carry = _of_vectors(vectors, one)
            seen = jax.tree.leaves(see(lanes, constants[0], carry[0].observation))
            inputs = [vector for leaf in seen for vector in leaf.flat]
            output = network.forward(half, inputs, config.activation)
            noise = jax.tree.map(lambda ref, like: read(ref, like, time), drawn, one_noise)
            given = entries((1, len(output)), lambda _, place: output[place])
            carry, row = act(lanes, constants[1], given, carry, noise)
            for ref, leaf in zip(rows, jax.tree.leaves(row), strict=True):
                write(ref, leaf, time)
            return _to_vectors(carry)

        first = jax.tree.map(read, start, jax.tree.leaves(one))
        last = jax.lax.fori_loop(0, length, step, _to_vectors(first))
        for ref, leaf in zip(end, jax.tree.leaves(_of_vectors(last, one)), strict=True):
            write(ref, leaf)

    leaves, structure = jax.tree.flatten(carry)
    start = [jnp.atleast_1d(leaf) for leaf in leaves]
    rows = [
        _like(leaf, (length, num_envs, *leaf.shape[1:])) for leaf in jax.tree.leaves(act.outputs[1])
    ]
    flat = jax.tree.map(jnp.ravel, ([see.constants, act.constants], actor))
    shapes = [_like(leaf, leaf.shape) for leaf in start], rows
    end, rows = memory.call(rollout_kernel, (*flat, start, noise), shapes, _WARPS)
    end = [leaf.reshape(like.shape) for leaf, like in zip(end, leaves, strict=True)]
    return (
        jax.tree.unflatten(structure, end),
        jax.tree.unflatten(jax.tree.structure(act.outputs[1]), rows),
    )


def _like(leaf: Any, shape: tuple[int, ...]) -> Any:
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _to_vectors(tree: Any) -> list[jax.Array]:
    return [vector for leaf in jax.tree.leaves(tree) for vector in leaf.flat]


def _of_vectors(vectors: list[jax.Array], like: Any) -> Any:
    """The tree of entries, of such shapes, that `_to_vectors` made a list."""
    each = iter(vectors)
    return jax.tree.map(lambda leaf: entries(leaf.shape, lambda *_: next(each)), like)
