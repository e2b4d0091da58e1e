"""A kernel's arrays in memory, and the call of a kernel on the platform that a program is for."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jax.experimental.pallas import triton

from ppo_jax.kernels import is_key


def padded(size: int) -> int:
    """The least power of two from `size` on, at least 16, which Triton's products need."""
    return max(16, 1 << (size - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a number, a vector or a matrix lies in a flat array."""

    start: int
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def shifted(self, start: int) -> "Place":
        """The place in a flat array of which this one's array is the part from `start` on."""
        return dataclasses.replace(self, start=self.start + start)

    def read(self, ref: Any) -> jax.Array:
        """The array, padded with zeros."""
        if not self.shape:
            return ref[self.start]
        index, inside = self._cells()
        return triton.load(ref.at[index], mask=inside, other=0)

    def write(self, ref: Any, array: jax.Array) -> None:
        """Puts the padded array in its place."""
        if not self.shape:
            ref[self.start] = array
        else:
            index, inside = self._cells()
            triton.store(ref.at[index], array, mask=inside)

    def _cells(self) -> tuple[jax.Array, jax.Array]:
        """The positions of the padded array, and which of them are not padding."""
        shape = tuple(map(padded, self.shape))
        index, inside = jnp.full(shape, self.start, jnp.int32), jnp.full(shape, True)
        for axis, (size, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            along = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
            index, inside = index + along * stride, inside & (along < size)
        return index, inside


def read(places: Any, refs: Any) -> Any:
    """The arrays of places, of which each ref of a tree has a tree of its own."""
    return jax.tree.map(
        lambda ref, own: jax.tree.map(lambda place: place.read(ref), own), refs, places
    )


def write(places: Any, refs: Any, arrays: Any) -> None:
    """Puts such arrays in their places."""

    def write_all(ref: Any, own: Any, arrays: Any) -> None:
        jax.tree.map(lambda place, array: place.write(ref, array), own, arrays)

    jax.tree.map(write_all, refs, places, arrays)


def numbers(tree: Any) -> tuple[list[jax.Array], Callable[[Any], Any]]:
    """The arrays among a tree's numbers, and the function of refs of them that gives the tree."""
    leaves, structure = jax.tree.flatten(tree)
    fixed = [isinstance(leaf, int | float) for leaf in leaves]
    arrays = [jnp.ravel(leaf) for leaf, is_fixed in zip(leaves, fixed, strict=True) if not is_fixed]

    def rebuild(refs: Any) -> Any:
        rest = iter(refs)
        both = zip(leaves, fixed, strict=True)
        given = [leaf if is_fixed else next(rest)[0] for leaf, is_fixed in both]
        return jax.tree.unflatten(structure, given)

    return arrays, rebuild


def call(
    kernel: Callable[..., None],
    inputs: Any,
    outputs: Any,
    warps: int,
    grid: tuple[int, ...] = (),
) -> Any:
    """The outputs that the kernel writes; on a CPU it is interpreted.

    The kernel is a function of the inputs and the outputs, as refs in trees like these, and of a
    barrier, after which all threads see what each of them has written. An output is given as its
    shape, or as an array that the kernel writes in place. Refs of keys are of their words [..., 2].
    """
    sources, source_tree = jax.tree.flatten(inputs)
    likes, target_tree = jax.tree.flatten(outputs)
    sources, targets = [_words(leaf) for leaf in sources], [_words(leaf) for leaf in likes]
    num_inputs = len(sources)
    in_place = [place for place, target in enumerate(targets) if isinstance(target, jax.Array)]
    sources = [*sources, *(targets[place] for place in in_place)]

    def launch(interpret: bool, *sources: Any) -> Any:
        barrier = (lambda: None) if interpret else triton.debug_barrier

        def body(*refs: Any) -> None:
            kernel(
                jax.tree.unflatten(source_tree, refs[:num_inputs]),
                jax.tree.unflatten(target_tree, refs[len(sources) :]),
                barrier,
            )

        return pallas.pallas_call(
            body,
            name=kernel.__name__,
            grid=grid,
            out_shape=targets,
            input_output_aliases={num_inputs + n: place for n, place in enumerate(in_place)},
            interpret=interpret,
            compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        )(*sources)

    written = jax.lax.platform_dependent(
        *sources, cpu=partial(launch, True), cuda=partial(launch, False)
    )
    typed = [
        jax.random.wrap_key_data(leaf) if is_key(like) else leaf
        for leaf, like in zip(written, likes, strict=True)
    ]
    return jax.tree.unflatten(target_tree, typed)


def _words(leaf: Any) -> Any:
    """An array's shape or numbers, of keys those of their words [..., 2]."""
    if not is_key(leaf):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf)
    return jax.eval_shape(jax.random.key_data, leaf)
