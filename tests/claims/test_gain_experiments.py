"""What chapter 4 measures: its own small functions, on networks that are not trained."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wsl_core.claims.experiments import gain as chapter
from wsl_core.claims.experiments import get_experiment
from wsl_core.claims.experiments.gap_vs_gmp import Seen, see
from wsl_core.claims.register import load_register
from wsl_core.data import Dataset, InMemory, load_dataset
from wsl_core.data.masked import WithMasks
from wsl_core.data.synthetic.world import AS_TRAINED
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Grid, resize_maps
from wsl_core.papers import build_model
from wsl_core.papers.gain import GAIN
from wsl_core.recipes import get_recipe
from wsl_core.segmentation import seed_cues
from wsl_core.training import open_split

pytestmark = pytest.mark.usefixtures("one_thread")

EXPERIMENTS = {one.name: one for one in chapter.EXPERIMENTS}
NUMBERS = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8).map(torch.tensor)


@pytest.fixture(scope="module")
def creatures():
    return load_dataset("synthetic", "val", world="creatures", size=48, length=6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GAIN(width=4).eval()


# Scores ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_auc_counts_pairs_that_are_in_order(positive, negative):
    pairs = [(p > n) + (p == n) / 2 for p in positive.tolist() for n in negative.tolist()]
    assert chapter.auc(positive, negative) == pytest.approx(np.mean(pairs))
    assert chapter.auc(negative, positive) == pytest.approx(1 - np.mean(pairs))
    assert chapter.auc(3 * positive - 7, 3 * negative - 7) == chapter.auc(positive, negative)  # no threshold is in it


def test_auc_needs_both_sides():
    with pytest.raises(UsageError, match="found 2 positives and 0 negatives; expected some of each"):
        chapter.auc(torch.zeros(2), torch.zeros(0))


def test_mean_auc_is_over_the_classes_that_occur():
    labels = torch.tensor([0, 0, 2, 2])
    logits = torch.tensor([[2.5, -99, 0], [1, -99, 0], [0, -99, 0], [3, -99, 1]])  # who leads by more is more probable
    assert chapter.mean_auc(logits, labels) == (3 / 4 + 3 / 4) / 2
    assert chapter.mean_auc(logits.flip(0), labels.flip(0)) == chapter.mean_auc(logits, labels)


def as_seen(maps, objects):
    labels = torch.zeros(len(maps), dtype=torch.int64)
    return Seen(maps, torch.zeros(len(maps), 1), labels, [], objects, objects.long())


def test_mask_iou_is_that_of_the_pixels_at_the_threshold_of_val():
    maps = torch.tensor([[[1.0, 0.6, 0.3, 0.0]], [[0.0, 0.3, 0.6, 1.0]]])
    objects = maps > 0.5
    assert chapter.mask_iou(as_seen(maps, objects), as_seen(maps, objects)) == 1.0
    wide = maps > 0.2  # on val the object reaches further: there a threshold at or below 0.3 is best
    lit, truth = maps > 0.2, objects
    expected = (lit & truth).sum() / (lit | truth).sum()
    assert chapter.mask_iou(as_seen(maps, wide), as_seen(maps, objects)) == pytest.approx(expected.item())


@settings(deadline=None, max_examples=20)  # how long it takes says how busy the machine is
@given(st.integers(0, 10_000))
def test_mask_iou_at_its_own_best_threshold_is_the_best_of_all(seed):
    random = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 4, 4, generator=random)
    objects = torch.rand(3, 4, 4, generator=random) < 0.5
    objects[0, 0, 0] = True
    heights = maps / maps.amax(dim=(1, 2), keepdim=True)
    lit = heights >= torch.arange(0, 1, 0.001)[:, None, None, None]
    ious = (lit & objects).sum((1, 2, 3)) / (lit | objects).sum((1, 2, 3))
    seen = as_seen(maps, objects)
    assert chapter.mask_iou(seen, seen) == pytest.approx(ious.max().item())


def test_the_shares_of_a_partition_add_up_and_negative_evidence_is_none():
    maps = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(0))
    left = torch.zeros(5, 6, 6, dtype=torch.bool)
    left[:, :, :2] = True
    torch.testing.assert_close(
        chapter.attention_share(maps, left) + chapter.attention_share(maps, ~left), torch.ones(5)
    )
    torch.testing.assert_close(chapter.attention_share(maps, left), chapter.attention_share(maps.relu() * 9, left))
    assert chapter.attention_share(torch.full((1, 6, 6), 2.0), left[:1]).item() == pytest.approx(1 / 3)
    # a map without evidence points nowhere, as one that is the same everywhere
    assert chapter.attention_share(torch.full((1, 6, 6), -1.0), left[:1]).item() == pytest.approx(1 / 3)


def test_the_share_of_a_broken_map_is_refused():
    with pytest.raises(DataError, match="found NaN or infinity"):
        chapter.attention_share(torch.full((1, 2, 2), float("nan")), torch.ones(1, 2, 2, dtype=torch.bool))


def test_a_pixel_is_boxed_where_its_centre_lies_in_any_box():
    boxes = [torch.tensor([[0.0, 0.0, 1.5, 1.0], [2.0, 1.0, 3.0, 3.0]]), torch.zeros(0, 4)]
    first, second = chapter.boxed(boxes, 3, 3).int().tolist()
    assert first == [[1, 0, 0], [0, 0, 1], [0, 0, 1]] and not np.any(second)


# Masked images -----------------------------------------------------------------------------------------------------


def test_the_images_are_masked_as_gain_masks_them(model, creatures):
    """But for one thing: GAIN divides a map by its maximum before it enlarges it, which flattens the peak a little."""
    images = torch.stack([sample["image"] for sample in creatures])
    labels = torch.stack([sample["labels"] for sample in creatures])
    ours = chapter.without_the_attended(images, see(model, creatures).maps, model.backbone.mean)
    torch.testing.assert_close(ours, model.masked_images(images, labels), atol=0.05, rtol=0)
    assert (ours - images).abs().max() > 0.2, "nothing was removed"


def test_only_what_is_attended_to_fades_and_to_the_given_colour():
    images, maps, grey = torch.ones(1, 3, 1, 3), torch.tensor([[[-1.0, 1.0, 2.0]]]), torch.full((1, 3, 1, 1), 0.5)
    left = chapter.without_the_attended(images, maps, grey)[0, 0, 0]
    assert left[0] > 0.98 and left[1] == 0.75 and left[2] < 0.52


def test_a_flat_map_masks_nothing_that_counts(model, creatures):
    images = torch.stack([sample["image"] for sample in creatures])
    with torch.no_grad():
        whole = model(images)
    scores = chapter.masked_scores(model, creatures, torch.zeros(6, 48, 48))
    torch.testing.assert_close(scores, whole, atol=0.1, rtol=0)


def test_each_image_is_masked_by_its_own_map(model, creatures, monkeypatch):
    monkeypatch.setattr(chapter, "BATCH", 4)
    maps = torch.rand(6, 48, 48, generator=torch.Generator().manual_seed(0))
    scores = chapter.masked_scores(model, creatures, maps)
    for i in (0, 5):
        image = chapter.without_the_attended(creatures[i]["image"][None], maps[i : i + 1], model.backbone.mean)
        with torch.no_grad():
            torch.testing.assert_close(scores[i : i + 1], model(image))


def test_every_image_needs_its_map(model, creatures):
    with pytest.raises(UsageError, match="maps: found 5; expected one for each of the 6 images"):
        chapter.masked_scores(model, creatures, torch.rand(5, 48, 48))


def test_under_other_masks_than_its_own_all_networks_see_the_same_images(model, creatures):
    torch.manual_seed(1)
    classifier = see(build_model("cam", width=4).eval(), creatures)
    own, its, others = chapter.whose_masks(see(model, creatures), classifier).values()
    assert torch.equal(its, classifier.maps) and not torch.equal(own, its)
    assert torch.equal(others[1:], its[:-1]) and torch.equal(others[0], its[-1])


def test_the_classifier_is_measured_under_its_own_mask_and_part_by_part(model, creatures):
    data = {"val": creatures, "test": creatures, "without heads": creatures}
    found = chapter.measure_creatures({"classifier": model}, data)
    masked, lost, whole = (found[name] for name in (chapter.MASKED, chapter.LOST, chapter.ACCURACY))
    assert found[chapter.HEADLESS] == {"classifier": 0.0}  # here they are the same images
    for name, value in masked.items():
        assert lost[name] == whole["classifier"] - value
    assert masked["classifier, own mask"] == masked["classifier, the classifier's mask"]
    parts = [found[chapter.COVERAGE][f"classifier, {part}"] for part in chapter.PARTS]
    assert min(parts) <= found[chapter.COVERAGE]["classifier"] <= max(parts)


# Boats -------------------------------------------------------------------------------------------------------------


class Coast(Dataset):
    """Image i is red to the left; every other one has a boat, which is the left quarter or, in the last, the right."""

    name, split, licence, version = "coast", "test", "none", "1"
    classes, task, image_size = ("house", "boat"), "multi", 8

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image, mask = torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.int64)
        image[0, :, :4] = 1.0
        columns = slice(6, 8) if index == 3 else slice(0, 2)
        mask[:, columns] = 1 + index % 2
        labels = torch.tensor([float(index % 2 == 0), float(index % 2 == 1)])
        return {"id": str(index), "image": image, "labels": labels, "mask": mask}


class Red(nn.Module):
    """The map of the class boat is the red channel; its logit is the mean of it minus a bias."""

    grid = Grid(1, 0.5)

    def __init__(self, bias=0.0):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, images):
        return self.localize(images).mean(dim=(2, 3)) - self.bias

    def localize(self, images, labels=None):
        return images[:, [1, 0]]  # green for houses, red for boats


class Subset(Coast):
    """Two of these images."""

    def __init__(self, *indices):
        self.indices = indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return super().__getitem__(self.indices[index])


def test_boats_are_told_by_the_column_of_their_class():
    logits, present = chapter.boat_logits(Red(0.25), Coast())
    assert logits.tolist() == [0.25] * 4 and present.tolist() == [False, True, False, True]


def test_the_share_on_boats_is_a_mean_over_the_images_with_a_boat():
    assert chapter.share_on_boats(Red(), Coast()) == (0.25, 0.25)  # a half of it in one image, nothing in the other
    assert chapter.share_on_boats(Red(), Subset(0, 1)) == (0.5, 0.25)


def test_without_boats_there_is_no_share():
    with pytest.raises(UsageError, match="coast/test shows no boat"):
        chapter.share_on_boats(Red(), Subset(0, 2))


def test_overall_is_the_mean_of_the_two_biased_sets_and_auc_is_between_them():
    boats, others = Subset(1, 3, 1), Subset(0, 2)
    data = dict(zip((AS_TRAINED, *chapter.BIASED), (Coast(), boats, others), strict=True))
    found = chapter.measure_boats({"GAIN": Red(0.25), "classifier": Red(0.75)}, data)
    accuracy = found[chapter.BOAT_ACCURACY]
    assert [accuracy[f"GAIN, {role}"] for role in (*chapter.BIASED, "overall", AS_TRAINED)] == [1, 0, 0.5, 0.5]
    assert [accuracy[f"classifier, {role}"] for role in (*chapter.BIASED, "overall", AS_TRAINED)] == [0, 1, 0.5, 0.5]
    assert (
        accuracy["GAIN, the worse of both"] == accuracy["classifier, the worse of both"] == 0
    )  # always or never a boat
    assert [accuracy[f"GAIN minus classifier, {role}"] for role in chapter.BIASED] == [1, -1]
    aucs = found[chapter.BOAT_AUC]
    assert all(value == (0.0 if "minus" in name else 0.5) for name, value in aucs.items())
    assert "chance" in aucs


def test_aucs_hold_each_situation_against_what_was_trained():
    seen = {
        AS_TRAINED: (torch.tensor([3.0, 0.0]), torch.tensor([True, False])),
        chapter.BIASED[0]: (torch.tensor([-1.0, 1.0]), torch.tensor([True, True])),  # boats without water
        chapter.BIASED[1]: (torch.tensor([4.0, 2.0, -2.0, -3.0]), torch.zeros(4, dtype=torch.bool)),
    }
    expected = {AS_TRAINED: 1.0, chapter.BIASED[0]: 0.5, chapter.BIASED[1]: 0.75, "overall": 0.5}
    assert chapter.boat_aucs(seen) == expected
    shifted = {situation: (logits - 9, boat) for situation, (logits, boat) in seen.items()}
    assert chapter.boat_aucs(shifted) == expected


def test_ranks_do_not_depend_on_what_all_classes_of_an_image_have_in_common():
    logits, labels = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4
    common = 5 * torch.randn(30, 1, generator=torch.Generator().manual_seed(1))
    assert chapter.mean_auc(logits + common, labels) == pytest.approx(chapter.mean_auc(logits, labels))


# Segmentation ------------------------------------------------------------------------------------------------------


def test_cues_are_those_of_the_labelled_class_at_the_images_pixels(model, creatures):
    for cues, sample in zip(chapter.cues_from(model, creatures), creatures, strict=True):
        with torch.no_grad():
            own = model.localize(sample["image"][None])
        large = resize_maps(own, (48, 48), model.grid)[0]
        assert torch.equal(cues, seed_cues(large, sample["labels"]))
        assert set(cues.unique().tolist()) <= {0, int(sample["labels"].argmax()) + 1, 255}


class Masks(Coast):
    """Samples that are no more than a mask."""

    def __init__(self, *masks):
        self.masks = [torch.tensor([mask]) for mask in masks]

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        return {"id": str(index), "mask": self.masks[index]}


def test_cues_are_right_where_they_agree_with_the_mask_and_nothing_is_wrong_where_none_is():
    cues = [torch.tensor([[1, 255, 1, 0]]), torch.tensor([[255, 255, 255, 1]])]  # the last pixel is nobody's
    found = chapter.right_cues(cues, Masks([1, 1, 0, 0], [2, 2, 2, 255]))
    assert found == {chapter.CUES: 2 / 3, chapter.CUED: 1 / 5}


def test_no_cues_at_all_are_no_division_by_zero():
    nothing = torch.full((1, 2), 255)
    assert chapter.right_cues([nothing], Masks([255, 255])) == {chapter.CUES: 0.0, chapter.CUED: 0.0}


def test_sec_learns_from_the_cues_and_not_from_the_masks(creatures):
    """The same cues on other masks train the same network, other cues another; the trunk it starts from stays as is."""
    few = InMemory(creatures)
    hidden = WithMasks(few, [torch.full((48, 48), 255) for _ in range(len(few))])
    left, right = ([torch.full((48, 48), label) for _ in range(len(few))] for label in (0, 1))
    torch.manual_seed(0)
    classifier = build_model("cam", width=4)
    before = [parameter.clone() for parameter in classifier.parameters()]
    weights = [
        torch.cat([p.flatten() for p in chapter.segmenter(data, cues, classifier, seed=0).parameters()]).detach()
        for data, cues in ((few, left), (hidden, left), (few, right))
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert all(map(torch.equal, before, classifier.parameters()))


def test_a_network_that_says_the_truth_has_miou_1_without_a_crf(creatures):
    class Truth(nn.Module):
        grid = Grid(stride=1, first=0.5)

        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def segment(self, images):
            masks = torch.stack([sample["mask"] for sample in creatures])
            return 50 * nn.functional.one_hot(masks, len(creatures.classes) + 1).permute(0, 3, 1, 2).float()

    scores = chapter.segmentation_scores(Truth(), creatures)
    assert scores["without CRF"]["miou"] == 1.0
    assert scores["with CRF"]["images"] == len(creatures)


def test_the_networks_behind_sec_are_those_of_the_other_experiments():
    behind = get_experiment("gain-segmentation").recipes("book")
    for experiment in ("gain-creatures", "gain-few-masks"):
        for name, recipe in get_experiment(experiment).recipes("book").items():
            if name in behind:
                assert behind[name].identity() == recipe.identity()


# Experiments and register ------------------------------------------------------------------------------------------


def tiny(experiment):
    """The experiment's own measurement: untrained narrow networks, a handful of small images."""
    recipes = {
        name: recipe.replace(images=12, data={"size": 32}, model={"width": 4})
        for name, recipe in experiment.recipes("smoke").items()
    }
    data = {role: InMemory(one) for role, one in experiment.data(next(iter(recipes.values()))).items()}
    torch.manual_seed(0)
    models = {}
    for name, recipe in recipes.items():
        val = open_split(recipe, "val")
        models[name] = build_model(recipe.paper, num_classes=len(val.classes), task=val.task, **recipe.model).eval()
    return experiment.measure(models, data)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_finds_what_it_compares(name):
    found = tiny(EXPERIMENTS[name])
    claims = [claim for claim in load_register().claims if claim.experiment == name]
    assert claims
    for claim in claims:
        assert set(claim.comparison.variants) <= set(found[claim.metric]), claim.id
    assert np.isfinite([value for variants in found.values() for value in variants.values()]).all()


