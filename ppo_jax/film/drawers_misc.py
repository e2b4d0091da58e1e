"""Draws gymnax's other environments: mazes, lake, Pong, robots, swimmer and two bandits."""

from itertools import pairwise
from math import cos, sin
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
    PURPLE,
    RED,
    SKY,
    Canvas,
)
from ppo_jax.film.drawers import Drawer, Scene, draw_tiles, mix, named
from ppo_jax.film.drawers_bsuite import draw_arms

_WALL = mix(INK, FLOOR, 0.35)
_SEEN = mix(FLOOR, ORANGE, 0.25)


def draw_maze(canvas: Canvas, scene: Scene) -> None:
    """Walls, the goal and the agent; in MetaMaze also the cells that the agent sees."""
    row, column = (int(at) for at in scene.state.pos)
    sight = getattr(scene.environment, "rf_size", 0) // 2
    tiles = [
        [FLOOR if free else _WALL for free in line] for line in scene.environment.env_map.tolist()
    ]
    if sight:
        for y in range(row - sight, row + sight + 1):
            for x in range(column - sight, column + sight + 1):
                tiles[y][x] = _SEEN if tiles[y][x] in (FLOOR, _SEEN) else tiles[y][x]
    goal_row, goal_column = (int(at) for at in scene.state.goal)
    tiles[goal_row][goal_column] = GREEN
    draw_tiles(canvas, tiles)
    canvas.circle((column + 0.5, row + 0.5), 0.36, BLUE)


def draw_frozen_lake(canvas: Canvas, scene: Scene) -> None:
    """Ice, holes, the goal and the agent."""
    lake = np.asarray(scene.environment.desc)
    hole, goal = 2, 3  # gymnax's numbers of tiles
    draw_tiles(canvas, [[GREEN if tile == goal else SKY for tile in line] for line in lake])
    for row, column in np.argwhere(lake == hole).tolist():
        canvas.circle((column + 0.5, row + 0.5), 0.36, mix(BLUE, INK, 0.5))
    row, column = divmod(int(scene.state.position), lake.shape[1])
    canvas.circle((column + 0.5, row + 0.5), 0.27, RED if lake[row, column] == hole else ORANGE)


def draw_pong(canvas: Canvas, scene: Scene) -> None:
    """Both paddles, the agent's on the left, and the ball with its last place."""
    wide, tall = scene.environment.width, scene.environment.height
    half = scene.environment.paddle_half_height + 0.5
    canvas.view((-1, tall + 1), (wide + 1, -1))
    canvas.box((0, 0), (wide, tall), FLOOR, 0.5)
    canvas.line([(wide / 2, 0), (wide / 2, tall)], LINE, 0.25)
    for x, center, color in zip(
        (0, wide - 1), scene.state.paddle_centers, (BLUE, MUTED), strict=True
    ):
        middle = int(center) + 0.5
        canvas.box((x, middle - half), (x + 1, middle + half), color, 0.3)
    for (y, x), size, color in (
        (scene.state.last_ball_position, 0.5, mix(FLOOR, ORANGE, 0.4)),
        (scene.state.ball_position, 0.7, ORANGE),
    ):
        canvas.circle((np.clip(x, 0, wide - 1) + 0.5, np.clip(y, 0, tall - 1) + 0.5), size, color)


def draw_point_robot(canvas: Canvas, scene: Scene) -> None:
    """The robot, the half circle that goals lie on, and the goal, which it does not see."""
    radius = float(scene.parameters.circle_radius)
    reach = 1.45 * radius
    canvas.view((-reach, -reach), (reach, reach))
    turns = np.linspace(0, np.pi, 60).tolist()
    canvas.line([(radius * cos(turn), radius * sin(turn)) for turn in turns], LINE, 0.025 * radius)
    canvas.circle(scene.state.goal, float(scene.parameters.goal_radius), mix(FLOOR, GREEN, 0.6))
    canvas.circle(np.clip(scene.state.pos, -reach, reach), 0.07 * radius, BLUE)


def draw_reacher(canvas: Canvas, scene: Scene) -> None:
    """The arm, whose links are 1 long and turn by themselves, and the goal of its hand."""
    angles = np.asarray(scene.state.angles, float)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    joints = np.vstack([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    reach = len(angles) + 0.4
    canvas.view((-reach, -reach), (reach, reach))
    canvas.circle((0, 0), len(angles), FLOOR)
    canvas.circle(scene.state.goal_xy, 0.22, mix(FLOOR, GREEN, 0.7))
    for index, (one, other) in enumerate(pairwise(joints)):
        canvas.line([tuple(one), tuple(other)], (BLUE, ORANGE)[index % 2], 0.2)
        canvas.circle(tuple(one), 0.13, INK)
    canvas.circle(tuple(joints[-1]), 0.12, INK)


def draw_swimmer(canvas: Canvas, scene: Scene) -> None:
    """The swimmer and its velocity, the goal, and the urchins around it."""
    reach = 1.35
    canvas.view((-reach, -reach), (reach, reach))
    canvas.box((-1.3, -1.3), (1.3, 1.3), mix(FLOOR, SKY, 0.5), 0.06)
    canvas.circle(scene.state.goal_xy, 0.12, mix(FLOOR, GREEN, 0.8))
    for x, y in np.asarray(scene.state.urchin_xys).tolist():
        for turn in np.linspace(0, np.pi, 5)[:-1].tolist():
            dx, dy = 0.13 * cos(turn), 0.13 * sin(turn)
            canvas.line([(x - dx, y - dy), (x + dx, y + dy)], PURPLE, 0.025)
        canvas.circle((x, y), 0.08, PURPLE)
    at = np.clip(scene.state.xy, -1.25, 1.25)
    ahead = np.clip(at + 0.4 * np.asarray(scene.state.xy_vel), -reach, reach)
    canvas.line([tuple(at), tuple(ahead)], INK, 0.025)
    canvas.circle(at, 0.075, ORANGE)


def draw_bernoulli_bandit(canvas: Canvas, scene: Scene) -> None:
    """How probably each arm pays, which the agent must find out."""
    draw_arms(canvas, np.ravel(scene.state.reward_probs), scene.action, _say("how often", scene))


def draw_gaussian_bandit(canvas: Canvas, scene: Scene) -> None:
    """What both arms pay on average: nothing, and what the agent must find out."""
    pays = np.array([0.0, float(scene.state.mu)])
    draw_arms(canvas, pays, scene.action, _say("how much", scene))


def _say(what: str, scene: Scene) -> str:
    paid = "" if scene.action is None else f": it paid {scene.reward:.2g}"
    return f"{what} each arm pays{paid}"


_COMPASS = named("up", "right", "down", "left")
DRAWERS: dict[str, Any] = {
    "FourRooms": Drawer(draw_maze, _COMPASS),
    "MetaMaze": Drawer(draw_maze, _COMPASS),
    "FrozenLake": Drawer(draw_frozen_lake, named("left", "down", "right", "up")),
    "Pong": Drawer(draw_pong, named("none", "up", "down")),
    "PointRobot": Drawer(draw_point_robot, named("x", "y")),
    "Reacher": Drawer(
        draw_reacher, lambda env, _: tuple(f"joint {k + 1}" for k in range(env.num_joints))
    ),
    "Swimmer": Drawer(draw_swimmer, named("x", "y")),
    "BernoulliBandit": Drawer(draw_bernoulli_bandit, named("arm 0", "arm 1")),
    "GaussianBandit": Drawer(draw_gaussian_bandit, named("arm 0", "arm 1")),
}
