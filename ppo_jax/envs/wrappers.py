"""What every environment is made to do: types that stay, a time limit, what the past adds to an
observation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import spaces
from ppo_jax.config import Config
from ppo_jax.environment import Environment, State, Step


def with_stable_types(environment: Environment) -> Environment:
    """The environment whose steps keep the types that a reset gives, which a loop's carry needs.

    Rewards become floats and flags booleans, all [], x64 or not.

    Raises:
        ValueError: In one line, while a step is traced, where that would cut numbers: fractions, or
            large ones.
    """

    def reset(key: jax.Array) -> tuple[State, Any]:
        return jax.tree.map(_strong, environment.reset(key))

    types = jax.eval_shape(reset, jax.random.key(0))

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[State, Step]:
        state, found = environment.step(key, state, action)
        state, observation = jax.tree.map(_of_type, (state, found.observation), types)
        return state, Step(
            observation,
            jnp.asarray(found.reward, float).reshape(()),
            jnp.asarray(found.terminated, bool).reshape(()),
            jnp.asarray(found.truncated, bool).reshape(()),
        )

    return environment._replace(reset=reset, step=step)


def with_clock(environment: Environment, limit: int) -> Environment:
    """The environment truncated after `limit` steps, which its state then counts."""

    def reset(key: jax.Array) -> tuple[State, Any]:
        state, observation = environment.reset(key)
        return (state, jnp.zeros((), jnp.int32)), observation

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[State, Step]:
        state, time = state
        state, found = environment.step(key, state, action)
        truncated = found.truncated | (time + 1 >= limit)
        return (state, time + 1), found._replace(truncated=truncated)

    return environment._replace(reset=reset, step=step)


def terminating(environment: Environment) -> Environment:
    """The environment whose time limit is part of the task: its truncations are terminations."""

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[State, Step]:
        state, found = environment.step(key, state, action)
        return state, found._replace(terminated=found.terminated | found.truncated)

    return environment._replace(step=step)


def with_previous(environment: Environment, config: Config) -> Environment:
    """The environment whose observations have the action and the reward before them as parts.

    Args:
        environment: Its observations become the part `observation`.
        config: `previous_action` adds the part `action`, one-hot if discrete; `previous_reward`
            the part `reward`, []. Both are zeros where an episode begins.
    """
    space: Any = environment.action_space
    parts: dict[str, spaces.Space] = {"observation": environment.observation_space}
    kind = float if isinstance(space, spaces.Box) else int
    encoded = jax.eval_shape(lambda: spaces.as_floats(space, jnp.zeros(space.shape, kind)))
    if config.previous_action:
        parts["action"] = spaces.Box(-np.inf, np.inf, encoded.shape)
    if config.previous_reward:
        parts["reward"] = spaces.Box(-np.inf, np.inf)

    def observe(observation: Any, action: jax.Array, reward: jax.Array) -> dict[str, Any]:
        every = {"observation": observation, "action": action, "reward": reward}
        return {part: every[part] for part in parts}

    def reset(key: jax.Array) -> tuple[State, Any]:
        state, observation = environment.reset(key)
        return state, observe(observation, jnp.zeros(encoded.shape), jnp.zeros(()))

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[State, Step]:
        state, found = environment.step(key, state, action)
        observation = observe(found.observation, spaces.as_floats(space, action), found.reward)
        return state, found._replace(observation=observation)

    return environment._replace(reset=reset, step=step, observation_space=spaces.Dict(parts))


def _strong(leaf: Any) -> jax.Array:
    """The leaf as an array whose type no arithmetic changes (not weakly typed)."""
    leaf = jnp.asarray(leaf)
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def _of_type(leaf: Any, like: Any) -> jax.Array:
    found = jnp.result_type(leaf)
    if not _holds(like.dtype, found):
        raise ValueError(
            f"a step of the environment gives {found} where its reset gave {like.dtype}; give it"
            " one type"
        )
    return jnp.asarray(leaf, like.dtype)


def _holds(kind: Any, found: Any) -> bool:
    """Whether an array of this type can take numbers of the found one, to the precision that jax
    computes in; so whole numbers of 32 bits take those of 64."""
    if kind == found or jnp.issubdtype(found, jnp.bool_):
        return True
    if jnp.issubdtype(kind, jnp.integer):
        is_wide = jnp.iinfo(kind).bits >= 32
        return jnp.can_cast(found, kind) or (is_wide and jnp.issubdtype(found, jnp.integer))
    return not jnp.issubdtype(kind, jnp.bool_)
