"""Pairs of images to match: what both of them show, within a class and across a family."""

from collections import Counter
from itertools import combinations
from typing import SupportsIndex

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.data import Dataset, InMemory, Sample, Subset, load_dataset
from wsl_core.data.base import one_hot
from wsl_core.data.pairs import FAMILIES, families, pairs, shared_keypoints, shared_parts
from wsl_core.data.pascal_parts import PARTS
from wsl_core.data.synthetic import WORLDS
from wsl_core.errors import UsageError


class Drawn(Dataset):
    """Samples of two related classes and a third, that show the keypoints and parts that a test says."""

    name, split, licence, version, task = "synthetic", "test", "none", "1", "multi"
    classes = ("dog", "bird", "car")
    keypoint_names = ("dog/nose", "dog/tail", "bird/tail", "bird/beak", "car/lamp")
    part_names = ("dog/eye", "bird/eye", "bird/wing")

    def __init__(self, shown: list[tuple[set[int], set[int], set[int]]]) -> None:
        self.shown = shown

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        position = self.position(index)
        classes, keypoints, parts = self.shown[position]
        points = torch.zeros(5, 3)
        points[list(keypoints)] = 1.0
        return {
            "id": str(position),
            "image": torch.zeros(3, 2, 2),
            "labels": one_hot(list(classes), 3),
            "keypoints": points,
            "parts": torch.tensor([[0, *parts]]),
        }


class Bare(Drawn):
    """The same without keypoints."""

    keypoint_names = ()

    def __getitem__(self, index: SupportsIndex) -> Sample:
        sample = super().__getitem__(index)
        del sample["keypoints"]
        return sample


SHOWN = st.tuples(
    st.sets(st.integers(0, 2), min_size=1), st.sets(st.integers(0, 4)), st.sets(st.integers(1, 3))
)  # fmt: skip
SAME_POINT = {(0, 3), (3, 0), (1, 2), (2, 1)}  # nose and beak, tail and tail


@settings(max_examples=60, deadline=None)
@given(shown=st.lists(SHOWN, min_size=2, max_size=5))
def test_pairs_are_all_that_show_the_same_and_no_others(shown: list) -> None:
    """Against the definition, spelled out."""
    owner = (0, 0, 1, 1, 2)
    expected = {
        (i, j, a, b, p, q)
        for i in range(len(shown))
        for j in range(len(shown))
        for a in shown[i][0]
        for b in shown[j][0]
        for p in shown[i][1]
        for q in shown[j][1]
        if i != j and (owner[p], owner[q]) == (a, b) and (p == q or (p, q) in SAME_POINT)
    }
    data = Drawn(shown)
    found = [(across, pair) for across in (False, True) for pair in pairs(data, across)]
    rows = [(*pair[:4], p, q) for _, pair in found for p, q in pair.keypoints.tolist()]
    assert set(rows) == expected and len(rows) == len(expected)
    assert all(across == (pair.source_class != pair.target_class) for across, pair in found)
    assert all(len(pair.keypoints) for _, pair in found)


@settings(max_examples=30, deadline=None)
@given(shown=st.lists(SHOWN, min_size=2, max_size=5))
def test_where_there_are_no_keypoints_parts_decide(shown: list) -> None:
    found = {(pair.source, pair.target) for pair in pairs(Bare(shown), across=True)}
    both = {
        (i, j)
        for i in range(len(shown))
        for j in range(len(shown))
        if i != j
        for a, b, p, q in ((0, 1, 1, 2), (1, 0, 2, 1))  # a dog's eye, a bird's eye
        if a in shown[i][0] and b in shown[j][0] and p in shown[i][2] and q in shown[j][2]
    }
    assert found == both


@pytest.fixture(scope="module")
def zoo() -> Dataset:
    return InMemory(load_dataset("synthetic", "val", world="zoo", size=48, length=32))


@pytest.mark.parametrize("across", [False, True])
def test_what_is_paired_is_visible_in_both_and_belongs_to_its_class(zoo: Dataset, across: bool) -> None:
    found = pairs(zoo, across)
    assert found
    for pair in found[::7]:
        for index, kind, column in ((pair.source, pair.source_class, 0), (pair.target, pair.target_class, 1)):
            sample, name = zoo[index], zoo.classes[kind]
            rows, values = pair.keypoints[:, column], pair.parts[:, column]
            assert sample["keypoints"][rows, 2].all() and sample["labels"][kind] == 1
            assert {zoo.keypoint_names[row].split("/")[0] for row in rows} == {name}
            assert all(
                (sample["parts"] == value).any() and zoo.part_names[value - 1].startswith(name) for value in values
            )
        if not across:
            assert torch.equal(pair.keypoints[:, 0], pair.keypoints[:, 1])


def test_every_pair_has_its_reverse(zoo: Dataset) -> None:
    for across in (False, True):
        found = {pair[:4]: sorted(pair.keypoints.tolist()) for pair in pairs(zoo, across)}
        for (source, target, a, b), rows in found.items():
            assert found[target, source, b, a] == sorted([q, p] for p, q in rows)


