"""Draws gymnax's environments from their states."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import copysign, cos, pi, sin
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
    PINK,
    PURPLE,
    RED,
    SAND,
    SKY,
    YELLOW,
    Canvas,
    Point,
)
from ppo_jax.film.drawers import Drawer, Scene, draw_observation, mix

_CAR = (-0.1, 0.035), (-0.1, 0.085), (-0.05, 0.13), (0.05, 0.13), (0.1, 0.085), (0.1, 0.035)
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


# What moves in continuous space: classic control, robots, the swimmer and Pong --------------------


def draw_cart_pole(canvas: Canvas, scene: Scene) -> None:
    """The cart on its track, between the ends that end the episode, and the pole."""
    x, angle, end = float(scene.state.x), float(scene.state.theta), scene.parameters.x_threshold
    canvas.view((-end - 0.4, -0.6), (end + 0.4, 2.4))
    canvas.line([(-end, 0), (end, 0)], LINE, 0.05)
    for side in (-end, end):
        canvas.line([(side, -0.15), (side, 0.15)], RED, 0.06)
    for wheel in (-0.32, 0.32):
        canvas.circle((x + wheel, 0.13), 0.14, MUTED)
    canvas.box((x - 0.55, 0.16), (x + 0.55, 0.66), INK, 0.1)
    length = 3 * scene.parameters.length  # longer than it is, to be seen
    tip = x + length * sin(angle), 0.56 + length * cos(angle)
    fallen = abs(angle) > scene.parameters.theta_threshold_radians
    canvas.line([(x, 0.56), tip], RED if fallen else ORANGE, 0.18)
    canvas.circle((x, 0.56), 0.08, FLOOR)


def draw_acrobot(canvas: Canvas, scene: Scene) -> None:
    """Two links that hang from a pivot, and the line that the tip must pass."""
    lengths = scene.parameters.link_length_1, scene.parameters.link_length_2
    first, second = float(scene.state.joint_angle1), float(scene.state.joint_angle2)
    elbow = lengths[0] * sin(first), -lengths[0] * cos(first)
    tip = elbow[0] + lengths[1] * sin(first + second), elbow[1] - lengths[1] * cos(first + second)
    reach = sum(lengths) + 0.25
    canvas.view((-reach, -reach), (reach, reach))
    canvas.line([(-reach, 1), (reach, 1)], GREEN, 0.035)
    canvas.line([(0, 0), elbow], BLUE, 0.2)
    canvas.line([elbow, tip], ORANGE, 0.2)
    for joint in ((0, 0), elbow):
        canvas.circle(joint, 0.13, INK)
    canvas.circle(tip, 0.08, GREEN if tip[1] > 1 else INK)


def draw_mountain_car(canvas: Canvas, scene: Scene) -> None:
    """The car in its valley, and the flag at the goal."""

    def height(x: float) -> float:
        return 0.45 * sin(3 * x) + 0.55

    low, high = scene.parameters.min_position, scene.parameters.max_position
    canvas.view((low - 0.05, -0.25), (high + 0.05, 1.35))
    ground = [(x, height(x)) for x in np.linspace(low - 0.1, high + 0.1, 60).tolist()]
    canvas.polygon([(low - 0.1, -1), *ground, (high + 0.1, -1)], SAND)
    canvas.line(ground, MUTED, 0.015)
    goal = float(scene.parameters.goal_position)
    top = height(goal) + 0.25
    canvas.line([(goal, height(goal)), (goal, top)], INK, 0.015)
    canvas.polygon([(goal, top), (goal - 0.14, top - 0.05), (goal, top - 0.1)], GREEN)
    x = float(scene.state.position)
    slope = np.arctan(1.35 * cos(3 * x))
    along, up = np.array([cos(slope), sin(slope)]), np.array([-sin(slope), cos(slope)])
    road = np.array([x, height(x)])
    canvas.polygon([tuple(road + a * along + b * up) for a, b in _CAR], BLUE)
    for wheel in (-0.055, 0.055):
        canvas.circle(tuple(road + wheel * along + 0.035 * up), 0.032, INK)


def draw_pendulum(canvas: Canvas, scene: Scene) -> None:
    """The rod, and the torque of the last step as an arc around the pivot."""
    angle, torque = float(scene.state.theta), float(np.ravel(scene.state.last_u)[0])
    length, most = scene.parameters.l, float(scene.parameters.max_torque)
    reach = 1.3 * length
    canvas.view((-reach, -reach), (reach, reach))
    canvas.circle((0, 0), 1.06 * length, FLOOR)

    def at(radius: float, turn: float) -> Point:
        return -radius * length * sin(turn), radius * length * cos(turn)

    canvas.line([(0, 0), at(1, angle)], BLUE, 0.17 * length)
    share = torque / most
    if abs(share) > 0.1:
        turns = np.linspace(0, share * 0.7 * pi, 20).tolist()
        canvas.line([at(0.5, turn) for turn in turns], ORANGE, 0.05 * length)
        point = at(0.5, turns[-1] + copysign(0.35, share))
        canvas.polygon([point, at(0.4, turns[-1]), at(0.6, turns[-1])], ORANGE)
    canvas.circle((0, 0), 0.06 * length, INK)


def draw_pong(canvas: Canvas, scene: Scene) -> None:
    """Both paddles, the agent's on the left, and the ball with its last place."""
    wide, tall = scene.environment.width, scene.environment.height
    half = scene.environment.paddle_half_height + 0.5
    canvas.view((-1, tall + 1), (wide + 1, -1))
    canvas.box((0, 0), (wide, tall), FLOOR, 0.5)
    canvas.line([(wide / 2, 0), (wide / 2, tall)], LINE, 0.25)
    left, right = (int(center) + 0.5 for center in scene.state.paddle_centers)
    for x, middle, color in ((0, left, BLUE), (wide - 1, right, MUTED)):
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
        canvas.line([one, other], (BLUE, ORANGE)[index % 2], 0.2)
        canvas.circle(one, 0.13, INK)
    canvas.circle(joints[-1], 0.12, INK)


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
    canvas.line([at, ahead], INK, 0.025)
    canvas.circle(at, 0.075, ORANGE)


