# mypy: disable-error-code="import-not-found"
"""What stable-baselines3 and its relatives share: one agent that trains on from turn to turn."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from protocol import (
    OptionError,
    Options,
    Peer,
    learning_curve,
    require,
    serve,
    timed,
    updates_of_turn,
    versions,
)
from tasks import TASKS, Task

Make = Callable[[Task], tuple[Any, str, dict[str, Any]]]


def settings_of(task: Task) -> dict[str, Any]:
    """A task's settings by the names that all of them know."""
    return {
        "n_steps": task.num_steps,
        "batch_size": task.minibatch_size,
        "n_epochs": task.num_epochs,
        "gamma": task.discount,
        "gae_lambda": task.gae_lambda,
        "clip_range": 0.2,
        "ent_coef": task.entropy_coefficient,
        # Its value loss has no factor ½.
        "vf_coef": 0.25,
        "max_grad_norm": 0.5,
        "device": "cpu",
    }


def torch_settings_of(task: Task) -> dict[str, Any]:
    """What those on PyTorch know beside."""
    from torch import nn

    layers = list(task.hidden_sizes)
    networks: dict[str, Any] = {
        "net_arch": {"pi": layers, "vf": layers},
        "activation_fn": {"tanh": nn.Tanh, "relu": nn.ReLU}[task.activation],
    }
    return {"clip_range_vf": 0.2 if task.clip_value else None, "policy_kwargs": networks}


def environments(task: Task, seed: int) -> Any:
    """A task's environments: gymnasium's, or gymnax's where it has none."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    if task.env.endswith("-MinAtar"):
        from gymnax_envs import GymnaxEnvs

        return VecMonitor(GymnaxEnvs(task.env, task.num_envs))
    if task.env == "CartPoleNoVelocity-v1":
        return make_vec_env("CartPole-v1", task.num_envs, seed, wrapper_class=without_velocities)
    envs = make_vec_env(task.env, task.num_envs, seed)
    return VecNormalize(envs, gamma=task.discount) if task.normalize else envs


def without_velocities(env: Any) -> Any:
    """CartPole of which only position and angle are seen."""
    from gymnasium import spaces, wrappers

    full = env.observation_space
    seen = spaces.Box(full.low[::2], full.high[::2], dtype=full.dtype)
    return wrappers.TransformObservation(env, lambda observation: observation[::2], seen)


class Trainings:
    """Training after training of a task, each of a new seed, in pieces."""

    def __init__(self, task: Task, make: Make, seed: int):
        self.task = task
        self.algorithm, self.policy, self.settings = make(task)
        self.seeds = count(seed)
        self.left = 0

    def begin(self) -> None:
        """A fresh agent."""
        seed = next(self.seeds)
        self.left = self.task.updates
        self.sums, self.episodes = [0.0] * self.left, [0] * self.left
        self.model = self.algorithm(
            self.policy,
            environments(self.task, seed),
            learning_rate=self.rate,
            seed=seed,
            **settings_of(self.task) | self.settings,
        )

    def rate(self, _: float) -> float:
        """The annealed learning rate, asked for after a rollout: `learn` knows only its piece."""
        updates = self.task.updates
        return self.task.learning_rate * min(self.left + 1, updates) / updates

    def go_on(self, updates: int) -> dict[str, Any]:
        """That many more updates; what a training says of returns that ended in them."""
        learning = {}
        while updates:
            if not self.left:
                self.begin()
            piece = min(updates, self.left)
            self.learn(piece)
            updates -= piece
            if not self.left:
                learning = self.learning()
        return learning

    def learn(self, updates: int) -> None:
        """One piece of a training."""
        callback = _callback(self.count_episodes, self.count_update)
        steps = updates * self.task.steps_of_update
        self.model.learn(steps, callback=callback, reset_num_timesteps=False)

    def count_episodes(self, infos: Sequence[dict[str, Any]]) -> None:
        """The episodes that ended in a step; their monitor is below what scales rewards."""
        update = self.task.updates - self.left
        for info in infos:
            if "episode" in info:
                self.sums[update] += float(info["episode"]["r"])
                self.episodes[update] += 1

    def count_update(self) -> None:
        """One more update has collected its rollout."""
        self.left -= 1

    def learning(self) -> dict[str, Any]:
        """What the episodes of a whole training say."""
        last = sum(self.episodes[-10:])
        final = {"final_return": sum(self.sums[-10:]) / last} if last else {}
        return {"curves": [learning_curve(self.sums, self.episodes)], **final}


def _callback(step: Any, rollout_end: Any) -> Any:
    """A callback that calls a function of every step's infos, another after every rollout."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Callback(BaseCallback):
        def _on_rollout_end(self) -> None:
            rollout_end()

        def _on_step(self) -> bool:
            step(self.locals["infos"])
            return True

    return Callback()


def main(make: Make, recipes: Sequence[str], packages: tuple[str, ...], note: str) -> None:
    """Serve an algorithm: `make(task)` gives its class, its policy and what only it knows."""

    def start(options: Options) -> Peer:
        if options.recipe.startswith("recurrent") and "recurrent" not in recipes:
            raise OptionError(f"recipe {options.recipe!r}: no memory; sb3_contrib has one")
        require(options, recipes, most_agents=1)
        task = TASKS[options.recipe]
        trainings = Trainings(task, make, options.seed)
        _, warm_up = timed(trainings.go_on, 1)
        updates = updates_of_turn(options, lambda trial: timed(trainings.go_on, trial)[1])
        if updates == task.updates:
            trainings.left = 0  # every turn is a training of its own

        def turn() -> dict[str, Any]:
            learning, seconds = timed(trainings.go_on, updates)
            steps = updates * task.steps_of_update
            return {"env_steps": steps, "seconds": seconds, "updates": updates, **learning}

        compiles = "sbx-rl" in packages
        return Peer(turn, warm_up if compiles else None, versions(*packages), note)

    serve(start)
