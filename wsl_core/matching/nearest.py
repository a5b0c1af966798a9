"""The nearest neighbour: each cell of one image matches the cell of the other that looks most alike, wherever it is."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl_core.errors import UsageError
from wsl_core.matching.correspondence import Correspondence, DescriptorMap, at_cells, check_descriptors

__all__ = ["nearest_neighbours"]


def nearest_neighbours(a: DescriptorMap, b: DescriptorMap, mutual: bool = False, chunk: int = 2**22) -> Correspondence:
    r"""For every cell $p$ of a the cell of b with the nearest descriptor, $\arg\min_q \|a_p - b_q\|_2$.

    Unit descriptors are compared by their angle, since then $\|a_p - b_q\|^2 = 2 - 2\cos(a_p, b_q)$; others as they
    are. Where several cells are equally near, the first one counts; squared distances that differ by less than about a
    millionth of the descriptors' squared length cannot be told apart in single precision. Costs one matrix product of
    the two maps and holds ``chunk`` of its values at a time.

    Args:
        mutual: only those matches are valid of which each cell is the other's nearest.
        chunk: how many distances are held at a time, at least one row of them.

    Returns:
        Scores are minus the distance, 0 for equal descriptors.

    Raises:
        UsageError: the maps differ in channels, or ``chunk`` is not above 0.
        DataError: a map has no cell, or holds NaN or infinity.

    >>> from wsl_core.ops import Grid
    >>> features = torch.eye(3)[:, None]  # three cells in a row, each unlike the others
    >>> a, b = (DescriptorMap(cells, Grid(stride=4, first=2)) for cells in (features, features.flip(-1)))
    >>> nearest_neighbours(a, b).positions[0].tolist()
    [[10.0, 2.0], [6.0, 2.0], [2.0, 2.0]]
    """
    if chunk < 1:
        raise UsageError(f"chunk={chunk}: expected a number of distances above 0.")
    a, b = check_descriptors(a, b)
    shape, columns = a.features.shape[1:], b.features.shape[2]
    cells_a, cells_b = a.features.flatten(1), b.features.flatten(1)
    nearest, back = _nearest(cells_a, cells_b, max(1, chunk // cells_b.shape[1]), mutual)
    own = torch.arange(len(nearest), device=nearest.device)
    valid = back[nearest] == own if mutual else torch.ones_like(own, dtype=torch.bool)
    scores = -cells_b.index_select(1, nearest).sub_(cells_a).square_().sum(dim=0).sqrt()
    rows_and_columns = torch.stack([nearest // columns, nearest % columns], dim=-1)
    return at_cells(a, b, rows_and_columns.unflatten(0, shape), scores.unflatten(0, shape), valid.unflatten(0, shape))


def _nearest(
    a: Float[Tensor, "D m"], b: Float[Tensor, "D n"], rows: int, mutual: bool
) -> tuple[Int[Tensor, " m"], Int[Tensor, " n"]]:
    """The nearest cell of b for each of a, and if ``mutual`` of a for each of b; ``rows`` cells of a at a time."""
    centre = b.mean(dim=1, keepdim=True)  # distances do not feel a common shift; with it, digits would be lost
    a, b = a - centre, b - centre
    half_a, half_b = (cells.square().sum(dim=0) / 2 for cells in (a, b))
    nearest = half_a.new_empty(len(half_a), dtype=torch.long)
    back, highest = nearest.new_zeros(len(half_b)), torch.full_like(half_b, -torch.inf)
    for start in range(0, len(half_a), rows):
        part = slice(start, start + rows)
        closeness = torch.addmm(-half_b, a[:, part].T, b)  # minus half the squared distance, but for half_a
        nearest[part] = closeness.argmax(dim=1)
        if mutual:
            high, row = closeness.sub_(half_a[part, None]).max(dim=0)
            back = torch.where(high > highest, row + start, back)
            highest = torch.maximum(high, highest)
    return nearest, back
