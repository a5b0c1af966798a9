"""Laws of the methods that ACoL is compared with."""

import pytest
import torch

from wsl_core.errors import UsageError
from wsl_core.ops import normalize, resize_maps
from wsl_core.papers import build_model
from wsl_core.papers.erasing_baselines import HideAndSeek, IterativeErasing, SingleClassifier, hidden_patches

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.eye(8)[[1, 4, 6]]
BATCH = {"image": IMAGES, "labels": LABELS}
NAMES = ("single_classifier", "hide_and_seek", "iterative_erasing")


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_of_the_asked_classes_and_do_not_depend_on_the_batch(name):
    torch.manual_seed(0)
    model = build_model(name).eval()
    maps = model.localize(IMAGES, LABELS)
    assert maps.shape == (3, 8, 8, 8) and not maps[LABELS == 0].any()
    torch.testing.assert_close(maps, model.localize(IMAGES) * LABELS[:, :, None, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[1:2], model.localize(IMAGES[1:2], LABELS[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_rebuilt_from_its_config(name):
    model = build_model(name, num_classes=3, width=4)
    again = build_model(name, **model.config)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config


def test_the_mean_of_a_map_is_its_logit():
    model = SingleClassifier().eval()
    torch.testing.assert_close(model(IMAGES), model.localize(IMAGES).mean(dim=(2, 3)))


def test_patches_are_hidden_whole_and_as_often_as_asked():
    torch.manual_seed(0)
    hidden = hidden_patches(torch.zeros(200, 3, 10, 10), 4, hide=0.5)
    assert hidden.float().mean().item() == pytest.approx(0.5, abs=0.03)
    rows = torch.arange(10) * 4 // 10  # 0 0 0 1 1 2 2 2 3 3
    for patch in range(4):
        inside = hidden[:, :, rows == patch][..., rows == 0]
        assert (inside.flatten(1).all(1) | ~inside.flatten(1).any(1)).all()


def test_hiding_nothing_is_one_classifier_and_hiding_all_shows_one_colour():
    torch.manual_seed(0)
    model = HideAndSeek(hide=0.0).eval()
    single = SingleClassifier().eval()
    single.load_state_dict(model.state_dict())
    assert torch.equal(model.losses(BATCH)["total"], single.losses(BATCH)["total"])
    model.hide = 1.0
    grey = model.backbone.mean.expand_as(IMAGES)
    torch.testing.assert_close(model.losses(BATCH)["total"], single.losses(BATCH | {"image": grey})["total"])


def test_the_second_network_sees_what_the_first_leaves_over_and_sends_nothing_back():
    torch.manual_seed(0)
    model = IterativeErasing(networks=2, erase_threshold=0.5).eval()
    first, second = model.networks
    lit = normalize(first.localize(IMAGES)[range(3), [1, 4, 6]])
    lit = resize_maps(lit[:, None], (64, 64), first.grid)
    rest = torch.where(lit > 0.5, first.backbone.mean, IMAGES)
    losses = model.losses(BATCH)
    torch.testing.assert_close(losses["network 2"], second.losses(BATCH | {"image": rest})["total"])
    torch.testing.assert_close(losses["total"], losses["network 1"] + losses["network 2"])
    losses["network 2"].backward()
    assert all(parameter.grad is None for parameter in first.parameters())


def test_one_network_erases_nothing():
    torch.manual_seed(0)
    model = IterativeErasing(networks=1).eval()
    torch.testing.assert_close(model.localize(IMAGES), normalize(model.networks[0].localize(IMAGES)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: HideAndSeek(patches=0), "patches=0"),
        (lambda: HideAndSeek(hide=1.5), r"hide=1\.5"),
        (lambda: IterativeErasing(networks=0), "networks=0"),
        (lambda: SingleClassifier(num_classes=0), "num_classes=0"),
        (lambda: SingleClassifier(task="both"), "task='both'"),
    ],
)
def test_wrong_arguments(build, words):
    with pytest.raises(UsageError, match=words):
        build()
