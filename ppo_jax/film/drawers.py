"""What a drawer is given, and what several drawers share."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageColor

from ppo_jax.film.canvas import BLUE, FLOOR, LINE, MUTED, ORANGE, Canvas


class Scene(NamedTuple):
    """One moment of an episode, between two steps; arrays are NumPy's."""

    environment: Any  # gymnax's, or None
    parameters: Any
    state: Any  # gymnax's own
    observation: Any
    action: Any = None  # that led here; none at the start
    reward: float = 0.0


class Drawer(NamedTuple):
    """How the environments of one class are drawn."""

    draw: Callable[[Canvas, Scene], None]
    # Each action's name, or each entry's of continuous ones, or what an environment names them.
    actions: Sequence[str] | Callable[[Any], Sequence[str]] = ()


def draw_observation(canvas: Canvas, scene: Scene) -> None:
    """Whatever the agent sees: one image as such, all else as bars of x / (1 + |x|)."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(scene.observation)]
    if len(leaves) == 1 and leaves[0].ndim in (2, 3) and min(leaves[0].shape[:2]) > 1:
        _draw_image(canvas, leaves[0])
    else:
        _draw_bars(canvas, np.concatenate([leaf.ravel() for leaf in leaves]))


def _draw_image(canvas: Canvas, image: np.ndarray) -> None:
    """An image [H, W] or [H, W, C] of bytes, or of numbers that are cut to 0..1: three channels are
    red, green and blue, of others the brightest is seen."""
    image = np.clip(np.nan_to_num(image) / (255 if np.nanmax(image) > 1 else 1), 0, 1)
    if image.shape[2:] != (3,):
        gray = image.reshape(*image.shape[:2], -1).max(axis=2, keepdims=True)
        low, high = (np.array(ImageColor.getrgb(color)) / 255 for color in (FLOOR, BLUE))
        image = low + (high - low) * gray
    rows, columns = image.shape[:2]
    canvas.view((-0.5, rows + 0.5), (columns + 0.5, -0.5))
    pixels = Image.fromarray(np.round(255 * image).astype(np.uint8))
    canvas.image((0, rows), (columns, 0), pixels)


def _draw_bars(canvas: Canvas, numbers: np.ndarray) -> None:
    """At most 64 numbers, a column each."""
    heights = numbers[:64] / (1 + np.abs(numbers[:64]))
    wide = 2 / len(heights)
    canvas.view((-1.1, -1.1), (1.1, 1.1))
    canvas.line([(-1, 0), (1, 0)], LINE, 0.01)
    for index, height in enumerate(heights.tolist()):
        left = -1 + index * wide
        color = MUTED if not math.isfinite(height) else BLUE if height > 0 else ORANGE
        height = height if math.isfinite(height) else 0.02
        canvas.box((left + wide / 8, 0), (left + wide * 7 / 8, height), color)


def mix(one: str, other: str, share: float) -> str:
    """A color between two, with that share of the other."""
    pairs = zip(ImageColor.getrgb(one), ImageColor.getrgb(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
