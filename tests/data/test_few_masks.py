"""Masks for a few: which images keep theirs, what the others show, and masks made of boxes."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_base import same
from wsl_core.data import FewMasks, InMemory, Subset, _check_few_masks, load_dataset
from wsl_core.data.base import Dataset, Sample
from wsl_core.data.few_masks import _filled
from wsl_core.errors import UsageError


class Squares(Dataset):
    """Image ``i`` shows a square of class ``labels[i]``; with ``bare`` keys left out."""

    name, split, classes, task, licence, version = "squares", "train", ("ant", "bee", "cow"), "single", "none", "3"

    def __init__(self, labels: list[int], bare: tuple[str, ...] = ()) -> None:
        self.labels, self.bare = labels, bare

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        position = self.position(index)
        label = self.labels[position]
        mask = torch.zeros(8, 10, dtype=torch.int64)
        mask[2:5, 3:7] = label + 1
        sample: Sample = {
            "id": f"square {position}",
            "image": torch.zeros(3, 8, 10),
            "labels": torch.eye(3)[label],
            "boxes": torch.tensor([[2.0, 1.0, 8.0, 6.0]]),
            "box_labels": torch.tensor([label]),
            "mask": mask,
        }
        return {key: value for key, value in sample.items() if key not in self.bare}


class Pairs(Squares):
    """Squares each of which is also labelled with the last class."""

    task = "multi"

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return {**sample, "labels": sample["labels"].maximum(torch.tensor([0.0, 0.0, 1.0]))}


class Empty(Squares):
    """Squares whose odd images have neither box nor mask, though they have a label."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if self.position(index) % 2:
            sample |= {"boxes": torch.zeros(0, 4), "mask": torch.full((8, 10), 255)}
        return sample


def says_something(sample: Sample) -> bool:
    return bool((sample["mask"] != 255).any())


def classes_kept(dataset: FewMasks) -> Counter:
    return Counter(dataset.dataset.labels[index] for index in dataset.kept)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.data())
