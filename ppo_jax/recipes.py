"""The named recipes: what each changes of `Config`'s defaults. Needs neither jax nor gymnax."""

from typing import Any

from ppo_jax.config import Config, override

# The original algorithm, one episode an update (docs/recipes.md has the corrections).
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

# `fast` for an environment that has no row of its own: a common setting for unknown scales.
_GENERAL: dict[str, Any] = {
    "num_envs": 16,
    "num_steps": 128,
    "total_timesteps": 1_000_000,
    "num_epochs": 4,
    "num_minibatches": 8,
    "learning_rate": 1e-3,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "hidden_sizes": (64, 64),
    "normalize_observation": True,
}

# What the MinAtar games share.
_MINATAR: dict[str, Any] = {
    "num_envs": 64,
    "num_steps": 32,
    "total_timesteps": 2_000_000,
    "num_epochs": 4,
    "num_minibatches": 8,
    "learning_rate": 5e-3,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "hidden_sizes": (64, 64),
    "activation": "relu",
}

# `fast` by environment; CartPole's row are the defaults of `Config`.
FAST: dict[str, dict[str, Any]] = {
    "CartPole-v1": {},
    "Pendulum-v1": {
        "num_envs": 16,
        "num_steps": 128,
        "total_timesteps": 300_000,
        "num_epochs": 10,
        "num_minibatches": 8,
        "learning_rate": 2e-3,
        "joint_grad_norm": False,
        "discount": 0.95,
        "gae_lambda": 0.9,
        "hidden_sizes": (64, 64),
        "normalize_observation": True,
    },
    "Asterix-MinAtar": {**_MINATAR, "learning_rate": 1.5e-3},
    "Breakout-MinAtar": _MINATAR,
    "Freeway-MinAtar": {**_MINATAR, "learning_rate": 1.5e-3},
    "Seaquest-MinAtar": _MINATAR,
    "SpaceInvaders-MinAtar": _MINATAR,
}

RECIPES = ("notebook", "standard", "fast")


def row(name: str, env: Any = "CartPole-v1") -> dict[str, Any]:
    """What the recipe changes of `Config`'s defaults, for an environment's name; an environment
    that is an object, or unknown, has the general row of `fast`."""
    if name == "fast":
        known = isinstance(env, str) and env in FAST
        return {**(FAST[env] if known else _GENERAL), "env": env}
    return {"notebook": _NOTEBOOK, "standard": _STANDARD}[name]


def recipe(name: str = "fast", **overrides: Any) -> Config:
    """The named recipe as a `Config`, with any field overridden by name, and checked.

    `notebook` is the original teaching algorithm, `standard` the field's common CartPole
    configuration, `fast` (the default) is tuned for each environment.

    Raises ValueError for an unknown recipe or field, or a value out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; choose {', '.join(RECIPES)}")
    return override(Config(**row(name, overrides.get("env", "CartPole-v1"))), **overrides)
