# /// script
# requires-python = ">=3.11"
# dependencies = ["stable-baselines3==2.9.2", "gymnasium==1.4.0", "torch==2.13.0"]
# ///
# mypy: disable-error-code="import-not-found"
"""stable-baselines3's PPO, its threads as shipped."""

from typing import Any

import stable_baselines

NOTE = (
    "the same work as `standard`; the value moved at most 0.2 alone gives the value loss, not the"
    " larger of both; truncations are bootstrapped"
)


def make() -> tuple[Any, dict[str, Any]]:
    """Its class, and what only it knows."""
    from stable_baselines3 import PPO
    from torch import nn

    networks = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": nn.Tanh}
    return PPO, {"clip_range_vf": 0.2, "policy_kwargs": networks}


if __name__ == "__main__":
    stable_baselines.main(make, ("stable-baselines3", "torch", "gymnasium"), NOTE)
