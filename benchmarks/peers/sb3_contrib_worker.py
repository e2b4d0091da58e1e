# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "sb3-contrib==2.9.2",
#     "stable-baselines3==2.9.2",
#     "gymnasium==1.3.0", # as stable_baselines3_worker.py
#     "torch==2.13.0",
# ]
# ///
# mypy: disable-error-code="import-not-found"
"""sb3-contrib's RecurrentPPO, its threads as shipped."""

from typing import Any

import stable_baselines
from tasks import Task

RECIPES = ("recurrent",)
NOTE = (
    "an LSTM of 64 instead of a GRU, and the layer of 64 after it; minibatches of 128 steps in a"
    " row, whose first memory is the rollout's; the value moved at most 0.2 alone gives the value"
    " loss, not the larger of both; truncations are bootstrapped; gymnasium's CartPole"
)


def make(task: Task) -> tuple[Any, str, dict[str, Any]]:
    """Its class, and what only it knows."""
    from sb3_contrib import RecurrentPPO

    settings = stable_baselines.torch_settings_of(task)
    settings["policy_kwargs"] |= {"lstm_hidden_size": 64, "enable_critic_lstm": True}
    return RecurrentPPO, "MlpLstmPolicy", settings


if __name__ == "__main__":
    packages = ("sb3-contrib", "stable-baselines3", "torch", "gymnasium")
    stable_baselines.main(make, RECIPES, packages, NOTE)
