"""What every data set promises: positions as in a list, faithful copies in memory, batches of any sizes."""

import subprocess
import sys
from pathlib import Path
from typing import SupportsIndex

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsl_core.data import Dataset, InMemory, Sample, Subset, collate, load_dataset
from wsl_core.data.base import check_count, to_bytes, to_float
from wsl_core.errors import UsageError


class Pictures(Dataset):
    """Random pictures of several sizes with every kind of annotation; at module level, so that workers can load it."""

    name, classes, task, licence, version = "pictures", ("cat", "dog", "eel"), "multi", "none", "7"
    part_names, keypoint_names = ("head", "tail"), ("nose",)

    def __init__(self, split: str = "train", count: int = 5, largest: int = 255) -> None:
        self.split, self.count, self.largest = split, count, largest

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: SupportsIndex) -> Sample:
        number = self.position(index)
        random = torch.Generator().manual_seed(number)
        size = torch.randint(3, 9, (2,), generator=random).tolist()
        return {
            "id": f"picture {number}",
            "image": to_float(torch.randint(0, 256, (3, *size), generator=random, dtype=torch.uint8)),
            "labels": torch.randint(0, 2, (3,), generator=random).float(),
            "boxes": torch.rand(number, 4, generator=random),
            "box_labels": torch.randint(0, 3, (number,), generator=random),
            "mask": torch.randint(0, self.largest + 1, size, generator=random),
            "parts": torch.randint(0, 3, size, generator=random),
            "keypoints": torch.rand(1, 3, generator=random),
        }


def same(left: Sample, right: Sample) -> bool:
    """Whether two samples agree in every key, type and bit."""
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) and left[key].dtype == right[key].dtype if key != "id" else
        left[key] == right[key] for key in left
    )  # fmt: skip


def test_every_8_bit_value_survives_the_way_to_float_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_float(values)), values)
    assert to_bytes(torch.tensor([0.4, 0.6, 254.6]) / 255).tolist() == [0, 1, 255]
    assert to_float(values).max() == 1 and to_float(values).min() == 0


@pytest.mark.parametrize("wrap", [lambda data: data, InMemory, lambda data: Subset(data, range(5))])
def test_positions_are_those_of_a_list(wrap) -> None:
    dataset = wrap(Pictures())
    assert [sample["id"] for sample in dataset] == [f"picture {number}" for number in range(5)]
    assert same(dataset[-1], dataset[4]) and same(dataset[torch.tensor(2)], dataset[2])
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"{index} is out of range: pictures/train has 5 samples"):
            dataset[index]
    with pytest.raises(TypeError):
        dataset["first"]


@pytest.mark.parametrize("largest", [255, 300])
def test_in_memory_keeps_every_bit_and_the_description(largest: int) -> None:
    dataset = Pictures(largest=largest)
    memory = InMemory(dataset)
    assert len(memory) == len(dataset) and all(same(memory[i], dataset[i]) for i in range(len(dataset)))
    for key in ("name", "split", "classes", "task", "licence", "version", "part_names", "keypoint_names"):
        assert getattr(memory, key) == getattr(dataset, key)


def test_what_a_reader_does_to_a_sample_stays_with_it() -> None:
    memory = InMemory(Pictures())
    for key in ("image", "mask", "boxes", "labels"):
        memory[1][key].zero_()
    assert same(memory[1], Pictures()[1])


def test_in_memory_refuses_images_of_more_than_8_bits() -> None:
    class Fine(Pictures):
        def __getitem__(self, index: SupportsIndex) -> Sample:
            sample = super().__getitem__(index)
            return {**sample, "image": sample["image"] * 0.999}

    with pytest.raises(UsageError, match="picture 0"):
        InMemory(Fine())


def test_workers_and_progress_change_nothing(tiny_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset("tiny-imagenet", "val", tiny_root)
    memory = InMemory(dataset, workers=2, progress=True)
    assert all(same(memory[i], dataset[i]) for i in range(len(dataset)))
    output = capfd.readouterr()
    assert "tiny-imagenet/val" in output.err and not output.out


def test_a_subset_is_another_version() -> None:
    dataset = Pictures()
    first, second = Subset(dataset, [3, -5]), Subset(dataset, [3, 1])
    assert [sample["id"] for sample in first] == ["picture 3", "picture 0"]
    assert len({dataset.version, first.version, second.version}) == 3
    assert first.version == Subset(dataset, [3, 0]).version
    with pytest.raises(IndexError):
        Subset(dataset, [5])


sizes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4)


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_collate_pads_and_loses_nothing(shapes: list[tuple[int, int]]) -> None:
    samples: list[Sample] = [
        {"id": "", "image": torch.rand(3, *shape), "mask": torch.randint(0, 3, shape), "parts": torch.full(shape, 1)}
        for shape in shapes
    ]
    batch = collate(samples)
    assert batch["size"].tolist() == [list(shape) for shape in shapes] and batch["size"].dtype == torch.int64
    largest = (max(height for height, _ in shapes), max(width for _, width in shapes))
    assert batch["image"].shape == (len(shapes), 3, *largest) and batch["mask"].shape == (len(shapes), *largest)
    for number, (height, width) in enumerate(shapes):
        inside = torch.zeros(largest, dtype=torch.bool)
        inside[:height, :width] = True
        assert torch.equal(batch["image"][number, :, :height, :width], samples[number]["image"])
        assert torch.equal(batch["mask"][number, :height, :width], samples[number]["mask"])
        assert (batch["image"][number][:, ~inside] == 0).all()
        assert (batch["mask"][number][~inside] == 255).all() and (batch["parts"][number][~inside] == 0).all()


