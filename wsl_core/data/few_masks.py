"""Masks for a few: every image keeps its label, some also show where the object is."""

from collections.abc import Sequence
from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl_core.data.base import IGNORE, Dataset, Sample, check_count, digest
from wsl_core.data.synthetic.noise import Stream
from wsl_core.errors import UsageError

__all__ = ["FewMasks"]

FORMS = {"mask": "mask", "box": "boxes"}  # and the key of a sample that each is made of


class FewMasks(Dataset):
    """``dataset`` with the masks of a few images; the mask of every other image is 255 (ignore) throughout.

    The few are random but fixed, and spread evenly over the classes. An image with several classes stands for the one
    that lacks most; its mask keeps all of them. A class with too few images leaves the rest of its share to the others.
    This is the supervision of GAIN_ext (Li et al., CVPR 2018).

    Args:
        dataset: with masks or, for the form "box", with boxes.
        masks: how many: an integer is a number of images, a float in [0, 1] a share of all images (rounded, but one at
            least unless it is 0.0).
        form: "mask", or "box" for boxes filled with their class. Where boxes overlap, the smaller one lies on top.
        classes: the classes whose images may keep their masks; ``None`` means all.
        seed: another seed, other images.

    Attributes:
        kept: the positions of the images that keep their masks, in ascending order.

    Raises:
        UsageError: an argument is out of range, the data set has no such annotation, or too few images have it.

    >>> from wsl_core.data import load_dataset
    >>> dataset = load_dataset("synthetic", "train", size=32, length=80, few_masks={"masks": 0.05})
    >>> shown = [index for index, sample in enumerate(dataset) if (sample["mask"] != 255).any()]
    >>> len(shown), shown == list(dataset.kept)
    (4, True)
    """

    def __init__(
        self,
        dataset: Dataset,
        masks: int | float,
        form: str = "mask",
        classes: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        if form not in FORMS:
            raise UsageError(f"form is {form!r}; expected one of {', '.join(FORMS)}.")
        check_count("seed", seed, 0, 2**31 - 1)
        self.dataset = dataset
        self.form = form
        self.describe_as(dataset)
        count, wanted = _count(masks, len(dataset)), _positions(classes, dataset.classes)
        self.kept = tuple(sorted(self._choose(count, wanted, seed)))
        self._is_kept = frozenset(self.kept)
        self.version = f"{dataset.version}+few-masks-{digest((count, form, wanted, seed))}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        position = self.position(index)
        sample = self.dataset[position]
        height, width = sample["image"].shape[-2:]
        if position not in self._is_kept:
            return {**sample, "mask": torch.full((height, width), IGNORE)}
        if self.form == "mask":
            return sample
        return {**sample, "mask": _filled(sample["boxes"], sample["box_labels"], height, width)}

    def _choose(self, count: int, wanted: tuple[int, ...], seed: int) -> list[int]:
        """Go through the images in random order and give each class its share."""
        lacks = {label: count // len(wanted) + (rank < count % len(wanted)) for rank, label in enumerate(wanted)}
        kept: list[int] = []
        spare: list[int] = []
        order = iter(Stream("few masks", seed).permutation(len(self.dataset)))
        while len(kept) < count and (index := next(order, None)) is not None:
            labels = self._annotated_classes(index) & lacks.keys()
            neediest = max(sorted(labels), key=lacks.__getitem__, default=None)
            if neediest is not None:
                (kept if lacks[neediest] else spare).append(index)
                lacks[neediest] -= lacks[neediest] > 0
        kept += spare[: count - len(kept)]
        if len(kept) < count:
            raise UsageError(
                f"masks asks for {count} images; {self.name}/{self.split} has {len(kept)} with the classes wanted and "
                f"something to make a mask of. Ask for at most {len(kept)}."
            )
        return kept

    def _annotated_classes(self, index: int) -> set[int]:
        """The classes of an image; none where its mask says nothing, or where it has no box."""
        sample = self.dataset[index]
        key = FORMS[self.form]
        if key not in sample:
            raise UsageError(
                f"form is {self.form!r}; the data set {self.name!r} has no {key!r} (sample {sample['id']!r}). Take the "
                "other form, or a data set with masks."
            )
        usable = (sample["mask"] != IGNORE).any() if self.form == "mask" else len(sample["boxes"]) > 0
        return set(sample["labels"].nonzero().flatten().tolist()) if usable else set()


def _count(masks: int | float, images: int) -> int:
    """How many images ``masks`` stands for."""
    if isinstance(masks, float):
        if not 0 <= masks <= 1:
            raise UsageError(f"masks is {masks}; expected a share in [0.0, 1.0], or an integer for a number of images.")
        return max(round(masks * images), masks > 0)
    check_count("masks", masks, 0, images)
    return masks


def _positions(names: Sequence[str] | None, classes: tuple[str, ...]) -> tuple[int, ...]:
    if names is None:
        return tuple(range(len(classes)))
    if isinstance(names, str) or not names:
        raise UsageError(f"classes is {names!r}; expected a list of at least one class name.")
    for name in names:
        if name not in classes:
            raise UsageError(f"classes: {name!r} is no class; expected some of {', '.join(classes)}.")
    return tuple(sorted({classes.index(name) for name in names}))


def _filled(boxes: Float[Tensor, "M 4"], labels: Int[Tensor, " M"], height: int, width: int) -> Int[Tensor, "H W"]:
    """A mask in which each pixel whose centre lies in a box has the class of the smallest such box."""
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    mask = torch.zeros(height, width, dtype=torch.int64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for position in areas.argsort(descending=True, stable=True).tolist():
        x0, y0, x1, y1 = boxes[position]
        mask[(x >= x0) & (x < x1) & (y >= y0) & (y < y1)] = labels[position] + 1
    return mask
