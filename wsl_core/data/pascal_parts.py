"""PASCAL-Part: masks of the parts of VOC's objects (Chen et al., Detect What You Can, CVPR 2014)."""

from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool

from wsl_core.data.base import Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.images import MAX_PIXELS, read_pixels, shrink_image, shrink_mask
from wsl_core.data.matlab import field, items, numbers, read_mat, text
from wsl_core.data.voc import VOC_CLASSES
from wsl_core.errors import DataError, UsageError

__all__ = ["PascalParts", "PARTS"]

FOLDER = "Annotations_Part"
IMAGES = ("VOCdevkit/VOC2010/JPEGImages", "VOCdevkit/VOC2012/JPEGImages")  # VOC2012 holds the images of VOC2010 too

_FACE = ("head", "leye", "reye", "lear", "rear")
_TRUNK = ("torso", "neck", "tail")
_PAWS = ("lfleg", "lfpa", "rfleg", "rfpa", "lbleg", "lbpa", "rbleg", "rbpa")
_LONG_LEGS = ("lfuleg", "lflleg", "rfuleg", "rflleg", "lbuleg", "lblleg", "rbuleg", "rblleg")
_VEHICLE = (
    "frontside", "leftside", "rightside", "backside", "roofside", "leftmirror", "rightmirror", "fliplate", "bliplate",
    "door", "wheel", "headlight", "window",
)  # fmt: skip

# The parts of each class, by the annotators' names: l and r are left and right, f and b front and back, u and l upper
# and lower. Parts of which there are several are numbered in the files, "wheel_1", "wheel_2"; the numbers carry no
# meaning from image to image and are dropped. Four classes have no parts: boat, chair, diningtable and sofa.
PARTS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("body", "stern", "lwing", "rwing", "tail", "engine", "wheel"),
    "bicycle": ("fwheel", "bwheel", "saddle", "handlebar", "chainwheel", "headlight"),
    "bird": (
        "head", "leye", "reye", "beak", *_TRUNK, "lwing", "rwing", "lleg", "lfoot", "rleg", "rfoot",
    ),
    "bottle": ("cap", "body"),
    "bus": _VEHICLE,
    "car": _VEHICLE,
    "cat": (*_FACE, "nose", *_TRUNK, *_PAWS),
    "cow": (*_FACE, "muzzle", "lhorn", "rhorn", *_TRUNK, *_LONG_LEGS),
    "dog": (*_FACE, "nose", "muzzle", *_TRUNK, *_PAWS),
    "horse": (*_FACE, "muzzle", "lfho", "rfho", "lbho", "rbho", *_TRUNK, *_LONG_LEGS),
    "motorbike": ("fwheel", "bwheel", "handlebar", "saddle", "headlight"),
    "person": (
        *_FACE, "lebrow", "rebrow", "nose", "mouth", "hair", "torso", "neck", "llarm", "luarm", "lhand", "rlarm",
        "ruarm", "rhand", "llleg", "luleg", "lfoot", "rlleg", "ruleg", "rfoot",
    ),
    "pottedplant": ("pot", "plant"),
    "sheep": (*_FACE, "muzzle", "lhorn", "rhorn", *_TRUNK, *_LONG_LEGS),
    "train": (
        "head", "hfrontside", "hleftside", "hrightside", "hbackside", "hroofside", "headlight", "coach", "cfrontside",
        "cleftside", "crightside", "cbackside", "croofside",
    ),
    "tvmonitor": ("screen",),
}  # fmt: skip


class _Object(NamedTuple):
    label: int
    mask: Bool[np.ndarray, "H W"]
    parts: list[tuple[int, Bool[np.ndarray, "H W"]]]  # position in part_names, where it is


