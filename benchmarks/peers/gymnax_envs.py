# mypy: disable-error-code="import-not-found"
"""gymnax's environments as stable-baselines3 takes them, for games that gymnasium does not have."""

from functools import partial
from typing import Any

import gymnax
import jax
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


class GymnaxEnvs(VecEnv):
    """Environments of discrete actions that step at once, their observations flat."""

    render_mode = None

    def __init__(self, name: str, num_envs: int):
        self.env, self.params = gymnax.make(name)
        seen = self.env.observation_space(self.params)
        shape = (int(np.prod(seen.shape)),)
        observations = spaces.Box(float(np.min(seen.low)), float(np.max(seen.high)), shape)
        super().__init__(num_envs, observations, spaces.Discrete(self.env.num_actions))

    def reset(self) -> np.ndarray:
        """First observations, [num_envs, size]; of the seed where one was given since the last."""
        if self._seeds[0] is not None:
            self.key = jax.random.key(self._seeds[0])
            self._reset_seeds()
        self.key, observations, self.state = self._begin(self.key)
        return np.array(observations)  # a copy, which can be written

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next step, [num_envs]."""
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """A step; an episode that ended has the true last observation in its info."""
        self.key, self.state, *seen = self._step(self.key, self.state, self.actions)
        observations, rewards, terminated, truncated, last = map(np.array, seen)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(done):
            infos[index] = {
                "terminal_observation": last[index],
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
            }
        return observations, rewards, done, infos

    @partial(jax.jit, static_argnums=0)
    def _begin(self, key: jax.Array) -> Any:
        key, *keys = jax.random.split(key, self.num_envs + 1)
        observations, state = jax.vmap(self.env.reset, (0, None))(
            jax.numpy.stack(keys), self.params
        )
        return key, observations.reshape(self.num_envs, -1), state

    @partial(jax.jit, static_argnums=0)
    def _step(self, key: jax.Array, state: Any, actions: jax.Array) -> Any:
        keys = jax.random.split(key, self.num_envs + 1)
        step = jax.vmap(self.env.step, (0, 0, 0, None))
        seen, state, rewards, terminated, truncated, info = step(
            keys[1:], state, actions, self.params
        )
        last = info["final_observation"].reshape(self.num_envs, -1)
        seen = seen.reshape(self.num_envs, -1)
        return keys[0], state, seen, rewards, terminated, truncated, last

    # What else SB3 demands of an environment: there is none inside that it could ask.

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, the same of all."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **_: Any) -> list[Any]:
        """Refused."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never."""
        return [False] * len(list(self._get_indices(indices)))
