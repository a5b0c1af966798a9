"""Shapes as signed distance functions, things made of them, and the canvas that paints them without jagged edges.

A shape is given in units of the frame: (0, 0) is the top left corner and (1, 1) the bottom right one. It can be painted
at any size. All painting happens in a window around the shape, so that its cost follows the area it covers.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from wsl_core.data.synthetic.noise import Texture

__all__ = [
    "LARGEST", "NOBODY", "Blob", "Box", "Canvas", "Colour", "Keypoint", "Paint", "Piece", "Placement", "Strokes",
    "Thing",
]  # fmt: skip

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Colour = tuple[float, float, float]  # RGB in [0, 1]
LARGEST = 1024  # side of the largest canvas, in pixels
HIDDEN = 0.5  # the grey of a part that is hidden
NOBODY = 255  # the instance of pixels that belong to no labelled thing
_RIM = 0.42  # how much darker a shape is at its edge
_CENTRES = np.arange(LARGEST, dtype=np.float32) + np.float32(0.5)  # of the pixels in a row or a column
_LIGHT = 0.16  # how much lighter it is at its top


class Window(NamedTuple):
    """A rectangle of pixels, half-open."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def centres(self) -> tuple[Float[np.ndarray, " w"], Float[np.ndarray, "h 1"]]:
        """The pixels' centres, in pixels."""
        return _CENTRES[self.left : self.right], _CENTRES[self.top : self.bottom, None]


def _window(box: Box, size: int) -> Window | None:
    """The pixels that a box (in units of the frame) can touch, or None where it lies outside the frame."""
    left, top = max(int(box[0] * size + 1) - 2, 0), max(int(box[1] * size + 1) - 2, 0)
    right, bottom = min(int(box[2] * size) + 2, size), min(int(box[3] * size) + 2, size)
    return Window(left, top, right, bottom) if left < right and top < bottom else None


class Placement(NamedTuple):
    """From one plane to another: mirror (x to -x where ``mirror`` is -1), rotate, scale, shift.

    >>> Placement(x=5, scale=2, mirror=-1)(1, 1)
    (3.0, 2.0)
    """

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    cos: float = 1.0
    sin: float = 0.0
    mirror: float = 1.0

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        x *= self.mirror
        return (
            self.x + self.scale * (x * self.cos - y * self.sin),
            self.y + self.scale * (x * self.sin + y * self.cos),
        )

    def after(self, first: "Placement") -> "Placement":
        """``first``, then this one."""
        x, y = self(first.x, first.y)
        sin = first.sin * self.mirror
        return Placement(
            x,
            y,
            self.scale * first.scale,
            self.cos * first.cos - self.sin * sin,
            self.sin * first.cos + self.cos * sin,
            self.mirror * first.mirror,
        )

    def coordinates(self, window: Window, size: int) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
        """The thing's own coordinates at the window's pixels."""
        x, y = window.centres()
        unit = 1 / (self.scale * size)
        x, y = (x - self.x * size) * unit, (y - self.y * size) * unit
        return (x * self.cos + y * self.sin) * self.mirror, y * self.cos - x * self.sin