class PascalParts(Dataset):
    """PASCAL-Part in its published form: ``root/Annotations_Part/NAME.mat``, one of each image of VOC 2010's trainval.

    A file holds ``anno.objects``, an array of structs with ``class``, ``mask`` and ``parts``, an array of structs with
    ``part_name`` and ``mask``. The images are VOC's own, ``root/VOCdevkit/VOC2010/JPEGImages/NAME.jpg``, or else
    VOC2012's. Every annotation needs its image; any subset of the annotations will do.

    Objects and parts are painted in the order of the file, later ones on top, as the authors' code does: an eye lies on
    its head, and what an object covers shows no parts. ``boxes`` are the tight boxes of the objects' masks. ``parts``
    holds the parts of ``PARTS``, named ``CLASS/PART``. There are no keypoints: those of VOC are published elsewhere.

    An image falls into train, val or test (60, 20, 20 %) by a hash of its name, so that it stays where it is when
    others come or go.

    Written from public code that reads these files, among it the authors' table of part names. The files themselves
    were not at hand, nor was the archive's own top folder: move ``Annotations_Part`` to the root.

    Args:
        crop: cut out the largest object of each image, and leave out what belongs to others. The task is then
            "single". Objects are matched in this form (PASCAL-Part has several in many images).
        max_side: shrink larger images, with boxes and masks, so that no side is longer. None keeps every size.

    Raises:
        UsageError: a folder is not there, the split is unknown, or ``max_side`` is below 2.
        DataError: an image is missing, or, when the sample is asked for, its annotation is damaged, has an unknown
            class or part, or masks of another size than the image; names the file.

    >>> PascalParts("test", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/Annotations_Part: no such folder. Pass the root that holds it...
    """

    name = "pascal-parts"
    classes = VOC_CLASSES
    licence = "Images from Flickr, by PASCAL VOC: Flickr's terms, for research; annotations: no licence stated"
    part_names = tuple(f"{kind}/{part}" for kind, parts in PARTS.items() for part in parts)

    def __init__(self, split: str, root: str | Path, crop: bool = False, max_side: int | None = None) -> None:
        self.split = self.check_split(split)
        if max_side is not None:
            check_count("max_side", max_side, 2, MAX_PIXELS)
        self.crop = crop
        self.task = "single" if crop else "multi"
        self.max_side = self.image_size = max_side
        self.annotations = Path(root) / FOLDER
        if not self.annotations.is_dir():
            raise UsageError(
                f"{self.annotations}: no such folder. Pass the root that holds {FOLDER}; its archive, trainval.tar.gz, "
                "is on the page of the PASCAL-Part dataset (UCLA)."
            )
        self.images = _find_images(Path(root))
        names = sorted(path.stem for path in self.annotations.glob("[!.]*.mat"))
        missing = [name for name in names if not self._image(name).is_file()]
        if missing:
            raise DataError(
                f"{self._image(missing[0])}: the image is missing, but has an annotation in {self.annotations} "
                f"({len(missing)} such). Get VOC again, or remove the annotations."
            )
        self._names = [name for name in names if _hashed_split(name) == split]
        if not self._names:
            raise DataError(f"{self.annotations}: none of its {len(names)} files is in split {split!r}. Get the rest.")
        sizes = [(name, self._annotation(name).stat().st_size) for name in self._names]
        self.version = "1-" + digest([crop, max_side, sizes])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        name = self._names[self.position(index)]
        image = read_pixels(self._image(name))
        objects = self._objects(name, image.shape[-2:])
        if self.crop:
            largest = max(objects, key=lambda found: int(found.mask.sum()))
            window = _window(largest.mask)
            image, objects = image[:, *window], [_cut(largest, window)]
        mask, parts = np.zeros((2, *image.shape[-2:]), dtype=np.int64)
        for found in objects:
            mask[found.mask] = found.label + 1
            parts[found.mask] = 0
            for part, where in found.parts:
                parts[where] = part + 1
        shrunk = shrink_image(image, self.max_side)
        scale = torch.tensor([shrunk.shape[-1] / image.shape[-1], shrunk.shape[-2] / image.shape[-2]])
        boxes = torch.tensor([_box(found.mask) for found in objects], dtype=torch.float32)
        labels = [found.label for found in objects]
        return {
            "id": name,
            "image": to_float(shrunk),
            "labels": one_hot(labels, len(self.classes)),
            "boxes": boxes * scale.repeat(2),
            "box_labels": torch.tensor(labels),
            "mask": shrink_mask(torch.from_numpy(mask), self.max_side),
            "parts": shrink_mask(torch.from_numpy(parts), self.max_side),
        }

    def _image(self, name: str) -> Path:
        return self.images / f"{name}.jpg"

    def _annotation(self, name: str) -> Path:
        return self.annotations / f"{name}.mat"

    def _objects(self, name: str, size: torch.Size) -> list[_Object]:
        path = self._annotation(name)
        where = str(path)
        annotations = items(read_mat(path, "anno"), where)  # one
        structs = [s for found in annotations for s in items(field(found, "objects", where), f"{where}: objects")]
        if not structs:
            raise DataError(f"{path}: has no object. Get the file again, or remove it.")
        return [self._object(struct, size, f"{where}: object {n + 1}") for n, struct in enumerate(structs)]

    def _object(self, struct: dict, size: torch.Size, where: str) -> _Object:
        kind = text(field(struct, "class", where), f"{where}: class")
        if kind not in VOC_CLASSES:
            raise DataError(f"{where}: class {kind!r} is none of VOC's 20. Correct the file.")
        mask = _mask(struct, size, where)
        if not mask.any():
            raise DataError(f"{where}: the mask is empty. Correct the file, or remove it.")
        parts = items(field(struct, "parts", where), f"{where}: parts")
        return _Object(VOC_CLASSES.index(kind), mask, [self._part(kind, part, size, where) for part in parts])

    def _part(self, kind: str, struct: dict, size: torch.Size, where: str) -> tuple[int, Bool[np.ndarray, "H W"]]:
        stored = text(field(struct, "part_name", where), f"{where}: part_name")
        name = f"{kind}/{stored.rstrip('0123456789').removesuffix('_')}"
        if name not in self.part_names:
            known = ", ".join(PARTS.get(kind, ())) or "none"
            raise DataError(f"{where}: part {stored!r} is unknown; a {kind} has the parts: {known}. Correct the file.")
        return self.part_names.index(name), _mask(struct, size, f"{where}: part {stored}")


Window = tuple[slice, slice]  # rows, columns


def _find_images(root: Path) -> Path:
    for folder in IMAGES:
        if (root / folder).is_dir():
            return root / folder
    raise UsageError(f"{root / IMAGES[0]}: no such folder, nor {IMAGES[1]}. Pass the root that holds VOCdevkit.")


def _hashed_split(name: str) -> str:
    number = int(digest(name), 16) % 10
    return "train" if number < 6 else "val" if number < 8 else "test"


def _mask(struct: dict, size: torch.Size, where: str) -> Bool[np.ndarray, "H W"]:
    mask = numbers(field(struct, "mask", where), (None, None), f"{where}: mask") > 0
    if mask.shape != tuple(size):
        raise DataError(f"{where}: a mask of {mask.shape}; the image has {tuple(size)}. They do not belong together.")
    return mask


def _window(mask: Bool[np.ndarray, "H W"]) -> Window:
    """The rows and columns from the first to the last in which the mask is set."""
    rows, columns = (mask.any(axis=axis).nonzero()[0] for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _box(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    rows, columns = _window(mask)
    return [columns.start, rows.start, columns.stop, rows.stop]


def _cut(found: _Object, window: Window) -> _Object:
    return _Object(found.label, found.mask[window], [(part, where[window]) for part, where in found.parts])