def test_the_classifier_is_gain_without_mining():
    """The same random numbers make the same network; without a mining loss the same is trained."""
    torch.manual_seed(0)
    plain = build_model("cam", width=4)
    torch.manual_seed(0)
    guided = GAIN(width=4, mining_weight=0.0)
    torch.testing.assert_close(dict(plain.named_parameters()), dict(guided.named_parameters()))
    batch = {"image": torch.rand(2, 3, 32, 32), "labels": torch.eye(8)[:2]}
    for network in (plain, guided):
        network.losses(batch)["total"].backward()
    for (name, one), (other, two) in zip(plain.named_parameters(), guided.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_the_networks_differ_in_what_their_names_say():
    recipes = get_experiment("gain-creatures").recipes("book")
    gain = recipes["GAIN"]
    assert gain == get_recipe("gain", "synthetic", "book")
    assert recipes["classifier"] == gain.replace(paper="cam")
    few = get_experiment("gain-few-masks").recipes("book")
    for name in ("classifier", "GAIN", "GAIN_ext, 5 % masks"):
        assert few[name].identity() == recipes[name].identity()
    for share in (0.01, 0.02, 0.05, 0.1):
        guided = few[f"GAIN_ext, {round(100 * share)} % masks"]
        assert guided.data == gain.data | {"few_masks": {"masks": share}}
        assert guided.model == {"attention_weight": 10.0, "mining_weight": 1.0}  # the paper's
        assert guided.identity() | {"data": gain.data, "model": {}} == gain.identity()
    for weight in (1.0, 100.0):
        weighed = few[f"5 % masks, weight {weight:.0f}"]
        assert weighed.identity() == few["GAIN_ext, 5 % masks"].replace(model={"attention_weight": weight}).identity()
    for name in ("ACoL", "iterative erasing"):  # trained for chapter 3
        assert recipes[name].identity() == get_experiment("acol-creatures").recipes("book")[name].identity()


def test_masks_of_boats_are_as_many_as_their_name_says():
    recipes = get_experiment("gain-boats").recipes("smoke")
    counts = {name: recipe.data["few_masks"]["masks"] for name, recipe in recipes.items() if "few_masks" in recipe.data}
    others = {"78 masks without mining": (10.0, 0.0), "78 masks, weight 100": (100.0, 1.0)}
    assert counts == {f"GAIN_ext, {n} masks": n for n in (9, 23, 78)} | dict.fromkeys(others, 78)
    for name, (attention, mining) in others.items():
        assert recipes[name].model == {"attention_weight": attention, "mining_weight": mining}
    train = open_split(recipes["GAIN_ext, 9 masks"].replace(images=None, data={"size": 16}), "train")
    assert len(train.kept) == 9
    assert all(train[i]["labels"][train.classes.index("boat")] for i in train.kept)


def test_the_camera_has_the_papers_number_of_photographs_and_boxes():
    recipe = get_experiment("gain-camera").recipes("book")["GAIN_ext, 5 % boxes"]
    train = open_split(recipe.replace(data={"size": 16}), "train")
    assert len(train) == 700 and len(train.kept) == 35
