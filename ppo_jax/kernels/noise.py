"""Everything random in a rollout as one GPU kernel, where XLA has one for each level of keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import triton

from ppo_jax.kernels import is_key, memory, threefry
from ppo_jax.kernels.entries import Program, entries, to_words

_WARPS = 16
_LANES = 512  # steps of an environment that are drawn at once


def draw(key: jax.Array, function: Callable[..., Any], shape: tuple[int, int]) -> Any:
    """What `function(jax.random.split(key, 3), shape)` draws, [T, N, ...].

    Every lane draws for one step of one environment. So each of the three keys must be drawn from
    in the order of steps and environments, with as many numbers for each.

    Raises ValueError, in one line, for what the kernel does not serve.
    """
    threefry.check(key)
    length, num_envs = shape
    size = length * num_envs
    lanes = min(_LANES, memory.padded(size))
    keys = jax.eval_shape(lambda: jax.random.split(key, 3))
    program = Program(lambda keys: function(keys, (1, 1)), keys)
    likes, structure = jax.tree.flatten(program.outputs)

    def noise_kernel(inputs: Any, outputs: Any, _: Any) -> None:
        words, constants = inputs
        parent = threefry.Key((jnp.full(lanes, words[0]), jnp.full(lanes, words[1])))

        def draw_part(part: jax.Array, _: jax.Array) -> jax.Array:
            row = part * lanes + jax.lax.broadcasted_iota(jnp.int32, (lanes,), 0)
            keys = threefry.children(parent, 3)
            own = [one._replace(place=row.astype(jnp.uint32)) for one in keys]
            drawn = program(lanes, constants, entries((3,), own.__getitem__))
            for ref, like, leaf in zip(outputs, likes, jax.tree.leaves(drawn), strict=True):
                numbers = to_words(leaf) if is_key(like) else leaf
                for place in np.ndindex(numbers.shape[2:]):
                    at = ref.at[(row // num_envs, row % num_envs, *place)]
                    triton.store(at, numbers[(0, 0, *place)], mask=row < size)
            return _

        jax.lax.fori_loop(0, -(-size // lanes), draw_part, jnp.zeros((), jnp.int32))

    outputs = [jax.ShapeDtypeStruct((*shape, *like.shape[2:]), like.dtype) for like in likes]
    inputs = key, [jnp.ravel(constant) for constant in program.constants]
    drawn = memory.call(noise_kernel, inputs, outputs, _WARPS)
    return jax.tree.unflatten(structure, drawn)
