"""What a map, a mask or a match is worth."""

from wsl_core.metrics.box_accuracy import MaxBoxAccEvaluator, best_iou_curves
from wsl_core.metrics.localization import (
    LocalizationEvaluator,
    best_centered_box,
    best_ious,
    box_iou,
    centered_boxes,
    fixed_box_accuracy,
    pointing_hits,
)
from wsl_core.metrics.matching import (
    NORMALISERS,
    PART_WEIGHTS,
    RegionMatching,
    active_regions,
    interval_over_images,
    mask_iou,
    mean_over_pairs,
    pck,
    region_matching,
    true_regions,
    weighted_iou,
)
from wsl_core.metrics.pixels import PixelEvaluator
from wsl_core.metrics.segmentation import SegmentationEvaluator, confusion_matrix, per_class_table
from wsl_core.metrics.statistics import (
    Interval,
    bootstrap_interval,
    equivalent,
    mean_interval,
    paired_difference,
    prediction_interval,
    seeds_needed,
)

__all__ = [
    "NORMALISERS",
    "PART_WEIGHTS",
    "Interval",
    "LocalizationEvaluator",
    "MaxBoxAccEvaluator",
    "PixelEvaluator",
    "RegionMatching",
    "SegmentationEvaluator",
    "active_regions",
    "best_centered_box",
    "best_iou_curves",
    "best_ious",
    "bootstrap_interval",
    "box_iou",
    "centered_boxes",
    "confusion_matrix",
    "equivalent",
    "fixed_box_accuracy",
    "interval_over_images",
    "mask_iou",
    "mean_interval",
    "mean_over_pairs",
    "paired_difference",
    "pck",
    "per_class_table",
    "pointing_hits",
    "prediction_interval",
    "region_matching",
    "seeds_needed",
    "true_regions",
    "weighted_iou",
]
