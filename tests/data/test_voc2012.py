"""PASCAL VOC 2012 in its official layout, with SBD, whole and broken."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from wsl_core.data import collate, load_dataset, voc2012
from wsl_core.data.annotations import read_csv
from wsl_core.data.images import write_mask
from wsl_core.data.voc import VOC_CLASSES
from wsl_core.data.voc2012 import VOC2012
from wsl_core.errors import DataError, DownloadError, UsageError

HEIGHT, WIDTH = 12, 20
CAT, DOG = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
TRAIN = [f"2007_{number:06}" for number in range(3)]
VAL = [f"2008_{number:06}" for number in range(16)]
MAIN_TRAIN = ["2009_000001", *TRAIN]
FURTHER = [f"2010_{number:06}" for number in range(4)]


def _xml(*objects: tuple[str, int, int, int, int], parts: str = "") -> str:
    found = "".join(
        f"<object><name>{kind}</name><difficult>1</difficult>{parts}<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for kind, x0, y0, x1, y1 in objects
    )
    return f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{found}</annotation>"


HEAD = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"


def _mask() -> torch.Tensor:
    """A cat in rows 2 to 5 and columns 1 to 8, with a border; a dog in the last column."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    mask[2:6, 1:9] = CAT + 1
    mask[2, 1:9] = 255
    mask[:, -1] = DOG + 1
    return mask


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation", "ImageSets/Main"):
        (top / folder).mkdir(parents=True)
    for name in {*TRAIN, *VAL, *MAIN_TRAIN, *FURTHER}:
        Image.new("RGB", (WIDTH, HEIGHT), "teal").save(top / "JPEGImages" / f"{name}.jpg")
        boxes = _xml(("cat", 2, 3, 9, 6), ("dog", 20, 1, 20, 12), parts=HEAD)
        (top / "Annotations" / f"{name}.xml").write_text(boxes)
    for name in (*TRAIN, *VAL):
        write_mask(top / "SegmentationClass" / f"{name}.png", _mask())
    for folder, train, val in (("Segmentation", TRAIN, VAL), ("Main", MAIN_TRAIN, VAL[:8] + FURTHER)):
        (top / "ImageSets" / folder / "train.txt").write_text("".join(f"{name}\n" for name in train))
        (top / "ImageSets" / folder / "val.txt").write_text("".join(f"{name}\n" for name in val))
    return top


def _ids(root: Path, split: str, **options: object) -> list[str]:
    return [sample["id"] for sample in load_dataset("voc2012", split, root, **options)]


def _add_sbd(top: Path, train: list[str], val: list[str]) -> None:
    folder = top.parents[1] / "benchmark_RELEASE" / "dataset"
    (folder / "cls").mkdir(parents=True)
    for name in (*train, *val):
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[1:4, 2:7] = DOG + 1
        boundaries = np.empty((20, 1), dtype=object)
        boundaries[:, 0] = [csc_matrix((HEIGHT, WIDTH), dtype=np.uint8) for _ in range(20)]
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": mask, "Boundaries": boundaries}})
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in train))
    (folder / "val.txt").write_text("".join(f"{name}\n" for name in val))


def test_samples_and_description(top: Path) -> None:
    data = load_dataset("voc2012", "train", top.parents[1])
    assert (data.name, data.split, data.task, data.classes) == ("voc2012", "train", "multi", VOC_CLASSES)
    assert "Flickr" in data.licence and len(data) == 3
    sample = data[0]
    assert sample.keys() == {"id", "image", "labels", "boxes", "box_labels", "mask"}
    assert sample["id"] == TRAIN[0] and sample["labels"].nonzero().flatten().tolist() == [CAT, DOG]
    assert torch.equal(sample["mask"], _mask()) and sample["mask"].dtype == torch.int64
    assert collate(list(data))["mask"].shape == (3, HEIGHT, WIDTH)


def test_boxes_from_one_with_their_last_pixel_become_half_open_from_zero(top: Path) -> None:
    """A box then holds exactly the pixels of its object's mask."""
    sample = VOC2012("train", top.parents[1])[0]
    assert sample["boxes"].dtype == torch.float32 and sample["box_labels"].tolist() == [CAT, DOG]
    for box, label in zip(sample["boxes"].int().tolist(), (CAT, DOG)):
        x0, y0, x1, y1 = box
        inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        own = (sample["mask"] == label + 1) | ((sample["mask"] == 255) & (label == CAT))
        assert torch.equal(inside, own)


def test_the_official_val_is_halved_by_name(top: Path) -> None:
    root = top.parents[1]
    val, test = _ids(root, "val"), _ids(root, "test")
    assert val and test and sorted(val + test) == VAL
    main = {split: _ids(root, split, image_set="classification") for split in ("train", "val", "test")}
    assert sorted(main["val"] + main["test"]) == sorted(VAL[:8] + FURTHER)
    assert not set(main["val"]) & set(test) and not set(main["test"]) & set(val)  # whichever list names an image
    (top / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(reversed(VAL[3:])))
    assert _ids(root, "val") == [name for name in val if name in VAL[3:]]  # others come and go


