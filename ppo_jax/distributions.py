"""The policy's distribution over actions."""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Categorical(NamedTuple):
    """Distribution over A discrete actions, π(a) = softmax(logits)[a].

    logits: [..., A]; actions are integers [...]; log-probabilities and entropy in nats.
    """

    logits: jax.Array

    def mode(self) -> jax.Array:
        """The most probable action, [...]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def sample(self, noise: jax.Array) -> jax.Array:
        """A sampled action [...]: argmax(logits + noise), with standard Gumbel noise [..., A].

        The noise comes from outside so that a rollout can draw all of it at once, before its
        loop. Maddison et al., A* Sampling (2014), sec. 3.
        """
        return jnp.argmax(self.logits + noise, axis=-1).astype(jnp.int32)

    # Sums over actions are written out, a term an action: for the few actions there are, XLA then
    # makes one kernel where reductions along a short axis, and their gradients, would make ten.

    def log_probs(self) -> list[jax.Array]:
        """log π of each of the A actions, [...] each."""
        logits = jnp.unstack(self.logits, axis=-1)
        largest = jax.lax.stop_gradient(reduce(jnp.maximum, logits))
        shifted = [logit - largest for logit in logits]
        log_normalizer = jnp.log(_sum(jnp.exp(logit) for logit in shifted))
        return [logit - log_normalizer for logit in shifted]

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(action), [...]."""
        # A sum over a mask, not an index: the gradient stays free of scatters.
        return _sum(
            jnp.where(action == index, log_prob, 0)
            for index, log_prob in enumerate(self.log_probs())
        )

    def entropy(self) -> jax.Array:
        """-Σ π log π, [...], in nats."""
        return -_sum(jnp.exp(log_prob) * log_prob for log_prob in self.log_probs())


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return reduce(jnp.add, terms)
