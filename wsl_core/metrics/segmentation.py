r"""Mean IoU as PASCAL VOC counts it, and Boundary IoU, which only looks near the contours.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010: **one** confusion matrix over the whole set,
never a mean over images. Cheng, Girshick, Dollár, Berg and Kirillov, Boundary IoU, CVPR 2021: the IoU of large objects
hardly feels their contours, so it is taken of the pixels within some distance of the contour alone.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Integer
from scipy import ndimage
from torch import Tensor

from wsl_core.errors import DataError, UsageError

__all__ = ["SegmentationEvaluator", "confusion_matrix", "per_class_table"]

IGNORE = 255
NO_REGION = -1  # what lies outside the image


class SegmentationEvaluator:
    r"""IoU of every class, and their means, **pooled over all pixels of all images**.

    With $n_{cp}$ pixels of class c that are predicted as p, $\mathrm{IoU}_c = n_{cc} / (\sum_p n_{cp} + \sum_t n_{tc} -
    n_{cc})$. The mean is over the classes that occur, be it in the truth or in a prediction: a class that is predicted
    and never there counts as 0, one that is neither has no IoU (NaN), as in AffinityNet's and IRN's evaluations.

    Boundary IoU is the same of the pixels of each class within d pixels (as a king moves) of another class or of the
    image's edge, on both sides by themselves; d is 2 % of the image's diagonal, at least 1. Its pixels are pooled too,
    where Cheng et al. average over objects.

    Ignored pixels count nowhere. They are neither of one class nor of another, on both sides: the rims that VOC ignores
    end an object, and what is predicted there changes nothing.

    Memory does not grow with the number of images. Evaluators of several processes or machines merge exactly.

    Args:
        num_classes: K, without the background.
        boundary_share: d as a share of the image's diagonal.

    Raises:
        UsageError: ``num_classes`` is below 1, or ``boundary_share`` is not in (0, 1).

    >>> import torch
    >>> evaluator = SegmentationEvaluator(num_classes=2)
    >>> evaluator.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 255]]))
    >>> scores = evaluator.compute()
    >>> scores["miou"], scores["iou"][:2], scores["pixel_accuracy"]  # two classes occur
    (0.5, [0.5, 0.5], 0.6666666666666666)
    """

    def __init__(self, num_classes: int, boundary_share: float = 0.02):
        if num_classes < 1 or num_classes >= IGNORE:
            raise UsageError(f"num_classes={num_classes}: expected 1 to {IGNORE - 1}.")
        if not 0 < boundary_share < 1:
            raise UsageError(f"boundary_share={boundary_share}: expected a share of the diagonal in (0, 1).")
        self.num_classes, self.boundary_share = num_classes, boundary_share
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        labels = self.num_classes + 1
        self._confusion = np.zeros((labels, labels), dtype=np.int64)  # rows: truth, columns: prediction
        self._contours = np.zeros((3, labels), dtype=np.int64)  # pixels near a contour of both, of truth, of prediction
        self._images = 0

    def update(self, prediction: Integer[Tensor, "*batch H W"], target: Integer[Tensor, "*batch H W"]) -> None:
        """Add images of one size.

        Args:
            prediction: 0 background, k + 1 class k.
            target: the same, and 255 to ignore.

        Raises:
            UsageError: the sizes differ.
            DataError: a label is none of these.
        """
        if prediction.shape != target.shape:
            raise UsageError(
                f"prediction: found {tuple(prediction.shape)}; expected the target's {tuple(target.shape)}. Resize it."
            )
        height, width = target.shape[-2:]
        truth, predicted = (
            labels.detach().cpu().numpy().astype(np.int64).reshape(-1, height, width) for labels in (target, prediction)
        )
        counted = truth != IGNORE
        self._check("target", truth[counted], "and 255 to ignore")
        self._check("prediction", predicted, "and nothing else")
        predicted = np.where(counted, predicted, IGNORE)
        labels = self.num_classes + 1
        pairs = np.bincount(truth[counted] * labels + predicted[counted], minlength=labels**2)
        self._confusion += pairs.reshape(labels, labels)
        reach = max(1, round(self.boundary_share * math.hypot(height, width)))
        near_truth, near_predicted = (_near_a_contour(regions, reach) & counted for regions in (truth, predicted))
        for row, (regions, chosen) in enumerate(
            (
                (truth, near_truth & near_predicted & (truth == predicted)),
                (truth, near_truth),
                (predicted, near_predicted),
            )
        ):
            self._contours[row] += np.bincount(regions[chosen], minlength=labels)
        self._images += len(truth)

    def merge(self, other: "SegmentationEvaluator") -> "SegmentationEvaluator":
        """Add what another evaluator with the same arguments has seen; returns this one.

        Raises:
            UsageError: the arguments differ.
        """
        if (self.num_classes, self.boundary_share) != (other.num_classes, other.boundary_share):
            raise UsageError("merge: the evaluators differ in num_classes or boundary_share; give both the same.")
        self._confusion += other._confusion
        self._contours += other._contours
        self._images += other._images
        return self

    def compute(self) -> dict[str, Any]:
        """The scores of all pixels together, in [0, 1].

        Returns:
            ``miou`` and ``boundary_iou``, means over the classes that occur; ``iou`` and ``boundary_iou_per_class``,
            K + 1 values, NaN for a class that does not occur; ``pixel_accuracy``; ``mean_accuracy``, the mean over the
            classes of the truth of the share of their pixels that is found; ``images``: how many were counted.

        Raises:
            DataError: no pixel has been added that counts.
        """
        if not self._confusion.any():
            raise DataError("compute: no pixel has been added that is not ignored; there is nothing to score.")
        right, of_truth, predicted = (
            self._confusion.diagonal(),
            self._confusion.sum(axis=1),
            self._confusion.sum(axis=0),
        )
        iou = _share(right, of_truth + predicted - right)
        both, near_truth, near_predicted = self._contours
        boundary_iou = _share(both, near_truth + near_predicted - both)
        return {
            "miou": float(np.nanmean(iou)),
            "iou": iou.tolist(),
            "pixel_accuracy": float(right.sum() / self._confusion.sum()),
            "mean_accuracy": float(np.nanmean(_share(right, of_truth))),
            "boundary_iou": float(np.nanmean(boundary_iou)),
            "boundary_iou_per_class": boundary_iou.tolist(),
            "images": self._images,
        }

    def _check(self, name: str, labels: Int[np.ndarray, "..."], besides: str) -> None:
        wrong = labels[(labels < 0) | (labels > self.num_classes)]
        if wrong.size:
            raise DataError(f"{name}: found label {wrong.flat[0]}; expected 0 to {self.num_classes}, {besides}.")


def _near_a_contour(regions: Int[np.ndarray, "B H W"], reach: int) -> Bool[np.ndarray, "B H W"]:
    """The pixels in whose square of ``reach`` pixels to each side another region lies, or the outside of the image."""
    window = {"size": (1, 2 * reach + 1, 2 * reach + 1), "mode": "constant", "cval": NO_REGION}
    return ndimage.minimum_filter(regions, **window) != ndimage.maximum_filter(regions, **window)


def _share(part: Int[np.ndarray, " C"], whole: Int[np.ndarray, " C"]) -> np.ndarray:
    """NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def confusion_matrix(evaluator: SegmentationEvaluator) -> Int[np.ndarray, "C C"]:
    """The one matrix of all images that every score but Boundary IoU comes from: pixels of class c predicted as p.

    >>> import torch
    >>> evaluator = SegmentationEvaluator(num_classes=1)
    >>> evaluator.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]))
    >>> confusion_matrix(evaluator).tolist()
    [[1, 1], [0, 0]]
    """
    return evaluator._confusion.copy()


