"""The built-in multilayer perceptrons inside a GPU kernel: parameters in pieces, and their layers.

Triton multiplies matrices whose sides are powers of two, at least 16. So hidden layers are padded
with zeros, and thin first layers and heads are sums of products of vectors. A piece is what a
kernel holds of a parameter's leaf: a padded matrix or vector, or a list of rows or columns.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from ppo_jax.kernels.memory import Place
from ppo_jax.policy import Halves, split


def half(trainable: Any, name: str) -> Any:
    """The layers of the actor, or of the critic."""
    return trainable["network"][name]


def output(trainable: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of the actor's output for one observation, [1, A]."""
    bias = half(trainable, "actor")["output"]["bias"]
    return jax.ShapeDtypeStruct((1, *bias.shape), bias.dtype)


def others(trainable: Any, function: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The function of the parameters beside the network's."""
    return {name: function(leaf) for name, leaf in trainable.items() if name != "network"}


def places(trainable: Any) -> Any:
    """Where the pieces of all trainable parameters lie, each leaf a flat array of its own."""
    halves = {name: _half_places(half) for name, half in trainable["network"].items()}
    return {"network": halves, **others(trainable, _vector)}


def state_places(optimizer_state: Any, trainable: Any) -> Any:
    """Where the pieces of an optimizer's state lie, whose moments are one vector a half, or, of a
    large network, trees as the parameters."""
    pieces = split(places(trainable))[0]
    in_vectors = Halves(*map(_in_vector, split(trainable)[0], pieces))

    def places_of(node: Any) -> Any:
        if not isinstance(node, Halves):
            return Place(0)
        return in_vectors if isinstance(node.actor, jax.Array) else pieces

    return jax.tree.map(places_of, optimizer_state, is_leaf=lambda node: isinstance(node, Halves))


def _in_vector(tree: Any, places: Any) -> Any:
    """The places of a tree's pieces where its leaves lie one after another, in one vector."""
    leaves, structure = jax.tree.flatten(tree)
    starts = accumulate([leaf.size for leaf in leaves], initial=0)
    starts = jax.tree.unflatten(structure, list(starts)[:-1])
    return jax.tree.map(
        lambda start, own: jax.tree.map(lambda place: place.shifted(start), own), starts, places
    )


def _half_places(half: Any) -> Any:
    found = {}
    for name, layer in half.items():
        inputs, outputs = layer["kernel"].shape
        rows = [Place(row * outputs, (outputs,), (1,)) for row in range(inputs)]
        columns = [Place(column, (inputs,), (outputs,)) for column in range(outputs)]
        matrix = Place(0, (inputs, outputs), (outputs, 1))
        kernels = {"hidden_0": rows, "output": columns}
        found[name] = {"kernel": kernels.get(name, matrix), "bias": _vector(layer["bias"])}
    return found


def _vector(leaf: Any) -> Place:
    return Place(0, (leaf.size,), (1,))


def number(vector: jax.Array, index: int) -> jax.Array:
    """The number at that place of a padded vector, []."""
    places = jax.lax.broadcasted_iota(jnp.int32, vector.shape, 0)
    return jnp.sum(jnp.where(places == index, vector, 0))


def forward(half: Any, inputs: list[jax.Array], activation: str) -> list[jax.Array]:
    """The outputs, a vector [B] each, of inputs, a vector [B] each."""
    nonlinearity = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    first, last = half["hidden_0"], half["output"]
    terms = [one[:, None] * row[None] for one, row in zip(inputs, first["kernel"], strict=True)]
    hidden = nonlinearity(sum(terms[1:], terms[0]) + first["bias"][None])
    for index in range(1, len(half) - 1):
        layer = half[f"hidden_{index}"]
        product = jnp.dot(hidden, layer["kernel"], precision=jax.lax.Precision.HIGHEST)
        hidden = nonlinearity(product + layer["bias"][None])
    return [
        jnp.sum(hidden * column[None], axis=1) + number(last["bias"], index)
        for index, column in enumerate(last["kernel"])
    ]
