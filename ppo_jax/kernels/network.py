"""A multilayer perceptron inside a GPU kernel: its parameters in memory, and its layers.

Triton multiplies matrices whose sides are powers of two, at least 16. So hidden layers are padded
with zeros, and thin first layers and heads are sums of products of vectors.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ppo_jax.kernels.memory import Place
from ppo_jax.policy import Params


def actor(params: Params) -> Any:
    """The actor's layers."""
    return params.trainable["network"]["actor"]


def places(half: Any) -> Any:
    """The places of what `forward` takes, for an actor or a critic whose leaves are flat each."""
    last = len(half) - 1
    layers = [half[f"hidden_{index}"] for index in range(last)] + [half["output"]]
    found = []
    for index, layer in enumerate(layers):
        inputs, outputs = layer["kernel"].shape
        rows = [Place(row * outputs, (outputs,), (1,)) for row in range(inputs)]
        columns = [Place(column, (inputs,), (outputs,)) for column in range(outputs)]
        matrix = Place(0, (inputs, outputs), (outputs, 1))
        numbers = [Place(output) for output in range(outputs)]
        kernel = rows if index == 0 else columns if index == last else matrix
        found.append({"kernel": kernel, "bias": numbers if index == last else rows[0]})
    names = [f"hidden_{index}" for index in range(last)] + ["output"]
    return dict(zip(names, found, strict=True))


def forward(half: Any, inputs: list[jax.Array], activation: str) -> list[jax.Array]:
    """The outputs, a vector [B] each, of inputs, a vector [B] each."""
    nonlinearity = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    for index in range(len(half) - 1):
        kernel, bias = half[f"hidden_{index}"]["kernel"], half[f"hidden_{index}"]["bias"]
        if index == 0:
            terms = [one[:, None] * row[None] for one, row in zip(inputs, kernel, strict=True)]
            hidden = sum(terms[1:], terms[0])
        else:
            hidden = jnp.dot(hidden, kernel, precision=jax.lax.Precision.HIGHEST)
        hidden = nonlinearity(hidden + bias[None])
    head = zip(half["output"]["kernel"], half["output"]["bias"], strict=True)
    return [jnp.sum(hidden * column[None], axis=1) + bias for column, bias in head]