def per_class_table(evaluator: SegmentationEvaluator, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for the background and one for each class, in the order of their labels.

    Args:
        classes: names of the K classes, as a data set has them.

    Returns:
        ``class``; ``iou``, ``boundary_iou``, ``precision`` and ``recall`` in [0, 1], NaN where they are not defined;
        ``pixels``: how many the truth has.

    Raises:
        UsageError: there are more or fewer names than classes.
        DataError: no pixel has been added that counts.

    >>> import torch
    >>> evaluator = SegmentationEvaluator(num_classes=1)
    >>> evaluator.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))
    >>> row = per_class_table(evaluator, ("cat",))[1]
    >>> row["class"], round(row["iou"], 3), round(row["precision"], 3), row["recall"], row["pixels"]
    ('cat', 0.667, 0.667, 1.0, 2)
    """
    if len(classes) != evaluator.num_classes:
        raise UsageError(f"classes: found {len(classes)} names; expected one for each of {evaluator.num_classes}.")
    scores, matrix = evaluator.compute(), evaluator._confusion
    columns = {
        "class": ("background", *classes),
        "iou": scores["iou"],
        "boundary_iou": scores["boundary_iou_per_class"],
        "precision": _share(matrix.diagonal(), matrix.sum(axis=0)).tolist(),
        "recall": _share(matrix.diagonal(), matrix.sum(axis=1)).tolist(),
        "pixels": matrix.sum(axis=1).tolist(),
    }
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
