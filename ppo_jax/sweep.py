"""Many settings of the hyperparameters, crossed with many seeds: what each agent runs with."""

from collections.abc import Mapping, Sequence, Sized

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import env
from ppo_jax.config import Config, check_hyperparameter, with_hyperparameters

Settings = Mapping[str, jax.Array]
"""Values [settings] of the hyperparameters that vary, by name; `env_params.x` is a parameter x of
the environment."""

Bounds = tuple[str, float, float]
"""Where a random search draws from: ("uniform", low, high), or ("log", low, high) for values whose
logarithm is uniform."""


def grid(axes: Mapping[str, Sequence[float]]) -> dict[str, jax.Array]:
    """Every combination of the values.

    Args:
        axes: The values of each hyperparameter, by name.

    Returns:
        By name, [settings]; the last name varies fastest.
    """
    values = jnp.meshgrid(*(jnp.asarray(axis, float) for axis in axes.values()), indexing="ij")
    return {name: axis.reshape(-1) for name, axis in zip(axes, values, strict=True)}


def search(key: jax.Array, ranges: Mapping[str, Bounds], num_samples: int) -> dict[str, jax.Array]:
    """Random settings, each value drawn independently from its range.

    Returns:
        By name, [num_samples].

    Raises:
        ValueError: For a range that is empty, or logarithmic and not positive.

    Bergstra & Bengio, Random Search for Hyper-Parameter Optimization (JMLR 2012).
    """
    keys = jax.random.split(key, max(len(ranges), 1))
    return {
        name: _draw(key, name, bounds, num_samples)
        for key, (name, bounds) in zip(keys, ranges.items(), strict=False)
    }


def cross(one: Settings, other: Settings) -> dict[str, jax.Array]:
    """Every setting of `one` with every setting of `other`, which varies fastest.

    Args:
        one: By name, [m].
        other: By name, [n]; no name is in both.

    Returns:
        By name, [m n].
    """
    if not one or not other:
        return {**one, **other}
    outer, inner = count(one), count(other)
    return {
        **{name: jnp.repeat(values, inner) for name, values in one.items()},
        **{name: jnp.tile(values, outer) for name, values in other.items()},
    }


def with_own(config: Config, settings: Settings) -> dict[str, np.ndarray]:
    """The configuration's own values as setting 0, then all settings that differ from it.

    Args:
        settings: By name, [settings].

    Returns:
        By name, NumPy arrays [1 + those that differ]; empty without settings.

    Raises:
        ValueError: For a hyperparameter that cannot vary, or has no value of its own.
    """
    values = {name: np.asarray(array) for name, array in settings.items()}
    if not values:
        return {}
    own = {name: np.asarray(own_value(config, name), values[name].dtype) for name in values}
    another = np.any([array != own[name] for name, array in values.items()], axis=0)
    return {name: np.append(own[name], array[another]) for name, array in values.items()}


def own_value(config: Config, name: str) -> float:
    """The configuration's value of a hyperparameter.

    Args:
        name: A field's, or `env_params.x`, whose value may be the environment's own.

    Raises:
        ValueError: Where it cannot vary, or has none.
    """
    check_hyperparameter(name)
    if name.startswith("env_params."):
        return env.parameter(config, name.removeprefix("env_params."))
    value = getattr(config, name)
    if value is None and name == "critic_learning_rate":
        value = config.learning_rate
    if value is None:
        raise ValueError(f"{name} has no numeric default; set --{name.replace('_', '-')}")
    return float(jnp.asarray(value))


def count(settings: Mapping[str, Sized]) -> int:
    """How many settings there are; without any, the one of the configuration itself."""
    return len(next(iter(settings.values()))) if settings else 1


def agents(keys: jax.Array, config: Config, settings: Settings) -> tuple[jax.Array, Config]:
    """The agents of every setting with every seed's key, setting by setting, the same keys in each.

    Args:
        keys: [seeds].
        settings: By name, [settings].

    Returns:
        The agents' keys, [settings × seeds].
        The configuration that they run with: what varies is [settings × seeds].

    Raises:
        ValueError: For a name that is unknown or static, or a value out of range.
    """
    num_settings, num_seeds = count(settings), len(keys)
    each = {name: jnp.repeat(jnp.asarray(value), num_seeds) for name, value in settings.items()}
    return jnp.tile(keys, num_settings), with_hyperparameters(config, each)


def _draw(key: jax.Array, name: str, bounds: Bounds, num_samples: int) -> jax.Array:
    scale, low, high = bounds
    if not low < high or (scale == "log" and low <= 0):
        wanted = "low < high, and above 0 for log"
        raise ValueError(f"the range of {name} is {scale}:{low:g}:{high:g}; it needs {wanted}")
    uniform = jax.random.uniform(key, (num_samples,))
    if scale == "log":
        return jnp.exp(jnp.log(low) + uniform * (jnp.log(high) - jnp.log(low)))
    return low + uniform * (high - low)
