"""Laws of the localisation metrics."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import (
    LocalizationEvaluator,
    best_centered_box,
    best_ious,
    box_iou,
    centered_boxes,
    fixed_box_accuracy,
    pointing_hits,
)
from wsl_core.ops import Grid

coordinates = st.integers(0, 30)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda v: torch.tensor([[min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 1, max(v[1], v[3]) + 1]]).float()
)


@given(boxes, boxes)
def test_iou_is_torchvisions_symmetric_and_bounded(a, b):
    value = box_iou(a, b)
    torch.testing.assert_close(value, torchvision.ops.box_iou(a.double(), b.double()))
    torch.testing.assert_close(value, box_iou(b, a).T)
    assert 0 <= value.item() <= 1 and box_iou(a, a).item() == 1


@given(boxes, boxes, st.integers(1, 20), st.integers(1, 5))
def test_iou_ignores_translation_and_scale(a, b, shift, scale):
    torch.testing.assert_close(box_iou(a, b), box_iou(scale * (a + shift), scale * (b + shift)))


def test_iou_counts_pixels():
    a, b = torch.tensor([[2.0, 3.0, 10.0, 9.0]]), torch.tensor([[5.0, 1.0, 12.0, 7.0]])
    grid = np.zeros((2, 20, 20), bool)
    grid[0, 3:9, 2:10] = grid[1, 1:7, 5:12] = True
    assert box_iou(a, b).item() == pytest.approx((grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum())


def test_boxes_without_area_overlap_nothing():
    empty = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert box_iou(empty, empty).item() == 0


def scene(count=12, classes=4, seed=0):
    """Images with one box each, perfect maps, perfect logits."""
    generator = torch.Generator().manual_seed(seed)
    maps, logits = torch.zeros(count, classes, 8, 8), torch.randn(count, classes, generator=generator)
    batch = {"size": torch.full((count, 2), 32), "boxes": [], "box_labels": [], "labels": torch.zeros(count, classes)}
    for i in range(count):
        c = int(torch.randint(classes, (1,), generator=generator))
        x, y = (int(v) for v in torch.randint(0, 4, (2,), generator=generator))
        maps[i, c, y : y + 4, x : x + 4] = 1.0
        logits[i, c] = 10.0
        batch["labels"][i, c] = 1
        batch["boxes"].append(torch.tensor([[x, y, x + 4, y + 4]]).float() * 4)
        batch["box_labels"].append(torch.tensor([c]))
    return maps, logits, batch


def part(batch, where):
    return {key: value[where] for key, value in batch.items()}


def test_perfect_maps_are_right_and_flat_maps_are_wrong():
    maps, logits, batch = scene()
    perfect, flat = LocalizationEvaluator(), LocalizationEvaluator()
    perfect.update(maps, logits, batch)
    flat.update(torch.zeros_like(maps), logits, batch)
    for name in ("gt_known", "top1_localization", "top5_localization"):
        assert perfect.compute()[name] == 1 and flat.compute()[name] == 0
    assert flat.compute()["top1_classification"] == 1


def test_wrong_classification_costs_top1_but_not_gt_known():
    maps, logits, batch = scene()
    evaluator = LocalizationEvaluator()
    evaluator.update(maps, -logits, batch)
    result = evaluator.compute()
    assert result["gt_known"] == 1 and result["top1_localization"] == 0 == result["top1_classification"]
    assert result["top5_localization"] == 1  # only four classes: all are among the top five


def test_merging_shards_equals_one_pass():
    maps, logits, batch = scene(seed=3)
    maps = maps + 0.4 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(1))
    thresholds = [0.1, 0.3, 0.5]
    whole = LocalizationEvaluator(thresholds)
    whole.update(maps, logits, batch)
    merged = LocalizationEvaluator(thresholds)
    for where in (slice(0, 5), slice(5, 6), slice(6, 12)):
        shard = LocalizationEvaluator(thresholds)
        shard.update(maps[where], logits[where], part(batch, where))
        merged.merge(shard)
    assert merged.compute() == whole.compute()


@given(st.floats(0.01, 0.98), st.floats(0.01, 0.98), st.integers(0, 5))
def test_accuracy_never_rises_with_the_iou_that_is_asked_for(a, b, seed):
    maps, logits, batch = scene(count=4, seed=seed)
    maps = maps + 0.5 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed))
    strict, lax = LocalizationEvaluator(0.3, iou=max(a, b)), LocalizationEvaluator(0.3, iou=min(a, b))
    for evaluator in (strict, lax):
        evaluator.update(maps, logits, batch)
    assert strict.compute()["gt_known"] <= lax.compute()["gt_known"]


def test_top1_never_exceeds_gt_known_or_classification_with_one_label():
    maps, logits, batch = scene(seed=5)
    logits = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    maps = maps + torch.rand(maps.shape, generator=torch.Generator().manual_seed(2))
    evaluator = LocalizationEvaluator()
    evaluator.update(maps, logits, batch)
    result = evaluator.compute()
    assert result["top1_localization"] <= min(result["gt_known"], result["top1_classification"])
    assert result["top1_localization"] <= result["top5_localization"] <= result["gt_known"]


def test_several_labels_count_pairs_and_images():
    maps, logits, batch = scene(count=1, classes=3)
    c = int(batch["labels"][0].argmax())
    other = (c + 1) % 3
    batch["labels"][0, other] = 1
    batch["boxes"][0] = torch.cat([batch["boxes"][0], torch.tensor([[0.0, 0.0, 1.0, 1.0]])])
    batch["box_labels"][0] = torch.tensor([c, other])
    evaluator = LocalizationEvaluator()
    evaluator.update(maps, logits, batch)
    result = evaluator.compute()
    assert result["pairs"] == 2 and result["images"] == 1 and result["gt_known"] == 0.5


def test_any_true_box_of_the_class_will_do():
    score_map = torch.zeros(10, 10)
    score_map[2:6, 2:6] = 1
    pair = torch.tensor([[7.0, 7.0, 9.0, 9.0], [2.0, 2.0, 6.0, 6.0]])
    assert best_ious(score_map, pair, [0.5])[0] == 1


def test_padding_of_a_batch_is_not_part_of_an_image():
    maps, logits, batch = scene(count=2)
    batch["size"][0] = torch.tensor([32, 16])  # its right half is padding
    c = int(batch["labels"][0].argmax())
    maps[0, c] = 0
    maps[0, c, 2:6, 5:8] = 9.0  # lit only in the padding
    maps[0, c, 2:6, 0:2] = 1.0
    batch["boxes"][0] = torch.tensor([[0.0, 8.0, 8.0, 24.0]])
    evaluator = LocalizationEvaluator(0.5)
    evaluator.update(maps, logits, batch)
    assert evaluator.compute()["gt_known"] == 1


def test_the_curve_and_the_threshold_to_choose_on_val():
    maps, logits, batch = scene()
    maps = maps + 0.5  # a floor: thresholds below a third see the full frame
    evaluator = LocalizationEvaluator([0.1, 0.5])
    evaluator.update(maps, logits, batch)
    result = evaluator.compute()
    assert result["curve"][0] < result["curve"][1] == 1 and result["best_threshold"] == 0.5


def test_an_image_that_lacks_a_box_takes_part_in_classification_alone():
    maps, logits, batch = scene()
    whole, partly = LocalizationEvaluator(), LocalizationEvaluator()
    whole.update(maps[1:], logits[1:], part(batch, slice(1, None)))
    batch["boxes"][0], batch["box_labels"][0] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    logits[0] *= -1
    partly.update(maps, logits, batch)
    expected, found = whole.compute(), partly.compute()
    assert (found["unboxed_images"], expected["unboxed_images"]) == (1, 0)
    for name in ("gt_known", "top1_localization", "top5_localization", "pairs"):
        assert found[name] == expected[name]
    assert found["top1_classification"] == (len(maps) - 1) / len(maps) < expected["top1_classification"]
    none = LocalizationEvaluator()
    none.update(maps[:1], logits[:1], part(batch, slice(0, 1)))
    with pytest.raises(DataError, match="1 images have been added, none with boxes"):
        none.compute()


def test_an_overlap_of_exactly_delta_is_right_by_both_ways_of_counting():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    for covered in range(1, 10):
        score_map = torch.zeros(10, 10)
        score_map[:covered] = 1.0  # IoU covered / 10
        delta = covered / 10
        assert best_ious(score_map, truth, [0.5])[0] >= delta
        box = torch.tensor([[0.0, 0.0, 10.0, float(covered)]])
        assert fixed_box_accuracy(box, [truth], delta) == 1 and fixed_box_accuracy(box, [truth], delta + 1e-9) == 0


def test_trivial_boxes():
    sizes = torch.tensor([[20, 20]] * 3)
    truth = [torch.tensor([[5.0, 5.0, 15.0, 15.0]])] * 3
    width, height = best_centered_box(sizes, truth, iou=0.95)
    assert (width, height) == (0.5, 0.5)
    assert fixed_box_accuracy(centered_boxes(sizes, width, height), truth) == 1
    assert fixed_box_accuracy(centered_boxes(sizes), truth) == 0  # the full frame overlaps by a quarter
    assert fixed_box_accuracy(centered_boxes(sizes), truth, iou=0.25) == 1


def test_pointing():
    maps = torch.zeros(3, 4, 4)
    maps[0, 0, 0] = maps[1, 3, 3] = 1
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, 0, 0] = True
    assert pointing_hits(maps, masks).tolist() == [True, False, False]


def test_pointing_at_a_border_cell_means_its_centre():
    """Enlarged, the border cell is a plateau that reaches the corner; its centre is what it points at."""
    maps, masks = torch.zeros(1, 3, 3), torch.zeros(1, 24, 24, dtype=torch.bool)
    maps[0, 0, 0] = 1.0
    masks[0, 3, 3] = True
    assert pointing_hits(maps, masks).tolist() == [True]
    assert pointing_hits(maps, masks, Grid(8, 0.5)).tolist() == [False]


def test_only_the_maps_of_present_classes_are_looked_at():
    maps, logits, batch = scene()
    spoiled = maps.masked_fill(batch["labels"][:, :, None, None] == 0, float("nan"))
    clean, other = LocalizationEvaluator(), LocalizationEvaluator()
    clean.update(maps, logits, batch)
    other.update(spoiled, logits, batch)
    assert clean.compute() == other.compute()


def test_errors_name_what_is_wrong():
    maps, logits, batch = scene()
    with pytest.raises(UsageError, match="thresholds"):
        LocalizationEvaluator(1.5)
    with pytest.raises(UsageError, match="iou="):
        LocalizationEvaluator(iou=0.0)
    with pytest.raises(DataError, match="0 images have been added"):
        LocalizationEvaluator().compute()
    with pytest.raises(DataError, match="'boxes' is missing"):
        LocalizationEvaluator().update(maps, logits, {k: v for k, v in batch.items() if k != "boxes"})
    with pytest.raises(UsageError, match="differ"):
        LocalizationEvaluator(0.2).merge(LocalizationEvaluator(0.3))
    with pytest.raises(DataError, match="boxes: found none"):
        best_ious(maps[0, 0], torch.zeros(0, 4), [0.2])
    with pytest.raises(DataError, match="1 images have none"):
        fixed_box_accuracy(torch.zeros(1, 4), [torch.zeros(0, 4)])
    maps[0] = float("nan")
    with pytest.raises(DataError, match="NaN"):
        LocalizationEvaluator().update(maps, logits, scene()[2])
