"""PF-WILLOW and PF-PASCAL in their official layouts, whole and broken."""

import csv
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from wsl_core.data import collate, load_dataset
from wsl_core.data.proposal_flow import PFPascal, PFWillow
from wsl_core.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
WIDTH, HEIGHT = 20, 12
NAMES = {
    "car(S)": [f"Cars_{n:03}a" for n in range(0, 12, 2)],
    "car(M)": [f"Cars_{n:03}a" for n in range(0, 12, 3)],  # some of car(S), and some of another
    "duck(S)": [f"060_{n:04}" for n in range(5)],
}


def _points(seed: str, count: int) -> np.ndarray:
    """Points of an image, counted from 1, all different."""
    random = np.random.default_rng(sum(seed.encode()))
    return random.uniform([1, 1], [WIDTH, HEIGHT], (count, 2))


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 40)).save(path)


@pytest.fixture
def willow(tmp_path: Path) -> Path:
    """The top folder of a miniature PF-WILLOW: two classes of cars that share images, and ducks."""
    top = tmp_path / "PF-dataset-WILLOW"
    for kind, names in NAMES.items():
        for name in names:
            _image(top / kind / f"{name}.png")
            savemat(top / kind / f"{name}.mat", {"pts_coord": _points(kind + name, 10).T})
    (top / "derived").mkdir()
    (top / "derived" / "notes.csv").write_text("not a class")
    return top


def _ids(dataset: PFWillow | PFPascal) -> list[str]:
    return [sample["id"] for sample in dataset]


def test_samples_and_description(willow: Path) -> None:
    data = load_dataset("pf-willow", "test", willow.parent, official=True)
    assert data.classes == ("car(M)", "car(S)", "duck(S)") and len(data) == 15
    assert (data.name, data.split, data.task, data.image_size) == ("pf-willow", "test", "single", None)
    assert "academic use only" in data.licence and data.pair_ids is None
    assert data.keypoint_names[:2] == ("car(M)/1", "car(M)/2") and len(data.keypoint_names) == 30
    sample = data[4]
    assert sample["id"] == "car(S)/Cars_000a" and sample["labels"].tolist() == [0, 1, 0]
    assert sample["image"].shape == (3, HEIGHT, WIDTH) and sample.keys() == {"id", "image", "labels", "keypoints"}
    assert collate(list(data))["image"].shape == (15, 3, HEIGHT, WIDTH)


def test_matlabs_1_becomes_0_in_the_rows_of_the_class(willow: Path) -> None:
    for sample in load_dataset("pf-willow", "test", willow.parent, official=True):
        kind, name = sample["id"].split("/")
        first = 10 * ("car(M)", "car(S)", "duck(S)").index(kind)
        expected = torch.from_numpy(_points(kind + name, 10) - 1).float()
        assert torch.allclose(sample["keypoints"][first : first + 10, :2], expected, atol=1e-5)
        assert sample["keypoints"][:, 2].nonzero().flatten().tolist() == list(range(first, first + 10))
        others = [row for row in range(30) if not first <= row < first + 10]
        assert not sample["keypoints"][others].any()


def test_no_image_is_in_two_splits_not_even_under_two_classes(willow: Path) -> None:
    ids = {split: _ids(load_dataset("pf-willow", split, willow.parent)) for split in SPLITS}
    names = {split: {id.split("/")[1] for id in found} for split, found in ids.items()}
    assert not names["train"] & names["val"] | names["train"] & names["test"] | names["val"] & names["test"]
    assert sorted(chain.from_iterable(ids.values())) == _ids(
        load_dataset("pf-willow", "test", willow.parent, official=True)
    )
    # the cars' names, sorted, are numbers 0, 2, 3, 4, 6, 8, 9, 10; the ducks' 0 to 4
    cars = {"Cars_000a", "Cars_008a"}
    assert names["train"] == {*cars, "060_0000"} and names["val"] == {"Cars_002a", "Cars_009a", "060_0001"}


