import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wsl_core.claims.experiments import deep_features, gap_vs_gmp, get_experiment
from wsl_core.claims.experiments.gap_vs_gmp import (
    PARTS,
    THRESHOLDS,
    Seen,
    best_threshold,
    box_ious,
    grouped,
    over_cells,
    part_drops,
    pixel_scores,
    relative_score,
    saliency,
    score_boxes,
    score_pixels,
    see,
    shares,
)
from wsl_core.claims.register import load_register
from wsl_core.data import Dataset
from wsl_core.data.synthetic.creatures import CREATURE
from wsl_core.ops import Grid
from wsl_core.papers import build_model
from wsl_core.training import localization_report, open_split

SIZE = 8
EXPERIMENTS = {one.name: one for one in (*gap_vs_gmp.EXPERIMENTS, *deep_features.EXPERIMENTS)}


class Spots(Dataset):
    """Image i has one bright pixel in colour channel i % 2, at place (i, i); the object is the pixel."""

    name, split, licence, version = "spots", "val", "none", "1"
    classes, task, image_size = ("red", "green"), "single", SIZE

    def __init__(self, brightness=1.0):
        self.brightness = brightness

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image, mask = torch.zeros(3, SIZE, SIZE), torch.zeros(SIZE, SIZE, dtype=torch.int64)
        image[index % 2, index, index], mask[index, index] = self.brightness, index % 2 + 1
        return {
            "id": str(index),
            "image": image,
            "labels": torch.eye(2)[index % 2],
            "boxes": torch.tensor([[index, index, index + 1, index + 1]]).float(),
            "box_labels": torch.tensor([index % 2]),
            "mask": mask,
            "parts": mask,
        }


class Sum(nn.Module):
    """The score of a class is the sum of its colour, and one more for every class; its map is the colour."""

    grid = Grid(1, 0.5)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 3.0]))

    def forward(self, images):
        return self.localize(images).sum(dim=(2, 3)) + 1

    def localize(self, images, labels=None):
        maps = images[:, :2] * self.weight[:, None, None]
        return maps if labels is None else maps * labels[:, :, None, None]


# What a network sees -----------------------------------------------------------------------------------------------


def test_every_image_has_the_map_of_its_own_class():
    seen = see(Sum(), Spots())
    assert torch.equal(seen.maps > 0, seen.objects) and seen.objects.sum() == 4
    assert seen.maps.amax(dim=(1, 2)).tolist() == [1, 3, 1, 3]
    assert seen.labels.tolist() == [0, 1, 0, 1] and torch.equal(seen.parts > 0, seen.objects)
    assert torch.equal(torch.cat(seen.boxes)[:, 0], torch.arange(4.0))


def test_saliency_of_a_sum_is_the_weight_of_its_class_everywhere():
    assert saliency(Sum(), Spots())[:, 0, 0].tolist() == [1, 3, 1, 3]
    assert torch.equal(saliency(Sum(), Spots()).std(dim=(1, 2)), torch.zeros(4))


def test_means_over_cells_keep_the_mean_and_lose_the_specks():
    maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = over_cells(maps, 4)
    assert smooth.shape == maps.shape
    assert torch.allclose(smooth.mean(dim=(1, 2)), maps.mean(dim=(1, 2)), atol=1e-5)
    assert (smooth.std(dim=(1, 2)) < maps.std(dim=(1, 2)) / 2).all()


# Boxes and thresholds ----------------------------------------------------------------------------------------------


def tower():
    """A map with a low and a high square; the object is the low one: right below 0.3 only."""
    score_map = torch.zeros(16, 16)
    score_map[2:14, 2:14], score_map[4:7, 4:7] = 0.3, 1.0
    objects = score_map > 0
    logits = torch.tensor([[1.0, 0.0]])
    boxes = [torch.tensor([[2.0, 2.0, 14.0, 14.0]])]
    return Seen(score_map[None], logits, torch.tensor([0]), boxes, objects[None], objects[None].long())


def test_the_iou_falls_where_the_box_shrinks():
    (ious,) = box_ious(tower())
    assert ious[0] == 1 and ious[-1] == pytest.approx(9 / 144) and (np.diff(ious) <= 0).all()
    assert [tau for tau, iou in zip(THRESHOLDS, ious, strict=True) if iou == 1][-1] == 0.25


def test_the_threshold_comes_from_val():
    val = tower()._replace(boxes=[torch.tensor([[4.0, 4.0, 7.0, 7.0]])])  # here the high square is the object
    found = score_boxes(val, tower(), "max")
    assert found[gap_vs_gmp.CHOSEN] == 0 and found[gap_vs_gmp.FIXED] == 1
    assert score_boxes(tower(), tower(), "max")[gap_vs_gmp.CHOSEN] == 1


def test_a_right_box_of_an_image_that_is_named_wrongly_is_no_top_1():
    misnamed = tower()._replace(labels=torch.tensor([1]))
    found = score_boxes(tower(), misnamed, "max")
    assert found[gap_vs_gmp.CHOSEN] == 1 and found[gap_vs_gmp.TOP1] == 0


