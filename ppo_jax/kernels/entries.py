"""Runs a function of small arrays inside a GPU kernel, entry by entry.

A kernel's arrays have sizes that are powers of two, and it cannot cut, join or index them, which an
environment's code does freely. So the function is traced for one environment (or transition), and
its equations are evaluated on NumPy arrays of `entries`: each entry is one number of the small
array, for all environments at once, a vector [lanes]. NumPy then cuts and joins.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from ppo_jax import kernels
from ppo_jax.kernels import threefry

# Of vectors [lanes], in the shape of the array that they stand for; an array of keys is one of
# `threefry.Key`s.
Entries = np.ndarray

_ELEMENTWISE = (  # operations, all of which Triton has
    "abs acos acosh add and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp"
    " convert_element_type cos cosh div eq erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite"
    " le log log1p logistic lt max min mul ne neg not or pow rem rsqrt select_n shift_left"
    " shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan"
    " tanh xor"
)
_REDUCTIONS = {
    "reduce_sum": jnp.add,
    "reduce_max": jnp.maximum,
    "reduce_min": jnp.minimum,
    "reduce_and": jnp.logical_and,
    "reduce_or": jnp.logical_or,
}
_MOVES: dict[str, Callable[..., Any]] = {  # of (the equation's parameters, its inputs)
    "reshape": lambda of, x: x.reshape(of["new_sizes"]),
    "copy": lambda of, x: x,
    "reshard": lambda of, x: x,  # a kernel is on one device
    "squeeze": lambda of, x: x.squeeze(of["dimensions"]),
    "transpose": lambda of, x: x.transpose(of["permutation"]),
    "concatenate": lambda of, *each: np.concatenate(each, of["dimension"]),
    "stack": lambda of, *each: np.stack(each, of["axis"]),
    "unstack": lambda of, x: _parts(np.moveaxis(x, of["axis"], 0)),
    "split": lambda of, x: np.split(x, np.cumsum(of["sizes"])[:-1], of["axis"]),
    "slice": lambda of, x: x[_slices(of["start_indices"], of["limit_indices"], of["strides"])],
}
_RANDOM: dict[str, Callable[..., Entries]] = {  # of (the equation's parameters, its inputs)
    "random_bits": lambda of, keys: _drawn(threefry.bits, keys, of["shape"], of["bit_width"]),
    "random_split": lambda of, keys: _drawn(threefry.children, keys, of["shape"]),
    "random_fold_in": lambda of, *both: _children(*np.broadcast_arrays(*both)),
    "random_wrap": lambda of, numbers: to_keys(numbers),
    "random_unwrap": lambda of, keys: to_words(keys),
}


class Program:
    """A function of arrays, traced for one environment's shapes.

    `constants` are the arrays that it closes over, and `used` says which of its arguments' leaves
    it reads: what a kernel must be given.
    """

    def __init__(self, function: Callable[..., Any], *shapes: Any):
        closed, outputs = jax.make_jaxpr(function, return_shape=True)(*shapes)
        every = [True] * len(closed.jaxpr.outvars)
        self.jaxpr, kept, self.used = partial_eval.dce_jaxpr_consts(closed.jaxpr, every)
        self.constants = [c for c, is_kept in zip(closed.consts, kept, strict=True) if is_kept]
        self.outputs = outputs  # their shapes

    def __call__(self, lanes: int, constants: list[Any], *arguments: Any) -> Any:
        """The function's outputs as entries, of arguments whose leaves are entries, anything where
        they are not used; `constants` are refs of them, flat."""
        known = []
        for ref, constant in zip(constants, self.constants, strict=True):
            flat = [jnp.full(lanes, ref[position]) for position in range(constant.size)]
            known.append(entries((constant.size,), flat.__getitem__).reshape(constant.shape))
        leaves = zip(jax.tree.leaves(arguments), self.used, strict=True)
        read = [leaf for leaf, is_used in leaves if is_used]
        found = _run(self.jaxpr, lanes, known, read)
        return jax.tree.unflatten(jax.tree.structure(self.outputs), found)


def entries(shape: tuple[int, ...], at: Callable[..., Any]) -> Entries:
    """Entries of that shape, each `at(*its indices)`."""
    flat = np.empty(int(np.prod(shape)), object)
    for position, place in enumerate(np.ndindex(shape)):
        flat[position] = at(*place)
    return flat.reshape(shape)


def to_keys(words: Entries) -> Entries:
    """The keys of words [..., 2]."""
    return entries(words.shape[:-1], lambda *at: threefry.Key(tuple(words[at])))


def to_words(keys: Entries) -> Entries:
    """The words [..., 2] of keys."""
    return entries((*keys.shape, 2), lambda *at: keys[at[:-1]].words[at[-1]])


def _run(jaxpr: Any, lanes: int, constants: list[Entries], arguments: list[Any]) -> list[Entries]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(atom: Any) -> Entries:
        if isinstance(atom, Literal):
            like: Any = atom.aval
            return of_array(atom.val, lanes, like.dtype)
        return known[atom]

    for equation in jaxpr.eqns:
        found = _evaluate(equation, lanes, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def of_array(array: Any, lanes: int, dtype: Any = None) -> Entries:
    """The entries of an array that is the same for all lanes."""
    array = np.asarray(array, dtype)
    return entries(array.shape, lambda *place: jnp.full(lanes, array[place], array.dtype))


def _evaluate(equation: Any, lanes: int, inputs: list[Entries]) -> list[Entries]:
    name, of = equation.primitive.name, equation.params
    shape = equation.outvars[0].aval.shape
    inner = of.get("jaxpr", of.get("call_jaxpr"))
    if inner is not None and hasattr(inner, "consts"):
        return _run(inner.jaxpr, lanes, [of_array(c, lanes) for c in inner.consts], inputs)
    if name in _ELEMENTWISE.split():
        return [_each(partial(equation.primitive.bind, **of), shape, *inputs)]
    if name in _MOVES:
        moved = _MOVES[name](of, *inputs)
        return moved if equation.primitive.multiple_results else [moved]
    if name in _RANDOM:
        return [_RANDOM[name](of, *inputs)]
    if name == "broadcast_in_dim":
        [small] = inputs
        axes = dict(zip(of["broadcast_dimensions"], small.shape, strict=True))
        sizes = [axes.get(axis, 1) for axis in range(len(shape))]
        return [np.broadcast_to(small.reshape(sizes), shape)]
    if name == "iota":
        return [of_array(np.indices(shape)[of["dimension"]].astype(of["dtype"]), lanes)]
    if name in _REDUCTIONS:
        rows = _rows(inputs[0], of["axes"], shape)
        return [reduce(partial(_each, _REDUCTIONS[name], shape), rows)]
    if name == "argmax":
        return [_argmax(_rows(inputs[0], of["axes"], shape), shape, lanes, of["index_dtype"])]
    raise kernels.refusal(f"the environment or the policy has the operation {name}")


def _each(function: Callable[..., Any], shape: tuple[int, ...], *inputs: Entries) -> Entries:
    spread = [np.broadcast_to(one, shape) for one in inputs]
    return entries(shape, lambda *place: function(*(one[place] for one in spread)))


def _rows(array: Entries, axes: tuple[int, ...], shape: tuple[int, ...]) -> list[Entries]:
    """What lies along those axes, each of the shape that is left."""
    return _parts(np.moveaxis(array, axes, range(len(axes))).reshape(-1, *shape))


def _parts(array: Entries) -> list[Entries]:
    """An array along its first axis: arrays too, where iterating a vector would give numbers."""
    return [array[index, ...] for index in range(len(array))]


def _argmax(rows: list[Entries], shape: tuple[int, ...], lanes: int, dtype: Any) -> Entries:
    """The first index at which the rows are largest."""
    largest, best = rows[0], of_array(np.zeros(shape, dtype), lanes)
    for index, row in enumerate(rows[1:], 1):
        larger = _each(jnp.greater, shape, row, largest)
        largest = _each(jnp.where, shape, larger, row, largest)
        here = of_array(np.full(shape, index, dtype), lanes)
        best = _each(jnp.where, shape, larger, here, best)
    return best


def _drawn(draw: Callable[..., Any], keys: Entries, shape: tuple[int, ...], *of: Any) -> Entries:
    """What is drawn from each key, [*keys, *shape]."""
    rows = [draw(keys[at], math.prod(shape), *of) for at in np.ndindex(keys.shape)]
    flat = entries((len(rows), math.prod(shape)), lambda row, column: rows[row][column])
    return flat.reshape(*keys.shape, *shape)


def _children(keys: Entries, numbers: Entries) -> Entries:
    return entries(keys.shape, lambda *at: threefry.child(keys[at], numbers[at]))


def _slices(starts: Any, limits: Any, strides: Any) -> tuple[slice, ...]:
    return tuple(map(slice, starts, limits, strides or [None] * len(starts)))
