"""What chapter 6 measures: its own small functions by hand, and the whole of it on networks that are hardly trained."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.claims.experiments import get_experiment
from wsl_core.claims.experiments import introspection as chapter
from wsl_core.claims.register import load_register
from wsl_core.data import InMemory, load_dataset
from wsl_core.data.intervened import Intervened
from wsl_core.data.pairs import pairs
from wsl_core.data.warps import Views, Warp
from wsl_core.errors import DataError, UsageError
from wsl_core.matching import DescriptorMap, position
from wsl_core.ops import Grid
from wsl_core.papers.cam import CAM
from wsl_core.papers.introspection import Introspection
from wsl_core.recipes import get_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world():
    return InMemory(load_dataset("synthetic", "val", world="families", size=32, length=56))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Introspection(width=4).eval()


def identity(size=64):
    """Two views of one image that are the image itself."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    warp = Warp(torch.eye(3)[None], None, (size, size))
    return Views(image, image, warp, warp)


def places(sample):
    return position((sample["image"].shape[-2], sample["image"].shape[-1]))


# Descriptors and confidence ----------------------------------------------------------------------------------------


def test_descriptors_have_unit_length_and_uncertainties_stay_above_the_floor(network):
    features, sigma = chapter.dense(network, torch.rand(2, 3, 32, 48))
    assert features.shape[2:] == sigma.shape[2:] == (8, 12)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 8, 12))
    assert (sigma >= network.sigma_floor).all()


def test_dense_reads_between_the_cells_of_the_network(network):
    """Twice as many places as cells; the second place lies at pixel 6, between the first two centres."""
    images = torch.rand(1, 3, 48, 48)
    cells, sigma = network.describe(images).sigma[0, 0], chapter.dense(network, images).sigma[0, 0]
    assert sigma.shape == (12, 12) and cells.shape == (6, 6)
    share = (6 - network.grid.first) / network.grid.stride
    assert 0 < share < 1
    rows = torch.lerp(cells[0], cells[1], share)
    torch.testing.assert_close(sigma[1, 1], torch.lerp(rows[0], rows[1], share))


def test_confidence_is_the_inverse_of_the_uncertainty(network):
    image = torch.rand(3, 32, 32)
    sigma = chapter.dense(network, image[None]).sigma[0, 0]
    torch.testing.assert_close(chapter.confidence_of(network)(image) * sigma, torch.ones(8, 8))
    with pytest.raises(UsageError, match="predicts no uncertainty"):
        chapter.confidence_of(Introspection(loss="fixed", width=4))


def test_the_controls_see_slopes_and_the_middle():
    image = torch.zeros(3, 48, 48)
    image[:, :, 24:] = torch.linspace(0, 1, 24)
    slope, middle = chapter.gradient_magnitude(image), chapter.centredness(image)
    assert slope.shape == middle.shape == (12, 12)
    assert (slope[:, :4] == 0).all() and (slope[:, 7:] > 0).all()
    assert middle.amax() == middle[5, 5] == middle[6, 6] and middle.amin() == middle[0, 0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_the_roc_area_counts_pairs_and_ties_by_half(seed, count):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (count,), generator=random).float()
    positive = torch.rand(count, generator=random) < 0.5
    positive[:2] = torch.tensor([True, False])
    differences = scores[positive][:, None] - scores[~positive]
    by_hand = ((differences > 0).double() + 0.5 * (differences == 0)).mean().item()
    assert chapter.roc_area(scores, positive) == pytest.approx(by_hand)
    assert chapter.roc_area(-scores, positive) == pytest.approx(1 - by_hand)