# Boards of tiles: MinAtar's games, the mazes, FrozenLake, Catch and DeepSea -----------------------


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


# Bandits and bsuite's chains ----------------------------------------------------------------------


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


def draw_arms(what: str, pays_of: Callable[[Any], Any], canvas: Canvas, scene: Scene) -> None:
    """A column for what each arm pays, which the state tells and the agent must find out; the one
    that was pulled is colored."""
    pays = np.ravel(pays_of(scene.state)).astype(float)
    low, high = min(0.0, float(pays.min())), max(1.0, float(pays.max()))
    canvas.view((-0.25, -0.3), (1.25, 1.25))
    paid = "" if scene.action is None else f": it paid {scene.reward:.2g}"
    canvas.text((0.5, 1.14), f"{what} each arm pays{paid}", 0.09, MUTED, most=1.4)
    wide, zero = 1 / len(pays), -low / (high - low)
    for arm, pay in enumerate(pays.tolist()):
        top = (pay - low) / (high - low)
        left, right = (arm + 0.1) * wide, (arm + 0.9) * wide
        is_pulled = arm == scene.action
        canvas.box((left, zero), (right, top), ORANGE if is_pulled else SKY, 0.01)
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


_PUSHES = "left", "none", "right"
_ARMS = "arm 0", "arm 1"
_COMPASS = "up", "right", "down", "left"
DRAWERS = {
    "CartPole": Drawer(draw_cart_pole, ("left", "right")),
    "Acrobot": Drawer(draw_acrobot, _PUSHES),
    "MountainCar": Drawer(draw_mountain_car, _PUSHES),
    "ContinuousMountainCar": Drawer(draw_mountain_car, ("force",)),
    "Pendulum": Drawer(draw_pendulum, ("torque",)),
    "Pong": Drawer(draw_pong, ("none", "up", "down")),
    "PointRobot": Drawer(draw_point_robot, ("x", "y")),
    "Reacher": Drawer(draw_reacher, lambda env: [f"joint {k + 1}" for k in range(env.num_joints)]),
    "Swimmer": Drawer(draw_swimmer, ("x", "y")),
    **{
        game: Drawer(partial(draw_minatar, colors), _name_actions)
        for game, colors in MINATAR.items()
    },
    "FourRooms": Drawer(draw_maze, _COMPASS),
    "MetaMaze": Drawer(draw_maze, _COMPASS),
    "FrozenLake": Drawer(draw_frozen_lake, ("left", "down", "right", "up")),
    "Catch": Drawer(draw_catch, ("left", "stay", "right")),
    "DeepSea": Drawer(draw_deep_sea),
    "MemoryChain": Drawer(draw_memory_chain),
    "UmbrellaChain": Drawer(draw_umbrella_chain, ("leave it", "take it")),
    "DiscountingChain": Drawer(draw_discounting_chain),
    "SimpleBandit": Drawer(partial(draw_arms, "what", lambda state: state.rewards)),
    "BernoulliBandit": Drawer(
        partial(draw_arms, "how often", lambda state: state.reward_probs), _ARMS
    ),
    "GaussianBandit": Drawer(partial(draw_arms, "how much", lambda state: (0, state.mu)), _ARMS),
    "MNISTBandit": Drawer(draw_mnist),
}
