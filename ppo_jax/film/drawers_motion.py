"""Draws what moves in continuous space: classic control, robots, the swimmer and Pong."""

from itertools import pairwise
from math import copysign, cos, pi, sin

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
    SAND,
    SKY,
    Canvas,
    Point,
)
from ppo_jax.film.drawers import Drawer, Scene, mix

_CAR = (-0.1, 0.035), (-0.1, 0.085), (-0.05, 0.13), (0.05, 0.13), (0.1, 0.085), (0.1, 0.035)


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


_PUSHES = "left", "none", "right"
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
}
