"""Plays episodes, and says of every step what there is to draw."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import env, evaluate, objects, policy, population, spaces
from ppo_jax.config import Config
from ppo_jax.evaluate import Trace
from ppo_jax.film.drawers import Drawer, Scene, draw_observation
from ppo_jax.film.gymnax_drawers import DRAWERS
from ppo_jax.policy import Params
from ppo_jax.run.console import Console

_UNKNOWN = Drawer(draw_observation)  # of an environment without a drawer of its own


class Stage(NamedTuple):
    """An environment as its drawer knows it."""

    title: str
    environment: Any  # gymnax's; none for others
    parameters: Any
    drawer: Drawer
    action_space: Any
    has_parts: bool  # whether observations have the last action or reward beside them

    def scene(self, trace: Trace, episode: int, step: int) -> Scene:
        """What there is to draw before that step of the episode; the trace's arrays are [T,
        episodes, ...]. The state after the T steps of the time limit is none of it: the one before
        stands for it."""
        known = min(step, len(trace.valid) - 1), episode
        observation, state = jax.tree.map(
            lambda leaf: leaf[known], (trace.observation, trace.env_state)
        )
        if self.has_parts:
            observation = observation["observation"]
        before = step - 1, episode
        led = (trace.action[before], float(trace.reward[before])) if step else ()
        return Scene(self.environment, self.parameters, state, observation, *led)

    def say_what_is_drawn(self, console: Console) -> None:
        """Say so where the environment is not known."""
        if self.drawer is _UNKNOWN:
            console.say(f"{self.title} has no drawer, so its observations are drawn")


def set_stage(config: Config) -> Stage:
    """The environment of a configuration, and its drawer."""
    made, found = env.make(config), env.in_gymnax(config)
    environment, parameters = found if found else (None, None)
    return Stage(
        title=objects.name(config.env),
        environment=environment,
        parameters=jax.tree.map(np.asarray, parameters),
        drawer=_find_drawer(found),
        action_space=made.action_space,
        has_parts=config.previous_action or config.previous_reward,
    )


def _find_drawer(found: Any) -> Drawer:
    """The drawer of gymnax's pair of environment and parameters; of another environment that of its
    observations."""
    kinds = type(found[0]).__mro__ if found else ()
    names = (kind.__name__ for kind in kinds if kind.__module__.startswith("gymnax."))
    return next((DRAWERS[name] for name in names if name in DRAWERS), _UNKNOWN)


def play(params: Params, config: Config, key: jax.Array, num_episodes: int, sampled: bool) -> Trace:
    """`evaluate.play`, with what the policy says of continuous actions in their own unit: mean, and
    low and high a deviation from it."""
    trace = evaluate.play(params, config, key, num_episodes, sampled)
    if _find_drawer(env.in_gymnax(config)) is _UNKNOWN:
        trace = trace._replace(env_state=())  # nobody draws it, and it may hold keys, or be large
    if "mean" in trace.policy:
        mean, deviation = trace.policy["mean"], trace.policy["deviation"]
        limit = policy.make(config).env_action
        ends = {"mean": mean, "low": mean - deviation, "high": mean + deviation}
        trace = trace._replace(policy={name: limit(action) for name, action in ends.items()})
    return trace


def record(
    params: Params, config: Config, key: jax.Array, num_episodes: int, sampled: bool
) -> Trace:
    """Episodes of one agent, [T, num_episodes, ...], as NumPy arrays."""
    compiled = jax.jit(play, static_argnums=(3, 4), compiler_options=population.COMPILER_OPTIONS)
    return jax.tree.map(np.asarray, compiled(params, config, key, num_episodes, sampled))


def length(trace: Trace, episode: int) -> int:
    """Steps of an episode."""
    return int(trace.valid[:, episode].sum())


def moments(trace: Trace, episode: int, every: int) -> list[int]:
    """The steps before which to draw an episode: every so many, and the moment after the last."""
    steps = length(trace, episode)
    return [*range(0, steps, every), steps]


def action_names(stage: Stage) -> list[str]:
    """A name for each action, or for each entry of continuous ones; numbers where none is known."""
    space = stage.action_space
    match space:
        case spaces.Discrete(n):
            numbers = [str(action) for action in range(n)]
        case spaces.MultiDiscrete(nvec):
            numbers = [f"{entry}: {one}" for entry, n in enumerate(nvec) for one in range(n)]
        case _:
            numbers = [str(entry) for entry in range(space.size)]
    named = stage.drawer.actions
    names = list(named(stage.environment) if callable(named) else named)
    return names if len(names) == len(numbers) else numbers
