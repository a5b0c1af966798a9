"""Several data sets in a row: every sample keeps its own, and what does not fit together is refused."""

import pytest
import torch

from wsl_core.data import load_dataset
from wsl_core.data.chained import Chained
from wsl_core.data.intervened import Intervened
from wsl_core.errors import UsageError


@pytest.fixture(scope="module")
def worlds():
    return [load_dataset("synthetic", "val", size=32, length=length, objects=1) for length in (2, 3)]


def test_samples_follow_one_another(worlds):
    chained = Chained(worlds)
    assert len(chained) == 5 and chained.classes == worlds[0].classes and chained.task == "single"
    expected = [sample for world in worlds for sample in world]
    for i in range(-5, 5):
        assert torch.equal(chained[i]["image"], expected[i]["image"])
    with pytest.raises(IndexError, match="index 5 is out of range"):
        chained[5]


def test_the_version_follows_what_is_chained_and_its_order(worlds):
    assert len({Chained(worlds).version, Chained(worlds[::-1]).version, Chained(worlds[:1]).version}) == 3


def test_the_largest_size_counts():
    small, large = (load_dataset("synthetic", "val", size=size, length=1) for size in (16, 32))
    assert Chained([small, large]).image_size == 32


def test_backgrounds_have_no_label(worlds):
    chained = Chained([worlds[0], Intervened(worlds[1], remove=worlds[1].classes)])
    assert [int(sample["labels"].sum()) for sample in chained] == [1, 1, 0, 0, 0]
    assert not any(sample["parts"].any() for sample in list(chained)[2:])


def test_what_does_not_fit_is_named(worlds):
    with pytest.raises(UsageError, match="datasets is empty"):
        Chained([])
    creatures = load_dataset("synthetic", "val", world="creatures", size=32, length=1)
    with pytest.raises(UsageError, match="synthetic/val has other classes than synthetic/val"):
        Chained([worlds[0], creatures])
