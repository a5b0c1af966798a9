"""A data set whose images are cut down to a box of each, to the foreground say."""

from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import roi_align

from wsl_core.data.base import Dataset, Sample, check_count, digest, to_bytes, to_float
from wsl_core.errors import UsageError

__all__ = ["Cropped", "cut_box"]


class Cropped(Dataset):
    """What the images of ``dataset`` show in their boxes, with a margin, stretched to a square.

    Images and labels alone are kept: other annotations would have to be stretched as well. Pixels have 8 bits.

    Args:
        dataset: any.
        boxes: one of each sample, in order: x0, y0, x1, y1 in pixels, half-open, such as
            :func:`wsl_core.localize.foreground_boxes` finds.
        side: of the square, in pixels.
        margin: share of the box's width and height that is added to each of its sides, within the image.

    Raises:
        UsageError: there are more boxes than samples or fewer, ``side`` is not a whole number above 0, ``margin`` is
            negative, or, when a sample is asked for, its box has no area within its image.

    >>> from wsl_core.data import load_dataset
    >>> dataset = load_dataset("synthetic", "val", size=32, length=1)
    >>> Cropped(dataset, torch.tensor([[4.0, 8.0, 20.0, 30.0]]), side=24)[0]["image"].shape
    torch.Size([3, 24, 24])
    """

    def __init__(self, dataset: Dataset, boxes: Float[Tensor, "N 4"], side: int, margin: float = 0.1) -> None:
        if len(boxes) != len(dataset):
            raise UsageError(f"boxes: found {len(boxes)}; expected one of each of the {len(dataset)} samples.")
        check_count("side", side, 1, 10_000)
        if not 0 <= margin < float("inf"):
            raise UsageError(f"margin={margin}: expected a finite share that is not negative.")
        self.dataset, self.boxes, self.side, self.margin = dataset, boxes.cpu(), side, margin
        self.describe_as(dataset)
        self.image_size = side
        self.version = f"{dataset.version}+cropped-{digest([self.boxes.tolist(), side, margin])}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        index = self.position(index)
        sample = self.dataset[index]
        image = cut_box(sample["image"], self.boxes[index], self.side, self.margin)
        kept = {key: sample[key] for key in ("id", "labels") if key in sample}
        return {**kept, "image": to_float(to_bytes(image))}


def cut_box(
    image: Float[Tensor, "C H W"], box: Float[Tensor, "4"], side: int, margin: float = 0.0
) -> Float[Tensor, "C side side"]:
    """What an image shows in a box and a margin around it, within the image; each pixel is the mean of what it covers.

    Raises:
        UsageError: the box has no area within the image.

    >>> image = torch.arange(16.0).view(1, 4, 4)
    >>> cut_box(image, torch.tensor([0.0, 0.0, 2.0, 2.0]), 1).item()  # of 0, 1, 4 and 5
    2.5
    """
    edge = torch.tensor([*image.shape[:0:-1]] * 2, dtype=box.dtype)  # width, height, width, height
    extent = margin * (box[2:] - box[:2])
    wider = torch.minimum(torch.cat([box[:2] - extent, box[2:] + extent]).clamp(min=0), edge)
    if not (wider[2:] > wider[:2]).all():
        raise UsageError(
            f"box {box.tolist()}: has no area within the image of {image.shape[-1]} x {image.shape[-2]} pixels; "
            "expected x0, y0, x1, y1 in pixels, half-open."
        )
    return roi_align(image[None], [wider[None]], side, aligned=True)[0]
