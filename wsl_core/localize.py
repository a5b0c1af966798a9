"""From maps to boxes and masks."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import normalize

__all__ = ["boxes_from_map", "mask_from_maps"]

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)  # OpenCV's contours join diagonal neighbours too


def boxes_from_map(
    score_map: Float[Tensor, "H W"], threshold: float = 0.2, rule: str = "largest"
) -> Float[Tensor, "M 4"]:
    r"""Boxes around what a map lights up.

    Keeps the pixels with $M(x, y) > \tau \max M$ and draws the box of the largest connected component: the CAM paper's
    rule, with $\tau = 0.2$. Linear in pixels.

    Args:
        score_map: raw or normalised; a map whose maximum is not positive has no evidence and gives no box.
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
    values = score_map.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise DataError("score_map: found NaN or infinity; expected finite scores.")
    highest = values.max(initial=0)  # what exceeds tau times this is lit, (1.11)
    components, count = ndimage.label(values > max(threshold * highest, 0), structure=EIGHT_NEIGHBOURS)
    if not count:
        return torch.zeros(0, 4)
    areas = np.bincount(components.ravel())[1:]
    order = np.argsort(-areas, kind="stable")[: 1 if rule == "largest" else None]
    slices = ndimage.find_objects(components)
    return torch.tensor(
        [[slices[i][1].start, slices[i][0].start, slices[i][1].stop, slices[i][0].stop] for i in order],
        dtype=torch.float32,
    )


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
