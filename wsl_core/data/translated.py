"""Images moved to a random place on a grey canvas: a control on which boxes that ignore the image must fail."""

from typing import SupportsIndex

import torch
from torch import Tensor
from torch.nn.functional import pad

from wsl_core.data.base import Dataset, Sample, digest, to_float
from wsl_core.errors import UsageError

__all__ = ["Translated"]

# The mean colour of ImageNet's photographs in 8 bits, round(255 * (0.485, 0.456, 0.406)): after a network's usual
# normalisation this padding is about zero.
GREY = (124, 116, 104)


class Translated(Dataset):
    """Each image of ``dataset`` at a random but fixed place on a square canvas of ``canvas`` pixels.

    On small, centred photographs a box that never looked at the image scores well. Here it cannot. The place depends on
    the sample's id alone, so it is the same in every run and on every machine. The canvas is the mean colour of
    ImageNet. Boxes and keypoints move along; masks and parts are 0 (background, none) on the padding.

    Raises:
        UsageError: an image is larger than the canvas (when that sample is asked for).

    >>> from wsl_core.data import load_dataset
    >>> load_dataset("synthetic", "val", size=32, length=1, translate=48)[0]["image"].shape
    torch.Size([3, 48, 48])
    """

    def __init__(self, dataset: Dataset, canvas: int = 96) -> None:
        self.dataset = dataset
        self.canvas = canvas
        self.describe_as(dataset)
        self.image_size = canvas
        self.version = f"{dataset.version}+translated-{canvas}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        sample = self.dataset[index]
        left, top = self.place(sample)
        moved: Sample = {**sample, "image": self._on_canvas(sample["image"], left, top)}
        for key in {"mask", "parts"} & set(sample):
            moved[key] = self._padded(sample[key], left, top)
        if "boxes" in sample:
            moved["boxes"] = sample["boxes"] + torch.tensor([left, top, left, top], dtype=torch.float32)
        if "keypoints" in sample:
            moved["keypoints"] = sample["keypoints"] + torch.tensor([left, top, 0], dtype=torch.float32)
        return moved

    def place(self, sample: Sample) -> tuple[int, int]:
        """Left and top edge of the image on the canvas, drawn evenly from all places where it fits."""
        height, width = sample["image"].shape[-2:]
        if max(height, width) > self.canvas:
            raise UsageError(
                f"canvas is {self.canvas} pixels; sample {sample['id']!r} has {width} x {height}. Take a larger canvas."
            )
        number = int(digest(sample["id"]), 16)  # 48 bits: 24 for each axis
        return (number >> 24) % (self.canvas - width + 1), (number & 0xFFFFFF) % (self.canvas - height + 1)

    def _padded(self, array: Tensor, left: int, top: int) -> Tensor:
        height, width = array.shape[-2:]
        return pad(array, (left, self.canvas - width - left, top, self.canvas - height - top))

    def _on_canvas(self, image: Tensor, left: int, top: int) -> Tensor:
        grey = to_float(torch.tensor(GREY, dtype=torch.uint8))
        canvas = grey.view(3, 1, 1).repeat(1, self.canvas, self.canvas)
        canvas[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
        return canvas
