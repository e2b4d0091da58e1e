"""The policy's distributions over actions.

Log-probabilities and entropies are in nats and sum over an action's entries. Noise comes from
outside, so that a rollout can draw all of it at once, before its loop.
"""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ppo_jax import fast

_LOG_TWO_PI = math.log(2 * math.pi)


class Distribution(Protocol):
    """What the policy says of the actions at observations [...]."""

    def sample(self, noise: jax.Array) -> jax.Array:
        """An action for each observation, [..., *shape of one].

        Args:
            noise: From `Policy.noise`, for as many observations.
        """

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(action), [...], in nats.

        Args:
            action: As `sample` gives it, [..., *shape of one].
        """

    def entropy(self, noise: jax.Array) -> jax.Array:
        """The entropy, [...], in nats.

        Args:
            noise: That the action was drawn with, for an estimate; most distributions ignore it.
        """

    def mode(self) -> jax.Array:
        """The greedy action, [..., *shape of one]."""

    def describe(self) -> dict[str, jax.Array]:
        """Its numbers by name, [..., n] each, for people to look at."""


class Categorical(NamedTuple):
    """Distribution over A discrete actions, π(a) = softmax(logits)[a]; actions are integers [...].

    Attributes:
        logits: [..., A].
    """

    logits: jax.Array

    def sample(self, noise: jax.Array) -> jax.Array:
        """argmax(logits + noise), [...], with standard Gumbel noise [..., A].

        Maddison et al., A* Sampling (2014), sec. 3.
        """
        return fast.argmax(self.logits + noise)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(action), [...]."""
        return fast.log_softmax_at(self.logits, action)

    def entropy(self, noise: jax.Array | None = None) -> jax.Array:
        """-Σ π log π, [...]."""
        del noise
        return fast.softmax_entropy(self.logits)

    def mode(self) -> jax.Array:
        """The most probable action, [...]."""
        return fast.argmax(self.logits)

    def describe(self) -> dict[str, jax.Array]:
        """The probability of every action, [..., A]."""
        return {"probability": jax.nn.softmax(self.logits)}


class MultiCategorical(NamedTuple):
    """Independent Categoricals, one for each of K entries; actions are integers [..., K].

    Attributes:
        logits: K arrays, [..., A_k] each.
    """

    logits: tuple[jax.Array, ...]

    def sample(self, noise: jax.Array) -> jax.Array:
        """Each entry's own sample, [..., K], with standard Gumbel noise [..., Σ A_k]."""
        ends = [sum(one.shape[-1] for one in self.logits[:k]) for k in range(1, len(self.logits))]
        parts = jnp.split(noise, ends, axis=-1)
        pairs = zip(self._entries(), parts, strict=True)
        return jnp.stack([entry.sample(part) for entry, part in pairs], axis=-1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Σ_k log π_k(action_k), [...]."""
        pairs = zip(self._entries(), jnp.unstack(action, axis=-1), strict=True)
        return sum((entry.log_prob(one) for entry, one in pairs), jnp.zeros(()))

    def entropy(self, noise: jax.Array | None = None) -> jax.Array:
        """Σ_k of the entries' entropies, [...]."""
        del noise
        return sum((entry.entropy() for entry in self._entries()), jnp.zeros(()))

    def mode(self) -> jax.Array:
        """Each entry's most probable value, [..., K]."""
        return jnp.stack([entry.mode() for entry in self._entries()], axis=-1)

    def describe(self) -> dict[str, jax.Array]:
        """The probabilities of every entry's values, [..., Σ A_k]."""
        each = [entry.describe()["probability"] for entry in self._entries()]
        return {"probability": jnp.concatenate(each, axis=-1)}

    def _entries(self) -> list[Categorical]:
        return [Categorical(logits) for logits in self.logits]


class Normal(NamedTuple):
    """A diagonal Gaussian N(mean, diag(σ²)); actions are [..., K].

    Attributes:
        mean: [..., K].
        log_std: log σ, [K].
    """

    mean: jax.Array
    log_std: jax.Array

    def sample(self, noise: jax.Array) -> jax.Array:
        """mean + σ noise, [..., K], with standard normal noise [..., K]."""
        return self.mean + self._like_mean(jnp.exp(self.log_std)) * noise

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Σ_k -½ ((a - mean)/σ)² - log σ - ½ log 2π, [...]."""
        deviation = (action - self.mean) * self._like_mean(jnp.exp(-self.log_std))
        constant = self._like_mean(self.log_std) + 0.5 * _LOG_TWO_PI
        return fast.sum_entries(-0.5 * jnp.square(deviation) - constant)

    def entropy(self, noise: jax.Array | None = None) -> jax.Array:
        """½ Σ_k log(2πe σ²), [...]."""
        del noise
        return fast.sum_entries(self._like_mean(self.log_std) + 0.5 * (1 + _LOG_TWO_PI))

    def mode(self) -> jax.Array:
        """The mean, [..., K]."""
        return self.mean

    def describe(self) -> dict[str, jax.Array]:
        """Mean and deviation, [..., K] each."""
        return {"mean": self.mean, "deviation": self._like_mean(jnp.exp(self.log_std))}

    def _like_mean(self, vector: jax.Array) -> jax.Array:
        return jnp.broadcast_to(vector, self.mean.shape)


class TanhNormal(NamedTuple):
    """A Gaussian u squashed onto the bounds, low + (high - low) (tanh(u) + 1) / 2.

    Actions are u itself, [..., K], from which the density follows without an arctanh:
    log π = log N(u) - Σ_k [log(1 - tanh² u_k) + log((high_k - low_k) / 2)].

    Attributes:
        mean: Of u, [..., K].
        log_std: log σ of u, [K].
        low: The bound below, [K].
        high: The bound above, [K].

    Haarnoja et al., arXiv:1801.01290, appendix C.
    """

    mean: jax.Array
    log_std: jax.Array
    low: jax.Array
    high: jax.Array

    def sample(self, noise: jax.Array) -> jax.Array:
        """u = mean + σ noise, [..., K], with standard normal noise [..., K]."""
        return self._normal().sample(noise)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log π(u), [...]."""
        return self._normal().log_prob(action) - self._log_slope(action)

    def entropy(self, noise: jax.Array) -> jax.Array:
        """An estimate from one sample, [...].

        ½ Σ log(2πe σ²) + Σ log |da/du| at u = mean + σ noise.
        """
        return self._normal().entropy() + self._log_slope(self.sample(noise))

    def mode(self) -> jax.Array:
        """The Gaussian's mean, [..., K]."""
        return self.mean

    def describe(self) -> dict[str, jax.Array]:
        """Mean and deviation of u, [..., K] each."""
        return self._normal().describe()

    def _normal(self) -> Normal:
        return Normal(self.mean, self.log_std)

    def _log_slope(self, action: jax.Array) -> jax.Array:
        """Σ_k log of da_k/du_k, [...]; log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u))."""
        half = jnp.broadcast_to(jnp.log((self.high - self.low) / 2), action.shape)
        squashed = 2 * (math.log(2) - action - jax.nn.softplus(-2 * action))
        return fast.sum_entries(squashed + half)
