# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "stable-baselines3==2.9.2",
#     "gymnasium==1.3.0", # the newest that gymnax takes
#     "torch==2.13.0",
#     "gymnax==1.0.1", # Breakout, which gymnasium does not have
#     "six", # gymnax imports it without declaring it
#     "jax==0.10.2",
# ]
# ///
# mypy: disable-error-code="import-not-found"
"""stable-baselines3's PPO, its threads as shipped."""

from typing import Any

import stable_baselines
from tasks import Task

RECIPES = ("standard", "acrobot", "continuous", "minatar")
NOTE = (
    "the same work in gymnasium's environments, Breakout in gymnax's; the value moved at most 0.2"
    " alone gives the value loss, not the larger of both; truncations are bootstrapped"
)


def make(task: Task) -> tuple[Any, str, dict[str, Any]]:
    """Its class, and what only it knows."""
    from stable_baselines3 import PPO

    return PPO, "MlpPolicy", stable_baselines.torch_settings_of(task)


if __name__ == "__main__":
    packages = ("stable-baselines3", "torch", "gymnasium", "gymnax", "jax")
    stable_baselines.main(make, RECIPES, packages, NOTE)
