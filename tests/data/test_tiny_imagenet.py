"""Tiny ImageNet in its official layout, whole and broken."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsl_core.data import collate, load_dataset, tiny_imagenet
from wsl_core.data.tiny_imagenet import TinyImageNet
from wsl_core.errors import DataError, DownloadError, UsageError

SPLITS = ("train", "val", "test")


@pytest.fixture
def broken(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the miniature that a test may break."""
    shutil.copytree(tiny_root, tmp_path, dirs_exist_ok=True)
    return tmp_path / "tiny-imagenet-200"


def test_samples_and_description(tiny_root: Path) -> None:
    train = load_dataset("tiny-imagenet", "train", tiny_root)
    assert train.classes == ("goldfish", "tabby", "banana") and train.wnids[0] == "n01443537"
    assert (train.name, train.split, train.task) == ("tiny-imagenet", "train", "single")
    assert "do not redistribute" in train.licence
    assert len(train) == 18
    sample = train[7]
    assert sample["id"] == "n02123045_1" and sample["labels"].tolist() == [0, 1, 0]
    assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.float32
    assert sample["boxes"].dtype == torch.float32 and sample["box_labels"].tolist() == [1]
    assert collate(list(train))["image"].shape == (18, 3, 64, 64)


@pytest.mark.parametrize("split", SPLITS)
def test_inclusive_boxes_become_half_open(tiny_root: Path, split: str) -> None:
    for sample in load_dataset("tiny-imagenet", split, tiny_root):
        x0, y0, x1, y1 = sample["boxes"][0].int().tolist()
        bright = sample["image"].amax(0) > 0.75  # the square, but for JPEG
        if sample["id"].endswith("_0") and split == "train":  # greyscale: the square is dimmer
            assert torch.equal(sample["image"][0], sample["image"][2])
            continue
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert (bright == inside).float().mean() > 0.98
        assert bright[y0 + 1 : y1 - 1, x1 - 1].float().mean() > 0.7  # the last column belongs to the square
        assert x1 == 64 or not bright[y0 + 1 : y1 - 1, x1].any()  # the next does not


def test_the_official_val_is_halved_within_each_class(tiny_root: Path) -> None:
    val, test = (load_dataset("tiny-imagenet", split, tiny_root) for split in ("val", "test"))
    assert [sample["id"] for sample in val] == [f"val_{number}" for number in (0, 2, 4, 5, 7, 9, 10, 12, 14)]
    assert [sample["id"] for sample in test] == [f"val_{number}" for number in (1, 3, 6, 8, 11, 13)]


def test_file_numbers_are_numbers(broken: Path) -> None:
    """2 comes before 100, whatever the order of the lines."""
    annotations = broken / "val" / "val_annotations.txt"
    lines = annotations.read_text().replace("val_1.JPEG", "val_100.JPEG").splitlines(keepends=True)
    annotations.write_text("".join(reversed(lines)))
    (broken / "val" / "images" / "val_1.JPEG").rename(broken / "val" / "images" / "val_100.JPEG")
    banana = [sample["id"] for sample in TinyImageNet("val", broken.parent) if sample["labels"][2]]
    assert banana == ["val_10", "val_12", "val_14"]
    goldfish = [sample["id"] for sample in TinyImageNet("test", broken.parent) if sample["labels"][0]]
    assert goldfish == ["val_2", "val_4"]  # of 0, 2, 3, 4, 100


def test_the_version_follows_the_annotations(broken: Path) -> None:
    before = TinyImageNet("train", broken.parent).version
    assert TinyImageNet("train", broken.parent).version == before != TinyImageNet("val", broken.parent).version
    boxes = broken / "train" / "n01443537" / "n01443537_boxes.txt"
    boxes.write_text(re.sub(r"\t\d+\n", "\t63\n", boxes.read_text(), count=1))
    assert TinyImageNet("train", broken.parent).version != before


def test_classes_of_one_name_are_told_apart(broken: Path) -> None:
    (broken / "words.txt").write_text("n01443537\tcrane\nn02123045\tcrane, bird\nn07753592\tbanana\n")
    assert TinyImageNet("train", broken.parent).classes == ("crane (n01443537)", "crane (n02123045)", "banana")


def _edit(name: str, pattern: str, replacement: str) -> Callable[[Path], None]:
    def change(top: Path) -> None:
        text = (top / name).read_text()
        changed = re.sub(pattern, replacement, text, count=1)
        assert changed != text
        (top / name).write_text(changed)

    return change


def _remove(pattern: str) -> Callable[[Path], None]:
    def change(top: Path) -> None:
        for path in list(top.glob(pattern)):
            path.unlink()

    return change


