"""Maps made to follow the image."""

from wsl_core.refine.crf import PARAMETERS, CRFParameters, dense_crf, dense_crf_many
from wsl_core.refine.walk import random_walk

__all__ = ["PARAMETERS", "CRFParameters", "dense_crf", "dense_crf_many", "random_walk"]
