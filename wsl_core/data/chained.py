"""Several data sets in a row, as one: images of objects, say, and then images of none."""

from collections.abc import Sequence
from typing import SupportsIndex

from wsl_core.data.base import Dataset, Sample, digest
from wsl_core.errors import UsageError

__all__ = ["Chained"]


class Chained(Dataset):
    """All samples of the first data set, then all of the next, and so on. Name, split and task are the first one's.

    Args:
        datasets: with the same classes, parts and keypoints, in the same order.

    Raises:
        UsageError: there is none, or they differ in classes, parts or keypoints.

    >>> from wsl_core.data import load_dataset
    >>> from wsl_core.data.intervened import Intervened
    >>> world = load_dataset("synthetic", "val", size=32, length=3)
    >>> both = Chained([world, Intervened(world, remove=world.classes)])
    >>> len(both), int(both[0]["labels"].sum() > 0), int(both[3]["labels"].sum())
    (6, 1, 0)
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        if not datasets:
            raise UsageError("datasets is empty; expected one at least.")
        first = datasets[0]
        for key in ("classes", "part_names", "keypoint_names"):
            for other in datasets[1:]:
                if getattr(other, key) != getattr(first, key):
                    raise UsageError(
                        f"datasets: {other.name}/{other.split} has other {key} than {first.name}/{first.split}; "
                        "expected the same, in the same order."
                    )
        self.datasets = list(datasets)
        self.describe_as(first)
        self.image_size = _largest([one.image_size for one in self.datasets])
        self.version = f"{first.version}+chained-{digest([one.version for one in self.datasets])}"

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    def __getitem__(self, index: SupportsIndex) -> Sample:
        position = self.position(index)
        for dataset in self.datasets:
            if position < len(dataset):
                break
            position -= len(dataset)
        return dataset[position]


def _largest(sizes: list[int | None]) -> int | None:
    return None if None in sizes else max(sizes)
