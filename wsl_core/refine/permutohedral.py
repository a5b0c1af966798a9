r"""Gaussian filtering of scattered points, linear in their number: the permutohedral lattice.

Adams, Baek and Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010. Points of d
dimensions lie in simplices of d + 1 vertices. *Splat* spreads each point's value over its vertices, *blur* mixes
neighbouring vertices along each of d + 1 directions, *slice* reads the result at the points. Only vertices that some
point touches exist, which is why colour can be among the dimensions.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from wsl_core.errors import UsageError

__all__ = ["PermutohedralLattice"]

LARGEST_CODE = 2**62  # of a vertex, in 64 bits


class PermutohedralLattice:
    r"""The filter $v_i \mapsto \sum_j k(f_i, f_j)\, v_j$ with $k(f, g) \approx \exp(-\lVert f - g\rVert^2 / 2)$.

    The kernel is approximate, it includes j = i, and its scale is arbitrary: divide by what a filtered constant gives.
    Images of a batch do not mix. Memory and time are linear in the points and in the vertices, of which there are at
    most d + 1 a point, and far fewer where points are close together.

    Args:
        features: positions of the N points of each of B images, in units of the kernel's standard deviation.

    Raises:
        UsageError: the features spread over more vertices than can be numbered.

    >>> lattice = PermutohedralLattice(torch.tensor([[[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]]]))
    >>> near, same, far = lattice.filter(torch.tensor([[[1.0], [0.0], [0.0]]]))[0, :, 0].tolist()
    >>> near > 0 and same > 0, far
    (True, 0.0)
    """

    def __init__(self, features: Float[Tensor, "B N d"]):
        d = features.shape[-1]
        corners, ranks, weights = _enclosing_simplices(features.float())
        strides = _strides(corners, d)
        image = torch.arange(len(features), device=features.device)[:, None] * strides[-1]
        codes = torch.stack(
            [_vertex_codes(corners, ranks, k, strides[:-1]) + image for k in range(d + 1)], dim=-1
        )  # (B, N, d + 1)
        vertices, self._vertex_of, counts = codes.flatten().unique(return_inverse=True, return_counts=True)
        order = self._vertex_of.argsort(stable=True)
        self._vertex_of, self._weights = self._vertex_of.view(-1, d + 1), weights.view(-1, d + 1)
        self._points, self._point_weights = order // (d + 1), weights.flatten()[order]  # sorted by their vertex
        self._starts = counts.cumsum(0) - counts
        self._neighbours = [_neighbours(vertices, step) for step in _directions(strides[:-1])]

    def filter(self, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Filter each of the C channels."""
        flat = values.flatten(0, 1).float()
        mixed = embedding_bag(self._points, flat, self._starts, mode="sum", per_sample_weights=self._point_weights)
        mixed = torch.cat([mixed, torch.zeros_like(mixed[:1])])  # the last row stands for vertices that do not exist
        for before, after in self._neighbours:
            mixed = mixed + (mixed[before] + mixed[after]) / 2
        sliced = embedding_bag(self._vertex_of, mixed, mode="sum", per_sample_weights=self._weights)
        return sliced.view_as(values).to(values.dtype)


def _enclosing_simplices(
    features: Float[Tensor, "B N d"],
) -> tuple[Int[Tensor, "B N d1"], Int[Tensor, "B N d1"], Float[Tensor, "B N d1"]]:
    """Each point's simplex: its corner of remainder 0, the rank of every coordinate, and the barycentric weights."""
    d = features.shape[-1]
    scaled = features @ _elevation(d).to(features).T  # on the hyperplane whose coordinates sum to 0
    corners = (scaled / (d + 1)).round().long() * (d + 1)
    excess = corners.sum(-1, keepdim=True) // (d + 1)
    ranks = (scaled - corners).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + excess
    wrapped = ((ranks < 0).long() - (ranks > d).long()) * (d + 1)  # bring the corner back onto the hyperplane
    ranks, corners = ranks + wrapped, corners + wrapped
    offsets = (scaled - corners) / (d + 1)
    by_rank = torch.empty_like(offsets).scatter_(-1, d - ranks, offsets)  # the smallest offset first
    weights = by_rank - by_rank.roll(1, dims=-1)
    weights[..., 0] += 1
    return corners, ranks, weights


def _elevation(d: int) -> Float[Tensor, "d1 d"]:
    """The map of d dimensions onto the hyperplane; after splat, blur and slice the standard deviation is one."""
    axis = torch.arange(d, dtype=torch.float64)
    basis = torch.ones(d + 1, d, dtype=torch.float64).triu(0)
    basis[axis.long() + 1, axis.long()] = -(axis + 1)
    return basis * (d + 1) * (2 / 3) ** 0.5 / ((axis + 1) * (axis + 2)).sqrt()


def _strides(corners: Int[Tensor, "B N d1"], d: int) -> list[int]:
    """Place values that number the vertices: of the first d coordinates (the last follows from them) and the image."""
    margin = 4 * (d + 1)  # a vertex is less than d + 1 from its corner, a neighbour d further
    low, high = corners[..., :-1].flatten(0, 1).aminmax(dim=0)
    strides = [1]
    for extent in (high - low + margin).tolist():
        strides.append(strides[-1] * extent)
    if strides[-1] * len(corners) > LARGEST_CODE:
        raise UsageError(
            "features: found a spread of too many standard deviations for the lattice; expected larger standard "
            "deviations or a smaller image."
        )
    return strides


def _vertex_codes(
    corners: Int[Tensor, "B N d1"], ranks: Int[Tensor, "B N d1"], remainder: int, strides: list[int]
) -> Int[Tensor, "B N"]:
    """The number of the vertex with this remainder of each point's simplex."""
    d = len(strides)
    keys = corners + remainder - (ranks > d - remainder).long() * (d + 1)
    return sum(keys[..., i] * stride for i, stride in enumerate(strides))


def _directions(strides: list[int]) -> list[int]:
    """How a vertex' number changes along each of the d + 1 directions: one down in all coordinates but one, d up."""
    down = -sum(strides)
    return [down + (len(strides) + 1) * stride for stride in strides] + [down]


def _neighbours(vertices: Int[Tensor, " M"], step: int) -> tuple[Int[Tensor, " M1"], Int[Tensor, " M1"]]:
    """The places in ``vertices`` of those one step ahead and one behind; M for those that are not there."""
    found = []
    for target in (vertices + step, vertices - step):
        place = torch.searchsorted(vertices, target).clamp(max=len(vertices) - 1)
        place = torch.where(vertices[place] == target, place, len(vertices))
        found.append(torch.cat([place, place.new_tensor([len(vertices)])]))
    return found[0], found[1]
