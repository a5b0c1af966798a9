r"""MaxBoxAcc and MaxBoxAccV2, to the letter of clovaai/wsolevaluation.

Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020 (arXiv 2001.07437), and its
journal version, TPAMI 2022. The class is given (GT-known); what is scored is where the map puts it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num
from torch import Tensor

from wsl_core.errors import DataError, UsageError
from wsl_core.metrics.contours import find_contours, highest_per_level
from wsl_core.metrics.score_maps import THRESHOLDS, Thresholds, check_thresholds, score_arrays

__all__ = ["MaxBoxAccEvaluator", "best_iou_curves"]

IOUS = (0.3, 0.5, 0.7)  # delta, of MaxBoxAccV2
V1_IOU = 0.5


def best_iou_curves(
    score_map: Float[Tensor, "H W"], boxes: Num[Tensor, "M 4"], thresholds: Thresholds = THRESHOLDS
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    r"""The best IoU of a map's boxes with the true ones, at each threshold $\tau$.

    The map becomes 8 bits, $u = \lfloor 255 s \rfloor$, and is cut at $u > \lfloor \tau \max u \rfloor$. For what
    becomes a box, see :mod:`wsl_core.metrics.contours`. Costs a few passes over the pixels and one comparison for each
    contour of the 256 levels, whatever the number of thresholds.

    Args:
        score_map: scores in [0, 1]. They are used as they are: no normalisation.
        boxes: true boxes x0, y0, x1, y1 in pixels of the map, half-open. The official inclusive corners become
            half-open ones by adding 1 to x1 and y1; the official IoU "with +1" is then the plain one.
        thresholds: $\tau$, shares of the map's maximum, rising from 0, below 1.

    Returns:
        IoU in [0, 1] of the contour with the largest polygon (V1), and of the best of all contours (V2).

    Raises:
        DataError: the map has values outside [0, 1], or there is no box, or one without area.
        UsageError: ``thresholds`` do not rise from 0 to below 1.

    >>> import torch
    >>> score_map = torch.zeros(8, 8)
    >>> score_map[1:3, 1:3], score_map[4:7, 4:7] = 0.9, 0.5
    >>> largest, best = best_iou_curves(score_map, torch.tensor([[1, 1, 4, 4]]), [0.0, 0.8])
    >>> largest.tolist(), best.tolist()
    ([0.0, 1.0], [1.0, 1.0])
    """
    checked = np.array(check_thresholds(thresholds))
    return _iou_curves(score_arrays(score_map[None])[0], _box_array(boxes, 0), checked)


class MaxBoxAccEvaluator:
    r"""Counts, for each threshold, the maps whose box is right; **one threshold holds for the whole set**.

    $\mathrm{MaxBoxAcc}(\delta) = \max_\tau \frac{1}{N} \sum_n [\mathrm{IoU}_n(\tau) \ge \delta]$. Choosing $\tau$
    for each image instead gives a higher number that nothing can be compared with.

    Memory does not grow with the number of maps. Evaluators of several processes or machines merge exactly.

    Args:
        thresholds: $\tau$, shares of each map's maximum, rising from 0, below 1; by default the official 1,000.
        ious: $\delta$, by default those of MaxBoxAccV2.

    >>> import torch
    >>> evaluator = MaxBoxAccEvaluator()
    >>> score_maps = torch.zeros(2, 8, 8)
    >>> score_maps[:, 2:5, 2:5] = 1.0
    >>> evaluator.update(score_maps, [torch.tensor([[2, 2, 6, 6]]), torch.tensor([[5, 5, 8, 8]])])
    >>> result = evaluator.compute()
    >>> result["max_box_acc_v1"], result["max_box_acc"]
    (50.0, {0.3: 50.0, 0.5: 50.0, 0.7: 50.0})
    """

    def __init__(self, thresholds: Thresholds = THRESHOLDS, ious: Sequence[float] = IOUS):
        self.thresholds = check_thresholds(thresholds)
        self.ious = tuple(float(iou) for iou in ious)
        if not self.ious or not all(0 < iou <= 1 for iou in self.ious) or len(set(self.ious)) < len(self.ious):
            raise UsageError(f"ious={tuple(ious)}: expected different numbers in (0, 1].")
        self._asked = tuple(dict.fromkeys((*self.ious, V1_IOU)))
        self.reset()

    def reset(self) -> None:
        """Forget every map."""
        self._right = np.zeros((2, len(self._asked), len(self.thresholds)), dtype=np.int64)  # by V1 and V2, delta, tau
        self._images = 0

    def update(self, score_maps: Float[Tensor, "B H W"], boxes: Sequence[Num[Tensor, "_ 4"]]) -> None:
        """Add maps.

        Args:
            score_maps: scores of the true class in [0, 1], of the size of the network's input.
            boxes: the true boxes of each, x0, y0, x1, y1 in pixels of the map, half-open. An official box, with
                inclusive integer corners, gains 1 on x1 and y1. One that is hit suffices.

        Raises:
            DataError: a map has values outside [0, 1] or NaN, or an image has no box, or one without area. Nothing has
                been added then.
            UsageError: there are not as many lists of boxes as maps.
        """
        if len(boxes) != len(score_maps):
            raise UsageError(f"boxes: found {len(boxes)} lists for {len(score_maps)} maps; expected one for each map.")
        truth = [_box_array(of_one, i) for i, of_one in enumerate(boxes)]
        thresholds, deltas = np.array(self.thresholds), np.array(self._asked)[:, None]
        for score_map, of_one in zip(score_arrays(score_maps), truth, strict=True):
            for right, ious in zip(self._right, _iou_curves(score_map, of_one, thresholds), strict=True):
                right += ious >= deltas
            self._images += 1

    def update_missing(self, images: int = 1) -> None:
        """Count images without a map: they are wrong at every threshold."""
        self._images += images

    def merge(self, other: "MaxBoxAccEvaluator") -> "MaxBoxAccEvaluator":
        """Add what another evaluator with the same settings has seen; returns this one.

        Raises:
            UsageError: the settings differ.
        """
        if (self.thresholds, self.ious) != (other.thresholds, other.ious):
            raise UsageError("merge: the evaluators differ in thresholds or IoUs; give both the same.")
        self._right += other._right
        self._images += other._images
        return self

    def compute(self) -> dict[str, Any]:
        r"""The scores, all of them in percent, and the thresholds, as shares of a map's maximum.

        Returns:
            ``max_box_acc_v1``: the largest contour, $\delta = 0.5$. ``max_box_acc``: all contours, by each of ``ious``.
            ``max_box_acc_v2``: the mean of these. ``best_threshold_v1`` and ``best_threshold``: the lowest $\tau$ at
            which they are reached. ``curve_v1`` and ``curve``, by each of ``ious``: the accuracy at each of
            ``thresholds``. ``images``: how many were counted.

        Raises:
            DataError: no map has been added.
        """
        if not self._images:
            raise DataError("compute: no map has been added; call update first.")
        v1, v2 = (dict(zip(self._asked, curves * 100.0 / self._images, strict=True)) for curves in self._right)
        accuracies = {iou: float(v2[iou].max()) for iou in self.ious}
        return {
            "max_box_acc_v1": float(v1[V1_IOU].max()),
            "max_box_acc_v2": float(np.mean(list(accuracies.values()))),
            "max_box_acc": accuracies,
            "best_threshold_v1": self.thresholds[int(v1[V1_IOU].argmax())],
            "best_threshold": {iou: self.thresholds[int(v2[iou].argmax())] for iou in self.ious},
            "curve_v1": {iou: v1[iou].tolist() for iou in self.ious},
            "curve": {iou: v2[iou].tolist() for iou in self.ious},
            "thresholds": list(self.thresholds),
            "images": self._images,
        }


def _box_array(boxes: Num[Tensor, "M 4"], image: int) -> Num[np.ndarray, "M 4"]:
    array = boxes.detach().cpu().numpy().astype(np.float64)
    if not len(array):
        raise DataError(f"boxes: image {image} has none; leave it out of the set.")
    for box in array:
        if not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
            raise DataError(f"boxes: image {image} has {box.tolist()}; expected finite x0 < x1 and y0 < y1, half-open.")
    return array


def _iou_curves(
    score_map: Float[np.ndarray, "H W"], truth: Float[np.ndarray, "M 4"], thresholds: Float[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    levels = (score_map * 255).astype(np.uint8)
    contours = find_contours(levels)
    cuts = (thresholds * levels.max()).astype(np.int64)
    best = highest_per_level(contours.low, contours.high, _best_iou(contours.boxes, truth))
    return _best_iou(contours.largest, truth)[cuts], best[cuts]


def _best_iou(boxes: Int[np.ndarray, "N 4"], truth: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, " N"]:
    """The IoU of each box with that true one with which it is highest; in float64, as the official code has it."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    left, top, right, bottom = truth.T
    overlap = np.maximum(np.minimum(x1, right) - np.maximum(x0, left), 0.0)
    overlap *= np.maximum(np.minimum(y1, bottom) - np.maximum(y0, top), 0.0)
    return (overlap / ((x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - overlap)).max(axis=1)
