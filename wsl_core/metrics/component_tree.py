r"""The connected components of an image above every level at once.

Cut an image at each of its levels, $\{u \ge l\}$: the components nest, and together they form a tree (Salembier,
Oliveras and Garrido, IEEE Transactions on Image Processing 1998). There are at most as many nodes as pixels, whereas
cutting level by level looks at every pixel again at each of them.

How the tree is made, without a loop over pixels: the image is cut into horizontal runs of equal value; along a row
every run climbs to a summit, and from there to the highest neighbour, until it stands on a peak. The runs that reach
one peak are its basin. Two basins are one component from their saddle downwards; then the lower peak's basin joins the
higher peak's (the elder rule of persistent homology). So a node is a pair of a basin and a level.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int, Integer

__all__ = ["LEVELS", "ComponentTree", "Runs", "component_tree"]

LEVELS = 257  # the values of an image are 0 to 256: 8 bits, and one beyond them for what surrounds it


# glibc gives freed memory back to the system, and asks for it again, until something larger has been freed once (see
# mallopt(3), M_MMAP_THRESHOLD). On the arrays here that takes as long as the work itself.
np.empty(2**24, dtype=np.uint8)


@dataclass(frozen=True)
class ComponentTree:
    r"""The components of $\{u \ge l\}$ for all $l$: one node for all the levels at which a component is the same.

    Attributes:
        level: the node is a component for ``floor`` < l <= ``level``.
        floor: the level of the parent; -1 for the root, which is the whole image.
        parent: the smallest larger node; N, the number of nodes, for the root.
        node: for each run of equal value, the node of the component in which it is lowest.
    """

    level: Int[np.ndarray, " N"]
    floor: Int[np.ndarray, " N"]
    parent: Int[np.ndarray, " N"]
    node: Int[np.ndarray, " R"]

    def gather(self, values: Int[np.ndarray, "A N"], combine: np.ufunc) -> Int[np.ndarray, "A N"]:
        """Combine each node's values with those of all nodes below it, by ``np.add`` or ``np.maximum``.

        Costs nodes times the logarithm of the tree's depth.

        >>> runs = Runs(np.array([[0, 0, 0, 0, 0], [0, 1, 2, 1, 0], [0, 0, 0, 0, 0]]))
        >>> tree = component_tree(runs, runs.value, neighbours=8)
        >>> tree.gather(np.bincount(tree.node, runs.length).astype(int)[None], np.add).tolist()
        [[15, 3, 1]]
        """
        rows = np.arange(len(values))[:, None] * (values.shape[1] + 1)
        total = np.concatenate([values, values[:, :1]], axis=1)  # the last column takes what goes beyond the root
        for ancestor in self._ancestors:
            combine.at(total.reshape(-1), (rows + ancestor).reshape(-1), total.reshape(-1).copy())
        return total[:, :-1]

    @cached_property
    def _ancestors(self) -> list[Int[np.ndarray, " _"]]:
        """Each node's ancestor 1, 2, 4, ... steps up, while there is any."""
        beyond = len(self.parent)
        steps = [np.append(self.parent, beyond)]
        while (further := steps[-1][steps[-1]]).min() < beyond:
            steps.append(further)
        return steps


class Runs:
    """An image's horizontal runs of equal value, in reading order; images that are constant on them can share them.

    The image is read as one long row. So that its left and right sides do not touch, its outermost ring of pixels must
    have one value that is lower, or one that is higher, than all others.

    Args:
        image: values from 0 to 256.

    >>> runs = Runs(np.array([[0, 0, 0, 0], [0, 5, 5, 0], [0, 0, 0, 0]]))
    >>> runs.value.tolist(), runs.length.tolist()
    ([0, 5, 0], [5, 2, 5])
    """

    def __init__(self, image: Integer[np.ndarray, "H W"]):
        self.width = image.shape[1]
        self.index, row, column = _grid(*image.shape)
        values = image.reshape(-1)
        ends = np.flatnonzero(values[1:] != values[:-1])
        self.start = np.append(0, ends + 1)  # (R,) the run's first pixel
        self.stop = np.append(ends, values.size - 1)  # (R,) its last
        self.length = self.stop - self.start + 1
        self.of = _numbered(self.start, values.size)  # (H * W,) the run of each pixel
        self.row, self.left, self.right = row.take(self.start), column.take(self.start), column.take(self.stop)
        self.value = values.take(self.start).astype(np.int64)
        self.bits = values.size.bit_length()  # what a pixel's index takes in a key

    def keys(self, value: Int[np.ndarray, " R"]) -> Integer[np.ndarray, " P"]:
        """A number for each pixel that orders pixels by value, equal ones by position; no two are equal."""
        return (value.astype(self.index.dtype).take(self.of) << self.bits) | self.index

    def pixels(self, keys: Integer[np.ndarray, "*N"]) -> Integer[np.ndarray, "*N"]:
        """The pixels that the keys belong to."""
        return keys & ((1 << self.bits) - 1)


