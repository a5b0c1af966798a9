"""From descriptors to correspondences."""

from wsl_core.matching.correspondence import (
    Correspondence,
    DescriptorMap,
    cell_centres,
    transfer_mask,
    transfer_points,
    warp_image,
)
from wsl_core.matching.dsp import dsp
from wsl_core.matching.nearest import nearest_neighbours

__all__ = [
    "Correspondence",
    "DescriptorMap",
    "cell_centres",
    "dsp",
    "nearest_neighbours",
    "transfer_mask",
    "transfer_points",
    "warp_image",
]