def test_what_is_in_the_segmentation_val_is_never_train(top: Path) -> None:
    (top / "ImageSets" / "Main" / "train.txt").write_text("\n".join([*MAIN_TRAIN, VAL[0]]))
    assert _ids(top.parents[1], "train", image_set="classification") == sorted(MAIN_TRAIN)
    assert VAL[0] in _ids(top.parents[1], "train", image_set="classification", official=True)


def test_the_official_val_as_a_whole_and_no_official_test(top: Path) -> None:
    assert _ids(top.parents[1], "val", official=True) == VAL
    with pytest.raises(UsageError, match=r"split 'test', whose labels are not published; .*server"):
        load_dataset("voc2012", "test", top.parents[1], official=True)


def test_the_classification_set_has_no_masks(top: Path) -> None:
    sample = load_dataset("voc2012", "train", top.parents[1], image_set="classification")[0]
    assert "mask" not in sample and sample["labels"].nonzero().flatten().tolist() == [CAT, DOG]
    assert len(sample["boxes"]) == 2


def test_without_annotations_the_masks_say_the_labels(top: Path) -> None:
    shutil.rmtree(top / "Annotations")
    sample = VOC2012("val", top.parents[1])[0]
    assert sample.keys() == {"id", "image", "labels", "mask"}
    assert sample["labels"].nonzero().flatten().tolist() == [CAT, DOG]
    with pytest.raises(UsageError, match=r"Annotations: no such folder; image_set='classification' takes its labels"):
        VOC2012("val", top.parents[1], image_set="classification")


def test_train_aug_from_sbd(top: Path) -> None:
    root = top.parents[1]
    _add_sbd(top, [FURTHER[0], VAL[0], TRAIN[1]], [FURTHER[2]])
    data = load_dataset("voc2012", "train", root, train_aug=True)
    assert [sample["id"] for sample in data] == [*TRAIN, FURTHER[0], FURTHER[2]]  # not VAL[0]
    assert torch.equal(data[1]["mask"], _mask())  # VOC's own comes first
    assert data[3]["mask"].unique().tolist() == [0, DOG + 1] and int((data[3]["mask"] > 0).sum()) == 15
    assert _ids(root, "val", train_aug=True) == _ids(root, "val")
    assert data.version != load_dataset("voc2012", "train", root).version


def test_train_aug_from_a_folder_of_pngs(top: Path) -> None:
    folder = top / "SegmentationClassAug"
    folder.mkdir()
    for name in (*TRAIN, *VAL, *FURTHER):
        Image.fromarray(np.full((HEIGHT, WIDTH), CAT + 1, np.uint8)).save(folder / f"{name}.png")
    data = load_dataset("voc2012", "train", top.parents[1], train_aug=True, official=True)
    assert [sample["id"] for sample in data] == [*TRAIN, *FURTHER]
    assert torch.equal(data[0]["mask"], _mask()) and data[3]["mask"].unique().tolist() == [CAT + 1]


def test_shrinking_moves_boxes_and_masks_along(top: Path) -> None:
    sample = VOC2012("train", top.parents[1], max_side=10)[0]
    assert sample["image"].shape == (3, 6, 10) and sample["mask"].shape == (6, 10)
    assert sample["boxes"].tolist() == [[0.5, 1, 4.5, 3], [9.5, 0, 10, 6]]


def test_the_version_follows_the_annotations(top: Path) -> None:
    before = VOC2012("train", top.parents[1]).version
    assert VOC2012("train", top.parents[1]).version == before != VOC2012("val", top.parents[1]).version
    (top / "Annotations" / f"{TRAIN[0]}.xml").write_text(_xml(("cat", 2, 3, 9, 6)))
    assert VOC2012("train", top.parents[1]).version != before


def _write(path: str, content: str) -> Callable[[Path], None]:
    return lambda top: (top / path).write_text(content) and None


def _paint(value: int, height: int = HEIGHT) -> Callable[[Path], None]:
    pixels = np.full((height, WIDTH), value, np.uint8)
    return lambda top: Image.fromarray(pixels).save(top / "SegmentationClass" / f"{TRAIN[0]}.png")