def component_tree(runs: Runs, value: Int[np.ndarray, " R"], neighbours: int) -> ComponentTree:
    """The tree of the components of an image that is given by its runs.

    Costs a few passes over the pixels, and memory of 257 numbers a peak.

    Args:
        runs: the image's runs.
        value: the value on each run, 0 to 256.
        neighbours: 8 if pixels that touch at a corner are connected, 4 if they are not.

    >>> runs = Runs(np.array([[0, 0, 0, 0, 0], [0, 2, 1, 3, 0], [0, 0, 0, 0, 0]]))
    >>> tree = component_tree(runs, runs.value, neighbours=8)
    >>> sorted(zip(tree.floor.tolist(), tree.level.tolist()))  # two peaks that meet at level 1
    [(-1, 0), (0, 1), (1, 2), (1, 3)]
    """
    keys = runs.keys(value)
    basin, count = _basins(runs, value, _highest(keys, runs.width, neighbours))
    host, saddle = _elder_rule(count, *_borders(runs, value, basin, neighbours))
    return _nodes(basin, value, host, saddle)


def _highest(keys: Integer[np.ndarray, " P"], width: int, neighbours: int) -> Integer[np.ndarray, " P"]:
    """The highest key among each pixel and its neighbours."""
    highest = keys.copy()
    np.maximum(highest[1:], keys[:-1], out=highest[1:])
    np.maximum(highest[:-1], keys[1:], out=highest[:-1])
    beside = keys if neighbours == 4 else highest.copy()
    np.maximum(highest[width:], beside[:-width], out=highest[width:])
    np.maximum(highest[:-width], beside[width:], out=highest[:-width])
    return highest


def _basins(
    runs: Runs, value: Int[np.ndarray, " R"], highest: Integer[np.ndarray, " P"]
) -> tuple[Integer[np.ndarray, " R"], int]:
    """The basin of each run, numbered from the lowest peak to the highest, and how many there are."""
    rises = np.concatenate([[True], value[:-1] < value[1:], [False]])  # from the run before, and to the run behind
    summits = np.flatnonzero(rises[:-1] > rises[1:])
    valleys = np.flatnonzero(rises[:-1] < rises[1:])  # one between two summits
    slope = _numbered(np.append(0, valleys), len(value))  # (R,) the summit of each run
    step = np.maximum(highest.take(runs.start.take(summits)), highest.take(runs.stop.take(summits)))
    peak = _follow(slope.take(runs.of.take(runs.pixels(step))))  # (summits,) where the steps end
    peaks = np.flatnonzero(peak == np.arange(len(peak)))
    number = np.empty(len(peak), dtype=np.int32)  # half as wide, for speed
    number[peaks[np.argsort(value.take(summits.take(peaks)), kind="stable")]] = np.arange(len(peaks))
    return number.take(peak).take(slope), len(peaks)


