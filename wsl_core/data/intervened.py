"""A synthetic world with the same change made to every sample: what a network then misses is what it used."""

from typing import Any, SupportsIndex

from wsl_core.data.base import Dataset, Sample, digest
from wsl_core.data.synthetic import Synthetic

__all__ = ["Intervened"]


class Intervened(Dataset):
    """Each sample of ``dataset`` rendered again with the same intervention, and all else as it was.

    Args:
        dataset: the world.
        changes: arguments of :meth:`wsl_core.data.synthetic.Synthetic.intervene`, such as ``remove``.

    Raises:
        UsageError: the world cannot be changed in this way (when a sample is asked for).

    >>> world = Synthetic("val", world="creatures", size=32, length=2)
    >>> headless = Intervened(world, remove=("head", "eye"))
    >>> len(headless), headless[0]["id"] == world[0]["id"], headless.version == world.version
    (2, True, False)
    """

    def __init__(self, dataset: Synthetic, **changes: Any) -> None:
        self.dataset = dataset
        self.changes = changes
        self.describe_as(dataset)
        self.version = f"{dataset.version}+intervened-{digest(sorted(changes.items()))}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        return self.dataset.intervene(index, **self.changes)
