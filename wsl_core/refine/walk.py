r"""The random walk along affinities, which carries the scores of maps to cells of the same thing.

Ahn and Kwak, Learning Pixel-level Semantic Affinity with Image-level Supervision, CVPR 2018. From the affinities
$W_{ij}$ of near cells, $T = D^{-1} W^{\circ\beta}$ with $D_{ii} = \sum_j W_{ij}^\beta$, and
$\mathrm{vec}(M^*) = T^t\, \mathrm{vec}(M)$. The released code squares the matrix over all pairs of cells $\log_2 t$
times. A step along the neighbours alone takes so much less that t of them take less, too.
"""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Affinity, valid_pairs

__all__ = ["random_walk"]


@torch.no_grad()
def random_walk(
    maps: Float[Tensor, "B C h w"], affinity: Affinity, beta: float = 8, steps: int = 256
) -> Float[Tensor, "B C h w"]:
    r"""Every score becomes the mean of those that a walker from its cell finds after ``steps`` steps.

    The walker goes from cell i to j with probability $T_{ij} = W_{ij}^\beta / \sum_k W_{ik}^\beta$, and may stay, as
    $W_{ii} = 1$. A map keeps its range, and a constant one stays as it is. Time and memory are linear in the cells, the
    images and the neighbours; time in the steps and maps. No gradient passes.

    Args:
        maps: finite scores of C classes, background included; each is walked by itself.
        affinity: of the same images and cells, on the same device.
        beta: $\beta \ge 0$. The larger it is, the less a weak affinity lets through; above 1 in the paper.
        steps: t. 0 gives back the maps, and of two walks in a row the steps add up.

    Raises:
        UsageError: the sizes differ, ``beta`` or ``steps`` is out of range, or two offsets name the same pair.
        DataError: maps that are not finite; affinities that are NaN or outside [0, 1]; a pair with a cell outside.

    >>> offsets = torch.tensor([[0, 1]])
    >>> alike = torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]])  # cells 0 and 1, and cells 2 and 3
    >>> affinity = Affinity(alike, offsets, valid_pairs(offsets, (1, 4)))
    >>> random_walk(torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]]), affinity).tolist()
    [[[[0.5, 0.5, 0.0, 0.0]]]]
    """
    _check(maps, affinity, beta, steps)
    transitions = _transitions(affinity, beta)
    scores = maps.double().movedim(1, -1).flatten(0, 2)  # (B h w, C)
    for _ in range(steps):
        scores = transitions @ scores
    return scores.unflatten(0, (len(maps), *maps.shape[-2:])).movedim(-1, 1).to(maps.dtype)


def _transitions(affinity: Affinity, beta: float) -> Float[Tensor, "N N"]:
    """T over the cells of all images, as a sparse matrix: of each row, only the neighbours are held.

    In double precision: where a walker hardly ever leaves, rounding would add up over the steps.
    """
    values, offsets, valid = affinity
    images, _, height, width = values.shape
    ahead = values.double().pow(beta).masked_fill(~valid, 0)
    weights = torch.cat([_behind(ahead, offsets), torch.ones_like(ahead[:, :1]), ahead], dim=1)
    weights = weights / weights.sum(dim=1, keepdim=True)
    exists = torch.cat([_behind(valid, offsets), torch.ones_like(valid[:1]), valid]).flatten(1).T  # (h w, 2 O + 1)
    steps = offsets[:, 0] * width + offsets[:, 1]
    steps = torch.cat([-steps.flip(0), steps.new_zeros(1), steps])
    cells = torch.arange(height * width, device=values.device)[:, None]
    columns = (cells + steps)[exists] + len(cells) * torch.arange(images, device=values.device)[:, None]
    starts = pad(exists.sum(dim=1).repeat(images).cumsum(dim=0), (1, 0))
    return _sparse(starts, columns.flatten(), weights.flatten(2).mT[:, exists].flatten())


def _behind(ahead: Tensor, offsets: Int[Tensor, "O 2"]) -> Tensor:
    """Of (..., O, h, w), what the neighbour behind each cell has ahead, the last offset first; W is symmetric.

    What rolls over an edge comes from a pair that is not valid.
    """
    rolled = [one.roll(offset, dims=(-2, -1)) for one, offset in zip(ahead.unbind(-3), offsets.tolist(), strict=True)]
    return torch.stack(rolled[::-1], dim=-3)


def _sparse(
    starts: Int[Tensor, " M"], columns: Int[Tensor, " P"], weights: Float[Tensor, " P"]
) -> Float[Tensor, "N N"]:
    index = torch.int32 if len(columns) < 2**31 else torch.int64  # 64 bits would be converted anew at every step
    size = (len(starts) - 1, len(starts) - 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts.to(index), columns.to(index), weights, size, check_invariants=False)


def _check(maps: Tensor, affinity: Affinity, beta: float, steps: int) -> None:
    values, offsets, valid = affinity
    (images, _, *size), count = maps.shape, len(offsets)
    if tuple(values.shape) != (images, count, *size) or tuple(valid.shape) != (count, *size) or 0 in values.shape:
        raise UsageError(
            f"maps {tuple(maps.shape)}, affinity.values {tuple(values.shape)} and affinity.valid {tuple(valid.shape)}: "
            f"expected (B, C, h, w), (B, {count}, h, w) and ({count}, h, w) for {count} offsets, none of them "
            "empty. Resize the maps to the cells of the affinities first."
        )
    if not 0 <= beta < float("inf"):
        raise UsageError(f"beta={beta}: expected a finite number, at least 0.")
    if steps < 0:
        raise UsageError(f"steps={steps}: expected 0 or more.")
    named = {tuple(sign * shift for shift in offset) for offset in offsets.tolist() for sign in (1, -1)}
    if len(named) != 2 * count:
        raise UsageError(
            f"affinity.offsets: found {offsets.tolist()}, in which an offset comes twice, stands beside its opposite, "
            "or is (0, 0); expected each pair once. half_plane_offsets gives such a list."
        )
    if not maps.isfinite().all():
        raise DataError(f"maps {tuple(maps.shape)}: found NaN or infinity; expected finite scores.")
    if not ((values >= 0) & (values <= 1) | ~valid).all():
        raise DataError("affinity.values: found NaN or values outside [0, 1] in valid pairs; expected exp(-distance).")
    if (valid & ~valid_pairs(offsets, (size[0], size[1]))).any():
        raise DataError("affinity.valid: found a pair with a cell outside the map; see valid_pairs.")
