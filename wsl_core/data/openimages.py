"""OpenImages30k: 100 classes with masks, made to measure weakly supervised localisation (Choe et al., CVPR 2020)."""

from pathlib import Path
from typing import SupportsIndex

import torch

from wsl_core.data.annotations import distinct_names, read_lines
from wsl_core.data.base import Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.images import MAX_PIXELS, read_pixels, shrink_image
from wsl_core.data.wsol_metadata import read_wsol_metadata
from wsl_core.errors import DataError, UsageError

__all__ = ["OpenImages30k"]

FOLDER, METADATA = "OpenImages", "metadata/OpenImages"
DESCRIPTIONS = "class-descriptions-boxable.csv"


class OpenImages30k(Dataset):
    """OpenImages30k as wsolevaluation publishes it; its splits "train", "val" and "test" are those of OpenImages V5.

    ``root/OpenImages/SPLIT/CLASS/NAME.jpg`` with, in "val" and "test", the masks ``NAME_*.png`` beside it; and that
    repository's folder ``metadata`` in ``root``, whose ``OpenImages/SPLIT`` lists images, classes and masks. A folder
    CLASS is OpenImages' code, ``0bt_c3`` for ``/m/0bt_c3``; ``classes`` holds the codes, or the words for them where
    ``root/OpenImages/class-descriptions-boxable.csv`` of OpenImages is there. "train" has no masks.

    ``mask`` is the union of an image's masks: 0 background, k + 1 class k, and 255 where the file of what to ignore is
    set and no object is: there may be further objects that nobody has drawn. A mask file's size is its own; it is
    resized to the image's as wsolevaluation resizes it to a map's, by nearest neighbours.

    Written from wsolevaluation's code, and tested on small files in its layout. The images were not at hand.

    Args:
        max_side: shrink larger images, with their masks, so that no side is longer. None keeps every size.

    Raises:
        UsageError: a folder is not there: says what to get and where to put it. Or the split is unknown, or
            ``max_side`` below 2.
        DataError: a file is missing or damaged, or a line of the metadata is wrong; names the file and the line.

    >>> OpenImages30k("train", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/OpenImages: no such folder. The README of clovaai/wsolevaluation links...
    """

    name = "openimages30k"
    task = "single"
    licence = "Images: CC BY 2.0, as listed by OpenImages; labels and masks: CC BY 4.0, Google LLC"

    def __init__(self, split: str, root: str | Path, max_side: int | None = None) -> None:
        self.split = self.check_split(split)
        if max_side is not None:
            check_count("max_side", max_side, 2, MAX_PIXELS)
        self.root = Path(root) / FOLDER
        self.max_side = self.image_size = max_side
        folder = Path(root) / METADATA / split
        for needed in (self.root, folder):
            if not needed.is_dir():
                raise UsageError(
                    f"{needed}: no such folder. The README of clovaai/wsolevaluation links OpenImages30k's images and "
                    f"masks: unpack both into {self.root}, and copy that repository's folder metadata into {root}."
                )
        self._metadata = read_wsol_metadata(folder)
        codes = self._codes(folder)
        self.classes = _class_names(codes, self.root / DESCRIPTIONS)
        missing = [id for id in self._metadata.image_ids if not (self.root / id).is_file()]
        if missing:
            raise DataError(
                f"{self.root / missing[0]}: the image is missing, but {folder} lists it ({len(missing)} such). Get the "
                "images again."
            )
        self.version = "1-" + digest([max_side, codes, self._metadata])

    def __len__(self) -> int:
        return len(self._metadata.image_ids)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        id = self._metadata.image_ids[self.position(index)]
        image = shrink_image(read_pixels(self.root / id), self.max_side)
        label = self._metadata.class_labels[id]
        sample: Sample = {"id": id, "image": to_float(image), "labels": one_hot([label], len(self.classes))}
        if self._metadata.masks:
            mask = self._metadata.read_mask(id, self.root, tuple(image.shape[-2:]))
            sample["mask"] = torch.where(mask == 1, label + 1, mask)
        return sample

    def _codes(self, folder: Path) -> tuple[str, ...]:
        """The folder of each class, by the number of the class."""
        code_of: dict[int, str] = {}
        for id in self._metadata.image_ids:
            if id not in self._metadata.class_labels:
                raise DataError(f"{folder / 'class_labels.txt'}: no line for image {id!r}. Get the metadata again.")
            label, code = self._metadata.class_labels[id], Path(id).parent.name
            if code_of.setdefault(label, code) != code:
                raise DataError(
                    f"{folder / 'class_labels.txt'}: images of class {label} lie in the folders {code_of[label]!r} and "
                    f"{code!r}; expected one folder a class. Get the metadata again."
                )
        if set(code_of) != set(range(len(code_of))) or len(set(code_of.values())) < len(code_of):
            raise DataError(
                f"{folder / 'class_labels.txt'}: found the classes {sorted(code_of)} in {len(set(code_of.values()))} "
                "folders; expected 0, 1, ... without a gap, each in its own. Get the metadata again."
            )
        return tuple(code_of[label] for label in sorted(code_of))


def _class_names(codes: tuple[str, ...], descriptions: Path) -> tuple[str, ...]:
    if not descriptions.exists():
        return codes
    words = {}
    for number, line in enumerate(read_lines(descriptions), start=1):
        code, comma, name = line.strip().partition(",")
        if line.strip() and not (comma and code.startswith("/m/") and name):
            raise DataError(f"{descriptions}:{number}: found {line!r}; expected /m/CODE,NAME. Get the file again.")
        words[code.removeprefix("/m/")] = name.strip('"')
    missing = [code for code in codes if code not in words]
    if missing:
        raise DataError(f"{descriptions}: no line for class /m/{missing[0]} ({len(missing)} missing). Get it again.")
    return distinct_names({code: words[code] for code in codes})
