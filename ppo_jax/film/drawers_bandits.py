"""Draws bandits and bsuite's chains."""

from typing import Any

import numpy as np

from ppo_jax.film.canvas import (
    BLUE,
    FLOOR,
    GREEN,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    Canvas,
)
from ppo_jax.film.drawers import Drawer, Scene, draw_observation


def draw_memory_chain(canvas: Canvas, scene: Scene) -> None:
    """The bits that only the first step shows, and which of them is asked for at the end."""
    state, length = scene.state, int(scene.parameters.memory_length)
    bits, time = np.ravel(state.context).tolist(), int(state.time)
    canvas.view((-1.2, -1.2), (1.2, 1.2))
    canvas.text((0, 0.95), "shown" if time == 0 else "to be remembered", 0.16, MUTED)
    wide = min(0.8, 2.2 / len(bits))
    for index, bit in enumerate(bits):
        middle = (index - (len(bits) - 1) / 2) * wide
        corners = (middle - wide * 0.44, 0.02), (middle + wide * 0.44, 0.78)
        canvas.box(*corners, (BLUE if bit else PURPLE) if time == 0 else FLOOR, 0.08)
        canvas.text((middle, 0.4), str(bit), min(0.5, wide), PAPER if time == 0 else LINE)
        if time >= length - 1 and index == int(state.query) and len(bits) > 1:
            canvas.box(*corners, ORANGE, 0.08, 0.04)
    _draw_time(canvas, time, length + 1, -0.35)
    if time == length:
        canvas.text((0, -0.8), "which one was it?", 0.18, INK)
    if time > length:
        _draw_verdict(canvas, f"said {scene.action}", scene.reward, -0.8)


def draw_umbrella_chain(canvas: Canvas, scene: Scene) -> None:
    """The weather of the last step, known from the start, and whether the umbrella is carried."""
    state, length = scene.state, int(scene.parameters.chain_length)
    time, carried = int(state.time), bool(state.has_umbrella)
    canvas.view((-1.2, -1.2), (1.2, 1.2))
    canvas.text((0, 1.03), "the forecast for the end", 0.15, MUTED)
    if state.need_umbrella:
        for x, size in ((-0.25, 0.17), (0, 0.25), (0.25, 0.18)):
            canvas.circle((x, 0.62), size, MUTED)
        for x in (-0.3, -0.1, 0.1, 0.3):
            canvas.line([(x, 0.36), (x - 0.05, 0.22)], BLUE, 0.04)
    else:
        canvas.circle((0, 0.58), 0.28, YELLOW)
    canvas.circle((0, -0.2), 0.11, INK)
    canvas.line([(0, -0.3), (0, -0.6)], INK, 0.14)
    if carried:
        canvas.line([(0.16, -0.45), (0.16, 0.02)], MUTED, 0.03)
        arc = [(0.4 * np.cos(turn), 0.22 * np.sin(turn)) for turn in np.linspace(0, np.pi, 20)]
        canvas.polygon([(0.16 - x, y - 0.02) for x, y in arc], RED)
    _draw_time(canvas, time, length, -0.8)
    if time >= length:
        right = carried == bool(state.need_umbrella)
        _draw_verdict(canvas, "well equipped" if right else "badly equipped", right - 0.5, -1.03)


def draw_discounting_chain(canvas: Canvas, scene: Scene) -> None:
    """A lane for each first action, with its reward where it falls due."""
    steps, rewards = np.ravel(scene.parameters.reward_timestep), np.ravel(scene.state.rewards)
    time, most = int(scene.state.time), float(max(steps.max(), 1))
    canvas.view((-18, -14), (118, 122))
    high = 100 / len(steps)
    for lane, (due, reward) in enumerate(zip(steps.tolist(), rewards.tolist(), strict=True)):
        y, chosen = 100 - (lane + 0.5) * high, time > 0 and lane == int(scene.state.context)
        canvas.line([(0, y), (100, y)], BLUE if chosen else LINE, 1.5)
        passed = chosen and time >= due
        canvas.circle((100 * due / most, y), 5.5, GREEN if passed else YELLOW)
        canvas.text((100 * due / most, y + 10), f"{reward:g}", 7, INK if chosen else MUTED)
        canvas.text((-9, y), f"{lane}", 9, INK if chosen else MUTED)
        if chosen:
            canvas.circle((100 * min(time / most, 1), y), 3.2, INK)
    canvas.text((50, -6), f"time {time}", 8, MUTED)


