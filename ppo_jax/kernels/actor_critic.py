"""The policy on rows of transitions within a kernel: distribution over the actions, and values."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax.kernels import network
from ppo_jax.kernels.entries import Entries, Program, entries
from ppo_jax.policy import Params, Policy


class Given(NamedTuple):
    """A distribution, of whose functions some are `ppo_jax.distributions.Distribution`'s."""

    log_prob: Callable[[Any], jax.Array]
    entropy: Callable[[Any], jax.Array]


class ActorCritic:
    """The policy's functions of one transition [1, ...], as programs of a kernel.

    `constants` are the arrays that a kernel must be given of them.
    """

    def __init__(self, params: Params, policy: Policy, activation: str, *shapes: Any):
        """shapes: of an observation, an action and its noise, [1, ...]."""
        observation, action, noise = shapes
        self.others, self.activation = network.others(params.trainable), activation
        output = network.output(params.trainable)

        def distribution(others: Any, output: jax.Array) -> Any:
            return policy.distribution(params._replace(trainable=others), output)

        def log_prob(others: Any, output: jax.Array, action: jax.Array) -> jax.Array:
            return distribution(others, output).log_prob(action)

        def entropy(others: Any, output: jax.Array, noise: Any) -> jax.Array:
            return distribution(others, output).entropy(noise)

        self._see = Program(partial(policy.encode, params), observation)
        self._log_prob = Program(log_prob, self.others, output, action)
        self._entropy = Program(entropy, self.others, output, noise)
        programs = self._see, self._log_prob, self._entropy
        self.constants = [jax.tree.map(jnp.ravel, program.constants) for program in programs]

    def __call__(
        self, rows: int, constants: Any, pieces: Any, observation: Any
    ) -> tuple[Any, jax.Array]:
        """The distribution, and values [rows], of observations as entries."""
        inputs = self._inputs(rows, constants, observation)
        actor = network.forward(network.half(pieces, "actor"), inputs, self.activation)
        output = entries((1, len(actor)), lambda _, place: actor[place])
        others = jax.tree.map(partial(_spread, rows), network.others(pieces), self.others)
        distribution = Given(
            lambda action: self._log_prob(rows, constants[1], others, output, action)[0],
            lambda noise: self._entropy(rows, constants[2], others, output, noise)[0],
        )
        return distribution, self._value(pieces, inputs)

    def value(self, rows: int, constants: Any, pieces: Any, observation: Any) -> jax.Array:
        """The values alone."""
        return self._value(pieces, self._inputs(rows, constants, observation))

    def _inputs(self, rows: int, constants: Any, observation: Any) -> list[jax.Array]:
        seen = jax.tree.leaves(self._see(rows, constants[0], observation))
        return [vector for leaf in seen for vector in leaf.flat]

    def _value(self, pieces: Any, inputs: list[jax.Array]) -> jax.Array:
        return network.forward(network.half(pieces, "critic"), inputs, self.activation)[0]


def rows_at(tree: Any, *at: jax.Array) -> Any:
    """The rows of refs [..., *shape] at such places, as entries of one transition [1, *shape]."""

    def read(ref: Any) -> Entries:
        return entries((1, *ref.shape[len(at) :]), lambda _, *place: ref[(*at, *place)])

    return jax.tree.map(read, tree)


def _spread(rows: int, vector: jax.Array, like: jax.Array) -> Entries:
    """The entries of a padded vector, the same for all rows."""
    return entries(like.shape, lambda place: jnp.full(rows, network.number(vector, place)))
