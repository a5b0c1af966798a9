"""What a sample is, what a data set promises, and how samples become a batch."""

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, SupportsIndex, TypedDict

import torch
import torch.utils.data
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from wsl_core.errors import UsageError

__all__ = ["Sample", "Batch", "Dataset", "InMemory", "Subset", "collate", "to_float", "to_bytes"]

IGNORE = 255  # in a mask: a pixel that no score counts


class Sample(TypedDict, total=False):
    """One image and what is known about it. A data set leaves out the keys that it has no annotation for.

    Coordinates are pixels of ``image``; pixel (0, 0) covers [0, 1) x [0, 1).
    """

    id: str
    image: Float[Tensor, "3 H W"]  # RGB in [0, 1]
    labels: Float[Tensor, " K"]  # multi-hot
    boxes: Float[Tensor, "M 4"]  # x0, y0, x1, y1, half-open
    box_labels: Int[Tensor, " M"]  # class of each box
    mask: Int[Tensor, "H W"]  # 0 background, k + 1 class k, 255 ignore
    parts: Int[Tensor, "H W"]  # 0 none, p + 1 part_names[p]
    keypoints: Float[Tensor, "P 3"]  # x, y, visible


class Batch(TypedDict, total=False):
    """Several samples in one: see :func:`collate`."""

    id: list[str]
    image: Float[Tensor, "B 3 H W"]
    size: Int[Tensor, "B 2"]  # true height and width of each image, before padding
    labels: Float[Tensor, "B K"]
    boxes: list[Float[Tensor, "_ 4"]]
    box_labels: list[Int[Tensor, " _"]]
    mask: Int[Tensor, "B H W"]
    parts: Int[Tensor, "B H W"]
    keypoints: list[Float[Tensor, "_ 3"]]


class Dataset(torch.utils.data.Dataset, ABC):
    """What every data set has: a name, a split, its classes, and samples that are found by their position."""

    splits: tuple[str, ...] = ("train", "val", "test")  # fit on train, choose on val, touch test once
    name: str
    split: str
    classes: tuple[str, ...]
    task: str  # "single": one class an image; "multi": any number
    licence: str
    version: str  # changes when pixels or labels change
    image_size: int | None = None  # no side of an image is longer, in pixels; None: the images keep what size they have
    part_names: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: SupportsIndex) -> Sample:
        """The sample at ``index``; negative indices count from the end.

        Raises:
            IndexError: ``index`` is out of range, as for a list.
        """

    def __iter__(self) -> Iterator[Sample]:
        """Every sample once, in order."""
        return (self[index] for index in range(len(self)))

    def position(self, index: SupportsIndex) -> int:
        """``index`` as a number in [0, len): the first line of every ``__getitem__``.

        Raises:
            IndexError: ``index`` is out of range.
        """
        found = operator.index(index)
        if not -len(self) <= found < len(self):
            raise IndexError(f"index {found} is out of range: {self.name}/{self.split} has {len(self)} samples.")
        return found % len(self)

    @classmethod
    def check_split(cls, split: str) -> str:
        """Return ``split`` if the data set has it.

        Raises:
            UsageError: it has not.

        >>> Dataset.check_split("val")
        'val'
        """
        if split not in cls.splits:
            raise UsageError(f"split {split!r} is unknown; expected one of {', '.join(cls.splits)}.")
        return split

    def describe_as(self, other: "Dataset") -> None:
        """Take over the description (name, classes, task, version, ...) of the data set that this one wraps."""
        for key in (
            "name", "split", "classes", "task", "licence", "version", "image_size", "part_names", "keypoint_names"
        ):  # fmt: skip
            setattr(self, key, getattr(other, key))


class Subset(Dataset):
    """The samples of ``dataset`` at ``indices``, in that order.

    Raises:
        IndexError: an index is out of range.

    >>> from wsl_core.data import load_dataset
    >>> dataset = load_dataset("synthetic", "val", size=32, length=5)
    >>> [sample["id"] for sample in Subset(dataset, [4, 0])] == [dataset[4]["id"], dataset[0]["id"]]
    True
    """

    def __init__(self, dataset: Dataset, indices: Sequence[SupportsIndex]) -> None:
        self.dataset = dataset
        self.indices = [dataset.position(index) for index in indices]
        self.describe_as(dataset)
        self.version = f"{dataset.version}+subset-{digest(self.indices)}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        return self.dataset[self.indices[self.position(index)]]


class InMemory(Dataset):
    """``dataset``, decoded or rendered once. Images are kept with 8 bits a channel; samples are the same bit for bit.

    ``workers`` processes share the work. They are spawned, so that the data set must be one that can be sent to another
    process, and a script must guard its entry with ``if __name__ == "__main__"``.

    Raises:
        UsageError: an image of the data set has values that 8 bits cannot hold.

    >>> from wsl_core.data import load_dataset
    >>> dataset = load_dataset("synthetic", "val", size=32, length=5)
    >>> torch.equal(InMemory(dataset)[3]["image"], dataset[3]["image"])
    True
    """

    def __init__(self, dataset: Dataset, workers: int = 0, progress: bool = False) -> None:
        self.dataset = dataset
        self.describe_as(dataset)
        packed = _packed_samples(dataset, workers)
        title = f"{dataset.name}/{dataset.split} into memory"
        self._samples = list(tqdm(packed, title, len(dataset), unit="image", disable=not progress))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        return _unpack(self._samples[self.position(index)])


