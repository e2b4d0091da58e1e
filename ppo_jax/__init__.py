"""PPO as one pure function, in JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppo_jax import (
        env,
        evaluate,
        network,
        normalize,
        pbt,
        policy,
        population,
        ppo,
        returns,
        shuffle,
        spaces,
        statistics,
        sweep,
    )
    from ppo_jax.config import Config
    from ppo_jax.recipes import recipe

__version__ = "0.1.0"
__all__ = [
    "Config",
    "env",
    "evaluate",
    "network",
    "normalize",
    "pbt",
    "policy",
    "population",
    "ppo",
    "recipe",
    "returns",
    "shuffle",
    "spaces",
    "statistics",
    "sweep",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that the command line can refuse a bad flag before jax has been imported.
    if name in ("Config", "recipe"):
        import_module("ppo_jax.ppo")  # makes Config a pytree
        return getattr(
            import_module(f"ppo_jax.{'config' if name == 'Config' else 'recipes'}"), name
        )
    if name in __all__:
        return import_module(f"ppo_jax.{name}")
    raise AttributeError(f"module 'ppo_jax' has no attribute {name!r}")
