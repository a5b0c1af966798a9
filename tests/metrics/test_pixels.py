"""PxAP and coverage: the official definition written out, and the laws."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import PixelEvaluator

THRESHOLDS = np.arange(0, 1, 0.1).tolist()
SHAPE = (3, 4, 5)

scores = arrays(np.float64, SHAPE, elements=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.55, 0.99, 1.0]))
masks = arrays(np.int64, SHAPE, elements=st.sampled_from([0, 1, 7, 255])).filter(lambda m: ((m > 0) & (m < 255)).any())
parts = arrays(np.int64, SHAPE, elements=st.integers(0, 3))


def evaluated(*arguments: np.ndarray, thresholds=THRESHOLDS) -> PixelEvaluator:
    evaluator = PixelEvaluator(thresholds)
    evaluator.update(*map(torch.from_numpy, arguments))
    return evaluator


@given(scores, masks)
def test_pxap_is_the_sum_over_thresholds(score_maps, truth):
    score, positive = score_maps[truth != 255], (truth != 0)[truth != 255]
    area, recall_before = 0.0, 0.0
    for threshold in [1.0, *THRESHOLDS[::-1]]:
        lit = score >= threshold
        recall = (lit & positive).sum() / positive.sum()
        if lit.any():
            area += (lit & positive).sum() / lit.sum() * (recall - recall_before)
        recall_before = recall
    assert evaluated(score_maps, truth).compute()["pxap"] == pytest.approx(100 * area)


@given(masks, st.sampled_from([0.0, 0.4, 1.0]))
def test_a_constant_map_scores_the_share_of_the_foreground(truth, value):
    counted = truth[truth != 255]
    pxap = evaluated(np.full(SHAPE, value), truth).compute()["pxap"]
    assert pxap == pytest.approx(100 * (counted != 0).mean())


@given(masks, st.floats(0, 1))
def test_a_perfect_map_scores_100_whatever_it_says_where_it_is_ignored(truth, value):
    score_maps = np.where(truth == 255, value, truth != 0).astype(float)
    assert evaluated(score_maps, truth).compute()["pxap"] == pytest.approx(100)


@given(scores, masks, parts, st.sampled_from(THRESHOLDS))
def test_coverage_and_precision_count_pixels(score_maps, truth, part_maps, threshold):
    result = evaluated(score_maps, truth, part_maps).compute(threshold)
    counted, lit = truth != 255, score_maps >= threshold
    object_ = counted & (truth != 0)
    assert result["coverage"] == (lit & object_).sum() / object_.sum()
    assert result["precision"] == ((lit & object_).sum() / (lit & counted).sum() if (lit & counted).any() else 0)
    expected = {p: counted & (part_maps == p + 1) for p in range(3)}
    assert result["part_coverage"] == {p: (lit & of).sum() / of.sum() for p, of in expected.items() if of.any()}
    at = THRESHOLDS.index(threshold)
    assert (result["coverage_curve"][at], result["precision_curve"][at]) == (result["coverage"], result["precision"])


@given(scores, masks, parts)
def test_coverage_never_rises_with_the_threshold(score_maps, truth, part_maps):
    curve = evaluated(score_maps, truth, part_maps).compute()["coverage_curve"]
    assert curve[0] == 1 and curve == sorted(curve, reverse=True)


@given(scores, masks, parts, st.integers(0, 3))
def test_merging_shards_equals_one_pass(score_maps, truth, part_maps, cut):
    shards = [evaluated(*(a[where] for a in (score_maps, truth, part_maps))) for where in (np.s_[:cut], np.s_[cut:])]
    for first, second in (shards, shards[::-1]):
        merged = copy.deepcopy(first)  # merging changes it
        assert merged.merge(second) is merged
        assert merged.compute() == evaluated(score_maps, truth, part_maps).compute()


def test_masks_of_any_whole_numbers_will_do():
    score_maps, truth = np.array([[[0.9, 0.1, 0.8]]]), np.array([[[1, 0, 255]]])
    expected = evaluated(score_maps, truth).compute()
    assert evaluated(score_maps, truth.astype(np.uint8)).compute() == expected


def test_reset_forgets():
    evaluator = evaluated(np.ones(SHAPE), np.ones(SHAPE, int), np.full(SHAPE, 9))
    evaluator.reset()
    with pytest.raises(DataError, match="no pixel of an object"):
        evaluator.compute()
    evaluator.update(torch.ones(SHAPE), torch.ones(SHAPE, dtype=torch.int64))
    assert evaluator.compute()["part_coverage"] == {}


def test_errors_name_what_is_wrong():
    score_maps, truth = np.ones(SHAPE), np.ones(SHAPE, int)
    with pytest.raises(DataError, match="score map 0: found values from 2 to 2"):
        evaluated(score_maps * 2, truth)
    with pytest.raises(DataError, match="score map 2: found NaN"):
        evaluated(np.where(np.arange(3)[:, None, None] == 2, np.nan, score_maps), truth)
    with pytest.raises(DataError, match="parts: found -1"):
        evaluated(score_maps, truth, -truth)
    with pytest.raises(DataError, match="no pixel of an object"):
        evaluated(score_maps, 255 * truth).compute()
    with pytest.raises(DataError, match="no pixel of an object"):
        PixelEvaluator().compute()
    with pytest.raises(UsageError, match=r"threshold=0\.25: not one of the evaluator's; the next is 0\.2"):
        evaluated(score_maps, truth).compute(0.25)
    with pytest.raises(UsageError, match="rise from 0"):
        PixelEvaluator([0.5])
    with pytest.raises(UsageError, match="differ in thresholds"):
        PixelEvaluator().merge(PixelEvaluator([0.0]))
    with pytest.raises(UsageError, match=r"masks: found \(3, 5, 4\); expected \(3, 4, 5\), as the maps"):
        evaluated(score_maps, truth.swapaxes(1, 2))
    with pytest.raises(UsageError, match=r"parts: found \(3, 4, 4\); expected \(3, 4, 5\), as the maps"):
        evaluated(score_maps, truth, truth[:, :, 1:])
