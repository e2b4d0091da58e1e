"""An environment as two pure functions; the only file that knows gymnax."""

import difflib
from collections.abc import Callable
from functools import cache, partial
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import network, objects, spaces
from ppo_jax.config import Config
from ppo_jax.envs import suites
from ppo_jax.objects import explain, first_line

# Mean return of 100 episodes from which gymnasium's registry calls an environment solved.
SOLVED_AT = {
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
    "CartPoleNoVelocity-v1": 475.0,
}


class Best(NamedTuple):
    """The highest mean return there is in an environment, and how that is known."""

    value: float
    kind: str  # "optimum", "bound" (no policy gets more), or "best known"


# docs/environments.md has the sources.
BEST = {
    "CartPole-v1": Best(500, "optimum"),
    "CartPoleNoVelocity-v1": Best(500, "optimum"),
    "Acrobot-v1": Best(-69.1, "best known"),
    "MountainCar-v0": Best(-100.8, "best known"),
    "MountainCarContinuous-v0": Best(96.7, "best known"),
    "Pendulum-v1": Best(-150, "best known"),
    "Catch-bsuite": Best(1, "optimum"),
    "DeepSea-bsuite": Best(0.99, "optimum"),
    "MemoryChain-bsuite": Best(1, "optimum"),
    "UmbrellaChain-bsuite": Best(1, "optimum"),
    "DiscountingChain-bsuite": Best(1.1, "optimum"),
    "SimpleBandit-bsuite": Best(0.5, "optimum"),
    "MNISTBandit-bsuite": Best(1, "optimum"),
    "FourRooms-misc": Best(1, "optimum"),
    "MetaMaze-misc": Best(324, "bound"),
    "PointRobot-misc": Best(12.8, "bound"),
    "BernoulliBandit-misc": Best(89.4, "optimum"),
    "GaussianBandit-misc": Best(8.3, "bound"),
    "Reacher-misc": Best(98, "bound"),
    "Swimmer-misc": Best(494, "bound"),
    "Pong-misc": Best(1000, "optimum"),
    "FrozenLake-misc": Best(0.7442, "optimum"),
}

State = Any  # an environment's own pytree


class Step(NamedTuple):
    """What one step led to; `observation` is the state's own, before any reset. All shapes []
    but the observation's."""

    observation: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Environment(NamedTuple):
    """One environment's pure functions and spaces; a batch is the user's `jax.vmap`.

    An episode is truncated after `max_episode_steps`, which the library counts; None must be given
    by `Config.max_episode_steps`. `truncates_early` says whether `step` may truncate before.
    """

    reset: Callable[[jax.Array], tuple[State, Any]]  # key -> (state, observation)
    step: Callable[[jax.Array, State, jax.Array], tuple[State, Step]]  # (key, state, action)
    observation_space: spaces.Space
    action_space: spaces.Space
    max_episode_steps: int | None = None
    truncates_early: bool = True


def make(config: Config) -> Environment:
    """The environment that `config` names, or holds, with its parameters and its time limit.

    Raises ValueError, in one line, for an unknown name, a parameter or argument that the
    environment does not have, or one without a time limit; ImportError for gymnax older than 1.0.
    """
    raw, counts = _as_written(config)
    if not raw.max_episode_steps:
        raise ValueError(
            f"{objects.name(config.env)} has no time limit of its own; give max_episode_steps"
        )
    environment = _with_stable_types(raw)
    if not counts:
        environment = _with_clock(environment, raw.max_episode_steps)
    if config.previous_action or config.previous_reward:
        environment = _with_previous(environment, config)
    return _terminating(environment) if config.time_limit == "terminate" else environment


def names() -> list[str]:
    """The names of all environments that train by name."""
    return sorted(_registry().registered_envs)


def is_known(config: Config) -> bool:
    """Whether the environment is gymnax's own, one of this library's, or of a suite with an adapter
    here, which are known to work."""
    if isinstance(config.env, str) and config.env.partition("::")[0] in suites.PACKAGES:
        return True
    found = _load(config)
    known = ("gymnax.", "ppo_jax.")
    return isinstance(found, tuple) and type(found[0]).__module__.startswith(known)


def parameter(config: Config, name: str) -> float:
    """The value of an environment's parameter: the configuration's, or else the environment's own.

    Raises ValueError, in one line, for a parameter that the environment does not have, or that is
    an array, for agents differ in numbers alone.
    """
    found = _load(config)
    if isinstance(found, Environment):
        raise ValueError(f"{objects.name(config.env)} has no parameters: it is not gymnax's")
    _check_known(found[1], objects.name(config.env), name)
    value = config.env_params.get(name, getattr(found[1], name))
    if np.ndim(value):
        raise ValueError(f"{name} of {config.env} is an array; only a number varies or evolves")
    return float(value)


