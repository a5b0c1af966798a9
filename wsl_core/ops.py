"""Small tensor functions that several papers share."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from wsl_core.errors import DataError, UsageError

__all__ = ["POOLINGS", "global_pool", "normalize", "resize_maps"]

POOLINGS = ("gap", "gmp")


def global_pool(features: Float[Tensor, "B D h w"], how: str = "gap") -> Float[Tensor, "B D"]:
    r"""Reduce every feature map to one number, $F_k$.

    ``"gap"`` takes the mean over positions, $F_k = \frac{1}{hw}\sum_{x,y} f_k(x,y)$. The CAM paper writes the sum;
    the layer computes the mean, and the constant is absorbed in the weights. ``"gmp"`` takes the maximum.

    Raises:
        UsageError: ``how`` is not one of ``POOLINGS``.

    >>> import torch
    >>> global_pool(torch.tensor([[[[0.0, 4.0], [0.0, 0.0]]]])).item()
    1.0
    """
    if how == "gap":
        return features.mean(dim=(-2, -1))  # (1.1)
    if how == "gmp":
        return features.amax(dim=(-2, -1))  # (1.8)
    raise UsageError(f"pooling={how!r} is unknown; expected one of {', '.join(POOLINGS)}.")


def normalize(maps: Float[Tensor, "*batch h w"], how: str = "minmax") -> Float[Tensor, "*batch h w"]:
    r"""Bring every map to [0, 1], each by itself.

    ``"minmax"``: $(M - \min M)/(\max M - \min M)$; the lowest value becomes 0, whatever its sign.
    ``"max"``: $\max(M, 0)/\max M$; 0 keeps its meaning, no evidence. The CAM paper's "20 % of the maximum" is this one.
    A constant map says nothing about place: it becomes zeros. So does, under ``"max"``, a map without a positive value.

    Raises:
        DataError: a value is NaN or infinite, or the range of a map overflows its float type.
        UsageError: ``how`` is neither ``"minmax"`` nor ``"max"``.

    >>> import torch
    >>> normalize(torch.tensor([[-1.0, 0.0, 3.0]])).tolist()
    [[0.0, 0.25, 1.0]]
    >>> normalize(torch.tensor([[-1.0, 0.0, 3.0]]), how="max").tolist()
    [[0.0, 0.0, 1.0]]
    """
    if how not in ("minmax", "max"):
        raise UsageError(f"how={how!r} is unknown; expected 'minmax' or 'max'.")
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    if not span.isfinite().all():  # a NaN or an infinity anywhere reaches the span
        raise DataError(
            f"maps {tuple(maps.shape)}: found NaN, infinity or an overflowing range; expected finite scores. "
            "Look for a diverged network or a division by zero before this call."
        )
    if how == "max":
        maps, low, top = maps.clamp(min=0), 0.0, high  # (1.10)
    else:
        top = span  # (1.9)
    flat = (span == 0) | (top <= 0)
    return ((maps - low) / top.masked_fill(flat, 1)).masked_fill(flat, 0)


def resize_maps(maps: Float[Tensor, "B K h w"], size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """Enlarge maps to ``size`` (height, width) by bilinear interpolation between cell centres.

    >>> import torch
    >>> resize_maps(torch.ones(1, 2, 3, 3), (12, 12)).shape
    torch.Size([1, 2, 12, 12])
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
