"""Unrolls a network with memory over all steps, with as little as can be done step by step.

What does not need the memory is computed for all steps at once: what the inputs alone decide before
the loop, the outputs after it. Likewise on the way back, where only the memory's gradient goes step
by step. What it brings is in docs/performance.md.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Var

from ppo_jax import fast

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
"""(params, memory, inputs) -> (outputs, memory)."""


def plain_unroll(step: Step, params: Any, memory: Any, inputs: Any) -> tuple[Any, Any]:
    """Every step of outputs[t], memory[t+1] = step(params, memory[t], inputs[t]).

    Args:
        step: One step, (params, memory, inputs) -> (outputs, memory).
        params: Any pytree, the same for every step.
        memory: Before the first step, [N, ...].
        inputs: Of every step, [T, ...].

    Returns:
        The outputs, [T, ...].
        The memory after every step, [T, N, ...].
    """

    def carried(memory: Any, inputs: Any) -> Any:
        given, after = step(params, memory, inputs)
        return after, (given, after)

    return jax.lax.scan(carried, memory, inputs)[1]


def unroll(step: Step, params: Any, memory: Any, inputs: Any) -> tuple[Any, Any]:
    """`plain_unroll`, of a step that closes over nothing that is traced.

    The loss's gradient in the memory m[t] that step t hands on is λ[t] = ∂loss/∂m[t] +
    (∂m[t+1]/∂m[t])ᵀ λ[t+1], of which the first term is what m[t] does otherwise than through
    m[t+1]: that recurrence alone goes step by step. The parameters' gradient is that of the sum
    over t of outputs[t] · ∂loss/∂outputs[t] + m[t] · λ[t], each step from the memory it began with.

    Raises:
        TypeError: In forward-mode differentiation (`jax.jvp`); only reverse mode is defined.

    Werbos, Backpropagation through time (1990).
    """

    @jax.custom_vjp
    def run(params: Any, memory: Any, inputs: Any) -> Any:
        parts, after = _walk(step, params, memory, inputs)
        before = _before(memory, after)
        return _at_once(parts.outputs)(params, before, after, inputs), after

    def forward(params: Any, memory: Any, inputs: Any) -> Any:
        outputs, after = run(params, memory, inputs)
        return (outputs, after), (params, _before(memory, after), after, inputs)

    def backward(kept: Any, gradient: Any) -> Any:
        params, before, after, inputs = kept
        of_outputs, of_after = gradient
        outputs = _at_once(_divide(step, params, *_first((before, inputs))).outputs)

        def of_memories(before: Any, after: Any) -> Any:
            return outputs(params, before, after, inputs)

        of_before, of_own = map(_floats, jax.vjp(of_memories, before, after)[1](of_outputs))
        zeros = [jnp.zeros_like(leaf[0]) for leaf in of_own]
        own = jax.tree.map(
            lambda *gradients: sum(gradients),
            _floats(of_after),
            of_own,
            _from_next(of_before, zeros),
        )
        pulled = _walk(partial(_pull, step), params, zeros, (own, before, inputs), reverse=True)[1]
        of_each = jax.tree.map(jnp.add, own, _from_next(pulled, zeros))

        def both(params: Any, before: Any, inputs: Any) -> Any:
            return outputs(params, before, after, inputs), _at_once(step)(params, before, inputs)[1]

        pull = jax.vjp(both, params, before, inputs)[1]
        of_params, of_before, of_inputs = pull((of_outputs, _with_floats(of_after, of_each)))
        return of_params, jax.tree.map(lambda leaf: leaf[0], of_before), of_inputs

    run.defvjp(forward, backward)
    return run(params, memory, inputs)


def _pull(step: Step, params: Any, later: Any, inputs: Any) -> tuple[Any, Any]:
    """The gradient in the memory that a step begins with, of that in the one it hands on: its own,
    and what comes from the steps after it."""
    own, before, inputs = inputs

    def remembered(floats: Any) -> Any:
        return _floats(step(params, _with_floats(before, floats), inputs)[1])

    pull = jax.vjp(remembered, _floats(before))[1]
    return (), pull(jax.tree.map(jnp.add, own, later))[0]


def _walk(
    step: Step, params: Any, memory: Any, inputs: Any, reverse: bool = False
) -> tuple["_Parts", Any]:
    """The parts of the step, and the memory after every step, [T, ...]."""
    parts = _divide(step, params, memory, _first(inputs))

    def carried(memory: Any, ready: Any) -> Any:
        after = parts.rest(params, memory, ready)
        return after, after

    ready = jax.vmap(partial(parts.ready, params))(inputs)
    return parts, fast.scan(carried, memory, ready, reverse)[1]


class _Parts(NamedTuple):
    """A step in three: what the rest needs of the inputs, the memory, and the outputs."""

    ready: Callable[[Any, Any], list[jax.Array]]  # (params, inputs) -> ready
    rest: Callable[[Any, Any, list[jax.Array]], Any]  # (params, memory, ready) -> memory
    outputs: Callable[..., Any]  # (params, memory before, memory after, inputs) -> outputs


def _divide(step: Step, params: Any, memory: Any, inputs: Any) -> _Parts:
    """The parts of a step whose arguments have these shapes and types; what needs the parameters
    alone is in each of them."""
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(params, memory, inputs)
    jaxpr = closed.jaxpr
    variables = iter(jaxpr.invars)
    of_params, of_memory, of_inputs = (
        [next(variables) for _ in jax.tree.leaves(tree)] for tree in (params, memory, inputs)
    )
    number = len(jax.tree.leaves(shapes[0]))
    outputs, after = jaxpr.outvars[:number], jaxpr.outvars[number:]

    def part(results: Sequence[Any], *given: Sequence[Var]) -> Callable[..., list[jax.Array]]:
        known = [*jaxpr.constvars, *of_params, *itertools.chain(*given)]
        equations = _needed(jaxpr.eqns, results, known)
        piece = jaxpr.replace(constvars=[], invars=known, outvars=[*results], eqns=equations)
        return lambda *values: jax.core.eval_jaxpr(
            piece, [], *closed.consts, *jax.tree.leaves(values)
        )

    late = _reached(jaxpr.eqns, of_memory)
    early = _reached(jaxpr.eqns, of_inputs) - late
    read = [set(_variables(one.invars)) for one in _needed(jaxpr.eqns, after, of_memory)]
    wanted = early & set(_variables(after)).union(*(one for one in read if one & late))
    made = itertools.chain(of_inputs, *(equation.outvars for equation in jaxpr.eqns))
    crossing = [one for one in made if one in wanted]
    crossing = crossing or of_inputs[:1]  # of which the loop has its length
    rest, given = part(after, of_memory, crossing), part(outputs, of_memory, after, of_inputs)
    return _Parts(
        ready=part(crossing, of_inputs),
        rest=lambda *values: jax.tree.unflatten(jax.tree.structure(shapes[1]), rest(*values)),
        outputs=lambda *values: jax.tree.unflatten(jax.tree.structure(shapes[0]), given(*values)),
    )


def _needed(
    equations: Sequence[JaxprEqn], results: Iterable[Any], known: Iterable[Var]
) -> list[JaxprEqn]:
    """The equations that lead to the results from what is known."""
    known = set(known)
    wanted, needed = set(_variables(results)) - known, []
    for equation in reversed(equations):
        if not wanted.isdisjoint(equation.outvars):
            needed.append(equation)
            wanted.update(set(_variables(equation.invars)) - known)
    return needed[::-1]


def _reached(equations: Iterable[JaxprEqn], sources: Iterable[Var]) -> set[Var]:
    """All variables that depend on these, and these."""
    reached = set(sources)
    for equation in equations:
        if not reached.isdisjoint(_variables(equation.invars)):
            reached.update(equation.outvars)
    return reached


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [atom for atom in atoms if isinstance(atom, Var)]


def _at_once(step: Callable[..., Any]) -> Callable[..., Any]:
    """For all steps, of the same parameters."""
    return lambda params, *values: jax.vmap(partial(step, params))(*values)


def _first(tree: Any) -> Any:
    """What one step is given of it."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def _before(memory: Any, after: Any) -> Any:
    """The memory that each step begins with."""
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest[:-1]]), memory, after)


def _from_next(values: Any, last: Any) -> Any:
    """What the next step has; the last has none, and what is given."""
    return jax.tree.map(lambda leaf, one: jnp.concatenate([leaf[1:], one[None]]), values, last)


def _floats(tree: Any) -> list[jax.Array]:
    """The leaves that have gradients."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _with_floats(tree: Any, floats: Iterable[jax.Array]) -> Any:
    """The tree with other leaves in place of those."""
    others = iter(floats)
    return jax.tree.map(lambda leaf: next(others) if _is_float(leaf) else leaf, tree)


def _is_float(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
