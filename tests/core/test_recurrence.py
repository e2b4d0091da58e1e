"""Networks with memory unrolled over all steps, beside a scan of the step, in float64: equal
outputs, memories and gradients; and what is left in the loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from ppo_jax import fast, recurrence
from tests.helpers.quick import quick_jit
from tests.helpers.trees import weighted

pytestmark = pytest.mark.usefixtures("x64")

STEPS, ENVS, INPUTS, SIZE = 7, 2, 3, 4


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


PARAMS = normal(INPUTS, SIZE), normal(SIZE, SIZE, seed=1), normal(SIZE, 2, seed=2)
MEMORY = normal(ENVS, SIZE, seed=3)
CONSTANT = np.arange(SIZE)[None] / SIZE


def several_parts(params, memory, inputs):
    """Floats, whole numbers and flags, begun anew where a flag says so."""
    inward, onward, head = params
    pushed, begins = inputs
    hidden = jnp.where(begins[:, None], 0, memory["hidden"])
    hidden = jnp.tanh(pushed @ inward + hidden @ onward) + 0.1 * memory["sum"][:, None]
    age, fresh = jnp.where(begins, 0, memory["age"] + 1), begins | memory["fresh"]
    after = {"hidden": hidden, "sum": jnp.sum(hidden, axis=1), "age": age, "fresh": fresh}
    return (hidden @ head, pushed * age[:, None]), after


def inner(params, memory, inputs):
    """Outputs of what is neither the memory before nor the one after, and of a constant."""
    inward, onward, head = params
    middle = jnp.sin(memory @ onward) * CONSTANT
    return middle @ head, jnp.tanh(middle + inputs[0] @ inward)


def last_input(params, memory, inputs):
    """A memory that needs no memory."""
    return memory @ params[2], inputs[0] @ params[0]


def kept(params, memory, inputs):
    """A memory that stays, and is an output."""
    return (memory, jnp.cos(memory @ params[1]) + inputs[0] @ params[0]), memory


def blind(params, memory, inputs):
    """A step that sees no input."""
    memory = jnp.tanh(memory @ params[1])
    return memory @ params[2], memory


def cast(params, memory, inputs):
    """Parameters, inputs and memory in half precision on the way."""
    half = [one.astype(jnp.float32) for one in (*params, memory, inputs[0])]
    hidden = jnp.tanh(half[4] @ half[0] + half[3] @ half[1])
    return (hidden @ half[2]).astype(float), hidden.astype(float)


PARTS = {
    "hidden": MEMORY,
    "sum": normal(ENVS, seed=4),
    "age": np.array([3, 0]),
    "fresh": np.array([True, False]),
}
CASES = [
    *((several_parts, PARTS, length, True) for length in (1, 2, STEPS)),
    *((step, MEMORY, STEPS, True) for step in (inner, last_input, kept, blind, cast)),
    (several_parts, PARTS, STEPS, False),
    (inner, MEMORY, STEPS, False),
]


def given(length):
    """Inputs, and where an episode begins."""
    begins = np.random.default_rng(5).integers(0, 2, (length, ENVS)) == 1
    return jnp.asarray(normal(length, ENVS, INPUTS, seed=6)), jnp.asarray(begins)


def found_by(function, step, params, memory, inputs):
    """What a function gives, and its gradients in parameters, first memory and inputs."""

    def loss(params, memory, inputs):
        found = function(step, params, memory, inputs)
        return weighted(found), found

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True, allow_int=True)
    (_, found), gradients = gradient(params, memory, inputs)
    return found, [leaf for leaf in jax.tree.leaves(gradients) if leaf.dtype != jax.dtypes.float0]


@pytest.mark.parametrize(
    ("step", "memory", "length", "on_cpu"),
    [pytest.param(*case, id="-".join([case[0].__name__, *map(str, case[2:])])) for case in CASES],
)
def test_it_equals_a_scan_of_the_step(step, memory, length, on_cpu, monkeypatch):
    monkeypatch.setattr(fast, "_platform", lambda: "cpu" if on_cpu else "tpu")
    ours, scanned = (
        quick_jit(functools.partial(found_by, function, step))(PARAMS, memory, given(length))
        for function in (recurrence.unroll, recurrence.plain_unroll)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(scanned)
    close = {"rtol": 1e-5, "atol": 1e-5} if step is cast else {"rtol": 1e-10, "atol": 1e-12}
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(scanned), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, **close)


def test_many_agents_have_each_its_own():
    inputs, memory = given(STEPS), jnp.asarray(MEMORY)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    unrolled = functools.partial(found_by, recurrence.unroll, inner)
    scanned = quick_jit(functools.partial(found_by, recurrence.plain_unroll, inner))
    both = quick_jit(jax.vmap(unrolled, (0, None, None)))(many, memory, inputs)
    for agent, scale in enumerate((1, 2)):
        params = jax.tree.map(lambda leaf, scale=scale: scale * leaf, PARAMS)
        own = scanned(params, memory, inputs)
        for one, other in zip(jax.tree.leaves(both), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(one[agent], other, rtol=1e-10, atol=1e-12)


def products_in_loops(jaxpr):
    """The number of products in the body of each scan."""
    for equation in jaxpr.eqns:
        inside = list(jaxprs_in_params(equation.params))
        if equation.primitive.name == "scan":
            yield str(inside[0]).count("dot_general")
        else:
            for one in inside:
                yield from products_in_loops(one)


@pytest.mark.parametrize(
    ("function", "products"), [(recurrence.unroll, [3, 3]), (recurrence.plain_unroll, [8, 15])]
)
def test_only_what_needs_the_memory_goes_step_by_step(function, products):
    """Of a gated recurrent unit between two layers the three products with the memory."""
    layer, unit, head = nn.Dense(SIZE), nn.GRUCell(SIZE), nn.Dense(2)

    def step(params, memory, inputs):
        hidden = jnp.tanh(layer.apply(params["layer"], inputs[0]))
        memory = jnp.where(inputs[1][:, None], 0, memory)
        memory, features = unit.apply(params["unit"], memory, hidden)
        return head.apply(params["head"], features), memory

    key = jax.random.key(0)
    params = {
        "layer": layer.init(key, normal(ENVS, INPUTS)),
        "unit": unit.init(key, MEMORY, MEMORY),
        "head": head.init(key, MEMORY),
    }

    def loss(params):
        return weighted(function(step, params, jnp.asarray(MEMORY), given(STEPS)))

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params)
    assert list(products_in_loops(jaxpr.jaxpr)) == products
