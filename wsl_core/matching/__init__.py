"""From descriptors to correspondences."""

from wsl_core.matching.correspondence import (
    Correspondence,
    DescriptorMap,
    cell_centres,
    transfer_mask,
    transfer_points,
    warp_image,
)
from wsl_core.matching.descriptors import dense_sift, hog, position, raw_colours
from wsl_core.matching.nearest import nearest_neighbours
from wsl_core.matching.regions import REGION_MATCHERS, match_regions, proposal_flow, sliding_boxes
from wsl_core.matching.spatial_pyramid import dsp

__all__ = [
    "Correspondence",
    "DescriptorMap",
    "REGION_MATCHERS",
    "cell_centres",
    "dense_sift",
    "dsp",
    "hog",
    "match_regions",
    "nearest_neighbours",
    "position",
    "proposal_flow",
    "raw_colours",
    "sliding_boxes",
    "transfer_mask",
    "transfer_points",
    "warp_image",
]