def in_gymnax(config: Config) -> tuple[Any, Any] | None:
    """gymnax's environment and parameters whose states those of `make` are; none for others."""
    found = _load(config)
    if isinstance(found, Environment) or not _counts(found[1]):
        return None
    return found[0], _override(found[1], config, config.max_episode_steps or 0)


# Where environments come from ---------------------------------------------------------------------


def _as_written(config: Config) -> tuple[Environment, bool]:
    """The environment with its parameters and time limit as its author's functions are, and whether
    these count the time limit themselves."""
    found = _load(config)
    if not isinstance(found, Environment):
        gymnax_env, parameters = found
        return _from_gymnax(gymnax_env, parameters, config), _counts(parameters)
    limit = config.max_episode_steps or found.max_episode_steps
    return found._replace(max_episode_steps=limit), False


def _load(config: Config) -> Any:
    """The user's `Environment`, or gymnax's pair of environment and parameters."""
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
        hint = f"near it: {', '.join(near)}" if near else "see gymnax.registered_envs"
        raise ValueError(
            f"environment {name!r} is unknown to gymnax {version}; {hint}; one of your own is"
            " package.module:factory"
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


# What every environment is made to do -------------------------------------------------------------


def _with_stable_types(environment: Environment) -> Environment:
    """The environment whose steps keep the types that a reset gives, which a loop's carry needs,
    x64 or not; rewards are floats and flags booleans, all [].

    A step raises ValueError, in one line, where that would cut numbers: fractions, or large ones.
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


def _with_clock(environment: Environment, limit: int) -> Environment:
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


def _terminating(environment: Environment) -> Environment:
    """The environment whose time limit is part of the task: its truncations are terminations."""

    def step(key: jax.Array, state: State, action: jax.Array) -> tuple[State, Step]:
        state, found = environment.step(key, state, action)
        return state, found._replace(terminated=found.terminated | found.truncated)

    return environment._replace(step=step)


def _with_previous(environment: Environment, config: Config) -> Environment:
    """The environment whose observations have the action and the reward before them as parts of
    their own, zeros where an episode begins; a discrete action is one-hot."""
    space: Any = environment.action_space
    parts: dict[str, spaces.Space] = {"observation": environment.observation_space}
    kind = float if isinstance(space, spaces.Box) else int
    encoded = jax.eval_shape(lambda: _as_floats(space, jnp.zeros(space.shape, kind)))
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
        observation = observe(found.observation, _as_floats(space, action), found.reward)
        return state, found._replace(observation=observation)

    return environment._replace(reset=reset, step=step, observation_space=spaces.Dict(parts))


def _as_floats(space: Any, action: jax.Array) -> jax.Array:
    """An action as a vector of floats: one-hot for each discrete entry, a Box's as it is."""
    match space:
        case spaces.Discrete(n):
            return jax.nn.one_hot(action, n, dtype=float)
        case spaces.MultiDiscrete(nvec):
            pairs = zip(jnp.unstack(action), nvec, strict=True)
            return jnp.concatenate([jax.nn.one_hot(one, n, dtype=float) for one, n in pairs])
    return jnp.asarray(action, float)


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


def _holds(one: Any, other: Any) -> bool:
    """Whether an array of the one type can take numbers of the other, to the precision that jax
    computes in; so whole numbers of 32 bits take those of 64."""
    if one == other or jnp.issubdtype(other, jnp.bool_):
        return True
    if jnp.issubdtype(one, jnp.integer):
        is_wide = jnp.iinfo(one).bits >= 32
        return jnp.can_cast(other, one) or (is_wide and jnp.issubdtype(other, jnp.integer))
    return not jnp.issubdtype(one, jnp.bool_)


# What would go wrong later ------------------------------------------------------------------------


def check_environment(environment: Any, num_steps: int = 1000) -> list[str]:
    """What would go wrong with an environment of one's own, a line each; empty where all is well.

    Its functions are traced, and its first episodes played with random actions, `num_steps` steps.
    environment: whatever `Config.env` takes, or a configuration.
    """
    try:
        config = environment if isinstance(environment, Config) else Config(env=environment)
        _load(config)
    except (ValueError, ImportError) as error:
        return [str(error)]
    try:
        found, _ = _as_written(config)
        return _check_spaces(found) or _check_types(found) or _check_play(found, num_steps)
    except Exception as error:  # of the user's environment
        return [f"it cannot be traced: {explain(error)}"]


def _check_spaces(environment: Environment) -> list[str]:
    """Whether there is a policy for the actions, and observations are what their space says."""
    found = jax.eval_shape(environment.reset, jax.random.key(0))
    if not _is_pair(found):
        return [f"reset gives {_in_words(found)}; it must give (state, observation)"]
    observation = found[1]
    try:
        network.num_outputs(environment.action_space)
        kinds = spaces.leaves(environment.observation_space, observation)
    except ValueError as error:
        return [str(error)]
    return [
        f"an observation has shape {leaf.shape}, and its space {kind.shape}; make them the same"
        for leaf, kind in zip(jax.tree.leaves(observation), kinds, strict=True)
        if leaf.shape != kind.shape
    ]


def _check_types(environment: Environment) -> list[str]:
    """What changes between reset and step, and whether a step gives what it must."""

    def both(key: jax.Array) -> Any:
        state, observation = environment.reset(key)
        action = _random_action(key, environment.action_space)
        return (state, observation), environment.step(key, state, action)

    (state, observation), found = jax.eval_shape(both, jax.random.key(0))
    if not (_is_pair(found) and isinstance(found[1], Step)):
        given = f"(state, {_in_words(found[1])})" if _is_pair(found) else _in_words(found)
        wanted = f"ppo_jax.env.Step({', '.join(Step._fields)})"
        return [f"step gives {given}; it must give (state, {wanted})"]
    later, step = found
    return [
        *_differences("state", state, later),
        *_differences("observation", observation, step.observation),
        *_check_value("reward", step.reward, np.number, "a number"),
        *_check_value("terminated", step.terminated, np.bool_, "a boolean"),
        *_check_value("truncated", step.truncated, np.bool_, "a boolean"),
    ]


def _is_pair(found: Any) -> bool:
    return isinstance(found, tuple) and len(found) == 2


def _in_words(found: Any) -> str:
    if isinstance(found, tuple):
        return f"a tuple of {len(found)}"
    return "an array" if hasattr(found, "dtype") else f"a {type(found).__name__}"


def _check_value(field: str, value: Any, kind: Any, wanted: str) -> list[str]:
    if value.shape:
        return [f"{field} has shape {value.shape}; a step's must be a single value, shape ()"]
    if not np.issubdtype(value.dtype, kind):
        return [f"{field} is {value.dtype}; it must be {wanted}"]
    return []


def _differences(what: str, before: Any, after: Any) -> list[str]:
    one: Any = jax.tree.structure(before)
    other: Any = jax.tree.structure(after)
    if one != other:
        return [f"the {what} is {one} after reset and {other} after step; give the same structure"]
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return [
        f"the {what}{jax.tree_util.keystr(path)} is {first.dtype}{list(first.shape)} after reset"
        f" and {second.dtype}{list(second.shape)} after step; give it one type and shape"
        for (path, first), second in pairs
        if (first.shape, first.dtype) != (second.shape, second.dtype)
    ]


def _check_play(environment: Environment, num_steps: int) -> list[str]:
    """Whether numbers stay finite and episodes end."""
    played = _with_stable_types(environment)

    def step(carry: Any, key: jax.Array) -> Any:
        action_key, step_key, reset_key = jax.random.split(key, 3)
        action = _random_action(action_key, played.action_space)
        state, found = played.step(step_key, carry, action)
        done = found.terminated | found.truncated
        state = jax.tree.map(partial(jnp.where, done), played.reset(reset_key)[0], state)
        return state, (_all_finite(found.observation), jnp.isfinite(found.reward))

    def play(key: jax.Array) -> Any:
        state, observation = played.reset(key)
        keys = jax.random.split(jax.random.fold_in(key, 1), num_steps)
        return _all_finite(observation), jax.lax.scan(step, state, keys)[1]

    first, (observed, rewarded) = jax.jit(play)(jax.random.key(0))
    findings = [] if first else ["an observation is NaN or infinite after reset"]
    for what, finite in (("an observation", observed), ("a reward", rewarded)):
        if not np.all(finite):
            when = int(np.argmin(finite)) + 1
            findings.append(f"{what} is NaN or infinite after step {when} of random play")
    if environment.max_episode_steps is None:
        findings.append("it has no time limit; give max_episode_steps")
    return findings


def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _random_action(key: jax.Array, space: Any) -> jax.Array:
    match space:
        case spaces.Discrete(n):
            return jax.random.randint(key, (), 0, n)
        case spaces.MultiDiscrete(nvec):
            return jax.random.randint(key, (len(nvec),), 0, jnp.asarray(nvec))
    low, high = (  # infinite bounds are cut
        jnp.broadcast_to(jnp.clip(jnp.asarray(bound, float), -1e3, 1e3), space.shape)
        for bound in (space.low, space.high)
    )
    return jax.random.uniform(key, space.shape, minval=low, maxval=high)
