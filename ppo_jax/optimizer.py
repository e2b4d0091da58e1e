"""Gradient clipping, Adam and annealing as one `optax.chain`, or the user's own transformation."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppo_jax import fast, objects, policy
from ppo_jax.config import Config


class GradNorms(NamedTuple):
    """Global norms of the networks' gradients before clipping, []."""

    actor: jax.Array
    critic: jax.Array


def init(trainable: Any, config: Config) -> Any:
    """The optimizer's state: Adam's moments, zero, or whatever the user's own has."""
    return make(config, 0).init(to_optimized(trainable, config)[0])


def to_optimized(trainable: Any, config: Config) -> tuple[Any, Callable[[Any], Any]]:
    """What the optimizer sees, and the way back.

    The built-in one sees a small network's halves as one vector each: a step is then a few long
    kernels, where leaf by leaf it would be many short ones; and a large one's as trees, which no
    step has to copy. A user's own sees the tree itself.

    Args:
        trainable: `Params.trainable`, or gradients of its shape.

    Returns:
        What the optimizer sees: `policy.Halves`, or the tree.
        The function that makes a tree like `trainable` of such again.
    """
    if config.optimizer is not None:
        return trainable, lambda tree: tree
    numbers = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    return (policy.halves if numbers <= fast.FEW_PARAMETERS else policy.split)(trainable)


def learning_rate_scale(num_updates: jax.Array | int, config: Config) -> jax.Array | float:
    """The factor on an update's learning rates, 1 - i / `config.num_updates`; 1 unless annealed.

    Args:
        num_updates: [], the updates before this one, i.

    Returns:
        [], from 0 to 1; 0 after the last update.
    """
    if not config.anneal_learning_rate:
        return 1.0
    assert config.num_updates is not None
    return jnp.maximum(1 - jnp.asarray(num_updates, float) / config.num_updates, 0)


def make(config: Config, num_updates: jax.Array | int) -> optax.GradientTransformation:
    """θ ← θ - scale · rate · m̂ / (√v̂ + ε), on the clipped gradient, each half at its own rate.

    A gradient g becomes g · min(1, max_grad_norm / |g|), where |g| is the norm of both halves'
    gradient together, or of each half's own. The user's own optimizer replaces all of it.

    Args:
        num_updates: [], the updates before this one, for `learning_rate_scale`.

    Returns:
        A transformation of what `to_optimized` gives.

    Raises:
        ValueError: For an optimizer that does not import, or is not a gradient transformation.

    Pascanu et al., arXiv:1211.5063, alg. 1; Kingma & Ba, arXiv:1412.6980, alg. 1.
    """
    if config.optimizer is not None:
        return _own(config.optimizer)
    scale, critic_rate = learning_rate_scale(num_updates, config), config.critic_learning_rate
    rates = policy.Halves(
        scale * config.learning_rate,
        scale * (config.learning_rate if critic_rate is None else critic_rate),
    )
    # Added to v̂ under the root, far below any rounding: a training's derivatives would be NaN, that
    # of √0, wherever a parameter has had no gradient, as of a ReLU that never fired.
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=config.adam_epsilon, eps_root=1e-36)
    descend = _on_halves(lambda direction, rate: -rate * direction, lambda _: rates)
    if config.max_grad_norm is None:
        return optax.chain(adam, descend)
    clip = _on_halves(lambda gradient, factor: gradient * factor, partial(_factors, config))
    return optax.chain(clip, adam, descend)


def norms(gradients: Any, config: Config) -> GradNorms:
    """The norms of both halves of gradients as the optimizer sees them, [] each."""
    halves = gradients if config.optimizer is None else policy.halves(gradients)[0]
    return GradNorms(_norm(halves.actor), _norm(halves.critic))


def _norm(tree: Any) -> jax.Array:
    """The global norm, of real numbers: optax's square of the imaginary part has no GPU kernel."""
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
    total = sum(squares, jnp.zeros((), float))
    # √0 has an infinite derivative, so the root is taken of another number there.
    return jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))


def _own(optimizer: Any) -> optax.GradientTransformation:
    if isinstance(optimizer, str):
        path, made = optimizer, objects.load(optimizer, "optimizer")
        try:
            optimizer = made if hasattr(made, "update") else made()
        except Exception as error:  # a user's function may raise anything
            raise ValueError(
                f"optimizer {path!r} cannot be made: {objects.explain(error)}; give a function"
                " without arguments"
            ) from error
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ValueError(
            f"optimizer is of type {type(optimizer).__name__}, not an optax.GradientTransformation;"
            " give one, or module:factory"
        )
    return optax.GradientTransformation(
        *(partial(_call, function) for function in (optimizer.init, optimizer.update))
    )


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # a user's function may raise anything
        raise ValueError(f"the optimizer fails: {objects.explain(error)}") from error


def _factors(config: Config, gradients: policy.Halves) -> policy.Halves:
    """What the gradients are multiplied by, each half's or the same for both."""
    own = norms(gradients, config)
    if config.joint_grad_norm:
        own = GradNorms(*[jnp.hypot(*own)] * 2)
    largest = config.max_grad_norm
    assert largest is not None
    return policy.Halves(*(jnp.where(norm < largest, 1.0, largest / norm) for norm in own))


def _on_halves(
    function: Callable[..., jax.Array], numbers: Callable[[policy.Halves], policy.Halves]
) -> optax.GradientTransformation:
    """The function of every array and of its half's number."""

    def transform(updates: policy.Halves, _: Any) -> policy.Halves:
        def on_half(half: Any, number: jax.Array | float) -> Any:
            return jax.tree.map(lambda leaf: function(leaf, number).astype(leaf.dtype), half)

        return policy.Halves(*map(on_half, updates, numbers(updates)))

    return optax.stateless(transform)