BOXES, VAL = "train/n02123045/n02123045_boxes.txt", "val/val_annotations.txt"


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        (_edit(BOXES, r"_1\.JPEG\t\d+", "_1.JPEG\tleft"), "train", r"boxes\.txt:2: x0 is 'left'; expected a number"),
        (_edit(BOXES, r"_1\.JPEG\t\d+", "_1.JPEG"), "train", r"boxes\.txt:2: 4 fields"),
        (_edit(BOXES, r"_1\.JPEG.*", "_1.JPEG\t70\t3\t80\t9"), "train", r"boxes\.txt:2: box .* outside the image"),
        (_edit(BOXES, r"_1\.JPEG.*", "_1.JPEG\t20\t3\t10\t9"), "train", r"boxes\.txt:2: box .* is empty"),
        (_edit(BOXES, r".*_1\.JPEG.*\n", ""), "train", r"n02123045_1\.JPEG: the image has no line in .*boxes\.txt"),
        (_edit(BOXES, r"(.*_1\.JPEG.*\n)", r"\1\1"), "train", r"n02123045_1\.JPEG: the image has several lines"),
        (
            _edit(BOXES, r"_1\.JPEG", "_x.JPEG"),
            "train",
            r"does not end in _NUMBER\.JPEG|_x\.JPEG: the image is missing",
        ),
        (
            _remove("train/n02123045/images/*_2.JPEG"),
            "train",
            r"n02123045_2\.JPEG: the image is missing, but has a line",
        ),
        (_remove("train/n02123045/images/*.JPEG"), "train", r"n02123045.images: holds no image"),
        (_remove(BOXES), "train", r"boxes\.txt: the file is missing"),
        (
            _edit(VAL, "n02123045", "n00000000"),
            "test",
            r"val_annotations\.txt:6: class 'n00000000' is not in wnids\.txt",
        ),
        (_remove("val/images/val_3.JPEG"), "val", r"val_3\.JPEG: the image is missing"),
        (_remove(VAL), "val", r"val_annotations\.txt: the file is missing"),
        (_remove("words.txt"), "val", r"words\.txt: the file is missing"),
        (_edit("words.txt", "n07753592.*\n", ""), "val", r"words\.txt: no line for class n07753592"),
        (_edit("wnids.txt", "n02123045", "n01443537"), "val", r"wnids\.txt: 3 classes, 2 of them different"),
    ],
)
def test_what_is_wrong_is_named(broken: Path, change: Callable[[Path], None], split: str, message: str) -> None:
    change(broken)
    with pytest.raises(DataError, match=message):
        load_dataset("tiny-imagenet", split, broken.parent)


def test_a_box_that_reaches_out_is_clipped(broken: Path) -> None:
    _edit(BOXES, r"_1\.JPEG.*", "_1.JPEG\t-3\t10\t64\t99")(broken)
    assert TinyImageNet("train", broken.parent)[7]["boxes"].tolist() == [[0, 10, 64, 64]]


def test_broken_images_are_named_when_read(broken: Path) -> None:
    images = broken / "train" / "n01443537" / "images"
    (images / "n01443537_1.JPEG").write_bytes((images / "n01443537_1.JPEG").read_bytes()[:500])
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(images / "n01443537_2.JPEG")
    train = TinyImageNet("train", broken.parent)
    with pytest.raises(DataError, match=r"n01443537_1\.JPEG: 500 bytes that cannot be read"):
        train[1]
    with pytest.raises(DataError, match=r"n01443537_2\.JPEG: \(32, 64\) pixels; expected 64 x 64"):
        train[2]


def test_files_of_the_desktop_do_not_count(broken: Path) -> None:
    for name in (".DS_Store", "._n01443537_1.JPEG", "Thumbs.db"):
        (broken / "train" / "n01443537" / "images" / name).write_bytes(b"x")
    assert len(TinyImageNet("train", broken.parent)) == 18


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny-imagenet-200: no such folder.*download=True"):
        load_dataset("tiny-imagenet", "train", tmp_path)


def test_download(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "made"), "zip", tiny_root, "tiny-imagenet-200"))
    content = archive.read_bytes()
    monkeypatch.setattr(tiny_imagenet, "URL", archive.as_uri())
    monkeypatch.setattr(tiny_imagenet, "BYTES", len(content))
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(content).hexdigest())
    root = tmp_path / "new" / "root"
    downloaded = load_dataset("tiny-imagenet", "val", root, download=True)
    assert [sample["id"] for sample in downloaded] == [s["id"] for s in load_dataset("tiny-imagenet", "val", tiny_root)]
    archive.unlink()
    assert len(load_dataset("tiny-imagenet", "train", root, download=True)) == 18  # nothing to fetch any more
    monkeypatch.setattr(tiny_imagenet, "MD5", "0" * 32)
    with pytest.raises(DownloadError, match=r"tiny-imagenet-200\.zip: md5 .*; expected 0{32}.*Move .* away"):
        shutil.rmtree(root / "tiny-imagenet-200")
        load_dataset("tiny-imagenet", "val", root, download=True)


def test_the_real_subset(shared_data: Path) -> None:
    if not (shared_data / "tiny-imagenet-200").is_dir():
        pytest.skip("no Tiny ImageNet among the real data")
    train, val, test = (load_dataset("tiny-imagenet", split, shared_data) for split in SPLITS)
    assert len(train.classes) == 20 and len(train) == 8000 and len(val) == len(test) == 500
    for half in (val, test):
        labels = torch.stack([half[i]["labels"] for i in range(0, len(half), 5)])
        assert labels.sum(0).tolist() == [5.0] * 20
    samples = [train[i] for i in range(0, len(train), 100)]
    boxes = torch.cat([sample["boxes"] for sample in samples])
    assert (boxes[:, :2] < boxes[:, 2:]).all() and boxes.min() >= 0 and boxes.max() == 64
    full = [float((s["boxes"][0, 2:] - s["boxes"][0, :2]).prod() / 64**2 >= 0.5) for part in (val, test) for s in part]
    assert abs(np.mean(full) - 0.46) < 0.005  # the full frame's share at IoU 0.5, known from elsewhere
