"""Which place of one image goes with which place of another, and what can be carried along.

Every position is in pixels of its image, x before y; pixel (0, 0) covers [0, 1) x [0, 1).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Grid

__all__ = ["Correspondence", "DescriptorMap", "cell_centres", "transfer_mask", "transfer_points", "warp_image"]


class DescriptorMap(NamedTuple):
    """What an image looks like around each cell, and where the cells are centred on the image.

    >>> DescriptorMap(torch.rand(16, 12, 12), Grid(stride=8, first=4)).features.shape
    torch.Size([16, 12, 12])
    """

    features: Float[Tensor, "D h w"]
    grid: Grid


class Correspondence(NamedTuple):
    """For every cell of image a: where it lies on image b.

    ``positions`` are x, y in pixels of image b. The higher a score, the better the match; what it measures is the
    matcher's. A cell that is not ``valid`` has no match, and its position means nothing. ``grid`` says where the cells
    are centred on image a.
    """

    positions: Float[Tensor, "h w 2"]
    scores: Float[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]
    grid: Grid


def cell_centres(shape: tuple[int, int], grid: Grid, device: torch.device | None = None) -> Float[Tensor, "h w 2"]:
    """The centre x, y of each cell of a map of ``shape`` (h, w), in pixels of the image.

    >>> cell_centres((1, 2), Grid(stride=8, first=4)).tolist()
    [[[4.0, 4.0], [12.0, 4.0]]]
    """
    y, x = (grid.first + grid.stride * torch.arange(cells, device=device, dtype=torch.float32) for cells in shape)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def transfer_points(points: Float[Tensor, "N 2"], correspondence: Correspondence) -> Float[Tensor, "N 2"]:
    """Carry points of image a over to image b.

    A point moves as the nearest valid cell does. Nothing is interpolated: between two cells that match different
    places there is no third place. A point that is NaN, a missing one, stays NaN.

    Args:
        points: x, y in pixels of image a.

    Raises:
        DataError: no cell is valid.

    >>> positions = torch.tensor([[[6.0, 3.0], [9.0, 3.0]]])
    >>> ones = torch.ones(1, 2)
    >>> correspondence = Correspondence(positions, ones, ones.bool(), Grid(stride=2, first=1))
    >>> transfer_points(torch.tensor([[1.5, 1.0], [2.5, 1.0]]), correspondence).tolist()
    [[6.5, 3.0], [8.5, 3.0]]
    """
    moves = _moves(correspondence)
    column, row = _nearest_cell(points, correspondence.grid, moves.shape[:2]).unbind(-1)
    return points + moves[row, column].to(points)


def warp_image(
    image: Float[Tensor, "C H W"], correspondence: Correspondence, size: tuple[int, int]
) -> Float[Tensor, "C H2 W2"]:
    """Draw image b in the frame of image a: every pixel takes the colour of the place that it corresponds to.

    Colours are interpolated bilinearly; beyond the border of image b the nearest pixel holds.

    Args:
        image: image b.
        size: height and width of image a.

    Raises:
        DataError: no cell is valid.

    >>> pixels, ones, image = Grid(stride=1, first=0.5), torch.ones(4, 4), torch.rand(3, 4, 4)
    >>> same = Correspondence(cell_centres((4, 4), pixels), ones, ones.bool(), pixels)
    >>> torch.allclose(warp_image(image, same, (4, 4)), image)
    True
    """
    extent = torch.tensor(image.shape[:0:-1], device=image.device)  # width, height
    places = 2 * _pixel_positions(correspondence, size).to(image) / extent - 1
    return F.grid_sample(image[None], places[None], padding_mode="border", align_corners=False)[0]


def transfer_mask(
    mask: Int[Tensor, "H W"], correspondence: Correspondence, size: tuple[int, int]
) -> Int[Tensor, "H2 W2"]:
    """Carry the labels of image b, of a mask or of parts, over into the frame of image a.

    Every pixel takes the label of the pixel that it corresponds to; beyond the border that of the nearest.

    Args:
        mask: labels of image b.
        size: height and width of image a.

    Raises:
        DataError: no cell is valid.

    >>> shifted = cell_centres((1, 3), Grid(1, 0.5)) + torch.tensor([1.0, 0.0])
    >>> ones = torch.ones(1, 3)
    >>> transfer_mask(torch.tensor([[0, 1, 2]]), Correspondence(shifted, ones, ones.bool(), Grid(1, 0.5)), (1, 3))
    tensor([[1, 2, 2]])
    """
    height, width = mask.shape
    x, y = _pixel_positions(correspondence, size).floor().long().to(mask.device).unbind(-1)
    return mask[y.clamp(0, height - 1), x.clamp(0, width - 1)]


def at_cells(
    a: DescriptorMap,
    b: DescriptorMap,
    cells: Int[Tensor, "h w 2"],
    scores: Float[Tensor, "h w"],
    valid: Bool[Tensor, "h w"],
) -> Correspondence:
    """The correspondence of each cell of a to a cell of b, given as row and column, which may lie beside the map."""
    positions = b.grid.first + b.grid.stride * cells.flip(-1).to(torch.float32)
    return Correspondence(positions, scores, valid, a.grid)


def check_descriptors(a: DescriptorMap, b: DescriptorMap) -> tuple[DescriptorMap, DescriptorMap]:
    """Both maps without gradients and in at least single precision.

    Raises:
        UsageError: they differ in channels.
        DataError: a map has no cell, or holds NaN or infinity.
    """
    if len(a.features) != len(b.features):
        raise UsageError(
            f"descriptors: found {len(a.features)} and {len(b.features)} channels; expected the same descriptor twice."
        )
    return _checked(a, "a"), _checked(b, "b")


def _checked(described: DescriptorMap, name: str) -> DescriptorMap:
    features = described.features.detach()
    if 0 in features.shape:
        raise DataError(f"{name}: found descriptors {tuple(features.shape)}; expected at least one cell and channel.")
    if not torch.stack(features.aminmax()).isfinite().all():  # a NaN anywhere is both; one pass, nothing held
        raise DataError(f"{name}: found NaN or infinity; expected finite descriptors.")
    return DescriptorMap(features.to(torch.promote_types(features.dtype, torch.float32)), described.grid)


def _moves(correspondence: Correspondence) -> Float[Tensor, "h w 2"]:
    """From the centre of each cell to its match; cells without one move as the nearest that has one."""
    positions, _, valid, grid = correspondence
    moves = positions - cell_centres(valid.shape, grid, positions.device)
    if valid.all():
        return moves
    if not valid.any():
        raise DataError("correspondence: found no valid cell; expected at least one match to go by.")
    rows, columns = ndimage.distance_transform_edt(~valid.cpu().numpy(), return_distances=False, return_indices=True)
    return moves[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def _nearest_cell(points: Float[Tensor, "N 2"], grid: Grid, shape: tuple[int, int]) -> Int[Tensor, "N 2"]:
    """Column and row; of two cells at the same distance the left or upper one."""
    last = torch.tensor([shape[1] - 1, shape[0] - 1], device=points.device)
    cells = ((points.nan_to_num() - grid.first) / grid.stride - 0.5).ceil()
    return cells.clamp(min=0).minimum(last).long()


def _pixel_positions(correspondence: Correspondence, size: tuple[int, int]) -> Float[Tensor, "H W 2"]:
    """Where each pixel of an image a of this size lies on image b."""
    pixels = cell_centres(size, Grid(1, 0.5), correspondence.positions.device)
    return transfer_points(pixels.flatten(0, 1), correspondence).unflatten(0, size)
