"""CUB-200-2011 in its official layout, with masks and with CUBV2, whole and broken."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fault_server import Server, serve
from wsl_core.data import collate, cub200, download, load_dataset
from wsl_core.data.cub200 import CUB200, PARTS
from wsl_core.errors import DataError, DownloadError, UsageError

HEIGHT, WIDTH = 12, 20
CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
TRAIN_PER_CLASS, TEST_PER_CLASS = 12, 2
LEFT_EYE, TAIL = PARTS.index("left eye"), PARTS.index("tail")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Two species of twelve images to train on and two to test; each with a box, an eye and a tail."""
    top = tmp_path / "CUB_200_2011"
    (top / "parts").mkdir(parents=True)
    files: dict[str, list[str]] = {"classes.txt": [f"{number} {name}" for number, name in enumerate(CLASSES, start=1)]}
    image = 0
    for label, name in enumerate(CLASSES, start=1):
        (top / "images" / name).mkdir(parents=True)
        for number in range(TRAIN_PER_CLASS + TEST_PER_CLASS):
            image += 1
            path = f"{name}/Bird_{number:04}_{image}.jpg"
            Image.new("RGB", (WIDTH, HEIGHT), "olive").save(top / "images" / path)
            for file, line in {
                "images.txt": f"{image} {path}",
                "image_class_labels.txt": f"{image} {label}",
                "train_test_split.txt": f"{image} {int(number < TRAIN_PER_CLASS)}",
                "bounding_boxes.txt": f"{image} 2.0 3.0 10.0 6.0",
            }.items():
                files.setdefault(file, []).append(line)
            for part in range(len(PARTS)):
                place = {LEFT_EYE: "4.0 5.0 1", TAIL: "19.0 11.0 1"}.get(part, "0.0 0.0 0")
                files.setdefault("parts/part_locs.txt", []).append(f"{image} {part + 1} {place}")
    for file, lines in files.items():
        (top / file).write_text("".join(f"{line}\n" for line in lines))
    return top


def _add_masks(top: Path, place: Path) -> None:
    for image in (top / "images").glob("*/*.jpg"):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[3:9, 2:12], mask[5, 2:12] = 255, 102  # two of five people say that row 5 is bird
        (place / image.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place / image.parent.name / f"{image.stem}.png")


def _add_v2(root: Path) -> Path:
    metadata = root / "metadata" / "CUB" / "val"
    metadata.mkdir(parents=True)
    ids = [f"{name}/3010731611{number}.jpg" for name in CLASSES for number in range(2)]
    for id in ids:
        (root / "CUBV2" / id).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 24)).save(root / "CUBV2" / id)
    for file, fields in {"class_labels": "1", "image_sizes": "30,24", "localization": "1,2,10,12"}.items():
        (metadata / f"{file}.txt").write_text("".join(f"{id},{fields}\n" for id in ids))
    (metadata / "image_ids.txt").write_text("".join(f"{id}\n" for id in ids))
    return metadata


def _ids(root: Path, split: str, **options: object) -> list[str]:
    return [sample["id"] for sample in load_dataset("cub200", split, root, **options)]


def test_samples_and_description(top: Path) -> None:
    data = load_dataset("cub200", "test", top.parent)
    assert data.classes == ("Black footed Albatross", "Laysan Albatross") and data.keypoint_names == PARTS
    assert (data.name, data.task, len(PARTS)) == ("cub200", "single", 15) and "non-commercial" in data.licence
    sample = data[3]
    assert sample.keys() == {"id", "image", "labels", "boxes", "box_labels", "keypoints"}
    assert sample["id"] == "002.Laysan_Albatross/Bird_0013_28.jpg" and sample["labels"].tolist() == [0, 1]
    assert sample["boxes"].tolist() == [[2, 3, 12, 9]] and sample["box_labels"].tolist() == [1]
    assert collate(list(data))["image"].shape == (4, 3, HEIGHT, WIDTH)


def test_parts_that_are_visible(top: Path) -> None:
    keypoints = load_dataset("cub200", "test", top.parent)[0]["keypoints"]
    assert keypoints.dtype == torch.float32 and keypoints[LEFT_EYE].tolist() == [4, 5, 1]
    assert keypoints[TAIL].tolist() == [19, 11, 1]
    assert keypoints[:, 2].nonzero().flatten().tolist() == [LEFT_EYE, TAIL]
    assert not keypoints[keypoints[:, 2] == 0].any()


