"""CartPole without velocities: what is hidden must be remembered."""

from typing import Any

import jax
from gymnax.environments import spaces
from gymnax.environments.classic_control.cartpole import CartPole

NAME = "CartPoleNoVelocity-v1"
_SEEN = slice(0, None, 2)  # position and angle, of four


class CartPoleNoVelocity(CartPole):
    """gymnax's CartPole, of which only position and angle are observed."""

    def __init__(self) -> None:
        super().__init__()
        self.obs_shape = (2,)

    def get_obs(self, state: Any, params: Any = None, key: Any = None) -> jax.Array:
        """Position and angle, [2]."""
        return super().get_obs(state, params, key)[_SEEN]

    def observation_space(self, params: Any) -> spaces.Box:
        """The bounds of position and angle."""
        full = super().observation_space(params)
        return spaces.Box(full.low[_SEEN], full.high[_SEEN], self.obs_shape, full.dtype)

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return NAME
