"""MaxBoxAcc: equal to the official code, and the laws that it must obey."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from tests.metrics.official import level_maps, official_curves
from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import MaxBoxAccEvaluator, PixelEvaluator, best_iou_curves
from wsl_core.metrics.score_maps import THRESHOLDS

REFERENCE = REPOSITORY.parent / "shared" / "reference" / "wsol_dev.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Inputs and outputs of the official evaluator."""
    if not REFERENCE.exists():
        pytest.skip("no reference values: there is no shared/reference beside the repository")
    with np.load(REFERENCE) as archive:
        return dict(archive)


def half_open(boxes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(boxes[boxes[:, 0] >= 0] + [0, 0, 1, 1])


def test_every_official_value_is_equal(reference):
    np.testing.assert_array_equal(THRESHOLDS, reference["thresholds"])
    score_maps, truth = torch.from_numpy(reference["scoremaps"]), [half_open(boxes) for boxes in reference["boxes"]]
    for i in range(len(score_maps)):
        curves = best_iou_curves(score_maps[i], truth[i])
        for contours, curve in enumerate(curves):
            np.testing.assert_array_equal(curve, reference[f"best_iou_multi{contours}"][i])
    evaluator, pixels = MaxBoxAccEvaluator(), PixelEvaluator()
    evaluator.update(score_maps, truth)
    pixels.update(score_maps, torch.from_numpy(reference["masks"]))
    result = evaluator.compute()
    for iou in (0.3, 0.5, 0.7):
        assert max(result["curve_v1"][iou]) == reference[f"maxboxacc_multi0_iou{round(100 * iou)}"]
        assert result["max_box_acc"][iou] == reference[f"maxboxacc_multi1_iou{round(100 * iou)}"]
    assert result["max_box_acc_v1"] == reference["maxboxacc_multi0_iou50"]
    assert result["max_box_acc_v2"] == np.mean([reference[f"maxboxacc_multi1_iou{iou}"] for iou in (30, 50, 70)])
    assert pixels.compute()["pxap"] == reference["pxap"]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores in float64 that do not fall on levels, and inclusive boxes."""
    levels = draw(level_maps())
    height, width = levels.shape
    corners = st.tuples(*(st.integers(0, side - 1) for side in (width, height, width, height)))
    boxes = [
        [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]
        for box in draw(st.lists(corners, min_size=1, max_size=3))
    ]
    return levels * draw(st.sampled_from([1.0, 0.77, 0.999999])) / 255, np.array(boxes)


@given(scenes())
@example((np.zeros((3, 3)), np.array([[0, 0, 0, 0]])))
@example((np.ones((2, 5)), np.array([[0, 0, 4, 1]])))
@settings(max_examples=60)
def test_curves_are_those_of_opencv_threshold_by_threshold(scene):
    score_map, boxes = scene
    thresholds = np.arange(0, 1, 0.03).tolist()
    curves = best_iou_curves(torch.from_numpy(score_map), half_open(boxes), thresholds)
    np.testing.assert_array_equal(np.array(curves), official_curves(score_map, boxes.tolist(), thresholds))


def evaluated(scenes_, **settings_) -> MaxBoxAccEvaluator:
    evaluator = MaxBoxAccEvaluator(**settings_)
    for score_map, boxes in scenes_:
        evaluator.update(torch.from_numpy(score_map)[None], [half_open(boxes)])
    return evaluator


@given(st.lists(scenes(), min_size=1, max_size=4))
@settings(max_examples=30)
def test_accuracy_never_rises_with_iou_and_all_contours_are_never_worse(scenes_):
    ious = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    result = evaluated(scenes_, thresholds=np.arange(0, 1, 0.05), ious=ious).compute()
    accuracies = list(result["max_box_acc"].values())
    assert accuracies == sorted(accuracies, reverse=True)
    assert result["max_box_acc_v1"] <= result["max_box_acc"][0.5]
    assert result["max_box_acc_v2"] == np.mean(accuracies)
    for curve, curve_v1 in zip(result["curve"].values(), result["curve_v1"].values(), strict=True):
        assert (np.array(curve_v1) <= curve).all()


@given(st.lists(scenes(), min_size=2, max_size=5), st.integers(1, 4))
@settings(max_examples=30)
def test_merging_shards_equals_one_pass(scenes_, cut):
    first, second = evaluated(scenes_[:cut]), evaluated(scenes_[cut:])
    assert first.merge(pickle.loads(pickle.dumps(second))) is first  # as another process would send it
    assert first.compute() == evaluated(scenes_).compute()


def test_an_iou_that_is_just_reached_is_right():
    half = evaluated([(np.ones((6, 8)), np.array([[0, 0, 3, 5]]))]).compute()
    assert half["max_box_acc"] == {0.3: 100, 0.5: 100, 0.7: 0} and half["max_box_acc_v1"] == 100


def test_one_threshold_holds_for_the_whole_set():
    """Each map has a threshold at which its box is right, but no threshold suits both: 50 %, not 100 %."""
    peak_is_object, base_is_object = np.zeros((2, 20, 20))
    peak_is_object[2:18, 2:18], peak_is_object[4:8, 4:8] = 0.5, 1.0
    base_is_object[2:18, 2:18], base_is_object[4:8, 4:8] = 0.5, 1.0
    pair = [(peak_is_object, np.array([[4, 4, 8, 8]])), (base_is_object, np.array([[2, 2, 18, 18]]))]
    result = evaluated(pair).compute()
    assert result["max_box_acc_v1"] == 50
    assert sum(max(evaluated([scene]).compute()["curve_v1"][0.5]) for scene in pair) / 2 == 100


def test_the_best_threshold_is_the_lowest_that_reaches_the_maximum():
    score_map = np.full((20, 20), 0.2)
    score_map[5:10, 5:10] = 1.0
    result = evaluated([(score_map, np.array([[5, 5, 10, 10]]))]).compute()
    at = result["best_threshold_v1"]
    assert result["best_threshold"] == {0.3: at, 0.5: at, 0.7: at} and at == pytest.approx(0.2, abs=0.002)
    curve = result["curve_v1"][0.5]
    assert curve == [0.0 if threshold < at else 100.0 for threshold in result["thresholds"]]


def test_missing_maps_are_wrong_and_reset_forgets():
    evaluator = evaluated([(np.ones((4, 4)), np.array([[0, 0, 3, 3]]))])
    assert evaluator.compute()["max_box_acc_v1"] == 100
    evaluator.update_missing(3)
    assert evaluator.compute()["max_box_acc_v2"] == 25 and evaluator.compute()["images"] == 4
    evaluator.reset()
    with pytest.raises(DataError, match="no map has been added"):
        evaluator.compute()


def test_memory_does_not_grow_with_the_number_of_maps():
    scene = np.random.default_rng(0).random((6, 6)), np.array([[1, 1, 4, 4]])
    one, many = evaluated([scene]), evaluated([scene] * 300)
    assert abs(len(pickle.dumps(many)) - len(pickle.dumps(one))) < 32  # the counts have more digits


ONE_BOX = [torch.tensor([[0, 0, 2, 2]])]


@pytest.mark.parametrize("value", [float("nan"), -0.01, 1.01, float("inf")])
def test_scores_outside_the_range_are_refused_and_nothing_is_added(value):
    evaluator = MaxBoxAccEvaluator()
    score_maps = torch.zeros(2, 4, 4)
    score_maps[1, 2, 2] = value
    with pytest.raises(DataError, match=r"score map 1: found (NaN|values from .* to .*); expected scores in \[0, 1\]"):
        evaluator.update(score_maps, ONE_BOX * 2)
    with pytest.raises(DataError, match="no map has been added"):
        evaluator.compute()


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(0, 4), "image 0 has none"),
        (torch.tensor([[1, 1, 1, 3]]), r"image 0 has \[1.0, 1.0, 1.0, 3.0\]; expected finite x0 < x1"),
        (torch.tensor([[0, 0, 2, 2], [1, 3, 2, 2]]), "expected finite x0 < x1 and y0 < y1"),
        (torch.tensor([[0.0, 0.0, float("nan"), 2.0]]), "expected finite"),
    ],
)
def test_boxes_that_are_none_are_named(boxes, message):
    with pytest.raises(DataError, match=message):
        MaxBoxAccEvaluator().update(torch.zeros(1, 4, 4), [boxes])
    with pytest.raises(DataError, match=message):
        best_iou_curves(torch.zeros(4, 4), boxes)


def test_wrong_arguments_are_named():
    for thresholds in ([], [0.1, 0.2], [0.0, 1.0], [0.0, 0.5, 0.5], [0.0, float("nan"), 0.5]):
        with pytest.raises(UsageError, match=r"thresholds: found .* rise from 0 and stay below 1"):
            MaxBoxAccEvaluator(thresholds)
    for ious in ([], [0.0], [1.1], [0.5, 0.5]):
        with pytest.raises(UsageError, match="ious="):
            MaxBoxAccEvaluator(ious=ious)
    with pytest.raises(UsageError, match="found 1 lists for 2 maps"):
        MaxBoxAccEvaluator().update(torch.zeros(2, 4, 4), ONE_BOX)
    with pytest.raises(UsageError, match="differ in thresholds or IoUs"):
        MaxBoxAccEvaluator().merge(MaxBoxAccEvaluator(ious=[0.5]))
    with pytest.raises(UsageError, match=r"found 1000 of them from 0\.0 to 1\.9"):
        MaxBoxAccEvaluator(np.linspace(0, 1.9, 1000))