def to_float(image: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """8-bit values as float32 in [0, 1]: k / 255.

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    return image.to(torch.float32) / 255


def to_bytes(image: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The nearest 8-bit value of each number in [0, 1]; undoes :func:`to_float` exactly.

    >>> to_bytes(torch.tensor([0.0, 0.2, 1.0]))
    tensor([  0,  51, 255], dtype=torch.uint8)
    """
    return (image * 255 + 0.5).clamp(0, 255).to(torch.uint8)  # round() would wake every thread: slow on a busy machine


def check_count(name: str, value: object, low: int, high: int) -> None:
    """Raise UsageError unless ``value`` is an integer in low, ..., high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; expected an integer from {low} to {high}.")


def one_hot(indices: Sequence[int], classes: int) -> Float[Tensor, " K"]:
    """Multi-hot labels with a 1 at each index.

    >>> one_hot([2], 3)
    tensor([0., 0., 1.])
    """
    labels = torch.zeros(classes)
    labels[list(indices)] = 1
    return labels


def digest(value: Any) -> str:
    """Twelve hexadecimal digits that stand for ``repr(value)``; the same on every machine.

    >>> digest([1, 2])
    '3a316d6d3226'
    """
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples of any size into one batch.

    Images are padded with zeros at the right and the bottom, up to the largest; ``mask`` with 255 (ignore), ``parts``
    with 0. ``size`` holds the true height and width. Boxes, their labels and keypoints stay lists of tensors. A key
    that any sample lacks is left out.

    Raises:
        UsageError: there is no sample, or the samples have different numbers of classes.

    >>> small, large = torch.ones(3, 2, 2), torch.ones(3, 4, 3)
    >>> batch = collate([{"id": "a", "image": small}, {"id": "b", "image": large}])
    >>> batch["image"].shape, batch["size"].tolist()
    (torch.Size([2, 3, 4, 3]), [[2, 2], [4, 3]])
    """
    if not samples:
        raise UsageError("samples is empty; a batch needs one at least.")
    if len({len(sample["labels"]) for sample in samples if "labels" in sample}) > 1:
        raise UsageError("samples have labels of different lengths; a batch needs samples of one set of classes.")
    shared = set.intersection(*(set(sample) for sample in samples))
    columns = {key: [sample[key] for sample in samples] for key in Sample.__annotations__ if key in shared}
    sizes = torch.tensor([image.shape[-2:] for image in columns["image"]])
    height, width = sizes.amax(0).tolist()
    batch: dict[str, Any] = {"size": sizes}
    for key, column in columns.items():
        if key in _FILL:
            batch[key] = torch.stack([_pad_to(tensor, height, width, _FILL[key]) for tensor in column])
        else:
            batch[key] = torch.stack(column) if key == "labels" else column
    return batch


_FILL = {"image": 0, "mask": IGNORE, "parts": 0}  # what the padding of each array over pixels holds


def _pad_to(array: Tensor, height: int, width: int, value: int) -> Tensor:
    return pad(array, (0, width - array.shape[-1], 0, height - array.shape[-2]), value=value)


def _pack(sample: Sample) -> dict[str, Any]:
    """The sample with small integers where they hold all there is; numpy arrays travel between processes cheaply."""
    packed: dict[str, Any] = dict(sample)
    packed["image"] = to_bytes(sample["image"])
    if not torch.equal(to_float(packed["image"]), sample["image"]):
        raise UsageError(
            f"sample {sample['id']!r} has values other than k / 255 in its image; InMemory keeps 8-bit images only."
        )
    for key in ("mask", "parts"):
        if key in sample and ((sample[key] >= 0) & (sample[key] <= 255)).all():
            packed[key] = sample[key].to(torch.uint8)
    return {key: value.numpy() if isinstance(value, Tensor) else value for key, value in packed.items()}


def _unpack(packed: dict[str, Any]) -> Sample:
    sample = {key: value if isinstance(value, str) else torch.tensor(value) for key, value in packed.items()}
    sample["image"] = to_float(sample["image"])
    for key in ("mask", "parts"):
        if key in sample:
            sample[key] = sample[key].to(torch.int64)
    return sample


def _packed_samples(dataset: Dataset, workers: int) -> Iterator[dict[str, Any]]:
    if workers == 0:
        yield from (_pack(dataset[index]) for index in range(len(dataset)))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (dataset,)) as pool:
        yield from pool.map(_pack_in_worker, range(len(dataset)), chunksize=32)


_worker_dataset: Dataset | None = None  # each worker process gets the data set once, not with every task


def _start_worker(dataset: Dataset) -> None:
    global _worker_dataset
    torch.set_num_threads(1)
    _worker_dataset = dataset


def _pack_in_worker(index: int) -> dict[str, Any]:
    return _pack(_worker_dataset[index])
