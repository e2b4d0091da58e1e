"""Gradient clipping, Adam and annealing as one `optax.chain`, or the user's own transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppo_jax import objects, policy
from ppo_jax.config import Config


class GradNorms(NamedTuple):
    """Global norms of the networks' gradients before clipping, []."""

    actor: jax.Array
    critic: jax.Array


def init(trainable: Any, config: Config) -> Any:
    """The optimizer's state: Adam's moments, zero, or whatever the user's own has."""
    return make(config, 1.0).init(to_optimized(trainable, config)[0])


def to_optimized(trainable: Any, config: Config) -> tuple[Any, Callable[[Any], Any]]:
    """What the optimizer sees, and the function that makes trainable parameters of such again.

    The built-in one sees one vector a half: a step is then a few long kernels, where leaf by leaf
    it would be many short ones. A user's own sees the tree itself.
    """
    if config.optimizer is None:
        return policy.halves(trainable)
    return trainable, lambda tree: tree


def make(config: Config, scale: jax.Array | float) -> optax.GradientTransformation:
    """θ ← θ - scale · rate · m̂ / (√v̂ + ε), on the clipped gradient, each half at its own rate.

    A gradient g becomes g · min(1, max_grad_norm / |g|), where |g| is the norm of both halves'
    gradient together, or of each half's own. `scale` lowers the rates (annealing). The user's own
    optimizer replaces all of it.

    Pascanu et al., arXiv:1211.5063, alg. 1; Kingma & Ba, arXiv:1412.6980, alg. 1.
    """
    if config.optimizer is not None:
        return _own(config.optimizer)
    critic_rate = config.critic_learning_rate
    rates = policy.Halves(
        scale * config.learning_rate,
        scale * (config.learning_rate if critic_rate is None else critic_rate),
    )
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=config.adam_epsilon)
    descend = optax.stateless(lambda updates, _: jax.tree.map(_descent, updates, rates))
    if config.max_grad_norm is None:
        return optax.chain(adam, descend)
    clip = _clip_together if config.joint_grad_norm else _clip_apart
    return optax.chain(optax.stateless(lambda updates, _: clip(updates, config)), adam, descend)


def norms(gradients: Any, config: Config) -> GradNorms:
    """The norms of both halves of gradients as the optimizer sees them."""
    halves = gradients if config.optimizer is None else policy.halves(gradients)[0]
    return GradNorms(optax.tree.norm(halves.actor), optax.tree.norm(halves.critic))


def _own(optimizer: Any) -> optax.GradientTransformation:
    if isinstance(optimizer, str):
        made = objects.load(optimizer, "optimizer")
        optimizer = made if hasattr(made, "update") else made()
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ValueError(
            f"optimizer is a {type(optimizer).__name__}, not an optax.GradientTransformation; give"
            " one, or module:factory"
        )
    return optimizer


def _clip_together(gradients: policy.Halves, config: Config) -> policy.Halves:
    each = norms(gradients, config)
    factor = _factor(jnp.hypot(each.actor, each.critic), config)
    return jax.tree.map(lambda gradient: gradient * factor, gradients)


def _clip_apart(gradients: policy.Halves, config: Config) -> policy.Halves:
    pairs = zip(gradients, norms(gradients, config), strict=True)
    return policy.Halves(*(half * _factor(norm, config) for half, norm in pairs))


def _factor(norm: jax.Array, config: Config) -> jax.Array:
    largest = config.max_grad_norm
    return jnp.where(norm < largest, 1.0, largest / norm)


def _descent(direction: jax.Array, rate: jax.Array | float) -> jax.Array:
    return (-rate * direction).astype(direction.dtype)
