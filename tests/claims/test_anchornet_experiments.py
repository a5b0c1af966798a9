"""What chapter 5 measures: its own small functions by hand, and the whole of it on networks that are hardly trained."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.claims.experiments import anchornet as chapter
from wsl_core.claims.experiments import get_experiment
from wsl_core.claims.experiments.anchornet import Fired
from wsl_core.claims.register import load_register
from wsl_core.data import InMemory, load_dataset
from wsl_core.data.pairs import Pair
from wsl_core.errors import UsageError
from wsl_core.matching import Correspondence, DescriptorMap, cell_centres, nearest_neighbours
from wsl_core.metrics.matching import pck
from wsl_core.ops import Grid
from wsl_core.papers.anchornet import AnchorNet
from wsl_core.papers.cam import CAM
from wsl_core.recipes import get_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = get_recipe("anchornet", "synthetic", "smoke").replace(
    steps=2, warmup_steps=1, batch_size=4, augment={"shift": 2}, model={"filters": 2, "agnostic_channels": 4}
)


@pytest.fixture(scope="module")
def world():
    return InMemory(load_dataset("synthetic", "val", world="families", size=32, length=24))


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(1)  # not the training's: equal first weights would hide that nothing was taken over
    return CAM(width=4).eval()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AnchorNet(width=4, filters=2, agnostic_channels=4).eval()


# Channels ----------------------------------------------------------------------------------------------------------


def test_the_part_of_a_cell_is_that_of_the_pixel_at_its_centre():
    parts = torch.zeros(1, 8, 8, dtype=torch.int64)
    parts[0, 6, 2] = 5
    assert chapter.parts_at_cells(parts, (2, 2), Grid(stride=4, first=2))[0].tolist() == [[0, 0], [5, 0]]
    assert chapter.parts_at_cells(parts, (2, 3), Grid(stride=4, first=2.5)).shape == (1, 2, 3)  # beyond the border


def test_of_all_banks_that_of_the_label_is_taken():
    maps = torch.arange(12.0).view(2, 6, 1, 1)
    fired = Fired(maps, torch.tensor([2, 0]), torch.zeros(2, 1, 1, dtype=torch.int64))
    assert chapter.of_own_class(fired, classes=3).flatten().tolist() == [4, 5, 6, 7]


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_channels_that_are_copies_coincide_and_channels_that_share_nothing_do_not(count, seed):
    random = torch.Generator().manual_seed(seed)
    one = torch.rand(3, 1, 4, 4, generator=random)
    scales = torch.rand(1, count, 1, 1, generator=random) + 0.1
    assert chapter.lit_apart(one * scales) == pytest.approx(0, abs=1e-6)
    alone = torch.eye(count).view(1, count, 1, count)
    assert chapter.lit_apart(alone) == pytest.approx(1)
    assert 0 <= chapter.lit_apart(torch.randn(3, count, 4, 4, generator=random)) <= 1


def test_silent_channels_coincide():
    assert chapter.lit_apart(torch.full((2, 2, 3, 3), -1.0)) == 0
    with pytest.raises(UsageError, match="found 1 channel; expected two"):
        chapter.lit_apart(torch.ones(1, 1, 2, 2))


def test_coverage_and_precision_of_the_union_by_hand():
    own = torch.tensor([[[[4.0, 1.0, 0.0, 0.0]], [[0.0, 2.0, 0.9, 1.1]]]])  # lit: cell 0, and cells 1 and 3
    parts = torch.tensor([[[1, 2, 2, 0]]])
    assert chapter.lit_on_object(own, parts) == (2 / 3, 2 / 3)
    assert chapter.lit_on_object(-own, parts) == (0, 0)


def test_parts_are_counted_once_and_the_background_never():
    peaks = torch.tensor([[0, 0, 0], [4, 4, 4], [4, 0, 2], [1, 2, 3]])
    assert chapter.distinct_parts(peaks) == (0 + 1 + 2 + 3) / 4
    assert chapter.distinct_parts(peaks.flip(1)) == chapter.distinct_parts(peaks)


def test_the_part_of_a_channel_is_the_most_frequent_and_never_the_background():
    peaks = torch.tensor([[0, 1], [0, 2], [0, 2], [3, 1]])
    labels = torch.tensor([0, 0, 0, 1])
    expected = chapter.likeliest_parts(peaks, labels, classes=3, parts=3)
    assert expected[0].tolist() == [1, 2] and expected[1].tolist() == [3, 1]
    shares = chapter.agreement(peaks, labels, expected)
    assert shares[0].tolist() == pytest.approx([0, 2 / 3])
    assert shares[1].tolist() == [1, 1] and shares[2].tolist() == [0, 0]


def fired_at(dataset, rows):
    """Responses whose peaks lie on the parts that are asked for: rows of (class, part of each channel)."""
    names, cells = dataset.part_names, len(dataset.part_names) + 1
    parts = torch.arange(cells).view(1, 1, cells).repeat(len(rows), 1, 1)
    maps = torch.zeros(len(rows), len(rows[0][1]), 1, cells)
    for n, (_, wanted) in enumerate(rows):
        for c, part in enumerate(wanted):
            maps[n, c, 0, names.index(part) + 1 if part else 0] = 1.0
    return Fired(maps, torch.tensor([dataset.classes.index(label) for label, _ in rows]), parts)


def test_a_channel_is_shared_where_its_part_comes_back_on_the_relative(world):
    """Channel 0 marks wheels on both, channel 1 a car's wheels and a truck's window, channel 2 the background."""
    val = fired_at(world, [("car", ("car/wheel", "car/wheel", None)), ("truck", ("truck/wheel", "truck/window", None))])
    shared = chapter.shared_agreement(val, val, world, channels=2)
    assert shared["car", "truck"].tolist() == [1, 0] and shared["truck", "car"].tolist() == [1, 0]
    assert ("car", "dog") not in shared and ("car", "car") not in shared
    assert shared["car", "bicycle"].tolist() == [0, 0]  # no image of a bicycle has been seen


def test_channels_are_chosen_on_val_and_read_off_on_test(world):
    val = fired_at(world, [("car", ("car/wheel", None)), ("truck", (None, None))])
    test = fired_at(world, [("car", ("car/wheel", "car/wheel")), ("truck", ("truck/window", "truck/wheel"))])
    assert chapter.shared_agreement(val, test, world, channels=1)["car", "truck"].tolist() == [0]
    assert chapter.best_of_descriptor(val, test, world, channels=1) == 0.5  # the car's wheel, and a truck's anything


def test_a_random_cell_hits_a_part_as_often_as_its_area_says(world):
    car, wheel, window = (world.part_names.index(f"car/{part}") + 1 for part in ("body", "wheel", "window"))
    parts = torch.tensor([[[car, car, car, wheel, window, 0, 0, 0]]])
    fired = Fired(torch.zeros(1, 1, 1, 8), torch.tensor([world.classes.index("car")]), parts)
    assert chapter.of_random_cells(fired, fired, world, channels=2)[chapter.SAME_PART] == pytest.approx(3 / 5)


def test_all_scores_of_perfect_and_of_equal_channels(world):
    """Two channels a class: in the first network each marks its own part, in the second both the same."""
    kinds = [(name, [p for p in world.part_names if p.startswith(f"{name}/")][:2]) for name in world.classes]
    perfect, equal = ([], [])
    for k, (name, (one, two)) in enumerate(kinds):
        silent = [None] * 2 * len(kinds)
        perfect.append((name, (*silent[: 2 * k], one, two, *silent[2 * k + 2 :])))
        equal.append((name, (*silent[: 2 * k], one, one, *silent[2 * k + 2 :])))
    best, worst = (
        chapter.score_channels(fired, fired, world) for fired in (fired_at(world, perfect), fired_at(world, equal))
    )
    assert (best[chapter.APART], worst[chapter.APART]) == (1, 0)
    assert (best[chapter.DISTINCT], worst[chapter.DISTINCT]) == (2, 1)
    assert best[chapter.COVERAGE] == pytest.approx(2 * worst[chapter.COVERAGE])
    for found in (best, worst):
        assert found[chapter.ON_OBJECT] == found[chapter.SAME_PART] == found[chapter.PURITY] == 1
        assert found[chapter.PRECISION] == 1


# Matching ----------------------------------------------------------------------------------------------------------


def identity(size, grid=Grid(1, 0.5)):  # noqa: B008
    ones = torch.ones(size, size)
    return Correspondence(cell_centres((size, size), grid), ones, ones.bool(), grid)


def test_an_image_matched_with_itself_scores_one(world):
    found = chapter.chosen_pairs(world, per_class=2, count=4)[1][chapter.WITHIN][0]
    few, _ = chapter.chosen_pairs(world, per_class=2, count=4)
    sample = few[found.source]
    keypoints, parts = sample["keypoints"][:, 2].nonzero().flatten(), sample["parts"].unique()[1:]
    own = Pair(0, 0, found.source_class, found.source_class, keypoints.repeat(2, 1).T, parts.repeat(2, 1).T)
    scores = chapter.score_pair(sample, sample, own, identity(32))
    assert scores == dict.fromkeys([*chapter.PCK.values(), chapter.PART_IOU, chapter.MASK_IOU], 1.0)


def test_a_pair_is_scored_by_its_own_keypoints_and_parts(world):
    few, chosen = chapter.chosen_pairs(world, per_class=3, count=6)
    pair = chosen[chapter.ACROSS][0]
    source, target = few[pair.source], few[pair.target]
    scores = chapter.score_pair(source, target, pair, identity(32))
    a, b = source["keypoints"][pair.keypoints[:, 0]], target["keypoints"][pair.keypoints[:, 1]]
    by_hand = pck(a[:, :2], a, b, alphas=(0.1,), normaliser="box", box=target["boxes"][0])
    assert scores[chapter.PCK[0.1]] == by_hand[0]
    ours, theirs = source["mask"] > 0, target["mask"] > 0
    assert scores[chapter.MASK_IOU] == pytest.approx(((ours & theirs).sum() / (ours | theirs).sum()).item())
    total = areas = 0.0
    for one, other in pair.parts.tolist():
        x, y = source["parts"] == one, target["parts"] == other
        total, areas = total + (x & y).sum().item(), areas + (x | y).sum().item()
    assert scores[chapter.PART_IOU] == pytest.approx(total / areas)  # the weights cancel the denominators
    without = chapter.score_pair(source, target, pair._replace(parts=pair.parts[:0]), identity(32))
    assert chapter.PART_IOU not in without and chapter.MASK_IOU in without


def test_a_box_needs_a_keypoint_that_is_visible():
    with pytest.raises(UsageError, match="found none that is visible"):
        chapter.tight_box(torch.zeros(3, 3))


def test_pairs_are_of_one_class_or_of_relatives_among_a_few_images(world):
    few, chosen = chapter.chosen_pairs(world, per_class=2, count=5)
    assert len(few) == 16 and all(len(found) == 5 for found in chosen.values())
    assert all(pair.source_class == pair.target_class for pair in chosen[chapter.WITHIN])
    assert all(pair.source_class != pair.target_class for pair in chosen[chapter.ACROSS])
    again = chapter.chosen_pairs(world, per_class=2, count=5)[1]
    assert [pair[:4] for pair in again[chapter.ACROSS]] == [pair[:4] for pair in chosen[chapter.ACROSS]]


def test_another_image_of_the_class_stands_in_for_the_target(world):
    few, chosen = chapter.chosen_pairs(world, per_class=2, count=4)
    asked = []

    def matcher(a, b, *_):
        asked.append((a.features[0, 0, 0].item(), b.features[0, 0, 0].item()))
        return nearest_neighbours(a, b)

    images = [sample["image"] for sample in few]

    def number_of(sample):
        number = next(i for i, image in enumerate(images) if torch.equal(image, sample["image"]))
        return DescriptorMap(torch.full((1, 8, 8), float(number)), Grid(4, 2))

    plain, swapped = (
        chapter.match_all(few, chosen[chapter.WITHIN], number_of, matcher, of_another_image=other)
        for other in (False, True)
    )
    given = [(pair.source, pair.target) for pair in chosen[chapter.WITHIN]]
    assert plain.images.tolist() == swapped.images.tolist() == [list(pair) for pair in given]
    assert asked[:4] == given
    for (source, target), (a, b) in zip(given, asked[4:], strict=True):
        assert a == source and b != target
        assert torch.equal(few[target]["labels"], few[int(b)]["labels"])


def test_every_descriptor_describes_an_image_of_its_size(world, network, classifier):
    sample = world[0]
    described = chapter.describers(network, classifier, chapter.untrained(world, RECIPE.replace(model={"width": 4})))
    for name, describe in described.items():
        features, grid = describe(sample)
        last = grid.first + grid.stride * (features.shape[-1] - 1)
        assert features.isfinite().all() and 0 < grid.first <= last < 32, name
    for name in (*chapter.ANCHORS, "classifier's features"):
        lengths = described[name](sample).features.norm(dim=0)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


# What is trained ---------------------------------------------------------------------------------------------------


def test_the_trunk_is_the_classifiers_and_stays_so(world, classifier):
    trained = chapter.anchors(world, classifier, RECIPE, seed=0)
    own, given = trained.backbone.state_dict(), classifier.backbone.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in own.items())
    assert trained.config["trunk"] == "frozen" and trained.config["filters"] == 2 and trained.pca_is_set
    other = chapter.anchors(world, classifier, RECIPE.replace(steps=1), seed=0)
    assert not torch.equal(trained.filters.weight, other.filters.weight), "nothing was learnt"


def test_a_third_of_the_training_shows_no_object():
    recipe = get_experiment("anchornet-families").recipes("smoke")["classifier"].replace(images=9, data={"size": 32})
    train = chapter.with_backgrounds(recipe)
    labels = torch.stack([sample["labels"].sum() for sample in train])
    assert labels.tolist() == [1] * 9 + [0] * 3
    assert not any((train[i]["image"] == train[j]["image"]).all() for i in range(9) for j in range(9, 12))


def test_the_losses_differ_in_what_their_names_say():
    weights = {"L_div^A": "filter_diversity_weight", "L_div^B": "response_diversity_weight"}
    for name, weight in weights.items():
        assert chapter.LOSSES[f"without {name}"] == {weight: 0.0}
    assert chapter.LOSSES["without both"] == dict.fromkeys(weights.values(), 0.0)
    assert chapter.LOSSES["without the average"] == {"background_weight": 0.0}
    assert chapter.LOSSES["AnchorNet"] == {}


def test_every_claim_finds_what_it_compares(monkeypatch):
    experiment = get_experiment("anchornet-families")
    small = get_recipe("anchornet", "synthetic", "book").replace(
        epochs=1, batch_size=8, augment={}, warmup_steps=1, in_memory=False, model={"filters": 2}
    )
    monkeypatch.setattr(chapter, "get_recipe", lambda *_: small)
    monkeypatch.setattr(chapter, "chosen_pairs", partial(chapter.chosen_pairs, per_class=2, count=2))
    recipe = experiment.recipes("smoke")["classifier"].replace(images=24, data={"size": 32})
    torch.manual_seed(0)
    data = {role: InMemory(dataset) for role, dataset in experiment.data(recipe).items()}
    found = experiment.measure({"classifier": CAM().eval()}, data)
    claims = [claim for claim in load_register().claims if claim.experiment == experiment.name]
    assert claims
    for claim in claims:
        assert set(claim.comparison.variants) <= set(found[claim.metric]), claim.id
    assert np.isfinite([value for variants in found.values() for value in variants.values()]).all()
