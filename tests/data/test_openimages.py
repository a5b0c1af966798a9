"""OpenImages30k in wsolevaluation's layout, whole and broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsl_core.data import collate, load_dataset
from wsl_core.data.openimages import OpenImages30k
from wsl_core.data.wsol_metadata import read_wsol_metadata
from wsl_core.errors import DataError, UsageError

HEIGHT, WIDTH = 12, 20
CODES = ("0bt_c3", "0bt9lr", "01226z")  # in the order of their numbers, which is not sorted


def _write_mask(path: Path, top: int, bottom: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom] = 255
    Image.fromarray(mask).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images a class and split. Objects: rows 2 to 4 and 4 to 6; to ignore: rows 6 to 8."""
    for split in ("train", "val", "test"):
        ids = [f"{split}/{code}/{number}cd9ac0169ec7df.jpg" for code in CODES for number in range(2)]
        metadata = tmp_path / "metadata" / "OpenImages" / split
        metadata.mkdir(parents=True)
        (metadata / "image_ids.txt").write_text("".join(f"{id}\n" for id in ids))
        (metadata / "class_labels.txt").write_text("".join(f"{id},{n // 2}\n" for n, id in enumerate(ids)))
        lines = []
        for id in ids:
            path = tmp_path / "OpenImages" / id
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), "maroon").save(path)
            stem = id.removesuffix(".jpg")
            if split != "train":
                _write_mask(tmp_path / "OpenImages" / f"{stem}_m1.png", 2, 5)
                _write_mask(tmp_path / "OpenImages" / f"{stem}_m2.png", 4, 7)
                _write_mask(tmp_path / "OpenImages" / f"{stem}_ignore.png", 6, 9)
                lines += [f"{id},{stem}_m1.png,{stem}_ignore.png\n", f"{id},{stem}_m2.png,\n"]
        (metadata / "localization.txt").write_text("".join(lines))
    return tmp_path


def test_samples_and_description(root: Path) -> None:
    data = load_dataset("openimages30k", "val", root)
    assert (data.name, data.task, data.classes, len(data)) == ("openimages30k", "single", CODES, 6)
    assert "CC BY" in data.licence
    sample = data[5]
    assert sample.keys() == {"id", "image", "labels", "mask"} and sample["id"] == "val/01226z/1cd9ac0169ec7df.jpg"
    assert sample["labels"].tolist() == [0, 0, 1]
    assert sample["mask"].dtype == torch.int64
    assert sample["mask"][:, 0].tolist() == [0, 0, 3, 3, 3, 3, 3, 255, 255, 0, 0, 0]  # an object wins over ignore
    assert collate(list(data))["mask"].shape == (6, HEIGHT, WIDTH)


def test_train_has_no_masks_and_splits_share_no_image(root: Path) -> None:
    splits = {split: load_dataset("openimages30k", split, root) for split in ("train", "val", "test")}
    assert splits["train"][0].keys() == {"id", "image", "labels"}
    assert len({sample["id"] for data in splits.values() for sample in data}) == 18
    assert len({data.version for data in splits.values()}) == 3


def test_masks_are_those_that_the_evaluator_scores(root: Path) -> None:
    """Where the image has the evaluator's size, pixel for pixel."""
    metadata = read_wsol_metadata(root / "metadata" / "OpenImages" / "test")
    Image.new("RGB", (16, 16)).save(root / "OpenImages" / metadata.image_ids[0])
    expected = metadata.read_mask(metadata.image_ids[0], root / "OpenImages", 16)
    assert torch.equal(load_dataset("openimages30k", "test", root)[0]["mask"], expected)  # class 0 has value 1


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 40))
def test_masks_have_their_images_size_whatever_their_own(root: Path, height: int, width: int, max_side: int) -> None:
    stem = root / "OpenImages" / "val" / CODES[1] / "0cd9ac0169ec7df"
    for kind in ("m1", "m2"):
        _write_mask(stem.with_name(f"{stem.name}_{kind}.png"), 0, height, height, width)
    sample = load_dataset("openimages30k", "val", root, max_side=max_side)[2]
    assert sample["mask"].shape == sample["image"].shape[-2:] and max(sample["mask"].shape) == min(max_side, WIDTH)
    assert sample["mask"].unique().tolist() == [2]


def test_words_for_the_codes(root: Path) -> None:
    table = root / "OpenImages" / "class-descriptions-boxable.csv"
    table.write_text('/m/011k07,Tortoise\n/m/0bt_c3,Book\n/m/0bt9lr,Dog\n/m/01226z,"Book"\n')
    assert load_dataset("openimages30k", "val", root).classes == ("Book (0bt_c3)", "Dog", "Book (01226z)")
    for text, message in {
        "/m/011k07,Tortoise\n": r"boxable\.csv: no line for class /m/0bt_c3 \(3 missing\)",
        "LabelName,DisplayName\n": r"boxable\.csv:1: found 'LabelName,DisplayName'; expected /m/CODE,NAME",
    }.items():
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            load_dataset("openimages30k", "val", root)


def test_the_version_follows_the_metadata(root: Path) -> None:
    before = OpenImages30k("val", root).version
    assert OpenImages30k("val", root).version == before != OpenImages30k("val", root, max_side=8).version
    _replace("localization.txt", "_m2.png", "_m1.png")(root)
    assert OpenImages30k("val", root).version != before


def _replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root / "metadata" / "OpenImages" / "val" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


FIRST = "OpenImages/val/0bt_c3/0cd9ac0169ec7df"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / f"{FIRST}.jpg").unlink(), r"0cd9ac0169ec7df\.jpg: the image is missing, but .*lists it"),
        (lambda root: (root / f"{FIRST}_m1.png").unlink(), r"0cd9ac0169ec7df_m1\.png: .*missing"),
        (lambda root: (root / f"{FIRST}_ignore.png").write_bytes(b"x"), r"_ignore\.png: 1 bytes that cannot be read"),
        (_replace("class_labels.txt", ".jpg,0", ".jpg,1"), r"class_labels\.txt: images of class \d lie in the fo"),
        (_replace("class_labels.txt", ".jpg,0", ".jpg,x"), r"class_labels\.txt:1: class is 'x'; expected a whole num"),
        (
            _replace("class_labels.txt", ".jpg,0", ".jpg,7"),
            r"found the classes \[0, 1, 2, 7\] in 3 folders; expected 0",
        ),
        (
            lambda root: (root / "metadata/OpenImages/val/class_labels.txt").unlink(),
            r"class_labels\.txt: no line for image 'val/0bt_c3/0cd9ac0169ec7df\.jpg'",
        ),
        (
            _replace("localization.txt", "_ignore.png\n", "_ignore.png,\n"),
            r"localization\.txt:1: found .*; expected id",
        ),
    ],
)
def test_what_is_wrong_is_named(root: Path, change: Callable[[Path], object], message: str) -> None:
    change(root)
    with pytest.raises(DataError, match=message):
        load_dataset("openimages30k", "val", root)[0]


def test_what_to_get_and_where_to_put_it(root: Path) -> None:
    with pytest.raises(UsageError, match=r"OpenImages: no such folder\. The README of clovaai/wsolevaluation links"):
        load_dataset("openimages30k", "val", root / "metadata" / "OpenImages")
    (root / "metadata").rename(root / "elsewhere")
    with pytest.raises(UsageError, match=r"metadata/OpenImages/val: no such folder.*copy that repository's folder"):
        load_dataset("openimages30k", "val", root)
    with pytest.raises(UsageError, match="max_side is 1"):
        load_dataset("openimages30k", "val", root, max_side=1)
