"""Descriptors that need no training: dense SIFT, HOG, colours, and position alone, the control of every matcher."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import rgb_to_grayscale

from wsl_core.errors import DataError, UsageError
from wsl_core.matching.correspondence import DescriptorMap, cell_centres
from wsl_core.ops import Grid

__all__ = ["dense_sift", "hog", "position", "raw_colours"]

SIFT_BINS = 4  # a side, each with 8 directions of the gradient
HOG_BLOCK = 3  # cells a side that are normalised together


def dense_sift(image: Float[Tensor, "3 H W"], stride: int = 2, bin_size: int = 4) -> DescriptorMap:
    """Dense SIFT (Lowe, 2004) from kornia: unit descriptors of 128 numbers, zero where the image is flat.

    Args:
        image: RGB in [0, 1]; its gray values are described.
        stride: pixels from one descriptor to the next.
        bin_size: pixels; a descriptor looks at 4 x 4 bins of this size, without a window on them.

    Raises:
        UsageError: ``stride`` or ``bin_size`` is below 1, or the image is smaller than a descriptor's extent.
        DataError: the image holds NaN or infinity.

    >>> described = dense_sift(torch.rand(3, 32, 48))
    >>> described.features.shape, described.grid
    (torch.Size([128, 16, 24]), Grid(stride=2, first=1.0))
    """
    from kornia.feature import DenseSIFTDescriptor  # half a second, which only its users spend

    if stride < 1 or bin_size < 1:
        raise UsageError(f"stride={stride}, bin_size={bin_size}: expected at least a pixel each.")
    _check_image(image, SIFT_BINS * bin_size)
    centre = (SIFT_BINS - 1) * bin_size / 2 + bin_size % 2 / 2  # of the first descriptor without padding, from the edge
    padding = max(0, int(centre - stride / 2))  # so that descriptors tile the image, where halves of pixels allow it
    describe = DenseSIFTDescriptor(spatial_bin_size=bin_size, stride=stride, padding=padding, rootsift=False)
    with torch.no_grad():
        features = describe.to(image)(rgb_to_grayscale(image)[None])[0]
    return DescriptorMap(features, Grid(stride, centre - padding))


def hog(image: Float[Tensor, "3 H W"], cell: int = 8) -> DescriptorMap:
    """HOG (Dalal and Triggs, 2005) from scikit-image: 9 directions in 3 x 3 cells, normalised together.

    A descriptor is a block; neighbouring blocks share cells. Zero where the image is flat.

    Args:
        image: RGB in [0, 1]; at each pixel the channel with the strongest gradient counts.
        cell: pixels a side, also from one descriptor to the next.

    Raises:
        UsageError: ``cell`` is below 1, or the image is smaller than a block.
        DataError: the image holds NaN or infinity.

    >>> described = hog(torch.rand(3, 64, 48))
    >>> described.features.shape, described.grid
    (torch.Size([81, 6, 4]), Grid(stride=8, first=12.0))
    """
    from skimage import feature

    if cell < 1:
        raise UsageError(f"cell={cell}: expected at least a pixel.")
    _check_image(image, HOG_BLOCK * cell)
    blocks = feature.hog(
        image.detach().cpu().numpy().astype(np.float32),
        pixels_per_cell=(cell, cell),
        cells_per_block=(HOG_BLOCK, HOG_BLOCK),
        feature_vector=False,
        channel_axis=0,
    )
    features = torch.from_numpy(blocks).flatten(2).permute(2, 0, 1).contiguous()
    return DescriptorMap(features.to(image), Grid(cell, HOG_BLOCK * cell / 2))


def raw_colours(image: Float[Tensor, "3 H W"], stride: int = 4) -> DescriptorMap:
    """The image itself: the mean colours of 3 x 3 squares of ``stride`` pixels. What lies beyond the border repeats it.

    Args:
        image: RGB in [0, 1].
        stride: side of a square in pixels, also from one descriptor to the next.

    Raises:
        UsageError: ``stride`` is below 1, or the image is smaller than a square.
        DataError: the image holds NaN or infinity.

    >>> described = raw_colours(torch.rand(3, 32, 48))
    >>> described.features.shape, described.grid
    (torch.Size([27, 8, 12]), Grid(stride=4, first=2.0))
    """
    if stride < 1:
        raise UsageError(f"stride={stride}: expected at least a pixel.")
    _check_image(image, stride)
    colours = F.pad(F.avg_pool2d(image[None], stride), (1, 1, 1, 1), mode="replicate")
    height, width = colours.shape[-2] - 2, colours.shape[-1] - 2
    return DescriptorMap(F.unfold(colours, 3)[0].unflatten(1, (height, width)), Grid(stride, stride / 2))


def position(size: tuple[int, int], box: Float[Tensor, " 4"] | None = None, stride: int = 4) -> DescriptorMap:
    """No appearance at all: where each cell lies within the image, or within the box of its object.

    What such a descriptor scores, no look at the images is needed for. Box-relative it uses a box that no matcher of
    images is given.

    Args:
        size: height and width of the image.
        box: x0, y0, x1, y1, half-open; ``None`` is the whole image. (0, 0) is its one corner, (1, 1) its other.

    Raises:
        UsageError: ``stride`` is below 1 or above the image.
        DataError: the box has no area, or is not finite.

    >>> within_image, within_box = position((8, 8)), position((8, 8), torch.tensor([2.0, 2.0, 6.0, 6.0]))
    >>> within_image.features[:, 0, 1].tolist(), within_box.features[:, 0, 1].tolist()
    ([0.75, 0.25], [1.0, 0.0])
    """
    height, width = size
    if not 1 <= stride <= min(size):
        raise UsageError(f"stride={stride}: expected at least a pixel and at most an image of {tuple(size)}.")
    box = torch.tensor([0.0, 0.0, width, height]) if box is None else box
    if not box.isfinite().all() or not (box[:2] < box[2:]).all():
        raise DataError(f"box: found {box.tolist()}; expected finite x0 < x1 and y0 < y1.")
    grid = Grid(stride, stride / 2)
    centres = cell_centres((height // stride, width // stride), grid, box.device)
    return DescriptorMap(((centres - box[:2]) / (box[2:] - box[:2])).permute(2, 0, 1), grid)


def _check_image(image: Float[Tensor, "3 H W"], extent: int) -> None:
    if min(image.shape[1:]) < extent:
        raise UsageError(f"image: found {tuple(image.shape[1:])} pixels; a descriptor needs {extent} a side.")
    if not image.isfinite().all():
        raise DataError("image: found NaN or infinity; expected RGB in [0, 1].")