def test_the_benchmark_has_no_train_and_no_val(willow: Path) -> None:
    with pytest.raises(UsageError, match=r"official=True: found split 'val'; the benchmark has 'test' alone"):
        load_dataset("pf-willow", "val", willow.parent, official=True)


def test_published_pairs_count_where_they_are(willow: Path) -> None:
    rows = [
        "PF-dataset/car(S)/Cars_000a.png,PF-dataset/car(S)/Cars_004a.png,1.0",
        "PF-dataset/car(S)/Cars_004a.png,PF-dataset/car(S)/Cars_006a.png,1.0",
        "PF-dataset/winebottle(M)/246_0001.png,PF-dataset/winebottle(M)/246_0002.png,1.0",  # a class that is not there
    ]
    (willow / "test_pairs.csv").write_text("\n".join(["source_image,target_image,XA1", *rows]) + "\n")
    official = load_dataset("pf-willow", "test", willow.parent, official=True)
    assert official.pair_ids == (
        ("car(S)/Cars_000a", "car(S)/Cars_004a"), ("car(S)/Cars_004a", "car(S)/Cars_006a")
    )  # fmt: skip
    assert load_dataset("pf-willow", "test", willow.parent).pair_ids == (("car(S)/Cars_004a", "car(S)/Cars_006a"),)
    (willow / "test_pairs.csv").write_text("source_image,target_image\ncar(S)/Cars_000a.png,car(S)/Cars_99.png\n")
    with pytest.raises(DataError, match=r"test_pairs\.csv:2: .*Cars_99\.png is missing"):
        load_dataset("pf-willow", "test", willow.parent)


def test_a_missing_keypoint_is_not_visible(willow: Path) -> None:
    points = _points("x", 10).T
    points[:, 3], points[1, 5] = np.nan, np.nan
    savemat(willow / "duck(S)" / "060_0002.mat", {"pts_coord": points})
    sample = next(s for s in load_dataset("pf-willow", "test", willow.parent) if s["id"] == "duck(S)/060_0002")
    assert sample["keypoints"].isfinite().all()
    assert sample["keypoints"][20:, 2].tolist() == [1, 1, 1, 0, 1, 0, 1, 1, 1, 1]
    assert sample["keypoints"][[23, 25]].tolist() == [[0, 0, 0], [0, 0, 0]]


@settings(max_examples=20, deadline=None)
@given(max_side=st.integers(2, 30))
def test_shrinking_keeps_each_keypoint_at_its_place_in_the_picture(
    tmp_path_factory: pytest.TempPathFactory, max_side: int
) -> None:
    top = tmp_path_factory.mktemp("shrunk") / "PF-dataset-WILLOW"
    corners = np.array([[0.5, WIDTH + 0.5, 7.25], [0.5, HEIGHT + 0.5, 3.0]])  # the picture's corners, and a point
    _image(top / "duck(S)" / "1.png")
    savemat(top / "duck(S)" / "1.mat", {"pts_coord": corners})
    sample = load_dataset("pf-willow", "test", top.parent, official=True, max_side=max_side)[0]
    height, width = sample["image"].shape[-2:]
    assert max(height, width) == min(max_side, WIDTH)
    share = (sample["keypoints"][:, :2] + 0.5) / torch.tensor([width, height])
    expected = (torch.from_numpy(corners.T) - 0.5) / torch.tensor([WIDTH, HEIGHT])
    assert torch.allclose(share, expected.float(), atol=1e-5)


