"""The shell: everything that touches the screen, the disk, signals and the clock."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # lazy: it needs jax, and a bad flag should be refused before that
        from ppo_jax.run.saved import load

        return load
    raise AttributeError(f"module 'ppo_jax.run' has no attribute {name!r}")
