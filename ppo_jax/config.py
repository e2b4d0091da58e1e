"""What a run of PPO is made of: `Config`, and the three named recipes.

This module needs neither jax nor gymnax, so that `--help` and a bad flag answer at once.
`Config` becomes a pytree when the core (`ppo_jax.ppo`) is imported.
"""

import dataclasses
import difflib
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np


def static(default: Any) -> Any:
    """A field that belongs to the compiled program: it sizes an array or chooses a formula."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Config:
    """Every setting of one agent's training; the defaults are the recipe `fast`.

    Static fields (sizes, booleans, names) are part of the compiled program. Every other number is
    a traced leaf of this pytree: it can be an array, be swept with `jax.vmap`, and be changed
    without compiling again. The constructor checks the static fields; `check()` the others.

    Raises ValueError with one line that has the value and the remedy.
    """

    env: str = static("CartPole-v1")
    """Name of a gymnax environment."""
    env_params: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Environment parameters to override, such as force_mag 5.0."""
    max_episode_steps: int | None = static(None)
    """Time limit of an episode, a truncation (none: the environment's own)."""
    num_envs: int = static(8)
    """Environments stepped together, N."""
    num_steps: int | None = static(64)
    """Steps of every environment in one rollout, T (none: whole episodes)."""
    min_transitions: int | None = static(None)
    """Collect whole episodes until at least this many transitions are held."""
    total_timesteps: int | None = static(100_000)
    """Environment steps of one agent's whole run."""
    num_updates: int | None = static(None)
    """Updates of one agent's whole run, instead of total_timesteps."""
    num_epochs: int = static(4)
    """Passes over the data of one update."""
    num_minibatches: int | None = static(4)
    """Equal minibatches in one epoch."""
    minibatch_size: int | None = static(None)
    """Transitions in one minibatch, M, instead of num_minibatches."""
    learning_rate: float = 2.5e-3
    """Adam's learning rate, of the actor and of the critic."""
    critic_learning_rate: float | None = None
    """The critic's own learning rate (none: the same)."""
    anneal_learning_rate: bool = static(True)
    """Lower the learning rates linearly to 0 over the run."""
    adam_epsilon: float = 1e-5
    """Adam's ε."""
    max_grad_norm: float | None = 0.5
    """Largest global norm of a gradient; beyond it the gradient is scaled down (none: never)."""
    joint_grad_norm: bool = static(True)
    """Clip the norm of both networks' gradient together (no: each network by itself)."""
    discount: float = 0.98
    """Reward discount γ."""
    gae_lambda: float = 0.98
    """λ of generalised advantage estimation; 1 gives discounted returns."""
    clip_range: float = 0.2
    """ε: how far the probability ratio may move."""
    clip_value: bool = static(False)
    """Clip the value's move by ε in its loss as well."""
    value_coefficient: float = 0.5
    """Weight of the value loss, ½ mean((V - G)²)."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    normalize_advantage: bool = static(True)
    """Normalise the advantages in each minibatch to mean 0 and deviation 1."""
    recompute_advantage: bool = static(False)
    """Advantage G - V(s) with the current critic in every minibatch (no: GAE of the rollout)."""
    hidden_sizes: tuple[int, ...] = static((64,))
    """Widths of the hidden layers, in each network."""
    activation: Literal["tanh", "relu"] = static("tanh")
    """Nonlinearity after every hidden layer."""
    initialization: Literal["orthogonal", "uniform"] = static("orthogonal")
    """Initial weights: orthogonal (√2, policy head 0.01, value head 1), or uniform ±1/√fan_in."""

    def __post_init__(self) -> None:
        if isinstance(self.hidden_sizes, list):  # as JSON has it
            object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        _check_static(self)
        if self.total_timesteps is not None:
            object.__setattr__(self, "num_updates", self.total_timesteps // self.batch_size)

    @property
    def whole_episodes(self) -> bool:
        """Whether an update is fed by whole episodes instead of fixed-length rollouts."""
        return self.min_transitions is not None

    @property
    def batch_size(self) -> int:
        """Transitions in one update of fixed-length rollouts, B = N T."""
        if self.num_steps is None:
            raise ValueError("batch_size: whole episodes have no fixed number of transitions")
        return self.num_envs * self.num_steps

    @property
    def transitions_per_minibatch(self) -> int:
        """Transitions in one full minibatch, M."""
        return self.minibatch_size or self.batch_size // (self.num_minibatches or 1)

    def replace(self, **changes: Any) -> Self:
        """This configuration with some fields changed, checked again like a new one.

        Of two fields that say the same thing (a run's length in steps or updates, minibatches by
        count or size) the one in `changes` replaces the other.
        """
        for chosen, other in (
            ("num_updates", "total_timesteps"),
            ("total_timesteps", "num_updates"),
            ("minibatch_size", "num_minibatches"),
            ("num_minibatches", "minibatch_size"),
        ):
            if changes.get(chosen) is not None:
                changes.setdefault(other, None)
        if changes.get("total_timesteps", self.total_timesteps) is not None:
            changes.setdefault("num_updates", None)  # it follows from total_timesteps
        return dataclasses.replace(self, **changes)

    def check(self) -> Self:
        """This configuration, if its hyperparameters can train: finite and within their ranges.

        A hyperparameter may be an array of settings; tracers are let through, for inside a
        transformation there is no value to check.
        """
        for name, (holds, wanted) in _RANGES.items():
            _check_values(name, getattr(self, name), holds, wanted)
        for name, value in self.env_params.items():
            if value is not None:
                _check_values(f"env_params {name}", value, *_FINITE)
        return self


# The original algorithm, one episode an update (the corrections are in the README).
_NOTEBOOK: dict[str, Any] = {
    "num_envs": 1,
    "num_steps": None,
    "min_transitions": 32,
    "total_timesteps": None,
    "num_updates": 1000,
    "num_epochs": 10,
    "num_minibatches": None,
    "minibatch_size": 32,
    "learning_rate": 1e-3,
    "critic_learning_rate": 3e-3,
    "anneal_learning_rate": False,
    "adam_epsilon": 1e-8,
    "joint_grad_norm": False,
    "discount": 0.99,
    "gae_lambda": 1.0,
    "value_coefficient": 2.0,
    "normalize_advantage": False,
    "recompute_advantage": True,
    "hidden_sizes": (100,),
    "activation": "relu",
    "initialization": "uniform",
}

# The field's common CartPole configuration (CleanRL, PureJaxRL).
_STANDARD: dict[str, Any] = {
    "num_envs": 4,
    "num_steps": 128,
    "total_timesteps": 500_000,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "hidden_sizes": (64, 64),
    "clip_value": True,
    "entropy_coefficient": 0.01,
}

RECIPES: dict[str, dict[str, Any]] = {"notebook": _NOTEBOOK, "standard": _STANDARD, "fast": {}}


def recipe(name: str = "fast", **overrides: Any) -> Config:
    """The named recipe as a `Config`, with any field overridden by name, and checked.

    `notebook` is the original teaching algorithm, `standard` the field's common CartPole
    configuration, `fast` (the default) is tuned for time to solve.

    Raises ValueError for an unknown recipe or field, or a value out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; choose {', '.join(RECIPES)}")
    return override(Config(**RECIPES[name]), **overrides)


