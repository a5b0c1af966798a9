"""A reader's own images: a folder for each class, or a table of labels; boxes and masks if there are any."""

import math
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import SupportsIndex

import torch
from jaxtyping import Int
from torch import Tensor

from wsl_core.data.annotations import Box, clip_box, parse_numbers, read_csv
from wsl_core.data.base import IGNORE, Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.images import MAX_PIXELS, read_mask, read_pixels, shrink_image, shrink_mask
from wsl_core.errors import DataError, UsageError

__all__ = ["Folder"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
MASKS, LABELS, BOXES = "masks", "labels.csv", "boxes.csv"


@dataclass
class _Entry:
    image: str  # path below root, with "/": the sample's id
    split: str
    labels: list[str]
    boxes: list[tuple[str, Box, str]] = field(default_factory=list)  # class, box in the file's pixels, "FILE:LINE"


class Folder(Dataset):
    """Images from ``root``, in one of three layouts:

    - ``root/CLASS/...``: a folder for each class, images at any depth below it. Each image falls into train, val or
      test (60, 20, 20 %) by a hash of its path, so that it stays where it is when others come or go;
    - ``root/SPLIT/CLASS/...``: the same for each of the folders train, val, test. There must be a ``root/train``;
    - ``root/labels.csv``: columns ``image`` (path below root), ``labels`` (names with ";" between them, or nothing),
      and perhaps ``split``; without it the hash decides. The task is then "multi".

    An image is a file that ends in .jpg, .jpeg, .png, .webp, .bmp, .tif or .tiff. Other files, and whatever
    has a name that begins with a dot, are passed over. The first two layouts leave out ``root/masks``.

    Boxes: ``root/boxes.csv`` with the columns image, label, x0, y0, x1, y1: pixels of the upright image, half-open.
    What lies outside the image is clipped. An image without a row has no boxes.

    Masks: ``root/masks/PATH.png`` for the image ``PATH.jpg``, of the upright image's size: 0 background, k + 1 class k,
    255 ignore. An image without a file is ignored throughout (255).

    Args:
        max_side: shrink larger images, with their boxes and masks, so that no side is longer. None keeps every size.

    Raises:
        UsageError: the split is unknown, ``root`` is no folder, or ``max_side`` is below 1.
        DataError: there are no images, or a file, row or box is wrong; names the file and the line.

    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / "train" / name).mkdir(parents=True)
    ...     Image.new("RGB", (20, 12)).save(root / "train" / name / "1.png")
    >>> own = Folder("train", root)
    >>> own.classes, own[1]["id"], own[1]["labels"]
    (('cat', 'dog'), 'train/dog/1.png', tensor([0., 1.]))
    """

    name = "folder"
    licence = "as its owner says"

    def __init__(self, split: str, root: str | Path, max_side: int | None = None) -> None:
        if max_side is not None:
            check_count("max_side", max_side, 1, MAX_PIXELS)
        self.split = self.check_split(split)
        self.root = Path(root)
        if not self.root.is_dir():
            raise UsageError(f"root is {self.root}, which is not a folder; expected the folder that holds your images.")
        self.max_side = self.image_size = max_side
        from_table = (self.root / LABELS).exists()
        self.task = "multi" if from_table else "single"
        entries = list(_listed(self.root) if from_table else _found(self.root))
        self.classes = tuple(sorted({label for entry in entries for label in entry.labels}))
        self._has_boxes = (self.root / BOXES).exists()
        if self._has_boxes:
            _add_boxes(entries, self.root / BOXES, set(self.classes))
        self._has_masks = (self.root / MASKS).is_dir()
        if self._has_masks:
            _check_masks_differ(entries)
        self._entries = sorted((entry for entry in entries if entry.split == split), key=lambda entry: entry.image)
        if not self._entries:
            raise DataError(f"{self.root}: none of its {len(entries)} images is in split {split!r}. Say which are.")
        self.version = "1-" + digest([max_side, self.classes, [self._fingerprint(entry) for entry in self._entries]])

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        entry = self._entries[self.position(index)]
        original = read_pixels(self.root / entry.image)
        image = shrink_image(original, self.max_side)
        numbers = [self.classes.index(label) for label in entry.labels]
        sample: Sample = {"id": entry.image, "image": to_float(image), "labels": one_hot(numbers, len(self.classes))}
        if self._has_boxes:
            sample["boxes"] = _scaled_boxes(entry, original.shape[-2:], image.shape[-2:])
            sample["box_labels"] = torch.tensor([self.classes.index(label) for label, _, _ in entry.boxes]).long()
        if self._has_masks:
            sample["mask"] = shrink_mask(self._mask(entry, original.shape[-2:]), self.max_side)
        return sample

    def _mask(self, entry: _Entry, size: tuple[int, int]) -> Int[Tensor, "H W"]:
        path = self.root / _mask_path(entry.image)
        if not path.exists():
            return torch.full(tuple(size), IGNORE)
        mask = read_mask(path)
        if mask.shape != size:
            raise DataError(
                f"{path}: {tuple(mask.shape)} pixels; its image, upright, has {tuple(size)}. Make them agree."
            )
        wrong = mask[(mask > len(self.classes)) & (mask != IGNORE)]
        if len(wrong):
            raise DataError(
                f"{path}: value {int(wrong[0])}; expected 0 to {len(self.classes)}, or 255 to ignore. Correct the mask."
            )
        return mask

    def _fingerprint(self, entry: _Entry) -> tuple:
        """What changes when the entry's pixels or labels change, without reading a pixel."""
        files = [self.root / entry.image] + [self.root / _mask_path(entry.image)] * self._has_masks
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
        return entry.image, sorted(entry.labels), [(label, box) for label, box, _ in entry.boxes], stats


def _found(root: Path) -> Iterator[_Entry]:
    """The entries of a folder for each class, with or without a folder for each split above them."""
    splits = [split for split in Folder.splits if (root / split).is_dir()] if (root / "train").is_dir() else [None]
    for split in splits:
        top = root / split if split else root
        folders = [folder for folder in _visible(top) if folder.is_dir() and folder.name != MASKS]
        if not folders:
            raise DataError(
                f"{top}: holds no folder for a class, and {root} no {LABELS}. Sort the images into folders."
            )
        for folder in folders:
            yield from _of_class(root, folder, split)


def _of_class(root: Path, folder: Path, split: str | None) -> Iterator[_Entry]:
    images = [path.relative_to(root).as_posix() for path in _images_below(folder)]
    if not images:
        raise DataError(f"{folder}: the class has no image. Add some, or remove the folder.")
    for image in images:
        yield _Entry(image, split or _hashed_split(image), [folder.name])


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _images_below(folder: Path) -> Iterator[Path]:
    for path in _visible(folder):
        if path.is_dir() and not path.is_symlink():
            yield from _images_below(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _listed(root: Path) -> Iterator[_Entry]:
    """The entries that labels.csv names."""
    seen: dict[str, str] = {}
    named: set[str] = set()
    for where, row in read_csv(root / LABELS, ("image", "labels"), ("split",)):
        image = _image_path(row["image"], where)
        if image in seen:
            raise DataError(f"{where}: image {image!r} is already in {seen[image]}. Keep one row, with all its labels.")
        seen[image] = where
        if not (root / image).is_file():
            raise DataError(f"{where}: image {root / image} is missing. Put it there, or remove the row.")
        split = row.get("split", _hashed_split(image))
        if split not in Folder.splits:
            raise DataError(f"{where}: split {split!r} is unknown; expected one of {', '.join(Folder.splits)}.")
        labels = {label.strip() for label in row["labels"].split(";")} - {""}
        yield _Entry(image, split, sorted(labels))
        named |= labels
    if not seen:
        raise DataError(f"{root / LABELS}: lists no image. Add a row for each.")
    if not named:
        raise DataError(f"{root / LABELS}: no row has a label. Write the classes of each image into the column labels.")


def _image_path(text: str, where: str) -> str:
    """A path below root, as an id: with "/", whatever the system that wrote it."""
    path = PurePosixPath(text.replace("\\", "/"))
    if not text or path.is_absolute() or ".." in path.parts or os.path.splitdrive(text)[0]:
        raise DataError(f"{where}: image {text!r}; expected a path below the root folder. Correct the row.")
    return path.as_posix()


def _hashed_split(image: str) -> str:
    """60 % train, 20 % val, 20 % test, by the path alone (in composed Unicode: systems store accents differently)."""
    number = int(digest(unicodedata.normalize("NFC", image)), 16) % 10
    return "train" if number < 6 else "val" if number < 8 else "test"


def _add_boxes(entries: list[_Entry], table: Path, classes: set[str]) -> None:
    by_image = {entry.image: entry for entry in entries}
    for where, row in read_csv(table, ("image", "label", "x0", "y0", "x1", "y1")):
        image = _image_path(row["image"], where)
        if image not in by_image:
            raise DataError(f"{where}: image {image!r} is not in the data set. Add it, or remove the row.")
        if row["label"] not in classes:
            known = ", ".join(sorted(classes))
            raise DataError(f"{where}: label {row['label']!r} is no class; expected one of {known}. Correct the row.")
        box = clip_box(parse_numbers(row, ("x0", "y0", "x1", "y1"), where), math.inf, math.inf, where)
        for label, earlier, line in by_image[image].boxes:
            if (label, earlier) == (row["label"], box):
                raise DataError(f"{where}: the same box is already in {line}. Remove one of them.")
        by_image[image].boxes.append((row["label"], box, where))


def _scaled_boxes(entry: _Entry, size: Iterable[int], shrunk: Iterable[int]) -> Tensor:
    (height, width), (new_height, new_width) = size, shrunk
    clipped = [clip_box(box, width, height, where) for _, box, where in entry.boxes]
    factors = torch.tensor([new_width / width, new_height / height] * 2)
    return torch.tensor(clipped, dtype=torch.float32).reshape(-1, 4) * factors


def _mask_path(image: str) -> str:
    return f"{MASKS}/{PurePosixPath(image).with_suffix('.png')}"


def _check_masks_differ(entries: list[_Entry]) -> None:
    owners: dict[str, str] = {}
    for entry in entries:
        other = owners.setdefault(_mask_path(entry.image), entry.image)
        if other != entry.image:
            raise DataError(f"{entry.image} and {other} would share one mask, {_mask_path(other)}. Rename one of them.")