XML = f"Annotations/{TRAIN[0]}.xml"
EVIL = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_write(XML, EVIL + _xml(("&e;", 1, 1, 2, 2))), r"000000\.xml: has a DOCTYPE"),
        (_write(XML, "<annotation><size>"), r"000000\.xml: not XML .*cut short"),
        (_write(XML, '<?xml version="1.0" encoding="none"?><a/>'), r"000000\.xml: not XML"),
        (_write(XML, "<annotation/>"), r"000000\.xml: size: width is ''; expected a number"),
        (_write(XML, _xml(("lion", 1, 1, 2, 2))), r"000000\.xml: class 'lion' is none of VOC's 20"),
        (_write(XML, _xml(("", 1, 1, 2, 2))), r"000000\.xml: object 1: has no name"),
        (_write(XML, _xml(("cat", 1, 1, 2, 2)).replace("ymax", "y")), r"object 1: bndbox: ymax is ''; expected a num"),
        (_write(XML, _xml(("cat", 5, 1, 3, 2))), r"000000\.xml: box .* is empty"),
        (_write(XML, _xml(("cat", 25, 1, 30, 2))), r"000000\.xml: box .* lies outside the image of 20 x 12"),
        (lambda top: (top / XML).unlink(), r"000000\.xml: the file is missing"),
        (_paint(21), r"000000\.png: value 21; expected 0 to 20, or 255"),
        (_paint(0, 5), r"000000\.png: \(5, 20\) pixels; its image has \(12, 20\)"),
        (lambda top: (top / "SegmentationClass" / f"{TRAIN[0]}.png").unlink(), r"000000\.png: .* is missing"),
        (lambda top: (top / "JPEGImages" / f"{TRAIN[0]}.jpg").unlink(), r"000000\.jpg: the image is missing, but a li"),
        (_write("ImageSets/Segmentation/train.txt", ""), r"Segmentation: no image is in split 'train'"),
        (_write("ImageSets/Segmentation/train.txt", "a 1\n"), r"train\.txt:1: found 'a 1'; expected the name of an im"),
        (lambda top: (top / "ImageSets/Segmentation/train.txt").unlink(), r"train\.txt: the file is missing"),
    ],
)
def test_what_is_wrong_is_named(top: Path, change: Callable[[Path], None], message: str) -> None:
    change(top)
    with pytest.raises(DataError, match=message):
        load_dataset("voc2012", "train", top.parents[1])[0]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": 1}, r"\.mat: has no variable 'GTcls'"),
        ({"GTcls": {"Boundaries": 1}}, r"\.mat: found the fields Boundaries; expected .* 'Segmentation'"),
        ({"GTcls": {"Segmentation": "x"}}, r"\.mat: Segmentation: found a str; expected numbers"),
        ({"GTcls": {"Segmentation": -np.ones((HEIGHT, WIDTH), np.int8)}}, r"\.mat: value -1; expected 0 to 20"),
    ],
)
def test_broken_files_of_sbd_are_named(top: Path, variables: dict, message: str) -> None:
    _add_sbd(top, [FURTHER[0]], [])
    savemat(top.parents[1] / "benchmark_RELEASE" / "dataset" / "cls" / f"{FURTHER[0]}.mat", variables)
    with pytest.raises(DataError, match=message):
        load_dataset("voc2012", "train", top.parents[1], train_aug=True)[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_set": "detection"}, r"image_set is 'detection'; expected one of segmentation, classification"),
        ({"train_aug": True}, r"train_aug=True: found neither .*SegmentationClassAug nor .*benchmark_RELEASE"),
        ({"train_aug": True, "image_set": "classification"}, r"found image_set='classification'; only 'segmentation'"),
        ({"max_side": 1}, r"max_side is 1"),
    ],
)
def test_wrong_options_are_named(top: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_dataset("voc2012", "train", top.parents[1], **options)


def test_download(top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = top.parents[1]
    _add_sbd(top, [FURTHER[0]], [])
    for name, (url, md5) in {
        "VOCdevkit": ("URL", "MD5"),
        "benchmark_RELEASE": ("SBD_URL", "SBD_MD5"),
    }.items():
        archive = Path(shutil.make_archive(str(tmp_path / f"made-{name}"), "gztar", root, name))
        monkeypatch.setattr(voc2012, url, archive.as_uri())
        monkeypatch.setattr(voc2012, md5, hashlib.md5(archive.read_bytes()).hexdigest())
    new = tmp_path / "new"
    assert _ids(new, "val", download=True) == _ids(root, "val") and not (new / "benchmark_RELEASE").exists()
    assert _ids(new, "train", download=True, train_aug=True) == [*TRAIN, FURTHER[0]]
    monkeypatch.setattr(voc2012, "MD5", "0" * 32)
    with pytest.raises(DownloadError, match=r"VOCtrainval_11-May-2012\.tar: md5 .*; expected 0{32}"):
        load_dataset("voc2012", "val", tmp_path / "other", download=True)


def test_the_real_subset(shared_data: Path) -> None:
    devkit = shared_data / "VOCdevkit"
    if not (devkit / "VOC2012").is_dir():
        pytest.skip("no PASCAL VOC 2012 among the real data")
    splits = {split: load_dataset("voc2012", split, shared_data) for split in ("train", "val", "test")}
    assert len(splits["train"]) == 350 and len(splits["val"]) + len(splits["test"]) == 150
    named = {row["image"]: row["classes"] for _, row in read_csv(devkit / "derived" / "image_labels_from_masks.csv",
                                                                ("image", "classes"))}  # fmt: skip
    for data in splits.values():
        for sample in (data[index] for index in range(0, len(data), 20)):
            found = [VOC_CLASSES[c] for c in sample["labels"].nonzero().flatten().tolist()]
            assert " ".join(found) == named[sample["id"]]
            assert sample["mask"].shape == sample["image"].shape[-2:]
