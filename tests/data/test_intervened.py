"""A world in which the same change is made to every sample."""

import pytest
import torch

from wsl_core.data import InMemory
from wsl_core.data.intervened import Intervened
from wsl_core.data.synthetic import Synthetic
from wsl_core.errors import UsageError


@pytest.fixture(scope="module")
def world():
    return Synthetic("val", world="creatures", size=32, length=3)


def test_the_part_goes_and_all_else_stays(world):
    head = world.part_names.index("head") + 1
    for whole, headless in zip(world, Intervened(world, remove="head"), strict=True):
        assert (whole["parts"] == head).any() and not (headless["parts"] == head).any()
        far = torch.nn.functional.max_pool2d((whole["parts"] == head).float()[None], 3, 1, 1)[0] == 0  # off its rim
        assert torch.equal(whole["image"][:, far], headless["image"][:, far])
        assert whole["id"] == headless["id"] and torch.equal(whole["labels"], headless["labels"])


def test_no_change_changes_no_pixel(world):
    for before, after in zip(world, Intervened(world), strict=True):
        assert torch.equal(before["image"], after["image"])


def test_each_change_is_a_version_of_its_own(world):
    changes = ({}, {"remove": "head"}, {"hide": "head"}, {"remove": ("head", "eye")})
    assert len({world.version, *(Intervened(world, **change).version for change in changes)}) == 5
    assert Intervened(world, remove="head").version == Intervened(world, remove="head").version


def test_it_can_be_kept_in_memory(world):
    kept = InMemory(Intervened(world, remove="head"))
    assert kept.part_names == world.part_names and torch.equal(kept[1]["image"], world.intervene(1, "head")["image"])


def test_a_part_that_does_not_exist(world):
    with pytest.raises(UsageError, match="'wheel' is no part"):
        Intervened(world, remove="wheel")[0]
