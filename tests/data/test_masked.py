"""A data set with other masks: they go with their samples, and a change of them is a change of version."""

import pytest
import torch

from wsl_core.data import collate, load_dataset
from wsl_core.data.base import Subset
from wsl_core.data.masked import WithMasks
from wsl_core.errors import UsageError


def cues(count: int, side: int = 32) -> list[torch.Tensor]:
    return [torch.full((side, side), i) for i in range(count)]


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", "val", size=32, length=3)


def test_every_sample_has_its_mask_and_all_else_of_its_own(dataset):
    masked = WithMasks(dataset, cues(3))
    assert [sample["mask"].unique().tolist() for sample in masked] == [[0], [1], [2]]
    assert len(masked) == 3 and masked.classes == dataset.classes
    for sample, own in zip(masked, dataset, strict=True):
        assert torch.equal(sample["image"], own["image"]) and sample.keys() == own.keys()
    assert masked[-1]["mask"].dtype == torch.int64 and masked[-1]["mask"][0, 0] == 2
    assert collate(list(Subset(masked, [2, 0])))["mask"][:, 0, 0].tolist() == [2, 0]


def test_the_version_follows_the_masks(dataset):
    versions = {WithMasks(dataset, masks).version for masks in (cues(3), cues(3)[::-1], cues(3))}
    assert len(versions) == 2 and dataset.version not in versions


def test_wrong_masks_are_named(dataset):
    with pytest.raises(UsageError, match="masks: found 2; expected one of each of the 3 samples"):
        WithMasks(dataset, cues(2))
    with pytest.raises(UsageError, match=r"masks: found \(16, 16\) for sample .* expected its image's \(32, 32\)"):
        WithMasks(dataset, cues(3, 16))[0]
