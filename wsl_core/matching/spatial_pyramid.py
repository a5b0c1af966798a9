r"""DSP: Kim, Liu, Sha and Grauman, Deformable Spatial Pyramid Matching for Fast Dense Correspondences, CVPR 2013.

The image is cut into a pyramid: itself, its quarters, their quarters. Each of these nodes moves as a whole, by a
translation that makes it look alike and that differs little from the translations of its parent, its children and its
neighbours. At last each cell moves by itself, near to what its node does.

Written from the paper's equations. In the released code only the script that calls the compiled parts could be read:
its numbers stand below. What those parts do, and how they are joined, is reconstructed.
"""

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsl_core.errors import UsageError
from wsl_core.matching.correspondence import Correspondence, DescriptorMap, at_cells, check_descriptors

__all__ = ["dsp"]

MOST_SAMPLES = 2500  # cells of an image that the nodes look at; the released code's
MOST_ITERATIONS = 50  # of belief propagation; the released code's
CONVERGED = 1e-6  # the largest change of a message


def dsp(
    a: DescriptorMap,
    b: DescriptorMap,
    window: float = 0.5,
    cell_window: int = 6,
    levels: int = 3,
    smoothness: float = 1.6,
    jump: float = 0.25,
    truncation: float = 1.0,
) -> Correspondence:
    r"""For every cell of a its match in b, by deformable spatial pyramid matching.

    The nodes $i$ of the pyramid take the translations $t_i$ that minimise
    $E(t) = \sum_i \frac{1}{|i|}\sum_{p\in i} d(p, p + t_i) + \sum_{ij} \min(\alpha\,\|t_i - t_j\|_1, \gamma)$, where
    $ij$ are parents with their children and neighbours within a level. The data cost
    $d(p, q) = \min(\|a_p - b_q\|_1 / (\lambda\,\bar d), 1)$ is a truncated $L_1$ distance; with $\bar d$, the mean
    distance of a descriptor of a to one of b, descriptors of any scale will do. A place beside image b costs 1, as the
    worst match. Loopy belief propagation minimises $E$; the best labelling on its way, single translations included, is
    kept. Each cell $p$ of node $i$ then minimises $d(p, p + t_p) + \alpha\,\|t_p - t_i\|_1$. Of equal costs the shorter
    way wins.

    With $\alpha = \gamma = \infty$ everything moves by one translation. With $\alpha = 0$ each cell takes the nearest
    neighbour, by the $L_1$ distance, within its window around its node's match.

    The nodes look at every n-th cell and translation, so that there are at most 2,500 cells of an image and their cost
    does not grow with it. That of the last step is linear in the cells, in ``cell_window`` squared and in the channels.

    Args:
        window: the largest translation of a node, a share of the larger map's height and width. The released code's
            is a half.
        cell_window: how many cells in each direction a cell may move away from its node's translation. The released
            code's is 20 pixels, then 4.
        levels: levels of the pyramid, the last of which has $2^{levels - 1}$ nodes a side; the paper's is 3.
        smoothness: $\alpha$, for a way as long as the longer side of a. The released code's is 0.005 a pixel: 1.6 on
            an image of 320 pixels.
        jump: $\gamma$, what two nodes that move apart cost at most; the released code's is 0.25.
        truncation: $\lambda$, from which share of the mean distance on descriptors count as unlike. The released code
            has 500 for a SIFT descriptor of its scale.

    Returns:
        Scores are $-d$. A cell is not valid where its translation leads beside image b.

    Raises:
        UsageError: an argument is out of range, or a map has fewer cells a side than the last level has nodes.
        DataError: a map has no cell, or holds NaN or infinity.

    >>> from wsl_core.ops import Grid
    >>> scene = torch.rand(8, 12, 20, generator=torch.Generator().manual_seed(0))
    >>> a, b = (DescriptorMap(scene[:, :, left : left + 16], Grid(stride=4, first=2)) for left in (0, 3))
    >>> dsp(a, b).positions[5, 8].tolist()  # 3 cells to the left of (34, 22)
    [22.0, 22.0]
    """
    _check(window, cell_window, levels, smoothness, jump, truncation)
    a, b = check_descriptors(a, b)
    shape_a, shape_b = a.features.shape[1:], b.features.shape[1:]
    if min(shape_a) < 2 ** (levels - 1):
        raise UsageError(f"levels={levels}: a map of {tuple(shape_a)} cells has fewer than {2 ** (levels - 1)} a side.")
    step = math.ceil(math.sqrt(max(math.prod(shape_a), math.prod(shape_b)) / MOST_SAMPLES))
    seen_a, seen_b = (described.features[:, ::step, ::step] for described in (a, b))
    distances = torch.cdist(seen_a.flatten(1).T.contiguous(), seen_b.flatten(1).T.contiguous(), p=1)
    scale = (truncation * distances.mean().item()) or 1.0  # every distance between flat images is 0
    distances = (distances / scale).clamp(max=1).unflatten(1, seen_b.shape[1:]).unflatten(0, seen_a.shape[1:])
    rows, columns = (_translations(max(sides), window, step, distances) for sides in zip(shape_a, shape_b))
    leaf = _leaves(shape_a, levels, distances)  # of each cell
    costs = _node_costs(distances, rows // step, columns // step, leaf[::step, ::step], levels)
    way = smoothness / max(shape_a)  # what a way of one cell costs
    moves = torch.cartesian_prod(rows, columns)
    chosen = _best_labels(_Pyramid(costs.double(), _edges(levels, distances), moves, way, way * step, jump))
    leaf_moves = moves[chosen[-(4 ** (levels - 1)) :]]
    cells, cost, inside = _move_cells(a.features, b.features, leaf_moves[leaf], cell_window, way, scale)
    return at_cells(a, b, cells, -cost, inside)


class _Pyramid(NamedTuple):
    """Nodes, level after level from the root on, and what it costs to move them."""

    costs: Float[Tensor, "N Y X"]  # of each node's translations, Y by rows, X by columns
    edges: Int[Tensor, "E 2"]
    moves: Int[Tensor, "L 2"]  # the L = Y X translations, in rows and columns of cells
    way: float  # what two linked nodes pay for a difference of one cell
    way_of_step: float  # and for one of neighbouring translations
    jump: float  # the most they pay


def _check(window: float, cell_window: int, levels: int, smoothness: float, jump: float, truncation: float) -> None:
    if not 0 <= window <= 1:
        raise UsageError(f"window={window}: expected a share of the map in [0, 1].")
    if cell_window < 0:
        raise UsageError(f"cell_window={cell_window}: expected a number of cells, at least 0.")
    if levels < 1:
        raise UsageError(f"levels={levels}: expected at least 1.")
    if not smoothness >= 0 or not jump >= 0:
        raise UsageError(f"smoothness={smoothness}, jump={jump}: expected numbers that are not below 0.")
    if not 0 < truncation < math.inf:
        raise UsageError(f"truncation={truncation}: expected a finite number above 0.")


def _translations(side: int, window: float, step: int, like: Tensor) -> Int[Tensor, " T"]:
    """Multiples of ``step`` up to a share of ``side``, in both directions."""
    reach = int(window * side) // step
    return step * torch.arange(-reach, reach + 1, device=like.device)


def _leaves(shape: tuple[int, int], levels: int, like: Tensor) -> Int[Tensor, "h w"]:
    """Which node of the last level each cell belongs to."""
    nodes = 2 ** (levels - 1)
    row, column = (torch.arange(side, device=like.device) * nodes // side for side in shape)
    return row[:, None] * nodes + column


def _edges(levels: int, like: Tensor) -> Int[Tensor, "E 2"]:
    """Every node with its right and lower neighbour and with its parent."""
    numbers = [torch.arange(4**level).view(2**level, 2**level) + (4**level - 1) // 3 for level in range(levels)]
    pairs = []
    for level, nodes in enumerate(numbers):
        pairs += [(nodes[:, :-1], nodes[:, 1:]), (nodes[:-1], nodes[1:])]
        if level:
            pairs.append((numbers[level - 1].repeat_interleave(2, 0).repeat_interleave(2, 1), nodes))
    return torch.cat([torch.stack([one.flatten(), other.flatten()], 1) for one, other in pairs]).to(like.device)


def _node_costs(
    distances: Float[Tensor, "h w h2 w2"],
    rows: Int[Tensor, " Y"],
    columns: Int[Tensor, " X"],
    leaf: Int[Tensor, "h w"],
    levels: int,
) -> Float[Tensor, "N Y X"]:
    """The mean of d over the cells of each node, for each translation."""
    height, width, height_b, width_b = distances.shape
    nodes = 2 ** (levels - 1)
    sums = distances.new_zeros(nodes**2, len(rows), len(columns))
    own = torch.arange(width, device=rows.device)
    x = own[:, None] + columns
    for i in range(height):  # a row of cells at a time: memory stays small
        y = i + rows
        on_y, on_x = y.clamp(0, height_b - 1), x.clamp(0, width_b - 1)
        inside = (y == on_y)[:, None] & (x == on_x)[:, None]
        at = distances[i][own[:, None, None], on_y[:, None], on_x[:, None]]
        sums.index_add_(0, leaf[i], torch.where(inside, at, 1.0))
    counts = leaf.flatten().bincount(minlength=nodes**2).to(sums)
    sums, counts = sums.unflatten(0, (nodes, nodes)), counts.view(nodes, nodes)
    means = []
    while True:
        means.append((sums / counts.clamp(min=1)[..., None, None]).flatten(0, 1))
        if len(sums) == 1:
            return torch.cat(means[::-1])
        sums, counts = (of.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).sum(dim=(1, 3)) for of in (sums, counts))


def _best_labels(pyramid: _Pyramid) -> Int[Tensor, " N"]:
    """The translations, numbers of ``moves``, of lowest energy that min-sum loopy belief propagation passes.

    It need not converge, and its last labelling need not be its best one.
    """
    costs, edges = pyramid.costs, pyramid.edges
    source, target = torch.cat([edges, edges.flip(1)]).T
    messages = costs.new_zeros(len(source), *costs.shape[1:])
    best = _shortest_of_cheapest(costs.sum(dim=0, keepdim=True), pyramid.moves).expand(len(costs))
    lowest = _energy(best, pyramid)
    for _ in range(MOST_ITERATIONS):
        beliefs = costs.index_add(0, target, messages)
        labels = _shortest_of_cheapest(beliefs, pyramid.moves)
        if (energy := _energy(labels, pyramid)) < lowest:
            best, lowest = labels, energy
        sent = beliefs[source] - messages.roll(len(edges), 0)  # without what the receiver itself has sent
        sent = _lower_envelope(sent, pyramid.way_of_step, pyramid.jump)
        sent -= sent.amin(dim=(1, 2), keepdim=True)
        change, messages = (sent - messages).abs().max(), sent
        if change < CONVERGED:
            break
    return best


def _shortest_of_cheapest(costs: Float[Tensor, "N Y X"], moves: Int[Tensor, "L 2"]) -> Int[Tensor, " N"]:
    order = moves.abs().sum(dim=1).argsort(stable=True)
    return order[costs.flatten(1)[:, order].argmin(dim=1)]


def _energy(labels: Int[Tensor, " N"], pyramid: _Pyramid) -> float:
    alone = pyramid.costs.flatten(1).gather(1, labels[:, None]).sum()
    apart = (pyramid.moves[labels[pyramid.edges]].diff(dim=1)).abs().sum(dim=(1, 2))
    together = torch.where(apart > 0, pyramid.way * apart, 0.0).clamp(max=pyramid.jump)  # infinity times 0 is none
    return (alone + together.sum()).item()


def _lower_envelope(costs: Float[Tensor, "M Y X"], way: float, jump: float) -> Float[Tensor, "M Y X"]:
    r"""$\min_{t'} c(t') + \min(\alpha\,\|t - t'\|_1, \gamma)$ for every $t$.

    A way of any length is a sum of different powers of two, each of which is gone or not: logarithmic in the window.
    """
    highest = costs.amin(dim=(1, 2), keepdim=True) + jump
    costs = costs.clone()
    for dim in (1, 2):
        length, power = costs.shape[dim], 1
        while power < length:
            left, right = costs.narrow(dim, 0, length - power), costs.narrow(dim, power, length - power)
            from_left, from_right = left + way * power, right + way * power
            right.copy_(torch.minimum(right, from_left))
            left.copy_(torch.minimum(left, from_right))
            power *= 2
    return torch.minimum(costs, highest)


def _length(way: tuple[int, int]) -> int:
    return abs(way[0]) + abs(way[1])


def _move_cells(
    a: Float[Tensor, "D h w"],
    b: Float[Tensor, "D h2 w2"],
    moves: Int[Tensor, "h w 2"],
    window: int,
    way: float,
    scale: float,
) -> tuple[Int[Tensor, "h w 2"], Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """The cell of b that each cell of a takes near to its node's, its d, and whether it lies on b."""
    shape_a, shape_b = a.shape[1:], b.shape[1:]
    a, b = (features.flatten(1).T.contiguous() for features in (a, b))
    own = torch.cartesian_prod(*(torch.arange(side, device=moves.device) for side in shape_a))
    start = own + moves.flatten(0, 1)
    around = itertools.product(range(-window, window + 1), repeat=2)
    last = torch.tensor(shape_b, device=moves.device) - 1
    lowest = a.new_full((len(a),), torch.inf)
    cells, unlike, on_b = start, lowest, torch.zeros_like(lowest, dtype=torch.bool)
    for down, right in sorted(around, key=_length):  # of equal costs the first, the shortest way, stays
        goal = start + start.new_tensor([down, right])
        nearby = goal.clamp(min=0).minimum(last)
        inside = (goal == nearby).all(dim=1)
        row, column = nearby.unbind(1)
        away = b.index_select(0, row * shape_b[1] + column).sub_(a).abs_().sum(dim=1) / scale
        distance = torch.where(inside, away.clamp(max=1), 1.0)
        cost = distance + (way * _length((down, right)) if down or right else 0.0)  # infinity times 0 is none
        better = cost < lowest
        lowest = torch.where(better, cost, lowest)
        cells = torch.where(better[:, None], goal, cells)
        unlike, on_b = torch.where(better, distance, unlike), torch.where(better, inside, on_b)
    return cells.unflatten(0, shape_a), unlike.unflatten(0, shape_a), on_b.unflatten(0, shape_a)
