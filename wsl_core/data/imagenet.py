"""ImageNet as in ILSVRC 2012: 1,000 classes, with boxes; ImageNetV2 to choose on (Russakovsky et al., 2015)."""

from pathlib import Path
from typing import NamedTuple, SupportsIndex

import torch

from wsl_core.data.annotations import Box, distinct_names, read_lines, read_objects_xml
from wsl_core.data.base import Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.images import MAX_PIXELS, read_pixels, shrink_boxes, shrink_image
from wsl_core.data.matlab import field, items, numbers, read_mat, text
from wsl_core.data.wsol_metadata import WSOLMetadata, read_wsol_metadata
from wsl_core.errors import DataError, UsageError

__all__ = ["ImageNet"]

FOLDER = "ILSVRC2012"
IMAGES = {  # the names of the archives, of torchvision's folders, of Kaggle's
    "train": ("ILSVRC2012_img_train", "train", "Data/CLS-LOC/train"),
    "val": ("ILSVRC2012_img_val", "val", "Data/CLS-LOC/val"),
}
BOXES = {
    "train": ("ILSVRC2012_bbox_train_v2", "Annotations/CLS-LOC/train"),
    "val": ("ILSVRC2012_bbox_val_v3/val", "Annotations/CLS-LOC/val"),
}
DEVKIT = "ILSVRC2012_devkit_t12/data"
KAGGLE_NAMES = "LOC_synset_mapping.txt"
V2_FOLDER, V2_METADATA = "val2", "metadata/ILSVRC/val"
WHERE_TO_GET = (
    "ImageNet needs an account at image-net.org. Get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, "
    "ILSVRC2012_devkit_t12.tar.gz and, for boxes, ILSVRC2012_bbox_train_v2.tar.gz and ILSVRC2012_bbox_val_v3.tgz; "
    "unpack each into {top}/NAME, the archive's name without its suffix, and train's inner archives into folders of "
    "their names (n01440764, ...)"
)


class _Class(NamedTuple):
    wnid: str
    name: str
    number: int | None  # in the ground truth of val; Kaggle's list does not say it


class _Entry(NamedTuple):
    file: str  # below the folder with the split's images
    label: int


