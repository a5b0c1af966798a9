"""Augmentation of a whole batch on its device: one gather for all geometry, one blend for each colour change."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl_core.data import Batch
from wsl_core.recipes import check_augment

__all__ = ["augment"]

GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as torchvision's colour jitter has it


def augment(batch: Batch, options: dict[str, Any], generator: torch.Generator) -> Batch:
    """Flip, shift, crop and recolour the images of a batch; ``mask`` and ``parts`` move with their image.

    Boxes, keypoints and ``size`` are left out of what is returned: they would no longer be true.

    Args:
        batch: as :func:`wsl_core.data.collate` makes it, on any device but for ``size``, which stays on the CPU.
        options: ``flip`` probability of a mirror image; ``shift`` largest move along each axis in pixels; ``crop`` side
            in pixels of a square cut out at random; ``brightness``, ``contrast``, ``saturation``: each image's factor
            is drawn from [1 - value, 1 + value]. What lies outside an image is its reflection, so that a batch of
            several sizes loses its padding.
        generator: on the CPU. It alone decides, so that a step can be repeated exactly.

    Raises:
        UsageError: an option is unknown or out of range.

    >>> batch = {"id": ["a"], "image": torch.arange(4.0).view(1, 1, 1, 4).expand(1, 3, 1, 4) / 3}
    >>> augment(batch, {"flip": 1.0}, torch.Generator())["image"][0, 0, 0] * 3
    tensor([3., 2., 1., 0.])
    """
    check_augment(options)
    image = batch["image"]
    sizes = batch["size"] if "size" in batch else torch.tensor([image.shape[-2:]] * len(image))
    rows, columns = _sampled_positions(image, sizes, options, generator)
    moved: Batch = {key: batch[key] for key in ("id", "labels") if key in batch}
    moved["image"] = _recolor(_gather(image, rows, columns), options, generator)
    for key in {"mask", "parts"} & set(batch):
        moved[key] = _gather(batch[key].unsqueeze(1), rows, columns).squeeze(1)
    return moved


def _sampled_positions(
    image: Float[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"], options: dict[str, Any], generator: torch.Generator
) -> tuple[Int[Tensor, "B h"], Int[Tensor, "B w"]]:
    """For each image, which of its rows and columns the result shows, in this order."""
    flipped = torch.rand(len(image), generator=generator) < options.get("flip", 0)
    rows, columns = (
        _window(sizes[:, axis], options.get("crop", image.shape[2 + axis]), options.get("shift", 0), generator)
        for axis in (0, 1)
    )
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    return rows.to(image.device, non_blocking=True), columns.to(image.device, non_blocking=True)


def _window(sides: Int[Tensor, " B"], length: int, shift: int, generator: torch.Generator) -> Int[Tensor, "B length"]:
    """Positions along one axis: ``length`` of them from a random start, reflected where they leave [0, side)."""
    low = (sides - length).clamp(max=0) - shift
    high = (sides - length).clamp(min=0) + shift
    start = low + (torch.rand(len(sides), generator=generator) * (high - low + 1)).long()  # uniform on low ... high
    period = (2 * (sides - 1)).clamp(min=1)[:, None]  # 0 1 2 1 | 0 1 2 1 | ... for a side of 3
    positions = (start[:, None] + torch.arange(length)).remainder(period)
    return torch.minimum(positions, (period - positions) % period.clamp(min=2))


def _gather(arrays: Tensor, rows: Int[Tensor, "B h"], columns: Int[Tensor, "B w"]) -> Tensor:
    """``arrays`` (B, C, H, W) at ``rows`` x ``columns``; the result (B, C, h, w) is laid out as channels_last."""
    image = torch.arange(len(arrays), device=arrays.device)[:, None, None]  # (B, 1, 1)
    return arrays.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _recolor(
    image: Float[Tensor, "B 3 H W"], options: dict[str, Any], generator: torch.Generator
) -> Float[Tensor, "B 3 H W"]:
    """Blend each image with black (brightness), with its mean grey (contrast) and with its grey self (saturation)."""
    grey = image.new_tensor(GREY).view(1, 3, 1, 1)
    for option in ("brightness", "contrast", "saturation"):
        strength = options.get(option, 0)
        if not strength:
            continue
        factor = (1 + strength * (2 * torch.rand((len(image), 1, 1, 1), generator=generator) - 1)).to(image.device)
        luma = (image * grey).sum(1, keepdim=True)  # (B, 1, H, W)
        other = {"brightness": 0 * luma, "contrast": luma.mean((2, 3), keepdim=True), "saturation": luma}[option]
        image = (other + factor * (image - other)).clamp(0, 1)
    return image
