"""Where environments come from: gymnax, paths, objects, other suites; the only file that knows
gymnax."""

import difflib
from collections.abc import Callable
from functools import cache, partial
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import objects, spaces
from ppo_jax.config import Config
from ppo_jax.environment import Environment, State, Step
from ppo_jax.envs import suites
from ppo_jax.objects import explain, first_line


def as_written(config: Config) -> tuple[Environment, bool]:
    """The environment as its author's functions are, with its parameters and its time limit.

    Returns:
        The environment.
        Whether its functions count the time limit themselves.
    """
    found = load(config)
    if not isinstance(found, Environment):
        gymnax_env, parameters = found
        return _from_gymnax(gymnax_env, parameters, config), _counts(parameters)
    limit = config.max_episode_steps or found.max_episode_steps
    return found._replace(max_episode_steps=limit), False


def load(config: Config) -> Any:
    """The user's `Environment`, or gymnax's pair of environment and parameters.

    Raises:
        ValueError: In one line, for an unknown name, an environment that cannot be made, or
            `env_kwargs` or `env_params` that it cannot take.
        ImportError: For gymnax older than 1.0.
    """
    name = objects.name(config.env)
    if isinstance(config.env, str):
        found = _load_named(config.env, config.env_kwargs, jnp.result_type(float))
    elif config.env_kwargs:
        raise ValueError(
            f"env_kwargs {dict(config.env_kwargs)}: {name} is made already; give them to its"
            " constructor"
        )
    else:
        found = _as_environment(config.env, name)
    if config.env_params and isinstance(found, Environment):
        raise ValueError(
            f"env_params {', '.join(config.env_params)}: only a gymnax environment has parameters,"
            f" and {name} is none; give env_kwargs, or leave them out"
        )
    return found


@cache
def _load_named(name: str, kwargs: tuple[tuple[str, Any], ...], _: Any) -> Any:
    """The environment of that name; kept per float type, for some hold arrays of it."""
    if "::" in name:
        make: Callable[..., Any] = suites.find(name)
    elif ":" in name:
        make = objects.load(name, "env")
    else:
        make = partial(_find_in_gymnax(name).make, name)
    try:
        with jax.ensure_compile_time_eval():  # kept, so it must hold no tracer of today's trace
            made = make(**dict(kwargs))
    except TypeError as error:  # an argument that it does not take
        if kwargs:
            said = ", ".join(f"{key} {value}" for key, value in kwargs)
            raise ValueError(f"env_kwargs {said}: {name} says {first_line(error)}") from error
        raise ValueError(f"environment {name} cannot be made: {first_line(error)}") from error
    except Exception as error:  # a missing dependency or data set of that environment
        raise ValueError(f"environment {name} cannot be made here: {explain(error)}") from error
    return _as_environment(made, name)


def _as_environment(made: Any, name: str) -> Any:
    if isinstance(made, Environment):
        return made._replace(
            observation_space=spaces.convert(made.observation_space),
            action_space=spaces.convert(made.action_space),
        )
    if isinstance(made, tuple) and len(made) == 2 and hasattr(made[0], "step_env"):  # gymnax.make's
        return made
    if isinstance(made, type):
        raise ValueError(f"env {name} is a class; give an instance of it, {name}()")
    if hasattr(made, "step_env") and hasattr(made, "reset_env"):
        return made, made.default_params
    raise ValueError(
        f"env {name} is a {type(made).__name__}; it must be a gymnax Environment or a"
        " ppo_jax.env.Environment, or package.module:factory of one"
    )


def _find_in_gymnax(name: str) -> Any:
    version = metadata.version("gymnax")
    if int(version.split(".")[0]) < 1:
        raise ImportError(
            f"gymnax {version} does not tell termination from truncation; install gymnax>=1.0.1"
        )
    gymnax = _registry()
    if name not in gymnax.registered_envs:
        near = difflib.get_close_matches(name, gymnax.registered_envs, n=3, cutoff=0.4)
        hint = f"near it: {', '.join(near)}" if near else "`ppo-jax envs` lists all"
        raise ValueError(
            f"environment {name!r} is unknown to gymnax {version}; {hint}; one of your own is"
            " package.module:factory, another package's suite::id"
        )
    return gymnax


def _registry() -> Any:
    """gymnax, and in its registry the environments of this library's own."""
    # Modules of environments that hold arrays must hold no tracer of today's trace.
    with jax.ensure_compile_time_eval():
        import gymnax  # seconds: every environment, seaborn and scipy come with it

        from ppo_jax.envs import cartpole_no_velocity

    if cartpole_no_velocity.NAME not in gymnax.registered_envs:
        gymnax.register(cartpole_no_velocity.NAME, cartpole_no_velocity.CartPoleNoVelocity)
    return gymnax


