# mypy: disable-error-code="import-not-found"
"""gymnax's CartPole without velocities, for the peers on gymnax 0.0.9 and 1.0.1 alike."""

from typing import Any

from gymnax.environments import spaces
from gymnax.environments.classic_control.cartpole import CartPole

_SEEN = slice(0, None, 2)  # position and angle, of four


class CartPoleNoVelocity(CartPole):
    """Of its observation only position and angle are handed out."""

    def get_obs(self, *arguments: Any, **others: Any) -> Any:
        """Position and angle, [2]."""
        return super().get_obs(*arguments, **others)[_SEEN]

    def observation_space(self, params: Any) -> Any:
        """The bounds of position and angle."""
        whole = super().observation_space(params)
        return spaces.Box(whole.low[_SEEN], whole.high[_SEEN], (2,), whole.dtype)