def test_the_version_follows_keypoints_and_options(willow: Path) -> None:
    def version(**options: object) -> str:
        return load_dataset("pf-willow", "train", willow.parent, **options).version

    before = version()
    assert version() == before != version(max_side=10)
    points = _points("duck(S)060_0000", 10).T
    points[0, 0] += 0.25
    savemat(willow / "duck(S)" / "060_0000.mat", {"pts_coord": points})
    assert version() != before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: (top / "duck(S)/060_0003.mat").unlink(), r"060_0003\.png: the image has no annotation"),
        (lambda top: (top / "duck(S)/060_0003.png").unlink(), r"060_0003\.mat: the annotation has no image"),
        (lambda top: _cut(top / "duck(S)/060_0003.mat"), r"060_0003\.mat: cannot be read as a MATLAB file"),
        (
            lambda top: savemat(top / "duck(S)/060_0003.mat", {"pts_coord": np.ones((10, 2))}),
            r"060_0003\.mat: pts_coord: found float64 of shape \(10, 2\); expected numbers, 2 x any",
        ),
        (lambda top: savemat(top / "duck(S)/060_0003.mat", {"x": 1}), r"060_0003\.mat: has no variable 'pts_coord'"),
        (lambda top: [path.unlink() for path in top.glob("*/*.*g")], r"the annotation has no image"),
        (lambda top: [path.unlink() for path in top.glob("*/*.[pm]*")], r"PF-dataset-WILLOW: holds no CLASS/NAME\.png"),
    ],
)
def test_what_is_wrong_in_willow_is_named(willow: Path, change: Callable[[Path], object], message: str) -> None:
    change(willow)
    with pytest.raises(DataError, match=message):
        load_dataset("pf-willow", "test", willow.parent)


@pytest.mark.parametrize(("x", "y"), [(0.4, 3), (WIDTH + 0.6, 3), (3, 0), (3, HEIGHT + 1)])
def test_a_keypoint_outside_its_image_is_named(willow: Path, x: float, y: float) -> None:
    points = _points("x", 10).T
    points[:, 6] = x, y
    savemat(willow / "duck(S)" / "060_0002.mat", {"pts_coord": points})
    data = load_dataset("pf-willow", "test", willow.parent)
    position = next(n for n, entry in enumerate(data._entries) if entry.id == "duck(S)/060_0002")
    with pytest.raises(DataError, match=rf"060_0002\.mat: keypoint 7 is at \({x:g}, {y:g}\), outside.*20 x 12"):
        data[position]


@pytest.mark.parametrize("name", ["pf-willow", "pf-pascal"])
def test_data_that_are_not_there_say_where_they_belong(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"PF-dataset-\w+: no such folder\. Pass the root .*\.zip.* WILLOW, Inria"):
        load_dataset(name, "test", tmp_path)


@pytest.mark.parametrize("name", ["pf-willow", "pf-pascal"])
def test_wrong_options_are_named(willow: Path, pascal: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"max_side is 1; expected an integer from 2"):
        load_dataset(name, "test", willow.parent, max_side=1)
    with pytest.raises(UsageError, match=r"split 'dev' is unknown; expected one of train, val, test"):
        load_dataset(name, "dev", willow.parent)


def test_a_split_of_which_nothing_is_there(willow: Path) -> None:
    for path in [*willow.glob("*/*.png"), *willow.glob("*/*.mat")]:
        if path.stem != "060_0000":
            path.unlink()
    assert len(load_dataset("pf-willow", "train", willow.parent)) == 1
    with pytest.raises(DataError, match=r"none of its 1 images is in split 'val'"):
        load_dataset("pf-willow", "val", willow.parent)