def _from_gymnax(gymnax_env: Any, parameters: Any, config: Config) -> Environment:
    own_limit = getattr(parameters, _limit_name(parameters) or "", 0)
    limit = config.max_episode_steps or (int(own_limit) if np.isfinite(own_limit) else 0)
    parameters = _override(parameters, config, limit)
    truncates = _counts(parameters) or _has_own_truncation(gymnax_env)

    def reset(key: jax.Array) -> tuple[State, Any]:
        observation, state = gymnax_env.reset_env(key, parameters)
        return state, observation

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[State, Step]:
        observation, state, reward, terminated, _ = gymnax_env.step_env(
            key, state, action, parameters
        )
        truncated = truncates and gymnax_env.is_truncated(state, parameters)
        return state, Step(observation, reward, terminated, jnp.asarray(truncated))

    return Environment(
        reset,
        step,
        spaces.convert(gymnax_env.observation_space(parameters)),
        spaces.convert(gymnax_env.action_space(parameters)),
        limit or None,
        truncates_early=getattr(
            gymnax_env, "truncates_early", not type(gymnax_env).__module__.startswith("gymnax.")
        ),
    )


def _override(parameters: Any, config: Config, limit: int) -> Any:
    for one in config.env_params:
        _check_known(parameters, objects.name(config.env), one)
    overrides, name = dict(config.env_params), _limit_name(parameters)
    if name and limit:
        overrides[name] = type(getattr(parameters, name))(limit)
    return parameters.replace(**overrides) if overrides else parameters


_TIME_LIMITS = ("max_steps_in_episode", "max_timesteps")  # of gymnax, and of Craftax


def _limit_name(parameters: Any) -> str | None:
    """The parameter that is the time limit; none where there is no such."""
    return next((name for name in _TIME_LIMITS if hasattr(parameters, name)), None)


def _counts(parameters: Any) -> bool:
    """Whether a gymnax environment counts its steps itself."""
    return _limit_name(parameters) is not None


def _has_own_truncation(gymnax_env: Any) -> bool:
    """Whether it truncates by another rule than gymnax's, which needs a time limit."""
    from gymnax.environments.environment import Environment as Base

    own = getattr(type(gymnax_env), "is_truncated", Base.is_truncated)
    return own is not Base.is_truncated


def _check_known(parameters: Any, environment: str, name: str) -> None:
    known = [field for field in parameters.__dataclass_fields__ if field not in _TIME_LIMITS]
    if name in _TIME_LIMITS:
        raise ValueError(f"env_params {name} is static; give max_episode_steps")
    if name not in known:
        raise ValueError(
            f"{environment} has no parameter {name!r}; there are: {', '.join(known) or 'none'}"
        )


def names() -> list[str]:
    """The names of all gymnax environments, and of this library's own."""
    return sorted(_registry().registered_envs)


def is_known(config: Config) -> bool:
    """Whether the environment is gymnax's own, one of this library's, or of a suite with an adapter
    here, which are known to work."""
    if isinstance(config.env, str) and config.env.partition("::")[0] in suites.PACKAGES:
        return True
    found = load(config)
    known = ("gymnax.", "ppo_jax.")
    return isinstance(found, tuple) and type(found[0]).__module__.startswith(known)


def parameter(config: Config, name: str) -> float:
    """The value of an environment's parameter: the configuration's, or else the environment's own.

    Args:
        name: Without `env_params.`, such as force_mag.

    Raises:
        ValueError: In one line, for a parameter that the environment does not have, that is static
            (the time limit), or that is an array, for agents differ in numbers alone.
    """
    found = load(config)
    if isinstance(found, Environment):
        raise ValueError(f"{objects.name(config.env)} has no parameters: it is not gymnax's")
    _check_known(found[1], objects.name(config.env), name)
    value = config.env_params.get(name, getattr(found[1], name))
    if np.ndim(value):
        raise ValueError(f"{name} of {config.env} is an array; only a number varies or evolves")
    return float(value)


def in_gymnax(config: Config) -> tuple[Any, Any] | None:
    """gymnax's environment and parameters whose states those of `make` are; None for others."""
    found = load(config)
    if isinstance(found, Environment) or not _counts(found[1]):
        return None
    return found[0], _override(found[1], config, config.max_episode_steps or 0)
