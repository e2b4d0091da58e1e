"""The shell: everything that touches the screen, the disk, signals and the clock."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppo_jax.export.folder import export
    from ppo_jax.run.interface import train
    from ppo_jax.run.saved import load
    from ppo_jax.run.training import Hook

__all__ = ["Hook", "export", "load", "train"]
_HOMES = {
    "Hook": "ppo_jax.run.training",
    "export": "ppo_jax.export.folder",
    "load": "ppo_jax.run.saved",
    "train": "ppo_jax.run.interface",
}


def __getattr__(name: str) -> Any:
    if name in __all__:  # lazy: they need jax, and a bad flag should be refused before that
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ppo_jax.run' has no attribute {name!r}")
