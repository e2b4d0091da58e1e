"""What a run of PPO is made of: `Config`, the rule of each field at the field.

This module needs neither jax nor gymnax, so that `--help` and a bad flag answer at once.
`Config` becomes a pytree when the core (`ppo_jax.ppo`) is imported.
"""

import dataclasses
import difflib
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from ppo_jax import objects


class Rule(NamedTuple):
    """What a field's value must be."""

    holds: Callable[[Any], Any]  # of a value, or for hyperparameters of an array of them
    wanted: str


_LARGEST = 2**31 - 1  # what arrays are indexed with, and updates and gradient steps counted
# Bounds of float32, which the device makes of a hyperparameter: above it is infinite, below 0.
_MOST, _LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)

SIZE = Rule(lambda value: _is_integer(value) and value >= 1, "a whole number of at least 1")
SIZES = Rule(
    lambda value: (
        isinstance(value, tuple) and all(_is_integer(size) and size > 0 for size in value)
    ),
    "a tuple of positive whole numbers",
)
BOOLEAN = Rule(lambda value: isinstance(value, bool), "True or False")
NUMBERS = Rule(lambda value: isinstance(value, Mapping), "a mapping of names to numbers")
POSITIVE = Rule(
    lambda value: (value >= _LEAST) & (value <= _MOST),
    f"positive and finite, from {_LEAST:.2g} to {_MOST:.2g}",
)
NOT_NEGATIVE = Rule(
    lambda value: (value >= 0) & (value <= _MOST),
    f"at least 0 and finite, up to {_MOST:.2g}",
)
FINITE = Rule(lambda value: abs(value) <= _MOST, f"finite, and at most {_MOST:.2g} in size")
UNIT = Rule(lambda value: (value >= 0) & (value <= 1), "between 0 and 1")

BUILT_IN_NETWORKS = ("mlp", "cnn", "gru")
OBJECTS = ("env", "network", "optimizer")  # fields that may hold what no file can


def one_of(*choices: str) -> Rule:
    """The rule of a field that is one of these."""
    return Rule(lambda value: value in choices, " or ".join(choices))


ENV = Rule(lambda value: value != "", "an environment, or the name of one")
NETWORK = Rule(
    lambda value: not isinstance(value, str) or value in BUILT_IN_NETWORKS or ":" in value,
    f"{', '.join(BUILT_IN_NETWORKS)}, package.module:Class, or a flax module or its class",
)
OPTIMIZER = Rule(
    lambda value: not isinstance(value, str) or ":" in value,
    "package.module:factory, or an optax.GradientTransformation",
)


def static(default: Any, rule: Rule, optional: bool = False) -> Any:
    """A field that belongs to the compiled program: it sizes an array or chooses a formula.

    Args:
        default: None makes the field optional.
        rule: What a value must be.
        optional: Whether None is a value too.
    """
    metadata = {"static": True, "rule": rule, "optional": optional or default is None}
    return dataclasses.field(default=default, metadata=metadata)