def test_the_roc_area_needs_both_kinds_and_finite_scores():
    with pytest.raises(DataError, match="found 2 of 2"):
        chapter.roc_area(torch.zeros(2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(DataError, match="found NaN or infinity"):
        chapter.roc_area(torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))


def test_confidence_is_scored_on_objects_and_on_texture(world):
    plain = load_dataset("synthetic", "test", world="families", size=64, length=4, distractors=0)
    empty = Intervened(plain, remove=plain.classes)
    contrast = chapter.score_confidence(chapter.gradient_magnitude, world, plain, empty)
    assert contrast[chapter.TEXTURE] > 0.9, "patterned walls have slopes and plain ones have none"
    nothing = chapter.score_confidence(
        lambda image: torch.ones(image.shape[-1] // 4, image.shape[-1] // 4), world, plain, empty
    )
    assert nothing == {chapter.FOREGROUND: 0.5, chapter.TEXTURE: 0.5}


def test_texture_is_asked_for_beside_the_object_alone():
    """A score that knows the object, and nothing of what is behind it."""
    plain = [load_dataset("synthetic", "test", world="families", size=64, length=4, distractors=0)[i] for i in range(4)]
    empty = [dict(sample, image=torch.rand(3, 64, 64) * (torch.arange(64) < 32)) for sample in plain]
    grid = Grid(chapter.STRIDE, chapter.STRIDE / 2)
    objects = {
        one["image"].data_ptr(): chapter.parts_at_cells(one["mask"][None], (16, 16), grid)[0] > 0 for one in plain
    }
    found = chapter.score_confidence(lambda image: objects[image.data_ptr()].float(), plain, plain, empty)
    assert found == {chapter.FOREGROUND: 1.0, chapter.TEXTURE: 0.5}


def test_worlds_without_both_kinds_of_places_are_refused(world):
    flat = [{"image": torch.zeros(3, 32, 32), "mask": torch.zeros(32, 32, dtype=torch.int64)}]
    with pytest.raises(DataError, match="found none with positive and negative places"):
        chapter.score_confidence(chapter.centredness, flat, flat, flat)


# Across warps ------------------------------------------------------------------------------------------------------


def test_two_views_that_are_the_image_are_matched_without_error(network):
    matches = chapter.match_warps(identity(), chapter.describe_by(network))
    assert matches.shown.all() and matches.right.all()
    inner = matches.errors.view(16, 16)[2:-2, 2:-2]  # near the border neighbours have nearly the same descriptor
    assert (inner == 0).all()


def test_position_is_right_where_nothing_moved_and_wrong_by_how_far_it_did():
    views = identity()
    moved = views.warp_b.homography.clone()
    moved[0, 0, 2] = 0.5  # view b looks 16 pixels further to the right
    matches = chapter.match_warps(views._replace(warp_b=Warp(moved, None, (64, 64))), places)
    assert (matches.errors - 16).abs().amax() < 1e-3 and not matches.right.any()
    assert matches.shown[:, 4:].all() and not matches.shown[:, :4].any()
    assert len(matches.errors) == len(matches.alike) == int(matches.shown.sum())


def test_views_are_the_same_each_time(world):
    first, second = (chapter.warped(world, count=2) for _ in range(2))
    assert len(first) == 2 and all(torch.equal(one.a, other.a) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0].a, chapter.warped(world, count=2, seed=1)[0].a)


def test_the_cosine_of_others_is_one_for_a_constant_and_nothing_for_orthogonal_descriptors():
    def orthogonal(sample):
        return DescriptorMap(torch.eye(256).view(256, 16, 16), Grid(4, 2))

    def opposite(sample):
        return DescriptorMap(torch.ones(1, 16, 16).index_fill(2, torch.arange(8), -1.0), Grid(4, 2))

    assert chapter.cosine_of_others([identity()], orthogonal) == 0
    assert chapter.cosine_of_others([identity()], opposite) == 1, "anti-parallel is not orthogonal"
    with pytest.raises(DataError, match="found no two places that are apart"):
        chapter.cosine_of_others([identity(8)], places)


# Regions -----------------------------------------------------------------------------------------------------------


def test_regions_of_an_image_matched_with_itself_are_right(world):
    pair = pairs(world, count=1)[0]
    rows = pair.keypoints[:, :1].repeat(1, 2)
    same = pair._replace(target=pair.source, target_class=pair.source_class, keypoints=rows)
    judged = chapter.region_pairs(world, [same])
    found = chapter.score_regions(world, judged, places)
    assert found.pcr[0] == 0 and found.pcr[-1] == 1 and (np.diff(found.pcr) >= 0).all()
    blind = chapter.score_regions(
        world, judged, lambda sample: DescriptorMap(torch.ones(1, 8, 8).cumsum(1), Grid(4, 2))
    )
    assert found.auc > blind.auc


def test_pairs_with_too_few_keypoints_are_left_out(world):
    pair = pairs(world, count=1)[0]
    with pytest.raises(DataError, match="three keypoints in common"):
        chapter.region_pairs(world, [pair._replace(keypoints=pair.keypoints[:2])])


# Few labels --------------------------------------------------------------------------------------------------------


def test_a_prototype_is_the_mean_over_the_images_that_show_the_point():
    image = DescriptorMap(torch.tensor([[[0.0, 4.0]]]), Grid(4, 2))
    shown = [[[2.0, 2, 1], [2, 2, 0]], [[6.0, 2, 1], [2, 2, 0]], [[6.0, 2, 0], [6, 2, 0]]]
    prototypes, known = chapter.point_prototypes([image] * 3, [torch.tensor(points) for points in shown])
    assert prototypes[:, 0].tolist() == [2.0, 0.0] and known.tolist() == [True, False]


def test_points_at_known_places_are_found_from_one_image():
    def sample(label):
        labels = torch.eye(2)[label]
        points = torch.tensor([[10.0, 10, 1], [50, 30, 1]])
        return {
            "image": torch.rand(3, 64, 64),
            "labels": labels,
            "keypoints": points,
            "boxes": torch.tensor([[0.0, 0, 60, 60]]),
        }

    images = [sample(label) for label in (0, 1) for _ in range(4)]
    assert chapter.few_shot(images, images, places, shots=(1, 2)) == {1: 1.0, 2: 1.0}
    moved = [one | {"keypoints": one["keypoints"] + torch.tensor([12.0, 0, 0])} for one in images]
    assert chapter.few_shot(images, moved, places, shots=(1,)) == {1: 0.0}
    with pytest.raises(DataError, match="class 0 has 4 images; expected 7"):
        chapter.few_shot(images, images, places, shots=(5,))


# The whole ---------------------------------------------------------------------------------------------------------


def test_the_untrained_network_has_the_weights_that_its_seed_gives(network):
    before = torch.initial_seed()
    own = chapter.untrained(network, 0).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    assert torch.initial_seed() == before


def test_crops_show_what_the_classifier_looks_at(world):
    torch.manual_seed(0)
    cropped = chapter.crops(world, CAM(num_classes=8, width=4).eval())
    assert len(cropped) == len(world) and cropped[0]["image"].shape == (3, 32, 32)
    assert cropped.version.startswith(world.version) and cropped.version != world.version


def test_the_models_differ_in_what_their_names_say():
    assert chapter.MODELS[chapter.FULL] == {}
    for changes in chapter.MODELS.values():
        Introspection(width=4, **changes)
    recipes = get_experiment("introspection-families").recipes("book")
    assert {name: recipe.model for name, recipe in recipes.items()} == chapter.MODELS
    assert {recipe.steps for recipe in recipes.values()} == {chapter.SHORTER["steps"]}


def test_every_claim_finds_what_it_compares(monkeypatch):
    experiment = get_experiment("introspection-families")
    recipes = {
        paper: get_recipe(paper, "synthetic", "smoke").replace(
            steps=2, warmup_steps=1, batch_size=4, augment={}, model={"width": 4}, data={"world": "families"}
        )
        for paper in ("cam", "anchornet", "introspection")
    }
    monkeypatch.setattr(chapter, "get_recipe", lambda paper, *_: recipes[paper])
    monkeypatch.setattr(chapter, "SHORT", {})
    monkeypatch.setattr(chapter, "SHORTER", {})
    monkeypatch.setattr(chapter, "PER_CLASS", 2)
    monkeypatch.setattr(chapter, "PLAIN_IMAGES", 4)
    monkeypatch.setattr(chapter, "chosen_pairs", partial(chapter.chosen_pairs, per_class=3, count=4))
    recipe = experiment.recipes("smoke")[chapter.FULL].replace(images=None, data={"size": 48, "length": 72})
    data = {role: InMemory(dataset) for role, dataset in experiment.data(recipe).items()}
    torch.manual_seed(0)
    models = {name: Introspection(width=4, **changes).eval() for name, changes in chapter.MODELS.items()}
    found = experiment.measure(models, data)
    claims = [claim for claim in load_register().claims if claim.experiment == experiment.name]
    assert claims
    for claim in claims:
        assert set(claim.comparison.variants) <= set(found[claim.metric]), claim.id
    assert np.isfinite([value for variants in found.values() for value in variants.values()]).all()
