"""Films one agent: the picture of every step, and beside it policy, value and return."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from ppo_jax.evaluate import Trace
from ppo_jax.film import recording, writing
from ppo_jax.film.canvas import BLUE, FLOOR, GREEN, INK, LINE, MUTED, ORANGE, SKY, Canvas
from ppo_jax.film.recording import Stage
from ppo_jax.film.writing import Frame
from ppo_jax.run.console import Console, count, number
from ppo_jax.run.saved import Agent

SIDE, PANEL = 240, 192  # pixels of the picture, and of the panel beside it
_MOST_FRAMES = 300
_MOST_BARS, _LEFT, _RIGHT = 11, 64.0, PANEL - 48.0  # of the panel, and the ends of its bars


def film_agent(
    agent: Agent,
    which: int,
    out: Path,
    console: Console,
    *,
    seed: int = 0,
    episodes: int = 1,
    sampled: bool = False,
    fps: float | None = None,
) -> None:
    """Film episodes of the agent of that number; with the same key those of `replay`."""
    said, stage = f"agent {which}", recording.set_stage(agent.config)
    stage.say_what_is_drawn(console)
    trace = recording.record(agent.params, agent.config, jax.random.key(seed), episodes, sampled)
    steps = int(trace.valid.sum())
    every = math.ceil(steps / _MOST_FRAMES)
    rate = fps or min(max(steps / every / 8, 4), 25)
    made = list(compose(stage, trace, said, every, rate))
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float)
    shown = f"{f'1 in {every} of ' * (every > 1)}{steps:,} steps shown"
    played = count(episodes, f"{'sampled' if sampled else 'greedy'} episode")
    reached = f"mean return {number(float(returns.mean()))}"
    console.say(f"filmed {played} of {said}, {reached}: {shown}")
    writing.write(out, made, console)


def compose(stage: Stage, trace: Trace, said: str, every: int, fps: float) -> Iterator[Frame]:
    """Every frame of the episodes.

    Args:
        trace: NumPy arrays [T, episodes, ...].
        said: whose episodes they are.
        every: steps from one frame to the next.
    """
    episodes = trace.valid.shape[1]
    for episode in range(episodes):
        panel = _Panel(stage, trace, episode)
        which = f"{said}, episode {episode + 1} of {episodes}" if episodes > 1 else said
        steps = recording.moments(trace, episode, every)
        for step in steps:
            frame, canvas = Image.new("RGB", (SIDE + PANEL, SIDE)), Canvas(SIDE, SIDE)
            stage.drawer.draw(canvas, stage.scene(trace, episode, step))
            frame.paste(canvas.finish(), (0, 0))
            frame.paste(panel.draw(step, which), (SIDE, 0))
            yield frame, (1.5 if step == steps[-1] else 1 / fps)


class _Panel:
    """What stands beside the picture in every step of an episode."""

    def __init__(self, stage: Stage, trace: Trace, episode: int):
        self._title, self._names = stage.title, recording.action_names(stage)[:_MOST_BARS]
        self._steps = recording.length(trace, episode)
        own = slice(0, self._steps), episode
        self._value = trace.value[own]
        self._returns = np.concatenate([[0.0], np.cumsum(trace.reward[own], dtype=float)])
        said = {"action": trace.action, **trace.policy}
        policy = {name: one[own].reshape(self._steps, -1) for name, one in said.items()}
        self._set_bars(policy, stage.action_space)
        self._ended = "end" if trace.terminated[self._steps - 1, episode] else "time limit"
        low, high = float(np.min(self._value)), float(np.max(self._value))
        room = max(0.2 * max(-low, high, 0.1) - (high - low), 1e-3)  # noise fills no panel
        self._low, self._high = low - room / 2, high + room / 2

    def _set_bars(self, policy: dict[str, Any], space: Any) -> None:
        """What is drawn of the policy in every step, [steps, bars]: the probability of every
        action, the chosen one colored, of several entries one each; or of every continuous entry
        mean and deviation between its bounds, and the action that was taken."""
        action = policy["action"]
        if "mean" in policy:
            low, mean, high = (policy[name] for name in ("low", "mean", "high"))
            least, most = _bounds(space, np.concatenate([low, mean, high, action]))
            marked, colored = [0 * action, mean, action], action[:, :0]
            self._number, self._form = action, "z.2f"  # no -0
        else:
            share = policy["probability"].astype(float)
            low, high, least, most = 0 * share, np.maximum(share, 0.02), np.zeros(1), np.ones(1)
            starts = np.cumsum([0, *getattr(space, "nvec", ())])  # of entries' bars
            marked, colored = [], action + starts[: action.shape[1]]
            self._number, self._form = share, ".0%"

        def at(values: Any) -> Any:
            return _LEFT + np.clip((values - least) / (most - least), 0, 1) * (_RIGHT - _LEFT)

        self._start, self._end = at(low), np.maximum(at(high), at(low) + 2)
        self._colored, self._marks = colored, [at(one) for one in marked]

    def draw(self, step: int, said: str) -> Image.Image:
        """The panel before that step; after the last one there is no action to choose."""
        canvas = Canvas(PANEL, SIDE)
        canvas.text((6, 20), self._title, 16, INK, "lm", most=PANEL - 18)
        canvas.text((6, 39), said, 13, MUTED, "lm", most=PANEL - 18)
        canvas.text((6, 62), f"step {step:,}", 14, INK, "lm")
        canvas.text((PANEL - 12, 62), f"return {number(self._returns[step])}", 14, INK, "rm")
        ended = f" ({self._ended})" * (step == self._steps)
        canvas.text((6, 85), f"policy{ended}", 13, MUTED, "lm")
        self._draw_policy(canvas, step)
        self._draw_value(canvas, min(step, self._steps - 1))
        return canvas.finish()

    def _draw_policy(self, canvas: Canvas, step: int) -> None:
        """The first bars, each in a row with its name and, before the end, its number."""
        tall = min(20.0, 80 / len(self._names))
        size, ended = min(13.0, tall), step == self._steps
        for index, name in enumerate(self._names):
            y, at = 96 + (index + 0.5) * tall, (step - ended, index)
            top, bottom, marks = y - tall * 0.36, y + tall * 0.36, [one[at] for one in self._marks]
            canvas.text((6, y), name, size, INK, "lm", most=_LEFT - 10)
            canvas.box((_LEFT, top), (_RIGHT, bottom), FLOOR, 2)
            if marks:
                canvas.line([(marks[0], top), (marks[0], bottom)], LINE, 1)
            if ended:
                continue
            color = ORANGE if index in self._colored[step] else SKY
            canvas.box((self._start[at], top), (self._end[at], bottom), color, 2)
            if marks:
                canvas.line([(marks[1], top), (marks[1], bottom)], BLUE, 1.5)
                canvas.circle((marks[2], y), 3.6, ORANGE)
            canvas.text((PANEL - 12, y), f"{self._number[at]:{self._form}}", size, INK, "rm")

    def _draw_value(self, canvas: Canvas, step: int) -> None:
        """The critic's value up to now."""
        canvas.text((6, 189), "value", 13, MUTED, "lm")
        canvas.text((PANEL - 12, 189), number(float(self._value[step])), 13, INK, "rm")
        left, right, top, bottom = 6.0, PANEL - 12.0, 199.0, SIDE - 10.0
        canvas.box((left, top - 2), (right, bottom + 2), FLOOR, 2)
        xs = np.linspace(left + 3, right - 3, max(self._steps, 2))[: step + 1]
        shares = (self._value[: step + 1] - self._low) / (self._high - self._low)
        points = list(zip(xs.tolist(), (bottom - shares * (bottom - top)).tolist(), strict=True))
        if len(points) > 1:
            canvas.line(points, GREEN, 1.3)
        canvas.circle(points[-1], 3, GREEN)


def _bounds(space: Any, done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every entry's axis: the action's, or where they are infinite, what was done, [N, bars]."""
    most = np.abs(done).max(axis=0) + 1e-6
    low, high = (
        np.broadcast_to(np.asarray(bound, float), space.shape).reshape(-1)
        for bound in (space.low, space.high)
    )
    finite = np.isfinite(low) & np.isfinite(high) & (high - low < 1e6)
    return np.where(finite, low, -most), np.where(finite, high, most)
