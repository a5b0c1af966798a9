"""Text or no text: street scenes with signs that carry either letters or ornaments with as much ink."""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from wsl_core.data.base import check_count
from wsl_core.data.synthetic.backdrop import Backdrop, Scene, draw_clutter, toned
from wsl_core.data.synthetic.noise import Stream, Texture, rotation
from wsl_core.data.synthetic.shapes import Blob, Box, Paint, Piece, Placement, Strokes, Thing
from wsl_core.data.synthetic.template import place
from wsl_core.data.synthetic.world import MOST_DISTRACTORS, World, balanced_class

__all__ = ["Text"]

# Letters as strokes between nine points: a b c in the top row, d e f in the middle, g h i in the bottom row.
POINTS = {name: (0.3 * (place % 3), 0.5 * (place // 3)) for place, name in enumerate("abcdefghi")}
FONT = {
    "A": "gb bi df", "C": "ca ag gi", "E": "ag ac df gi", "F": "ag ac df", "H": "ag ci df", "J": "ci ig gd",
    "K": "ag cd di", "L": "ag gi", "M": "ga ae ec ci", "N": "ga ai ic", "O": "ac ci ig ga", "P": "ga ac cf fd",
    "R": "ga ac cf fd ei", "S": "ca ad df fi ig", "T": "ac bh", "U": "ag gi ic", "V": "ah hc", "W": "ag ge ei ic",
    "X": "ai cg", "Y": "ae ce eh", "Z": "ac cg gi",
}  # fmt: skip
PEN = 0.09  # half the width of a stroke, in units of the letters' height
PITCH = 0.86  # from one letter to the next, likewise
ORNAMENTS = ("bars", "lines", "slashes", "dots")

Segment = tuple[float, float, float, float]


@dataclass(frozen=True)
class Text(World):
    """Knob: how many distractors. One to three signs stand in every picture, and in half of the pictures one or more
    of them carry a string of letters. The other signs carry ornaments of about the same ink.

    The class "text" is localised by the rectangle that a string fills; "no text" has no place.
    """

    name: ClassVar[str] = "text"
    nothing: ClassVar[int | None] = 0
    distractors: int = 4

    classes = ("no text", "text")
    part_names = ("string",)

    def __post_init__(self) -> None:
        check_count("distractors", self.distractors, 0, MOST_DISTRACTORS)

    def compose(self, split: Stream, index: int) -> Scene:
        stream = split.child(index)
        text = balanced_class(split, index, 2) == 1
        signs: list[Thing] = []
        boxes: list[Box] = []
        for position in range(1 + stream.child("signs").integer(3)):
            own = stream.child("sign", position)
            written = text and (position == 0 or own.child("written").chance(0.5))
            signs.append(_sign(own, written, position, boxes))
            boxes.append(signs[-1].box())
        backdrop = Backdrop.draw(stream.child("backdrop"))
        houses = tuple(_house(stream.child("house", place), place) for place in range(3))
        clutter = draw_clutter(stream.child("clutter"), self.distractors)
        return Scene(backdrop, (*houses, *clutter), tuple(signs))


def _sign(stream: Stream, written: bool, position: int, others: list[Box]) -> Thing:
    """A framed board on two posts. Its letters or ornaments are drawn from streams of their own."""
    letters = _letters(stream.child("letters"))
    width = max(x for segment in letters for x in segment[::2])
    ink = sum(sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0)) for x0, y0, x1, y1 in letters)
    hull = Blob(-PEN, 0.5, width + PEN, 0.5, 0.5 + PEN, corner=0.0)
    strokes = Strokes(letters, PEN, hull) if written else _ornament(stream.child("ornament"), ink, width, hull)
    colours = stream.child("colours")
    panel, pen = _panel_and_pen(colours)
    frame, post = toned(colours.uniform(), 0.5, colours.uniform(0.4, 0.85)), toned(0.08, 0.3, 0.4)
    posts = stream.child("posts").uniform(0.0, 1.2)
    board = (
        Piece("post", Blob(width * 0.15, 0.5, width * 0.15, 1.4 + posts, 0.07, corner=0.3), post),
        Piece("post", Blob(width * 0.85, 0.5, width * 0.85, 1.4 + posts, 0.07, corner=0.3), post),
        Piece("frame", Blob(-0.42, 0.5, width + 0.42, 0.5, 0.92, corner=0.25), frame),
        Piece("panel", Blob(-0.28, 0.5, width + 0.28, 0.5, 0.78, corner=0.2), panel),
    )
    texture = Texture.draw(stream.child("texture"), 0.5, 1.5)._replace(grain=0.6)
    piece = Piece("string" if written else "ornament", strokes, pen)
    sign = Thing(1 if written else None, (*board, piece), Placement(), (texture,))
    cos, sin = rotation(stream.child("tilt").uniform(-0.07, 0.07))
    extent = stream.child("extent").uniform(0.36, 0.52) * (1.0, 0.8, 0.7)[position]
    return place(sign.put(Placement(cos=cos, sin=sin)), extent, stream.child("place"), others)


def _letters(stream: Stream) -> tuple[Segment, ...]:
    """A string of three to six letters of height 1, from x = 0."""
    segments = []
    for position in range(3 + stream.integer(4)):
        left = position * PITCH
        for start, end in FONT[stream.choice(tuple(FONT))].split():
            (x0, y0), (x1, y1) = POINTS[start], POINTS[end]
            segments.append((left + x0, y0, left + x1, y1))
    return tuple(segments)


def _ornament(stream: Stream, ink: float, width: float, hull: Blob) -> Strokes:
    """Bars, lines, slashes or dots within the same rectangle, with strokes of the same total length (dots: area)."""
    kind = stream.choice(ORNAMENTS)
    if kind == "dots":
        return _dots(ink, width, hull)
    if kind == "lines":
        count = max(2, int(ink / width + 0.5))
        length = min(ink / count, width)
        rows = [position / (count - 1) for position in range(count)]
        return Strokes(tuple((0.0, y, length, y) for y in rows), PEN, hull)
    lean = 0.3 if kind == "slashes" else 0.0
    count = max(3, int(ink + 0.5))
    height = min(ink / count / sqrt(1 + lean * lean), 1.0)
    columns = [(width - lean) * position / (count - 1) for position in range(count)]
    top = (1 - height) / 2
    return Strokes(tuple((x + lean * height, top, x, top + height) for x in columns), PEN, hull)


def _dots(ink: float, width: float, hull: Blob) -> Strokes:
    """Three rows of dots, so large that their area is that of the strokes."""
    columns = max(3, int(width / 0.36 + 0.5))
    radius = min(sqrt(2 * PEN * ink / (3 * columns) / 3.14159), 0.17)
    dots = tuple(
        (width * column / (columns - 1), y, width * column / (columns - 1), y)
        for column in range(columns)
        for y in (0.06, 0.5, 0.94)
    )
    return Strokes(dots, radius, hull)


def _panel_and_pen(stream: Stream) -> tuple[Paint, Paint]:
    """Dark on light or light on dark, in two hues."""
    light = toned(stream.uniform(), stream.uniform(0.05, 0.35), stream.uniform(0.82, 0.98), 0.25)
    dark = toned(stream.uniform(), stream.uniform(0.3, 0.8), stream.uniform(0.2, 0.45), 0.25)
    return (light, dark) if stream.chance(0.6) else (dark, light)


def _house(stream: Stream, place: int) -> Thing:
    """A front with a door, rows of windows and a roof, in its third of the street."""
    left, right = place / 3 + stream.uniform(-0.03, 0.02), (place + 1) / 3 + stream.uniform(-0.02, 0.03)
    top, bottom = stream.uniform(0.1, 0.4), stream.uniform(0.78, 0.86)
    middle, half = (left + right) / 2, (right - left) / 2
    wall = toned(stream.uniform(), stream.uniform(0.15, 0.5), stream.uniform(0.45, 0.85), 0.25)
    roof = toned(stream.uniform(0.0, 0.1), stream.uniform(0.4, 0.7), stream.uniform(0.35, 0.6), 0.3)
    glass = toned(stream.uniform(0.1, 0.65), 0.3, stream.uniform(0.3, 0.9), 0.3)
    panes = tuple(
        (middle + across * half, y, middle + across * half, y + 0.05)
        for across in (-0.55, 0.0, 0.55)
        for y in (top + 0.08, top + 0.22, top + 0.36)
    )
    front = Blob(middle, top, middle, bottom, half, corner=0.05)
    pieces = (
        Piece("roof", Blob(middle, top + 0.02, middle, top - 0.11, half * 0.75, -0.4, 0.1), roof),
        Piece("wall", front, wall),
        Piece("window", Strokes(panes, 0.022, front), glass),
        Piece("door", Blob(middle, bottom - 0.14, middle, bottom, 0.035, corner=0.2), roof),
    )
    texture = Texture("checks", stream.uniform(9, 14), 1.0, 0.0, stream.key, 0.6)
    return Thing(None, pieces, Placement(middle, top, 1.0), (texture,))
