"""Maps made to follow the image."""

from wsl_core.refine.crf import DEEPLAB, PARAMETERS, CRFParameters, dense_crf, dense_crf_many
from wsl_core.refine.pairs import (
    PairLabels,
    affinity_labels,
    confident_labels,
    crf_with_background,
)
from wsl_core.refine.walk import random_walk

__all__ = [
    "DEEPLAB", "PARAMETERS", "CRFParameters", "PairLabels", "affinity_labels", "confident_labels",
    "crf_with_background", "dense_crf", "dense_crf_many", "random_walk",
]  # fmt: skip
