"""What every paper's model that makes maps has in common, so that the evaluation can take any of them."""

import pytest
import torch

from wsl_core.papers import PAPERS, build_model, model_class

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])


MAKES_MAPS = [paper for paper in PAPERS if hasattr(model_class(paper), "localize")]


def test_only_affinitynet_which_knows_of_no_class_makes_no_maps():
    assert set(PAPERS) - set(MAKES_MAPS) == {"affinitynet"}
    assert hasattr(model_class("affinitynet"), "affinity")


@pytest.mark.parametrize("paper", MAKES_MAPS)
@torch.no_grad()
def test_scores_and_maps_are_those_of_forward_and_localize(paper):
    torch.manual_seed(0)
    model = build_model(paper, num_classes=3, task="multi").eval()
    for labels in (None, LABELS):
        maps = model.localize(IMAGES, labels)
        assert maps.shape[:2] == (3, 3) and not maps.requires_grad
        if hasattr(model, "scores_and_maps"):
            logits, same = model.scores_and_maps(IMAGES, labels)
            torch.testing.assert_close(same, maps)
            torch.testing.assert_close(logits, model(IMAGES))
        if labels is not None:
            assert not maps[labels == 0].any()
            torch.testing.assert_close(maps[labels > 0], model.localize(IMAGES)[labels > 0])
