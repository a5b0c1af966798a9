import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch.nn import functional as F

from wsl_core.claims.experiments import deep_features
from wsl_core.claims.experiments.deep_features import (
    Described,
    accuracy,
    best_linear,
    cut_out,
    describe,
    fit_linear,
    measure_units,
    propose,
    squares,
    unit_hits,
)
from wsl_core.data import Dataset
from wsl_core.ops import Grid
from wsl_core.papers.cam import CAM

SIZE = 16
pytestmark = pytest.mark.usefixtures("one_thread")


class Squares(Dataset):
    """Class c has a bright square in colour channel c, in another corner for each image."""

    name, split, licence, version = "squares", "val", "none", "1"
    classes, task, image_size = ("red", "green"), "single", SIZE

    def __len__(self):
        return 8

    def __getitem__(self, index):
        c, (row, column) = index % 2, divmod(index // 2 % 4, 2)
        there = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        image, mask = torch.zeros(3, SIZE, SIZE), torch.zeros(SIZE, SIZE, dtype=torch.int64)
        image[(c, *there)], mask[there] = 1.0, c + 1
        box = torch.tensor([[8 * column, 8 * row, 8 * column + 8, 8 * row + 8]]).float()
        labels = F.one_hot(torch.tensor(c), 2).float()
        return {"id": str(index), "image": image, "labels": labels, "boxes": box, "mask": mask}


class Colours(CAM):
    """Two units, each the mean of one colour over cells of 8 by 8; class c is told by unit c."""

    grid = Grid(8, 4)

    def __init__(self):
        super().__init__(num_classes=2, width=4)
        self.classifier = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
            self.classifier.bias.zero_()

    def features(self, images):
        return F.avg_pool2d(images[:, :2], 8)


@pytest.fixture(scope="module")
def colours():
    return Colours().eval()


# Units -------------------------------------------------------------------------------------------------------------


def test_a_unit_that_sees_one_colour_hits_the_class_of_this_colour(colours):
    assert torch.equal(unit_hits(colours, Squares(), strongest=4), torch.eye(2))
    half = unit_hits(colours, Squares(), strongest=8)  # the other half is of the other class, where the unit is silent
    assert torch.equal(half, torch.eye(2) / 2)


def test_units_are_ranked_by_the_weight_that_a_class_gives_them(colours):
    found = measure_units(colours, Squares(), detectors=1, strongest=4)
    assert found["units of the highest weight"] == 1.0 and found["units of the lowest weight"] == 0.0
    assert found["units at random"] == 0.5


# A linear layer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clusters():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    return Described(centres[labels] + torch.randn(60, 2, generator=generator), labels)


@pytest.mark.parametrize("decay", [1.0, 0.01])
def test_the_fit_is_where_the_loss_has_no_slope(clusters, decay):
    layer = fit_linear(clusters, 3, decay)
    mean, std = clusters.features.mean(0), clusters.features.std(0)
    inputs = ((clusters.features - mean) / std).double().numpy()
    weight = (layer.weight * std).double().numpy()
    bias = (layer.bias + layer.weight @ mean).double().numpy()

    def loss(weight, bias):
        chosen = log_softmax(inputs @ weight.T + bias, axis=1)[np.arange(60), clusters.labels]
        return -chosen.mean() + decay / 2 * (weight**2).sum()

    random = np.random.default_rng(0)
    for _ in range(20):
        away = random.normal(0, 0.05, weight.shape), random.normal(0, 0.05, bias.shape)
        assert loss(weight, bias) < loss(weight + away[0], bias + away[1])


def test_the_scale_and_origin_of_features_do_not_matter(clusters):
    layer = fit_linear(clusters, 3, 0.1)
    moved = clusters._replace(features=100 * clusters.features + 7)
    assert torch.allclose(fit_linear(moved, 3, 0.1)(moved.features), layer(clusters.features), atol=1e-3)


def test_the_decay_is_chosen_on_val(clusters, monkeypatch):
    """Two layers to choose from: each is right about one of two val sets."""
    layers = {1.0: fit_linear(clusters, 3, 0.1), 0.1: fit_linear(rotated(clusters), 3, 0.1)}
    monkeypatch.setattr(deep_features, "DECAYS", tuple(layers))
    monkeypatch.setattr(deep_features, "fit_linear", lambda train, classes, decay: layers[decay])
    assert best_linear(clusters, clusters, 3) is layers[1.0]
    assert best_linear(clusters, rotated(clusters), 3) is layers[0.1]


def rotated(described):
    """The same images, each with the name of the next class."""
    return described._replace(labels=(described.labels + 1) % 3)


def test_a_feature_that_never_changes_is_left_alone(clusters):
    constant = clusters._replace(features=torch.cat([clusters.features, torch.full((60, 1), 5.0)], dim=1))
    layer = fit_linear(constant, 3, 0.1)
    assert layer.weight.isfinite().all() and accuracy(layer, constant) > 0.8


def test_images_are_described_by_what_the_classifier_gets(colours):
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    described = describe(colours, iter([(images, torch.eye(3))]))
    assert torch.allclose(colours.classifier(described.features), colours(images))
    assert described.labels.tolist() == [0, 1, 2]


# Crops -------------------------------------------------------------------------------------------------------------

FRAME = 40
boxes = st.tuples(*[st.floats(0, FRAME) for _ in range(4)]).map(
    lambda ends: [min(ends[0], ends[2]), min(ends[1], ends[3]), max(ends[0], ends[2]), max(ends[1], ends[3])]
)


@given(boxes)
def test_squares_are_square_lie_in_the_frame_and_hold_the_box(box):
    (square,) = squares(torch.tensor([box]), FRAME)
    assert torch.allclose(square[2] - square[0], square[3] - square[1], atol=1e-4)
    assert (square >= -1e-4).all() and (square <= FRAME + 1e-4).all()
    assert (square[:2] <= torch.tensor(box[:2]) + 1e-4).all() and (square[2:] >= torch.tensor(box[2:]) - 1e-4).all()


def test_a_crop_is_the_image_in_the_box():
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0.0, 24.0, 24.0], [4.0, 8.0, 16.0, 20.0]])
    first, second = cut_out(images, boxes, 12)
    assert torch.allclose(first, F.avg_pool2d(images[0], 2), atol=1e-5)
    assert torch.allclose(second, images[1, :, 8:20, 4:16], atol=1e-5)


def test_the_box_of_the_predicted_class_is_proposed(colours):
    true = torch.cat([sample["boxes"] for sample in Squares()])
    proposed = propose(colours, Squares(), 0.5)
    assert torch.equal(proposed, true)


def test_without_evidence_the_full_frame_is_proposed(colours):
    with torch.no_grad():
        blind = Colours().eval()
        blind.classifier.weight.zero_()
    assert torch.equal(propose(blind, Squares(), 0.5), torch.tensor([[0.0, 0.0, SIZE, SIZE]]).expand(8, 4))
