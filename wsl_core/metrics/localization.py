r"""Localisation accuracy: is the box in the right place, and is the class right too?

The unit is a pair of an image and a class that is present in it; with one label an image, that is the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsl_core.errors import DataError, UsageError
from wsl_core.localize import boxes_from_map
from wsl_core.ops import Grid, normalize, resize_maps

__all__ = [
    "LocalizationEvaluator",
    "best_centered_box",
    "best_ious",
    "box_iou",
    "centered_boxes",
    "fixed_box_accuracy",
    "pointing_hits",
]

PAPER_THRESHOLD = 0.2  # tau, a share of the map's maximum


def box_iou(a: Float[Tensor, "M 4"], b: Float[Tensor, "N 4"]) -> Float[Tensor, "M N"]:
    r"""Intersection over union of half-open boxes x0, y0, x1, y1; a box without area overlaps nothing.

    In double precision, so that boxes of whole pixels that overlap by exactly $\delta$ reach $\delta$.

    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]])).item()
    0.5
    """
    return _iou(a[:, None], b[None])


def _iou(a: Float[Tensor, "*#N 4"], b: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N"]:
    a, b = a.double(), b.double()
    corner0, corner1 = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (corner1 - corner0).clamp(min=0).prod(dim=-1)
    union = sum((box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (a, b)) - overlap
    return torch.where(union > 0, overlap / union.clamp(min=1e-12), 0.0)  # (1.12)


def best_ious(
    score_map: Float[Tensor, "H W"], boxes: Float[Tensor, "M 4"], thresholds: Sequence[float], how: str = "max"
) -> Float[np.ndarray, " T"]:
    r"""IoU of the predicted box with the best matching true box, at each threshold $\tau$.

    The map, at the image's resolution, is normalised and boxed by the CAM paper's rule, see
    :func:`wsl_core.localize.boxes_from_map`. No box counts as IoU 0. Linear in pixels and in thresholds.

    Raises:
        DataError: there is no true box.

    >>> score_map = torch.zeros(4, 4)
    >>> score_map[1:3, 1:3] = 1.0
    >>> best_ious(score_map, torch.tensor([[1.0, 1.0, 3.0, 3.0]]), [0.2, 0.5]).tolist()
    [1.0, 1.0]
    """
    if not len(boxes):
        raise DataError("boxes: found none; leave maps out of classes that have no true box.")
    normalized = normalize(score_map, how)
    predicted = [boxes_from_map(normalized, threshold) for threshold in thresholds]
    return np.array([box_iou(box, boxes).max().item() if len(box) else 0.0 for box in predicted])


def centered_boxes(sizes: Int[Tensor, "N 2"], width: float = 1.0, height: float = 1.0) -> Float[Tensor, "N 4"]:
    """One box an image, centred, of a fixed share of its width and height; (1, 1) is the full frame.

    >>> centered_boxes(torch.tensor([[64, 96]]), 0.5, 0.5).tolist()
    [[24.0, 16.0, 72.0, 48.0]]
    """
    extent = sizes.flip(1).float()  # (N, 2) as width, height
    half = extent * torch.tensor([width, height]) / 2
    return torch.cat([extent / 2 - half, extent / 2 + half], dim=1)


def best_centered_box(
    sizes: Int[Tensor, "N 2"], boxes: Sequence[Float[Tensor, "_ 4"]], iou: float = 0.5, steps: int = 20
) -> tuple[float, float]:
    """The shares (width, height) of the one centred box that is right most often. Choose it on train, never on test.

    Costs ``steps`` squared comparisons of one box with all images.

    Raises:
        DataError: an image has no box.

    >>> best_centered_box(torch.tensor([[10, 10]]), [torch.tensor([[2.0, 2.0, 8.0, 8.0]])], iou=0.95)
    (0.6, 0.6)
    """
    shares = [round((i + 1) / steps, 6) for i in range(steps)]
    candidates = [(width, height) for width in shares for height in shares]
    score = [fixed_box_accuracy(centered_boxes(sizes, *candidate), boxes, iou) for candidate in candidates]
    return candidates[int(np.argmax(score))]


def fixed_box_accuracy(
    predicted: Float[Tensor, "N 4"], boxes: Sequence[Float[Tensor, "_ 4"]], iou: float = 0.5
) -> float:
    """Share of images whose predicted box overlaps any true box with at least ``iou``.

    >>> fixed_box_accuracy(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), [torch.tensor([[0.0, 0.0, 4.0, 3.0]])])
    1.0
    """
    image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(group) for group in boxes]))
    if empty := len(boxes) - len(image.unique()):
        raise DataError(f"boxes: {empty} images have none; leave them out of the set.")
    right = _iou(predicted[image], torch.cat(list(boxes))) >= iou
    return (torch.zeros(len(boxes)).index_add_(0, image, right.float()) > 0).float().mean().item()


def pointing_hits(
    maps: Float[Tensor, "N h w"], masks: Bool[Tensor, "N H W"], grid: Grid | None = None
) -> Bool[Tensor, " N"]:
    """Does the centre of each map's highest cell lie on the mask? A flat map never hits.

    ``grid`` says where the cells are centred on the masks' pixels, see :func:`wsl_core.ops.resize_maps`; ``None`` where
    they tile them evenly. Of two pixels that a centre lies between, the upper or left one counts.

    >>> pointing_hits(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[False, True]]])).tolist()
    [True]
    """
    highest, cell = normalize(maps).flatten(1).max(dim=1)
    row, column = (
        _centre_pixel(index, cells, pixels, grid)
        for index, cells, pixels in zip(
            (cell // maps.shape[-1], cell % maps.shape[-1]), maps.shape[-2:], masks.shape[-2:], strict=True
        )
    )
    return masks[torch.arange(len(masks)), row, column] & (highest > 0)


def _centre_pixel(index: Int[Tensor, " N"], cells: int, pixels: int, grid: Grid | None) -> Int[Tensor, " N"]:
    stride, first = grid or Grid(pixels / cells, pixels / cells / 2)
    return (first + index * stride).ceil().long().sub(1).clamp(0, pixels - 1)


class LocalizationEvaluator:
    r"""Top-1, Top-5 and GT-known localisation accuracy, with classification beside them.

    GT-known: the class is given; right if the IoU of its map's box reaches $\delta$. Top-1: besides, the class must be
    the highest scored. Top-5: one of the five highest scored classes must be present and its box right.
    All values are shares in [0, 1]; error is 1 minus accuracy. Evaluators of several processes merge.

    An image that lacks a box for one of its classes cannot be judged: it takes part in classification alone, and
    ``unboxed_images`` says how many there were.

    Args:
        thresholds: $\tau$, or several, to see the sensitivity. One threshold holds for the whole set.
        iou: $\delta$.
        how: normalisation of the maps; ``"max"`` is the paper's.

    >>> evaluator = LocalizationEvaluator()
    >>> maps = torch.zeros(1, 2, 8, 8)
    >>> maps[0, 1, 2:6, 2:6] = 1.0
    >>> batch = {"labels": torch.tensor([[0.0, 1.0]]), "size": torch.tensor([[8, 8]])}
    >>> batch |= {"boxes": [torch.tensor([[2.0, 2.0, 6.0, 6.0]])], "box_labels": [torch.tensor([1])]}
    >>> evaluator.update(maps, torch.tensor([[0.0, 3.0]]), batch)
    >>> evaluator.compute()["gt_known"]
    1.0
    """

    def __init__(self, thresholds: float | Sequence[float] = PAPER_THRESHOLD, iou: float = 0.5, how: str = "max"):
        self.thresholds = (thresholds,) if isinstance(thresholds, (int, float)) else tuple(thresholds)
        if not self.thresholds or not all(0 <= value < 1 for value in self.thresholds):
            raise UsageError(f"thresholds={thresholds}: expected shares of the maximum in [0, 1).")
        if not 0 < iou <= 1:
            raise UsageError(f"iou={iou}: expected a number in (0, 1].")
        self.iou, self.how = iou, how
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self._ious: list[np.ndarray] = []  # one (T,) a pair of image and class
        self._top1: list[bool] = []  # is that class the highest scored?
        self._top1_images: list[bool] = []
        self._top5_images: list[bool] = []
        self._top5_right: list[np.ndarray] = []  # one (T,) an image that has its boxes

    def update(
        self,
        maps: Float[Tensor, "B K h w"],
        logits: Float[Tensor, "B K"],
        batch: dict[str, Any],
        grid: Grid | None = None,
    ) -> None:
        """Add a batch.

        Args:
            maps: raw maps of all classes; those of present classes are looked at.
            logits: class scores.
            batch: from :func:`wsl_core.data.collate`; needs ``labels``, ``size``, ``boxes`` and ``box_labels``.
            grid: where the cells of the maps lie, see :func:`wsl_core.ops.resize_maps`.

        Raises:
            DataError: the batch lacks one of the four keys.
        """
        if missing := [key for key in ("labels", "size", "boxes", "box_labels") if key not in batch]:
            raise DataError(f"batch: key {missing[0]!r} is missing; localisation needs a data set with boxes.")
        for i, (height, width) in enumerate(batch["size"].tolist()):
            labels, boxes, box_labels = (batch[key][i].cpu() for key in ("labels", "boxes", "box_labels"))
            present = maps[i : i + 1, labels.to(maps.device) > 0].float()  # one image at a time: memory stays small
            enlarged = resize_maps(present, _padded_size(batch), grid)[0, :, :height, :width].cpu()
            self.add(enlarged, logits[i].float().cpu(), labels, boxes, box_labels)

    def add(
        self,
        maps: Float[Tensor, "P H W"],
        logits: Float[Tensor, " K"],
        labels: Float[Tensor, " K"],
        boxes: Float[Tensor, "M 4"],
        box_labels: Int[Tensor, " M"],
    ) -> None:
        """Add one image: the maps of the P classes that are present, in order, at its own height and width.

        >>> evaluator = LocalizationEvaluator()
        >>> one = torch.ones(1)
        >>> evaluator.add(torch.eye(4)[None], one, one, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0]))
        >>> evaluator.compute()["mean_iou"]
        1.0
        """
        present = labels.nonzero().flatten().tolist()
        ranked = logits.topk(min(5, len(logits))).indices.tolist()
        self._top1_images.append(ranked[0] in present)
        self._top5_images.append(bool(set(ranked) & set(present)))
        if not has_its_boxes(labels, box_labels):
            return
        top5_right = np.zeros(len(self.thresholds), dtype=bool)
        for score_map, c in zip(maps, present, strict=True):
            ious = best_ious(score_map, boxes[box_labels == c], self.thresholds, self.how)
            self._ious.append(ious)
            self._top1.append(c == ranked[0])
            if c in ranked:
                top5_right |= ious >= self.iou
        self._top5_right.append(top5_right)

    def merge(self, other: "LocalizationEvaluator") -> "LocalizationEvaluator":
        """Add what another evaluator with the same settings has seen; returns this one.

        Raises:
            UsageError: the settings differ.
        """
        if (self.thresholds, self.iou, self.how) != (other.thresholds, other.iou, other.how):
            raise UsageError("merge: the evaluators differ in thresholds, IoU or normalisation.")
        for name in ("_ious", "_top1", "_top1_images", "_top5_images", "_top5_right"):
            getattr(self, name).extend(getattr(other, name))
        return self

    def compute(self) -> dict[str, Any]:
        r"""Accuracies at the first threshold, and the GT-known curve over all of them.

        Returns:
            ``gt_known``, ``top1_localization``, ``top5_localization``, ``top1_classification``,
            ``top5_classification`` in [0, 1]; ``mean_iou`` of the boxes; ``curve``: GT-known accuracy at each of
            ``thresholds``; ``best_threshold``: where the curve is highest (for a choice on val); ``images``, ``pairs``,
            ``unboxed_images``: how many were seen, judged, and could not be.

        Raises:
            DataError: no image that has its boxes has been added.
        """
        if not self._ious:
            seen = len(self._top1_images)
            raise DataError(f"compute: {seen} images have been added, none with boxes of its classes; add one first.")
        ious = np.stack(self._ious)  # (pairs, T)
        curve = (ious >= self.iou).mean(axis=0)
        top1 = np.array(self._top1)
        return {
            "gt_known": float(curve[0]),
            "top1_localization": self._per_image_top1(ious, top1),
            "top5_localization": float(np.stack(self._top5_right)[:, 0].mean()),
            "top1_classification": float(np.mean(self._top1_images)),
            "top5_classification": float(np.mean(self._top5_images)),
            "mean_iou": float(ious[:, 0].mean()),
            "curve": curve.tolist(),
            "thresholds": list(self.thresholds),
            "best_threshold": float(self.thresholds[int(curve.argmax())]),
            "images": len(self._top1_images),
            "pairs": len(ious),
            "unboxed_images": len(self._top1_images) - len(self._top5_right),
        }

    def _per_image_top1(self, ious: np.ndarray, top1: np.ndarray) -> float:
        """At most one pair of an image is its top class, so the sum over pairs counts images."""
        return float((top1 & (ious[:, 0] >= self.iou)).sum() / len(self._top5_right))


def has_its_boxes(labels: Float[Tensor, " K"], box_labels: Int[Tensor, " M"]) -> bool:
    """Whether every class that is present, and at least one is, has a box.

    >>> has_its_boxes(torch.tensor([1.0, 1.0]), torch.tensor([0]))
    False
    """
    present = labels.nonzero().flatten()
    return len(present) > 0 and bool(torch.isin(present, box_labels).all())


def _padded_size(batch: dict[str, Any]) -> tuple[int, int]:
    """Height and width that the network saw: `collate` pads every image to the largest of the batch."""
    height, width = batch["size"].amax(dim=0).tolist()
    return height, width
