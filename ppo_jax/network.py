"""Actor and critic: two separate multilayer perceptrons, and their initial parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax.config import Config


class Layer(NamedTuple):
    """One dense layer, x ↦ x kernel + bias: kernel [inputs, outputs], bias [outputs]."""

    kernel: jax.Array
    bias: jax.Array


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
    return Parameters(
        actor=_init_mlp(actor_key, (*hidden, num_actions), config.initialization, 0.01),
        critic=_init_mlp(critic_key, (*hidden, 1), config.initialization, 1.0),
    )


def apply(layers: MLP, observation: jax.Array, activation: str) -> jax.Array:
    """The network's output [..., outputs] for observations [..., D].

    Products are in full float32 on every device: GPUs would take TF32 by default, which is
    another algorithm.
    """
    nonlinearity = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    for layer in layers[:-1]:
        observation = nonlinearity(_dense(layer, observation))
    return _dense(layers[-1], observation)


def _dense(layer: Layer, inputs: jax.Array) -> jax.Array:
    product = jnp.dot(inputs, layer.kernel, precision=jax.lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(layer.bias, product.shape)


def _init_mlp(key: jax.Array, sizes: tuple[int, ...], initialization: str, head: float) -> MLP:
    layers = []
    for index, layer_key in enumerate(jax.random.split(key, len(sizes) - 1)):
        shape = sizes[index], sizes[index + 1]
        if initialization == "orthogonal":
            gain = head if index == len(sizes) - 2 else 2**0.5
            layers.append(Layer(gain * _orthogonal(layer_key, shape), jnp.zeros(shape[1])))
        else:
            bound = shape[0] ** -0.5
            kernel_key, bias_key = jax.random.split(layer_key)
            layers.append(
                Layer(
                    jax.random.uniform(kernel_key, shape, minval=-bound, maxval=bound),
                    jax.random.uniform(bias_key, shape[1:], minval=-bound, maxval=bound),
                )
            )
    return tuple(layers)


def _orthogonal(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """A uniformly random matrix with orthonormal columns (or rows, where those are fewer).

    Gram-Schmidt, each column projected twice for accuracy. It replaces a LAPACK QR, whose calls
    lock up a small machine's threads when many agents are initialised under one `vmap`.
    """
    gaussian = jax.random.normal(key, (max(shape), min(shape)))

    def orthogonalize(index: int, basis: jax.Array) -> jax.Array:
        column = gaussian[:, index]
        for _ in range(2):
            projection = jnp.dot(basis.T, column, precision=jax.lax.Precision.HIGHEST)
            column = column - jnp.dot(basis, projection, precision=jax.lax.Precision.HIGHEST)
        return basis.at[:, index].set(column / jnp.linalg.norm(column))

    columns = jax.lax.fori_loop(0, min(shape), orthogonalize, jnp.zeros_like(gaussian))
    return columns if shape[0] >= shape[1] else columns.T
