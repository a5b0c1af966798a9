r"""What a correspondence is worth, pair by pair: keypoints, parts, masks and regions.

Each protocol of the field is a named choice, since they differ by more than methods do. All values are of one pair of
images; :func:`mean_over_pairs` averages them over pairs, or within classes first.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from wsl_core.errors import DataError, UsageError
from wsl_core.metrics.localization import box_iou
from wsl_core.metrics.statistics import Interval

__all__ = [
    "NORMALISERS",
    "PART_WEIGHTS",
    "RegionMatching",
    "active_regions",
    "interval_over_images",
    "mask_iou",
    "mean_over_pairs",
    "pck",
    "region_matching",
    "true_regions",
    "weighted_iou",
]

NORMALISERS = ("box", "image", "224", "keypoints")
PART_WEIGHTS = ("union", "target")
REGION_THRESHOLDS = np.arange(101) / 100
MOST_SURE = 100  # matches, for mIoU@k
ACTIVE_SHARE = 0.75  # of a region's area within the object's box


def pck(
    predicted: Float[Tensor, "P 2"],
    source: Float[Tensor, "P 3"],
    target: Float[Tensor, "P 3"],
    alphas: Sequence[float] = (0.05, 0.1, 0.15),
    normaliser: str = "box",
    box: Float[Tensor, " 4"] | None = None,
    size: tuple[int, int] | None = None,
    strict: bool = False,
) -> Float[np.ndarray, " A"]:
    r"""Percentage of correct keypoints, as a share: $\frac1{|P|}\sum_p \mathbf 1[\|\hat p - p^*\| \le \alpha L]$.

    $L$, always of the image in which the error is measured, is the catch:

    - ``"box"``: the longer side of the object's box. Proposal Flow on PF-PASCAL.
    - ``"image"``: the longer side of the image. FlowWeb on PASCAL Parts, HPF's default on PF-PASCAL.
    - ``"224"``: 224 pixels, after the image is stretched to 224 x 224. SCNet.
    - ``"keypoints"``: the longer side of the tight box around the keypoints that count. PF-WILLOW; weakalign's "pf".

    Only keypoints count that are visible and finite in both images, pair by pair and never each image by itself; the
    others neither widen the tight box nor take part. FlowWeb counts none on or beyond the border: mark them invisible.

    Args:
        predicted: where the source's keypoints are said to lie in the target image, x, y in pixels; anything for those
            that do not count.
        source: x, y, visible in the source image.
        target: x, y, visible in the target image.
        alphas: each at least 0.
        normaliser: one of ``NORMALISERS``.
        box: the object's in the target image, x0, y0, x1, y1, half-open; for ``"box"``, which needs it.
        size: height and width of the target image; for ``"image"`` and ``"224"``, which need it.
        strict: $<$ in place of $\le$. FlowWeb counts an error of exactly $\alpha L$ as correct; Proposal Flow's
            histograms do not.

    Returns:
        One share for each alpha.

    Raises:
        UsageError: the normaliser is unknown or lacks what it needs, or an alpha is not a finite number from 0 on.
        DataError: no keypoint counts, so the pair has to be left out; one that counts has no finite prediction; or
            $L$ is not above 0.

    >>> truth = torch.tensor([[10.0, 10, 1], [50, 30, 1], [0, 0, 0]])
    >>> predicted = torch.tensor([[12.0, 10], [50, 36], [9, 9]])
    >>> pck(predicted, truth, truth, alphas=(0.05, 0.2), normaliser="keypoints").tolist()  # L is 40
    [0.5, 1.0]
    """
    if normaliser not in NORMALISERS:
        raise UsageError(f"normaliser={normaliser!r} is unknown; expected one of {', '.join(NORMALISERS)}.")
    if not len(alphas) or not all(0 <= alpha < np.inf for alpha in alphas):
        raise UsageError(f"alphas={tuple(alphas)}: expected finite numbers from 0 on.")
    counts = _seen(source) & _seen(target)
    if not counts.any():
        raise DataError("keypoints: found none that is visible in both images; leave the pair out.")
    if not predicted[counts].isfinite().all():
        raise DataError("predicted: found NaN or infinity for a visible keypoint; expected a place for each.")
    points, errors = target[counts, :2].double(), (predicted[counts] - target[counts, :2]).double()
    if normaliser == "224":
        height, width = _needed(size, "size", normaliser)
        errors = errors * 224 / errors.new_tensor([width, height])
    length = _length(normaliser, points, box, size)
    if not 0 < length < np.inf:
        raise DataError(f"normaliser={normaliser!r}: found a length of {length}; expected one above 0.")
    distances = errors.norm(dim=1).cpu().numpy()[:, None] / length
    reach = np.asarray(alphas, dtype=np.float64)
    return (distances < reach if strict else distances <= reach).mean(axis=0)


def weighted_iou(
    predicted: Int[Tensor, "H W"], target: Int[Tensor, "H W"], common: Sequence[int], weights: str
) -> float:
    r"""Weighted IoU of parts, $\sum_p w_p\,\mathrm{IoU}_p$ over the parts that both images have.

    - ``"union"``: $w_p$ is the part's area in the union of prediction and target, as a share of the sum of all parts'.
      FlowWeb; there a pair without common parts has 0, and a class without parts the :func:`mask_iou`.
    - ``"target"``: $w_p$ is the part's area in the target, as a share. weakalign and HPF.

    Args:
        predicted: parts of the one image in the frame of the other, see :func:`wsl_core.matching.transfer_mask`; 0 for
            no part, else their numbers.
        target: the other image's own parts.
        common: numbers of the parts that both images have, **before** the transfer: one that the transfer loses has
            IoU 0.
        weights: one of ``PART_WEIGHTS``.

    Raises:
        UsageError: the shapes differ, ``weights`` is unknown, or a number in ``common`` is below 1 or comes twice.
        DataError: a common part is not in the target, or there is none for ``"target"``.

    >>> target = torch.tensor([[1, 1, 1, 2]])
    >>> predicted = torch.tensor([[1, 1, 0, 2]])
    >>> weighted_iou(predicted, target, (1, 2), "target")  # 3/4 of 2/3, and 1/4 of 1
    0.75
    """
    if weights not in PART_WEIGHTS:
        raise UsageError(f"weights={weights!r} is unknown; expected one of {', '.join(PART_WEIGHTS)}.")
    if len(set(common)) < len(common) or any(part < 1 for part in common):
        raise UsageError(f"common={tuple(common)}: expected numbers of parts, each from 1 on and once.")
    _same_shape(predicted, target)
    if not common and weights == "union":
        return 0.0
    if not common:
        raise DataError("common: found no part; leave the pair out.")
    parts = torch.tensor(common, device=target.device)[:, None, None]
    found, true = predicted == parts, target == parts
    areas = true.sum(dim=(1, 2)).double()
    if not areas.all():
        raise DataError(f"target: part {common[int(areas.argmin())]} is not there; expected every common part.")
    shared, union = ((found & true).sum(dim=(1, 2)), (found | true).sum(dim=(1, 2)))
    weight = union.double() if weights == "union" else areas
    return (weight / weight.sum() * shared / union).sum().item()


def mask_iou(predicted: Bool[Tensor, "H W"], target: Bool[Tensor, "H W"]) -> float:
    """IoU of a transferred mask with the image's own.

    Raises:
        UsageError: the shapes differ.
        DataError: the image's own mask is empty.

    >>> mask_iou(torch.tensor([[True, True, False]]), torch.tensor([[True, True, True]]))
    0.6666666666666666
    """
    _same_shape(predicted, target)
    if not target.any():
        raise DataError("target: found an empty mask; leave the pair out.")
    return (predicted & target).sum().item() / (predicted | target).sum().item()


class RegionMatching(NamedTuple):
    r"""How well the regions of one pair are matched.

    ``pcr``: the share of matches with $1 - IoU < \tau$ for each of the 101 ``REGION_THRESHOLDS`` 0, 0.01, ..., 1;
    ``auc``: the area under it; ``miou_at_k``: the mean IoU of the k surest matches, k = 1, ..., 100, NaN beyond what
    the pair has.
    """

    pcr: Float[np.ndarray, "101"]
    auc: float
    miou_at_k: Float[np.ndarray, "100"]


def region_matching(
    matched: Float[Tensor, "M 4"], true: Float[Tensor, "M 4"], confidence: Float[Tensor, " M"]
) -> RegionMatching:
    r"""Probability of correct regions, its curve and area, and mIoU@k (Ham et al., CVPR 2016).

    $\mathrm{PCR}(\tau)$ is the share of regions whose match $\hat r$ has $1 - \mathrm{IoU}(\hat r, r^*) < \tau$.
    Strictly less: PCR(0) is 0 even for a perfect match. The area is by the trapezoidal rule.

    Args:
        matched: the best match of each of the source's active regions, in the target image; see
            :func:`active_regions`.
        true: where these regions truly lie there; see :func:`true_regions`.
        confidence: of each match. Of equal ones the first is the surer.

    Raises:
        DataError: there is no region, or a value is not finite.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    >>> true = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]])
    >>> result = region_matching(boxes, true, torch.tensor([0.1, 0.9]))
    >>> result.pcr[[0, 1, 50, 51]].tolist(), result.miou_at_k[:2].tolist()
    ([0.0, 0.5, 0.5, 1.0], [0.5, 0.75])
    """
    if not len(matched):
        raise DataError("matched: found no region; leave the pair out.")
    if not all(values.isfinite().all() for values in (matched, true, confidence)):
        raise DataError("regions: found NaN or infinity; expected finite boxes and confidences.")
    ious = box_iou(matched, true).diagonal().cpu().numpy()
    pcr = (ious[:, None] > REGION_THRESHOLDS[::-1]).mean(axis=0)  # 1 - tau, without the rounding of a difference
    surest = ious[confidence.argsort(descending=True, stable=True).cpu().numpy()][:MOST_SURE]
    miou_at_k = np.full(MOST_SURE, np.nan)
    miou_at_k[: len(surest)] = surest.cumsum() / np.arange(1, len(surest) + 1)
    return RegionMatching(pcr, float(np.trapezoid(pcr, REGION_THRESHOLDS)), miou_at_k)


def active_regions(
    boxes: Float[Tensor, "M 4"], object_box: Float[Tensor, " 4"], keypoints: Float[Tensor, "P 3"]
) -> Bool[Tensor, " M"]:
    """Which regions are judged: more than 75 % of the area lies in the object's box, and a visible keypoint within.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0], [2.0, 0.0, 8.0, 4.0]])
    >>> active_regions(boxes, torch.tensor([0.0, 0.0, 6.0, 4.0]), torch.tensor([[1.0, 1.0, 1.0]])).tolist()
    [True, False, False]
    """
    shared = torch.minimum(boxes[:, 2:], object_box[2:]) - torch.maximum(boxes[:, :2], object_box[:2])
    share = shared.clamp(min=0).prod(dim=1) / (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    points = keypoints[_seen(keypoints), :2]
    holds = ((boxes[:, None, :2] <= points) & (points < boxes[:, None, 2:])).all(dim=-1).any(dim=1)
    return (share > ACTIVE_SHARE) & holds


def true_regions(
    boxes: Float[Tensor, "M 4"],
    source: Float[Tensor, "P 3"],
    target: Float[Tensor, "P 3"],
    size: tuple[int, int],
) -> Float[Tensor, "M 4"]:
    """Where regions of the source image truly lie in the target image, from the keypoints (Ham et al., CVPR 2016).

    The thin-plate spline through all keypoints that both images show carries a region's corners. Between the mean of
    the two smaller and that of the two larger x, and y, lies its true box; it is clipped to the image.

    Args:
        boxes: x0, y0, x1, y1 in pixels of the source image, half-open.
        source: x, y, visible in the source image.
        target: x, y, visible in the target image.
        size: height and width of the target image.

    Raises:
        DataError: fewer than three keypoints are visible in both, they lie on one line, or two at one place.

    >>> source = torch.tensor([[0.0, 0, 1], [8, 0, 1], [0, 8, 1], [8, 8, 1]])
    >>> target = source * torch.tensor([2.0, 1, 1])
    >>> true_regions(torch.tensor([[2.0, 2, 4, 6]]), source, target, (8, 14)).round().tolist()
    [[4.0, 2.0, 8.0, 6.0]]
    """
    both = _seen(source) & _seen(target)
    from_points, to_points = (points[both, :2].double().cpu().numpy() for points in (source, target))
    if not _spans_a_plane(from_points):
        raise DataError(
            f"keypoints: both images show {len(from_points)}; expected three or more, not all on one line and no two "
            "at one place. Leave the pair out."
        )
    spline = RBFInterpolator(from_points, to_points, kernel="thin_plate_spline", degree=1)
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].double().cpu().numpy()  # (M, 4, 2)
    warped = np.sort(spline(corners.reshape(-1, 2)).reshape(-1, 4, 2), axis=1)
    low, high = warped[:, :2].mean(axis=1), warped[:, 2:].mean(axis=1)
    extent = np.array([size[1], size[0]])
    return torch.from_numpy(np.concatenate([low.clip(0, extent), high.clip(0, extent)], axis=1)).to(boxes)


def mean_over_pairs(
    values: Sequence[float | Float[np.ndarray, "*shape"]], classes: Sequence[Hashable] | None = None
) -> Float[np.ndarray, "*shape"]:
    """The mean over pairs; with ``classes``, within each class and then over classes, as Proposal Flow has it.

    Args:
        values: what a metric gives for each pair: numbers, or arrays of one shape. NaN, as mIoU@k has for pairs with
            less than k matches, is left out of the mean of its place.
        classes: of each pair.

    Raises:
        UsageError: there is no pair, the shapes differ, or there are not as many classes as pairs.

    >>> mean_over_pairs([1.0, 0.0, 0.0]).item(), mean_over_pairs([1.0, 0.0, 0.0], ["car", "car", "duck"]).item()
    (0.3333333333333333, 0.25)
    """
    if not len(values) or len({np.shape(value) for value in values}) > 1:
        raise UsageError(f"values: found {len(values)}; expected at least one pair, and one shape.")
    if classes is not None and len(classes) != len(values):
        raise UsageError(f"classes: found {len(classes)}; expected one for each of the {len(values)} pairs.")
    stacked = np.stack([np.asarray(value, dtype=np.float64) for value in values])
    if classes is None:
        return _mean_of_known(stacked)
    groups = {name: [i for i, other in enumerate(classes) if other == name] for name in dict.fromkeys(classes)}
    return _mean_of_known(np.stack([_mean_of_known(stacked[group]) for group in groups.values()]))


def interval_over_images(
    values: Float[np.ndarray, " Q"],
    images: Int[np.ndarray, "_ 2"],
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """The mean over pairs, with a percentile bootstrap that draws images again, and not pairs.

    Pairs that share an image are no independent evidence: a hard image is hard in each of its pairs. So the images are
    drawn with repetition, and a pair counts as often as both of its images were drawn together, the product of the two
    counts. A draw in which no pair is left says nothing and is left out.

    Args:
        values: of each pair; NaN where a pair has none.
        images: of each pair, by any numbers.
        generator: where the draws come from; the same state gives the same interval.
        confidence: two-sided confidence, in (0, 1).
        resamples: how many times the images are drawn again.

    Returns:
        ``n`` is the number of images.

    Raises:
        UsageError: there are not as many values as pairs of images, fewer than two pairs have one, or the confidence or
            the number of draws is out of range.

    >>> values, images = np.array([1.0, 0.0, 1.0]), np.array([[0, 1], [1, 2], [2, 0]])
    >>> interval = interval_over_images(values, images, np.random.default_rng(0))
    >>> f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}] of {interval.n} images"
    '0.67 [0.00, 1.00] of 3 images'
    """
    if len(values) != len(images):
        raise UsageError(f"images: found {len(images)} pairs; expected one for each of the {len(values)} values.")
    if not 0 < confidence < 1 or resamples < 2 / (1 - confidence):
        raise UsageError(
            f"confidence={confidence}, resamples={resamples}: expected a share between 0 and 1, and enough draws for "
            "both ends, such as 0.95 and 2000."
        )
    known = ~np.isnan(values)
    if known.sum() < 2:
        raise UsageError(f"values: found {known.sum()} pairs that have one; expected two at least.")
    values, (names, places) = values[known], np.unique(images[known], return_inverse=True)
    source, target = places.reshape(-1, 2).T
    counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = counts[:, source] * counts[:, target]
    weights = weights[weights.any(axis=1)]
    means = weights @ values / weights.sum(axis=1)
    mean = float(values.mean())
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean), len(names), confidence)


def _mean_of_known(values: Float[np.ndarray, "N *shape"]) -> Float[np.ndarray, "*shape"]:
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _seen(keypoints: Float[Tensor, "P 3"]) -> Bool[Tensor, " P"]:
    return (keypoints[:, 2] > 0) & keypoints.isfinite().all(dim=1)


def _spans_a_plane(points: Float[np.ndarray, "P 2"]) -> bool:
    if len(points) < 3 or len(np.unique(points, axis=0)) < len(points):
        return False
    along, across = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(across > 1e-6 * along)


def _length(
    normaliser: str,
    points: Float[Tensor, "P 2"],
    box: Float[Tensor, " 4"] | None,
    size: tuple[int, int] | None,
) -> float:
    if normaliser == "box":
        x0, y0, x1, y1 = _needed(box, "box", normaliser).tolist()
        return max(x1 - x0, y1 - y0)
    if normaliser == "image":
        return float(max(_needed(size, "size", normaliser)))
    if normaliser == "keypoints":
        return (points.amax(dim=0) - points.amin(dim=0)).max().item()
    return 224.0


def _needed(value, name: str, normaliser: str):
    if value is None:
        raise UsageError(f"{name}=None: the normaliser {normaliser!r} needs it, of the target image.")
    return value


def _same_shape(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape:
        raise UsageError(f"predicted: found {tuple(predicted.shape)}; expected the target's {tuple(target.shape)}.")
