"""ImageNet in its official layout, in torchvision's and Kaggle's, with ImageNetV2, whole and broken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from wsl_core.data import collate, load_dataset
from wsl_core.data.imagenet import ImageNet
from wsl_core.errors import DataError, UsageError

HEIGHT, WIDTH = 12, 20
WORDS = {"n01440764": "tench, Tinca tinca", "n03126707": "crane", "n02012849": "crane"}
WNIDS = sorted(WORDS)  # the crane that is a bird comes before the machine
TRUTH = ["3", "1", "2", "1"]  # numbers of WORDS, from 1, of the four images of val
TRUE_WNIDS = [list(WORDS)[int(number) - 1] for number in TRUTH]
VAL = [f"ILSVRC2012_val_{number:08}" for number in range(1, 5)]


def _xml(*boxes: tuple[int, int, int, int], width: int = WIDTH, height: int = HEIGHT) -> str:
    found = "".join(
        f"<object><name>Scottish_deerhound</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for x0, y0, x1, y1 in boxes
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{found}</annotation>"


def _write_meta(path: Path, words: dict[str, str]) -> None:
    """meta.mat: the classes, and behind them a synset that is none, for it has children."""
    rows = [(n, wnid, names, 0) for n, (wnid, names) in enumerate(words.items(), start=1)]
    synsets = np.empty((len(rows) + 1, 1), dtype=[(name, object) for name in META])
    for position, row in enumerate([*rows, (len(rows) + 1, "n00001740", "entity", 3)]):
        synsets[position, 0] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"synsets": synsets})


META = ("ILSVRC2012_ID", "WNID", "words", "num_children")


def _write_image(path: Path, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "navy").save(path)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "ILSVRC2012"
    devkit = top / "ILSVRC2012_devkit_t12" / "data"
    _write_meta(devkit / "meta.mat", WORDS)
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{line}\n" for line in TRUTH))
    (top / "ILSVRC2012_bbox_val_v3" / "val").mkdir(parents=True)
    for name in VAL:
        _write_image(top / "ILSVRC2012_img_val" / f"{name}.JPEG")
        (top / "ILSVRC2012_bbox_val_v3" / "val" / f"{name}.xml").write_text(_xml((0, 2, 19, 5), (3, 4, 6, 11)))
    for wnid in WNIDS:
        (top / "ILSVRC2012_bbox_train_v2" / wnid).mkdir(parents=True)
        for number in (7, 11):
            _write_image(top / "ILSVRC2012_img_train" / wnid / f"{wnid}_{number}.JPEG")
        box = top / "ILSVRC2012_bbox_train_v2" / wnid / f"{wnid}_7.xml"
        box.write_text(_xml((2, 4, 9, 23), (50, 2, 60, 9), (8, 3, 4, 9), width=40, height=24))
    return top


def _add_v2(top: Path) -> Path:
    metadata = top.parent / "metadata" / "ILSVRC" / "val"
    metadata.mkdir(parents=True)
    ids = [f"val2/{label}/a31041fd{label}.jpeg" for label in range(len(WNIDS))]
    for id in ids:
        _write_image(top / id)
    (metadata / "image_ids.txt").write_text("".join(f"{id}\n" for id in ids))
    (metadata / "class_labels.txt").write_text("".join(f"{id},{label}\n" for label, id in enumerate(ids)))
    (metadata / "image_sizes.txt").write_text("".join(f"{id},{WIDTH},{HEIGHT}\n" for id in ids))
    (metadata / "localization.txt").write_text("".join(f"{id},1,2,4,5\n{id},6,0,19,11\n" for id in ids))
    return metadata


def test_train(top: Path) -> None:
    data = load_dataset("imagenet", "train", top.parent)
    assert data.wnids == tuple(WNIDS) and data.classes == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert (data.name, data.task, len(data)) == ("imagenet", "single", 6) and "do not redistribute" in data.licence
    assert [data[i]["id"] for i in (0, 1)] == [f"train/n01440764/n01440764_{number}.JPEG" for number in (11, 7)]
    assert [int(sample["labels"].argmax()) for sample in data] == [0, 0, 1, 1, 2, 2]
    assert collate(list(data)).keys() == {"id", "image", "size", "labels"}  # some have no boxes


def test_trains_boxes_are_scaled_and_what_is_outside_or_empty_is_left_out(top: Path) -> None:
    data = load_dataset("imagenet", "train", top.parent)
    assert "boxes" not in data[0]
    assert data[1]["boxes"].tolist() == [[1, 2, 5, 12]] and data[1]["box_labels"].tolist() == [0]
    (top / "ILSVRC2012_bbox_train_v2/n01440764/n01440764_7.xml").write_text(_xml((50, 2, 60, 9)))
    assert data[1]["boxes"].shape == (0, 4) and data[1]["box_labels"].dtype == torch.int64


def test_the_official_val_is_test(top: Path) -> None:
    data = load_dataset("imagenet", "test", top.parent)
    assert [data.wnids[int(sample["labels"].argmax())] for sample in data] == TRUE_WNIDS
    assert [sample["id"] for sample in data] == [f"val/{name}.JPEG" for name in VAL]
    assert data[0]["boxes"].tolist() == [[0, 2, 20, 6], [3, 4, 7, 12]] and data[0]["boxes"].dtype == torch.float32
    assert data[0]["box_labels"].tolist() == [1, 1]


def test_val_images_in_folders_give_the_same(top: Path) -> None:
    flat = {sample["id"]: sample for sample in load_dataset("imagenet", "test", top.parent)}
    for name, wnid in zip(VAL, TRUE_WNIDS):
        (top / "val" / wnid).mkdir(parents=True, exist_ok=True)
        shutil.move(top / "ILSVRC2012_img_val" / f"{name}.JPEG", top / "val" / wnid)
    (top / "ILSVRC2012_img_val").rmdir()
    (top / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt").unlink()
    sorted_by_class = load_dataset("imagenet", "test", top.parent)
    assert len(sorted_by_class) == 4
    for sample in sorted_by_class:
        assert sample["labels"].tolist() == flat[sample["id"]]["labels"].tolist()
        assert torch.equal(sample["boxes"], flat[sample["id"]]["boxes"])


def test_kaggles_layout(top: Path) -> None:
    before = [(sample["id"], sample["labels"].tolist()) for sample in load_dataset("imagenet", "train", top.parent)]
    for folder, source in {
        "Data/CLS-LOC/train": "ILSVRC2012_img_train",
        "Data/CLS-LOC/val": "ILSVRC2012_img_val",
        "Annotations/CLS-LOC/train": "ILSVRC2012_bbox_train_v2",
    }.items():
        (top / folder).parent.mkdir(parents=True, exist_ok=True)
        (top / source).rename(top / folder)
    (top / "ILSVRC2012_devkit_t12/data/meta.mat").unlink()
    (top / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {WORDS[wnid]}\n" for wnid in WNIDS))
    data = load_dataset("imagenet", "train", top.parent)
    assert data.classes[0] == "tench" and [(s["id"], s["labels"].tolist()) for s in data] == before
    assert data[1]["boxes"].tolist() == [[1, 2, 5, 12]]
    with pytest.raises(UsageError, match=r"meta\.mat: the file is missing; without it only folders say the classes"):
        load_dataset("imagenet", "test", top.parent)  # Kaggle's list has another order than the ground truth


def test_imagenetv2_is_val(top: Path) -> None:
    _add_v2(top)
    data = load_dataset("imagenet", "val", top.parent, max_side=10)
    sample = data[2]
    assert len(data) == 3 and sample["id"] == "val2/2/a31041fd2.jpeg" and sample["labels"].tolist() == [0, 0, 1]
    assert sample["boxes"].tolist() == [[0.5, 1, 2.5, 3], [3, 0, 10, 6]] and sample["box_labels"].tolist() == [2, 2]
    assert sample["image"].shape == (3, 6, 10)


def test_the_version_follows_the_images_and_the_boxes(top: Path) -> None:
    before = ImageNet("test", top.parent).version
    assert ImageNet("test", top.parent).version == before != ImageNet("train", top.parent).version
    shutil.rmtree(top / "ILSVRC2012_bbox_val_v3")
    assert "boxes" not in ImageNet("test", top.parent)[0] and ImageNet("test", top.parent).version != before


def test_what_to_get_and_where_to_put_it(top: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ILSVRC2012: no such folder.*account.*Get ILSVRC2012_img_train\.tar"):
        load_dataset("imagenet", "train", top)
    with pytest.raises(UsageError, match=r"val2: no such folder; split 'val' is ImageNetV2\. Get imagenetv2-thresh"):
        load_dataset("imagenet", "val", tmp_path)
    (top / "val2").mkdir()
    with pytest.raises(UsageError, match=r"metadata/ILSVRC/val: no such folder.*copy that repository's folder"):
        load_dataset("imagenet", "val", tmp_path)
    shutil.rmtree(top / "ILSVRC2012_img_train")
    with pytest.raises(UsageError, match=r"ILSVRC2012_img_train: no such folder.*inner archives into folders"):
        load_dataset("imagenet", "train", tmp_path)
    with pytest.raises(UsageError, match="max_side is 1"):
        load_dataset("imagenet", "test", tmp_path, max_side=1)


def _write(name: str, content: str) -> Callable[[Path], object]:
    return lambda top: (top / name).write_text(content)


DEVKIT = "ILSVRC2012_devkit_t12/data"
GROUND_TRUTH = f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt"
XML = f"ILSVRC2012_bbox_val_v3/val/{VAL[0]}.xml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_write(GROUND_TRUTH, "3\n1\n2\n"), r"00000004\.JPEG: 1 images are missing, or have no line in .*has 3"),
        (_write(GROUND_TRUTH, "3\n1\n4\n1\n"), r"ground_truth\.txt:3: found '4'; expected a class from 1 to 3"),
        (lambda top: (top / GROUND_TRUTH).unlink(), r"ground_truth\.txt: the file is missing"),
        (lambda top: (top / f"ILSVRC2012_img_val/{VAL[1]}.JPEG").unlink(), r"00000002\.JPEG: 1 images are missing"),
        (lambda top: (top / XML).unlink(), r"00000001\.xml: the file is missing"),
        (_write(XML, _xml((1, 1, 2, 2), width=0)), r"00000001\.xml: size 0 x 12; expected pixels"),
        (_write(XML, "<annotation>"), r"00000001\.xml: not XML"),
        (lambda top: (top / DEVKIT / "meta.mat").unlink(), r"meta\.mat: the file is missing"),
        (lambda top: (top / DEVKIT / "meta.mat").write_bytes(b"x" * 200), r"meta\.mat: cannot be read as a MATLAB"),
        (lambda top: savemat(top / DEVKIT / "meta.mat", {"synsets": {"WNID": "n1"}}), r"expected .*'ILSVRC2012_ID'"),
        (lambda top: _write_meta(top / DEVKIT / "meta.mat", {}), r"meta\.mat: 0 classes"),
    ],
)
def test_what_is_wrong_is_named(top: Path, change: Callable[[Path], object], message: str) -> None:
    change(top)
    with pytest.raises(DataError, match=message):
        load_dataset("imagenet", "test", top.parent)[0]


def test_a_class_without_images_is_named(top: Path) -> None:
    shutil.rmtree(top / "ILSVRC2012_img_train" / WNIDS[1])
    with pytest.raises(DataError, match=rf"{WNIDS[1]}: holds no image .* Unpack {WNIDS[1]}\.tar into it"):
        load_dataset("imagenet", "train", top.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764\n", r"mapping\.txt:1: found 'n01440764'; expected a WordNet id, a space and names"),
        ("n1 a\nn1 b\n", r"mapping\.txt: 2 classes, 1 of them different"),
    ],
)
def test_a_broken_list_of_kaggles_is_named(top: Path, text: str, message: str) -> None:
    (top / f"{DEVKIT}/meta.mat").unlink()
    (top / "LOC_synset_mapping.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset("imagenet", "train", top.parent)


def test_metadata_of_another_version_of_imagenetv2_are_named(top: Path) -> None:
    metadata = _add_v2(top)
    for file in metadata.iterdir():
        file.write_text(file.read_text().replace("a31041fd", ""))
    with pytest.raises(DataError, match=r"image 'val2/0/0\.jpeg' has no class .*renamed once: get both again"):
        load_dataset("imagenet", "val", top.parent)
