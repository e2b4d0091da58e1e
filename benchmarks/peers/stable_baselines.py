# mypy: disable-error-code="import-not-found"
"""What stable-baselines3 and SBX share: one agent that trains on from turn to turn."""

from itertools import count
from statistics import fmean
from typing import Any

from protocol import (
    FULL_UPDATES,
    STEPS_OF_UPDATE,
    Options,
    Peer,
    require,
    serve,
    timed,
    updates_of_turn,
    versions,
)

SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 128,
    "n_epochs": 4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.01,
    # Its value loss has no factor ½.
    "vf_coef": 0.25,
    "max_grad_norm": 0.5,
    "device": "cpu",
}


class Trainings:
    """Training after training of 500,000 steps, each of a new seed, in pieces."""

    def __init__(self, algorithm: Any, settings: dict[str, Any]):
        self.algorithm, self.settings = algorithm, settings
        self.seeds = count(1)
        self.begin()

    def begin(self) -> None:
        """A fresh agent."""
        from stable_baselines3.common.env_util import make_vec_env

        seed = next(self.seeds)
        envs = make_vec_env("CartPole-v1", n_envs=4, seed=seed)
        self.left = FULL_UPDATES
        self.model = self.algorithm(
            "MlpPolicy", envs, learning_rate=self.rate, seed=seed, **self.settings
        )

    def rate(self, _: float) -> float:
        """The annealed learning rate, asked for after a rollout: `learn` knows only its piece."""
        return 2.5e-4 * min(self.left + 1, FULL_UPDATES) / FULL_UPDATES

    def go_on(self, updates: int) -> float | None:
        """That many more updates; the last 100 episodes' mean return if a training ended."""
        final = None
        while updates:
            piece = min(updates, self.left)
            self.learn(piece)
            updates -= piece
            if not self.left:
                final = fmean(episode["r"] for episode in self.model.ep_info_buffer)
                self.begin()
        return final

    def learn(self, updates: int) -> None:
        """One piece of a training."""
        callback = _each_rollout(self.count_update)
        steps = updates * STEPS_OF_UPDATE
        self.model.learn(steps, callback=callback, reset_num_timesteps=False)

    def count_update(self) -> None:
        """One more update has collected its rollout."""
        self.left -= 1


def _each_rollout(function: Any) -> Any:
    """A callback that calls the function whenever a rollout has ended."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Callback(BaseCallback):
        def _on_rollout_end(self) -> None:
            function()

        def _on_step(self) -> bool:
            return True

    return Callback()


def main(make: Any, packages: tuple[str, ...], note: str) -> None:
    """Serve an algorithm: `make()` gives its class and its settings."""

    def start(options: Options) -> Peer:
        require(options, most_agents=1)
        algorithm, settings = make()
        trainings = Trainings(algorithm, SETTINGS | settings)
        _, warm_up = timed(trainings.go_on, 1)
        updates = updates_of_turn(options, lambda trial: timed(trainings.go_on, trial)[1])

        def turn() -> dict[str, Any]:
            final, seconds = timed(trainings.go_on, updates)
            result = {
                "env_steps": updates * STEPS_OF_UPDATE,
                "seconds": seconds,
                "updates": updates,
            }
            return result if final is None else result | {"final_return": final}

        compiles = "jax" in packages
        return Peer(turn, warm_up if compiles else None, versions(*packages), note)

    serve(start)
