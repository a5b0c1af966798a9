r"""The boxes of all contours of a map, at every threshold, in one pass.

clovaai/wsolevaluation cuts a map at every threshold, calls OpenCV's ``findContours`` with ``RETR_TREE`` and boxes what
comes back. A map of 8 bits has at most 256 different cuts, and their contours change little from one to the next:
:mod:`wsl_core.metrics.component_tree` has them all. The rules, to the letter:

- lit is u > t, strictly; lit pixels that touch at a corner are connected, unlit ones are not;
- **the borders of holes are contours too**, and so are those of components inside holes. The border of a hole runs on
  the lit pixels around it, so its box is the hole's, grown by one pixel on each side;
- the box of a contour from column x of width w ends at min(x + w, W - 1), *inclusive*: one pixel further than the
  contour, but for those that reach the last column; rows likewise;
- the largest contour is the one whose **polygon**, through the centres of its pixels, has the largest area. That is the
  component with its holes filled: one for each block of 2 x 2 pixels that it covers, one half for each block that it
  covers but for one pixel. Of equal ones it is the one that OpenCV lists first, whose topmost row, and there the
  leftmost pixel, comes last in reading order;
- without any contour the box is the pixel at the origin.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer, Shaped, UInt8

from wsl_core.metrics.component_tree import ComponentTree, Runs, component_tree

__all__ = ["Contours", "find_contours", "highest_per_level"]

NO_CONTOUR = (0, 0, 1, 1)


@dataclass(frozen=True)
class Contours:
    """All contours of a map at all levels. Boxes are x0, y0, x1, y1 in pixels, half-open.

    Attributes:
        boxes: one for all levels at which a contour is the same.
        low: the first level t at which the contour is there.
        high: the first level t above at which it is there no longer.
        largest: for each level, the box of the contour with the largest polygon.
    """

    boxes: Int[np.ndarray, "N 4"]
    low: Int[np.ndarray, " N"]
    high: Int[np.ndarray, " N"]
    largest: Int[np.ndarray, "256 4"]


def find_contours(levels: UInt8[np.ndarray, "H W"]) -> Contours:
    """The contours of the pixels above t, for all levels t from 0 to 255.

    Costs a few passes over the pixels for three component trees, whatever the number of thresholds.

    Args:
        levels: the map in 8 bits.

    >>> ring = np.array([[9, 9, 9], [9, 0, 9], [9, 9, 9]], np.uint8)
    >>> contours = find_contours(np.pad(ring, 2))
    >>> contours.largest[[8, 9]].tolist()
    [[2, 2, 6, 6], [0, 0, 1, 1]]
    >>> contours.boxes[(contours.low <= 8) & (8 < contours.high)].tolist()  # the ring and its hole
    [[2, 2, 6, 6], [2, 2, 6, 6]]
    """
    height, width = levels.shape
    padded = np.zeros((height + 2, width + 2), np.int32)  # beyond the map lies 0, the lowest of all
    padded[1:-1, 1:-1] = levels
    padded[1:-1, 1:-1] += 1
    runs = Runs(padded)

    lit = component_tree(runs, runs.value, neighbours=8)
    first, box = _extents(lit, runs)
    outer = _official(box, height, width), *_lit_levels(lit)

    unlit = component_tree(runs, 256 - runs.value, neighbours=4)  # u <= t is 256 - value >= 255 - t
    first, box = _extents(unlit, runs)
    hole = np.flatnonzero(first)  # pixel 0 is outside the map, and so is what is connected to it
    inner = _official(box[:, hole], height, width, grown=1), (255 - unlit.level)[hole], (255 - unlit.floor)[hole]

    none = np.array([NO_CONTOUR]), np.array([levels.max(initial=0)], np.int64), np.array([256])
    boxes, low, high = map(np.concatenate, zip(outer, inner, none, strict=True))
    return Contours(boxes, low, high, _largest(runs, _filled(unlit, first == 0), height, width))


def highest_per_level(
    low: Int[np.ndarray, " N"], high: Int[np.ndarray, " N"], values: Shaped[np.ndarray, " N"]
) -> Shaped[np.ndarray, "256"]:
    """At each level, the highest value of those whose range low <= level < high it is in; 0 where it is in none.

    A range is the union of two of the same power of two: each value is entered twice and then handed down.

    >>> highest_per_level(np.array([0, 2]), np.array([4, 3]), np.array([5, 7]))[:5].tolist()
    [5, 5, 7, 5, 0]
    """
    there = np.flatnonzero(low < high)
    low, high, values = low[there], high[there], values[there]
    power = np.frexp(high - low)[1] - 1  # 2 ** power is at most the length, and more than half of it
    table = np.zeros((9, 256), values.dtype)  # [k, t]: of ranges t <= level < t + 2 ** k
    np.maximum.at(table, (power, low), values)
    np.maximum.at(table, (power, high - (1 << power)), values)
    for k in range(8, 0, -1):
        half = 1 << (k - 1)
        np.maximum(table[k - 1], table[k], out=table[k - 1])
        np.maximum(table[k - 1, half:], table[k, :-half], out=table[k - 1, half:])
    return table[0]


def _lit_levels(tree: ComponentTree) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """The range of t in which {value >= t + 2}, which is {u > t}, has the component."""
    return np.maximum(tree.floor - 1, 0), tree.level - 1


def _extents(tree: ComponentTree, runs: Runs) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, "4 N"]]:
    """The first pixel of each component in reading order, and its first and last column and row: x0, y0, x1, y1."""
    values = np.full((4, len(tree.level)), -runs.of.size, np.int32)
    for highest, per_run in zip(values, (-runs.start.astype(np.int32), -runs.left, runs.right, runs.row), strict=True):
        np.maximum.at(highest, tree.node, per_run)
    first, left, right, bottom = tree.gather(values, np.maximum).astype(np.int64)
    return -first, np.stack([-left, -first // runs.width, right, bottom])


def _official(box: Int[np.ndarray, "4 N"], height: int, width: int, grown: int = 0) -> Int[np.ndarray, "N 4"]:
    """The half-open box of a contour from its inclusive extents, of which the map's padding is taken off."""
    x0, y0, x1, y1 = box
    return np.stack(
        [x0 - 1 - grown, y0 - 1 - grown, np.minimum(x1 + grown + 1, width), np.minimum(y1 + grown + 1, height)], axis=1
    )


