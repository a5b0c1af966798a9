"""What chapter 3 measures: its own small functions, on networks that are not trained."""

import pytest
import torch
from torch import nn

from wsl_core.claims.experiments import acol as chapter
from wsl_core.data import load_dataset
from wsl_core.ops import resize_maps
from wsl_core.papers.acol import ACoL
from wsl_core.papers.erasing_baselines import SingleClassifier

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def creatures():
    return load_dataset("synthetic", "val", world="creatures", size=48, length=6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ACoL(width=4).eval()


def test_overlap_counts_what_is_lit_in_both():
    a, b = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    a[:, :2], b[:, :, :2] = 1.0, 1.0
    assert chapter.overlap(a, b) == pytest.approx(4 / 12)
    assert chapter.overlap(a, a) == 1.0 and chapter.overlap(a, 1 - a) == 0.0
    assert chapter.overlap(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)) == 0.0


def test_the_fused_map_is_seen_as_the_model_localises(model, creatures):
    seen = chapter.see_branches(model, creatures)
    images = torch.stack([sample["image"] for sample in creatures])
    labels = torch.stack([sample["labels"] for sample in creatures])
    with torch.no_grad():
        fused = model.localize(images, labels).sum(dim=1)
    torch.testing.assert_close(seen["fused"].maps, resize_maps(fused[:, None], (48, 48), model.grid)[:, 0])
    assert seen["fused"].labels.tolist() == labels.argmax(dim=1).tolist()


def test_the_predicted_label_chooses_other_maps_only_where_it_is_wrong(model, creatures):
    true, predicted = (chapter.see_branches(model, creatures, labels)["A"] for labels in ("ground truth", "predicted"))
    right = predicted.logits.argmax(dim=1) == true.labels
    same = [torch.equal(one, other) for one, other in zip(true.maps, predicted.maps, strict=True)]
    assert [bool(value) for value in right] == same


def test_convolution_first_or_mean_first_agree(creatures):
    torch.manual_seed(0)
    single = SingleClassifier(width=4)
    for layer in single.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias)
    errors = chapter.conv_map_errors(single, torch.stack([sample["image"] for sample in creatures]))
    assert errors["float32"] < 1e-5 and errors["float64"] < 1e-12


def test_a_classifier_that_reads_only_the_hole_is_found_out(creatures):
    """B is made blind to everything but where the hole is; A lights up another place for each class."""
    model = HoleReader(classes=8)
    image, hole = chapter.answers_of_b(model, creatures, "another class")
    assert (image, hole) == (0.0, 1.0)
    assert chapter.answers_of_b(model, creatures, "true class") == (1.0, 1.0)


class HoleReader(ACoL):
    """Features are ones of 1 by 8 cells; A lights cell c for class c, and B names the cell that is missing."""

    erase_threshold, erasing, slope = 0.5, "strict", 20.0

    def __init__(self, classes):
        nn.Module.__init__(self)
        self.classes, self.weight = classes, nn.Parameter(torch.zeros(1))

    def backbone(self, images):
        return torch.ones(len(images), 1, 1, self.classes)

    def classifier_a(self, features):
        return torch.eye(self.classes)[None, :, None, :].expand(len(features), -1, -1, -1)

    def classifier_b(self, features):
        return (1 - features[:, 0, 0])[:, :, None, None]