class ImageNet(Dataset):
    """ImageNet's classification and localisation set, in ``root/ILSVRC2012``.

    - ``ILSVRC2012_img_train/WNID/*.JPEG``, ``ILSVRC2012_img_val/*.JPEG``, or the val images in folders ``WNID``;
    - ``ILSVRC2012_devkit_t12/data/meta.mat`` and, unless the val images are in folders,
      ``ILSVRC2012_validation_ground_truth.txt`` beside it;
    - ``ILSVRC2012_bbox_train_v2/WNID/*.xml`` and ``ILSVRC2012_bbox_val_v3/val/*.xml``, if there are to be boxes.

    The folders of torchvision (``train``, ``val``) and of Kaggle (``Data/CLS-LOC/...``, ``Annotations/CLS-LOC/...``,
    with ``LOC_synset_mapping.txt`` in place of ``meta.mat``) are understood too.

    "train" is the official train, "test" the official val: the labels of the official test are not published. "val" is
    ImageNetV2's Threshold0.7 with the boxes of wsolevaluation (Choe et al., 2020): ``val2/0`` to ``val2/999``, and that
    repository's folder ``metadata`` in ``root``. Ids are wsolevaluation's: ``val/ILSVRC2012_val_00000001.JPEG``.

    ``classes`` holds the first name of each class, ``wnids`` its WordNet id; they are in the order of ``wnids``, as in
    torchvision's weights.

    The files' boxes count from 0 and include their last pixel, so x1 and y1 gain 1. They refer to an image of the size
    that the file gives, so they are scaled to the image's own, and clipped. A few of train's are empty or lie outside:
    these are left out. Not every image of train has boxes: samples without have no key ``boxes``. All of a file's boxes
    are taken to be of the image's class: names in train's files are not reliable. The blacklist of ILSVRC 2014 is not
    applied.

    Written from public code that reads these files, and tested on small files in their layout. The files themselves
    were not at hand.

    Args:
        max_side: shrink larger images, with their boxes, so that no side is longer. None keeps every size.

    Raises:
        UsageError: a folder is not there: says what to get and where to put it. Or the split is unknown, or
            ``max_side`` below 2.
        DataError: a file is missing or damaged, or a class has no image; names the file.

    >>> ImageNet("train", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/ILSVRC2012: no such folder. ImageNet needs an account at image-net.org...
    """

    name = "imagenet"
    task = "single"
    licence = "ImageNet's terms: non-commercial research and educational use only; do not redistribute"

    def __init__(self, split: str, root: str | Path, max_side: int | None = None) -> None:
        self.split = self.check_split(split)
        if max_side is not None:
            check_count("max_side", max_side, 2, MAX_PIXELS)
        self.root = Path(root) / FOLDER
        self.max_side = self.image_size = max_side
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: no such folder. {WHERE_TO_GET.format(top=self.root)}.")
        known = sorted(_read_classes(self.root))
        self.wnids = tuple(found.wnid for found in known)
        self.classes = distinct_names({found.wnid: found.name for found in known})
        self._metadata: WSOLMetadata | None = None
        self._boxes: Path | None = None
        if split == "val":
            self._images, self._entries = self._open_v2(Path(root))
        else:
            stored = "train" if split == "train" else "val"
            self._images = self._find(IMAGES[stored])
            self._boxes = next((self.root / at for at in BOXES[stored] if (self.root / at).is_dir()), None)
            by_class = split == "train" or any((self._images / wnid).is_dir() for wnid in self.wnids)
            self._entries = self._read_folders() if by_class else self._read_flat(known)
        boxes = self._metadata.boxes if self._metadata else self._boxes is not None
        self.version = "1-" + digest([max_side, self.wnids, boxes, [tuple(entry) for entry in self._entries]])

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        entry = self._entries[self.position(index)]
        original = read_pixels(self._images / entry.file)
        height, width = original.shape[-2:]
        sample: Sample = {
            "id": self._id(entry),
            "image": to_float(shrink_image(original, self.max_side)),
            "labels": one_hot([entry.label], len(self.classes)),
        }
        boxes = self._boxes_of(entry, height, width)
        if boxes is not None:
            sample["boxes"] = shrink_boxes(boxes, height, width, self.max_side)
            sample["box_labels"] = torch.full((len(boxes),), entry.label)
        return sample

    def _id(self, entry: _Entry) -> str:
        """As in wsolevaluation, whatever the layout on the disk."""
        if self.split == "val":
            return entry.file
        return f"train/{entry.file}" if self.split == "train" else f"val/{Path(entry.file).name}"

    def _find(self, places: tuple[str, ...]) -> Path:
        for place in places:
            if (self.root / place).is_dir():
                return self.root / place
        raise UsageError(f"{self.root / places[0]}: no such folder. {WHERE_TO_GET.format(top=self.root)}.")

    def _read_folders(self) -> list[_Entry]:
        entries = []
        for label, wnid in enumerate(self.wnids):
            names = sorted(path.name for path in (self._images / wnid).glob("[!.]*.JPEG"))
            if not names:
                raise DataError(f"{self._images / wnid}: holds no image (*.JPEG). Unpack {wnid}.tar into it.")
            entries += [_Entry(f"{wnid}/{name}", label) for name in names]
        return entries

    def _read_flat(self, known: list[_Class]) -> list[_Entry]:
        """The images of val in the order of their numbers, with the classes of the ground truth, a line for each."""
        path = self.root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
        if any(found.number is None for found in known):
            raise UsageError(
                f"{self.root / DEVKIT / 'meta.mat'}: the file is missing; without it only folders say the classes of "
                f"the images in {self._images}. Put it there, or sort them into folders named by their WordNet ids."
            )
        label_of = {str(found.number): label for label, found in enumerate(known)}
        lines = [line.strip() for line in read_lines(path) if line.strip()]
        names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, len(lines) + 1)]
        differing = {path.name for path in self._images.glob("[!.]*.JPEG")} ^ set(names)
        if differing:
            raise DataError(
                f"{self._images / min(differing)}: {len(differing)} images are missing, or have no line in {path}, "
                f"which has {len(lines)}. Get both again."
            )
        for number, line in enumerate(lines, start=1):
            if line not in label_of:
                raise DataError(f"{path}:{number}: found {line!r}; expected a class from 1 to {len(known)}.")
        return [_Entry(name, label_of[line]) for name, line in zip(names, lines)]

    def _open_v2(self, root: Path) -> tuple[Path, list[_Entry]]:
        for needed in (self.root / V2_FOLDER, root / V2_METADATA):
            if not needed.is_dir():
                raise UsageError(
                    f"{needed}: no such folder; split 'val' is ImageNetV2. Get imagenetv2-threshold0.7.tar.gz, which "
                    f"the README of clovaai/wsolevaluation links, make its folder {self.root / V2_FOLDER}, and copy "
                    f"that repository's folder metadata into {root}."
                )
        self._metadata = read_wsol_metadata(root / V2_METADATA)
        labels = self._metadata.class_labels
        for id in self._metadata.image_ids:
            if labels.get(id, len(self.wnids)) >= len(self.wnids) or not (self.root / id).is_file():
                raise DataError(
                    f"{root / V2_METADATA}: image {id!r} has no class from 0 to {len(self.wnids) - 1}, or is not in "
                    f"{self.root}. ImageNetV2's files were renamed once: get both again."
                )
        return self.root, [_Entry(id, labels[id]) for id in self._metadata.image_ids]

    def _boxes_of(self, entry: _Entry, height: int, width: int) -> list[Box] | None:
        """Half-open boxes in pixels of the image; None where nobody has drawn any."""
        if self._metadata is not None:
            return _inside(self._metadata.image_boxes(entry.file), 1.0, 1.0, height, width)
        if self._boxes is None:
            return None
        file = entry.file if self.split == "train" else Path(entry.file).name
        path = (self._boxes / file).with_suffix(".xml")
        if self.split == "train" and not path.exists():
            return None
        annotated = read_objects_xml(path)
        if min(annotated.width, annotated.height) < 1:
            raise DataError(f"{path}: size {annotated.width:g} x {annotated.height:g}; expected pixels. Correct it.")
        boxes = [(x0, y0, x1 + 1, y1 + 1) for _, (x0, y0, x1, y1) in annotated.objects]
        return _inside(boxes, width / annotated.width, height / annotated.height, height, width)