PAIRS = {  # split: class, source, target, flip
    "trn": [("cat", 1, 2, 0), ("cat", 2, 1, 0), ("cat", 1, 2, 1), ("cat", 3, 4, 0), ("dog", 5, 9, 0), ("dog", 9, 6, 0)],
    "val": [("cat", 2, 3, 0), ("cat", 3, 7, 0), ("cat", 8, 3, 0)],
    "test": [("cat", 4, 7, 0), ("dog", 5, 6, 0)],
}
ROWS = {"cat": 3, "dog": 2}


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """The top folder of a miniature PF-PASCAL whose lists share images, as the published ones do."""
    top = tmp_path / "PF-dataset-PASCAL"
    number = {"cat": 8, "dog": 12}
    for name, rows in PAIRS.items():
        has_flip = name == "trn"
        lines = ["source_image,target_image,class" + ",flip" * has_flip]
        for kind, source, target, flip in rows:
            paths = [f"PF-dataset-PASCAL/JPEGImages/2008_{n:06}.jpg" for n in (source, target)]
            lines.append(",".join([*paths, str(number[kind])]) + f",{flip}" * has_flip)
            for n in (source, target):
                _image(top / "JPEGImages" / f"2008_{n:06}.jpg")
                points = _points(f"{kind}{n}", ROWS[kind])
                points[n % ROWS[kind]] = np.nan
                (top / "Annotations" / kind).mkdir(parents=True, exist_ok=True)
                annotation = {"kps": points, "bbox": np.array([[2, 3, 18, 12]], dtype=np.int32)}
                savemat(top / "Annotations" / kind / f"2008_{n:06}.mat", annotation)
        (top / f"{name}_pairs.csv").write_text("\n".join(lines) + "\n")
    return top


def _numbers(ids: object) -> list:
    """The images' numbers in ids or pairs of ids."""
    return [tuple(map(_number, id)) if isinstance(id, tuple) else _number(id) for id in ids]


def _number(id: str) -> int:
    return int(id[-2:])


def test_pascals_samples(pascal: Path) -> None:
    data = load_dataset("pf-pascal", "test", pascal.parent)
    assert len(data.classes) == 20 and data.keypoint_names == ("cat/1", "cat/2", "cat/3", "dog/1", "dog/2")
    assert _ids(data) == ["cat/2008_000004", "cat/2008_000007", "dog/2008_000005", "dog/2008_000006"]
    cat, dog = data[0], data[2]
    assert cat["labels"].nonzero().tolist() == [[7]] and cat["box_labels"].tolist() == [7]
    assert cat["boxes"].tolist() == [[1, 2, 18, 12]]  # 1-based with the last pixel -> 0-based, half-open
    assert cat["keypoints"][:, 2].tolist() == [1, 0, 1, 0, 0] and dog["keypoints"][:, 2].tolist() == [0, 0, 0, 1, 0]
    assert torch.allclose(dog["keypoints"][3, :2], torch.from_numpy(_points("dog5", 2)[0] - 1).float(), atol=1e-5)
    half = load_dataset("pf-pascal", "test", pascal.parent, max_side=10)[0]
    assert half["boxes"].tolist() == [[0.5, 1, 9, 6]]


def test_pascals_splits_share_no_image_by_default(pascal: Path) -> None:
    data = {split: load_dataset("pf-pascal", split, pascal.parent) for split in SPLITS}
    assert {split: _numbers(_ids(found)) for split, found in data.items()} == {
        "train": [1, 9], "val": [2, 3, 8], "test": [4, 7, 5, 6]
    }  # fmt: skip
    assert {split: _numbers(found.pair_ids) for split, found in data.items()} == {
        "train": [], "val": [(2, 3), (8, 3)], "test": [(4, 7), (5, 6)]
    }  # fmt: skip


def test_pascals_official_lists_are_taken_as_they_are_and_mirrored_pairs_once(pascal: Path) -> None:
    data = {split: load_dataset("pf-pascal", split, pascal.parent, official=True) for split in SPLITS}
    assert _numbers(data["train"].pair_ids) == [(1, 2), (2, 1), (3, 4), (5, 9), (9, 6)]
    assert _numbers(data["val"].pair_ids) == [(2, 3), (3, 7), (8, 3)]
    assert _numbers(_ids(data["val"])) == [2, 3, 7, 8]


def test_a_photograph_of_two_classes_is_in_one_split(pascal: Path) -> None:
    """It is annotated twice; the test list's dog 5 is nobody's cat in training."""
    for name in ("bbox", "kps"):
        assert name in loadmat(pascal / "Annotations" / "dog" / "2008_000005.mat")
    kps, bbox = np.ones((3, 2)), np.array([[1, 1, 4, 4]])
    savemat(pascal / "Annotations" / "cat" / "2008_000005.mat", {"kps": kps, "bbox": bbox})
    _append(pascal / "trn_pairs.csv", "2008_000005.jpg,2008_000001.jpg,8,0")
    assert 5 not in _numbers(_ids(load_dataset("pf-pascal", "train", pascal.parent)))
    assert 5 in _numbers(_ids(load_dataset("pf-pascal", "train", pascal.parent, official=True)))