def override(config: Config, **overrides: Any) -> Config:
    """The configuration with fields overridden by name, and checked; whole numbers given for a
    hyperparameter become floats.

    Raises ValueError for an unknown field, two fields that say the same thing, or a bad value.
    """
    known = {field.name: field for field in dataclasses.fields(Config)}
    for key, value in overrides.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"
            raise ValueError(f"Config has no field {key!r}{hint}")
        if type(value) is int and not known[key].metadata.get("static"):
            overrides[key] = float(value)
    _refuse_both(overrides, "total_timesteps", "num_updates")
    _refuse_both(overrides, "num_minibatches", "minibatch_size")
    return config.replace(**overrides).check()


_PARAMETER = "env_params."


def with_hyperparameters(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with hyperparameters, numbers or arrays, by name, checked; `env_params.x` is
    the environment's parameter x.

    Raises ValueError for a name that is unknown or static, or a value out of range.
    """
    env_params = dict(config.env_params)
    changes: dict[str, Any] = {}
    for name, value in values.items():
        check_hyperparameter(name)
        if name.startswith(_PARAMETER):
            env_params[name.removeprefix(_PARAMETER)] = value
        else:
            changes[name] = value
    return config.replace(env_params=env_params, **changes).check()


def check_hyperparameter(name: str) -> None:
    """Raise ValueError unless the field is a hyperparameter, or env_params.NAME: what agents of one
    program can differ in."""
    if name.startswith(_PARAMETER):
        return
    fields = dataclasses.fields(Config)
    traced = [field.name for field in fields if not field.metadata.get("static")]
    traced = [f"{_PARAMETER}NAME" if name == "env_params" else name for name in traced]
    if name in traced:
        return
    if name in (field.name for field in fields) and name != "env_params":
        raise ValueError(
            f"{name} is static: it sizes arrays or chooses a formula, so every value is a program"
            f" of its own; run one command for each value. What can vary: {', '.join(traced)}"
        )
    near = difflib.get_close_matches(name, traced, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(traced)}"
    raise ValueError(f"{name!r} is not a sweepable hyperparameter; {hint}")


def _refuse_both(overrides: Mapping[str, Any], first: str, second: str) -> None:
    if overrides.get(first) is not None and overrides.get(second) is not None:
        raise ValueError(
            f"{first} {overrides[first]} and {second} {overrides[second]} say the same thing twice;"
            " give one of them"
        )


def _check_static(config: Config) -> None:
    _check_sizes(config)
    _check_choices(config)
    if config.whole_episodes:
        _check_whole_episodes(config)
    else:
        _check_fixed_length(config)
    if config.normalize_advantage and config.transitions_per_minibatch == 1:
        raise ValueError(
            "minibatches of 1 transition cannot be normalised: their deviation is 0; use larger"
            " minibatches or normalize_advantage=False"
        )


_SIZES = (
    "num_envs",
    "num_steps",
    "min_transitions",
    "max_episode_steps",
    "total_timesteps",
    "num_updates",
    "num_epochs",
    "num_minibatches",
    "minibatch_size",
)
_OPTIONAL_SIZES = tuple(name for name in _SIZES if name not in ("num_envs", "num_epochs"))
_LARGEST = 2**31 - 1  # what arrays are indexed with, and updates and gradient steps counted


def _check_sizes(config: Config) -> None:
    for name in _SIZES:
        value = getattr(config, name)
        if value is None and name in _OPTIONAL_SIZES:
            continue
        if not _is_integer(value) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if name != "total_timesteps":  # which only its updates count
            _check_largest(name, value)
    sizes = config.hidden_sizes
    if not isinstance(sizes, tuple) or not all(_is_integer(size) and size > 0 for size in sizes):
        raise ValueError(f"hidden_sizes is {sizes!r}; it must be a tuple of positive whole numbers")
    _check_largest("hidden_sizes", max(sizes, default=1))


def _check_largest(what: str, number: int) -> None:
    if number > _LARGEST:
        raise ValueError(f"{what} is {number}; it must be at most {_LARGEST}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_choices(config: Config) -> None:
    for name, choices in (
        ("activation", ("tanh", "relu")),
        ("initialization", ("orthogonal", "uniform")),
    ):
        if getattr(config, name) not in choices:
            raise ValueError(
                f"{name} is {getattr(config, name)!r}; it must be {' or '.join(choices)}"
            )
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type is bool and not isinstance(value, bool):
            raise ValueError(f"{field.name} is {value!r}; it must be True or False")
    if not isinstance(config.env, str):
        raise ValueError(f"env is {config.env!r}; it must be the name of a gymnax environment")
    if not isinstance(config.env_params, Mapping):
        raise ValueError(f"env_params is {config.env_params!r}; it must map names to numbers")


def _check_whole_episodes(config: Config) -> None:
    if config.num_envs != 1:
        raise ValueError(
            f"num_envs is {config.num_envs}; whole episodes (min_transitions) are collected in 1"
            " environment"
        )
    for name in ("num_steps", "num_minibatches", "total_timesteps"):
        if getattr(config, name) is not None:
            remedy = {"num_steps": "min_transitions", "num_minibatches": "minibatch_size"}
            raise ValueError(
                f"{name} is {getattr(config, name)}, but whole episodes have no fixed length;"
                f" leave it out and give {remedy.get(name, 'num_updates')}"
            )
    for name in ("minibatch_size", "num_updates"):
        if getattr(config, name) is None:
            raise ValueError(f"{name} is missing; whole episodes need it")


def _check_fixed_length(config: Config) -> None:
    if config.num_steps is None:
        raise ValueError("num_steps is missing; give it, or min_transitions for whole episodes")
    batch = config.batch_size
    arithmetic = f"{config.num_envs} environments × {config.num_steps} steps = {batch} transitions"
    if batch > _LARGEST:
        raise ValueError(f"{arithmetic} in one update; give at most {_LARGEST}")
    if (config.num_minibatches is None) == (config.minibatch_size is None):
        raise ValueError("give either num_minibatches or minibatch_size")
    for name in ("num_minibatches", "minibatch_size"):
        divisor = getattr(config, name)
        if divisor is not None and batch % divisor:
            raise ValueError(
                f"{arithmetic}, which {name} {divisor} does not divide; the nearest that does is"
                f" {_nearest_divisor(batch, divisor)}"
            )
    gradient_steps = config.num_epochs * (batch // config.transitions_per_minibatch)
    _check_largest("num_epochs × num_minibatches", gradient_steps)
    if config.total_timesteps is None:
        if config.num_updates is None:
            raise ValueError("give either total_timesteps or num_updates")
    elif config.num_updates not in (None, config.total_timesteps // batch):
        raise ValueError(
            f"total_timesteps {config.total_timesteps} is {config.total_timesteps // batch} updates"
            f" of {batch} steps, but num_updates is {config.num_updates}; give one of them"
        )
    elif config.total_timesteps < batch:
        raise ValueError(
            f"total_timesteps is {config.total_timesteps}, less than one update: {arithmetic};"
            f" give at least {batch}"
        )
    else:
        _check_largest("the number of updates in total_timesteps", config.total_timesteps // batch)


def _nearest_divisor(number: int, wanted: int) -> int:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = small + [number // d for d in reversed(small)]
    return min(divisors, key=lambda divisor: abs(divisor - wanted))


_OPTIONAL_HYPERPARAMETERS = ("critic_learning_rate", "max_grad_norm")
# Bounds of float32, which the device makes of a hyperparameter: above it is infinite, below 0.
_MOST, _LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_POSITIVE = (
    lambda value: (value >= _LEAST) & (value <= _MOST),
    f"positive and finite, from {_LEAST:.2g} to {_MOST:.2g}",
)
_NOT_NEGATIVE = (
    lambda value: (value >= 0) & (value <= _MOST),
    f"at least 0 and finite, up to {_MOST:.2g}",
)
_FINITE = (lambda value: abs(value) <= _MOST, f"finite, and at most {_MOST:.2g} in size")
_UNIT = (lambda value: (value >= 0) & (value <= 1), "between 0 and 1")
_RANGES: dict[str, tuple[Any, str]] = {
    "learning_rate": _POSITIVE,
    "critic_learning_rate": _POSITIVE,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _POSITIVE,
    "discount": _UNIT,
    "gae_lambda": _UNIT,
    "clip_range": _POSITIVE,
    "value_coefficient": _NOT_NEGATIVE,
    "entropy_coefficient": _NOT_NEGATIVE,
}


def _check_values(name: str, value: Any, holds: Any, wanted: str) -> None:
    if (value is None and name in _OPTIONAL_HYPERPARAMETERS) or _is_tracer(value):
        return
    try:
        if isinstance(value, str):  # NumPy would read it
            raise TypeError
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a number") from None
    if not math.prod(numbers.shape):
        raise ValueError(f"{name} is empty; give a value")
    if not np.all(holds(numbers)):
        shown = value if numbers.ndim == 0 else numbers[~holds(numbers)][0]
        raise ValueError(f"{name} is {shown}; it must be {wanted}")


def _is_tracer(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)