def _inside(boxes: list[Box], scale_x: float, scale_y: float, height: int, width: int) -> list[Box]:
    """The boxes, scaled and clipped to the image, of which anything is left."""
    clipped = [
        (max(x0 * scale_x, 0), max(y0 * scale_y, 0), min(x1 * scale_x, width), min(y1 * scale_y, height))
        for x0, y0, x1, y1 in boxes
    ]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in clipped if x0 < x1 and y0 < y1]


def _read_classes(top: Path) -> list[_Class]:
    meta, mapping = top / DEVKIT / "meta.mat", top / KAGGLE_NAMES
    found = _read_mapping(mapping) if mapping.exists() and not meta.exists() else _read_meta(meta)
    wnids = [entry.wnid for entry in found]
    if not wnids or len(set(wnids)) < len(wnids):
        raise DataError(
            f"{meta if meta.exists() else mapping}: {len(wnids)} classes, {len(set(wnids))} of them different; "
            "expected each class once. Get the file again."
        )
    return found


def _read_meta(path: Path) -> list[_Class]:
    """The devkit's ``synsets``: the classes are those without children, the others lie above them in WordNet."""
    found = []
    for number, synset in enumerate(items(read_mat(path, "synsets"), str(path)), start=1):
        where = f"{path}: synset {number}"
        (id,), (children,) = (
            numbers(field(synset, name, where), (1, 1), f"{where}: {name}")[0]
            for name in ("ILSVRC2012_ID", "num_children")
        )
        if children == 0:
            words = text(field(synset, "words", where), f"{where}: words")
            found.append(_Class(text(field(synset, "WNID", where), f"{where}: WNID"), _first(words), int(id)))
    return found


def _read_mapping(path: Path) -> list[_Class]:
    """Kaggle's list, a line ``WNID NAME, NAME, ...`` for each class, in the order of the WordNet ids."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        wnid, _, words = line.strip().partition(" ")
        if wnid and not words:
            raise DataError(f"{path}:{number}: found {line!r}; expected a WordNet id, a space and names. Correct it.")
        if wnid:
            found.append(_Class(wnid, _first(words), None))
    return found


def _first(words: str) -> str:
    return words.split(",")[0].strip()
