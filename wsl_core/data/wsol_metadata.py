"""The metadata files of clovaai/wsolevaluation, and the score maps and masks that they name.

A folder for each split, with comma-separated files without a header, one line for each image (or box, or mask):

- ``image_ids.txt``: id. It is also the image's path, ``val/cat/1.jpg``;
- ``class_labels.txt``: id, class number;
- ``image_sizes.txt``: id, **width, height** of the original image in pixels;
- ``localization.txt``: id, x0, y0, x1, y1 of each box in whole pixels of the original image, **corners included**;
  or id, mask, ignore mask: paths of PNG files, the ignore mask on the first line of an image only.

Files that a split does not have (OpenImages has no sizes, ImageNet's training set no boxes) may be missing or empty.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsl_core.data.annotations import read_lines
from wsl_core.data.base import IGNORE
from wsl_core.data.images import read_mask
from wsl_core.errors import DataError, UsageError
from wsl_core.files import atomic_write

__all__ = ["MAP_SIDE", "WSOLMetadata", "check_scores", "read_score_map", "read_wsol_metadata", "write_wsol_metadata"]

MAP_SIDE = 224  # every image is resized to this many pixels, without regard to its aspect

IDS, LABELS, SIZES, LOCALIZATION = "image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt"


@dataclass(frozen=True)
class WSOLMetadata:
    """What the metadata files of one split say.

    Attributes:
        image_ids: in the order of the file.
        class_labels: class number of each image.
        image_sizes: width and height of each image in pixels.
        boxes: x0, y0, x1, y1 of each image's boxes in whole pixels of the image, corners included.
        masks: paths of each image's masks, one for each instance.
        ignore_masks: path of each image's ignore mask; images without one are left out.
    """

    image_ids: tuple[str, ...]
    class_labels: dict[str, int] = field(default_factory=dict)
    image_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes: dict[str, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    masks: dict[str, list[str]] = field(default_factory=dict)
    ignore_masks: dict[str, str] = field(default_factory=dict)

    def scaled_boxes(self, image_id: str, side: int = MAP_SIDE) -> Int[Tensor, "M 4"]:
        """The image's boxes in pixels of a map, half-open: scaled, truncated to whole pixels, and 1 added to x1 and y1.

        >>> metadata = WSOLMetadata(("a.jpg",), image_sizes={"a.jpg": (10, 20)}, boxes={"a.jpg": [(1, 2, 4, 3)]})
        >>> metadata.scaled_boxes("a.jpg", side=10).tolist()
        [[1, 1, 5, 2]]
        """
        corners = np.array(self.boxes[image_id], dtype=np.float64)  # as the official code: in float64, product first
        scaled = (corners * side / np.tile(self.image_sizes[image_id], 2)).astype(np.int64)
        scaled[:, 2:] += 1
        return torch.from_numpy(scaled)

    def image_boxes(self, image_id: str) -> list[tuple[int, int, int, int]]:
        """The image's boxes in its own pixels, half-open; none for an image without a line.

        >>> WSOLMetadata(("a.jpg",), boxes={"a.jpg": [(1, 2, 4, 3)]}).image_boxes("a.jpg")
        [(1, 2, 5, 4)]
        """
        return [(x0, y0, x1 + 1, y1 + 1) for x0, y0, x1, y1 in self.boxes.get(image_id, [])]

    def read_mask(self, image_id: str, root: Path, side: int | tuple[int, int] = MAP_SIDE) -> Int[Tensor, "H W"]:
        """The union of the image's masks in pixels of a map: 1 foreground, 0 background, 255 ignore.

        Whatever is not black is foreground; where it covers the ignore mask, it is foreground all the same. Masks are
        resized as OpenCV's INTER_NEAREST does, which takes the pixel that the upper left corner falls on.

        Args:
            side: of the map, or its height and width.

        Raises:
            DataError: a file is missing or is not a mask.
        """
        size = (side, side) if isinstance(side, int) else side
        foreground = np.any([_resized(root / path, size) for path in self.masks[image_id]], axis=0)
        mask = foreground.astype(np.int64)
        if image_id in self.ignore_masks:
            mask[_resized(root / self.ignore_masks[image_id], size) & ~foreground] = IGNORE
        return torch.from_numpy(mask)


def read_wsol_metadata(folder: str | Path) -> WSOLMetadata:
    """Read the metadata files of a split.

    Raises:
        DataError: with file and line: a line has the wrong number of fields, a field is no whole number, an id is
            unknown or given twice, a box has no area. With file and id: an image is missing from a file.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "image_ids.txt").write_text("val/1.jpg\\n")
    >>> _ = (folder / "image_sizes.txt").write_text("val/1.jpg,500,375\\n")
    >>> _ = (folder / "localization.txt").write_text("val/1.jpg,10,20,110,220\\n")
    >>> read_wsol_metadata(folder).boxes
    {'val/1.jpg': [(10, 20, 110, 220)]}
    """
    folder = Path(folder)
    ids: dict[str, None] = {}  # a set that keeps its order
    for where, (image_id,) in _rows(folder / IDS, ("id",)):
        if image_id in ids:
            raise DataError(f"{where}: image id {image_id!r} is there already. Remove the line.")
        ids[image_id] = None
    if not ids:
        raise DataError(f"{folder / IDS}: the file is missing or empty; expected one image id a line.")
    labels = {
        image_id: _whole(text, "class", where)
        for where, image_id, (text,) in _per_image(folder / LABELS, ("id", "class"), ids, once=True)
    }
    sizes = {
        image_id: (_whole(width, "width", where, 1), _whole(height, "height", where, 1))
        for where, image_id, (width, height) in _per_image(folder / SIZES, ("id", "width", "height"), ids, once=True)
    }
    localization = folder / LOCALIZATION
    if any(line.count(",") == 2 for _, line in _lines(localization)[:1]):
        return WSOLMetadata(tuple(ids), labels, sizes, {}, *_read_masks(localization, ids))
    return WSOLMetadata(tuple(ids), labels, sizes, _read_boxes(localization, ids, sizes))


def write_wsol_metadata(folder: str | Path, metadata: WSOLMetadata) -> None:
    """Write the metadata files of a split, all of them or none.

    Args:
        folder: is made; must not exist, or be empty.

    Raises:
        UsageError: there are files in the folder already, or the metadata have boxes and masks.
        DataError: an id or a path has a comma or a line break, which the format cannot hold.
        OSError: the folder cannot be written; there is none then.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "val"
    >>> metadata = WSOLMetadata(("1.jpg",), {"1.jpg": 7}, {"1.jpg": (8, 6)}, {"1.jpg": [(1, 2, 4, 3)]})
    >>> write_wsol_metadata(folder, metadata)
    >>> read_wsol_metadata(folder) == metadata
    True
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: found something there already; name a new or an empty folder.")
    if metadata.boxes and metadata.masks:
        raise UsageError(f"metadata: boxes and masks; {LOCALIZATION} holds one of them. Write two folders.")
    boxes = [(image_id, *box) for image_id, all_boxes in metadata.boxes.items() for box in all_boxes]
    masks = [
        (image_id, path, "" if number else metadata.ignore_masks.get(image_id, ""))
        for image_id, paths in metadata.masks.items()
        for number, path in enumerate(paths)
    ]
    tables = {
        IDS: [(image_id,) for image_id in metadata.image_ids],
        LABELS: list(metadata.class_labels.items()),
        SIZES: [(image_id, *size) for image_id, size in metadata.image_sizes.items()],
        LOCALIZATION: boxes or masks,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as partial:
        for name, rows in tables.items():
            with atomic_write(Path(partial, "split", name), "w") as file:
                file.writelines(_line(row) for row in rows)
        if folder.exists():
            folder.rmdir()
        Path(partial, "split").replace(folder)


def read_score_map(path: str | Path, side: int = MAP_SIDE) -> Float[Tensor, "side side"]:
    """Read a map that someone saved with ``np.save``, as float64.

    Raises:
        DataError: the file is missing, is not a ``.npy`` file of numbers, has another size, or values outside [0, 1].

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "1.jpg.npy"
    >>> np.save(path, np.zeros((224, 224), np.float32))
    >>> read_score_map(path).shape
    torch.Size([224, 224])
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a wrong size is seen before it is read
    except FileNotFoundError as error:
        raise DataError(f"{path}: the map is missing. Save it there, with np.save.") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: not a whole .npy file of numbers ({error}). Save the map again, with np.save."
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else "an archive of arrays"
        raise DataError(f"{path}: found {found}; expected one array of numbers, saved with np.save.")
    if array.shape != (side, side):
        raise DataError(
            f"{path}: found shape {array.shape}; expected {(side, side)}. Resize the map before you save it."
        )
    values = array.astype(np.float64)
    check_scores(values, str(path))
    return torch.from_numpy(values)


def check_scores(score_map: Float[np.ndarray, "H W"], name: str) -> None:
    """See that a map can be scored.

    Raises:
        DataError: a value is NaN or not in [0, 1]. (The official training code takes a map with NaN for one of zeros.)

    >>> check_scores(np.array([[0.0, 1.0]]), "maps/1.jpg.npy")
    """
    if not ((score_map >= 0) & (score_map <= 1)).all():  # NaN is neither
        found = "NaN" if np.isnan(score_map).any() else f"values from {score_map.min():g} to {score_map.max():g}"
        raise DataError(f"{name}: found {found}; expected scores in [0, 1]. Normalise the map first.")


def _read_boxes(
    path: Path, ids: dict[str, None], sizes: dict[str, tuple[int, int]]
) -> dict[str, list[tuple[int, int, int, int]]]:
    boxes: dict[str, list[tuple[int, int, int, int]]] = {}
    names = ("x0", "y0", "x1", "y1")
    for where, image_id, fields in _per_image(path, ("id", *names), ids):
        x0, y0, x1, y1 = (_whole(value, name, where) for value, name in zip(fields, names, strict=True))
        if x0 >= x1 or y0 >= y1:
            raise DataError(f"{where}: box {x0}, {y0}, {x1}, {y1} has no area; expected x0 < x1, y0 < y1. Correct it.")
        if image_id not in sizes:
            raise DataError(f"{path.parent / SIZES}: image {image_id!r} is missing; boxes are scaled by its size.")
        boxes.setdefault(image_id, []).append((x0, y0, x1, y1))
    return boxes


def _read_masks(path: Path, ids: dict[str, None]) -> tuple[dict[str, list[str]], dict[str, str]]:
    masks: dict[str, list[str]] = {}
    ignore_masks: dict[str, str] = {}
    for where, image_id, (mask, ignore) in _per_image(path, ("id", "mask", "ignore mask"), ids):
        if not mask:
            raise DataError(f"{where}: no mask is named. Correct the line.")
        if ignore and image_id in masks:
            raise DataError(f"{where}: a second ignore mask, {ignore!r}; expected one, on the image's first line.")
        if ignore:
            ignore_masks[image_id] = ignore
        masks.setdefault(image_id, []).append(mask)
    return masks, ignore_masks


def _per_image(
    path: Path, columns: tuple[str, ...], ids: dict[str, None], once: bool = False
) -> Iterator[tuple[str, str, list[str]]]:
    """Place, image id and other fields of each line. The file may be missing or empty, but not lack some images."""
    seen: set[str] = set()
    for where, (image_id, *fields) in _rows(path, columns):
        if image_id not in ids:
            raise DataError(f"{where}: image id {image_id!r} is not in {IDS}. Remove the line, or add the id there.")
        if once and image_id in seen:
            raise DataError(f"{where}: image {image_id!r} is there already. Remove the line.")
        seen.add(image_id)
        yield where, image_id, fields
    missing = [image_id for image_id in ids if image_id not in seen]
    if seen and missing:
        raise DataError(f"{path}: no line for {len(missing)} images of {IDS}, such as {missing[0]!r}. Add the lines.")


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """FILE:LINE and fields of each line that is not blank."""
    for where, line in _lines(path):
        fields = line.split(",")
        if len(fields) != len(columns) or not fields[0]:
            raise DataError(f"{where}: found {line!r}; expected {', '.join(columns)}, separated by commas. Correct it.")
        yield where, fields


def _lines(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    lines = enumerate(read_lines(path), start=1)
    return [(f"{path}:{number}", line.strip()) for number, line in lines if line.strip()]


def _whole(text: str, name: str, where: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise DataError(f"{where}: {name} is {text!r}; expected a whole number from {least} on. Correct the line.")
    return int(text)


def _line(fields: tuple[object, ...]) -> str:
    texts = [str(value) for value in fields]
    for text in texts:
        if any(mark in text for mark in ",\r\n") or text != text.strip():
            raise DataError(
                f"metadata: {text!r} has a comma, a line break or spaces around it, which the format cannot hold."
            )
    return ",".join(texts) + "\n"


def _resized(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    mask = read_mask(path).numpy()
    rows, columns = (
        np.minimum((np.arange(new) * (1 / (new / old))).astype(np.int64), old - 1) for new, old in zip(size, mask.shape)
    )
    return mask[np.ix_(rows, columns)] > 0
