"""What lies behind the things: sky, ground, water, noise; and the colours that everything is painted with."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wsl_core.data.synthetic.noise import Stream, Texture, colour_noise, lattice
from wsl_core.data.synthetic.shapes import Blob, Colour, Paint, Piece, Placement, Thing

__all__ = ["Backdrop", "Scene", "draw_clutter", "hsv", "toned"]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a hue (in turns: 0 red, 1/3 green, 2/3 blue), a saturation and a value, each in [0, 1].

    >>> hsv(0.0, 1.0, 1.0)
    (1.0, 0.0, 0.0)
    """
    shares = (min(max(abs((hue + shift) % 1.0 * 6 - 3) - 1, 0.0), 1.0) for shift in (0.0, 2 / 3, 1 / 3))
    red, green, blue = (value * (1 - saturation + saturation * share) for share in shares)
    return red, green, blue


def toned(hue: float, saturation: float, value: float, contrast: float = 0.4) -> Paint:
    """A paint whose texture shows as lighter and darker tones of one colour."""
    low = hsv(hue + 0.02, min(saturation * 1.1, 1.0), value * (1 - contrast))
    return Paint(low, hsv(hue - 0.02, saturation * 0.85, min(value * (1 + contrast / 3), 1.0)))


class Backdrop(NamedTuple):
    """A sky, a ground below the horizon, noise over both, a pattern on the ground and, perhaps, water.

    Heights are in units of the frame, from the top. roughness: amplitude of the noise above and below the horizon; a
    small one leaves the region nearly flat. waterline: where water begins if there is any; None in a world without it.
    """

    sky: Paint
    ground: Paint
    horizon: float
    roughness: tuple[float, float]
    pattern: Texture
    pattern_strength: float
    noise: int
    waterline: float | None = None
    water: bool = False
    water_hue: float = 0.55

    @classmethod
    def draw(cls, stream: Stream) -> "Backdrop":
        """A random landscape."""
        hue, ground_hue, tone = stream.child("hue"), stream.child("ground"), stream.child("roughness")
        sky_hue, sky_value = hue.uniform(), hue.uniform(0.62, 0.95)
        sky = Paint(
            hsv(sky_hue, hue.uniform(0.2, 0.5), sky_value), hsv(sky_hue + hue.uniform(-0.1, 0.1), 0.15, sky_value)
        )
        base, value = ground_hue.uniform(), ground_hue.uniform(0.35, 0.75)
        saturation = ground_hue.uniform(0.15, 0.5)
        ground = Paint(hsv(base, saturation * 0.7, min(value * 1.2, 1.0)), hsv(base + 0.04, saturation, value * 0.7))
        return cls(
            sky=sky,
            ground=ground,
            horizon=stream.child("horizon").uniform(0.25, 0.75),
            roughness=(tone.uniform(0.04, 0.3), tone.uniform(0.15, 0.45)),
            pattern=Texture.draw(stream.child("pattern"), 5.0, 11.0),
            pattern_strength=max(stream.child("pattern strength").uniform(-0.2, 0.25), 0.0),
            noise=stream.child("noise").key,
        )

    def paint(self, size: int) -> Float[np.ndarray, "3 size size"]:
        """The backdrop's picture."""
        noise = colour_noise(self.noise, size)
        height = _heights(size)
        edge = (height - self.horizon) + noise[0] * 0.06
        below = _ramp(edge * 40)
        sky, ground = _gradient(self.sky, height / self.horizon), _gradient(self.ground, height)
        image = sky[:, :, None] + (ground - sky)[:, :, None] * below
        above_noise, below_noise = self.roughness
        image += noise * (above_noise + (below_noise - above_noise) * below)
        if self.pattern_strength:
            image *= 1 - self._ground_pattern(size) * below * self.pattern_strength
        if self.water:
            self._flood(image, noise)
        return image

    def _ground_pattern(self, size: int) -> Float[np.ndarray, "size size"]:
        x, y = _grid(size)
        return self.pattern(x, y, 1 / size)

    def _flood(self, image: Float[np.ndarray, "3 size size"], noise: Float[np.ndarray, "3 size size"]) -> None:
        """Water with ripples that grow towards the viewer, and light crests."""
        size = image.shape[1]
        height = _heights(size)
        covered = _ramp((height - self.waterline) * size + 0.5)
        ripples = _ripples(self.noise, size)
        crests = _ramp((ripples - 0.66) * 12) * 0.16
        paint = Paint(hsv(self.water_hue, 0.35, 0.85), hsv(self.water_hue + 0.05, 0.7, 0.45))
        water = _gradient(paint, height)[:, :, None] + (ripples - 0.5) * 0.22 + crests + noise * 0.08
        image += (water - image) * covered


def draw_clutter(stream: Stream, limit: int) -> tuple[Thing, ...]:
    """Up to ``limit`` distractors: textured shapes without a class. A larger limit adds some and keeps the others."""
    count = stream.child("count").integer(limit + 1)
    return tuple(_distractor(stream.child(position)) for position in range(count))


def _distractor(stream: Stream) -> Thing:
    x, y, length = stream.uniform(), stream.uniform(), stream.uniform(0.05, 0.2)
    dx, dy = stream.uniform(-1.0, 1.0), stream.uniform(-1.0, 1.0)
    norm = max(abs(dx), abs(dy), 0.1)
    dx, dy = (dx / norm + 0.01) * length, dy / norm * length
    corner = None if stream.chance(0.4) else stream.uniform(0.0, 1.0)
    width, taper = length * stream.uniform(0.3, 0.9), stream.uniform(-0.8, 0.8)
    blob = Blob(x - dx, y - dy, x + dx, y + dy, width, taper, corner)
    paint = toned(stream.uniform(), stream.uniform(0.1, 0.65), stream.uniform(0.35, 0.9))
    texture = Texture.draw(stream.child("texture"), 1.2, 3.0)
    return Thing(None, (Piece("clutter", blob, paint),), Placement(x, y, length * 2), (texture,))


class Scene(NamedTuple):
    """All that there is to render. ``clutter`` belongs to the background; later things lie over earlier ones."""

    backdrop: Backdrop
    clutter: tuple[Thing, ...]
    things: tuple[Thing, ...]


def _ramp(value: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.minimum(np.maximum(value, 0), 1)


@lru_cache(maxsize=8)
def _heights(size: int) -> Float[np.ndarray, "size 1"]:
    return ((np.arange(size, dtype=np.float32) + 0.5) * np.float32(1 / size))[:, None]


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Float[np.ndarray, "size size"], Float[np.ndarray, "size size"]]:
    height = np.ascontiguousarray(np.broadcast_to(_heights(size), (size, size)))
    return np.ascontiguousarray(height.T), height


def _gradient(paint: Paint, height: Float[np.ndarray, "size 1"]) -> Float[np.ndarray, "3 size"]:
    low, high = np.array(paint.low, dtype=np.float32), np.array(paint.high, dtype=np.float32)
    return low[:, None] + (high - low)[:, None] * height[:, 0]


def _ripples(key: int, size: int) -> Float[np.ndarray, "size size"]:
    """Noise in [0, 1) that is stretched sideways, more so near the top of the frame."""
    table = lattice(key ^ 3, 64, 64)
    height = _heights(size)[:, 0]
    rows = height * (52 - height * 24)
    top = rows.astype(np.int32)
    down = (rows - top)[:, None]
    field = table[top] + (table[top + 1] - table[top]) * down
    columns = _heights(size)[:, 0] * 9
    left = columns.astype(np.int32)
    across = columns - left
    return field[:, left] + (field[:, left + 1] - field[:, left]) * across
