"""Random numbers and textures that are the same on every machine.

A random number is a hash of the *names* that lead to it, so that two properties never share a stream: changing how one
is drawn leaves all others as they were. Numbers and textures are made with integer arithmetic and + - * / sqrt alone.
These are exact in IEEE 754, so the pixels do not depend on the processor. Sums over arrays and matrix products are
avoided, because their order differs between machines.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Stream", "Texture", "TEXTURES", "lattice", "colour_noise", "rotation"]

Item = TypeVar("Item")

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TABLE = 16  # a texture's noise repeats after so many cells
_TABLES = 64  # and is one of so many, which are kept


def _scramble(word: int) -> int:
    """The output function of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


class Stream:
    """A stream of random numbers that depends on its path of names and on nothing else.

    >>> Stream("zoo", 7, "hue").uniform() == Stream("zoo", 7).child("hue").uniform()
    True
    >>> Stream("zoo", 7, "hue").uniform() == Stream("zoo", 7, "pose").uniform()
    False
    """

    __slots__ = ("path", "key", "_word")

    def __init__(self, *path: str | int):
        self.path = "/".join(map(str, path))
        self.key = int.from_bytes(blake2b(self.path.encode(), digest_size=8).digest(), "little")
        self._word = self.key

    def child(self, *path: str | int) -> "Stream":
        """The stream of a property of what this stream stands for."""
        return Stream(self.path, *path)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number in [low, high)."""
        self._word = (self._word + _GOLDEN) & _WORD
        return low + (high - low) * ((_scramble(self._word) >> 11) * 2.0**-53)

    def integer(self, count: int) -> int:
        """The next integer in 0, ..., count - 1."""
        return int(self.uniform() * count)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of ``items``."""
        return items[self.integer(len(items))]

    def chance(self, probability: float) -> bool:
        """True with this probability: never for 0, always for 1."""
        return self.uniform() < probability

    def permutation(self, count: int) -> list[int]:
        """The integers 0, ..., count - 1 in random order."""
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.integer(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def rotation(half_tangent: float) -> tuple[float, float]:
    """Cosine and sine of an angle, given the tangent t of its half: ((1 - t^2) / (1 + t^2), 2 t / (1 + t^2)).

    >>> rotation(1.0)  # a right angle
    (0.0, 1.0)
    """
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def lattice(key: int, *shape: int) -> Float[np.ndarray, "..."]:
    """Independent random numbers in [0, 1), float32, on a lattice of this shape.

    >>> lattice(3, 2, 4).shape
    (2, 4)
    """
    count = 1
    for extent in shape:
        count *= extent
    word = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return ((word >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


@lru_cache(maxsize=64)
def _between(cells: int, points: int, ends: bool) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Left neighbour and smooth weight of ``points`` positions across a lattice of ``cells`` cells.

    With ``ends`` the positions include both borders (a finer lattice), otherwise they are pixel centres.
    """
    position = np.arange(points, dtype=np.float64)
    position = position / (points - 1) * cells if ends else (position + 0.5) / points * cells
    left = np.minimum(position.astype(np.int64), cells - 1)
    weight = position - left
    return left, (weight * weight * (3 - 2 * weight)).astype(np.float32)


def _enlarge(field: Float[np.ndarray, "C h w"], points: int, ends: bool) -> Float[np.ndarray, "C p p"]:
    left, weight = _between(field.shape[1] - 1, points, ends)
    steps = field[:, 1:] - field[:, :-1]
    field = field[:, left] + steps[:, left] * weight[:, None]
    steps = field[:, :, 1:] - field[:, :, :-1]
    return field.take(left, axis=2) + steps.take(left, axis=2) * weight


def colour_noise(key: int, size: int) -> Float[np.ndarray, "3 size size"]:
    """Three octaves of colour noise around 0, within [-1, 1].

    Each octave is added on its own coarse lattice and the sum is enlarged: one full-frame interpolation in all.

    >>> colour_noise(1, 32).shape
    (3, 32, 32)
    """
    field = _octave(key, 5)
    field = _enlarge(field, 13, ends=True) + _octave(key ^ 1, 13) * 0.6
    field = _enlarge(field, 49, ends=True) + _octave(key ^ 2, 49) * 0.33
    return _enlarge(field, size, ends=False)


def _octave(key: int, points: int) -> Float[np.ndarray, "3 p p"]:
    """Half grey, half colour, within [-1/2, 1/2]."""
    grey_and_colours = lattice(key, 4, points, points) - 0.5
    return (grey_and_colours[1:] + grey_and_colours[0]) * 0.5


TEXTURES = ("stripes", "waves", "checks", "spots", "noise")


class Texture(NamedTuple):
    """A pattern in the coordinates of the thing that wears it, so that it moves along with the thing.

    kind: one of ``TEXTURES``. cells: repetitions per unit of length. (cos, sin): its direction. key: of its noise.
    grain: the share of noise that is laid over the pattern, in [0, 1].
    """

    kind: str
    cells: float
    cos: float
    sin: float
    key: int
    grain: float = 0.3

    @classmethod
    def draw(cls, stream: Stream, low: float = 2.0, high: float = 4.5) -> "Texture":
        """A random pattern with ``low`` to ``high`` repetitions per unit of length."""
        kind = stream.choice(TEXTURES)
        cos, sin = rotation(stream.uniform(-1.0, 1.0))
        return cls(kind, stream.uniform(low, high), cos, sin, stream.key, stream.uniform(0.2, 0.5))

    def __call__(
        self, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], pixel: float
    ) -> Float[np.ndarray, "h w"]:
        """The pattern in [0, 1] at these points; ``pixel`` is a pixel's size in their unit (edges are that wide)."""
        noise = self._noise(x, y)
        if self.kind == "noise":
            return noise
        along = (x * self.cos + y * self.sin) * self.cells
        across = (y * self.cos - x * self.sin) * self.cells
        edge = self.cells * pixel
        if self.kind == "spots":
            gap_x, gap_y = _from_middle(along), _from_middle(across)
            pattern = _step(0.33 - np.sqrt(gap_x * gap_x + gap_y * gap_y), edge)
        elif self.kind == "checks":
            pattern = _step(_wave(along) * _wave(across), 4 * edge)
        elif self.kind == "waves":
            pattern = _step(_wave(along + 0.35 * _wave(across)), 8 * edge)
        else:
            pattern = _step(_wave(along), 4 * edge)
        return pattern + (noise - pattern) * self.grain

    def _noise(self, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """Value noise with eight cells per unit, smooth between them."""
        table = _table(self.key % _TABLES)
        column, row = x * 8 + 1024, y * 8 + 1024  # positive, so that truncation is floor
        left, top = column.astype(np.int32), row.astype(np.int32)
        right, down = column - left, row - top
        base, below = (top & 15) * _TABLE, ((top + 1) & 15) * _TABLE
        left, beside = left & 15, (left + 1) & 15
        upper = table.take(base + left)
        upper += (table.take(base + beside) - upper) * right
        lower = table.take(below + left)
        lower += (table.take(below + beside) - lower) * right
        return upper + (lower - upper) * down


@lru_cache(maxsize=_TABLES)
def _table(number: int) -> Float[np.ndarray, " cells"]:
    return lattice(number, _TABLE * _TABLE)


def _from_middle(position: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return position - np.floor(position) - 0.5


def _wave(position: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """A triangle wave of period 1 and slope 4, between -1 and 1."""
    return np.abs(_from_middle(position)) * 4 - 1


def _step(value: Float[np.ndarray, "h w"], edge: float) -> Float[np.ndarray, "h w"]:
    """0 below zero, 1 above it, and a ramp as wide as ``edge`` between them."""
    return np.minimum(np.maximum(value * (1 / edge) + 0.5, 0), 1)
