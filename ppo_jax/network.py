"""Actor and critic: two separate multilayer perceptrons, and their initial parameters."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ppo_jax.config import Config


class Layer(NamedTuple):
    """One dense layer, x ↦ x kernel + bias: kernel [inputs, outputs], bias [outputs]."""

    kernel: jax.Array
    bias: jax.Array


_FEW = 4  # outputs
MLP = tuple[Layer, ...]


class Parameters(NamedTuple):
    """The parameters of both networks (or anything of their shape: gradients, moments)."""

    actor: MLP
    critic: MLP


def init(key: jax.Array, config: Config, observation_size: int, num_actions: int) -> Parameters:
    """Initial parameters of actor (A outputs) and critic (1 output).

    "orthogonal": kernels with orthonormal rows or columns times √2, policy head 0.01, value head
    1, biases zero (Saxe et al., arXiv:1312.6120; Engstrom et al., arXiv:2005.12729).
    "uniform": kernels and biases uniform in ±1/√inputs (LeCun et al., Efficient BackProp, 1998).
    """
    actor_key, critic_key = jax.random.split(key)
    hidden = (observation_size, *config.hidden_sizes)
    init_mlp = {"orthogonal": _init_orthogonal, "uniform": _init_uniform}[config.initialization]
    return Parameters(
        actor=init_mlp(actor_key, (*hidden, num_actions), 0.01),
        critic=init_mlp(critic_key, (*hidden, 1), 1.0),
    )


def apply(layers: MLP, observation: jax.Array, activation: str) -> jax.Array:
    """The network's output [..., outputs] for observations [..., D].

    Products are in full float32 on every device: GPUs would take TF32 by default, which is
    another algorithm.
    """
    nonlinearity = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    for layer in layers[:-1]:
        observation = nonlinearity(_dense(layer, observation))
    return _head(layers[-1], observation)


def flatten(params: Parameters) -> tuple[Parameters, Callable[[Any], Parameters]]:
    """The parameters as one vector a network, and the function that makes layers of such again."""
    actor, to_actor = ravel_pytree(params.actor)
    critic, to_critic = ravel_pytree(params.critic)

    def unflatten(vectors: Any) -> Parameters:
        return Parameters(to_actor(vectors.actor), to_critic(vectors.critic))

    return Parameters._make((actor, critic)), unflatten


def _head(layer: Layer, inputs: jax.Array) -> jax.Array:
    """A dense layer of few outputs, one matrix-vector product each: on a CPU these and their
    gradients take a third of the time of one thin matrix product (benchmarks/NOTES.md)."""
    outputs = layer.bias.shape[0]
    if outputs > _FEW:
        return _dense(layer, inputs)
    columns = [
        jnp.dot(inputs, layer.kernel[:, index], precision=jax.lax.Precision.HIGHEST)
        + layer.bias[index]
        for index in range(outputs)
    ]
    return jnp.stack(columns, axis=-1)


def _dense(layer: Layer, inputs: jax.Array) -> jax.Array:
    product = jnp.dot(inputs, layer.kernel, precision=jax.lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(layer.bias, product.shape)


def _init_orthogonal(key: jax.Array, sizes: tuple[int, ...], head_gain: float) -> MLP:
    shapes = list(pairwise(sizes))
    gains = [2**0.5] * (len(shapes) - 1) + [head_gain]
    gaussians = _cut(jax.random.normal, key, shapes)
    return tuple(
        Layer(gain * _orthonormal(gaussian), jnp.zeros(gaussian.shape[1]))
        for gain, gaussian in zip(gains, gaussians, strict=True)
    )


def _init_uniform(key: jax.Array, sizes: tuple[int, ...], _: float) -> MLP:
    # A bias is one more row of its kernel: it shares the kernel's bound.
    shapes = [(inputs + 1, outputs) for inputs, outputs in pairwise(sizes)]
    draws = _cut(partial(jax.random.uniform, minval=-1.0, maxval=1.0), key, shapes)
    bounded = [draw * (len(draw) - 1) ** -0.5 for draw in draws]
    return tuple(Layer(kernel=rows[:-1], bias=rows[-1]) for rows in bounded)


def _cut(
    draw: Callable[[jax.Array, tuple[int]], jax.Array],
    key: jax.Array,
    shapes: list[tuple[int, int]],
) -> list[jax.Array]:
    """One flat draw, cut into matrices: every draw of its own costs half a second to compile."""
    ends = list(accumulate(rows * columns for rows, columns in shapes))
    pieces = jnp.split(draw(key, (ends[-1],)), ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _orthonormal(gaussian: jax.Array) -> jax.Array:
    """A uniformly random matrix with orthonormal columns (or rows, where those are fewer).

    Gram-Schmidt on a Gaussian matrix, each column projected twice for accuracy. It replaces a
    LAPACK QR, whose calls lock up a small machine's threads when many agents are initialised
    under one `vmap`.
    """
    tall = gaussian if gaussian.shape[0] >= gaussian.shape[1] else gaussian.T

    def orthogonalize(index: int, basis: jax.Array) -> jax.Array:
        column = tall[:, index]
        for _ in range(2):
            projection = jnp.dot(basis.T, column, precision=jax.lax.Precision.HIGHEST)
            column = column - jnp.dot(basis, projection, precision=jax.lax.Precision.HIGHEST)
        return basis.at[:, index].set(column / jnp.linalg.norm(column))

    columns = jax.lax.fori_loop(0, tall.shape[1], orthogonalize, jnp.zeros_like(tall))
    return columns if tall is gaussian else columns.T