def traced(default: Any, rule: Rule, optional: bool = False) -> Any:
    """A hyperparameter: a number that one program takes as an argument.

    Args:
        default: None makes the field optional.
        rule: What a number, or every one of an array, must be.
        optional: Whether None is a value too.
    """
    metadata = {"static": False, "rule": rule, "optional": optional or default is None}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Every setting of one agent's training; the defaults are the recipe `fast` for CartPole-v1.

    Static fields (sizes, booleans, names, objects) are part of the compiled program. Every other
    number is a traced leaf of this pytree: it can be an array, be swept with `jax.vmap`, and be
    changed without compiling again. The constructor checks the static fields; `check()` the others.

    Raises:
        ValueError: In one line that has the value and the remedy.
    """

    env: Any = static("CartPole-v1", ENV)
    """A gymnax environment by name, suite::id, package.module:factory, or an environment itself."""
    env_kwargs: Any = static((), NUMBERS)
    """Arguments of the environment's constructor, such as size 20."""
    env_params: Mapping[str, float] = dataclasses.field(
        default_factory=dict, metadata={"static": False, "rule": NUMBERS, "optional": False}
    )
    """Environment parameters to override, such as force_mag 5.0."""
    max_episode_steps: int | None = static(None, SIZE)
    """Time limit of an episode; None is the environment's own."""
    time_limit: Literal["truncate", "terminate"] = static(
        "truncate", one_of("truncate", "terminate")
    )
    """At the time limit, or where else an episode is cut: truncate, the value of what follows
    counts; or terminate, the limit is part of the task."""
    reset_pool: int | None = static(None, SIZE)
    """Reset states of one rollout, shared by its environments and steps; None draws a fresh one
    for every step."""
    num_envs: int = static(8, SIZE)
    """Environments stepped together, N."""
    num_steps: int | None = static(64, SIZE, optional=True)
    """Steps of every environment in one rollout, T; None is whole episodes."""
    min_transitions: int | None = static(None, SIZE)
    """Collect whole episodes until at least this many transitions are held."""
    total_timesteps: int | None = static(100_000, SIZE, optional=True)
    """Environment steps of one agent's whole run, rounded down to whole updates."""
    num_updates: int | None = static(None, SIZE)
    """Updates of one agent's whole run, instead of total_timesteps."""
    num_epochs: int = static(4, SIZE)
    """Passes over the data of one update."""
    num_minibatches: int | None = static(4, SIZE, optional=True)
    """Equal minibatches in one epoch."""
    minibatch_size: int | None = static(None, SIZE)
    """Transitions in one minibatch, M, instead of num_minibatches."""
    learning_rate: float = traced(2.5e-3, POSITIVE)
    """Adam's learning rate, of the actor and of the critic."""
    critic_learning_rate: float | None = traced(None, POSITIVE)
    """The critic's own learning rate; None is the same."""
    anneal_learning_rate: bool = static(True, BOOLEAN)
    """Lower the learning rates linearly to 0 over the run."""
    adam_epsilon: float = traced(1e-5, POSITIVE)
    """Adam's ε."""
    max_grad_norm: float | None = traced(0.5, POSITIVE, optional=True)
    """Largest global norm of a gradient; beyond it the gradient is scaled down; None never does."""
    joint_grad_norm: bool = static(True, BOOLEAN)
    """Clip the norm of both networks' gradient together (no: each network by itself)."""
    optimizer: Any = static(None, OPTIMIZER)
    """An optax transformation, or package.module:factory of one, instead of clipping, Adam and
    annealing, whose options then mean nothing."""
    target_kl: float | None = traced(None, POSITIVE)
    """Stop an update's gradient steps once the approximate KL divergence exceeds 1.5 times this."""
    discount: float = traced(0.98, UNIT)
    """Reward discount γ."""
    gae_lambda: float = traced(0.98, UNIT)
    """λ of generalized advantage estimation; 1 gives discounted returns."""
    clip_range: float = traced(0.2, POSITIVE)
    """ε: how far the probability ratio may move."""
    clip_value: bool = static(False, BOOLEAN)
    """Clip the value's move by ε in its loss as well."""
    value_coefficient: float = traced(0.5, NOT_NEGATIVE)
    """Weight of the value loss, ½ mean((V - G)²)."""
    entropy_coefficient: float = traced(0.0, NOT_NEGATIVE)
    """Weight of the entropy bonus."""
    normalize_advantage: bool = static(True, BOOLEAN)
    """Normalize the advantages in each minibatch to mean 0 and deviation 1."""
    recompute_advantage: bool = static(False, BOOLEAN)
    """Advantage G - V(s) with the current critic in every minibatch (no: GAE of the rollout)."""
    normalize_observation: bool = static(False, BOOLEAN)
    """Scale observations by their running mean and deviation."""
    normalize_reward: bool = static(False, BOOLEAN)
    """Scale rewards by the running deviation of their discounted sum."""
    network: Any = static("mlp", NETWORK)
    """mlp, cnn, gru (with memory), a flax module, its class, or package.module:Class."""
    hidden_sizes: tuple[int, ...] = static((64,), SIZES)
    """Widths of the built-in networks' hidden layers, such as 64 64."""
    memory_size: int = static(64, SIZE)
    """Width of the memory of gru."""
    activation: Literal["tanh", "relu"] = static("tanh", one_of("tanh", "relu"))
    """Nonlinearity after every hidden layer of the built-in networks."""
    initialization: Literal["orthogonal", "uniform"] = static(
        "orthogonal", one_of("orthogonal", "uniform")
    )
    """Initial weights of the built-in networks: orthogonal (√2, policy head 0.01, value head 1), or
    uniform ±1/√fan_in."""
    log_std_init: float = traced(0.0, FINITE)
    """Initial log σ of continuous actions."""
    squash_action: bool = static(False, BOOLEAN)
    """Squash continuous actions onto their bounds by tanh (no: clip them at the environment)."""
    noise_correlation: float = traced(0.0, UNIT)
    """ρ of the noise of continuous actions, from one step to the next of an episode."""
    previous_action: bool = static(False, BOOLEAN)
    """The network sees the action before as well, zeros where an episode begins."""
    previous_reward: bool = static(False, BOOLEAN)
    """The network sees the reward before as well, 0 where an episode begins."""
    kernel: Literal["xla", "pallas"] = static("xla", one_of("xla", "pallas"))
    """An update's phases as loops of XLA's kernels, or as one GPU kernel each (pallas; on a CPU
    interpreted, for tests)."""

    def __post_init__(self) -> None:
        if isinstance(self.hidden_sizes, list):  # as JSON has it
            object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        object.__setattr__(self, "env_kwargs", _pairs(self.env_kwargs))
        _check_static(self)
        if self.total_timesteps is not None:
            object.__setattr__(self, "num_updates", self.total_timesteps // self.batch_size)

    @property
    def whole_episodes(self) -> bool:
        """Whether an update is fed by whole episodes instead of fixed-length rollouts."""
        return self.min_transitions is not None

    @property
    def batch_size(self) -> int:
        """Transitions in one update of fixed-length rollouts, B = N T.

        Raises:
            ValueError: With whole episodes, which have no fixed number.
        """
        if self.num_steps is None:
            raise ValueError("batch_size: whole episodes have no fixed number of transitions")
        return self.num_envs * self.num_steps

    @property
    def transitions_per_minibatch(self) -> int:
        """Transitions in one full minibatch, M."""
        return self.minibatch_size or self.batch_size // (self.num_minibatches or 1)

    def replace(self, **changes: Any) -> Self:
        """This configuration with some fields changed, checked again like a new one.

        Args:
            changes: By name. Of two fields that say the same thing (a run's length in steps or
                updates, minibatches by count or size) the one given replaces the other.
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

        Raises:
            ValueError: In one line that has the first bad value and the rule.
        """
        for field in dataclasses.fields(self):
            if not field.metadata["static"] and field.name != "env_params":
                _check_values(field.name, getattr(self, field.name), field.metadata)
        for name, value in self.env_params.items():
            if value is not None:
                _check_values(f"env_params {name}", value, {"rule": FINITE, "optional": False})
        return self


def override(config: Config, **overrides: Any) -> Config:
    """The configuration with fields overridden by name, and checked.

    Args:
        overrides: By name; whole numbers given for a hyperparameter become floats.

    Raises:
        ValueError: For an unknown field, two fields that say the same thing, or a bad value.
    """
    known = {field.name: field for field in dataclasses.fields(Config)}
    for key, value in overrides.items():
        if key not in known:
            raise ValueError(f"Config has no field {key!r}; {_hint(key, list(known))}")
        if type(value) is int and not known[key].metadata.get("static"):
            overrides[key] = float(value)
    _refuse_both(overrides, "total_timesteps", "num_updates")
    _refuse_both(overrides, "num_minibatches", "minibatch_size")
    return config.replace(**overrides).check()


ALIASES = {  # what CleanRL and Stable-Baselines3 call a field: flags, and hints of Python's errors
    "gamma": "discount",
    "lr": "learning_rate",
    "ent_coef": "entropy_coefficient",
    "vf_coef": "value_coefficient",
    "clip_coef": "clip_range",
    "total_steps": "total_timesteps",
    "env_id": "env",
    "update_epochs": "num_epochs",
    "anneal_lr": "anneal_learning_rate",
    "norm_adv": "normalize_advantage",
    "norm_obs": "normalize_observation",
    "norm_reward": "normalize_reward",
    "clip_vloss": "clip_value",
}
_PARAMETER = "env_params."
_BUILT_IN_OPTIMIZER = (
    "learning_rate",
    "critic_learning_rate",
    "adam_epsilon",
    "max_grad_norm",
)


def with_hyperparameters(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with hyperparameters replaced by name, and checked.

    Args:
        values: Numbers or arrays; `env_params.x` is the environment's parameter x.

    Raises:
        ValueError: For a name that is unknown or static, a value out of range, or a
            hyperparameter of the built-in optimizer beside the user's own.
    """
    env_params = dict(config.env_params)
    changes: dict[str, Any] = {}
    for name, value in values.items():
        check_hyperparameter(name)
        if config.optimizer is not None and name in _BUILT_IN_OPTIMIZER:
            raise ValueError(
                f"{name} is the built-in optimizer's, and an optimizer of your own replaces it;"
                " leave one of them out"
            )
        if name.startswith(_PARAMETER):
            env_params[name.removeprefix(_PARAMETER)] = value
        else:
            changes[name] = value
    return config.replace(env_params=env_params, **changes).check()


def check_hyperparameter(name: str) -> None:
    """Check that agents of one program can differ in this: a traced field, or `env_params.x`.

    Raises:
        ValueError: In one line, for a static field or an unknown name.
    """
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
    raise ValueError(f"{name!r} is not a sweepable hyperparameter; {_hint(name, traced)}")


def _hint(name: str, known: list[str]) -> str:
    """What an unknown name may have meant: the same in another library, or the nearest one."""
    near = difflib.get_close_matches(ALIASES.get(name, name), known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _refuse_both(overrides: Mapping[str, Any], first: str, second: str) -> None:
    if overrides.get(first) is not None and overrides.get(second) is not None:
        raise ValueError(
            f"{first} {overrides[first]} and {second} {overrides[second]} say the same thing twice;"
            " give one of them"
        )


def _check_static(config: Config) -> None:
    for field in dataclasses.fields(config):
        if field.metadata["static"] or field.name == "env_params":
            check_field(field, getattr(config, field.name))
    _check_objects(config)
    if config.whole_episodes:
        _check_whole_episodes(config)
    else:
        _check_fixed_length(config)
    if config.normalize_advantage and config.transitions_per_minibatch == 1:
        raise ValueError(
            "minibatches of 1 transition cannot be normalized: their deviation is 0; use larger"
            " minibatches or normalize_advantage=False"
        )


def check_field(field: Any, value: Any) -> None:
    """Check a value by the rule in the metadata of a dataclass's field.

    Args:
        field: A `dataclasses.Field`, such as `static` and `traced` make.

    Raises:
        ValueError: In one line that has the value and the rule.
    """
    rule = field.metadata["rule"]
    if value is None and field.metadata["optional"]:
        return
    if field.name == "env_kwargs":
        value = dict(value)
    if not rule.holds(value):
        raise ValueError(f"{field.name} is {value!r}; it must be {rule.wanted}")
    if rule in (SIZE, SIZES) and field.name != "total_timesteps":  # which only its updates count
        for size in value if rule is SIZES else (value,):
            _check_largest(field.name, size)


def _check_objects(config: Config) -> None:
    for name in (*OBJECTS, "env_kwargs"):
        objects.check_hashable(getattr(config, name), name)


def _pairs(kwargs: Any) -> tuple[tuple[str, Any], ...]:
    """Arguments as a sorted tuple of pairs, which can be hashed."""
    try:
        pairs = kwargs.items() if isinstance(kwargs, Mapping) else [tuple(pair) for pair in kwargs]
        return tuple(sorted((str(name), value) for name, value in pairs))
    except (TypeError, ValueError):
        raise ValueError(f"env_kwargs is {kwargs!r}; it must map names to values") from None


def _check_largest(what: str, number: int) -> None:
    if number > _LARGEST:
        raise ValueError(f"{what} is {number}; it must be at most {_LARGEST}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


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
                f" {nearest_divisor(batch, divisor)}"
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


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of a number that is nearest to the wanted one; of two the smaller."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = small + [number // d for d in reversed(small)]
    return min(divisors, key=lambda divisor: abs(divisor - wanted))


def _check_values(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    holds, wanted = metadata["rule"]
    if (value is None and metadata["optional"]) or _is_tracer(value):
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
