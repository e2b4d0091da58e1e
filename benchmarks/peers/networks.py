"""The recurrent networks of the peers as flax modules, so that ours does the same work."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Outputs = tuple[jax.Array, jax.Array, Any]


class Tower(nn.Module):
    """A layer, a gated recurrent unit and a head: (features, memory)."""

    size: int
    outputs: int
    head_gain: float

    @nn.compact
    def __call__(
        self, inputs: jax.Array, memory: jax.Array, start: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """[B, D], memory [B, size], start [B] -> [B, outputs], memory."""
        hidden = nn.tanh(_dense(self.size, 2**0.5)(inputs))
        memory, features = nn.GRUCell(self.size)(jnp.where(start[:, None], 0, memory), hidden)
        return _dense(self.outputs, self.head_gain)(features), memory


class Apart(nn.Module):
    """Actor and critic, each a tower of 64, as Ajax has them."""

    num_outputs: int

    def setup(self) -> None:
        """Both towers."""
        self.actor = Tower(64, self.num_outputs, 0.01)
        self.critic = Tower(64, 1, 1.0)

    def __call__(self, observation: jax.Array, memory: Any, start: jax.Array) -> Outputs:
        """Logits [B, A], value [B], memory."""
        logits, actor = self.actor(observation, memory[0], start)
        value, critic = self.critic(observation, memory[1], start)
        return logits, value[:, 0], (actor, critic)

    def initial_memory(self, num_envs: int) -> Any:
        """Zeros."""
        return (jnp.zeros((num_envs, 64)),) * 2


class Shared(nn.Module):
    """One torso of 128 with a gated recurrent unit, a layer and a head each, as PureJaxRL has
    them."""

    num_outputs: int

    @nn.compact
    def __call__(self, observation: jax.Array, memory: jax.Array, start: jax.Array) -> Outputs:
        """Logits [B, A], value [B], memory."""
        hidden = nn.tanh(_dense(128, 2**0.5)(observation))
        memory, features = nn.GRUCell(128)(jnp.where(start[:, None], 0, memory), hidden)
        logits, value = (
            _dense(outputs, gain)(nn.tanh(_dense(128, 2.0)(features)))
            for outputs, gain in ((self.num_outputs, 0.01), (1, 1.0))
        )
        return logits, value[:, 0], memory

    def initial_memory(self, num_envs: int) -> jax.Array:
        """Zeros."""
        return jnp.zeros((num_envs, 128))


def _dense(size: int, gain: float) -> nn.Dense:
    return nn.Dense(size, kernel_init=nn.initializers.orthogonal(gain))