def test_a_part_outside_of_its_image_is_not_visible(top: Path) -> None:
    _edit("parts/part_locs.txt", rf"(?m)^13 {TAIL + 1} 19\.0", f"13 {TAIL + 1} 20.0")(top)
    keypoints = load_dataset("cub200", "test", top.parent)[0]["keypoints"]
    assert keypoints[TAIL].tolist() == [0, 0, 0] and keypoints[LEFT_EYE, 2] == 1


def test_every_tenth_image_of_a_class_is_held_out(top: Path) -> None:
    train, val, test = (_ids(top.parent, split) for split in ("train", "val", "test"))
    assert [id[-6:-4] for id in val] == ["_1", "11", "15", "25"]  # the first and the eleventh of each class
    assert len(train) == 20 and len(test) == 4 and len({*train, *val, *test}) == 28
    assert _ids(top.parent, "train", val="cubv2") == sorted(train + val)


def test_cubv2_to_choose_on(top: Path) -> None:
    _add_v2(top.parent)
    _add_masks(top, top.parent / "segmentations")
    data = load_dataset("cub200", "val", top.parent, val="cubv2", max_side=15)
    sample = data[2]
    assert len(data) == 4 and sample["id"] == "002.Laysan_Albatross/30107316110.jpg"
    assert sample.keys() == {"id", "image", "labels", "boxes", "box_labels"}
    assert sample["boxes"].tolist() == [[0.5, 1, 5.5, 6.5]] and sample["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("inside", [False, True])
def test_masks_are_what_most_people_drew(top: Path, inside: bool) -> None:
    _add_masks(top, (top if inside else top.parent) / "segmentations")
    data = load_dataset("cub200", "test", top.parent)
    for sample, value in ((data[0], 1), (data[3], 2)):
        assert sample["mask"].dtype == torch.int64 and sample["mask"].unique().tolist() == [0, value]
        assert int((sample["mask"] > 0).sum()) == 50 and not sample["mask"][5].any()


def test_shrinking_moves_everything_along(top: Path) -> None:
    _add_masks(top, top / "segmentations")
    sample = load_dataset("cub200", "test", top.parent, max_side=10)[0]
    assert sample["image"].shape == (3, 6, 10) and sample["mask"].shape == (6, 10)
    assert sample["boxes"].tolist() == [[1, 1.5, 6, 4.5]]
    assert sample["keypoints"][LEFT_EYE].tolist() == [1.75, 2.25, 1]  # the middle of a pixel stays where it was


def test_the_version_follows_the_annotations(top: Path) -> None:
    before = CUB200("test", top.parent).version
    assert CUB200("test", top.parent).version == before != CUB200("val", top.parent).version
    _edit("bounding_boxes.txt", r"(?m)^13 2\.0", "13 2.5")(top)
    assert CUB200("test", top.parent).version != before


def _edit(name: str, pattern: str, replacement: str) -> Callable[[Path], None]:
    def change(top: Path) -> None:
        text = (top / name).read_text()
        changed = re.sub(pattern, replacement, text, count=1)
        assert changed != text
        (top / name).write_text(changed)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit("images.txt", r"1 001", "1  001"), r"images\.txt:1: 3 fields in .*; expected 2, separated by spaces"),
        (_edit("images.txt", r"(1 001.*\n)", r"\1\1"), r"images\.txt:2: image 1 is already in .*images\.txt:1"),
        (_edit("image_class_labels.txt", r"1 1\n", ""), r"labels\.txt: image 1 has no line"),
        (_edit("image_class_labels.txt", r"1 1\n", "1 3\n"), r"labels\.txt:1: class is '3'; expected 1 to 2"),
        (_edit("train_test_split.txt", r"1 1\n", "1 yes\n"), r"split\.txt:1: found 'yes'; expected 1 for train or 0"),
        (_edit("train_test_split.txt", r"\Z", "99 1\n"), r"split\.txt: image 99 is not in images\.txt"),
        (_edit("bounding_boxes.txt", r"1 2\.0", "1 x"), r"boxes\.txt:1: x is 'x'; expected a number"),
        (_edit("bounding_boxes.txt", r"10\.0 6\.0", "0.0 6.0"), r"boxes\.txt:1: box .* is empty"),
        (_edit("bounding_boxes.txt", r"1 2\.0", "1 50.0"), r"_1\.jpg: box .* lies outside the image of 20 x 12"),
        (_edit("parts/part_locs.txt", r"1 1 .*\n", ""), r"part_locs\.txt: image 1 has 14 parts; expected 15"),
        (_edit("parts/part_locs.txt", r"1 1 ", "1 16 "), r"part_locs\.txt:1: part 16 of image 1; expected parts 1 to"),
        (_edit("parts/part_locs.txt", r"1 1 0\.0", "1 1 nan"), r"part_locs\.txt:1: x is 'nan'; expected a number"),
        (lambda top: (top / "classes.txt").write_text(""), r"classes\.txt: names no class"),
        (lambda top: (top / "classes.txt").unlink(), r"classes\.txt: the file is missing"),
        (lambda top: (top / "images" / CLASSES[0] / "Bird_0000_1.jpg").unlink(), r"_1\.jpg: the image is missing, but"),
        (lambda top: (top / "segmentations").mkdir(), r"_1\.png: the image is missing"),
        (
            lambda top: (
                _add_masks(top, top / "segmentations")
                or Image.new("L", (3, 4)).save(top / "segmentations" / CLASSES[0] / "Bird_0000_1.png")
            ),
            r"_1\.png: \(4, 3\) pixels; its image has \(12, 20\)",
        ),
        (lambda top: [(top / f).write_text("") for f in LISTS], r"no image is in split 'val'"),
    ],
)
def test_what_is_wrong_is_named(top: Path, change: Callable[[Path], object], message: str) -> None:
    change(top)
    with pytest.raises(DataError, match=message):
        load_dataset("cub200", "val", top.parent)[0]


LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "parts/part_locs.txt")


def test_what_is_wrong_with_cubv2_is_named(top: Path) -> None:
    with pytest.raises(UsageError, match=r"CUBV2: no such folder, but val='cubv2'\. Unpack CUBV2\.tar"):
        load_dataset("cub200", "val", top.parent, val="cubv2")
    metadata = _add_v2(top.parent)
    (metadata / "class_labels.txt").write_text((metadata / "class_labels.txt").read_text().replace(",1", ",2"))
    with pytest.raises(DataError, match=r"image '001\.Black.*' has no class from 0 to 1, or is not in .*CUBV2"):
        load_dataset("cub200", "val", top.parent, val="cubv2")


def test_wrong_options_and_data_that_are_not_there(top: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"val is 'v2'; expected one of held-out, cubv2"):
        load_dataset("cub200", "train", top.parent, val="v2")
    with pytest.raises(UsageError, match=r"max_side is 1"):
        load_dataset("cub200", "train", top.parent, max_side=1)
    with pytest.raises(UsageError, match=r"CUB_200_2011: no such folder.*download=True"):
        load_dataset("cub200", "train", top / "images")


@pytest.fixture
def server(top: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    content = Path(shutil.make_archive(str(top.parent / "made"), "gztar", top.parent, top.name)).read_bytes()
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.001)
    with serve(content, monkeypatch) as faults:
        monkeypatch.setattr(cub200, "URL", faults.url)
        monkeypatch.setattr(cub200, "MD5", hashlib.md5(content).hexdigest())
        yield faults


def test_download_over_a_bad_connection(server: Server, top: Path, tmp_path: Path) -> None:
    server.codes, server.cuts = [503], [1000, 500]
    root = tmp_path / "new" / "root"
    data = load_dataset("cub200", "val", root, download=True)
    assert [sample["id"] for sample in data] == _ids(top.parent, "val")
    assert server.asked == [None, None, "bytes=1000-", "bytes=1500-"]
    assert len(load_dataset("cub200", "test", root, download=True)) == 4 and len(server.asked) == 4


def test_corrupt_and_short_downloads_leave_nothing(server: Server, tmp_path: Path) -> None:
    whole, root = server.content, tmp_path / "new"
    for content in (whole[:-1] + b"!", whole[:-9]):
        server.content = content
        with pytest.raises(DownloadError, match=r"CUB_200_2011\.tgz: md5 .*It was removed"):
            load_dataset("cub200", "val", root, download=True)
        assert not (root / "CUB_200_2011").exists() and not (root / "CUB_200_2011.tgz").exists()
    server.content = whole
    assert len(load_dataset("cub200", "val", root, download=True)) == 4
