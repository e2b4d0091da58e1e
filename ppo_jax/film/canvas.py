"""A picture to draw on in an environment's own units, and the colors that all films share."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PAPER, FLOOR, LINE, MUTED, INK = "#fbfaf6", "#efece4", "#d5d1c6", "#8b8f98", "#26303d"
BLUE, ORANGE, GREEN, RED, YELLOW = "#2f6db3", "#e5872b", "#3a9a68", "#cf4a4f", "#e9bd3f"
PURPLE, SKY, SAND, PINK = "#8660b5", "#bcd9ee", "#e8dcc0", "#f2b8a0"
PALETTE = PAPER, FLOOR, LINE, MUTED, INK, BLUE, ORANGE, GREEN, RED, YELLOW, PURPLE, SKY, SAND, PINK
_FINER = 3  # pixels drawn for each one kept, a side: Pillow's lines are not smooth

Point = tuple[float, float]


class Canvas:
    """A picture of `width` × `height` pixels, drawn finer than it is kept."""

    def __init__(self, width: int, height: int):
        self.size = width, height
        self._image = Image.new("RGB", (width * _FINER, height * _FINER), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self.view_pixels()

    def view_pixels(self) -> None:
        """Draw in pixels, from the upper left corner."""
        self.view((0, self.size[1]), (self.size[0], 0))

    def view(self, low: Point, high: Point) -> None:
        """From now on draw in the units of this rectangle, from its lower left to its upper right
        corner, as large as fits."""
        (left, bottom), (right, top) = low, high
        wide, tall = self._image.size
        self._scale = min(wide / (right - left), tall / abs(top - bottom))
        self._up = 1 if top > bottom else -1
        self._middle = (left + right) / 2, (bottom + top) / 2

    def line(self, points: Iterable[Point], color: str, width: float) -> None:
        """A line through the points, with round ends."""
        pixels, thick = [self._at(point) for point in points], self._scale * width
        self._draw.line(pixels, color, round(thick), joint="curve")
        for end in (pixels[0], pixels[-1]):
            self._draw.circle(end, thick / 2, color)

    def circle(self, center: Point, radius: float, color: str) -> None:
        """A disk."""
        self._draw.circle(self._at(center), self._scale * radius, color)

    def box(self, one: Point, other: Point, color: str, corner: float = 0, ring: float = 0) -> None:
        """A rectangle between two opposite corners, or its outline of that width."""
        (x, y), (right, bottom) = self._at(one), self._at(other)
        edges = min(x, right), min(y, bottom), max(x, right), max(y, bottom)
        filled = {"outline": color, "width": round(self._scale * ring)} if ring else {"fill": color}
        self._draw.rounded_rectangle(edges, self._scale * corner, **filled)

    def polygon(self, points: Iterable[Point], color: str) -> None:
        """A filled polygon."""
        self._draw.polygon([self._at(point) for point in points], color)

    def text(
        self,
        at: Point,
        said: str,
        size: float,
        color: str = INK,
        anchor: str = "mm",
        most: float = 0,
    ) -> None:
        """Words of that height, no wider than `most`, if given; the anchor is Pillow's."""
        pixels = self._scale * size
        if most:
            pixels *= min(1, self._scale * most / max(_font(round(pixels)).getlength(said), 1))
        self._draw.text(self._at(at), said, color, _font(round(pixels)), anchor)

    def image(self, low: Point, high: Point, image: Image.Image) -> None:
        """An image between its lower left and its upper right corner, a pixel a square."""
        (left, bottom), (right, top) = self._at(low), self._at(high)
        size = round(right) - round(left), round(bottom) - round(top)
        self._image.paste(image.resize(size, Image.Resampling.NEAREST), (round(left), round(top)))

    def fade(self, share: float) -> None:
        """Let what is drawn so far become paler by that share."""
        plain = Image.new("RGB", self._image.size, FLOOR)
        self._image = Image.blend(self._image, plain, share)
        self._draw = ImageDraw.Draw(self._image)

    def finish(self) -> Image.Image:
        """The picture as it is kept."""
        return self._image.reduce(_FINER)

    def _at(self, point: Any) -> Point:
        wide, tall = self._image.size
        return (
            wide / 2 + self._scale * (float(point[0]) - self._middle[0]),
            tall / 2 - self._scale * (float(point[1]) - self._middle[1]) * self._up,
        )


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(max(size, 1))
