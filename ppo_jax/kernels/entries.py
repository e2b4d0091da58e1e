"""Runs a function of small arrays inside a GPU kernel, entry by entry.

A kernel's arrays have sizes that are powers of two, and it cannot cut, join or index them, which an
environment's code does freely. So the function is traced for one environment (or transition), and
its equations are evaluated on NumPy arrays of `entries`: each entry is one number of the small
array, for all environments at once, a vector [lanes]. NumPy then cuts and joins.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.interpreters import partial_eval

Entries = np.ndarray  # of vectors [lanes], in the shape of the array that they stand for

_ELEMENTWISE = (  # operations, all of which Triton has
    "abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type cos"
    " cosh div eq erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt"
    " max min mul ne neg not or pow rem rsqrt select_n shift_left shift_right_arithmetic"
    " shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor"
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
    "unstack": lambda of, x: list(np.moveaxis(x, of["axis"], 0)),
    "split": lambda of, x: np.split(x, np.cumsum(of["sizes"])[:-1], of["axis"]),
    "slice": lambda of, x: x[_slices(of["start_indices"], of["limit_indices"], of["strides"])],
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
    if name == "broadcast_in_dim":
        [small] = inputs
        axes = dict(zip(of["broadcast_dimensions"], small.shape, strict=True))
        sizes = [axes.get(axis, 1) for axis in range(len(shape))]
        return [np.broadcast_to(small.reshape(sizes), shape)]
    if name == "iota":
        return [of_array(np.indices(shape)[of["dimension"]].astype(of["dtype"]), lanes)]
    if name in _REDUCTIONS:
        rows = np.moveaxis(inputs[0], of["axes"], range(len(of["axes"]))).reshape(-1, *shape)
        return [reduce(partial(_each, _REDUCTIONS[name], shape), rows)]
    if name == "argmax":
        [axis] = of["axes"]
        return [_argmax(np.moveaxis(inputs[0], axis, 0), shape, lanes, of["index_dtype"])]
    raise ValueError(
        f"the environment's step or the policy has the operation {name}, which kernel 'pallas' does"
        " not serve; give --kernel xla"
    )


def _each(function: Callable[..., Any], shape: tuple[int, ...], *inputs: Entries) -> Entries:
    spread = [np.broadcast_to(one, shape) for one in inputs]
    return entries(shape, lambda *place: function(*(one[place] for one in spread)))


def _argmax(rows: Entries, shape: tuple[int, ...], lanes: int, dtype: Any) -> Entries:
    """The first index at which the rows are largest."""
    largest, best = rows[0], of_array(np.zeros(shape, dtype), lanes)
    for index, row in enumerate(rows[1:], 1):
        larger = _each(jnp.greater, shape, row, largest)
        largest = _each(jnp.where, shape, larger, row, largest)
        here = of_array(np.full(shape, index, dtype), lanes)
        best = _each(jnp.where, shape, larger, here, best)
    return best


def _slices(starts: Any, limits: Any, strides: Any) -> tuple[slice, ...]:
    return tuple(map(slice, starts, limits, strides or [None] * len(starts)))
