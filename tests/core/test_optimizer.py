"""The optimizer, built in or one's own, and the annealing of its rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppo_jax import optimizer, ppo, recipe
from ppo_jax.config import with_hyperparameters
from tests.helpers.own_parts import HERE, SMALL, init, refused_network, types
from tests.helpers.quick import quick_jit

OPTIMIZED = SMALL.replace(anneal_learning_rate=False, initialization="uniform")


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, other)


@quick_jit
def after_steps(params, draws, config):
    """The parameters after a step of the optimizer along each of the gradients."""
    optimized, to_trainable = optimizer.to_optimized(params, config)
    transformation, state = optimizer.make(config, 0), optimizer.init(params, config)
    for gradients in draws:
        gradients = optimizer.to_optimized(gradients, config)[0]
        updates, state = transformation.update(gradients, state, optimized)
        optimized = optax.apply_updates(optimized, updates)
    return to_trainable(optimized)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1e-3, 10.0])  # gradients that are not clipped, and are
def test_the_built_in_optimizer_does_what_optax_does_leaf_by_leaf(scale):
    params = quick_jit(lambda key: ppo.policy(OPTIMIZED).init(key).trainable)(jax.random.key(0))
    rng = np.random.default_rng(0)
    draws = [
        jax.tree.map(lambda leaf: scale * rng.normal(size=leaf.shape), params) for _ in range(3)
    ]
    own = OPTIMIZED.replace(optimizer=f"{HERE}:adam")
    results = [after_steps(params, draws, config) for config in (OPTIMIZED, own)]
    assert_close(*results)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), results[0], params)
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_training_with_optaxs_own_adam_is_training_with_the_built_in_one():
    own, built_in = (
        jax.jit(ppo.train)(jax.random.key(0), OPTIMIZED.replace(optimizer=given))
        for given in (f"{HERE}:adam", None)
    )
    assert_close(own[0].params, built_in[0].params)
    assert_close(own[1], built_in[1])


def test_an_optimizer_may_be_an_object():
    config = OPTIMIZED.replace(optimizer=optax.adam(1e-3))
    state = init(config)
    assert types(state.optimizer_state[0].mu) == types(state.params.trainable)
    after, _ = jax.eval_shape(ppo.update, state, config)
    assert types(after) == types(state)


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        (3, ["optimizer", "int", "optax.GradientTransformation"]),
        (f"{HERE}:not_an_optimizer", ["optimizer", "int", "optax.GradientTransformation"]),
        ("json:dumps", ["json:dumps", "missing 1 required"]),
        ("no_such_file:adam", ["no_such_file:adam", "No module named"]),
    ],
)
def test_what_is_no_optimizer_is_refused(given, fragments):
    refused_network(*fragments, optimizer=given)


@pytest.mark.parametrize(
    "name", ["learning_rate", "critic_learning_rate", "adam_epsilon", "max_grad_norm"]
)
def test_what_an_optimizer_replaces_cannot_be_swept_beside_it(name):
    config = SMALL.replace(optimizer=optax.adam(1e-3))
    with pytest.raises(ValueError, match=rf"^{name} is the built-in optimizer's, [^\n]*$"):
        with_hyperparameters(config, {name: np.array([1e-3, 1e-2])})
    swept = with_hyperparameters(config, {"discount": np.array([0.9, 0.99])})
    assert swept.discount.tolist() == [0.9, 0.99]


@pytest.mark.usefixtures("x64")
def test_learning_rate_falls_linearly_to_zero_over_the_run():
    config = recipe("standard")
    assert config.num_updates == 976
    updates = np.array([0, 1, 500, 975])
    more = np.array([976, 977, 2000])  # of `ppo.run`, which must not climb
    scales = jax.vmap(optimizer.learning_rate_scale, (0, None))(np.append(updates, more), config)
    np.testing.assert_allclose(scales[:4], 1 - updates / 976, rtol=1e-12)
    assert (scales[4:] == 0).all()


def test_learning_rate_of_the_notebook_is_constant():
    for index in (0, 999):
        assert optimizer.learning_rate_scale(jnp.asarray(index), recipe("notebook")) == 1


def _fails(*_):
    raise KeyError("no such group")


@pytest.mark.parametrize("part", ["init", "update"])
def test_what_a_users_optimizer_raises_is_one_line_with_the_place(part):
    broken = optax.sgd(1e-2)._replace(**{part: _fails})
    config = SMALL.replace(optimizer=broken)
    wanted = rf"^the optimizer fails: 'no such group' \({__file__}, line \d+\)"
    with pytest.raises(ValueError, match=wanted):
        jax.eval_shape(lambda: ppo.update(ppo.init(jax.random.key(0), config), config))