def _filled(unlit: ComponentTree, outside: np.ndarray) -> Int[np.ndarray, " R"]:
    """The value of each run when the holes are filled at every level: that at which it is connected to the outside."""
    node = np.where(outside, np.arange(len(unlit.parent)), unlit.parent)
    while not outside[node].all():
        node = node[node]
    return (256 - unlit.level)[node].take(unlit.node)


def _largest(runs: Runs, filled: Int[np.ndarray, " R"], height: int, width: int) -> Int[np.ndarray, "256 4"]:
    """At each level, the box of the contour with the largest polygon; of equal ones, of that which begins last."""
    tree = component_tree(runs, filled, neighbours=8)
    first, box = _extents(tree, runs)
    order = np.lexsort((first, _polygon_areas(tree, runs, runs.keys(filled))))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    low, high = _lit_levels(tree)
    boxes = _official(box, height, width)[order[highest_per_level(low, high, rank)]]
    boxes[filled.max() - 1 :] = NO_CONTOUR
    return boxes


def _polygon_areas(tree: ComponentTree, runs: Runs, keys: Integer[np.ndarray, " P"]) -> Int[np.ndarray, " N"]:
    """Twice the area of each component's polygon.

    A block of 2 x 2 pixels adds one as soon as three of them are lit, and another one with the fourth: it counts for
    the components of its second lowest and of its lowest pixel.
    """
    low, high = np.minimum(keys[:-1], keys[1:]), np.maximum(keys[:-1], keys[1:])
    above, below = np.s_[: -runs.width], np.s_[runs.width :]
    lowest = np.minimum(low[above], low[below])
    second = np.minimum(np.maximum(low[above], low[below]), np.minimum(high[above], high[below]))
    node = tree.node.take(runs.of)
    blocks = [np.bincount(node.take(runs.pixels(k)), minlength=len(tree.level)) for k in (lowest, second)]
    return tree.gather(np.sum(blocks, axis=0, keepdims=True), np.add)[0]
