"""Draws the five games of MinAtar from their observations: a color for each channel."""

from typing import Any

import numpy as np

from ppo_jax.film.canvas import (
    BLUE,
    FLOOR,
    GREEN,
    INK,
    LINE,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    Canvas,
)
from ppo_jax.film.drawers import Drawer, Scene, draw_tiles, mix

_BUTTONS = ("none", "left", "up", "right", "down", "fire")
_TRAILS = [mix(FLOOR, RED, share) for share in (0.15, 0.25, 0.35, 0.45, 0.55)]  # faster: darker

# Colors of each game's channels, by class; where several share a cell the later key is seen.
COLORS = {
    "MinAsterix": {2: LINE, 3: YELLOW, 1: RED, 0: BLUE},
    "MinBreakout": {3: GREEN, 2: PINK, 1: ORANGE, 0: BLUE},
    "MinFreeway": {**{6 - slow: _TRAILS[slow] for slow in range(5)}, 1: RED, 0: BLUE},
    "MinSeaquest": {
        **{7: SKY, 8: GREEN, 3: LINE, 9: GREEN, 5: ORANGE, 6: RED},
        **{4: INK, 2: PURPLE, 1: SKY, 0: BLUE},
    },
    "MinSpaceInvaders": {1: GREEN, 2: GREEN, 3: GREEN, 5: RED, 4: ORANGE, 0: BLUE},
}


def draw_minatar(canvas: Canvas, scene: Scene) -> None:
    """The board of 10 × 10 cells."""
    kinds = [kind.__name__ for kind in type(scene.environment).__mro__]
    colors = next(COLORS[kind] for kind in kinds if kind in COLORS)
    observation = np.asarray(scene.observation)
    tiles: list[list[Any]] = [[FLOOR] * observation.shape[1] for _ in observation]
    for channel, color in colors.items():
        for row, column in np.argwhere(observation[..., channel]).tolist():
            tiles[row][column] = color
    draw_tiles(canvas, tiles)


def _name_actions(environment: Any, _: Any) -> tuple[str, ...]:
    return tuple(_BUTTONS[button] for button in environment.action_set.tolist())


DRAWERS = {game: Drawer(draw_minatar, _name_actions) for game in COLORS}
