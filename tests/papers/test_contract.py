"""What every paper's model that makes maps has in common, so that the evaluation can take any of them."""

import pytest
import torch

from wsl_core.data import load_dataset
from wsl_core.papers import PAPERS, build_for, build_model, learns_labels, model_class

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])


WITH_MAPS = [paper for paper in PAPERS if hasattr(model_class(paper), "localize")]


def test_only_what_learns_no_labels_makes_no_maps_of_classes():
    assert [paper for paper in PAPERS if learns_labels(paper)] == WITH_MAPS
    assert set(PAPERS) - set(WITH_MAPS) == {"affinitynet", "introspection"}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_model_is_built_for_a_data_set(paper):
    dataset = load_dataset("synthetic", "train", world="creatures", size=32, length=1)
    model = build_for(dataset, paper, width=4)
    assert model.config["width"] == 4
    assert type(model) is model_class(paper) is model_class(model.paper)  # which load_run builds
    if learns_labels(paper):
        assert (model.config["num_classes"], model.config["task"]) == (len(dataset.classes), dataset.task)


@pytest.mark.parametrize("paper", WITH_MAPS)
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
