"""A gymnax environment as two pure functions; the only file that knows gymnax."""

import difflib
import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax.config import Config

# Mean return of 100 episodes from which gymnasium's registry calls an environment solved.
SOLVED_AT = {
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
}

State = Any  # an environment's own pytree


class Step(NamedTuple):
    """What one step led to; `observation` is the state's own, before any reset. All shapes []
    but the observation's [D]."""

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Environment(NamedTuple):
    """One environment's pure functions and sizes; a batch is the user's `jax.vmap`.

    reset(key) -> (state, observation [D]); step(key, state, action) -> (state, Step).
    """

    reset: Callable[[jax.Array], tuple[State, jax.Array]]
    step: Callable[[jax.Array, State, jax.Array], tuple[State, Step]]
    flatten: Callable[[jax.Array], jax.Array]
    observation_size: int
    num_actions: int
    max_episode_steps: int


def make(config: Config) -> Environment:
    """The environment that `config` names, with its parameters; observations are flat, [D].

    Raises ValueError, in one line, for an unknown name, a parameter that the environment does not
    have, or a space that the networks cannot serve; ImportError for gymnax older than 1.0.
    """
    gymnax_env, parameters = _load(config.env, jnp.result_type(float))
    limit = config.max_episode_steps or int(getattr(parameters, "max_steps_in_episode", 0))
    if not limit:
        raise ValueError(f"{config.env} has no time limit of its own; give max_episode_steps")
    parameters = _override(parameters, config, limit)
    flatten, observation_size = _observations(gymnax_env, parameters, config.env)

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        observation, state = gymnax_env.reset_env(key, parameters)
        return jax.tree.map(_strong, state), flatten(observation)

    # Steps keep the types that a reset gives: a loop's carry needs them stable, x64 or not.
    types = jax.eval_shape(reset, jax.random.key(0))[0]

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[State, Step]:
        observation, state, reward, terminated, _ = gymnax_env.step_env(
            key, state, action, parameters
        )
        truncated = gymnax_env.is_truncated(state, parameters)
        state = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), state, types)
        return state, Step(
            flatten(observation),
            jnp.asarray(reward, float).reshape(()),
            jnp.asarray(terminated, bool).reshape(()),
            jnp.asarray(truncated, bool).reshape(()),
        )

    return Environment(
        reset, step, flatten, observation_size, _actions(gymnax_env, parameters, config.env), limit
    )


def parameter(config: Config, name: str) -> float:
    """The value of an environment's parameter: the configuration's, or else the environment's own.

    Raises ValueError, in one line, for a parameter that the environment does not have.
    """
    own = _load(config.env, jnp.result_type(float))[1]
    _refuse_unknown(own, config.env, name)
    return float(config.env_params.get(name, getattr(own, name)))


@functools.cache
def _load(name: str, _: Any) -> tuple[Any, Any]:
    """The environment and its parameters; kept per float type, for some hold arrays of it."""
    version = metadata.version("gymnax")
    if int(version.split(".")[0]) < 1:
        raise ImportError(
            f"gymnax {version} does not tell termination from truncation; install gymnax>=1.0.1"
        )
    import gymnax  # seconds: every environment, seaborn and scipy come with it

    if name not in gymnax.registered_envs:
        near = difflib.get_close_matches(name, gymnax.registered_envs, n=3, cutoff=0.4)
        hint = f"near it: {', '.join(near)}" if near else "see gymnax.registered_envs"
        raise ValueError(f"environment {name!r} is unknown to gymnax {version}; {hint}")
    try:
        with jax.ensure_compile_time_eval():  # kept, so it must hold no tracer of today's trace
            return gymnax.make(name)
    except Exception as error:  # a missing dependency or data set of that environment
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"environment {name} cannot be made here: {reason}") from error


def _override(parameters: Any, config: Config, limit: int) -> Any:
    for name in config.env_params:
        _refuse_unknown(parameters, config.env, name)
    overrides = dict(config.env_params)
    if hasattr(parameters, _TIME_LIMIT):
        overrides[_TIME_LIMIT] = type(parameters.max_steps_in_episode)(limit)
    return parameters.replace(**overrides)


_TIME_LIMIT = "max_steps_in_episode"


def _refuse_unknown(parameters: Any, environment: str, name: str) -> None:
    known = [field for field in parameters.__dataclass_fields__ if field != _TIME_LIMIT]
    if name == _TIME_LIMIT:
        raise ValueError(f"env_params {_TIME_LIMIT} is static; give max_episode_steps")
    if name not in known:
        raise ValueError(
            f"{environment} has no parameter {name!r}; there are: {', '.join(known) or 'none'}"
        )


def _observations(
    gymnax_env: Any, parameters: Any, name: str
) -> tuple[Callable[[jax.Array], jax.Array], int]:
    """How to make an observation a vector of floats, and the vector's length D."""
    space = gymnax_env.observation_space(parameters)
    kind = type(space).__name__
    if kind == "Discrete":
        return lambda observation: jax.nn.one_hot(observation, space.n, dtype=float), space.n
    if kind != "Box":
        raise ValueError(f"{name} observes a {kind} space; the networks serve Box and Discrete")
    shape = tuple(space.shape)
    size = 1
    for length in shape:
        size *= length

    def flatten(observation: jax.Array) -> jax.Array:
        leading = observation.shape[: observation.ndim - len(shape)]
        return jnp.asarray(observation, float).reshape(*leading, size)

    return flatten, size


def _actions(gymnax_env: Any, parameters: Any, name: str) -> int:
    space = gymnax_env.action_space(parameters)
    if type(space).__name__ != "Discrete":
        raise ValueError(
            f"{name} takes actions in a {type(space).__name__} space; the policy serves Discrete"
        )
    return space.n


def _strong(leaf: Any) -> jax.Array:
    """The leaf as an array whose type no arithmetic changes (not weakly typed)."""
    leaf = jnp.asarray(leaf)
    return jax.lax.convert_element_type(leaf, leaf.dtype)
