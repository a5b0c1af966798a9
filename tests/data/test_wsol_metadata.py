"""The official metadata files: read, written, and every way in which they can be wrong."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsl_core.data.wsol_metadata import WSOLMetadata, check_scores, read_score_map, read_wsol_metadata
from wsl_core.data.wsol_metadata import write_wsol_metadata as write
from wsl_core.errors import DataError, UsageError

IDS = ("val2/0/a.jpeg", "val2/0/b.jpeg", "val2/1/c.jpeg")
BOXES = WSOLMetadata(
    IDS,
    dict(zip(IDS, (0, 0, 1), strict=True)),
    dict(zip(IDS, ((500, 375), (300, 200), (7, 9)), strict=True)),
    {IDS[0]: [(156, 163, 318, 230), (0, 0, 499, 374)], IDS[1]: [(28, 94, 285, 103)], IDS[2]: [(0, 1, 6, 8)]},
)
MASKS = WSOLMetadata(
    IDS,
    BOXES.class_labels,
    {},
    {},
    {IDS[0]: ["a_1.png", "a_2.png"], IDS[1]: ["b_1.png"], IDS[2]: ["c_1.png"]},
    {IDS[0]: "a_ignore.png", IDS[1]: "b_ignore.png"},
)
LAYOUT = {
    "image_ids.txt": "val2/0/a.jpeg\nval2/0/b.jpeg\nval2/1/c.jpeg\n",
    "class_labels.txt": "val2/0/a.jpeg,0\nval2/0/b.jpeg,0\nval2/1/c.jpeg,1\n",
    "image_sizes.txt": "val2/0/a.jpeg,500,375\nval2/0/b.jpeg,300,200\nval2/1/c.jpeg,7,9\n",
    "localization.txt": (
        "val2/0/a.jpeg,156,163,318,230\nval2/0/a.jpeg,0,0,499,374\nval2/0/b.jpeg,28,94,285,103\nval2/1/c.jpeg,0,1,6,8\n"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in LAYOUT.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_files_hold_what_the_official_ones_do(tmp_path: Path, folder: Path) -> None:
    assert read_wsol_metadata(folder) == BOXES
    write(tmp_path / "new", BOXES)
    assert {path.name: path.read_text() for path in (tmp_path / "new").iterdir()} == LAYOUT


@pytest.mark.parametrize("metadata", [BOXES, MASKS, WSOLMetadata(IDS, BOXES.class_labels), WSOLMetadata(IDS)])
def test_what_is_written_is_read_again(tmp_path: Path, metadata: WSOLMetadata) -> None:
    (tmp_path / "val").mkdir()  # an empty folder may be there already
    write(tmp_path / "val", metadata)
    assert read_wsol_metadata(tmp_path / "val") == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["val"]


def test_the_ignore_mask_stands_on_the_first_line_of_an_image_only(tmp_path: Path) -> None:
    write(tmp_path / "val", MASKS)
    assert (tmp_path / "val" / "localization.txt").read_text().splitlines() == [
        "val2/0/a.jpeg,a_1.png,a_ignore.png",
        "val2/0/a.jpeg,a_2.png,",
        "val2/0/b.jpeg,b_1.png,b_ignore.png",
        "val2/1/c.jpeg,c_1.png,",
    ]


def test_files_of_other_systems_and_blank_lines(folder: Path) -> None:
    for name, text in LAYOUT.items():
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode())
    assert read_wsol_metadata(folder) == BOXES


@pytest.mark.parametrize(
    ("name", "number", "line", "message"),
    [
        ("image_ids.txt", 2, "val2/0/a.jpeg", "'val2/0/a.jpeg' is there already"),
        ("image_ids.txt", 2, "a,b", "found 'a,b'; expected id"),
        ("class_labels.txt", 2, "val2/0/b.jpeg", "expected id, class, separated by commas"),
        ("class_labels.txt", 2, "val2/0/b.jpeg,cat", "class is 'cat'; expected a whole number"),
        ("class_labels.txt", 3, "val2/0/b.jpeg,1", "'val2/0/b.jpeg' is there already"),
        ("class_labels.txt", 1, "val2/0/z.jpeg,1", "'val2/0/z.jpeg' is not in image_ids.txt"),
        ("class_labels.txt", 1, ",1", "expected id, class"),
        ("image_sizes.txt", 3, "val2/1/c.jpeg,7", "expected id, width, height"),
        ("image_sizes.txt", 3, "val2/1/c.jpeg,0,9", "width is '0'; expected a whole number from 1 on"),
        ("image_sizes.txt", 3, "val2/1/c.jpeg,7.5,9", "width is '7.5'"),
        ("image_sizes.txt", 3, "val2/1/c.jpeg,7,²", "height is '²'"),
        ("localization.txt", 4, "val2/1/c.jpeg,0,1,6", "expected id, x0, y0, x1, y1"),
        ("localization.txt", 4, "val2/1/c.jpeg,m.png,i.png", "expected id, x0, y0, x1, y1"),
        ("localization.txt", 4, "val2/1/c.jpeg,0,1,6,8,", "expected id, x0, y0, x1, y1"),
        ("localization.txt", 4, "val2/1/c.jpeg,0,-1,6,8", "y0 is '-1'"),
        ("localization.txt", 4, "val2/1/c.jpeg,0,1,nan,8", "x1 is 'nan'"),
        ("localization.txt", 4, "val2/1/c.jpeg,3,1,3,8", "box 3, 1, 3, 8 has no area"),
        ("localization.txt", 4, "val2/1/c.jpeg,0,8,6,1", "box 0, 8, 6, 1 has no area"),
        ("localization.txt", 2, "val2/9/z.jpeg,0,1,6,8", "'val2/9/z.jpeg' is not in image_ids.txt"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, name: str, number: int, line: str, message: str) -> None:
    lines = LAYOUT[name].splitlines()
    lines[number - 1] = line
    (folder / name).write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_wsol_metadata(folder)
    assert str(caught.value).startswith(f"{folder / name}:{number}: ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("image_ids.txt", "\n", r"image_ids\.txt: the file is missing or empty"),
        ("image_ids.txt", None, r"image_ids\.txt: the file is missing or empty"),
        ("localization.txt", "val2/0/a.jpeg,1,1,9,9\n", r"localization\.txt: no line for 2 images .* 'val2/0/b\.jpeg'"),
        ("class_labels.txt", "val2/1/c.jpeg,1\n", r"class_labels\.txt: no line for 2 images .* 'val2/0/a\.jpeg'"),
        ("image_sizes.txt", "val2/0/b.jpeg,9,9\n", r"image_sizes\.txt: no line for 2 images"),
        ("image_sizes.txt", None, r"image_sizes\.txt: image 'val2/0/a\.jpeg' is missing; boxes are scaled by its size"),
    ],
)
def test_images_that_a_file_lacks_are_named(folder: Path, name: str, text: str | None, message: str) -> None:
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_wsol_metadata(folder)


def test_lists_of_masks_that_are_wrong(tmp_path: Path) -> None:
    write(tmp_path / "val", MASKS)
    path = tmp_path / "val" / "localization.txt"
    for line, message in [
        ("val2/0/a.jpeg,a_2.png,again.png", r"localization\.txt:2: a second ignore mask, 'again\.png'"),
        ("val2/0/a.jpeg,,", r"localization\.txt:2: no mask is named"),
        ("val2/0/a.jpeg,1,2,3,4", r"localization\.txt:2: .* expected id, mask, ignore mask"),
    ]:
        lines = path.read_text().splitlines()
        lines[1] = line
        path.write_text("\n".join(lines))
        with pytest.raises(DataError, match=message):
            read_wsol_metadata(tmp_path / "val")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name in ("a,b.jpg", "a\nb.jpg", " a.jpg"):
        with pytest.raises(DataError, match="which the format cannot hold"):
            write(tmp_path / "new", WSOLMetadata((name,)))
    with pytest.raises(UsageError, match="boxes and masks"):
        write(tmp_path / "new", replace(MASKS, boxes=BOXES.boxes))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "notes.txt").write_text("mine")
    for there in (tmp_path / "val", tmp_path / "val" / "notes.txt"):
        with pytest.raises(UsageError, match="found something there already"):
            write(there, BOXES)
    assert (tmp_path / "val" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("call", "after"), [("fsync", 0), ("fsync", 3), ("replace", 0), ("replace", 3), ("replace", 4)]
)
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int) -> None:
    real, calls = getattr(os, call), []

    def fails(*arguments: object, **named: object) -> None:
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **named)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "val", BOXES)
    assert list(tmp_path.iterdir()) == []


def test_boxes_are_scaled_and_truncated_as_officially() -> None:
    assert BOXES.scaled_boxes(IDS[0]).tolist() == [[69, 97, 143, 138], [0, 0, 224, 224]]
    one = WSOLMetadata(("a",), {}, {"a": (10, 20)}, {"a": [(1, 2, 4, 3)]})  # 35 x 10 in the official unit test
    assert one.scaled_boxes("a", 35)[0, [0, 2]].tolist() == [3, 14 + 1]
    assert one.scaled_boxes("a", 10)[0, [1, 3]].tolist() == [1, 1 + 1]


@given(st.integers(1, 999), st.data())
def test_scaled_boxes_lie_in_the_map(width: int, data: st.DataObject) -> None:
    x0 = data.draw(st.integers(0, width - 1))
    x1 = data.draw(st.integers(x0, width - 1))
    metadata = WSOLMetadata(("a",), {}, {"a": (width, 1)}, {"a": [(x0, 0, x1, 0)]})
    left, _, right, _ = metadata.scaled_boxes("a")[0].tolist()
    assert (left, right) == (int(float(x0) * 224.0 / float(width)), int(float(x1) * 224.0 / float(width)) + 1)
    assert 0 <= left < right <= 224


@pytest.mark.parametrize("mode", ["L", "1", "P"])
@pytest.mark.parametrize("size", [(224, 224), (300, 199), (37, 500), (1, 3), (640, 1)])
def test_masks_are_those_of_opencv(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    random = np.random.default_rng(size[0])
    written = [random.random(size[::-1]) < share for share in (0.2, 0.3, 0.5)]
    for name, mask in zip(("a_1.png", "a_2.png", "a_ignore.png"), written, strict=True):
        image = Image.fromarray(mask.astype(np.uint8) * 255)
        if mode == "P":
            image = Image.fromarray(mask.astype(np.uint8), "P")
            image.putpalette([0, 0, 0, 128, 0, 0])
        elif mode == "1":
            image = image.convert("1")
        image.save(tmp_path / name)
    read = [cv2.imread(str(tmp_path / name), cv2.IMREAD_GRAYSCALE) for name in ("a_1.png", "a_2.png", "a_ignore.png")]
    first, second, ignore = (cv2.resize(np.float32(m), (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5 for m in read)
    foreground = first | second
    mask = MASKS.read_mask(IDS[0], tmp_path)
    np.testing.assert_array_equal(mask, foreground + 255 * (ignore & ~foreground))


def test_masks_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c_1\.png: the image is missing"):
        MASKS.read_mask(IDS[2], tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "c_1.png")
    with pytest.raises(DataError, match=r"c_1\.png: mode RGB; a mask has a palette"):
        MASKS.read_mask(IDS[2], tmp_path)
    Image.new("L", (4, 4), 200).save(tmp_path / "c_1.png")
    assert (MASKS.read_mask(IDS[2], tmp_path, side=6) == 1).all()  # without an ignore mask


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, bool])
def test_maps_of_any_type_become_float64(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "a.jpg", np.eye(4, dtype=dtype))
    score_map = read_score_map(tmp_path / "a.jpg.npy", side=4)
    assert score_map.dtype == torch.float64 and torch.equal(score_map, torch.eye(4, dtype=torch.float64))


def test_maps_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(DataError, match=r"a\.npy: the map is missing"):
        read_score_map(path)
    np.save(path, np.zeros((224, 224)))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:90], whole[:-8]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npy: not a whole \.npy file"):
            read_score_map(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: not a whole \.npy file of numbers"):
        read_score_map(path)
    np.save(path, np.full((224, 224), "x"))
    with pytest.raises(DataError, match=r"a\.npy: found an array of <U1; expected one array of numbers"):
        read_score_map(path)
    with path.open("wb") as file:
        np.savez(file, np.zeros((224, 224)))
    with pytest.raises(DataError, match=r"a\.npy: found an archive of arrays"):
        read_score_map(path)
    for shape in [(14, 14), (1, 224, 224), (224, 225), ()]:
        np.save(path, np.zeros(shape))
        with pytest.raises(DataError, match=r"a\.npy: found shape \(.*\); expected \(224, 224\)\. Resize"):
            read_score_map(path)
    for value, found in [(np.nan, "NaN"), (-0.5, "values from -0.5 to 0"), (np.inf, "values from 0 to inf")]:
        np.save(path, np.pad([[value]], (0, 223)))
        with pytest.raises(DataError, match=rf"a\.npy: found {found}; expected scores in \[0, 1\]"):
            read_score_map(path)


def test_constant_maps_are_accepted() -> None:
    for value in (0.0, 0.3, 1.0):
        check_scores(np.full((3, 3), value), "constant")
