"""Draws classic control: CartPole, Acrobot, both mountain cars and Pendulum."""

from math import copysign, cos, pi, sin

import numpy as np

from ppo_jax.film.canvas import BLUE, FLOOR, GREEN, INK, LINE, MUTED, ORANGE, RED, SAND, Canvas
from ppo_jax.film.drawers import Drawer, Scene, named


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
    corners = [
        (-0.1, 0.035),
        (-0.1, 0.085),
        (-0.05, 0.13),
        (0.05, 0.13),
        (0.1, 0.085),
        (0.1, 0.035),
    ]
    canvas.polygon([tuple(road + a * along + b * up) for a, b in corners], BLUE)
    for wheel in (-0.055, 0.055):
        canvas.circle(tuple(road + wheel * along + 0.035 * up), 0.032, INK)


def draw_pendulum(canvas: Canvas, scene: Scene) -> None:
    """The rod, and the torque of the last step as an arc around the pivot."""
    angle, torque = float(scene.state.theta), float(np.ravel(scene.state.last_u)[0])
    length, most = scene.parameters.l, float(scene.parameters.max_torque)
    reach = 1.3 * length
    canvas.view((-reach, -reach), (reach, reach))
    canvas.circle((0, 0), 1.06 * length, FLOOR)
    canvas.line([(0, 0), (-length * sin(angle), length * cos(angle))], BLUE, 0.17 * length)
    share = torque / most
    if abs(share) > 0.1:
        turns = np.linspace(0, share * 0.7 * pi, 20).tolist()
        arc = [(-0.5 * length * sin(one), 0.5 * length * cos(one)) for one in turns]
        ahead = turns[-1] + copysign(0.35, share)
        canvas.line(arc, ORANGE, 0.05 * length)
        point = (-0.5 * length * sin(ahead), 0.5 * length * cos(ahead))
        sides = [
            (-size * length * sin(turns[-1]), size * length * cos(turns[-1])) for size in (0.4, 0.6)
        ]
        canvas.polygon([point, *sides], ORANGE)
    canvas.circle((0, 0), 0.06 * length, INK)


_PUSHES = named("left", "none", "right")
DRAWERS = {
    "CartPole": Drawer(draw_cart_pole, named("left", "right")),
    "Acrobot": Drawer(draw_acrobot, _PUSHES),
    "MountainCar": Drawer(draw_mountain_car, _PUSHES),
    "ContinuousMountainCar": Drawer(draw_mountain_car, named("force")),
    "Pendulum": Drawer(draw_pendulum, named("torque")),
}
