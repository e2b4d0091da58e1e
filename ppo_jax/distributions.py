"""The policy's distribution over actions."""

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

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(action), [...]. One-hot, not indexed: the gradient stays free of scatters."""
        num_actions = self.logits.shape[-1]
        chosen = jax.nn.one_hot(action, num_actions, dtype=self.logits.dtype)
        return jnp.sum(chosen * jax.nn.log_softmax(self.logits), axis=-1)

    def entropy(self) -> jax.Array:
        """-Σ π log π, [...], in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
