"""PASCAL-Part in its published layout, whole and broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from wsl_core.data import collate, load_dataset
from wsl_core.data.pairs import pairs
from wsl_core.data.pascal_parts import PARTS, PascalParts
from wsl_core.data.voc import VOC_CLASSES
from wsl_core.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
HEIGHT, WIDTH = 10, 16


def _mask(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def _structs(rows: list[tuple], *names: str) -> np.ndarray:
    """A struct array, 1 x N, as MATLAB writes it."""
    found = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for position, row in enumerate(rows):
        found[0, position] = row
    return found


def _object(kind: str, mask: np.ndarray, *parts: tuple[str, np.ndarray]) -> tuple:
    stored = _structs(list(parts), "part_name", "mask") if parts else np.zeros((0, 0))
    return kind, np.uint8(VOC_CLASSES.index(kind) + 1), mask, stored


def _write(root: Path, name: str, *objects: tuple) -> None:
    annotation = {"imname": name, "objects": _structs(list(objects), "class", "class_ind", "mask", "parts")}
    path = root / "Annotations_Part" / f"{name}.mat"
    path.parent.mkdir(exist_ok=True)
    savemat(path, {"anno": annotation}, do_compression=True)


BOAT = _object("boat", _mask(0, 6, 0, 12))
DOG = _object("dog", _mask(2, 9, 3, 11), ("head", _mask(2, 6, 3, 8)), ("leye", _mask(3, 4, 4, 5)))
CAR = _object("car", _mask(5, 10, 9, 16), ("wheel_1", _mask(8, 10, 9, 11)), ("wheel_12", _mask(8, 10, 14, 16)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve pictures with a boat, a dog and a car each; a thirteenth, which nobody annotated."""
    images = tmp_path / "VOCdevkit" / "VOC2010" / "JPEGImages"
    images.mkdir(parents=True)
    columns = np.tile(np.arange(WIDTH, dtype=np.uint8) * 15, (HEIGHT, 1))
    for number in range(13):
        Image.fromarray(columns).save(images / f"2008_{number:06}.jpg", quality=100)
    for number in range(12):
        _write(tmp_path, f"2008_{number:06}", BOAT, DOG, CAR)
    return tmp_path


def _value(data: PascalParts, part: str) -> int:
    return data.part_names.index(part) + 1


def test_samples_and_description(root: Path) -> None:
    data = load_dataset("pascal-parts", "train", root)
    assert (data.name, data.task, data.classes, data.image_size) == ("pascal-parts", "multi", VOC_CLASSES, None)
    assert "Flickr" in data.licence
    sample = data[0]
    assert sample.keys() == {"id", "image", "labels", "boxes", "box_labels", "mask", "parts"}
    boat, dog, car = (VOC_CLASSES.index(name) for name in ("boat", "dog", "car"))
    assert sample["labels"].nonzero().flatten().tolist() == sorted([boat, dog, car])
    assert sample["boxes"].tolist() == [[0, 0, 12, 6], [3, 2, 11, 9], [9, 5, 16, 10]]
    assert sample["box_labels"].tolist() == [boat, dog, car]
    assert sample["mask"].dtype == sample["parts"].dtype == torch.int64
    assert collate([sample, sample])["parts"].shape == (2, HEIGHT, WIDTH)


def test_later_objects_and_parts_lie_on_top(root: Path) -> None:
    data = load_dataset("pascal-parts", "train", root)
    mask, parts = data[0]["mask"], data[0]["parts"]
    boat, dog, car = (VOC_CLASSES.index(name) + 1 for name in ("boat", "dog", "car"))
    assert (mask[0, 0], mask[2, 3], mask[5, 9], mask[9, 0]) == (boat, dog, car, 0)
    head, eye, wheel = (_value(data, name) for name in ("dog/head", "dog/leye", "car/wheel"))
    assert (parts[2, 3], parts[3, 4], parts[7, 4]) == (head, eye, 0)
    assert (parts == wheel).nonzero()[:, 1].unique().tolist() == [9, 10, 14, 15]  # numbers are dropped
    assert parts[mask == boat].max() == 0 and parts[8, 12] == 0 and mask[8, 12] == car


