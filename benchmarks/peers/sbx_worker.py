# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "sbx-rl==0.28.0",
#     "stable-baselines3==2.9.2",
#     "gymnasium==1.4.0",
#     "torch==2.13.0",
#     "jax==0.10.2",
# ]
# ///
# mypy: disable-error-code="import-not-found"
"""SBX's PPO: stable-baselines3 with its update in JAX."""

from typing import Any

import stable_baselines
from tasks import Task

NOTE = (
    "value loss not clipped; actor and critic clipped by norm apart, each with its own Adam;"
    " truncations are bootstrapped; compile_seconds is its first update; every new"
    " agent compiles again, within a turn"
)


def make(task: Task) -> tuple[Any, str, dict[str, Any]]:
    """Its class, and what only it knows."""
    from sbx import PPO

    layers = list(task.hidden_sizes)
    networks = {"net_arch": {"pi": layers, "vf": layers}, "ortho_init": True}
    return PPO, "MlpPolicy", {"policy_kwargs": networks}


if __name__ == "__main__":
    packages = ("sbx-rl", "jax", "stable-baselines3", "gymnasium")
    stable_baselines.main(make, ("standard",), packages, NOTE)
