"""A data set with other masks than its own: seed cues, pseudo-labels."""

import hashlib
from collections.abc import Sequence
from typing import SupportsIndex

import torch
from jaxtyping import Int
from torch import Tensor

from wsl_core.data.base import Dataset, Sample, digest
from wsl_core.errors import UsageError

__all__ = ["WithMasks"]


class WithMasks(Dataset):
    """The samples of ``dataset`` with ``masks`` in place of their own, so that a network learns from these alone.

    Args:
        dataset: any.
        masks: one of each sample, in order, of its image's size: 0 background, k + 1 class k, 255 nothing is known.

    Raises:
        UsageError: there are more masks than samples or fewer, or, when a sample is asked for, its mask has another
            size than its image.

    >>> from wsl_core.data import load_dataset
    >>> dataset = load_dataset("synthetic", "val", size=32, length=1)
    >>> WithMasks(dataset, [torch.full((32, 32), 255)])[0]["mask"].unique().tolist()
    [255]
    """

    def __init__(self, dataset: Dataset, masks: Sequence[Int[Tensor, "_ _"]]) -> None:
        if len(masks) != len(dataset):
            raise UsageError(f"masks: found {len(masks)}; expected one of each of the {len(dataset)} samples.")
        self.dataset = dataset
        self.masks = [mask.to("cpu", torch.uint8) for mask in masks]  # a whole training set's are kept in memory
        self.describe_as(dataset)
        contents = [hashlib.sha256(mask.numpy().tobytes()).hexdigest() for mask in self.masks]
        self.version = f"{dataset.version}+masks-{digest(contents)}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        index = self.position(index)
        sample, mask = self.dataset[index], self.masks[index]
        if mask.shape != sample["image"].shape[-2:]:
            raise UsageError(
                f"masks: found {tuple(mask.shape)} for sample {sample['id']!r}; expected its image's "
                f"{tuple(sample['image'].shape[-2:])}. Enlarge the maps before they become cues."
            )
        return {**sample, "mask": mask.to(torch.int64)}