def test_what_a_later_object_covers_shows_no_parts(root: Path) -> None:
    name = load_dataset("pascal-parts", "train", root)[0]["id"]
    _write(root, name, DOG, BOAT)
    assert load_dataset("pascal-parts", "train", root)[0]["parts"][2:6, 3:8].max() == 0


def test_cropping_leaves_the_largest_object_alone(root: Path) -> None:
    data = load_dataset("pascal-parts", "train", root, crop=True)
    name = data[0]["id"]
    _write(root, name, BOAT, _object("dog", _mask(1, 10, 3, 13), ("leye", _mask(3, 4, 4, 6))), CAR)
    sample, whole = data[0], load_dataset("pascal-parts", "train", root)[0]
    assert data.task == "single" and sample["labels"].nonzero().tolist() == [[VOC_CLASSES.index("dog")]]
    assert torch.equal(sample["image"], whole["image"][:, 1:10, 3:13])
    assert sample["boxes"].tolist() == [[0, 0, 10, 9]]
    assert sample["mask"].unique().tolist() == [VOC_CLASSES.index("dog") + 1]  # the car that covers it is left out
    assert sample["parts"].nonzero().tolist() == [[2, 1], [2, 2]]


def test_dogs_and_cats_are_matched_part_by_part(root: Path) -> None:
    names = [sample["id"] for sample in load_dataset("pascal-parts", "train", root)]
    _write(root, names[0], _object("cat", _mask(1, 9, 3, 11), ("leye", _mask(3, 4, 4, 5)), ("nose", _mask(5, 6, 5, 6))))
    _write(root, names[1], DOG)
    for name in names[2:]:
        _write(root, name, CAR)
    data = load_dataset("pascal-parts", "train", root, crop=True)
    there, back = pairs(data, across=True)
    assert there[:2] == (0, 1) and back[:2] == (1, 0)
    assert there.parts.tolist() == [[_value(data, "cat/leye"), _value(data, "dog/leye")]] and not len(there.keypoints)


def test_shrinking_goes_for_all(root: Path) -> None:
    sample = load_dataset("pascal-parts", "train", root, max_side=8)[0]
    assert sample["image"].shape[-2:] == sample["mask"].shape == sample["parts"].shape == (5, 8)
    assert sample["boxes"].tolist() == [[0, 0, 6, 3], [1.5, 1, 5.5, 4.5], [4.5, 2.5, 8, 5]]


def test_no_image_is_in_two_splits_and_none_moves_when_others_come(root: Path) -> None:
    before = {split: {s["id"] for s in load_dataset("pascal-parts", split, root)} for split in SPLITS}
    assert sorted(id for ids in before.values() for id in ids) == [f"2008_{number:06}" for number in range(12)]
    _write(root, "2008_000012", DOG)
    after = {split: {s["id"] for s in load_dataset("pascal-parts", split, root)} for split in SPLITS}
    assert sum(map(len, after.values())) == 13 and all(before[split] <= after[split] for split in SPLITS)


def test_the_images_may_be_voc_2012s(root: Path) -> None:
    (root / "VOCdevkit" / "VOC2010").rename(root / "VOCdevkit" / "VOC2012")
    assert load_dataset("pascal-parts", "train", root)[0]["image"].shape == (3, HEIGHT, WIDTH)


def test_the_version_follows_options_and_files(root: Path) -> None:
    def version(**options: object) -> str:
        return load_dataset("pascal-parts", "train", root, **options).version

    before = version()
    assert len({before, version(), version(crop=True), version(max_side=9)}) == 3
    _write(root, load_dataset("pascal-parts", "train", root)[0]["id"], DOG)
    assert version() != before


