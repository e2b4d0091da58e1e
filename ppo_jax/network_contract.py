"""What a network must be, the user's own too: a flax module of one of two forms.

A module maps observations [B, ...] to (action_output, value [B]); `action_output` is logits
[B, A] for Discrete(A), a tuple of logits for MultiDiscrete, and the mean [B, K] for a Box of K
entries.

A module that has `initial_memory(num_envs)` is recurrent: it maps (observation, memory, start [B])
to (action_output, value, memory), and resets its memory where `start` says that an episode begins.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError

from ppo_jax.objects import explain, first_line

NumOutputs = int | tuple[int, ...]

_ROWS = 11  # of the batch that a module is tried with: no usual length of anything else
_ONLY_PARAMS = "only the collection params is served (no batch statistics, no dropout)"


def has_memory(module: nn.Module) -> bool:
    """Whether a module is recurrent."""
    return callable(getattr(module, "initial_memory", None))


def initial_memory(module: Any, num_envs: int) -> Any:
    """The memory of fresh episodes, its floats as wide as all others.

    Args:
        module: A recurrent one.
        num_envs: N.

    Returns:
        Every leaf [N, ...].

    Raises:
        ValueError: For a flax cell that is made there without `parent=None`.
    """
    try:
        memory = module.initial_memory(num_envs)
    except AssertionError as error:  # flax's own, without a word, for a cell that is made there
        said = f"initial_memory: {explain(error)}"
        raise ValueError(f"{said}; a cell that is made there needs parent=None") from error
    return jax.tree.map(lambda leaf: as_float(jnp.asarray(leaf)), memory)


def as_float(leaf: jax.Array) -> jax.Array:
    """The leaf, if it holds floats, as floats of the width of all others."""
    return leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@lru_cache(maxsize=64)
def check(
    module: nn.Module, types: Any, structure: Any, outputs: NumOutputs, said: str, _: Any
) -> None:
    """Check that a module gives what it must; a success is cached, because a check traces it.

    Args:
        types: Shape, without the batch axis, and type of every leaf of its observations.
        structure: Of the observations' tree.
        outputs: What `network.num_outputs` gives.
        said: The network's name, for messages.
        _: The type of floats; only part of the cache's key.

    Raises:
        ValueError: In one line, for other shapes, other collections than `params`, or a module that
            cannot be traced.
    """
    batch = jax.tree.unflatten(
        structure, [jax.ShapeDtypeStruct((_ROWS, *shape), dtype) for shape, dtype in types]
    )
    inputs: tuple[Any, ...] = (batch,)
    try:
        if has_memory(module):
            memory = jax.eval_shape(lambda: initial_memory(module, _ROWS))
            inputs = batch, memory, jax.ShapeDtypeStruct((_ROWS,), bool)
        variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        if set(variables) != {"params"}:
            others = ", ".join(sorted(set(variables) - {"params"})) or "none"
            raise ValueError(f"its variables are in the collections: {others}; {_ONLY_PARAMS}")
        found = jax.eval_shape(module.apply, variables, *inputs)
    except InvalidRngError as error:
        raise ValueError(f"network {said}: {first_line(error)}; {_ONLY_PARAMS}") from error
    except Exception as error:  # of the user's module
        raise ValueError(f"network {said}: {explain(error)}") from error
    if len(inputs) > 1:
        found = _check_memory(found, inputs[1], said)
    _check_outputs(found, outputs, said)


def _check_memory(found: Any, memory: Any, said: str) -> Any:
    """The action output and value of a module with memory, which must keep its memory's shapes."""
    if not isinstance(found, tuple) or len(found) != 3:
        raise ValueError(
            f"network {said} has initial_memory and gives no triple; it must return"
            " (action_output, value, memory)"
        )
    for leaf in jax.tree.leaves(memory):
        if leaf.shape[:1] != (_ROWS,):
            raise ValueError(
                f"network {said}: initial_memory({_ROWS}) has a part of shape {leaf.shape}; every"
                " part's first axis must be num_envs"
            )
    given = jax.eval_shape(lambda tree: jax.tree.map(as_float, tree), found[2])
    before, after = (
        jax.tree.map(lambda leaf: f"{leaf.dtype}{_shape_in_words(leaf)}", tree)
        for tree in (memory, given)
    )
    if before != after:
        raise ValueError(
            f"network {said} gives memory {after}; it must be like initial_memory, {before}"
        )
    return found[:2]


def _check_outputs(found: Any, outputs: NumOutputs, said: str) -> None:
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"network {said} gives no pair; it must return (action_output, value)")
    given, value = jax.tree.map(_shape_in_words, found)
    wanted: Any = f"[B, {outputs}]"
    if not isinstance(outputs, int):
        wanted = tuple(f"[B, {each}]" for each in outputs)
    if given != wanted:
        shapes = f"{given}; it must be {wanted}".replace("'", "")
        raise ValueError(f"network {said} gives action_output {shapes}")
    if value != "[B]":
        remedy = "; leave the last axis out: value[:, 0]" if value == "[B, 1]" else ""
        raise ValueError(f"network {said} gives value {value}; it must be [B]{remedy}")


def _shape_in_words(leaf: Any) -> str:
    """A shape as [B, ...], B for the number of rows."""
    rest = [str(length) for length in leaf.shape[1:]]
    return f"[{', '.join(['B', *rest])}]" if leaf.shape[:1] == (_ROWS,) else str(list(leaf.shape))