@settings(max_examples=60, deadline=None)
def test_each_class_gets_its_share(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(labels)))
    few = FewMasks(Squares(labels), count, seed=data.draw(st.integers(0, 3)))
    assert len(few.kept) == len(set(few.kept)) == count and list(few.kept) == sorted(few.kept)
    there, kept = Counter(labels), classes_kept(few)
    for label in range(3):
        share = count // 3 + (label < count % 3)
        assert kept[label] >= min(share, there[label])
        if all(there[other] >= count // 3 + 1 for other in range(3)):
            assert kept[label] == share


@given(st.lists(st.integers(0, 2), min_size=12, max_size=30), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_more_masks_keep_those_of_fewer(labels: list[int], seed: int) -> None:
    most = 3 * min(Counter(labels)[label] for label in range(3))
    kept = [set(FewMasks(Squares(labels), count, seed=seed).kept) for count in range(most + 1)]
    assert all(fewer < more for fewer, more in pairwise(kept))


def test_the_others_are_ignored_and_nothing_else_changes() -> None:
    plain = Squares([0, 1, 2] * 6)
    few = FewMasks(plain, 4)
    for index, (before, after) in enumerate(zip(plain, few, strict=True)):
        expected = before["mask"] if index in few.kept else torch.full((8, 10), 255)
        assert same({**before, "mask": expected}, after)
    assert same(few[-1], few[17])


def test_the_choice_is_fixed() -> None:
    """On every machine, whatever was asked for first."""
    labels = [0, 1, 2] * 20
    first, second = FewMasks(Squares(labels), 5), FewMasks(Squares(labels), 5)
    assert says_something(second[second.kept[2]]) and first.kept == second.kept
    assert FewMasks(Squares(labels), 5, form="box").kept == first.kept
    assert len({FewMasks(Squares(labels), 5, seed=seed).kept for seed in range(5)}) == 5
    assert first.kept == (10, 52, 54, 56, 57)


@pytest.mark.parametrize(
    ("masks", "count"), [(0, 0), (0.0, 0), (1, 1), (1.0, 30), (0.1, 3), (0.07, 2), (1e-9, 1), (30, 30)]
)
def test_a_number_or_a_share(masks: float, count: int) -> None:
    assert len(FewMasks(Squares([0, 1, 2] * 10), masks).kept) == count


def test_only_some_classes() -> None:
    few = FewMasks(Squares([0, 1, 2] * 10), 7, classes=["cow", "ant"])
    assert classes_kept(few) == {0: 4, 2: 3}


@pytest.mark.parametrize("seed", range(5))
def test_an_image_of_several_classes_counts_for_the_one_that_lacks_most(seed: int) -> None:
    """The two ants stand for ants, though each is also a cow, of which there are enough."""
    few = FewMasks(Pairs([0, 0] + [1] * 20), 6, seed=seed)
    assert {0, 1} <= set(few.kept)


def test_images_that_say_nothing_keep_nothing() -> None:
    for form in ("mask", "box"):
        assert not any(index % 2 for index in FewMasks(Empty([0, 1, 2] * 4), 6, form).kept)


class TestBoxes:
    def test_a_box_is_filled(self) -> None:
        few = FewMasks(Squares([1], bare=("mask",)), 1, form="box")
        expected = torch.zeros(8, 10, dtype=torch.int64)
        expected[1:6, 2:8] = 2
        assert torch.equal(few[0]["mask"], expected)
        assert says_something(few[0]) and not says_something(FewMasks(Squares([1]), 0, form="box")[0])

    def test_the_smaller_box_lies_on_top_in_either_order(self) -> None:
        large, small = torch.tensor([0.0, 0.0, 6.0, 6.0]), torch.tensor([2.0, 2.0, 4.0, 4.0])
        for boxes, labels in (([large, small], [0, 1]), ([small, large], [1, 0])):
            mask = _filled(torch.stack(boxes), torch.tensor(labels), 8, 8)
            assert (mask[2:4, 2:4] == 2).all() and (mask == 1).sum() == 32 and (mask == 0).sum() == 28

    @given(st.lists(st.floats(0, 9), min_size=4, max_size=4))
    @settings(max_examples=50, deadline=None)
    def test_pixels_whose_centres_lie_within(self, ends: list[float]) -> None:
        x0, x1 = sorted(ends[:2])
        y0, y1 = sorted(ends[2:])
        box = torch.tensor([[x0, y0, x1, y1]])
        mask = _filled(box, torch.tensor([4]), 9, 9)
        x0, y0, x1, y1 = box[0].tolist()
        expected = [[5 if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 else 0 for x in range(9)] for y in range(9)]
        assert mask.tolist() == expected

    def test_boxes_of_the_world_hold_its_masks(self) -> None:
        options = {"objects": 1, "size": 48, "length": 12}
        plain = load_dataset("synthetic", "train", **options)
        filled = load_dataset("synthetic", "train", few_masks={"masks": 1.0, "form": "box"}, **options)
        for before, after in zip(plain, filled, strict=True):
            assert (after["mask"][before["mask"] > 0] == before["mask"].max()).all()
            x0, y0, x1, y1 = before["boxes"][0].tolist()
            assert (after["mask"] > 0).sum() == (x1 - x0) * (y1 - y0)


class TestLoading:
    def test_training_alone_loses_masks(self) -> None:
        few = {"masks": 0.25}
        train, val = (load_dataset("synthetic", split, size=16, length=12, few_masks=few) for split in ("train", "val"))
        assert sum(map(says_something, train)) == 3 and all(map(says_something, val))
        assert val.version == load_dataset("synthetic", "val", size=16, length=12).version

    def test_a_canvas_is_ignored_as_well(self) -> None:
        train = load_dataset("synthetic", "train", size=16, length=6, translate=24, few_masks={"masks": 2})
        assert sum(map(says_something, train)) == 2 and train[0]["mask"].shape == (24, 24)

    def test_boxes_are_enough(self, tiny_root) -> None:
        train = load_dataset("tiny-imagenet", "train", tiny_root, few_masks={"masks": 3, "form": "box"})
        kept = [sample for sample in train if says_something(sample)]
        assert sorted(sample["mask"].max().item() for sample in kept) == [1, 2, 3]

    def test_versions(self) -> None:
        plain = Squares([0, 1, 2] * 4)
        changes = ({}, {"seed": 1}, {"form": "box"}, {"classes": ["ant"]})
        versions = {FewMasks(plain, 2, **change).version for change in changes}
        assert len({plain.version, FewMasks(plain, 3).version, *versions}) == 6
        assert FewMasks(plain, 3).version == FewMasks(plain, 0.25).version  # the same masks

    def test_memory_and_subsets(self) -> None:
        few = FewMasks(Squares([0, 1, 2] * 4), 3)
        memory = InMemory(few)
        assert all(same(memory[index], few[index]) for index in range(12))
        assert says_something(Subset(few, few.kept)[1])


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"masks": 1.5}, r"masks is 1.5; expected a share in \[0.0, 1.0\]"),
            ({"masks": -0.1}, "masks is -0.1"),
            ({"masks": float("nan")}, "masks is nan"),
            ({"masks": 7}, "masks is 7; expected an integer from 0 to 6"),
            ({"masks": 1, "form": "scribble"}, "form is 'scribble'; expected one of mask, box"),
            ({"masks": 1, "seed": -1}, "seed is -1"),
            ({"masks": 1, "classes": ["dog"]}, "'dog' is no class; expected some of ant, bee, cow"),
            ({"masks": 1, "classes": []}, r"classes is \[\]"),
            ({"masks": 1, "classes": "ant"}, "classes is 'ant'; expected a list"),
            ({"masks": 3, "classes": ["ant"]}, "asks for 3 images; squares/train has 2 .* Ask for at most 2"),
        ],
    )
    def test_arguments(self, arguments: dict, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            FewMasks(Squares([0, 1, 2] * 2), **arguments)

    @pytest.mark.parametrize(("form", "key"), [("mask", "mask"), ("box", "boxes")])
    def test_no_annotation(self, form: str, key: str) -> None:
        with pytest.raises(UsageError, match=f"form is '{form}'; the data set 'squares' has no '{key}'"):
            FewMasks(Squares([0, 1], bare=(key,)), 1, form)

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_arguments_of_load_dataset(self, split: str) -> None:
        with pytest.raises(UsageError, match="few_masks has no argument 'share'; expected some of masks, form"):
            load_dataset("synthetic", split, few_masks={"masks": 1, "share": 0.1})
        with pytest.raises(UsageError, match=r"few_masks is \{'form': 'box'\}; expected the arguments"):
            load_dataset("synthetic", split, few_masks={"form": "box"})
        with pytest.raises(UsageError, match="few_masks is 9; expected"):
            _check_few_masks(9)
