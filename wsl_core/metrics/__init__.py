"""What a map, a mask or a match is worth."""

from wsl_core.metrics.localization import (
    LocalizationEvaluator,
    best_centered_box,
    best_ious,
    box_iou,
    centered_boxes,
    fixed_box_accuracy,
    pointing_hits,
)
from wsl_core.metrics.statistics import Interval, mean_interval, paired_difference

__all__ = [
    "Interval",
    "LocalizationEvaluator",
    "best_centered_box",
    "best_ious",
    "box_iou",
    "centered_boxes",
    "fixed_box_accuracy",
    "mean_interval",
    "paired_difference",
    "pointing_hits",
]
