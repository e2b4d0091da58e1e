"""Adam after clipping the gradient's global norm, for both networks at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppo_jax import network
from ppo_jax.config import Config


class GradNorms(NamedTuple):
    """Global norms of the networks' gradients before clipping, []."""

    actor: jax.Array
    critic: jax.Array


def init(params: network.Parameters, config: Config) -> optax.ScaleByAdamState:
    """Adam's moments, zero."""
    return _adam(config).init(params)


def step(
    params: network.Parameters,
    gradients: network.Parameters,
    state: optax.ScaleByAdamState,
    scale: jax.Array | float,
    config: Config,
) -> tuple[network.Parameters, optax.ScaleByAdamState, GradNorms]:
    """One step of Adam: θ ← θ - scale · rate · m̂ / (√v̂ + ε), on the clipped gradient.

    A gradient g becomes g · min(1, max_grad_norm / |g|), where |g| is the norm of both networks'
    gradient together, or of each network's own. Adam works element by element, so one transform
    serves both networks, whatever their learning rates. `scale` lowers both rates (annealing).
    Pascanu et al., arXiv:1211.5063, alg. 1; Kingma & Ba, arXiv:1412.6980, alg. 1.
    """
    norms = GradNorms(optax.tree.norm(gradients.actor), optax.tree.norm(gradients.critic))
    clipped = _clip(gradients, norms, config)
    directions, state = _adam(config).update(clipped, state)
    rates = config.learning_rate, config.critic_learning_rate
    actor_rate, critic_rate = rates[0], rates[0] if rates[1] is None else rates[1]
    return (
        network.Parameters(
            actor=_descend(params.actor, directions.actor, scale * actor_rate),
            critic=_descend(params.critic, directions.critic, scale * critic_rate),
        ),
        state,
        norms,
    )


def map_moments(
    function: Callable[[network.Parameters], network.Parameters], state: optax.ScaleByAdamState
) -> optax.ScaleByAdamState:
    """The state with a function applied to both of Adam's moments."""
    return state._replace(mu=function(state.mu), nu=function(state.nu))


def _adam(config: Config) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=0.9, b2=0.999, eps=config.adam_epsilon)


def _clip(gradients: network.Parameters, norms: GradNorms, config: Config) -> network.Parameters:
    if config.max_grad_norm is None:
        return gradients
    if config.joint_grad_norm:
        norm = jnp.hypot(norms.actor, norms.critic)
        norms = GradNorms(norm, norm)
    largest = config.max_grad_norm
    factors = GradNorms(*(jnp.where(norm < largest, 1.0, largest / norm) for norm in norms))
    return network.Parameters(
        actor=jax.tree.map(lambda gradient: gradient * factors.actor, gradients.actor),
        critic=jax.tree.map(lambda gradient: gradient * factors.critic, gradients.critic),
    )


def _descend(params: network.MLP, directions: network.MLP, rate: jax.Array | float) -> network.MLP:
    return jax.tree.map(
        lambda value, direction: (value - rate * direction).astype(value.dtype), params, directions
    )