def _borders(
    runs: Runs, value: Int[np.ndarray, " R"], basin: Integer[np.ndarray, " R"], neighbours: int
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Pairs of different basins that have neighbouring pixels, and the level from which these two are both there."""
    basin_at = basin.take(runs.of)
    steps = (1, runs.width) if neighbours == 4 else (1, runs.width, runs.width - 1, runs.width + 1)
    here = [np.flatnonzero(basin_at[:-step] != basin_at[step:]) for step in steps]
    there = np.concatenate([pixels + step for pixels, step in zip(here, steps, strict=True)])
    here, there = runs.of.take(np.concatenate(here)), runs.of.take(there)
    return basin[here].astype(int), basin[there].astype(int), np.minimum(value[here], value[there])


def _elder_rule(
    count: int, a: Int[np.ndarray, " E"], b: Int[np.ndarray, " E"], level: Int[np.ndarray, " E"]
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """For each basin, the elder basin that it joins and the level from which it does; the eldest joins itself, at -1.

    In each round every basin looks at its highest saddle. If the basin across has the higher peak, then this is where
    it joins: nothing could have happened to it above. Otherwise it waits; the two that share the highest saddle of all
    never both wait.
    """
    basins = np.arange(count)
    host, saddle = basins.copy(), np.full(count, -1)
    while a.size:
        best = np.full(count, -1)  # the highest saddle and, of several, the one to the highest peak
        np.maximum.at(best, a, level * count + b)
        np.maximum.at(best, b, level * count + a)
        join = np.flatnonzero((best >= 0) & (best % count > basins))
        host[join], saddle[join] = best[join] % count, best[join] // count
        into = basins.copy()
        into[join] = host[join]
        into = _follow(into)
        a, b = into.take(a), into.take(b)
        open_ = np.flatnonzero(a != b)
        a, b, level = a.take(open_), b.take(open_), level.take(open_)
    return host, saddle


def _nodes(
    basin: Integer[np.ndarray, " R"],
    value: Int[np.ndarray, " R"],
    host: Int[np.ndarray, " B"],
    saddle: Int[np.ndarray, " B"],
) -> ComponentTree:
    """The tree from what is known of the basins. A pair of basin and level is written basin * LEVELS + level."""
    pair = basin.astype(np.int64) * LEVELS + value
    table = np.zeros(len(host) * LEVELS, dtype=np.int64)
    table[pair] = 1
    pairs = np.flatnonzero(table)
    names = _eldest(pairs, host, saddle)  # one pair for each component
    table[pairs] = 0
    table[names] = 1
    nodes = np.flatnonzero(table)
    table[nodes] = np.arange(len(nodes))

    elder, level = np.divmod(nodes, LEVELS)
    parent = np.arange(-1, len(nodes) - 1)  # a basin's next lower node stands before it
    lowest = np.flatnonzero(np.append(True, elder[1:] != elder[:-1]))
    parent[lowest[-1]] = len(nodes)  # of the eldest basin: the root
    joins = elder[lowest[:-1]]
    parent[lowest[:-1]] = table[_eldest(host[joins] * LEVELS + saddle[joins], host, saddle)]
    table[pairs] = table[names]
    return ComponentTree(level, np.append(level, -1)[parent], parent, table.take(pair))


def _eldest(
    pair: Int[np.ndarray, " N"], host: Int[np.ndarray, " B"], saddle: Int[np.ndarray, " B"]
) -> Int[np.ndarray, " N"]:
    """The pair with the eldest basin of the same component at that level."""
    basin, level = np.divmod(pair, LEVELS)
    joined = np.flatnonzero(saddle.take(basin) >= level)
    while joined.size:
        basin[joined] = host.take(basin.take(joined))
        joined = joined[saddle.take(basin.take(joined)) >= level.take(joined)]
    return basin * LEVELS + level


def _numbered(start: Int[np.ndarray, " S"], size: int) -> Int[np.ndarray, " {size}"]:
    """The number of the section in which each of ``size`` things lies, from where the sections start."""
    number = np.zeros(size, dtype=np.int64)
    number[start[1:]] = 1
    return number.cumsum()


def _follow(pointer: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Where each pointer leads in the end, at something that points to itself."""
    while not np.array_equal(further := pointer.take(pointer), pointer):
        pointer = further
    return pointer


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> tuple[Integer[np.ndarray, " P"], ...]:
    """Index, row and column of each pixel, in small types, for speed; that of the index holds a key as well."""
    index = np.arange(height * width, dtype=np.int32)
    row, column = np.divmod(index, width)
    return index.astype(np.min_scalar_type(-(LEVELS << index.size.bit_length()))), row, column
