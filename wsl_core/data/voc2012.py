"""PASCAL VOC 2012 in its official layout, with the further masks of SBD (Everingham et al.; Hariharan et al., 2011)."""

from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from wsl_core.data.annotations import Box, clip_box, read_lines, read_objects_xml
from wsl_core.data.base import IGNORE, Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.download import extract, fetch
from wsl_core.data.images import MAX_PIXELS, read_mask, read_pixels, shrink_boxes, shrink_image, shrink_mask
from wsl_core.data.matlab import field, items, numbers, read_mat
from wsl_core.data.voc import VOC_CLASSES
from wsl_core.errors import DataError, UsageError

__all__ = ["VOC2012"]

FOLDER, SBD = "VOCdevkit/VOC2012", "benchmark_RELEASE"
LISTS = {"segmentation": "Segmentation", "classification": "Main"}  # image sets, and where their lists lie
AUGMENTED = "SegmentationClassAug"

# As torchvision 0.29 has them (datasets/voc.py, datasets/sbd.py).
URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
SBD_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
SBD_MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"


class VOC2012(Dataset):
    """PASCAL VOC 2012, ``root/VOCdevkit/VOC2012``, of which any subset will do, as long as the lists agree with it.

    ``JPEGImages/NAME.jpg``, ``Annotations/NAME.xml``, ``SegmentationClass/NAME.png`` (palette: 0 background, k + 1
    class k, 255 the border of objects), and the lists ``ImageSets/Segmentation/{train,val}.txt`` and
    ``ImageSets/Main/{train,val}.txt``.

    "train" is the official train, less what ``Segmentation/val.txt`` names. The official val is halved by a hash of the
    image's name: one half is "val", the other "test". So an image is in the same half whichever image set names it, and
    stays there when others come or go. The labels of the official test are not published: the organisers' server scores
    it, and this package does not feed that.

    Labels are the classes of all objects in the XML, the "difficult" and truncated ones included, as in AffinityNet's
    code; ``boxes`` likewise. The files count pixels from 1 and include the last one: a box is (xmin - 1, ymin - 1,
    xmax, ymax), clipped to the image. Where there is no folder ``Annotations``, there are no boxes, and the labels are
    the classes in the mask.

    Args:
        image_set: "segmentation", with masks, or "classification", the larger one, without.
        train_aug: widen "train" of "segmentation" to the 10,582 images of the literature: with the masks of SBD, less
            ``Segmentation/val.txt``. Other splits are as without it. VOC's own masks come first; then
            ``VOCdevkit/VOC2012/SegmentationClassAug/NAME.png`` where that folder is; else SBD in its official layout,
            ``root/benchmark_RELEASE/dataset`` with ``cls/NAME.mat``, ``train.txt`` and ``val.txt``.
        official: "val" is the whole official val, as in published numbers, and there is no "test".
        max_side: shrink larger images, with boxes and masks, so that no side is longer. None keeps every size.
        download: fetch VOC (2 GB), and with ``train_aug`` SBD (1.4 GB), where they are not there.

    Raises:
        UsageError: a folder is not there, the split is unknown or has no labels, or an option is wrong.
        DataError: a listed image or a file is missing, or, when the sample is asked for, damaged; names the file.
        DownloadError: the download failed.

    >>> VOC2012("train", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/VOCdevkit/VOC2012: no such folder. Pass the root that holds VOCdevkit...
    """

    name = "voc2012"
    task = "multi"
    classes = VOC_CLASSES
    licence = "Images from Flickr: Flickr's terms, offered for research by PASCAL VOC; SBD's masks: the same images"

    def __init__(
        self,
        split: str,
        root: str | Path,
        download: bool = False,
        image_set: str = "segmentation",
        train_aug: bool = False,
        official: bool = False,
        max_side: int | None = None,
    ) -> None:
        self.split = self.check_split(split)
        _check_options(split, image_set, train_aug, official, max_side)
        self.root, self._sbd = Path(root) / FOLDER, Path(root) / SBD / "dataset"
        self.max_side = self.image_size = max_side
        self._augmented = train_aug and split == "train"
        if download:
            self._download(Path(root))
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: no such folder. Pass the root that holds VOCdevkit, or download=True.")
        self._has_masks = image_set == "segmentation"
        self._has_annotations = (self.root / "Annotations").is_dir()
        if not self._has_masks and not self._has_annotations:
            raise UsageError(
                f"{self.root / 'Annotations'}: no such folder; image_set='classification' takes its labels from there. "
                "Put it there, or take image_set='segmentation'."
            )
        self._names = self._of_split(LISTS[image_set], official)
        if not self._names:
            raise DataError(f"{self.root / 'ImageSets' / LISTS[image_set]}: no image is in split {split!r}. Get more.")
        self._check_complete()
        self.version = "1-" + digest([image_set, max_side, [self._fingerprint(name) for name in self._names]])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        name = self._names[self.position(index)]
        original = read_pixels(self._image(name))
        height, width = original.shape[-2:]
        sample: Sample = {"id": name, "image": to_float(shrink_image(original, self.max_side))}
        if self._has_masks:
            mask = self._mask(name, height, width)
            sample["mask"] = shrink_mask(mask, self.max_side)
            labels = [value - 1 for value in mask.unique().tolist() if value not in (0, IGNORE)]
        if self._has_annotations:
            labels, boxes = self._objects(name, height, width)
            sample["boxes"] = shrink_boxes(boxes, height, width, self.max_side)
            sample["box_labels"] = torch.tensor(labels, dtype=torch.int64)
        sample["labels"] = one_hot(labels, len(self.classes))
        return sample

    def _download(self, root: Path) -> None:
        if not self.root.is_dir():
            extract(fetch(URL, root / "VOCtrainval_11-May-2012.tar", md5=MD5), self.root, top=FOLDER)
        if self._augmented and not (self.root / AUGMENTED).is_dir() and not self._sbd.is_dir():
            extract(fetch(SBD_URL, root / "benchmark.tgz", md5=SBD_MD5), root / SBD, top=SBD)

    def _of_split(self, lists: str, official: bool) -> list[str]:
        folder = self.root / "ImageSets" / lists
        if self.split != "train":
            names = _read_list(folder / "val.txt")
            return sorted(name for name in names if official or _half_of(name) == self.split)
        names = _read_list(folder / "train.txt")
        if self._augmented:
            names = names | self._further_names()
        if official and not self._augmented:
            return sorted(names)
        segmentation_val = self.root / "ImageSets" / LISTS["segmentation"] / "val.txt"
        return sorted(names - (_read_list(segmentation_val) if segmentation_val.exists() else set()))

    def _further_names(self) -> set[str]:
        """Every image that has a mask beside VOC's own."""
        if (self.root / AUGMENTED).is_dir():
            return {path.stem for path in (self.root / AUGMENTED).glob("[!.]*.png")}
        if self._sbd.is_dir():
            return _read_list(self._sbd / "train.txt") | _read_list(self._sbd / "val.txt")
        raise UsageError(
            f"train_aug=True: found neither {self.root / AUGMENTED} nor {self._sbd}. Put one of them there, or "
            "download=True, which gets SBD."
        )

    def _check_complete(self) -> None:
        missing = [name for name in self._names if not self._image(name).is_file()]
        if missing:
            raise DataError(
                f"{self._image(missing[0])}: the image is missing, but a list of split {self.split!r} names it "
                f"({len(missing)} such). Get VOC again, or correct the list."
            )

    def _image(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def _annotation(self, name: str) -> Path:
        return self.root / "Annotations" / f"{name}.xml"

    def _mask_file(self, name: str) -> Path:
        own = self.root / "SegmentationClass" / f"{name}.png"
        if not self._augmented or own.exists():
            return own
        augmented = self.root / AUGMENTED / f"{name}.png"
        return augmented if augmented.parent.is_dir() else self._sbd / "cls" / f"{name}.mat"

    def _fingerprint(self, name: str) -> tuple:
        """What changes when the labels change, without reading a file."""
        files = [self._mask_file(name)] * self._has_masks + [self._annotation(name)] * self._has_annotations
        return name, [(file.parent.name, file.stat().st_size) for file in files if file.exists()]

    def _mask(self, name: str, height: int, width: int) -> Int[Tensor, "H W"]:
        path = self._mask_file(name)
        mask = _read_sbd(path) if path.suffix == ".mat" else read_mask(path)
        if mask.shape != (height, width):
            raise DataError(f"{path}: {tuple(mask.shape)} pixels; its image has {(height, width)}. Get both again.")
        wrong = mask[((mask > len(self.classes)) & (mask != IGNORE)) | (mask < 0)]
        if len(wrong):
            raise DataError(f"{path}: value {int(wrong[0])}; expected 0 to 20, or 255. Get the file again.")
        return mask

    def _objects(self, name: str, height: int, width: int) -> tuple[list[int], list[Box]]:
        """Class and half-open box of each object."""
        path = self._annotation(name)
        labels, boxes = [], []
        for kind, (x0, y0, x1, y1) in read_objects_xml(path).objects:
            if kind not in self.classes:
                raise DataError(f"{path}: class {kind!r} is none of VOC's 20. Get the file again.")
            labels.append(self.classes.index(kind))
            boxes.append(clip_box((x0 - 1, y0 - 1, x1, y1), width, height, str(path)))
        return labels, boxes


def _check_options(split: str, image_set: str, train_aug: bool, official: bool, max_side: int | None) -> None:
    if image_set not in LISTS:
        raise UsageError(f"image_set is {image_set!r}; expected one of {', '.join(LISTS)}.")
    if train_aug and image_set != "segmentation":
        raise UsageError(f"train_aug=True: found image_set={image_set!r}; only 'segmentation' has further masks.")
    if official and split == "test":
        raise UsageError(
            "official=True: found split 'test', whose labels are not published; PASCAL VOC's server scores it. Take "
            "'val', or official=False, where half of the official val is 'test'."
        )
    if max_side is not None:
        check_count("max_side", max_side, 2, MAX_PIXELS)


def _half_of(name: str) -> str:
    return ("val", "test")[int(digest(name), 16) % 2]


def _read_list(path: Path) -> set[str]:
    names = [line.strip() for line in read_lines(path)]
    for number, name in enumerate(names, start=1):
        if name and not name.replace("_", "").isalnum():
            raise DataError(f"{path}:{number}: found {name!r}; expected the name of an image, as 2007_000032.")
    return set(names) - {""}


def _read_sbd(path: Path) -> Int[Tensor, "H W"]:
    """The classes of a file of SBD: 0 background, k + 1 class k; no pixel is ignored."""
    where = str(path)
    found = items(read_mat(path, "GTcls"), where)
    if len(found) != 1:
        raise DataError(f"{path}: GTcls has {len(found)} elements; expected 1. Get the file again.")
    mask = numbers(field(found[0], "Segmentation", where), (None, None), f"{where}: Segmentation")
    return torch.from_numpy(mask.astype(np.int64))