def test_the_table_of_parts_names_each_part_once() -> None:
    assert set(PARTS) == set(VOC_CLASSES) - {"boat", "chair", "diningtable", "sofa"}
    assert len(set(PascalParts.part_names)) == len(PascalParts.part_names)
    assert not any(part[-1].isdigit() for part in PascalParts.part_names)


def _first(root: Path, *objects: tuple) -> None:
    """Write all annotations anew, so that the first sample is this one, whichever it is."""
    for number in range(12):
        _write(root, f"2008_{number:06}", *objects)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([_object("dog", _mask(0, 2, 0, 2), ("wheel_1", _mask(0, 1, 0, 1)))], r"object 1: part 'wheel_1' is unknown"),
        ([_object("boat", _mask(0, 2, 0, 2), ("sail", _mask(0, 1, 0, 1)))], r"'sail' is unknown.*has the parts: none"),
        ([DOG, _object("car", np.zeros((HEIGHT, WIDTH)))], r"object 2: the mask is empty"),
        ([_object("car", np.ones((WIDTH, HEIGHT)))], r"object 1: a mask of \(16, 10\); the image has \(10, 16\)"),
        ([_object("car", _mask(0, 2, 0, 2), ("door_1", np.ones((2, 2))))], r"part door_1: a mask of \(2, 2\)"),
        ([("dragon", 21, _mask(0, 1, 0, 1), [])], r"object 1: class 'dragon' is none of VOC's 20"),
        ([("dog", 12, "no mask", [])], r"object 1: mask: found a str; expected numbers"),
        ([("dog", 12, _mask(0, 1, 0, 1), "tail")], r"object 1: parts: found a str; expected an array of structs"),
        ([], r"has no object"),
    ],
)
def test_what_is_wrong_in_an_annotation_is_named(root: Path, objects: list[tuple], message: str) -> None:
    _first(root, *objects)
    with pytest.raises(DataError, match=r"2008_\d+\.mat: .*" + message):
        load_dataset("pascal-parts", "train", root)[0]


def test_an_annotation_of_another_form_is_named(root: Path) -> None:
    data = load_dataset("pascal-parts", "train", root)
    path = root / "Annotations_Part" / f"{data[0]['id']}.mat"
    savemat(path, {"anno": {"imname": "x"}})
    with pytest.raises(DataError, match=r"\.mat: found the fields imname; expected a struct with the field 'objects'"):
        data[0]
    savemat(path, {"anno": []})
    with pytest.raises(DataError, match=r"\.mat: has no object"):
        data[0]
    path.write_bytes(path.read_bytes()[:140])
    with pytest.raises(DataError, match=r"\.mat: cannot be read as a MATLAB file"):
        data[0]


def _rename_images(root: Path) -> None:
    (root / "VOCdevkit" / "VOC2010" / "JPEGImages").rename(root / "pictures")


def _rename_annotations(root: Path) -> None:
    (root / "Annotations_Part").rename(root / "parts")


def _remove_image(root: Path) -> None:
    (root / "VOCdevkit" / "VOC2010" / "JPEGImages" / "2008_000003.jpg").unlink()


def _remove_annotations(root: Path) -> None:
    for path in (root / "Annotations_Part").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_rename_images, UsageError, r"VOC2010.JPEGImages: no such folder, nor .*VOC2012"),
        (_rename_annotations, UsageError, r"Annotations_Part: no such folder.*trainval\.tar\.gz"),
        (_remove_image, DataError, r"2008_000003\.jpg: the image is missing, but has an annotation in .*\(1 such\)"),
        (_remove_annotations, DataError, r"Annotations_Part: none of its 0 files is in split 'train'"),
    ],
)
def test_files_that_are_not_there(
    root: Path, change: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    change(root)
    with pytest.raises(error, match=message):
        load_dataset("pascal-parts", "train", root)