def test_one_threshold_for_all_is_never_better_than_one_for_each_image():
    random = np.random.default_rng(0)
    for _ in range(20):
        ious = random.uniform(size=(30, 19))
        assert (ious[:, best_threshold(ious)] >= 0.5).mean() == (ious >= 0.5).mean(axis=0).max()
        assert (ious[:, best_threshold(ious)] >= 0.5).mean() <= (ious >= 0.5).any(axis=1).mean()


def test_the_same_metric_is_the_same_number_as_in_chapter_1(one_thread):
    recipe = EXPERIMENTS["gap-gmp-zoo"].recipes("smoke")["GAP"].replace(images=12, data={"size": 48})
    torch.manual_seed(0)
    model = build_model("cam", width=8).eval()
    val, test = (open_split(recipe, split, objects=1) for split in ("val", "test"))
    rows = {(row["name"], row.get("normalization")): row for row in localization_report(model, val, val, test)}
    for how in ("max", "minmax"):
        found, row = score_boxes(see(model, val), see(model, test), how), rows["own map", how]
        assert found[gap_vs_gmp.CHOSEN] == pytest.approx(row["gt_known"])
        assert found[gap_vs_gmp.TOP1] == pytest.approx(row["top1_localization"])


# Parts -------------------------------------------------------------------------------------------------------------


def test_pixels_of_a_map_that_is_lit_on_half_of_the_object():
    objects = torch.zeros(1, 8, 8, dtype=torch.bool)
    objects[0, 2:6] = True
    score_map = torch.zeros(1, 8, 8)
    score_map[0, 4:7], score_map[0, 0, 0] = 1.0, -3.0
    parts = objects.long() * (1 + (torch.arange(8) > 3).long()[:, None])  # the upper half is part 1, the lower part 2
    found = pixel_scores(Seen(score_map, torch.zeros(1, 2), torch.tensor([0]), [], objects, parts))
    assert found["coverage"] == 0.5 and found["precision"] == pytest.approx(2 / 3)
    assert found["part_coverage"] == {0: 0.0, 1: 1.0}
    raw = score_pixels(Seen(score_map, torch.zeros(1, 2), torch.tensor([0]), [], objects, parts), "minmax")
    assert raw[gap_vs_gmp.COVERAGE] == 1  # the lowest value is far below zero: what was dark is now 0.75


def test_each_part_of_a_creature_is_in_one_group():
    names = ("tail", "leg", "body", "head", "eye")
    assert grouped(torch.arange(6), names).tolist() == [0, 3, 3, 2, 1, 1]
    assert sorted(name for group in PARTS.values() for name in group) == sorted(names) == sorted(CREATURE.parts)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.floats(-5, 5))
def test_raising_all_logits_alike_changes_no_relative_score(logits, shift):
    logits, label = torch.tensor([logits]), torch.tensor([1])
    assert torch.allclose(relative_score(logits + shift, label), relative_score(logits, label), atol=1e-5)


def test_the_drop_of_a_sum_is_what_was_taken_away():
    drops = part_drops(Sum(), Spots(), {"all": Spots(0.0), "half": Spots(0.5), "none": Spots()})
    assert drops == pytest.approx({"all": 1.0, "half": 0.5, "none": 0.0})  # half of the mean of 1 and 3: two classes


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_shares_are_shares(drops):
    found = shares({str(i): drop for i, drop in enumerate(drops)})
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) >= 0


# Experiments and register ------------------------------------------------------------------------------------------


def tiny(experiment):
    """The experiment's own measurement: untrained narrow networks, a handful of small images."""
    recipes = {
        name: recipe.replace(images=6, data={"size": 32}, model={"width": 4})
        for name, recipe in experiment.recipes("smoke").items()
    }
    data = experiment.data(next(iter(recipes.values())))
    models = {}
    torch.manual_seed(0)
    for name, recipe in recipes.items():
        train = open_split(recipe, "train")
        models[name] = build_model("cam", num_classes=len(train.classes), task=train.task, **recipe.model).eval()
    return experiment.measure(models, data), data


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_finds_what_it_compares(name, one_thread):
    found, _ = tiny(EXPERIMENTS[name])
    claims = [claim for claim in load_register().claims if claim.experiment == name]
    assert claims
    for claim in claims:
        assert set(claim.comparison.variants) <= set(found[claim.metric]), claim.id
    assert np.isfinite([value for variants in found.values() for value in variants.values()]).all()


def test_the_networks_of_a_dose_differ_in_pooling_alone():
    recipes = EXPERIMENTS["gap-gmp-dose"].recipes("book")
    for dose in gap_vs_gmp.DOSES:
        gap, gmp = (recipes[f"{pooling}, {dose}"] for pooling in ("GAP", "GMP"))
        assert gap.replace(model={"pooling": "gmp"}).identity() == gmp.identity()


def test_the_gap_runs_of_the_zoo_are_those_of_chapter_1():
    first = get_experiment("cam-zoo").recipes("book")["CAM"]
    assert EXPERIMENTS["gap-gmp-zoo"].recipes("book")["GAP"].identity() == first.identity()
    assert EXPERIMENTS["cam-features"].recipes("book")["CAM"].identity() == first.identity()
