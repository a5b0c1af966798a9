r"""PxAP, to the letter of clovaai/wsolevaluation, and what of an object, and of each of its parts, a map lights.

Choe et al., CVPR 2020 (arXiv 2001.07437). Here lit is $s \ge \tau$, not strictly above, and $\tau$ is a score, not a
share of the map's maximum: normalise the maps first.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer
from torch import Tensor

from wsl_core.errors import DataError, UsageError
from wsl_core.metrics.score_maps import THRESHOLDS, Thresholds, check_thresholds, score_arrays

__all__ = ["PixelEvaluator"]

IGNORE = 255


class PixelEvaluator:
    r"""Precision and recall of pixels, **pooled over all pixels of all images**.

    $\mathrm{PxAP} = \sum_l \mathrm{PxPrec}(\tau_l) (\mathrm{PxRec}(\tau_l) - \mathrm{PxRec}(\tau_{l-1}))$, from the
    highest threshold down. A constant map scores the share of the foreground. PxRec is the pixel coverage: the share
    of the object that is lit; the same share of each part is its part coverage.

    Memory does not grow with the number of maps: what is kept are histograms, of whole numbers. Evaluators of several
    processes or machines merge exactly.

    Args:
        thresholds: $\tau$, scores, rising from 0, below 1; by default the official 1,000.

    >>> import torch
    >>> evaluator = PixelEvaluator()
    >>> evaluator.update(torch.tensor([[[0.1, 0.9, 0.5]]]), torch.tensor([[[0, 1, 1]]]))
    >>> result = evaluator.compute(threshold=0.6)
    >>> result["pxap"], result["coverage"], result["precision"]
    (100.0, 0.5, 1.0)
    """

    def __init__(self, thresholds: Thresholds = THRESHOLDS):
        self.thresholds = check_thresholds(thresholds)
        self._edges = np.array([*self.thresholds, 1.0])  # the last bin is the score 1
        self.reset()

    def reset(self) -> None:
        """Forget every map."""
        self._regions = np.zeros((2, len(self._edges)), dtype=np.int64)  # pixels of background and foreground, by score
        self._parts = np.zeros((1, len(self._edges)), dtype=np.int64)  # pixels of each part, by score; 0 is no part
        self._images = 0

    def update(
        self,
        score_maps: Float[Tensor, "B H W"],
        masks: Integer[Tensor, "B _ _"],
        parts: Integer[Tensor, "B _ _"] | None = None,
    ) -> None:
        """Add maps.

        Args:
            score_maps: scores of one class in [0, 1].
            masks: of the size of the maps. 0 background, 255 ignore, anything else foreground: the union of the class's
                instances. For class k of several, give ``torch.where(mask == 255, 255, mask == k + 1)``.
            parts: of the size of the maps. 0 for no part, p + 1 for part p.

        Raises:
            DataError: a map has values outside [0, 1] or NaN, or a number in ``parts`` is negative.
            UsageError: masks or parts are not of the size of the maps.
        """
        for name, regions in (("masks", masks), ("parts", parts)):
            if regions is not None and regions.shape != score_maps.shape:
                raise UsageError(
                    f"{name}: found {tuple(regions.shape)}; expected {tuple(score_maps.shape)}, as the maps."
                )
        scores = score_arrays(score_maps)
        truth = masks.detach().cpu().numpy()
        if parts is not None and (parts < 0).any():
            raise DataError(f"parts: found {int(parts.min())}; expected 0 for no part, p + 1 for part p.")
        counted = truth != IGNORE
        bins = np.searchsorted(self._edges, scores[counted], side="right") - 1
        self._regions += _histograms((truth[counted] != 0).astype(np.int64), bins, self._regions)
        if parts is not None:
            found = _histograms(parts.detach().cpu().numpy()[counted], bins, self._parts)
            found[: len(self._parts)] += self._parts
            self._parts = found
        self._images += len(scores)

    def merge(self, other: "PixelEvaluator") -> "PixelEvaluator":
        """Add what another evaluator with the same thresholds has seen; returns this one.

        Raises:
            UsageError: the thresholds differ.
        """
        if self.thresholds != other.thresholds:
            raise UsageError("merge: the evaluators differ in thresholds; give both the same.")
        few, many = sorted((self._parts, other._parts), key=len)
        many = many.copy()
        many[: len(few)] += few
        self._parts = many
        self._regions += other._regions
        self._images += other._images
        return self

    def compute(self, threshold: float = 0.2) -> dict[str, Any]:
        r"""The scores of all pixels together.

        Args:
            threshold: the $\tau$, one of ``thresholds``, of the scores that are not curves.

        Returns:
            ``pxap`` in percent. All others are shares in [0, 1]: ``coverage``, of the object's pixels that are lit;
            ``precision``, of the lit pixels that are the object's, 0 where nothing is lit; ``part_coverage``, of each
            part's pixels that are lit, by the part's number p, for the parts that occur. ``coverage_curve`` and
            ``precision_curve``: at each of ``thresholds``. ``images``: how many were counted.

        Raises:
            DataError: no pixel of an object has been added.
            UsageError: ``threshold`` is not one of ``thresholds``.
        """
        at = int(np.abs(np.subtract(self.thresholds, threshold)).argmin())
        if not np.isclose(self.thresholds[at], threshold, rtol=0, atol=1e-9):
            raise UsageError(f"threshold={threshold}: not one of the evaluator's; the next is {self.thresholds[at]}.")
        if not self._regions[1].any():
            raise DataError("compute: no pixel of an object has been added; there is nothing to find.")
        false_positives, true_positives = _at_least(self._regions)
        lit = false_positives + true_positives
        precision = np.divide(true_positives, lit, out=np.zeros(len(lit)), where=lit > 0)
        coverage = true_positives / true_positives[0]
        gained = -np.diff(coverage, append=0.0)
        parts = {p: counts for p, counts in enumerate(_at_least(self._parts[1:])) if counts[0]}
        return {
            "pxap": float((precision * gained)[::-1].sum() * 100),
            "coverage": float(coverage[at]),
            "precision": float(precision[at]),
            "part_coverage": {p: float(counts[at] / counts[0]) for p, counts in parts.items()},
            "threshold": self.thresholds[at],
            "coverage_curve": coverage[:-1].tolist(),
            "precision_curve": precision[:-1].tolist(),
            "thresholds": list(self.thresholds),
            "images": self._images,
        }


def _histograms(
    rows: Int[np.ndarray, " P"], bins: Int[np.ndarray, " P"], at_least: Int[np.ndarray, "R T"]
) -> Int[np.ndarray, "S T"]:
    """Counts of pixels by row and bin, of as many rows as occur, and not fewer than the array ``at_least`` has."""
    width = at_least.shape[1]
    counts = np.bincount(rows * width + bins, minlength=at_least.size)
    return np.pad(counts, (0, -len(counts) % width)).reshape(-1, width)


def _at_least(counts: Int[np.ndarray, "R T"]) -> Int[np.ndarray, "R T"]:
    """From pixels in each bin to pixels in it and in all higher ones."""
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1]