def test_a_draw_is_even_fixed_by_its_seed_and_from_all(zoo: Dataset) -> None:
    everything = {pair[:4] for pair in pairs(zoo)}
    drawn = [pair[:4] for pair in pairs(zoo, count=24, seed=3)]
    assert drawn == [pair[:4] for pair in pairs(zoo, count=24, seed=3)]
    assert drawn != [pair[:4] for pair in pairs(zoo, count=24, seed=4)]
    assert len(set(drawn)) == 24 and set(drawn) <= everything
    assert set(Counter(source_class for _, _, source_class, _ in drawn).values()) == {3}
    assert {pair[:4] for pair in pairs(zoo, count=len(everything))} == everything
    with pytest.raises(UsageError, match=rf"count is {len(everything) + 1}; synthetic/val has {len(everything)} such"):
        pairs(zoo, count=len(everything) + 1)


def test_creatures_are_one_family_and_share_all() -> None:
    creatures = load_dataset("synthetic", "val", world="creatures", size=32, length=16)
    assert families(creatures) == (creatures.classes,)
    assert shared_keypoints(creatures, "aru", "dax") == [(row, row) for row in range(6)]
    assert [creatures.part_names[value - 1] for value, _ in shared_parts(creatures, "aru", "dax")] == [
        "tail", "leg", "body", "head", "eye"
    ]  # fmt: skip
    assert all(torch.equal(p.keypoints[:, 0], p.keypoints[:, 1]) for p in pairs(creatures, across=True))


@pytest.mark.parametrize("world", ["zoo", "boats"])
def test_any_two_classes_of_a_family_share_a_point(world: str) -> None:
    data = load_dataset("synthetic", "val", world=world)
    assert [set(family) - {"fish", "horse"} for family in families(data)] == [
        {"dog", "bird"} & set(data.classes), {"car", "plane", "boat"}
    ]  # fmt: skip
    for family in families(data):
        for source, target in combinations(family, 2):
            assert shared_keypoints(data, source, target)
    assert {data.part_names[value - 1] for value, _ in shared_parts(data, "car", "plane")} == {"car/window", "car/body"}


def test_no_family_names_what_no_world_has() -> None:
    known = {kind for world in WORLDS.values() for kind in world().classes}
    assert {kind for family in FAMILIES["synthetic"] for kind in family} <= known


def test_parts_of_different_families_are_not_the_same_though_names_agree() -> None:
    zoo = load_dataset("synthetic", "val", world="zoo")
    assert {"bird/wing", "plane/wing"} <= set(zoo.part_names)
    with pytest.raises(UsageError, match=r"'bird' and 'plane' are not of one family of 'synthetic'"):
        shared_parts(zoo, "bird", "plane")


def test_the_families_of_pascal_part_share_parts_by_name() -> None:
    for family in FAMILIES["pascal-parts"]:
        for source, target in combinations(family, 2):
            assert len(set(PARTS[source]) & set(PARTS[target])) >= 5


class Listed(Drawn):
    """A data set that publishes its pairs."""

    pair_ids = (("2", "0"), ("0", "1"), ("1", "7"), ("0", "0"))


def test_published_pairs_count_also_for_a_part_or_a_copy() -> None:
    data = Listed([({0}, {0}, {1})] * 3)
    assert [pair[:2] for pair in pairs(data)] == [(2, 0), (0, 1)]  # in their order; what is not there is passed over
    assert [pair[:2] for pair in pairs(Subset(data, [2, 0]))] == [(0, 1)]
    assert [pair[:2] for pair in pairs(InMemory(data))] == [(2, 0), (0, 1)]
    assert len(pairs(Drawn(data.shown))) == 6


def test_wrong_questions_say_what_is_wrong(zoo: Dataset, tiny_root) -> None:
    with pytest.raises(UsageError, match=r"'tiny-imagenet' has neither keypoints nor parts"):
        pairs(load_dataset("tiny-imagenet", "train", tiny_root))
    with pytest.raises(UsageError, match=r"count is 0; expected an integer from 1"):
        pairs(zoo, count=0)
    houses = Drawn([({2}, {4}, set())] * 2)
    houses.classes = ("tree", "person", "car")
    with pytest.raises(UsageError, match=r"no two classes of 'synthetic' share keypoints or parts"):
        pairs(houses, across=True)


def test_the_real_pairs_are_the_benchmarks(shared_data) -> None:
    table = shared_data / "PF-dataset-WILLOW" / "derived" / "pairs.csv"
    if not table.is_file():
        pytest.skip("no PF-WILLOW among the real data")
    data = load_dataset("pf-willow", "test", shared_data, official=True, max_side=32)
    ids = [sample["id"] for sample in data]
    found = {(ids[pair.source], ids[pair.target]) for pair in pairs(data)}
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    assert found == {tuple(f"{kind}/{name.removesuffix('.png')}" for name in names) for kind, *names in rows}
