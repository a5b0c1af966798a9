r"""Proposal Flow: Ham, Cho, Schmid and Ponce, CVPR 2016. Regions are matched first, then what is inside them.

A match $m = (r, r')$ of regions has an appearance, how alike the two look, and a geometry: how far r' lies from r and
how much larger it is. Matches that share a geometry support each other, all over the image or in a neighbourhood.

Written from the paper's equations, with the released code beside them where the paper leaves something open. Their
proposals come from selective search, randomised Prim and others; here they are sliding windows, which the paper has as
a baseline. Left out: the whitening of HOG, and what makes the flow smooth afterwards: matches that meet at one place
go, and a guided filter fills theirs.
"""

import math

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from wsl_core.errors import DataError, UsageError
from wsl_core.matching.correspondence import Correspondence, DescriptorMap, cell_centres, check_descriptors

__all__ = ["REGION_MATCHERS", "match_regions", "proposal_flow", "sliding_boxes"]

SHARES = (1.0, 0.5, 0.25, 0.125)  # of the image's width and height
LARGEST_ASPECT_CHANGE = 2.0  # between regions that may match; the released code's
POOLED = 8  # cells a side of a region's descriptor; the released code's
HOUGH_CELL = 1 / 45  # bin of a landing in shares of image b; the code has 8,000 for twice its width and height
HOUGH_RANGE = ((0.0, 0.0, -4.0), (2.0, 2.0, 4.0), (HOUGH_CELL, HOUGH_CELL, 0.4))  # low, high, bin: x, y, octaves
HOUGH_BLUR = 1.06  # in bins; a released 5 x 5 x 5 Gaussian
LOCAL_CELL = 1 / 15  # e-folding distance from the local offset, in shares of image b: 20 pixels of 300
LOCAL_SCALE = 0.3  # decay for an octave of area; the released code has it for a difference of ratios
MEDIAN_STEPS = 20  # of Weiszfeld's iteration; the released code's
SAME_AREA = 1.001  # ratio up to which two regions are of one size: rounding
REGION_MATCHERS = ("nam", "phm", "lom")


def sliding_boxes(size: tuple[int, int]) -> Float[Tensor, "M 4"]:
    """Region proposals that need no image: sliding windows of several sizes and shapes, each overlapping half the next.

    Their sides are the whole, a half, a quarter and an eighth of the image's, in all pairs that differ by at most one
    step. There are 542 of them, from the full frame down.

    Args:
        size: height and width of the image.

    Returns:
        x0, y0, x1, y1 in pixels, half-open.

    Raises:
        UsageError: a side is below 1.

    >>> sliding_boxes((64, 96))[:3].tolist()
    [[0.0, 0.0, 96.0, 64.0], [0.0, 0.0, 96.0, 32.0], [0.0, 16.0, 96.0, 48.0]]
    """
    if min(size) < 1:
        raise UsageError(f"size={tuple(size)}: expected a height and a width of at least a pixel.")
    boxes = []
    for wide in SHARES:
        for high in SHARES:
            if 0.5 <= wide / high <= 2:
                x, y = (torch.linspace(0, 1 - share, round(2 / share) - 1) for share in (wide, high))
                corners = torch.cartesian_prod(y, x).flip(1)
                boxes.append(torch.cat([corners, corners + torch.tensor([wide, high])], dim=1))
    return torch.cat(boxes) * torch.tensor([size[1], size[0]] * 2)


def match_regions(
    a: DescriptorMap,
    b: DescriptorMap,
    boxes_a: Float[Tensor, "M 4"],
    boxes_b: Float[Tensor, "N 4"],
    how: str = "lom",
) -> Float[Tensor, "M N"]:
    r"""How sure a match of each region of a with each of b is, 0 for none.

    The appearance $p(m_a)$ is the cosine of the two regions' descriptors, those of their cells pooled on 8 x 8 places,
    without what all regions have in common; what is negative is zero, and so are matches whose aspect ratios differ by
    a factor of 2 or more. Then

    - ``"nam"``, naive appearance matching: $p(m_a)$.
    - ``"phm"``, probabilistic Hough matching: $p(m_a)\,h(x_m)$. Every region votes for where each of its matches
      would carry image a, and how much enlarged, $x_m$, with the match's appearance: $h(x) = \sum_m p(m_a)\,p(m_g|x)$,
      as a Gaussian, and once for a bin. As in the released code, the vote is for the lower right corner of a, so that
      all matches of one enlargement agree; it does not count beyond twice image b, or beyond 4 octaves.
    - ``"lom"``, local offset matching: $p(m_a)\,p(m_g | x^*_r)\,g_r$. The offset of a match is the way between the
      centres. The local offset $x^*_r$ is the geometric median of the offsets of the best matches of all regions that
      overlap with r; the geometric term decays exponentially with the distance from it. $g_r$ is the share of the
      appearance of all best matches that these regions have.

    Ways are in shares of the longer side of image b; scale is the logarithm of the areas' ratio to base 2, in octaves.

    Args:
        boxes_a: x0, y0, x1, y1 in pixels of image a, half-open, such as :func:`sliding_boxes` gives.
        how: one of ``REGION_MATCHERS``.

    Raises:
        UsageError: ``how`` is unknown, or the maps differ in channels.
        DataError: a map has no cell, or holds NaN or infinity; there is no region, or one has no area; or no region
            of a looks like one of b, as when an image is flat.

    >>> from wsl_core.ops import Grid
    >>> features = torch.rand(8, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> described, boxes = DescriptorMap(features, Grid(stride=4, first=2)), sliding_boxes((64, 64))
    >>> confidence = match_regions(described, described, boxes, boxes)
    >>> bool((confidence.argmax(dim=1) == torch.arange(542)).all())
    True
    """
    if how not in REGION_MATCHERS:
        raise UsageError(f"how={how!r} is unknown; expected one of {', '.join(REGION_MATCHERS)}.")
    a, b = check_descriptors(a, b)
    boxes_a, boxes_b = _check_boxes(boxes_a, "boxes_a", a), _check_boxes(boxes_b, "boxes_b", b)
    appearance = _appearance(a, b, boxes_a, boxes_b)
    if how == "nam":
        return appearance
    if how == "phm":
        return appearance * _hough(appearance, _landings(boxes_a, boxes_b))
    return appearance * _local(appearance, _offsets(boxes_a, boxes_b), boxes_a)


