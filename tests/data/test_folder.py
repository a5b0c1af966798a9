"""A reader's own images, in every layout, whole and broken."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsl_core.data import InMemory, collate, load_dataset
from wsl_core.data.folder import Folder, _hashed_split
from wsl_core.errors import DataError, UsageError

SPLITS = ("train", "val", "test")


def _picture(path: Path, size: tuple[int, int] = (20, 12), colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def _mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder for each of two classes, 30 images each; with what a desktop and a user leave about."""
    root = tmp_path / "own"
    for name in ("dog", "cat"):
        for number in range(30):
            _picture(root / name / f"{number}.png", size=(10 + number, 8))
        (root / name / "notes.txt").write_text("not an image")
        (root / name / "._0.png").write_bytes(b"desktop")
    _picture(root / ".trash" / "old.png")
    _picture(root / "dog" / "deep" / "er" / "UPPER.JPG")
    return root


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Images with several labels each, in a table."""
    root = tmp_path / "own"
    for name in ("a.png", "b, c.png", "sub/d.jpg", "e.png"):
        _picture(root / name)
    rows = ("image,labels,split", "a.png,cat; dog ,train", '"b, c.png",eel,train', "sub\\d.jpg,,val", "e.png,dog,test")
    (root / "labels.csv").write_text("\r\n".join(rows), encoding="utf-8-sig", newline="")
    return root


def _write(root: Path, name: str, *lines: str) -> None:
    (root / name).write_text("\n".join(lines) + "\n")


def _ids(root: Path, split: str) -> list[str]:
    return [sample["id"] for sample in load_dataset("folder", split, root)]


def test_a_folder_for_each_class(classes: Path) -> None:
    found = {split: _ids(classes, split) for split in SPLITS}
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 61
    assert len(found["train"]) > len(found["val"]) > 3 < len(found["test"])
    train = load_dataset("folder", "train", classes)
    assert (train.classes, train.task, train.name) == (("cat", "dog"), "single", "folder")
    sample = train[-1]
    assert sample["labels"].tolist() == [0, 1] and set(sample) == {"id", "image", "labels"}
    assert collate(list(train))["image"].shape[2:] == (12, max(s["image"].shape[2] for s in train))


def test_an_image_keeps_its_split_when_others_come(classes: Path) -> None:
    before = {name: split for split in SPLITS for name in _ids(classes, split)}
    for number in range(30, 40):
        _picture(classes / "cat" / f"{number}.png")
    after = {name: split for split in SPLITS for name in _ids(classes, split)}
    assert before.items() < after.items()


def test_the_split_does_not_depend_on_how_a_system_stores_accents() -> None:
    names = [f"Bär/{number}é.jpg" for number in range(20)]
    composed, decomposed = ([unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert [_hashed_split(name) for name in composed] == [_hashed_split(name) for name in decomposed]


def test_folders_for_the_splits(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat")):
        _picture(tmp_path / split / name / "1.png")
    assert _ids(tmp_path, "train") == ["train/cat/1.png", "train/dog/1.png"]
    assert load_dataset("folder", "test", tmp_path)[0]["labels"].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"none of its 3 images is in split 'val'"):
        load_dataset("folder", "val", tmp_path)


def test_a_table_of_labels(table: Path) -> None:
    train = load_dataset("folder", "train", table)
    assert (train.classes, train.task) == (("cat", "dog", "eel"), "multi")
    assert [(s["id"], s["labels"].tolist()) for s in train] == [("a.png", [1, 1, 0]), ("b, c.png", [0, 0, 1])]
    val = load_dataset("folder", "val", table)[0]
    assert val["id"] == "sub/d.jpg" and val["labels"].tolist() == [0, 0, 0]
    assert _ids(table, "test") == ["e.png"]


def test_a_table_without_splits(tmp_path: Path) -> None:
    for number in range(40):
        _picture(tmp_path / f"{number}.png")
    _write(tmp_path, "labels.csv", "image,labels", *(f"{number}.png,cat" for number in range(40)))
    found = [name for split in SPLITS for name in _ids(tmp_path, split)]
    assert sorted(found) == sorted(f"{number}.png" for number in range(40))


def test_boxes(table: Path) -> None:
    _write(
        table,
        "boxes.csv",
        "image,label,x0,y0,x1,y1",
        "a.png,cat,1,2,5.5,6",
        "a.png,dog,-3,4,99,12",
        "e.png,dog,0,0,1,1",
    )
    first, second = load_dataset("folder", "train", table)
    assert first["boxes"].tolist() == [[1, 2, 5.5, 6], [0, 4, 20, 12]] and first["box_labels"].tolist() == [0, 1]
    assert second["boxes"].shape == (0, 4) and second["box_labels"].shape == (0,)
    assert second["boxes"].dtype == torch.float32 and second["box_labels"].dtype == torch.int64


def test_masks(table: Path) -> None:
    values = np.tile(np.array([0, 1, 3, 255]), (12, 5))
    _mask(table / "masks" / "a.png", values)
    first, second = load_dataset("folder", "train", table)
    assert torch.equal(first["mask"], torch.from_numpy(values))
    assert second["mask"].unique().tolist() == [255] and second["mask"].shape == (12, 20)


def test_masks_beside_class_folders_are_no_class(classes: Path) -> None:
    for split in SPLITS:
        for name in _ids(classes, split):
            if name == "cat/5.png":
                _mask(classes / "masks" / name, np.ones((8, 15)))
    found = {s["id"]: s for split in SPLITS for s in load_dataset("folder", split, classes)}
    assert len(found) == 61 and found["cat/5.png"]["mask"].unique().tolist() == [1]


def test_annotations_refer_to_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: 20 x 12, upright 12 x 20
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (20, 12)).save(tmp_path / "train" / "cat" / "1.jpg", exif=exif)
    _write(tmp_path, "boxes.csv", "image,label,x0,y0,x1,y1", "train/cat/1.jpg,cat,1,2,50,50")
    _mask(tmp_path / "masks" / "train" / "cat" / "1.png", np.ones((20, 12)))
    sample = load_dataset("folder", "train", tmp_path)[0]
    assert sample["image"].shape == (3, 20, 12) and sample["mask"].shape == (20, 12)
    assert sample["boxes"].tolist() == [[1, 2, 12, 20]]


def test_large_images_shrink_with_their_annotations(tmp_path: Path) -> None:
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[20:40, 30:60] = 255
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "train" / "cat" / "1.png")
    _mask(tmp_path / "masks" / "train" / "cat" / "1.png", (pixels[..., 0] > 0).astype(int))
    _write(tmp_path, "boxes.csv", "image,label,x0,y0,x1,y1", "train/cat/1.png,cat,30,20,60,40")
    small = load_dataset("folder", "train", tmp_path, max_side=30)
    sample = small[0]
    assert sample["image"].shape == (3, 20, 30) and torch.allclose(
        sample["boxes"], torch.tensor([[10, 20 / 3, 20, 40 / 3]])
    )
    x0, y0, x1, y1 = sample["boxes"][0].round().int().tolist()
    assert sample["mask"][y0:y1, x0:x1].all() and sample["mask"].sum() == (y1 - y0) * (x1 - x0)
    assert sample["image"][:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].min() > 0.95
    assert torch.equal(InMemory(small)[0]["image"], sample["image"])
    assert small.version != load_dataset("folder", "train", tmp_path).version
    assert load_dataset("folder", "train", tmp_path, max_side=500)[0]["image"].shape == (3, 60, 90)
    with pytest.raises(UsageError, match="max_side is 0"):
        load_dataset("folder", "train", tmp_path, max_side=0)


def test_the_version_follows_pixels_and_labels(table: Path) -> None:
    versions = [load_dataset("folder", "train", table).version]
    os.utime(table / "a.png", ns=(1, 1))  # as retouching does, even where the file keeps its length
    versions.append(load_dataset("folder", "train", table).version)
    _write(table, "labels.csv", "image,labels,split", "a.png,cat,train", '"b, c.png",eel,train', "e.png,dog,val")
    versions.append(load_dataset("folder", "train", table).version)
    _write(table, "boxes.csv", "image,label,x0,y0,x1,y1", "a.png,cat,1,2,5,6")
    versions.append(load_dataset("folder", "train", table).version)
    _mask(table / "masks" / "a.png", np.zeros((12, 20)))
    versions.append(load_dataset("folder", "train", table).version)
    assert len(set(versions)) == 5 and load_dataset("folder", "train", table).version == versions[-1]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no folder for a class, and .* no labels\.csv"):
        load_dataset("folder", "train", tmp_path)
    _picture(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("no image here")
    with pytest.raises(DataError, match=r"dog: the class has no image\. Add some, or remove the folder"):
        load_dataset("folder", "train", tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        Folder("train", tmp_path / "absent")
    with pytest.raises(UsageError, match="split 'dev'"):
        Folder("dev", tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,label", "a.png,cat"], r"labels\.csv:1: the header is .*expected each of image, labels"),
        (["image,labels"], r"labels\.csv: lists no image"),
        (["image,labels", "a.png"], r"labels\.csv:2: 1 fields; expected 2.*a field may be empty"),
        (["image,labels", "a.png,", "e.png,;"], r"labels\.csv: no row has a label\. Write the classes"),
        (["image,labels", "a.png,cat", "e.png,dog", "a.png,cat"], r"labels\.csv:4: image 'a\.png' is already in .*:2"),
        (["image,labels", "z.png,cat"], r"labels\.csv:2: image .*z\.png is missing"),
        (["image,labels", "../own/a.png,cat"], r"labels\.csv:2: image '\.\./own/a\.png'; expected a path below"),
        (["image,labels", "/a.png,cat"], r"labels\.csv:2: image '/a\.png'; expected a path below"),
        (["image,labels", ",cat"], r"labels\.csv:2: image ''"),
        (["image,labels,split", "a.png,cat,dev"], r"labels\.csv:2: split 'dev' is unknown"),
        (["image,labels,split", "a.png,cat,"], r"labels\.csv:2: split '' is unknown"),
        (["image,labels", "a.png,cat,dog"], r"labels\.csv:2: 3 fields; expected 2, separated by commas: image, la"),
    ],
)
def test_tables_that_are_wrong(table: Path, lines: list[str], message: str) -> None:
    _write(table, "labels.csv", *lines)
    with pytest.raises(DataError, match=message):
        load_dataset("folder", "train", table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,fox,1,2,3,4", r"boxes\.csv:2: label 'fox' is no class; expected one of cat, dog, eel"),
        ("z.png,cat,1,2,3,4", r"boxes\.csv:2: image 'z\.png' is not in the data set"),
        ("a.png,cat,1,2,1,4", r"boxes\.csv:2: box .* is empty"),
        ("a.png,cat,1,x,3,4", r"boxes\.csv:2: y0 is 'x'"),
        ("a.png,cat,50,2,60,4", r"boxes\.csv:2: box .* outside the image of 20 x 12"),
        ("a.png,cat,1,2,3,4\na.png,cat,1,2,3,4", r"boxes\.csv:3: the same box is already in .*boxes\.csv:2"),
    ],
)
def test_boxes_that_are_wrong(table: Path, row: str, message: str) -> None:
    _write(table, "boxes.csv", "image,label,x0,y0,x1,y1", row)
    with pytest.raises(DataError, match=message):
        load_dataset("folder", "train", table)[0]


def test_masks_and_images_that_are_wrong(table: Path) -> None:
    _mask(table / "masks" / "a.png", np.full((12, 20), 4))
    with pytest.raises(DataError, match=r"a\.png: value 4; expected 0 to 3, or 255"):
        load_dataset("folder", "train", table)[0]
    _mask(table / "masks" / "a.png", np.ones((20, 12)))
    with pytest.raises(DataError, match=r"masks.a\.png: \(20, 12\) pixels; its image, upright, has \(12, 20\)"):
        load_dataset("folder", "train", table)[0]
    (table / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"own.a\.png: 4 bytes that cannot be read"):
        load_dataset("folder", "train", table)[0]


def test_two_images_cannot_share_a_mask(tmp_path: Path) -> None:
    for name in ("1.png", "1.jpg"):
        _picture(tmp_path / "train" / "cat" / name)
    assert len(load_dataset("folder", "train", tmp_path)) == 2
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"would share one mask, masks/train/cat/1\.png"):
        load_dataset("folder", "train", tmp_path)
