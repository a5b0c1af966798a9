"""From maps to boxes and masks."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import normalize, resize_maps

__all__ = ["boxes_from_map", "foreground_boxes", "mask_from_maps", "official_boxes"]

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)  # OpenCV's contours join diagonal neighbours too
OFFICIAL_LEVELS = (20, 100, 110)  # of 255
OFFICIAL_MARGIN = 5  # pixels at the right and lower edge that no box of the released code enters


def boxes_from_map(
    score_map: Float[Tensor, "H W"], threshold: float = 0.2, rule: str = "largest"
) -> Float[Tensor, "M 4"]:
    r"""Boxes around what a map lights up.

    Keeps the pixels with $M(x, y) > \tau \max M$ and draws the box of the largest connected component: the CAM paper's
    rule, with $\tau = 0.2$. Linear in pixels.

    Args:
        score_map: raw or normalised. A map whose maximum is not positive has no evidence, a constant one says nothing
            about place: both give no box.
        threshold: $\tau$, a share of the maximum, in [0, 1).
        rule: ``"largest"`` component only, or ``"all"`` of them, the largest first.

    Returns:
        x0, y0, x1, y1 in pixels of the map, half-open: a single pixel at the origin is (0, 0, 1, 1).

    Raises:
        UsageError: ``threshold`` or ``rule`` is out of range.
        DataError: the map holds NaN or infinity.

    >>> score_map = torch.zeros(4, 6)
    >>> score_map[1:3, 2:5] = 1.0
    >>> boxes_from_map(score_map).tolist()
    [[2.0, 1.0, 5.0, 3.0]]
    """
    if not 0 <= threshold < 1:
        raise UsageError(f"threshold={threshold}: expected a share of the maximum in [0, 1).")
    if rule not in ("largest", "all"):
        raise UsageError(f"rule={rule!r} is unknown; expected 'largest' or 'all'.")
    values = _finite_values(score_map)
    highest = values.max(initial=0)  # what exceeds tau times this is lit, (1.11)
    components, count = ndimage.label(values > max(threshold * highest, 0), structure=EIGHT_NEIGHBOURS)
    if not count or values.min() == highest:
        return torch.zeros(0, 4)
    areas = np.bincount(components.ravel())[1:]
    order = np.argsort(-areas, kind="stable")[: 1 if rule == "largest" else None]
    return torch.from_numpy(_boxes_around(components)[order]).float()


def official_boxes(score_map: Float[Tensor, "H W"], levels: tuple[int, ...] = OFFICIAL_LEVELS) -> Float[Tensor, "M 4"]:
    r"""Boxes by the rule of the CAM paper's released code, which is not the rule of the paper.

    The map is divided by its maximum and rounded to 8 bits. At each level:

    1. the pixels above the level are lit;
    2. those go whose depth, the Euclidean distance to the nearest unlit pixel, rounds to 10 or less when the greatest
       depth is scaled to 255, which leaves specks and rims out: 4 % of the depth of the deepest region;
    3. every contour has its box: those around regions and those around holes, rim included;
    4. boxes end five pixels before the right and the lower edge.

    The boxes of all levels are sorted by area. From the largest on, each removes the smaller ones that it overlaps by
    more than half of its own area. The released loop steps over the successor of a box that it has removed, and so does
    this one: of three copies two stay.

    Not known, and not reproduced: the JPEG file through which their maps went, the order among boxes of equal area,
    and whether their OpenCV blanked the outermost pixels before it traced contours, as old versions do. Their map is a
    sum of absolute values; give ``score_map.abs()`` where negative evidence is to light up as there.

    The cost is linear in the pixels (a distance transform and two labellings for each level), and quadratic in the
    number of boxes.

    Args:
        score_map: at the resolution of the image; a map whose maximum is not positive gives no box.
        levels: gray values that a pixel has to exceed, each in [0, 255).

    Returns:
        x0, y0, x1, y1 in pixels, half-open, the largest first.

    Raises:
        UsageError: a level is out of range, or the map is not larger than the margin of five pixels.
        DataError: the map holds NaN or infinity.

    >>> score_map = torch.zeros(40, 40)
    >>> score_map[2:30, 2:30] = 0.3
    >>> score_map[4:14, 4:14] = 1.0
    >>> official_boxes(score_map).tolist()
    [[2.0, 2.0, 30.0, 30.0], [4.0, 4.0, 14.0, 14.0]]
    """
    if not levels or not all(0 <= level < 255 for level in levels):
        raise UsageError(f"levels={levels}: expected gray values in [0, 255).")
    if min(score_map.shape) <= OFFICIAL_MARGIN:
        raise UsageError(
            f"score_map is {tuple(score_map.shape)}: expected more than {OFFICIAL_MARGIN} pixels a side, since the "
            "rule cuts as many off. Enlarge the map to the image first."
        )
    values = _finite_values(score_map).clip(min=0)
    gray = np.round(255 * (values / (values.max() or 1)))
    boxes = np.concatenate([_contour_boxes(_deep(gray > level)) for level in levels])
    height, width = score_map.shape
    boxes[:, 2:] = boxes[:, 2:].clip(max=[width - OFFICIAL_MARGIN, height - OFFICIAL_MARGIN])
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    order = np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]
    return torch.from_numpy(_without_copies(boxes[order])).float()


def _finite_values(score_map: Float[Tensor, "H W"]) -> np.ndarray:
    values = score_map.detach().cpu()
    values = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    if not np.isfinite(values).all():
        raise DataError("score_map: found NaN or infinity; expected finite scores.")
    return values


def _deep(lit: np.ndarray) -> np.ndarray:
    """The lit pixels without those that are shallow beside the deepest one."""
    if lit.all():  # there is no outside to be far from
        return lit
    depth = ndimage.distance_transform_edt(lit)
    return lit & (depth * 255 >= 10.5 * depth.max())  # what rounds to 11 or more


def _contour_boxes(lit: np.ndarray) -> np.ndarray:
    """Boxes of the outer contours of regions and of the contours of their holes, which run on the pixels around."""
    regions, _ = ndimage.label(lit, structure=EIGHT_NEIGHBOURS)
    outside_and_holes, _ = ndimage.label(np.pad(~lit, 1, constant_values=True))  # the corner makes the outside first
    rims = _boxes_around(outside_and_holes)[1:] + np.array([-2, -2, 0, 0])  # one for the padding, one for the rim
    return np.concatenate([_boxes_around(regions), rims])


def _boxes_around(components: np.ndarray) -> np.ndarray:
    """The box x0, y0, x1, y1 of each labelled component, (M, 4)."""
    slices = ndimage.find_objects(components)
    return np.array([[x.start, y.start, x.stop, y.stop] for y, x in slices], dtype=np.int64).reshape(-1, 4)


def _without_copies(boxes: np.ndarray) -> np.ndarray:
    """Boxes, sorted from the largest, without those that a larger one covers for the most part."""
    current = 0
    while current < len(boxes):
        box, rest = boxes[current], boxes[current + 1 :]
        shared = np.minimum(box[2:], rest[:, 2:]) - np.maximum(box[:2], rest[:, :2])
        covered = 2 * shared.clip(min=0).prod(axis=1) > (box[2:] - box[:2]).prod()
        for i in np.flatnonzero(covered[1:]) + 1:
            covered[i] &= not covered[i - 1]  # the successor of a removed box is stepped over
        boxes = np.concatenate([boxes[: current + 1], rest[~covered]])
        current += 1
    return boxes


def mask_from_maps(
    maps: Float[Tensor, "K H W"], labels: Float[Tensor, " K"], threshold: float = 0.2, how: str = "max"
) -> Int[Tensor, "H W"]:
    r"""A semantic mask: at each pixel the present class with the highest normalised map, where that exceeds $\tau$.

    Args:
        maps: raw maps of all classes at the resolution of the mask.
        labels: multi-hot; the maps of absent classes do not take part.
        threshold: $\tau$ in [0, 1); what no class exceeds is background.
        how: see :func:`wsl_core.ops.normalize`.

    Returns:
        0 for background, k + 1 for class k.

    >>> mask_from_maps(torch.tensor([[[0.0, 1.0]], [[9.0, 0.0]]]), torch.tensor([1.0, 1.0])).tolist()
    [[2, 1]]
    """
    if not 0 <= threshold < 1:
        raise UsageError(f"threshold={threshold}: expected a number in [0, 1).")
    scores = normalize(maps, how) * labels[:, None, None]
    best, winner = scores.max(dim=0)
    return torch.where(best > threshold, winner + 1, 0)


@torch.no_grad()
def foreground_boxes(
    model: torch.nn.Module,
    images: Float[Tensor, "B 3 H W"],
    labels: Float[Tensor, "B K"] | None = None,
    threshold: float = 0.2,
) -> Float[Tensor, "B 4"]:
    """The box of the foreground of each image, by the maps of a classifier: a weakly supervised detector.

    The box of :func:`boxes_from_map` on the highest of the normalised maps of an image's classes; the full frame where
    they have no evidence. What is learned on such crops is weakly supervised and no longer unsupervised: the classifier
    has seen labels of images.

    Args:
        model: has ``localize``, and a ``grid`` of its maps; in evaluation mode, which is the caller's to set.
        images: RGB in [0, 1].
        labels: multi-hot; ``None`` takes the class that the model predicts.
        threshold: share of the map's maximum.

    Returns:
        x0, y0, x1, y1 in pixels, half-open.

    Raises:
        UsageError: ``threshold`` is out of range.
        DataError: a map holds NaN or infinity.

    >>> from wsl_core.papers.cam import CAM
    >>> foreground_boxes(CAM(num_classes=3).eval(), torch.rand(2, 3, 32, 48)).shape
    torch.Size([2, 4])
    """
    height, width = images.shape[-2:]
    if labels is None:
        logits = model(images)
        labels = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits)
    maps = normalize(model.localize(images, labels), "max")  # those of other classes are zero, and stay so
    highest = resize_maps(maps.amax(dim=1, keepdim=True), (height, width), model.grid)[:, 0]
    found = [boxes_from_map(score_map, threshold) for score_map in highest]
    frame = torch.tensor([[0.0, 0.0, width, height]])
    return torch.cat([torch.cat([boxes, frame])[:1] for boxes in found])
