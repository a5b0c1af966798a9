"""PF-WILLOW and PF-PASCAL: photographs with keypoints, on which features are matched (Ham et al., Proposal Flow)."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl_core.data.annotations import Box, clip_box, parse_numbers, read_csv
from wsl_core.data.base import Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.images import MAX_PIXELS, read_pixels, shrink_image
from wsl_core.data.matlab import numbers, read_mat
from wsl_core.data.voc import VOC_CLASSES
from wsl_core.errors import DataError, UsageError

__all__ = ["ProposalFlow", "PFWillow", "PFPascal"]

PAIR_COLUMNS = ("source_image", "target_image")
PASCAL_LISTS = {"train": "trn_pairs.csv", "val": "val_pairs.csv", "test": "test_pairs.csv"}


class _Entry(NamedTuple):
    image: Path
    annotation: Path
    label: int
    keypoints: tuple[tuple[float, float], ...]  # as stored, 1-based; NaN where one is missing
    box: Box | None = None  # half-open, 0-based

    @property
    def id(self) -> str:
        return f"{self.annotation.parent.name}/{self.annotation.stem}"


class ProposalFlow(Dataset):
    """What both data sets share: one class an image, and the keypoints of that class.

    Every class has keypoints of its own, ``CLASS/1``, ``CLASS/2``, ...: number 3 of a duck is not number 3 of a car.
    They were clicked in MATLAB, whose first pixel is 1: x and y are what the file says, less 1. So a pixel's *centre*
    has whole coordinates.

    ``pair_ids`` are the published pairs of samples, by their ids, that lie in this split; see
    :func:`wsl_core.data.pairs.pairs`. ``None``: nothing was published, so any two images of a class are a pair.
    """

    task = "single"
    where_to_get: str
    pair_ids: tuple[tuple[str, str], ...] | None

    def __init__(self, split: str, folder: Path, official: bool, max_side: int | None) -> None:
        self.split = self.check_split(split)
        if max_side is not None:
            check_count("max_side", max_side, 2, MAX_PIXELS)
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder. Pass the root that holds {folder.name}; {self.where_to_get}")
        self.root, self.official = folder, official
        self.max_side = self.image_size = max_side
        self.classes, entries = self._read()
        counts = [max((len(e.keypoints) for e in entries if e.label == c), default=0) for c in range(len(self.classes))]
        self.keypoint_names = tuple(
            f"{name}/{number + 1}" for name, count in zip(self.classes, counts) for number in range(count)
        )
        self._first_row = [sum(counts[:label]) for label in range(len(counts))]
        self._entries, self.pair_ids = self._choose(entries)
        if not self._entries:
            raise DataError(f"{folder}: none of its {len(entries)} images is in split {split!r}. Get the rest of them.")
        annotations = [(entry.id, entry.keypoints, entry.box) for entry in self._entries]
        self.version = "1-" + digest([max_side, self.keypoint_names, annotations])

    @abstractmethod
    def _read(self) -> tuple[tuple[str, ...], list[_Entry]]:
        """The classes, and every annotated image."""

    @abstractmethod
    def _choose(self, entries: list[_Entry]) -> tuple[list[_Entry], tuple[tuple[str, str], ...] | None]:
        """The images of this split, and the published pairs among them."""

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        entry = self._entries[self.position(index)]
        original = read_pixels(entry.image)
        image = shrink_image(original, self.max_side)
        (height, width), (new_height, new_width) = original.shape[-2:], image.shape[-2:]
        scale = torch.tensor([new_width / width, new_height / height])
        sample: Sample = {
            "id": entry.id,
            "image": to_float(image),
            "labels": one_hot([entry.label], len(self.classes)),
            "keypoints": self._keypoints(entry, width, height, scale),
        }
        if entry.box is not None:
            box = clip_box(entry.box, width, height, str(entry.annotation))
            sample["boxes"] = torch.tensor([box], dtype=torch.float32) * scale.repeat(2)
            sample["box_labels"] = torch.tensor([entry.label])
        return sample

    def _keypoints(self, entry: _Entry, width: int, height: int, scale: Float[Tensor, "2"]) -> Float[Tensor, "P 3"]:
        """x, y and 1 of each point that is there; zeros where one is missing, and in the rows of other classes."""
        stored = torch.tensor(entry.keypoints, dtype=torch.float64).reshape(-1, 2)
        visible = stored.isfinite().all(dim=1)
        inside = ((stored >= 0.5) & (stored <= torch.tensor([width + 0.5, height + 0.5]))).all(dim=1)
        for row in (visible & ~inside).nonzero().flatten().tolist():
            x, y = entry.keypoints[row]
            raise DataError(
                f"{entry.annotation}: keypoint {row + 1} is at ({x:g}, {y:g}), outside of {entry.image.name} with "
                f"{width} x {height} pixels, counted from 1. Correct it, or make it NaN."
            )
        moved = (stored - 0.5) * scale - 0.5  # pixel centres have whole coordinates before and after shrinking
        points = torch.zeros(len(self.keypoint_names), 3)
        rows = self._first_row[entry.label] + visible.nonzero().flatten()
        points[rows, :2], points[rows, 2] = moved[visible].float(), 1.0
        return points


class PFWillow(ProposalFlow):
    """PF-WILLOW: 10 classes of 10 photographs, each with the same 10 keypoints (CVPR 2016 version of Proposal Flow).

    Layout: ``root/PF-dataset-WILLOW/CLASS/NAME.png`` with ``NAME.mat`` beside it, which holds ``pts_coord``, 2 x 10.
    Any subset of the classes and images will do. The benchmark's pairs are any two images of a class, in both orders;
    where ``PF-dataset-WILLOW/test_pairs.csv`` is there (columns ``source_image`` and ``target_image``, paths that end
    in CLASS/NAME.png), its pairs count instead.

    The benchmark has no splits: all is test, and ``official=True`` keeps it so. By default there are three, so that
    hyper-parameters can be chosen. Mixed classes such as "car(M)" repeat images of others, so the split belongs to the
    name of the file: of the names of an object (all "car(...)" together), sorted, every fifth from the first on is
    train, every fifth from the second on val, and the others are test. No image is in two splits.

    There is no box of the object. Where Proposal Flow needs one, it takes the extent of the keypoints.

    Args:
        official: every image is in "test", as in the benchmark; "train" and "val" are refused.
        max_side: shrink larger images, with their keypoints, so that no side is longer. None keeps every size.

    Raises:
        UsageError: the folder is not there, the split is unknown or not one of the benchmark, or ``max_side`` is below
            2.
        DataError: a file is missing or damaged, or a keypoint lies outside its image; names the file.

    >>> PFWillow("test", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/PF-dataset-WILLOW: no such folder. Pass the root that holds it...
    """

    name = "pf-willow"
    licence = "Proposal Flow: academic use only; do not redistribute. Images: Caltech-256, PASCAL VOC 2007, the web"
    where_to_get = (
        "the archive, PF-dataset.zip, is linked on the project's page at WILLOW, Inria. Give its folder this name."
    )

    def __init__(self, split: str, root: str | Path, official: bool = False, max_side: int | None = None) -> None:
        if official and split != "test":
            raise UsageError(
                f"official=True: found split {split!r}; the benchmark has 'test' alone. Take official=False."
            )
        super().__init__(split, Path(root) / "PF-dataset-WILLOW", official, max_side)

    def _read(self) -> tuple[tuple[str, ...], list[_Entry]]:
        folders = sorted({path.parent for suffix in ("png", "mat") for path in self.root.glob(f"*/[!.]*.{suffix}")})
        if not folders:
            raise DataError(f"{self.root}: holds no CLASS/NAME.png with CLASS/NAME.mat. Get the data set again.")
        entries = [entry for label, folder in enumerate(folders) for entry in _willow_entries(folder, label)]
        return tuple(folder.name for folder in folders), entries

    def _choose(self, entries: list[_Entry]) -> tuple[list[_Entry], tuple[tuple[str, str], ...] | None]:
        if not self.official:
            names = defaultdict(set)
            for entry in entries:
                names[_object_of(entry)].add(entry.image.stem)
            place = {kind: {stem: n % 5 for n, stem in enumerate(sorted(stems))} for kind, stems in names.items()}
            split_of = ("train", "val", "test", "test", "test")
            entries = [e for e in entries if split_of[place[_object_of(e)][e.image.stem]] == self.split]
        path = self.root / "test_pairs.csv"
        return entries, _published_pairs(path, entries, self.root) if path.exists() else None


class PFPascal(ProposalFlow):
    """PF-PASCAL: pairs of photographs of PASCAL VOC's 20 classes with the keypoints that both show (TPAMI 2018).

    Layout: ``root/PF-dataset-PASCAL/JPEGImages/NAME.jpg``, ``Annotations/CLASS/NAME.mat`` with ``kps`` (P x 2, NaN
    where a keypoint is missing) and ``bbox`` (x0, y0, x1, y1 with the last pixel), and, from the authors of later
    papers, the pairs: ``trn_pairs.csv``, ``val_pairs.csv`` and ``test_pairs.csv`` with the columns ``source_image``,
    ``target_image`` and ``class`` (1 to 20). The training list has each pair twice, once to be mirrored. It counts
    once: mirroring is an augmentation. Images that no list names are left out. P differs from class to class; an
    annotation with fewer rows than others of its class lacks the last ones, as in the authors' code.

    The published lists share images. By default an image of the test list is test whatever other list it is in, and one
    of the val list is not train, so that no image is in two splits; pairs across splits are left out.
    ``official=True`` takes the lists as they are, for a comparison with published numbers: then splits overlap.

    Written from the code of SCNet, weakalign and HPF, which read these files. The files themselves were not at hand:
    that all of their keypoints lie within the images could not be checked.

    Args:
        official: the published splits, which overlap.
        max_side: shrink larger images, with keypoints and boxes, so that no side is longer. None keeps every size.

    Raises:
        UsageError: the folder is not there, the split is unknown, or ``max_side`` is below 2.
        DataError: a file is missing or damaged, a listed image has no annotation, or a keypoint lies outside its image;
            names the file and the line.

    >>> PFPascal("val", "nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: nowhere/PF-dataset-PASCAL: no such folder. Pass the root that holds it...
    """

    name = "pf-pascal"
    licence = "Images from Flickr, by PASCAL VOC: Flickr's terms, for research; annotations: academic use only"
    where_to_get = (
        "PF-dataset-PASCAL.zip is linked on Proposal Flow's page at WILLOW, Inria; the lists of pairs come with the "
        "code of later papers, such as Hyperpixel Flow."
    )

    def __init__(self, split: str, root: str | Path, official: bool = False, max_side: int | None = None) -> None:
        super().__init__(split, Path(root) / "PF-dataset-PASCAL", official, max_side)

    def _read(self) -> tuple[tuple[str, ...], list[_Entry]]:
        self._listed = {split: self._read_list(self.root / name) for split, name in PASCAL_LISTS.items()}
        ids = sorted({id for rows in self._listed.values() for _, *pair in rows for id in pair})
        first = {
            id: where for rows in reversed(self._listed.values()) for where, *pair in reversed(rows) for id in pair
        }
        return VOC_CLASSES, [_pascal_entry(self.root, id, first[id]) for id in ids]

    def _read_list(self, path: Path) -> list[tuple[str, str, str]]:
        """(FILE:LINE, source, target) of each row, the images by their ids."""
        rows = []
        for where, row in read_csv(path, (*PAIR_COLUMNS, "class")):
            (number,) = parse_numbers(row, ["class"], where)
            if number not in range(1, len(VOC_CLASSES) + 1):
                raise DataError(
                    f"{where}: class is {row['class']!r}; expected 1 to {len(VOC_CLASSES)}. Correct the row."
                )
            kind = VOC_CLASSES[int(number) - 1]
            rows.append((where, *(f"{kind}/{Path(row[column]).stem}" for column in PAIR_COLUMNS)))
        return rows

    def _choose(self, entries: list[_Entry]) -> tuple[list[_Entry], tuple[tuple[str, str], ...] | None]:
        named = {split: {id for _, *pair in rows for id in pair} for split, rows in self._listed.items()}
        taken = set()
        if not self.official:  # by the photograph: one of a cat and a dog is annotated twice
            later = {"train": ("val", "test"), "val": ("test",), "test": ()}[self.split]
            taken = {_photograph(id) for split in later for id in named[split]}
        ids = {id for id in named[self.split] if _photograph(id) not in taken}
        pairs = dict.fromkeys((source, target) for _, source, target in self._listed[self.split])
        return [e for e in entries if e.id in ids], tuple(pair for pair in pairs if ids.issuperset(pair))


def _photograph(id: str) -> str:
    return id.partition("/")[2]


def _object_of(entry: _Entry) -> str:
    """ "car" for an image of "car(S)"."""
    return entry.image.parent.name.partition("(")[0]


def _willow_entries(folder: Path, label: int) -> Iterable[_Entry]:
    images, annotations = ({path.stem for path in folder.glob(f"[!.]*.{suffix}")} for suffix in ("png", "mat"))
    for stem in sorted(images | annotations):
        image, annotation = folder / f"{stem}.png", folder / f"{stem}.mat"
        if stem not in annotations:
            raise DataError(f"{image}: the image has no annotation, {stem}.mat. Put it there, or remove the image.")
        if stem not in images:
            raise DataError(f"{annotation}: the annotation has no image, {stem}.png. Put it there, or remove the file.")
        points = numbers(read_mat(annotation, "pts_coord"), (2, None), f"{annotation}: pts_coord").T
        yield _Entry(image, annotation, label, _as_tuples(points))


def _pascal_entry(root: Path, id: str, where: str) -> _Entry:
    kind, stem = id.split("/")
    image, annotation = root / "JPEGImages" / f"{stem}.jpg", root / "Annotations" / kind / f"{stem}.mat"
    for path, found in ((image, "image"), (annotation, "annotation")):
        if not path.is_file():
            raise DataError(f"{path}: the {found} is missing, but {where} lists it. Get the data set again.")
    points = numbers(read_mat(annotation, "kps"), (None, 2), f"{annotation}: kps")
    ((x0, y0, x1, y1),) = numbers(read_mat(annotation, "bbox"), (1, 4), f"{annotation}: bbox").tolist()
    return _Entry(image, annotation, VOC_CLASSES.index(kind), _as_tuples(points), (x0 - 1, y0 - 1, x1, y1))


def _as_tuples(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points.tolist())


def _published_pairs(path: Path, entries: Sequence[_Entry], root: Path) -> tuple[tuple[str, str], ...]:
    """The rows of a list of pairs whose images are both among the entries; those of absent classes are passed over."""
    ids = {entry.id for entry in entries}
    pairs: dict[tuple[str, str], None] = {}
    for where, row in read_csv(path, PAIR_COLUMNS):
        paths = [Path(*Path(row[column]).parts[-2:]) for column in PAIR_COLUMNS]
        for image in paths:
            if (root / image.parent).is_dir() and not (root / image).is_file():
                raise DataError(f"{where}: {root / image} is missing. Put it there, or remove the row.")
        pair = tuple(image.with_suffix("").as_posix() for image in paths)
        if ids.issuperset(pair):
            pairs[pair] = None
    return tuple(pairs)
