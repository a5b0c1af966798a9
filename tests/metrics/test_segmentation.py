"""Mean IoU and Boundary IoU: their definitions in one line each, and the laws."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import SegmentationEvaluator, confusion_matrix, per_class_table

SHAPE, K = (3, 6, 7), 3

predictions = arrays(np.int64, SHAPE, elements=st.integers(0, K))
targets = arrays(np.int64, SHAPE, elements=st.sampled_from([0, 1, 2, 3, 255])).filter(lambda t: (t != 255).any())


def evaluated(prediction: np.ndarray, target: np.ndarray, share: float = 0.02) -> SegmentationEvaluator:
    evaluator = SegmentationEvaluator(K, share)
    evaluator.update(torch.from_numpy(prediction), torch.from_numpy(target))
    return evaluator


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum() if (a | b).any() else math.nan


def boundary(mask: np.ndarray, reach: int) -> np.ndarray:
    """As Cheng et al. have it: the mask without what erosion leaves of it; outside the image there is nothing."""
    eroded = [ndimage.binary_erosion(one, np.ones((3, 3)), iterations=reach, border_value=0) for one in mask]
    return mask & ~np.stack(eroded)


@given(predictions, targets)
def test_iou_and_accuracies_are_those_of_all_pixels_together(prediction, target):
    result, counted = evaluated(prediction, target).compute(), target != 255
    expected = [iou((prediction == c) & counted, target == c) for c in range(K + 1)]
    assert result["iou"] == pytest.approx(expected, nan_ok=True)
    assert result["miou"] == pytest.approx(np.nanmean(expected))
    assert result["pixel_accuracy"] == pytest.approx((prediction == target)[counted].mean())
    recall = [(prediction == c)[target == c].mean() for c in range(K + 1) if (target == c).any()]
    assert result["mean_accuracy"] == pytest.approx(np.mean(recall))


@given(predictions, targets, st.sampled_from([0.02, 0.2, 0.4]))
def test_boundary_iou_is_that_of_the_eroded_masks(prediction, target, share):
    result, counted = evaluated(prediction, target, share).compute(), target != 255
    reach = max(1, round(share * math.hypot(*SHAPE[1:])))
    expected = [iou(boundary((prediction == c) & counted, reach), boundary(target == c, reach)) for c in range(K + 1)]
    assert result["boundary_iou_per_class"] == pytest.approx(expected, nan_ok=True)
    assert result["boundary_iou"] == pytest.approx(np.nanmean(expected))


@given(predictions, targets)
def test_perfect_predictions_score_one_whatever_they_say_where_it_is_ignored(prediction, target):
    result = evaluated(np.where(target == 255, prediction, target), target).compute()
    for score in ("miou", "pixel_accuracy", "mean_accuracy", "boundary_iou"):
        assert result[score] == 1.0


@given(predictions, targets, predictions)
def test_ignored_pixels_count_nowhere(prediction, target, other):
    elsewhere = np.where(target == 255, other, prediction)
    assert same(evaluated(elsewhere, target).compute(), evaluated(prediction, target).compute())


@given(predictions, targets, st.permutations(range(K + 1)))
def test_the_order_of_the_classes_does_not_matter(prediction, target, order):
    renamed = np.array([*order, *range(K + 1, 256)])
    before = evaluated(prediction, target).compute()
    after = evaluated(renamed[prediction], renamed[target]).compute()
    assert after["miou"] == pytest.approx(before["miou"])
    assert after["boundary_iou"] == pytest.approx(before["boundary_iou"])
    assert [after["iou"][order[c]] for c in range(K + 1)] == pytest.approx(before["iou"], nan_ok=True)


@given(predictions, targets, st.integers(0, 3))
def test_merging_shards_equals_one_pass(prediction, target, cut):
    shards = [evaluated(prediction[where], target[where]) for where in (np.s_[:cut], np.s_[cut:])]
    for first, second in (shards, shards[::-1]):
        merged = copy.deepcopy(first)  # merging changes it
        assert merged.merge(second) is merged
        assert same(merged.compute(), evaluated(prediction, target).compute())


def same(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[key], b[key], equal_nan=True) for key in a.keys() | b.keys())


def test_absent_classes_have_no_iou_and_those_only_predicted_have_none_of_it():
    target = np.zeros((1, 4, 4), int)
    result = evaluated(target, target).compute()
    assert result["miou"] == 1.0 and result["iou"][0] == 1.0 and np.isnan(result["iou"][1:]).all()
    prediction = target.copy()
    prediction[0, 0, 0] = 2
    result = evaluated(prediction, target).compute()
    assert result["iou"][2] == 0.0 and result["miou"] == pytest.approx(15 / 32)
    assert result["mean_accuracy"] == pytest.approx(15 / 16)  # a class that is not there cannot be found


def test_it_is_not_the_mean_over_images():
    target, prediction = np.zeros((2, 4, 4), int), np.zeros((2, 4, 4), int)
    target[0, :2], target[1, 0, 0] = 1, 1
    prediction[0, :2] = 1
    alone = [evaluated(prediction[i : i + 1], target[i : i + 1]).compute()["iou"][1] for i in (0, 1)]
    assert alone == [1.0, 0.0] and evaluated(prediction, target).compute()["iou"][1] == pytest.approx(8 / 9)


def test_boundary_iou_feels_the_contours_of_large_objects():
    """Cheng et al.'s point: the same shift costs a large object little IoU, and more Boundary IoU."""
    target, prediction = np.zeros((1, 100, 100), int), np.zeros((1, 100, 100), int)
    target[0, 10:90, 10:90] = prediction[0, 12:92, 10:90] = 1
    result = evaluated(prediction, target).compute()
    assert result["iou"][1] > 0.9 and result["boundary_iou_per_class"][1] < 0.7


