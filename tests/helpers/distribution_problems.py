"""Each kind of distribution, as the library builds it and as the oracle does, at random."""

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax.distributions import Categorical, MultiCategorical, Normal, TanhNormal
from tests.helpers import oracle

LOW, HIGH = np.array([-2.0, 0.0, -1.0]), np.array([2.0, 1.0, 0.5])
# Each kind as the library builds it of a network's three outputs and log σ, and as the oracle does.
KINDS = {
    "Categorical": (lambda output, _: Categorical(output), oracle.Actions()),
    "MultiCategorical": (
        lambda output, _: MultiCategorical((output[..., :1], output[..., 1:])),
        oracle.Actions(nvec=(1, 2)),
    ),
    "Normal": (Normal, oracle.Actions("gaussian", None, LOW, HIGH)),
    "TanhNormal": (
        lambda mean, log_std: TanhNormal(mean, log_std, jnp.asarray(LOW), jnp.asarray(HIGH)),
        oracle.Actions("squashed", None, LOW, HIGH),
    ),
}


def problem_of(kind, leading, scale=1.0):
    """A network's output, log σ, actions and noise, at random."""
    rng = np.random.default_rng(0)
    output, log_std = scale * rng.normal(size=(*leading, 3)), rng.uniform(-1, 0.5, 3)
    noise = rng.normal(size=(*leading, 3))
    action = output + np.exp(log_std) * noise + 0.1
    if kind == "Categorical":
        action = rng.integers(3, size=leading)
    elif kind == "MultiCategorical":
        action = rng.integers((1, 2), size=(*leading, 2))
    return output, log_std, action, noise


def evaluated(make, output, log_std, action, noise):
    """Log-probabilities and entropies, and the gradients of their sums."""

    def log_prob(output, log_std):
        found = make(output, log_std).log_prob(action)
        return found.sum(), found

    def entropy(output, log_std):
        found = make(output, log_std).entropy(noise)
        return found.sum(), found

    return [
        jax.grad(of, argnums=(0, 1), has_aux=True)(output, log_std) for of in (log_prob, entropy)
    ]
