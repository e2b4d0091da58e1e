"""What would go wrong with an environment of one's own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import network, spaces
from ppo_jax.config import Config
from ppo_jax.environment import Environment, Step
from ppo_jax.envs import sources
from ppo_jax.envs.wrappers import with_stable_types
from ppo_jax.objects import explain


def check_environment(environment: Any, num_steps: int = 1000) -> list[str]:
    """What would go wrong with an environment of one's own.

    Its functions are traced, and its first episodes played with random actions.

    Args:
        environment: Whatever `Config.env` takes, or a configuration.
        num_steps: Steps of random play.

    Returns:
        The findings, a line each; empty where all is well.
    """
    try:
        config = environment if isinstance(environment, Config) else Config(env=environment)
        sources.load(config)
    except (ValueError, ImportError) as error:
        return [str(error)]
    try:
        found, _ = sources.as_written(config)
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
        action = random_action(key, environment.action_space)
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
    played = with_stable_types(environment)

    def step(carry: Any, key: jax.Array) -> Any:
        action_key, step_key, reset_key = jax.random.split(key, 3)
        action = random_action(action_key, played.action_space)
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


def random_action(key: jax.Array, space: Any) -> jax.Array:
    """An action drawn uniformly from the space."""
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
