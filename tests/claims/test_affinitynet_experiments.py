"""What chapter 7 measures: its own small functions by hand, and the whole of it on networks that are hardly trained."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.claims.experiments import affinitynet as chapter
from wsl_core.claims.experiments import get_experiment
from wsl_core.claims.experiments.affinitynet import Marked, Setting, Split
from wsl_core.claims.register import load_register
from wsl_core.data import InMemory
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import valid_pairs
from wsl_core.papers.affinitynet import AffinityNet
from wsl_core.papers.cam import CAM
from wsl_core.recipes import get_recipe
from wsl_core.segmentation import with_background

pytestmark = pytest.mark.usefixtures("one_thread")


def halves(lit=slice(18, 30), size=32):
    """An image whose right half is bright and is the object, of which the map marks the most; and its true mask."""
    image, maps = torch.full((3, size, size), 0.1), torch.zeros(2, size, size)
    image[:, :, size // 2 :] = 0.9
    maps[1, :, lit] = 1.0
    truth = torch.zeros(size, size, dtype=torch.int64)
    truth[:, size // 2 :] = 2
    return Marked(image, torch.tensor([0.0, 1.0]), maps), truth


def holed():
    """The same image, of which the map marks the object but for a gap."""
    one, truth = halves()
    maps = torch.zeros_like(one.maps)
    maps[1, :, 16:], maps[1, :, 24:28] = 0.6, 0.1
    return one._replace(maps=maps), truth


@pytest.fixture
def split():
    one, truth = halves()
    return Split([one], [truth], ("cat", "dog"))


# Choosing ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_evaluator(split):
    assert chapter.score(split.truths, split)["miou"] == 1
    assert chapter.score([torch.zeros(32, 32, dtype=torch.int64)], split)["miou"] == pytest.approx(0.25)


def test_val_chooses_the_best_and_of_equal_ones_the_first(split):
    nothing, truth = torch.zeros(32, 32, dtype=torch.int64), split.truths[0]
    masks = {1: nothing, 2: truth, 3: truth}
    assert chapter.best_of((1, 2, 3), lambda number: lambda _: [masks[number]], split) == 2
    assert chapter.best_of((3, 1, 2), lambda number: lambda _: [masks[number]], split) == 3
    with pytest.raises(UsageError, match="settings is empty"):
        chapter.best_of((), lambda number: lambda _: [], split)


def test_masks_of_maps_feel_their_number_and_their_kind(split):
    one = split.marked[0]
    dim = split._replace(marked=[one._replace(maps=0.3 * one.maps)])
    gap = split._replace(marked=[holed()[0]])
    for kind, absent, present in ((chapter.CONSTANT, 0.4, 0.2), (chapter.POWER, 1.0, 16.0)):
        for number, count in ((absent, 0), (present, 12 * 32)):
            (mask,) = chapter.by_maps(kind)(number)(dim)
            assert int((mask == 2).sum()) == count, (kind, number)
    (plain,), (refined,) = (chapter.by_maps(kind)(2.0)(gap) for kind in (chapter.POWER, chapter.CRF))
    assert int((plain == 2).sum()) == 12 * 32 and int((refined == 2).sum()) > 14 * 32, "the CRF closes the gap"


def test_forced_masks_know_everything(split):
    (mask,) = chapter.forced_masks(split.marked, 16.0)
    assert set(mask.unique().tolist()) <= {0, 2}


# Walks -------------------------------------------------------------------------------------------------------------


def test_a_walk_on_colours_fills_the_half_of_one_colour(split):
    one = split.marked[0]
    affinity = chapter.rgb_affinity(one.image[None])
    near, far = (chapter.walk(one, affinity, [4.0], beta=32, steps=steps)[4.0] for steps in (0, 256))
    assert near.shape == far.shape == (2, 32, 32)
    before, after = (next(iter(chapter.masks_of([scores], [one]))) for scores in (near, far))
    assert chapter.score([after], split)["miou"] > 0.9 > chapter.score([before], split)["miou"]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from([1.0, 2.0, 8.0]), min_size=1, max_size=3, unique=True), st.sampled_from([0.0, 2.0]))
def test_walks_of_several_backgrounds_are_those_of_each_alone(alphas, beta):
    one, _ = halves(size=16, lit=slice(9, 12))
    affinity = chapter.rgb_affinity(one.image[None])
    together = chapter.walk(one, affinity, alphas, beta, steps=3)
    assert list(together) == alphas
    for alpha in alphas:
        torch.testing.assert_close(together[alpha], chapter.walk(one, affinity, [alpha], beta, steps=3)[alpha])


def test_a_walk_is_the_networks_own():
    torch.manual_seed(0)
    one, _ = halves()
    network = AffinityNet(width=4).eval()
    with torch.no_grad():
        found = chapter.walk(one, network.affinity(one.image[None]), [4.0], beta=2, steps=5)[4.0]
    own = network.spread(one.image[None], with_background(one.maps, 4.0)[one.names][None], beta=2, steps=5)[0]
    torch.testing.assert_close(found, own)


def test_an_image_without_a_label_cannot_walk():
    one, _ = halves()
    with pytest.raises(DataError, match="expected one class at least"):
        chapter.walk(one._replace(labels=torch.zeros(2)), chapter.rgb_affinity(one.image[None]), [4.0], 8)


def test_colours_that_are_alike_have_affinity_one_and_others_less():
    affinity = chapter.rgb_affinity(halves()[0].image[None])
    exists = valid_pairs(affinity.offsets, (8, 8))
    assert torch.equal(affinity.valid, exists)
    assert affinity.values[0][exists].amax() == 1 and affinity.values[0][exists].amin() < 0.2
    assert not affinity.values[0][~exists].any()


def test_random_features_depend_on_the_seed_and_leave_the_generator():
    before = torch.initial_seed()
    first, again, other = (chapter.random_features(seed).fusion.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.initial_seed() == before


def test_a_tuned_walk_is_chosen_on_val_and_read_off_on_test(split, monkeypatch):
    monkeypatch.setattr(chapter, "BETAS", (0.0, 32.0))
    monkeypatch.setattr(chapter, "SETTINGS", (Setting(4.0, 0.0), Setting(4.0, 32.0)))
    other = Split([halves(lit=slice(24, 28))[0]], split.truths, split.classes)
    best, scores = chapter.tuned_walks(chapter.rgb_affinity, split, other, crfs=(False,))[False]
    assert best == Setting(4.0, 32.0), "without affinities the background floods the object"
    expected = chapter.walk(other.marked[0], chapter.rgb_affinity(other.marked[0].image[None]), [4.0], 32.0)[4.0]
    torch.testing.assert_close(scores[0], expected)


def test_the_sweep_goes_over_powers_and_over_steps(split, monkeypatch):
    monkeypatch.setattr(chapter, "SWEPT_BETAS", (0.0, 32.0))
    monkeypatch.setattr(chapter, "SWEPT_STEPS", (0, 256))
    found = {name: one["miou"] for name, one in chapter.sweep(chapter.rgb_affinity, split, Setting(4.0, 32.0)).items()}
    assert list(found) == ["beta 0", "beta 32", "0 steps", "256 steps"]
    assert found["beta 32"] == found["256 steps"] > max(found["beta 0"], found["0 steps"])


def test_a_crf_behind_the_walk_is_one():
    one, _ = holed()
    scores = chapter.walk(one, chapter.rgb_affinity(one.image[None]), [2.0], 8, steps=0)[2.0]
    plain, refined = (next(iter(chapter.masks_of([scores], [one], crf))) for crf in (False, True))
    assert int((refined == 2).sum()) > int((plain == 2).sum())


# Labels ------------------------------------------------------------------------------------------------------------


def test_affinity_labels_are_right_where_the_masks_are():
    truth = torch.zeros(16, 32, dtype=torch.int64)
    truth[:, 16:] = 1
    known, right = chapter.label_quality([truth], [truth], radii=(2, 4))
    assert known == 1 and right == {2: 1.0, 4: 1.0}
    swapped = torch.where(truth == 0, 2, 0)  # other names, the same pairs
    assert chapter.label_quality([swapped], [truth], radii=(2,))[1] == {2: 1.0}
    uniform = torch.ones_like(truth)
    wrong = chapter.label_quality([uniform], [truth], radii=(2, 4))[1]
    assert 0 < wrong[4] < wrong[2] < 1, "the wider the pairs, the more of them cross the border"


def test_the_confident_labels_that_are_right_are_chosen_and_unknown_pixels_do_not_count():
    one, truth = halves(lit=slice(16, 32))
    maps = one.maps.clone()
    maps[1, :, :16] = 0.35  # the map spreads beyond the object
    wide = Split([one._replace(maps=maps)], [truth], ("cat", "dog"))
    numbers = chapter.confident_numbers(wide)
    assert numbers.alpha_low == 2.0, "under 4 all is object"
    narrow = Split([one], [truth], ("cat", "dog"))
    assert chapter.confident_numbers(narrow).alpha_low == 4.0, "of equally good ones the paper's"


def test_what_is_not_known_counts_nowhere():
    truth = torch.zeros(8, 16, dtype=torch.int64)
    truth[:, 8:] = 1
    half = torch.where(truth == 1, 255, 0)
    known, right = chapter.label_quality([half], [truth], radii=(3,))
    assert known == 0.5 and right == {3: 1.0}
    with pytest.raises(DataError, match="found no pair of which both cells are known"):
        chapter.label_quality([torch.full((8, 8), 255)], [truth[:, :8]])


# The whole ---------------------------------------------------------------------------------------------------------


def test_the_networks_differ_in_what_their_names_say():
    assert chapter.NETWORKS[chapter.FULL] == {}
    for changes in chapter.NETWORKS.values():
        AffinityNet(width=4, **changes)


def test_every_claim_finds_what_it_compares(monkeypatch):
    experiment = get_experiment("affinitynet-zoo")
    recipes = {
        paper: get_recipe(paper, "synthetic", "smoke").replace(
            steps=1, warmup_steps=0, batch_size=2, augment={}, model={"width": 4}
        )
        for paper in ("affinitynet", "affinitynet_segmentation")
    }
    monkeypatch.setattr(chapter, "get_recipe", lambda paper, *_: recipes[paper])
    for name, value in {
        "SHORT": {}, "SHORTER": {}, "LEARNT_ON": 4, "CHOSEN_ON": 2, "SCORED_ON": 2, "STEPS": 2, "BETAS": (2.0,),
        "SETTINGS": (Setting(4.0, 2.0),), "ALPHAS": (4.0,), "CONFIDENT": ((4.0, 24.0),),
    }.items():  # fmt: skip
        monkeypatch.setattr(chapter, name, value)
    recipe = experiment.recipes("smoke")["classifier"].replace(images=None, data={"size": 32})
    data = {role: InMemory(dataset) for role, dataset in experiment.data(recipe).items()}
    assert [len(data[split]) for split in ("train", "val", "test")] == [4, 2, 2]
    torch.manual_seed(0)
    found = experiment.measure({"classifier": CAM(num_classes=8, width=4)}, data)
    claims = [claim for claim in load_register().claims if claim.experiment == experiment.name]
    assert claims
    for claim in claims:
        assert set(claim.comparison.variants) <= set(found[claim.metric]), claim.id
    assert np.isfinite([value for variants in found.values() for value in variants.values()]).all()
