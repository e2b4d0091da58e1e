"""Draws bsuite's problems: Catch, DeepSea, the chains, SimpleBandit and the MNIST bandit."""

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
from ppo_jax.film.drawers import Drawer, Scene, draw_observation, draw_tiles, mix, named


def draw_catch(canvas: Canvas, scene: Scene) -> None:
    """The ball that falls, and the paddle in the lowest row."""
    rows, columns, state = scene.environment.rows, scene.environment.columns, scene.state
    draw_tiles(canvas, [[FLOOR] * columns] * rows)
    x, y = state.paddle_x, state.paddle_y
    canvas.box((x + 0.06, y + 0.3), (x + 0.94, y + 0.85), BLUE, 0.15)
    canvas.circle((state.ball_x + 0.5, state.ball_y + 0.4), 0.32, ORANGE)


def draw_deep_sea(canvas: Canvas, scene: Scene) -> None:
    """The diver, who sinks a row each step, and the treasure in the lower right corner."""
    size, deep = scene.environment.size, mix(SKY, BLUE, 0.6)
    water = [mix(SKY, deep, row / max(size - 1, 1)) for row in range(size)]
    tiles: list[list[Any]] = [
        [water[row] if column <= row else None for column in range(size)] for row in range(size)
    ]
    draw_tiles(canvas, tiles)
    canvas.box((size - 0.75, size - 0.7), (size - 0.25, size - 0.3), YELLOW, 0.1)
    row, column = (min(int(at), size - 1) for at in (scene.state.row, scene.state.column))
    canvas.circle((column + 0.5, row + 0.5), 0.3, ORANGE)


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
        arc = [
            (0.16 - 0.4 * np.cos(turn), 0.4 * np.sin(turn)) for turn in np.linspace(0, np.pi, 20)
        ]
        canvas.polygon([(x, y * 0.55 - 0.02) for x, y in arc], RED)
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
    draw_arms(canvas, np.ravel(scene.state.rewards), scene.action, "what each arm pays")


def draw_arms(canvas: Canvas, pays: np.ndarray, pulled: Any, title: str) -> None:
    """A column for what each arm pays, the pulled one colored."""
    low, high = min(0.0, float(pays.min())), max(1.0, float(pays.max()))
    canvas.view((-0.25, -0.3), (1.25, 1.25))
    canvas.text((0.5, 1.14), title, 0.09, MUTED, most=1.4)
    wide, zero = 1 / len(pays), -low / (high - low)
    for arm, pay in enumerate(pays.tolist()):
        top = (pay - low) / (high - low)
        left, right = (arm + 0.1) * wide, (arm + 0.9) * wide
        is_pulled = pulled is not None and arm == int(pulled)
        color = ORANGE if is_pulled else SKY
        canvas.box((left, zero), (right, top), color, 0.01)
        canvas.text(((left + right) / 2, top + (0.06 if pay >= 0 else -0.06)), f"{pay:.2g}", 0.075)
        if is_pulled:
            canvas.circle(((left + right) / 2, -0.16), 0.06, ORANGE)
        canvas.text(((left + right) / 2, -0.16), f"{arm}", 0.075, INK if is_pulled else MUTED)
    canvas.line([(0, zero), (1, zero)], MUTED, 0.008)


def draw_mnist(canvas: Canvas, scene: Scene) -> None:
    """The digit, and once it is named, whether rightly."""
    if np.any(scene.observation):
        draw_observation(canvas, scene)
        return
    canvas.view((-1.2, -1.2), (1.2, 1.2))
    canvas.text((0, 0.3), f"{int(scene.state.correct_label)}", 1.0)
    if scene.action is not None:
        _draw_verdict(canvas, f"said {int(scene.action)}", scene.reward, -0.6)


def _draw_time(canvas: Canvas, time: int, steps: int, y: float) -> None:
    """A dot for every step, those that are over filled."""
    apart = min(0.3, 2.2 / max(steps - 1, 1))
    for step in range(steps):
        x = (step - (steps - 1) / 2) * apart
        canvas.circle((x, y), min(0.08, apart * 0.4), BLUE if step < time else LINE)


def _draw_verdict(canvas: Canvas, said: str, reward: float, y: float) -> None:
    canvas.text((0, y), said, 0.2, GREEN if reward > 0 else RED)


def _name_arms(environment: Any, _: Any) -> tuple[str, ...]:
    return tuple(map(str, range(environment.num_actions)))


DRAWERS = {
    "Catch": Drawer(draw_catch, named("left", "stay", "right")),
    "DeepSea": Drawer(draw_deep_sea, named("0", "1")),
    "MemoryChain": Drawer(draw_memory_chain, named("0", "1")),
    "UmbrellaChain": Drawer(draw_umbrella_chain, named("leave it", "take it")),
    "DiscountingChain": Drawer(draw_discounting_chain, _name_arms),
    "SimpleBandit": Drawer(draw_simple_bandit, _name_arms),
    "MNISTBandit": Drawer(draw_mnist, _name_arms),
}