def proposal_flow(
    a: DescriptorMap,
    b: DescriptorMap,
    boxes_a: Float[Tensor, "M 4"],
    boxes_b: Float[Tensor, "N 4"],
    how: str = "lom",
) -> Correspondence:
    """For every cell of a its match in b, by the match of a region around it.

    Of the smallest matched regions that hold the cell's centre, the one counts whose best match is surest. It carries
    what it holds into its match by a translation and a scaling of each axis. The released code takes the surest of any
    size: with the full frame among the windows, which overlaps with every other, LOM then has little else to say.

    Args:
        boxes_a: as for :func:`match_regions`.
        how: one of ``REGION_MATCHERS``.

    Returns:
        Scores are those of :func:`match_regions`. A cell that no matched region holds is not valid.

    Raises:
        UsageError: as in :func:`match_regions`.
        DataError: as in :func:`match_regions`.

    >>> from wsl_core.ops import Grid
    >>> features = torch.rand(8, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> described, boxes = DescriptorMap(features, Grid(stride=4, first=2)), sliding_boxes((64, 64))
    >>> proposal_flow(described, described, boxes, boxes).positions[3, 5].tolist()
    [22.0, 14.0]
    """
    sureness, best = match_regions(a, b, boxes_a, boxes_b, how).max(dim=1)
    boxes_a, boxes_b = boxes_a.to(sureness), boxes_b.to(sureness)[best]
    shape = a.features.shape[1:]
    centres = cell_centres(shape, a.grid, sureness.device).flatten(0, 1)
    holds = ((boxes_a[:, :2] <= centres[:, None]) & (centres[:, None] < boxes_a[:, 2:])).all(dim=-1)
    areas = (boxes_a[:, 2:] - boxes_a[:, :2]).prod(dim=1)
    smallest = torch.where(holds & (sureness > 0), areas, torch.inf).amin(dim=1, keepdim=True)
    scores, region = (holds * (areas <= SAME_AREA * smallest) * sureness).max(dim=1)
    low_a, high_a, low_b, high_b = *boxes_a[region].split(2, dim=1), *boxes_b[region].split(2, dim=1)
    positions = low_b + (centres - low_a) * (high_b - low_b) / (high_a - low_a)
    return Correspondence(
        positions.unflatten(0, shape), scores.unflatten(0, shape), (scores > 0).unflatten(0, shape), a.grid
    )


def _check_boxes(boxes: Float[Tensor, "M 4"], name: str, described: DescriptorMap) -> Float[Tensor, "M 4"]:
    if not len(boxes):
        raise DataError(f"{name}: found no region; expected at least one.")
    if not boxes.isfinite().all() or not (boxes[:, :2] < boxes[:, 2:]).all():
        raise DataError(f"{name}: found a region that is not finite or has no area; expected x0 < x1 and y0 < y1.")
    return boxes.to(described.features)


def _appearance(
    a: DescriptorMap, b: DescriptorMap, boxes_a: Float[Tensor, "M 4"], boxes_b: Float[Tensor, "N 4"]
) -> Float[Tensor, "M N"]:
    pooled_a, pooled_b = _pooled(a, boxes_a), _pooled(b, boxes_b)
    common = torch.cat([pooled_a, pooled_b]).mean(dim=0)  # the place of HOG's background statistics in the code
    unit_a, unit_b = (F.normalize(pooled - common, dim=1) for pooled in (pooled_a, pooled_b))
    aspect_a, aspect_b = (((box[:, 2:] - box[:, :2]).log2().diff(dim=1)) for box in (boxes_a, boxes_b))
    fits = (aspect_a - aspect_b.T).abs() < math.log2(LARGEST_ASPECT_CHANGE)
    appearance = (unit_a @ unit_b.T).clamp(min=0) * fits
    if not appearance.any():
        raise DataError("descriptors: no region of a looks like one of b; expected images that are not flat.")
    return appearance


