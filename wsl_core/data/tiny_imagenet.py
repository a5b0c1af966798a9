"""Tiny ImageNet: 200 classes of 64 x 64 photographs with one box each (Stanford CS231n, from ImageNet)."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import torch

from wsl_core.data.annotations import Box, clip_box, distinct_names, parse_numbers, read_lines, read_table
from wsl_core.data.base import Dataset, Sample, digest, one_hot
from wsl_core.data.download import extract, fetch
from wsl_core.data.images import read_image
from wsl_core.errors import DataError, UsageError

__all__ = ["TinyImageNet"]

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
BYTES, MD5 = 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"
SIDE = 64  # pixels
CORNERS = ("x0", "y0", "x1", "y1")


class _Entry(NamedTuple):
    path: Path
    label: int
    box: Box

    @property
    def number(self) -> int:
        """The number at the end of the file's name, by which images are ordered."""
        found = re.search(r"_(\d+)\.JPEG$", self.path.name)
        if found is None:
            raise DataError(f"{self.path}: the name does not end in _NUMBER.JPEG, as the official names do. Remove it.")
        return int(found[1])


class TinyImageNet(Dataset):
    """Tiny ImageNet in its official layout, ``root/tiny-imagenet-200``; any subset of its classes and images will do.

    "train" is the official train. The official val is halved: each class's images are sorted by their file number, even
    positions (0, 2, ...) are "val", odd ones "test". The official test has no labels and is not used.

    ``classes`` holds the first name of each class in words.txt, ``wnids`` its WordNet id, in the order of wnids.txt.
    The official boxes include their last pixel (0 to 63), so x1 and y1 gain 1. A box is clipped to the image.

    Raises:
        UsageError: the split is unknown, or the data are not there and ``download`` is not set.
        DataError: a file is missing, a class is empty, or a line is wrong; names the file and the line.
        DownloadError: the download failed.

    >>> TinyImageNet("train", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/tiny-imagenet-200: no such folder. Pass the root that holds it...
    """

    name = "tiny-imagenet"
    task = "single"
    image_size = SIDE
    licence = "ImageNet's terms: non-commercial research and educational use only; do not redistribute"

    def __init__(self, split: str, root: str | Path, download: bool = False) -> None:
        self.split = self.check_split(split)
        self.root = Path(root) / FOLDER
        if download and not self.root.is_dir():
            extract(fetch(URL, Path(root) / f"{FOLDER}.zip", BYTES, MD5), self.root, top=FOLDER)
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: no such folder. Pass the root that holds {FOLDER}, or download=True.")
        self.wnids = _read_wnids(self.root / "wnids.txt")
        self.classes = _read_names(self.root / "words.txt", self.wnids)
        self._entries = self._read_train() if split == "train" else self._read_half(0 if split == "val" else 1)
        self.version = "1-" + digest([(entry.path.name, entry.label, entry.box) for entry in self._entries])

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        entry = self._entries[self.position(index)]
        image = read_image(entry.path)
        if image.shape[-2:] != (SIDE, SIDE):
            raise DataError(f"{entry.path}: {tuple(image.shape[-2:])} pixels; expected 64 x 64. Get the file again.")
        return {
            "id": entry.path.stem,
            "image": image,
            "labels": one_hot([entry.label], len(self.classes)),
            "boxes": torch.tensor([entry.box], dtype=torch.float32),
            "box_labels": torch.tensor([entry.label]),
        }

    def _read_train(self) -> list[_Entry]:
        entries = []
        for label, wnid in enumerate(self.wnids):
            folder = self.root / "train" / wnid
            rows = read_table(folder / f"{wnid}_boxes.txt", ("image", *CORNERS))
            of_class = [_entry(row, where, folder / "images", label) for where, row in rows]
            _check_complete(of_class, folder / "images", folder / f"{wnid}_boxes.txt")
            entries += sorted(of_class, key=lambda entry: entry.number)
        return entries

    def _read_half(self, parity: int) -> list[_Entry]:
        annotations, folder = self.root / "val" / "val_annotations.txt", self.root / "val" / "images"
        entries = []
        for where, row in read_table(annotations, ("image", "wnid", *CORNERS)):
            if row["wnid"] not in self.wnids:
                raise DataError(
                    f"{where}: class {row['wnid']!r} is not in wnids.txt. Add it there, or remove the line."
                )
            entries.append(_entry(row, where, folder, self.wnids.index(row["wnid"])))
        _check_complete(entries, folder, annotations)
        entries.sort(key=lambda entry: (entry.label, entry.number))
        of_class = [[entry for entry in entries if entry.label == label] for label in range(len(self.wnids))]
        return [entry for class_entries in of_class for entry in class_entries[parity::2]]


def _entry(row: dict[str, str], where: str, folder: Path, label: int) -> _Entry:
    x0, y0, x1, y1 = parse_numbers(row, CORNERS, where)
    return _Entry(folder / row["image"], label, clip_box((x0, y0, x1 + 1, y1 + 1), SIDE, SIDE, where))


def _check_complete(entries: list[_Entry], folder: Path, annotations: Path) -> None:
    """The images of ``folder`` and the lines of ``annotations`` must be the same, each once."""
    lines = Counter(entry.path for entry in entries)
    files = {path for path in folder.glob("*.JPEG") if not path.name.startswith(".")}
    if not files:
        raise DataError(f"{folder}: holds no image (*.JPEG). Get the data set again, or remove the class everywhere.")
    for problem, paths in (
        ("is missing, but has a line", lines.keys() - files),
        ("has no line", files - lines.keys()),
        ("has several lines", {path for path, count in lines.items() if count > 1}),
    ):
        if paths:
            raise DataError(f"{min(paths)}: the image {problem} in {annotations} ({len(paths)} such). Correct either.")


def _read_wnids(path: Path) -> tuple[str, ...]:
    wnids = tuple(line.strip() for line in read_lines(path) if line.strip())
    if not wnids or len(set(wnids)) < len(wnids):
        raise DataError(f"{path}: {len(wnids)} classes, {len(set(wnids))} of them different; expected each class once.")
    return wnids


def _read_names(path: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """The first of each class's names; two classes of one name get their id behind it."""
    first = {row["wnid"]: row["names"].split(",")[0].strip() for _, row in read_table(path, ("wnid", "names"))}
    missing = [wnid for wnid in wnids if wnid not in first]
    if missing:
        raise DataError(f"{path}: no line for class {missing[0]} ({len(missing)} missing). Get the data set again.")
    return distinct_names({wnid: first[wnid] for wnid in wnids})