def test_labels_of_any_whole_numbers_will_do_and_one_image_needs_no_batch():
    prediction, target = np.array([[0, 1, 2]]), np.array([[0, 1, 255]])
    expected = evaluated(prediction[None], target[None]).compute()
    assert same(evaluated(prediction.astype(np.uint8), target.astype(np.int32)).compute(), expected)


def test_reset_forgets():
    evaluator = evaluated(np.ones(SHAPE, int), np.zeros(SHAPE, int))
    evaluator.reset()
    with pytest.raises(DataError, match="nothing to score"):
        evaluator.compute()
    evaluator.update(torch.ones(SHAPE, dtype=torch.int64), torch.ones(SHAPE, dtype=torch.int64))
    assert evaluator.compute()["miou"] == 1.0 and evaluator.compute()["images"] == 3


@pytest.mark.filterwarnings("ignore")
def test_errors_name_what_is_wrong():
    labels = np.ones(SHAPE, int)
    with pytest.raises(DataError, match="target: found label 4; expected 0 to 3, and 255 to ignore"):
        evaluated(labels, 4 * labels)
    with pytest.raises(DataError, match="prediction: found label 255"):
        evaluated(255 * labels, labels)
    with pytest.raises(DataError, match="target: found label -1"):
        evaluated(labels, -labels)
    with pytest.raises(DataError, match="not ignored"):
        evaluated(labels, 255 * labels).compute()
    with pytest.raises(UsageError, match="differ in num_classes"):
        SegmentationEvaluator(2).merge(SegmentationEvaluator(3))
    with pytest.raises(UsageError, match="num_classes=0"):
        SegmentationEvaluator(0)
    with pytest.raises(UsageError, match=r"boundary_share=1\.0"):
        SegmentationEvaluator(2, 1.0)
    unchecked = SegmentationEvaluator.update.__wrapped__  # the shapes are checked without jaxtyping, too
    with pytest.raises(UsageError, match=r"prediction: found \(3, 6, 6\); expected the target's \(3, 6, 7\)"):
        unchecked(SegmentationEvaluator(K), torch.from_numpy(labels[:, :, 1:]), torch.from_numpy(labels))


@given(predictions, targets)
def test_the_table_and_the_matrix_say_what_the_scores_say(prediction, target):
    evaluator = evaluated(prediction, target)
    matrix, scores, counted = confusion_matrix(evaluator), evaluator.compute(), target != 255
    truth, predicted = target[counted], prediction[counted]
    assert all(matrix[c, p] == ((truth == c) & (predicted == p)).sum() for c in range(K + 1) for p in range(K + 1))
    table = per_class_table(evaluator, ("a", "b", "c"))
    assert [row["class"] for row in table] == ["background", "a", "b", "c"]
    assert [row["iou"] for row in table] == pytest.approx(scores["iou"], nan_ok=True)
    assert [row["boundary_iou"] for row in table] == pytest.approx(scores["boundary_iou_per_class"], nan_ok=True)
    assert np.nanmean([row["recall"] for row in table]) == pytest.approx(scores["mean_accuracy"])
    for c, row in enumerate(table):
        assert row["pixels"] == (truth == c).sum()
        if (predicted == c).any():
            assert row["precision"] == pytest.approx((truth[predicted == c] == c).mean())
        else:
            assert math.isnan(row["precision"])


def test_the_matrix_is_a_copy_and_names_are_counted():
    evaluator = evaluated(np.zeros(SHAPE, np.int64), np.zeros(SHAPE, np.int64))
    confusion_matrix(evaluator)[:] = 0
    assert evaluator.compute()["miou"] == 1
    with pytest.raises(UsageError, match="found 2 names; expected one for each of 3"):
        per_class_table(evaluator, ("a", "b"))
    with pytest.raises(DataError, match="nothing to score"):
        per_class_table(SegmentationEvaluator(1), ("a",))