def draw_simple_bandit(canvas: Canvas, scene: Scene) -> None:
    """What each arm pays, and the one that was pulled."""
    _draw_arms(canvas, np.ravel(scene.state.rewards), scene.action, "what each arm pays")


def draw_bernoulli_bandit(canvas: Canvas, scene: Scene) -> None:
    """How probably each arm pays, which the agent must find out."""
    _draw_arms(canvas, np.ravel(scene.state.reward_probs), scene.action, _say("how often", scene))


def draw_gaussian_bandit(canvas: Canvas, scene: Scene) -> None:
    """What both arms pay on average: nothing, and what the agent must find out."""
    pays = np.array([0.0, float(scene.state.mu)])
    _draw_arms(canvas, pays, scene.action, _say("how much", scene))


def draw_mnist(canvas: Canvas, scene: Scene) -> None:
    """The digit, and once it is named, whether rightly."""
    if np.any(scene.observation):
        draw_observation(canvas, scene)
        return
    canvas.view((-1.2, -1.2), (1.2, 1.2))
    canvas.text((0, 0.3), f"{int(scene.state.correct_label)}", 1.0)
    if scene.action is not None:
        _draw_verdict(canvas, f"said {int(scene.action)}", scene.reward, -0.6)


def _draw_arms(canvas: Canvas, pays: np.ndarray, pulled: Any, title: str) -> None:
    """A column for what each arm pays, the pulled one colored."""
    low, high = min(0.0, float(pays.min())), max(1.0, float(pays.max()))
    canvas.view((-0.25, -0.3), (1.25, 1.25))
    canvas.text((0.5, 1.14), title, 0.09, MUTED, most=1.4)
    wide, zero = 1 / len(pays), -low / (high - low)
    for arm, pay in enumerate(pays.tolist()):
        top = (pay - low) / (high - low)
        left, right = (arm + 0.1) * wide, (arm + 0.9) * wide
        is_pulled = arm == pulled
        canvas.box((left, zero), (right, top), ORANGE if is_pulled else SKY, 0.01)
        canvas.text(((left + right) / 2, top + (0.06 if pay >= 0 else -0.06)), f"{pay:.2g}", 0.075)
        if is_pulled:
            canvas.circle(((left + right) / 2, -0.16), 0.06, ORANGE)
        canvas.text(((left + right) / 2, -0.16), f"{arm}", 0.075, INK if is_pulled else MUTED)
    canvas.line([(0, zero), (1, zero)], MUTED, 0.008)


def _say(what: str, scene: Scene) -> str:
    paid = "" if scene.action is None else f": it paid {scene.reward:.2g}"
    return f"{what} each arm pays{paid}"


def _draw_time(canvas: Canvas, time: int, steps: int, y: float) -> None:
    """A dot for every step, those that are over filled."""
    apart = min(0.3, 2.2 / max(steps - 1, 1))
    for step in range(steps):
        x = (step - (steps - 1) / 2) * apart
        canvas.circle((x, y), min(0.08, apart * 0.4), BLUE if step < time else LINE)


def _draw_verdict(canvas: Canvas, said: str, reward: float, y: float) -> None:
    canvas.text((0, y), said, 0.2, GREEN if reward > 0 else RED)


DRAWERS = {
    "MemoryChain": Drawer(draw_memory_chain),
    "UmbrellaChain": Drawer(draw_umbrella_chain, ("leave it", "take it")),
    "DiscountingChain": Drawer(draw_discounting_chain),
    "SimpleBandit": Drawer(draw_simple_bandit),
    "BernoulliBandit": Drawer(draw_bernoulli_bandit, ("arm 0", "arm 1")),
    "GaussianBandit": Drawer(draw_gaussian_bandit, ("arm 0", "arm 1")),
    "MNISTBandit": Drawer(draw_mnist),
}
