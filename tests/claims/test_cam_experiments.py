import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsl_core.claims.experiments.cam import (
    Localised,
    average_precision,
    gaussian,
    grad_cam_error,
    identity_error,
    inside,
    pixel_precision,
)
from wsl_core.papers.cam import CAM

SIZE = (16, 16)
BOX = torch.tensor([[4.0, 6.0, 10.0, 12.0]])


def square(low, high):
    """A map whose bright square fills BOX, with a dimmer one around it."""
    score_map = torch.zeros(SIZE)
    score_map[2:15, 1:15] = low
    score_map[6:12, 4:10] = high
    return score_map


def localised(*maps):
    return Localised(torch.stack(maps), [BOX] * len(maps), SIZE)


def test_another_images_map_is_never_the_own():
    found = localised(*(torch.full(SIZE, float(value)) for value in range(5)))
    assert (found.of_another_image().maps != found.maps).all()


def test_the_centre_gaussian_is_highest_in_the_middle():
    bump = gaussian((9, 11))[0]
    assert bump.argmax() == 4 * 11 + 5
    assert torch.allclose(bump, bump.flip(0)) and torch.allclose(bump, bump.flip(1))


def test_pixels_inside_boxes():
    boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0], [2.0, 1.0, 4.0, 3.0]])
    expected = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]).bool()
    assert torch.equal(inside(boxes, (3, 4)), expected)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12))
def test_average_precision_by_definition(pixels):
    scores = np.array([score for score, _ in pixels], float)
    truth = np.array([is_true for _, is_true in pixels]) | (np.arange(len(pixels)) == 0)
    expected, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        kept = scores >= threshold
        recall = (kept & truth).sum() / truth.sum()
        expected += (kept & truth).sum() / kept.sum() * (recall - before)
        before = recall
    found = average_precision(torch.tensor(scores[None], dtype=torch.float32), torch.tensor(truth[None]))
    assert found == pytest.approx(expected)


def test_a_constant_map_scores_the_share_of_the_box_and_a_perfect_one_1():
    assert pixel_precision(localised(torch.ones(SIZE))) == pytest.approx(36 / 256)
    assert pixel_precision(localised(square(0.5, 1.0))) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_identity_holds_for_mean_pooling_and_not_for_maximum_pooling(images):
    torch.manual_seed(0)
    assert identity_error(CAM(width=4, num_classes=3).eval(), images) < 1e-5
    assert identity_error(CAM(width=4, num_classes=3, pooling="gmp").eval(), images) > 1e-3


def test_grad_cam_is_the_rectified_map_behind_mean_pooling_only(images):
    torch.manual_seed(0)
    labels = torch.ones(4, 3)
    assert grad_cam_error(CAM(width=4, num_classes=3).double().eval(), images.double(), labels.double()) < 1e-10
    model = CAM(width=4, num_classes=3).eval()
    weights = model.classifier.weight.clone()
    assert grad_cam_error(model, images, labels) < 1e-4
    assert torch.equal(model.classifier.weight, weights)


def test_grad_cam_of_a_network_that_is_not_linear_behind_pooling(images):
    torch.manual_seed(0)
    model = CAM(width=4, num_classes=3).eval()
    torch.nn.init.normal_(model.classifier.weight)
    model.classifier.register_forward_hook(lambda module, inputs, output: output + 5 * inputs[0][:, :3] ** 2)
    assert grad_cam_error(model, images, torch.ones(4, 3)) > 1e-3
