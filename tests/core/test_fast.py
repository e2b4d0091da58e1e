"""Every function of fast.py beside its plain twin, in float64: equal values and gradients, below
and beyond its bound; and the plain one is what runs beyond."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import fast
from tests.helpers.quick import quick_jit
from tests.helpers.trees import weighted

pytestmark = pytest.mark.usefixtures("x64")

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
HIGHEST = jax.lax.Precision.HIGHEST
DIMENSIONS = (((1,), (0,)), ((), ()))  # as flax hands them on


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def integers(high, *shape):
    return np.random.default_rng(1).integers(0, high, shape, np.int32)


def product(rows, inputs, outputs):
    def call(function, arrays):
        return function(*arrays, DIMENSIONS, precision=HIGHEST)

    return call, [(normal(rows, inputs), normal(inputs, outputs))]


def convolution(image, side, strides):
    def call(function, arrays):
        return function(*arrays, strides, "VALID", precision=HIGHEST)

    return call, [(normal(2, *image), normal(*side, image[-1], 3))]


def of_actions(actions):
    """log π of actions [2, 3] by logits of very different sizes."""
    logits, chosen = 30 * normal(2, 3, actions), integers(actions, 2, 3)
    return lambda function, logits, chosen: function(logits, chosen), [logits, chosen]


def over_entries(entries):
    return lambda function, values: function(values), [3 * normal(2, 3, entries)]


def drawn(draw, *shape):
    def call(function, scale):
        return scale * function(draw, jax.random.key(3), shape)

    return call, [np.ones(())]


def matrix(*shape):
    return lambda function, gaussian: function(gaussian), [normal(*shape)]


def network(params, rows):
    """An MLP whose rows go their own ways, with a tuple for its output."""
    kernel, bias, image_kernel = params
    vector, image = rows
    hidden = jnp.tanh(jnp.dot(vector, kernel) + jnp.broadcast_to(bias, (len(vector), len(bias))))
    seen = jnp.dot(image.reshape(len(image), -1), image_kernel)
    return (hidden, seen), jnp.sum(hidden * seen, axis=1)


def of_rows(rows, hidden=3):
    params = normal(4, hidden), normal(hidden, seed=1), normal(6, hidden, seed=2)

    batch = normal(rows, 4, seed=3), normal(rows, 2, 3, seed=4)
    return lambda function, both: function(network, 3)(*both), [(params, batch)]


def transitions(width):
    """Numbers of several types; a transition is `width` + 6 of them."""
    fixed = {
        "action": integers(9, 10),
        "image": integers(256, 10, 2, 2).astype(np.uint8),
        "done": integers(2, 10) == 1,
    }

    def call(function, values, fixed, chosen):
        return function({**fixed, "values": values})(chosen)

    return call, [normal(10, width), fixed, np.array([3, 9, 3, 0])]


def of_rows_place():
    def call(function, rows, row, first):
        return function(rows, row, first, 3)

    return call, [normal(4, 7), np.array(2), np.array(4)]


def population(agents, size):
    def one(agents, own):
        rates, nothing = own
        assert nothing is None
        return {"moved": agents * rates[:, None], "rates": jnp.square(rates)}

    def call(function, both):
        agents, rates = both
        return function(one, size, agents, [rates, None])

    return call, [(normal(agents, 4), normal(agents, seed=1))]


def walk(length, entries, keyed=False):
    """A loop that hands on and puts out numbers of every type."""
    state = {"place": normal(2, entries), "count": np.array([3, -4], np.int32)}
    state |= {"done": np.array([True, False]), "shades": integers(256, 2, 3).astype(np.uint8)}
    state |= {"word": np.array([7, 2**31 + 5], np.uint32)}
    inputs = normal(length, 2, entries, seed=1), integers(9, length, 2)

    def step(state, inputs):
        pushed, number = inputs
        place = jnp.where(state["done"][:, None], 0.1, jnp.sin(state["place"] + pushed))
        moved = {"place": place, "count": state["count"] - number, "done": place[:, 0] > 0.5}
        moved |= {"shades": state["shades"] + jnp.uint8(40), "word": state["word"] * 3}
        moved |= {"key": state["key"]} if keyed else {}
        return moved, (state["done"], place[:, 0] * state["count"], moved["shades"], state["word"])

    def call(function, place, rest, inputs):
        key = {"key": jax.random.split(jax.random.key(0), 2)} if keyed else {}
        carry, outputs = function(step, {"place": place, **rest, **key}, inputs)
        carry.pop("key", None)
        return carry, outputs

    place = state.pop("place")
    return call, [place, state, inputs]


def doubled():
    """Numbers that are doubled together, or each by itself."""

    def call(function, tree):
        joined, apart = function(tree)
        return apart(jax.tree.map(lambda leaf: 2 * leaf, joined))

    return call, [{"one": normal(), "others": (normal(seed=1), normal(seed=2))}]


def returns(length, **options):
    def call(function, rewards, discounts, bootstrap):
        return function(rewards, discounts, bootstrap, **options)

    discounts = np.random.default_rng(3).choice([0.0, 0.5, 0.99, 1.0], (length, 2))
    return call, [normal(length, 2), discounts, normal(2, seed=2)]


# By function: whether the plain one is to run, and (call, arrays).
CASES = {
    "dot_general": [
        *((False, product(7, 5, outputs)) for outputs in (1, fast.FEW_OUTPUTS)),
        (False, product(1, 5, 9)),
        (True, product(7, 5, fast.FEW_OUTPUTS + 1)),
    ],
    "convolve": [
        (False, convolution((6, 5, 2), (3, 3), (1, 1))),
        (False, convolution((9, 8, 1), (4, 4), (2, 3))),
        (True, convolution((9, 8, 1), (5, 4), (2, 3))),
    ],
    "sum_entries": [
        (False, over_entries(fast.FEW_ACTIONS)),
        *((True, over_entries(entries)) for entries in (0, fast.FEW_ACTIONS + 1)),
    ],
    "log_softmax_at": [
        *((False, of_actions(actions)) for actions in (2, fast.FEW_ACTIONS)),
        (True, of_actions(fast.FEW_ACTIONS + 1)),
    ],
    "softmax_entropy": [
        *((False, over_entries(actions)) for actions in (2, fast.FEW_ACTIONS)),
        (True, over_entries(fast.FEW_ACTIONS + 1)),
    ],
    "draw": [
        (False, drawn(jax.random.normal, 3, 2, 5)),
        (False, drawn(jax.random.gumbel, 4, 2)),
    ],
    "orthonormal": [(False, matrix(*shape)) for shape in ((7, 3), (3, 7), (1, 5))],
    "rows": [
        *((False, of_rows(rows)) for rows in (1, fast.FEW_ROWS)),
        (True, of_rows(fast.FEW_ROWS + 1)),
        (True, of_rows(2, hidden=fast.FEW_PARAMETERS // 11 + 1)),
    ],
    "gather": [
        *((False, transitions(width)) for width in (1, fast.FEW_NUMBERS - 6)),
        (True, transitions(fast.FEW_NUMBERS - 5)),
    ],
    "slice_row": [(True, of_rows_place())],
    "in_batches": [(False, population(5, size)) for size in (2, 5, 8)],
    "argmax": [(True, over_entries(2))],
    "discounted_sums": [(True, returns(3)), (True, returns(3, reverse=False))],
    "scan": [(True, walk(3, 2))],
    "together": [(True, doubled())],
}
OFF_THE_CPU = {
    "dot_general": [
        (False, product(7, fast.FEW_INPUTS, 9)),
        (True, product(7, fast.FEW_INPUTS + 1, 9)),
    ],
    "rows": [(True, of_rows(3)), (False, of_rows(4))],
    "argmax": [
        (False, over_entries(fast.FEW_ACTIONS)),
        (True, over_entries(fast.FEW_ACTIONS + 1)),
    ],
    "discounted_sums": [
        *((False, returns(length)) for length in (1, 32)),
        *((False, returns(length, reverse=False)) for length in (1, 7)),
    ],
    "sum_entries": [(False, over_entries(2))],
    "log_softmax_at": [(False, of_actions(2))],
    "softmax_entropy": [(False, over_entries(3))],
    "together": [(False, doubled())],
    "slice_row": [(False, of_rows_place())],
    "scan": [
        *((False, walk(length, 2)) for length in (5, 2 * fast.STEPS_A_TRIP, 19)),
        (True, walk(3, fast.FEW_CARRIED // 2)),
        (True, walk(3, 2, keyed=True)),
    ],
}
PAIRS = [
    pytest.param(on_cpu, name, plain, call, arrays, id=f"{name}-{index}-{on_cpu}")
    for on_cpu, every in ((True, CASES), (False, OFF_THE_CPU))
    for name, cases in every.items()
    for index, (plain, (call, arrays)) in enumerate(cases)
]


def test_every_function_has_a_twin_and_is_tried():
    own = {
        name
        for name, value in vars(fast).items()
        if getattr(value, "__module__", "") == "ppo_jax.fast"
    }
    public = {name for name in own if not name.startswith(("_", "plain_"))}
    assert public == set(CASES)
    assert {f"plain_{name}" for name in public} == {name for name in own if name[:6] == "plain_"}


def test_the_device_is_that_of_the_mesh_which_need_not_be_here():
    def written(platform):
        device = jax.sharding.AbstractDevice("some", 1, platform)
        mesh = jax.sharding.AbstractMesh((1,), ("agents",), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            return str(jax.make_jaxpr(lambda values: fast.argmax(values))(normal(2, 3)))

    assert "argmax" in written("cpu")
    assert "argmax" not in written("gpu")
    assert "argmax" not in written("tpu")
    assert "argmax" in str(jax.make_jaxpr(lambda values: fast.argmax(values))(normal(2, 3)))


@pytest.mark.parametrize(("on_cpu", "name", "plain", "call", "arrays"), PAIRS)
def test_a_function_equals_its_plain_twin(on_cpu, name, plain, call, arrays, monkeypatch):
    monkeypatch.setattr(fast, "_platform", lambda: "cpu" if on_cpu else "tpu")
    functions = getattr(fast, name), getattr(fast, f"plain_{name}")

    arrays = jax.tree.map(jnp.asarray, arrays)

    def value_and_gradient(function, *arrays):
        def loss(*arrays):
            outputs = call(function, *arrays)
            return weighted(outputs), outputs

        (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(*arrays)
        return outputs, gradient

    ours, expected = (
        quick_jit(functools.partial(value_and_gradient, function))(*arrays)
        for function in functions
    )
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, **CLOSE)
    own, others = (
        str(jax.make_jaxpr(functools.partial(call, function))(*arrays)) for function in functions
    )
    assert (own == others) == plain


# Rows under transformations: they have rules of their own.


ROWS = fast.FEW_ROWS
PARAMS = normal(3, 4, 3), normal(3, 3, seed=1), normal(3, 6, 3, seed=2)  # of 3 agents
BATCHES = normal(3, ROWS, 4, seed=3), normal(3, ROWS, 2, 3, seed=4)


def first(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), tree)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), ((0, None, 0), (None, 0))])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_rows_of_many_agents_are_each_agents_own(axes, on_cpu, monkeypatch):
    """Whatever is mapped over: parameters, rows, or parts of them."""
    monkeypatch.setattr(fast, "_platform", lambda: "cpu" if on_cpu else "tpu")

    def pick(tree, axis):
        per_leaf = axis if isinstance(axis, tuple) else (axis,) * len(tree)
        pairs = zip(map(jnp.asarray, tree), per_leaf, strict=True)
        return tuple(leaf if one == 0 else leaf[0] for leaf, one in pairs)

    arguments = tuple(map(pick, (PARAMS, BATCHES), axes))

    def of(wrapper):
        def loss(params, batch):
            outputs = wrapper(network, 3)(params, batch)
            return weighted(outputs), outputs

        return quick_jit(jax.vmap(jax.value_and_grad(loss, (0, 1), has_aux=True), axes))

    ours, expected = of(fast.rows)(*arguments), of(fast.plain_rows)(*arguments)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert len(one) == 3
        np.testing.assert_allclose(one, other, **CLOSE)


def test_rows_have_directional_derivatives_and_work_in_a_loop():
    params, batch = first(PARAMS), first(BATCHES)

    def derivative(wrapper):
        function = wrapper(network, 3)

        def step(params, _):
            outputs, tangents = jax.jvp(function, (params, batch), (params, batch))
            moved = jax.tree.map(lambda leaf: leaf + 0.01 * weighted(tangents), params)
            return moved, (outputs, tangents)

        return jax.jit(lambda params: jax.lax.scan(step, params, length=3)[1])(params)

    ours, expected = derivative(fast.rows), derivative(fast.plain_rows)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def test_rows_are_taken_one_by_one_and_in_one_product_by_many_agents():
    """Else nothing above has tried what it says."""
    alone = str(jax.make_jaxpr(fast.rows(network, 3))(first(PARAMS), first(BATCHES)))
    assert "f64[1,3] = dot_general" in alone
    many = str(jax.make_jaxpr(jax.vmap(fast.rows(network, 3)))(PARAMS, BATCHES))
    assert "f64[1,3] = dot_general" not in many
    assert f"f64[3,{ROWS},3] = dot_general" in many


def test_off_the_cpu_many_agents_take_some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(fast, "_platform", lambda: "tpu")
    many = str(jax.make_jaxpr(jax.vmap(fast.rows(network, 3)))(PARAMS, BATCHES))
    assert "f64[3,3,3] = dot_general" in many
    assert f"f64[3,{ROWS},3] = dot_general" not in many
    alone = str(jax.make_jaxpr(fast.rows(network, 3))(first(PARAMS), first(BATCHES)))
    assert f"f64[{ROWS},3] = dot_general" in alone