def _pooled(described: DescriptorMap, boxes: Float[Tensor, "M 4"]) -> Float[Tensor, "M E"]:
    features, (stride, first) = described
    in_cells = (boxes - first) / stride + 0.5  # cell i covers [i, i + 1)
    return roi_align(features[None], [in_cells], POOLED, sampling_ratio=2, aligned=True).flatten(1)


def _offsets(boxes_a: Float[Tensor, "M 4"], boxes_b: Float[Tensor, "N 4"]) -> Float[Tensor, "M N 3"]:
    """The way between the centres of each two regions, and how much larger the second one is."""
    centres_a, centres_b = ((boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (boxes_a, boxes_b))
    return _in_shares_and_octaves(centres_b - centres_a[:, None], boxes_a, boxes_b)


def _landings(boxes_a: Float[Tensor, "M 4"], boxes_b: Float[Tensor, "N 4"]) -> Float[Tensor, "M N 3"]:
    """Where the match of each two regions carries the lower right corner of a, and how much larger the second is."""
    low_a, low_b = boxes_a[:, None, :2], boxes_b[:, :2]
    enlargement = (boxes_b[:, 2:] - low_b) / (boxes_a[:, None, 2:] - low_a)
    return _in_shares_and_octaves(low_b + (boxes_a[:, 2:].amax(dim=0) - low_a) * enlargement, boxes_a, boxes_b)


def _in_shares_and_octaves(
    ways: Float[Tensor, "M N 2"], boxes_a: Float[Tensor, "M 4"], boxes_b: Float[Tensor, "N 4"]
) -> Float[Tensor, "M N 3"]:
    extent = boxes_b[:, 2:].amax() - boxes_b[:, :2].amin()
    octaves_a, octaves_b = ((boxes[:, 2:] - boxes[:, :2]).log2().sum(dim=1) for boxes in (boxes_a, boxes_b))
    return torch.cat([ways / extent, (octaves_b - octaves_a[:, None])[..., None]], dim=-1)


def _hough(appearance: Float[Tensor, "M N"], landings: Float[Tensor, "M N 3"]) -> Float[Tensor, "M N"]:
    """h at the landing of each match; 0 for those that land too far off to count."""
    low, high, width = landings.new_tensor(HOUGH_RANGE)
    counts = ((landings >= low) & (landings < high)).all(dim=-1)
    bins = ((landings.maximum(low).minimum(high) - low) / width).long()
    shape = [int(count) + 1 for count in (high - low) / width]
    place = (bins[..., 0] * shape[1] + bins[..., 1]) * shape[2] + bins[..., 2]
    regions = torch.arange(len(place), device=place.device)[:, None]
    once, vote = (regions * math.prod(shape) + place).unique(return_inverse=True)
    weights = (appearance * counts).flatten()
    highest = weights.new_zeros(len(once)).scatter_reduce_(0, vote.flatten(), weights, "amax")
    votes = weights.new_zeros(math.prod(shape)).index_add_(0, once % math.prod(shape), highest)
    blurred = ndimage.gaussian_filter(votes.view(shape).cpu().numpy(), HOUGH_BLUR, mode="constant")
    return torch.from_numpy(blurred).to(votes).flatten()[place] * counts


def _local(
    appearance: Float[Tensor, "M N"], offsets: Float[Tensor, "M N 3"], boxes: Float[Tensor, "M 4"]
) -> Float[Tensor, "M N"]:
    """The geometric term at the local offset of each region, times the support that its neighbourhood has."""
    sureness, best = appearance.max(dim=1)
    votes = offsets[torch.arange(len(best)), best]
    low, high = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    near = (low < high).all(dim=-1).to(appearance)  # overlapping regions, itself among them
    local = _geometric_medians(votes, near * (sureness > 0))  # where nothing matches there is no vote
    apart = offsets - local[:, None]
    closeness = torch.exp(-apart[..., :2].norm(dim=-1) / LOCAL_CELL - LOCAL_SCALE * apart[..., 2].abs())
    return closeness * (near @ sureness / sureness.sum())[:, None]


def _geometric_medians(points: Float[Tensor, "M 3"], weights: Float[Tensor, "K M"]) -> Float[Tensor, "K 3"]:
    """The point with the least weighted sum of distances to ``points``, for each row of weights (Weiszfeld, 1937)."""
    pull = weights
    for _ in range(MEDIAN_STEPS):
        medians = pull @ points / pull.sum(dim=1, keepdim=True).clamp(min=1e-12)  # 0 where every weight is
        pull = weights / torch.cdist(medians, points).clamp(min=1e-6)
    return medians
