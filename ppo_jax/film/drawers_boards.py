"""Draws boards of tiles: MinAtar's games, the mazes, FrozenLake, Catch and DeepSea."""

from functools import partial
from typing import Any

import numpy as np

from ppo_jax.film.canvas import (
    BLUE,
    FLOOR,
    GREEN,
    INK,
    LINE,
    ORANGE,
    PAPER,
    PINK,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    Canvas,
)
from ppo_jax.film.drawers import Drawer, Scene, mix

_WALL = mix(INK, FLOOR, 0.35)
_SEEN = mix(FLOOR, ORANGE, 0.25)
_BUTTONS = ("none", "left", "up", "right", "down", "fire")
_TRAILS = [mix(FLOOR, RED, share) for share in (0.15, 0.25, 0.35, 0.45, 0.55)]  # faster: darker

# Colors of each game's channels, by class; where several share a cell the later key is seen.
MINATAR = {
    "MinAsterix": {2: LINE, 3: YELLOW, 1: RED, 0: BLUE},
    "MinBreakout": {3: GREEN, 2: PINK, 1: ORANGE, 0: BLUE},
    "MinFreeway": {**{6 - slow: _TRAILS[slow] for slow in range(5)}, 1: RED, 0: BLUE},
    "MinSeaquest": {
        **{7: SKY, 8: GREEN, 3: LINE, 9: GREEN, 5: ORANGE, 6: RED},
        **{4: INK, 2: PURPLE, 1: SKY, 0: BLUE},
    },
    "MinSpaceInvaders": {1: GREEN, 2: GREEN, 3: GREEN, 5: RED, 4: ORANGE, 0: BLUE},
}


def draw_minatar(colors: dict[int, str], canvas: Canvas, scene: Scene) -> None:
    """The board of 10 × 10 cells, from the channels of the observation."""
    observation = np.asarray(scene.observation)
    tiles = np.full(observation.shape[:2], FLOOR)
    for channel, color in colors.items():
        tiles[observation[..., channel] != 0] = color
    _draw_tiles(canvas, tiles)


def draw_maze(canvas: Canvas, scene: Scene) -> None:
    """Walls, the goal and the agent; in MetaMaze also the cells that the agent sees."""
    row, column = (int(at) for at in scene.state.pos)
    sight = getattr(scene.environment, "rf_size", 0) // 2
    tiles = np.where(scene.environment.env_map, FLOOR, _WALL)
    if sight:
        seen = tiles[row - sight : row + sight + 1, column - sight : column + sight + 1]
        seen[seen == FLOOR] = _SEEN
    tiles[tuple(scene.state.goal)] = GREEN
    _draw_tiles(canvas, tiles)
    canvas.circle((column + 0.5, row + 0.5), 0.36, BLUE)


def draw_frozen_lake(canvas: Canvas, scene: Scene) -> None:
    """Ice, holes, the goal and the agent."""
    lake = np.asarray(scene.environment.desc)
    hole, goal = 2, 3  # gymnax's numbers of tiles
    _draw_tiles(canvas, np.where(lake == goal, GREEN, SKY))
    for row, column in np.argwhere(lake == hole).tolist():
        canvas.circle((column + 0.5, row + 0.5), 0.36, mix(BLUE, INK, 0.5))
    row, column = divmod(int(scene.state.position), lake.shape[1])
    canvas.circle((column + 0.5, row + 0.5), 0.27, RED if lake[row, column] == hole else ORANGE)


def draw_catch(canvas: Canvas, scene: Scene) -> None:
    """The ball that falls, and the paddle in the lowest row."""
    rows, columns, state = scene.environment.rows, scene.environment.columns, scene.state
    _draw_tiles(canvas, np.full((rows, columns), FLOOR))
    x, y = state.paddle_x, state.paddle_y
    canvas.box((x + 0.06, y + 0.3), (x + 0.94, y + 0.85), BLUE, 0.15)
    canvas.circle((state.ball_x + 0.5, state.ball_y + 0.4), 0.32, ORANGE)


def draw_deep_sea(canvas: Canvas, scene: Scene) -> None:
    """The diver, who sinks a row each step, and the treasure in the lower right corner."""
    size, deep = scene.environment.size, mix(SKY, BLUE, 0.6)
    water = [mix(SKY, deep, row / max(size - 1, 1)) for row in range(size)]
    _draw_tiles(canvas, np.where(np.tri(size, dtype=bool), np.array(water)[:, None], PAPER))
    canvas.box((size - 0.75, size - 0.7), (size - 0.25, size - 0.3), YELLOW, 0.1)
    row, column = (min(int(at), size - 1) for at in (scene.state.row, scene.state.column))
    canvas.circle((column + 0.5, row + 0.5), 0.3, ORANGE)


def _draw_tiles(canvas: Canvas, colors: np.ndarray) -> None:
    """A board of square tiles, in whose units all else is drawn: (column, row), row downward."""
    rows, columns = colors.shape
    canvas.view((-0.3, rows + 0.3), (columns + 0.3, -0.3))
    for (row, column), color in np.ndenumerate(colors):
        canvas.box((column + 0.04, row + 0.04), (column + 0.96, row + 0.96), color, 0.1)


def _name_actions(environment: Any) -> list[str]:
    return [_BUTTONS[button] for button in environment.action_set.tolist()]


_COMPASS = "up", "right", "down", "left"
DRAWERS = {
    **{
        game: Drawer(partial(draw_minatar, colors), _name_actions)
        for game, colors in MINATAR.items()
    },
    "FourRooms": Drawer(draw_maze, _COMPASS),
    "MetaMaze": Drawer(draw_maze, _COMPASS),
    "FrozenLake": Drawer(draw_frozen_lake, ("left", "down", "right", "up")),
    "Catch": Drawer(draw_catch, ("left", "stay", "right")),
    "DeepSea": Drawer(draw_deep_sea),
}