def test_an_annotation_with_fewer_rows_lacks_the_last_keypoints(pascal: Path) -> None:
    kps, bbox = np.array([[3.0, 4.0]]), np.array([[1, 1, 4, 4]])
    savemat(pascal / "Annotations" / "cat" / "2008_000004.mat", {"kps": kps, "bbox": bbox})
    assert load_dataset("pf-pascal", "test", pascal.parent)[0]["keypoints"][:, 2].tolist() == [1, 0, 0, 0, 0]


def _append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: (top / "val_pairs.csv").unlink(), r"val_pairs\.csv: the file is missing"),
        (
            lambda top: _append(top / "val_pairs.csv", "2008_000002.jpg,2008_000003.jpg,21"),
            r"val_pairs\.csv:5: class is '21'; expected 1 to 20",
        ),
        (
            lambda top: _append(top / "val_pairs.csv", "2008_000002.jpg,2008_000003.jpg,cat"),
            r"val_pairs\.csv:5: class is 'cat'; expected a number",
        ),
        (
            lambda top: (top / "Annotations/cat/2008_000002.mat").unlink(),
            r"2008_000002\.mat: the annotation is missing, but .*trn_pairs\.csv:2 lists it",
        ),
        (
            lambda top: (top / "JPEGImages/2008_000008.jpg").unlink(),
            r"2008_000008\.jpg: the image is missing, but .*val_pairs\.csv:4 lists it",
        ),
        (lambda top: _cut(top / "Annotations/dog/2008_000005.mat"), r"2008_000005\.mat: cannot be read as a MATLAB"),
        (
            lambda top: savemat(top / "Annotations/dog/2008_000005.mat", {"kps": np.ones((2, 2)), "bbox": np.ones(3)}),
            r"2008_000005\.mat: bbox: found .*; expected numbers, 1 x 4",
        ),
    ],
)
def test_what_is_wrong_in_pascal_is_named(pascal: Path, change: Callable[[Path], object], message: str) -> None:
    change(pascal)
    with pytest.raises(DataError, match=message):
        load_dataset("pf-pascal", "test", pascal.parent)


def test_a_box_of_another_image_is_named(pascal: Path) -> None:
    box = np.array([[30, 3, 40, 12]])
    savemat(pascal / "Annotations" / "cat" / "2008_000004.mat", {"kps": np.ones((3, 2)), "bbox": box})
    with pytest.raises(DataError, match=r"2008_000004\.mat: box .* lies outside the image of 20 x 12"):
        load_dataset("pf-pascal", "test", pascal.parent)[0]


def test_the_real_subset(shared_data: Path) -> None:
    """Every stored point, less 1, is where the sample has it."""
    table = shared_data / "PF-dataset-WILLOW" / "derived" / "keypoints.csv"
    if not table.is_file():
        pytest.skip("no PF-WILLOW among the real data")
    samples = {s["id"]: s for s in load_dataset("pf-willow", "test", shared_data, official=True)}
    with table.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert len(samples) == len(rows) == 40
    for kind, image, width, height, x, y in rows:
        sample = samples[f"{kind}/{Path(image).stem}"]
        assert sample["image"].shape == (3, int(height), int(width))
        visible = sample["keypoints"][sample["keypoints"][:, 2] > 0]
        stored = torch.tensor([list(map(float, values.split(";"))) for values in (x, y)]).T
        assert torch.allclose(visible[:, :2], stored - 1, atol=2e-3)
    counts = [len(load_dataset("pf-willow", split, shared_data)) for split in SPLITS]
    assert counts == [8, 8, 24]
