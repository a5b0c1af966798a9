"""CUB-200-2011: 200 species of birds with a box, 15 parts and perhaps a mask each (Wah et al., Caltech, 2011)."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl_core.data.annotations import Box, Row, clip_box, parse_numbers, read_table
from wsl_core.data.base import Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.download import extract, fetch
from wsl_core.data.images import MAX_PIXELS, read_mask, read_pixels, shrink_boxes, shrink_image, shrink_mask
from wsl_core.data.wsol_metadata import read_wsol_metadata
from wsl_core.errors import DataError, UsageError

__all__ = ["CUB200"]

FOLDER, SEGMENTATIONS = "CUB_200_2011", "segmentations"
URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1"
MD5 = "97eceeb196236b17998738112f37df78"
V2_FOLDER, V2_METADATA = "CUBV2", "metadata/CUB/val"
PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
VAL = ("held-out", "cubv2")
HELD_OUT_EVERY = 10
MAJORITY = 128  # of 255: a mask's grey is the share of its annotators who saw bird there

Part = tuple[float, float, float]  # x, y, visible


class _Entry(NamedTuple):
    image: Path
    id: str
    label: int
    boxes: tuple[Box, ...]
    parts: tuple[Part, ...] | None = None


class CUB200(Dataset):
    """CUB-200-2011 in its official layout, ``root/CUB_200_2011``; any subset of its images will do.

    ``images/CLASS/NAME.jpg``, and lists whose fields are separated by a space, the first a number: ``images.txt``,
    ``classes.txt``, ``image_class_labels.txt``, ``train_test_split.txt``, ``bounding_boxes.txt`` (x, y, width, height)
    and ``parts/part_locs.txt`` (part, x, y, visible). An image's id is its path, ``CLASS/NAME.jpg``, as in
    wsolevaluation.

    "test" is the official test. By default every tenth image of a class in the official train, from the first on in the
    order of ``images.txt``, is "val", the others "train".

    A box is (x, y, x + width, y + height), clipped to its image; a keypoint is at (x, y). The files do not say from
    which number they count pixels; both are taken to count from 0. A part that lies outside of its image, or is not
    visible, has a row of zeros.

    Masks are a further archive, ``segmentations.tgz``: where its folder ``segmentations`` is in ``root`` or in
    ``root/CUB_200_2011``, every image has one. Several people drew each; a pixel is bird where most of them said so.

    Args:
        val: "held-out", as above; or "cubv2": "train" is then the whole official train, and "val" CUBV2 with its boxes
            (Choe et al., 2020), which has neither parts nor masks. Its images lie in ``root/CUBV2/CLASS``, and
            wsolevaluation's folder ``metadata`` in ``root``.
        max_side: shrink larger images, with all annotations, so that no side is longer. None keeps every size.
        download: fetch CUB-200-2011 (1.1 GB) where it is not there.

    Raises:
        UsageError: a folder is not there, the split is unknown, or an option is wrong.
        DataError: a file is missing or damaged, or a line is wrong; names the file and the line.
        DownloadError: the download failed.

    >>> CUB200("train", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/CUB_200_2011: no such folder. Pass the root that holds it, or download=True.
    """

    name = "cub200"
    task = "single"
    licence = "Caltech: non-commercial research and educational use only; the photographs are Flickr users'"
    keypoint_names = PARTS

    def __init__(
        self,
        split: str,
        root: str | Path,
        download: bool = False,
        val: str = "held-out",
        max_side: int | None = None,
    ) -> None:
        self.split = self.check_split(split)
        if val not in VAL:
            raise UsageError(f"val is {val!r}; expected one of {', '.join(VAL)}.")
        if max_side is not None:
            check_count("max_side", max_side, 2, MAX_PIXELS)
        self.root = Path(root) / FOLDER
        self.max_side = self.image_size = max_side
        if download and not self.root.is_dir():
            extract(fetch(URL, Path(root) / f"{FOLDER}.tgz", md5=MD5), self.root, top=FOLDER)
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: no such folder. Pass the root that holds it, or download=True.")
        names = _read_classes(self.root / "classes.txt")
        self.classes = tuple(name.lstrip("0123456789").lstrip(".").replace("_", " ") for name in names)
        new_images = val == "cubv2" and split == "val"
        self._entries = _read_v2(Path(root), names) if new_images else self._read(names, val == "held-out")
        if not self._entries:
            raise DataError(f"{self.root}: no image is in split {split!r}. Get the rest of them.")
        self._masks = None if new_images else _find_masks(Path(root))
        described = [(entry.id, entry.label, entry.boxes, entry.parts) for entry in self._entries]
        self.version = "1-" + digest([max_side, self._masks is not None, described])

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        entry = self._entries[self.position(index)]
        original = read_pixels(entry.image)
        height, width = original.shape[-2:]
        boxes = [clip_box(box, width, height, str(entry.image)) for box in entry.boxes]
        image = shrink_image(original, self.max_side)
        sample: Sample = {
            "id": entry.id,
            "image": to_float(image),
            "labels": one_hot([entry.label], len(self.classes)),
            "boxes": shrink_boxes(boxes, height, width, self.max_side),
            "box_labels": torch.full((len(boxes),), entry.label),
        }
        if entry.parts is not None:
            scale = torch.tensor([image.shape[-1] / width, image.shape[-2] / height])
            sample["keypoints"] = _keypoints(entry.parts, width, height, scale)
        if self._masks is not None:
            sample["mask"] = shrink_mask(self._mask(entry, height, width), self.max_side)
        return sample

    def _read(self, names: list[str], held_out: bool) -> list[_Entry]:
        """The images of this split of the official ones."""
        paths = _by_image(self.root / "images.txt", ("image", "path"))
        labels = _by_image(self.root / "image_class_labels.txt", ("image", "class"), paths)
        is_train = _by_image(self.root / "train_test_split.txt", ("image", "train"), paths)
        boxes = _by_image(self.root / "bounding_boxes.txt", ("image", "x", "y", "width", "height"), paths)
        of_class = defaultdict(list)
        for image, (where, row) in is_train.items():
            if row["train"] not in ("0", "1"):
                raise DataError(f"{where}: found {row['train']!r}; expected 1 for train or 0 for test. Correct it.")
            if (row["train"] == "0") == (self.split == "test"):
                of_class[_label(*labels[image], names)].append(image)
        parts = _read_parts(self.root / "parts" / "part_locs.txt", paths)
        entries = []
        for label, images in sorted(of_class.items()):
            if held_out and self.split != "test":
                images = [image for n, image in enumerate(images) if (n % HELD_OUT_EVERY == 0) == (self.split == "val")]
            entries += [_entry(self.root, paths[image], label, boxes[image], parts[image]) for image in images]
        return entries

    def _mask(self, entry: _Entry, height: int, width: int) -> Int[Tensor, "H W"]:
        path = (self._masks / entry.id).with_suffix(".png")
        mask = read_mask(path)
        if mask.shape != (height, width):
            raise DataError(f"{path}: {tuple(mask.shape)} pixels; its image has {(height, width)}. Get both again.")
        return (mask >= MAJORITY) * (entry.label + 1)


def _read_classes(path: Path) -> list[str]:
    names = [row["name"] for _, row in read_table(path, ("class", "name"), " ")]
    if not names:
        raise DataError(f"{path}: names no class; expected lines such as '1 001.Black_footed_Albatross'. Get it again.")
    return names


def _by_image(path: Path, columns: tuple[str, ...], images: dict[str, Row] | None = None) -> dict[str, Row]:
    """The row of each image, by its number; ``images`` are those that must be there, each once, and no others."""
    rows: dict[str, Row] = {}
    for where, row in read_table(path, columns, " "):
        if row["image"] in rows:
            raise DataError(f"{where}: image {row['image']} is already in {rows[row['image']][0]}. Remove one line.")
        rows[row["image"]] = where, row
    if images is not None and (differing := rows.keys() ^ images.keys()):
        image = min(differing)
        problem = "is not in images.txt" if image in rows else "has no line"
        raise DataError(f"{path}: image {image} {problem} ({len(differing)} such). The files do not belong together.")
    return {image: rows[image] for image in images} if images is not None else rows


def _label(where: str, row: dict[str, str], names: list[str]) -> int:
    if not row["class"].isdecimal() or not 1 <= int(row["class"]) <= len(names):
        raise DataError(f"{where}: class is {row['class']!r}; expected 1 to {len(names)}. Correct the line.")
    return int(row["class"]) - 1


def _read_parts(path: Path, images: dict[str, Row]) -> dict[str, tuple[Part, ...]]:
    """The parts of each image, in the order of ``PARTS``."""
    found: dict[str, dict[str, Part]] = {image: {} for image in images}
    numbers = [str(number + 1) for number in range(len(PARTS))]
    for where, row in read_table(path, ("image", "part", "x", "y", "visible"), " "):
        if row["image"] not in found or row["part"] not in numbers:
            raise DataError(
                f"{where}: part {row['part']} of image {row['image']}; expected parts 1 to {len(PARTS)} of images that "
                "are in images.txt. Correct the line."
            )
        x, y, visible = parse_numbers(row, ("x", "y", "visible"), where)
        found[row["image"]][row["part"]] = x, y, visible
    for image, parts in found.items():
        if len(parts) < len(PARTS):
            raise DataError(f"{path}: image {image} has {len(parts)} parts; expected {len(PARTS)}. Get the file again.")
    return {image: tuple(parts[number] for number in numbers) for image, parts in found.items()}


def _entry(root: Path, path: Row, label: int, box: Row, parts: tuple[Part, ...]) -> _Entry:
    image = root / "images" / path[1]["path"]
    if not image.is_file():
        raise DataError(f"{image}: the image is missing, but {path[0]} names it. Get the data set again.")
    x, y, width, height = parse_numbers(box[1], ("x", "y", "width", "height"), box[0])
    whole = clip_box((x, y, x + width, y + height), float("inf"), float("inf"), box[0])
    return _Entry(image, path[1]["path"], label, (whole,), parts)


def _read_v2(root: Path, names: list[str]) -> list[_Entry]:
    folder, metadata_folder = root / V2_FOLDER, root / V2_METADATA
    for needed in (folder, metadata_folder):
        if not needed.is_dir():
            raise UsageError(
                f"{needed}: no such folder, but val='cubv2'. Unpack CUBV2.tar, which the README of "
                f"clovaai/wsolevaluation links, into {folder}, and copy that repository's folder metadata into {root}."
            )
    metadata = read_wsol_metadata(metadata_folder)
    for id in metadata.image_ids:
        if metadata.class_labels.get(id, len(names)) >= len(names) or not (folder / id).is_file():
            raise DataError(
                f"{metadata_folder}: image {id!r} has no class from 0 to {len(names) - 1}, or is not in {folder}. "
                "They do not belong together: get both again."
            )
    return [
        _Entry(folder / id, id, metadata.class_labels[id], tuple(metadata.image_boxes(id))) for id in metadata.image_ids
    ]


def _find_masks(root: Path) -> Path | None:
    places = (root / SEGMENTATIONS, root / FOLDER / SEGMENTATIONS)
    return next((place for place in places if place.is_dir()), None)


def _keypoints(parts: tuple[Part, ...], width: int, height: int, scale: Float[Tensor, "2"]) -> Float[Tensor, "P 3"]:
    stored = torch.tensor(parts)
    places, size = stored[:, :2], torch.tensor([width, height])
    inside = ((places >= -0.5) & (places < size - 0.5)).all(dim=1)  # a pixel's centre has whole coordinates
    visible = inside & (stored[:, 2] > 0)
    moved = (places + 0.5) * scale - 0.5
    return torch.cat([moved, torch.ones(len(parts), 1)], dim=1) * visible[:, None]
