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
from ppo_jax.run.console import Console, number
from ppo_jax.run.saved import Agent

SIDE, PANEL = 240, 192  # pixels of the picture, and of the panel beside it
_MOST_FRAMES = 300
_MOST_BARS, _LEFT, _RIGHT = 11, 64.0, PANEL - 48.0  # of the panel, and the ends of its bars


def film_agent(
    agent: Agent,
    said: str,
    out: Path,
    console: Console,
    *,
    seed: int = 0,
    episodes: int = 1,
    sampled: bool = False,
    fps: float | None = None,
) -> None:
    """Film episodes of one agent; with the same key those of `replay`."""
    stage = recording.set_stage(agent.config)
    stage.say_what_is_drawn(console)
    trace = recording.record(agent.params, agent.config, jax.random.key(seed), episodes, sampled)
    steps = int(trace.valid.sum())
    every = math.ceil(steps / _MOST_FRAMES)
    rate = fps or min(max(steps / every / 8, 4), 25)
    made = list(compose(stage, trace, said, every, rate))
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float)
    shown = f"{f'1 in {every} of ' * (every > 1)}{steps:,} steps shown"
    how = f"{'sampled' if sampled else 'greedy'} episode{'s' * (episodes > 1)}"
    reached = f"mean return {number(float(returns.mean()))}"
    console.say(f"filmed {episodes:,} {how} of {said}, {reached}: {shown}")
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
        self._stage, self._names = stage, recording.action_names(stage)
        self._steps = recording.length(trace, episode)
        own = slice(0, self._steps), episode
        self._value = trace.value[own]
        self._returns = np.concatenate([[0.0], np.cumsum(trace.reward[own], dtype=float)])
        self._action = trace.action[own].reshape(self._steps, -1)
        self._policy = {
            name: numbers[own].reshape(self._steps, -1) for name, numbers in trace.policy.items()
        }
        self._ended = "end" if trace.terminated[self._steps - 1, episode] else "time limit"
        low, high = float(np.min(self._value)), float(np.max(self._value))
        room = max(0.2 * max(-low, high, 0.1) - (high - low), 1e-3)  # noise fills no panel
        self._low, self._high = low - room / 2, high + room / 2

    def draw(self, step: int, said: str) -> Image.Image:
        """The panel before that step; after the last one there is no action to choose."""
        canvas = Canvas(PANEL, SIDE)
        canvas.text((6, 20), self._stage.title, 16, INK, "lm", most=PANEL - 18)
        canvas.text((6, 39), said, 13, MUTED, "lm", most=PANEL - 18)
        canvas.text((6, 62), f"step {step:,}", 14, INK, "lm")
        canvas.text((PANEL - 12, 62), f"return {number(self._returns[step])}", 14, INK, "rm")
        ended = f" ({self._ended})" * (step == self._steps)
        canvas.text((6, 85), f"policy{ended}", 13, MUTED, "lm")
        draw_policy = self._draw_intervals if "mean" in self._policy else self._draw_bars
        draw_policy(canvas, step)
        self._draw_value(canvas, min(step, self._steps - 1))
        return canvas.finish()

    def _rows(self, canvas: Canvas) -> Iterator[tuple[int, float, float, float]]:
        """Draw the first entries' names, each before an empty bar; gives each with its row's
        middle, half of the bar's height, and the size of its words."""
        shown = min(len(self._names), _MOST_BARS)
        tall = min(20.0, 80 / shown)
        for index in range(shown):
            y, half, size = 96 + (index + 0.5) * tall, tall * 0.36, min(13.0, tall)
            canvas.text((6, y), self._names[index], size, INK, "lm", most=_LEFT - 10)
            canvas.box((_LEFT, y - half), (_RIGHT, y + half), FLOOR, 2)
            yield index, y, half, size

    def _draw_bars(self, canvas: Canvas, step: int) -> None:
        """The probability of every action, the chosen one colored: of several entries one each."""
        starts = np.cumsum([0, *getattr(self._stage.action_space, "nvec", ())])  # of entries' bars
        for index, y, half, size in self._rows(canvas):
            if step < self._steps:
                chosen = self._action[step] + starts[: self._action.shape[1]]
                share = float(self._policy["probability"][step, index])
                end = _LEFT + max(share, 0.02) * (_RIGHT - _LEFT)
                color = ORANGE if index in chosen else SKY
                canvas.box((_LEFT, y - half), (end, y + half), color, 2)
                canvas.text((PANEL - 12, y), f"{share:.0%}", size, INK, "rm")

    def _draw_intervals(self, canvas: Canvas, step: int) -> None:
        """Mean and deviation of every entry between its bounds, and the action that was taken."""
        lows, highs = self._bounds()

        def at(values: Any) -> list[float]:
            shares = np.clip((values - lows) / (highs - lows), 0, 1)
            return list((_LEFT + shares * (_RIGHT - _LEFT)).tolist())

        for index, y, half, size in self._rows(canvas):
            zero = at(0)[index]
            canvas.line([(zero, y - half), (zero, y + half)], LINE, 1)
            if step < self._steps:
                own = (self._policy[name][step] for name in ("low", "mean", "high"))
                low, mean, high, taken = (at(one)[index] for one in (*own, self._action[step]))
                canvas.box((low, y - half), (max(high, low + 2), y + half), SKY, 2)
                canvas.line([(mean, y - half), (mean, y + half)], BLUE, 1.5)
                canvas.circle((taken, y), 3.6, ORANGE)
                said = f"{round(float(self._action[step, index]), 2) + 0.0:.2f}"  # no -0
                canvas.text((PANEL - 12, y), said, size, INK, "rm")

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every entry's axis: the action's, or where they are infinite, what was done."""
        space: Any = self._stage.action_space
        most = np.abs(np.concatenate([*self._policy.values(), self._action])).max(axis=0) + 1e-6
        ends = [
            np.broadcast_to(np.asarray(bound, float), space.shape).reshape(-1)
            for bound in (space.low, space.high)
        ]
        finite = np.isfinite(ends[0]) & np.isfinite(ends[1]) & (ends[1] - ends[0] < 1e6)
        return np.where(finite, ends[0], -most), np.where(finite, ends[1], most)

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