class Blob(NamedTuple):
    """An ellipse or a rounded box along an axis from (x0, y0) to (x1, y1), which may grow along it.

    width: half of its extent across the axis, in the middle. taper in (-1, 1): how much wider it is at the axis' end
    and narrower at its start. corner: None for an ellipse, otherwise the corners' radius as a share of the half width.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    width: float
    taper: float = 0.0
    corner: float | None = None

    def put(self, place: Placement) -> "Blob":
        """The same shape, moved."""
        x0, y0, x1, y1, width, taper, corner = self
        return Blob(*place(x0, y0), *place(x1, y1), width * place.scale, taper, corner)

    def _axis(self) -> tuple[float, float, float]:
        """Half the axis' length and its direction (cos, sin)."""
        dx, dy = self.x1 - self.x0, self.y1 - self.y0
        length = sqrt(dx * dx + dy * dy)
        return length / 2, dx / length, dy / length

    def box(self) -> Box:
        """A box around it: tight for a rounded box without taper, a little wide otherwise."""
        half, cos, sin = self._axis()
        across = self.width * (1 + abs(self.taper))
        dx, dy = abs(cos) * half + abs(sin) * across, abs(sin) * half + abs(cos) * across
        if self.corner is None and self.taper == 0:
            dx = sqrt((cos * half) * (cos * half) + (sin * across) * (sin * across))
            dy = sqrt((sin * half) * (sin * half) + (cos * across) * (cos * across))
        x, y = (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2
        return x - dx, y - dy, x + dx, y + dy

    def distance(self, window: Window, size: int) -> Float[np.ndarray, "h w"]:
        """Signed distance to the edge in pixels, negative inside; of first order for ellipses and tapered shapes."""
        half, cos, sin = self._axis()
        half, width = half * size, self.width * size
        x, y = window.centres()
        x, y = x - (self.x0 + self.x1) * (size / 2), y - (self.y0 + self.y1) * (size / 2)
        along, across = x * cos + y * sin, y * cos - x * sin
        if self.corner is None:
            return _ellipse(along, across, half, width, self.taper)
        return _rounded_box(along, across, half, width, self.taper, self.corner)


def _ellipse(
    along: Float[np.ndarray, "h w"], across: Float[np.ndarray, "h w"], half: float, width: float, taper: float
) -> Float[np.ndarray, "h w"]:
    """f / |grad f| for f = |(u / a, v / b)| - 1: the distance near the edge."""
    if taper:
        across = across / np.maximum(1 + along * (taper / half), 0.05)
    u, v = along * (1 / half), across * (1 / width)
    radius = np.sqrt(u * u + v * v)
    u, v = u * (1 / half), v * (1 / width)
    return (radius - 1) * radius / np.sqrt(u * u + v * v + 1e-9)


def _rounded_box(
    along: Float[np.ndarray, "h w"],
    across: Float[np.ndarray, "h w"],
    half: float,
    width: float,
    taper: float,
    corner: float,
) -> Float[np.ndarray, "h w"]:
    radius = corner * min(half, width)
    u = np.abs(along) - (half - radius)
    v = np.abs(across) - (width - radius)
    if taper:
        v -= along * (taper * width / half)
    inside = np.minimum(np.maximum(u, v), 0)
    u, v = np.maximum(u, 0), np.maximum(v, 0)
    return np.sqrt(u * u + v * v) + inside - radius


class Strokes(NamedTuple):
    """Round-ended pen strokes, and the rectangle that they fill: a written string is the area that its letters span."""

    segments: tuple[tuple[float, float, float, float], ...]
    width: float
    hull: Blob

    def put(self, place: Placement) -> "Strokes":
        """The same strokes, moved."""
        segments = tuple((*place(x0, y0), *place(x1, y1)) for x0, y0, x1, y1 in self.segments)
        return Strokes(segments, self.width * place.scale, self.hull.put(place))

    def box(self) -> Box:
        """The box around its hull."""
        return self.hull.box()

    def distance(self, window: Window, size: int) -> Float[np.ndarray, "h w"]:
        """Signed distance to the nearest stroke's edge, in pixels."""
        ends = np.array(self.segments, dtype=np.float32).T[:, :, None, None] * np.float32(size)
        x, y = window.centres()
        x, y = x - ends[0], y - ends[1]
        dx, dy = ends[2] - ends[0], ends[3] - ends[1]
        share = (x * dx + y * dy) / (dx * dx + dy * dy + np.float32(1e-6))
        share = np.minimum(np.maximum(share, 0), 1)
        x, y = x - share * dx, y - share * dy
        return np.sqrt((x * x + y * y).min(axis=0)) - self.width * size


Shape = Blob | Strokes


class Paint(NamedTuple):
    """The two colours (RGB in [0, 1]) between which a texture mixes."""

    low: Colour
    high: Colour


class Piece(NamedTuple):
    """A painted shape and the part it belongs to. texture: which of its thing's. hidden: painted over in grey."""

    part: str
    shape: Shape
    paint: Paint
    texture: int = 0
    hidden: bool = False


class Keypoint(NamedTuple):
    """A named point, in units of the frame."""

    name: str
    x: float
    y: float


class Thing(NamedTuple):
    """Pieces painted in order. label: its class, or None for a thing that nobody asks about.

    placement: from the coordinates that its textures live in to the frame.
    """

    label: int | None
    pieces: tuple[Piece, ...]
    placement: Placement
    textures: tuple[Texture, ...]
    keypoints: tuple[Keypoint, ...] = ()

    def put(self, place: Placement) -> "Thing":
        """The same thing, moved."""
        return self._replace(
            pieces=tuple(piece._replace(shape=piece.shape.put(place)) for piece in self.pieces),
            placement=place.after(self.placement),
            keypoints=tuple(Keypoint(name, *place(x, y)) for name, x, y in self.keypoints),
        )

    def box(self) -> Box:
        """A box around all pieces, in units of the frame."""
        return bounds([piece.shape.box() for piece in self.pieces])


def bounds(boxes: list[Box]) -> Box:
    """The smallest box around ``boxes``.

    >>> bounds([(0, 0, 2, 1), (1, -1, 3, 0)])
    (0, -1, 3, 1)
    """
    left, top, right, bottom = zip(*boxes)
    return min(left), min(top), max(right), max(bottom)


class Canvas:
    """What has been painted: colours, and for each pixel the thing and the part that lie on top.

    image: float32 (3, H, W), not yet clipped. instance: index of the labelled thing, 255 for none. part: 1-based
    position in ``part_names``, 0 for none.
    """

    def __init__(self, image: Float[np.ndarray, "3 size size"], part_names: tuple[str, ...] = ()):
        self.size = image.shape[1]
        self.image = image
        self.instance = np.full(image.shape[1:], NOBODY, dtype=np.uint8)
        self.part = np.zeros(image.shape[1:], dtype=np.uint8)
        self._part_index = {name: position + 1 for position, name in enumerate(part_names)}

    def pixels(self) -> UInt8[np.ndarray, "3 size size"]:
        """The picture in 8 bits."""
        return (np.minimum(np.maximum(self.image, 0), 1) * 255 + 0.5).astype(np.uint8)

    def visible_box(self, instance: int) -> tuple[int, int, int, int] | None:
        """x0, y0, x1, y1 around the visible pixels of a thing, half-open; None where there is none."""
        there = self.instance == instance
        columns, rows = np.flatnonzero(there.any(axis=0)), np.flatnonzero(there.any(axis=1))
        if not len(rows):
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def shows(self, instance: int, x: float, y: float) -> bool:
        """Whether the thing is what one sees at this point, given in pixels."""
        inside = 0 <= x < self.size and 0 <= y < self.size
        return inside and int(self.instance[int(y), int(x)]) == instance

    def paint(self, thing: Thing, instance: int = NOBODY) -> None:
        """Paint a thing on top of what is there. Pieces without a part name are scenery: they belong to nobody."""
        boxes = [piece.shape.box() for piece in thing.pieces]
        around = _window(bounds(boxes), self.size) if boxes else None
        if around is None:
            return
        x, y = thing.placement.coordinates(around, self.size)
        pixel = 1 / (thing.placement.scale * self.size)
        textures = [texture(x, y, pixel) for texture in thing.textures]
        for piece, box in zip(thing.pieces, boxes):
            if window := _window(box, self.size):
                left, top = window.left - around.left, window.top - around.top
                crop = np.s_[top : top + window.bottom - window.top, left : left + window.right - window.left]
                self._paint_piece(piece, window, textures[piece.texture][crop], instance)

    def _paint_piece(self, piece: Piece, window: Window, texture: Float[np.ndarray, "h w"], instance: int) -> None:
        distance = piece.shape.distance(window, self.size)
        alpha = np.minimum(np.maximum(0.5 - distance, 0), 1)
        rows, columns = window.slices
        target = self.image[:, rows, columns]
        if piece.hidden:
            target += (HIDDEN - target) * alpha
        else:
            shade = _shade(piece.shape, distance, window, self.size)
            target += (_colours(piece.paint, texture) * shade - target) * alpha
        covered = alpha >= 0.5
        if isinstance(piece.shape, Strokes):
            covered = piece.shape.hull.distance(window, self.size) <= 0
        part = self._part_index.get(piece.part, 0)
        self.instance[rows, columns][covered] = instance if part else NOBODY
        self.part[rows, columns][covered] = part


def _colours(paint: Paint, texture: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "3 h w"]:
    low = np.array(paint.low, dtype=np.float32)[:, None, None]
    high = np.array(paint.high, dtype=np.float32)[:, None, None]
    return low + (high - low) * texture


def _shade(shape: Shape, distance: Float[np.ndarray, "h w"], window: Window, size: int) -> Float[np.ndarray, "h w"]:
    """Dark towards the edge and lit from above: a flat shape looks round."""
    if isinstance(shape, Strokes):
        return np.ones_like(distance)
    rim = np.minimum(np.maximum(distance * (1 / (0.7 * shape.width * size)) + 1, 0), 1)
    _, y = window.centres()
    height = (window.bottom - window.top) / 2
    light = (window.top + height - y) * (_LIGHT / height) + 1
    return (1 - rim * rim * _RIM) * light