def test_collate_keeps_lists_and_leaves_out_what_a_sample_lacks() -> None:
    samples = [Pictures()[index] for index in range(3)]
    batch = collate(samples)
    assert batch["id"] == ["picture 0", "picture 1", "picture 2"]
    assert [len(boxes) for boxes in batch["boxes"]] == [len(labels) for labels in batch["box_labels"]] == [0, 1, 2]
    assert batch["labels"].shape == (3, 3) and len(batch["keypoints"]) == 3
    del samples[1]["mask"], samples[2]["boxes"]
    assert set(collate(samples)) == set(batch) - {"mask", "boxes"}


def test_collate_works_in_a_loader() -> None:
    loader = torch.utils.data.DataLoader(Pictures(), batch_size=2, collate_fn=collate, num_workers=2)
    assert [name for batch in loader for name in batch["id"]] == [f"picture {number}" for number in range(5)]


def test_collate_refuses_what_is_no_batch() -> None:
    with pytest.raises(UsageError, match="empty"):
        collate([])
    samples = [Pictures()[0], Pictures()[1]]
    samples[0]["labels"] = torch.zeros(4)
    with pytest.raises(UsageError, match="different lengths"):
        collate(samples)


def test_no_image_is_larger_than_its_data_set_says(tmp_path: Path, tiny_root: Path) -> None:
    """What localisation shrinks a new image to is what evaluation feeds."""
    (tmp_path / "train" / "wide").mkdir(parents=True)
    Image.new("RGB", (90, 40)).save(tmp_path / "train" / "wide" / "1.png")
    sets = {
        48: load_dataset("synthetic", "train", size=48, length=2),
        64: load_dataset("tiny-imagenet", "train", tiny_root),
        70: load_dataset("tiny-imagenet", "train", tiny_root, translate=70),
        30: load_dataset("folder", "train", tmp_path, max_side=30),
        None: load_dataset("folder", "train", tmp_path),
    }
    for size, dataset in sets.items():
        assert dataset.image_size == Subset(dataset, [0]).image_size == InMemory(dataset).image_size == size
        assert size is None or max(max(sample["image"].shape) for sample in dataset) == size


def test_counts_are_whole_numbers_in_their_range() -> None:
    check_count("size", 3, 3, 3)
    for value in (2, 4, 3.0, True, "3", None):
        with pytest.raises(UsageError, match=f"size is {value!r}; expected an integer from 3 to 3"):
            check_count("size", value, 3, 3)


def test_options_of_the_wrong_type_are_named(tmp_path: Path) -> None:
    """In a process of its own: here, the type checker of the tests would be faster."""
    program = """if True:
        import sys
        from wsl_core.data import load_dataset
        for name, option in (("synthetic", "translate"), ("folder", "max_side")):
            try:
                load_dataset(name, "train", sys.argv[1], **{option: "abc"})
            except ValueError as error:
                print(type(error).__name__, error)
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    first, second = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert first.startswith("UsageError translate is 'abc'; expected an integer from 1")
    assert second.startswith("UsageError max_side is 'abc'; expected an integer from 1")


def test_wrong_arguments_say_what_exists(tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSL_DATA", raising=False)
    with pytest.raises(UsageError, match=r"'atlantis' is unknown.*synthetic, tiny-imagenet, folder"):
        load_dataset("atlantis", "train")
    with pytest.raises(UsageError, match=r"split 'dev' is unknown.*train, val, test"):
        load_dataset("tiny-imagenet", "dev", tiny_root)
    with pytest.raises(UsageError, match=r"option 'colour' is unknown to data set 'folder'.*max_side, translate"):
        load_dataset("folder", "train", tiny_root, colour=True)
    with pytest.raises(UsageError, match=r"needs root.*\$WSL_DATA"):
        load_dataset("tiny-imagenet", "train")
    with pytest.raises(UsageError, match=r"root is .*absent, which is not a folder"):
        load_dataset("folder", "train", tmp_path / "absent")
    monkeypatch.setenv("WSL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"\$WSL_DATA is .*nowhere"):
        load_dataset("tiny-imagenet", "train")


def test_the_root_may_come_from_the_environment(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSL_DATA", str(tiny_root))
    assert load_dataset("tiny-imagenet", "train").name == "tiny-imagenet"


def test_the_synthetic_world_needs_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSL_DATA", raising=False)
    assert (
        load_dataset("synthetic", "val", length=2)[0]["id"] == load_dataset("synthetic", "val", tmp_path, True)[0]["id"]
    )
    for wrong in ({"split": "dev"}, {"split": "val", "flavour": 3}, {"split": "val", "world": "atlantis"}):
        with pytest.raises(UsageError):
            load_dataset("synthetic", **wrong)
