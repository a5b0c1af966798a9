"""Templates of things: parts along axes, joints that bend, colours by role; and how one is posed and placed."""

from math import sqrt
from typing import NamedTuple

from wsl_core.data.synthetic.backdrop import toned
from wsl_core.data.synthetic.noise import Stream, Texture, rotation
from wsl_core.data.synthetic.shapes import Blob, Box, Keypoint, Paint, Piece, Placement, Thing

__all__ = ["Limb", "Template", "pose", "place", "overlap", "random_palette"]

Point = tuple[float, float]
_MARGIN = 0.015  # between a thing and the border, in units of the frame
_TRIES = 8  # positions that are tried for a thing that might overlap another,
_SHRINKS = 5  # in so many sizes,
_OVERLAP = 0.15  # until it shares at most so much of its box


class Limb(NamedTuple):
    """A part: an axis from ``start`` to ``end``, a half width, and the role that names its colour.

    Coordinates are the thing's own: x to where it looks, y down, about [-1, 1]. joint: what it turns with.
    taper and corner: see ``Blob``.
    """

    part: str
    start: Point
    end: Point
    width: float
    role: str = "main"
    taper: float = 0.0
    corner: float | None = None
    joint: str | None = None


class Template(NamedTuple):
    """A class of things. joints: pivot and the largest tangent of half the angle by which it turns."""

    limbs: tuple[Limb, ...]
    joints: dict[str, tuple[Point, float]]
    keypoints: dict[str, tuple[Point, str | None]]

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are first painted."""
        return tuple(dict.fromkeys(limb.part for limb in self.limbs))


def random_palette(stream: Stream) -> dict[str, Paint]:
    """Colours for the roles: a random main hue, a second one, and what eyes, windows and wheels are made of."""
    hue, saturation, value = stream.uniform(), stream.uniform(0.4, 0.85), stream.uniform(0.6, 0.98)
    contrast = stream.uniform(0.3, 0.5)
    second = hue + stream.uniform(0.12, 0.88)
    accent = hue + stream.uniform(0.3, 0.7)
    return {
        "main": toned(hue, saturation, value, contrast),
        "shade": toned(hue, saturation, value * 0.68, contrast),
        "second": toned(second, stream.uniform(0.35, 0.8), stream.uniform(0.55, 0.98), contrast),
        "accent": toned(accent, stream.uniform(0.5, 0.9), stream.uniform(0.6, 0.95), contrast),
        "wood": toned(stream.uniform(0.03, 0.13), stream.uniform(0.3, 0.6), stream.uniform(0.35, 0.6), contrast),
        "skin": toned(stream.uniform(0.03, 0.09), stream.uniform(0.25, 0.55), stream.uniform(0.45, 0.95), 0.15),
        "glass": toned(stream.uniform(0.45, 0.65), 0.25, 0.85, 0.3),
        "light": toned(stream.uniform(), 0.08, 0.96, 0.15),
        "dark": toned(stream.uniform(), 0.25, 0.22, 0.4),
    }


def pose(
    template: Template, label: int, stream: Stream, palette: dict[str, Paint], prefix: str = "", tilt: float = 0.12
) -> Thing:
    """A thing of this template around the origin, as wide as its template: bent at its joints, tilted, mirrored."""
    turns = stream.child("pose")
    bends: dict[str | None, Placement] = {None: Placement()}
    for joint, (pivot, swing) in template.joints.items():
        bends[joint] = _turn_about(pivot, *rotation(turns.uniform(-swing, swing)))
    pieces = tuple(
        Piece(prefix + limb.part, _shape(limb).put(bends[limb.joint]), palette[limb.role]) for limb in template.limbs
    )
    keypoints = tuple(
        Keypoint(prefix + name, *bends[joint](*point)) for name, (point, joint) in template.keypoints.items()
    )
    thing = Thing(label, pieces, Placement(), (Texture.draw(stream.child("texture")),), keypoints)
    cos, sin = rotation(turns.uniform(-tilt, tilt))
    return thing.put(Placement(cos=cos, sin=sin, mirror=-1.0 if stream.child("mirror").chance(0.5) else 1.0))


def _shape(limb: Limb) -> Blob:
    return Blob(*limb.start, *limb.end, limb.width, limb.taper, limb.corner)


def _turn_about(pivot: Point, cos: float, sin: float) -> Placement:
    x, y = pivot
    return Placement(x - (x * cos - y * sin), y - (x * sin + y * cos), 1.0, cos, sin)


def place(thing: Thing, extent: float, stream: Stream, others: list[Box]) -> Thing:
    """Scale a thing so that its box has the area ``extent`` squared, and put it where it overlaps others little.

    The whole box lies in the frame: a thing too long for it is made smaller, and so is one that finds no free place.
    """
    box = thing.box()
    width, height = box[2] - box[0], box[3] - box[1]
    room = 1 - 2 * _MARGIN
    scale = min(extent / sqrt(width * height), room / max(width, height))
    for _ in range(_SHRINKS):
        found = [_somewhere(box, scale, stream) for _ in range(_TRIES if others else 1)]
        shared = [max((overlap(_put_box(box, spot), other) for other in others), default=0.0) for spot in found]
        if min(shared) <= _OVERLAP:
            break
        scale *= 0.85
    return thing.put(found[shared.index(min(shared))])


def _somewhere(box: Box, scale: float, stream: Stream) -> Placement:
    """A random placement of this scale that keeps the box in the frame."""
    x = stream.uniform(_MARGIN - box[0] * scale, 1 - _MARGIN - box[2] * scale)
    y = stream.uniform(_MARGIN - box[1] * scale, 1 - _MARGIN - box[3] * scale)
    return Placement(x, y, scale)


def _put_box(box: Box, spot: Placement) -> Box:
    return (*spot(box[0], box[1]), *spot(box[2], box[3]))


def overlap(first: Box, second: Box) -> float:
    """The area that two boxes share, as a share of the smaller one.

    >>> overlap((0, 0, 2, 2), (1, 0, 4, 4))
    0.5
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / min(areas)
