"""Matching metrics: cases by hand, laws, and pairs that cannot be judged."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import (
    NORMALISERS,
    active_regions,
    interval_over_images,
    mask_iou,
    mean_over_pairs,
    pck,
    region_matching,
    true_regions,
    weighted_iou,
)

NAN = float("nan")
ALPHAS = tuple(i / 20 for i in range(21))
BOX, SIZE = torch.tensor([10.0, 20.0, 60.0, 40.0]), (100, 80)  # 50 x 20 pixels, 100 rows

points = arrays(np.float64, (6, 2), elements=st.floats(-50, 150, width=32)).map(lambda p: torch.from_numpy(p).float())


def keypoints(places, visible=None):
    places = torch.as_tensor(places, dtype=torch.float32)
    visible = torch.ones(len(places)) if visible is None else torch.tensor(visible, dtype=torch.float32)
    return torch.cat([places, visible[:, None]], dim=1)


TARGET = keypoints([[10.0, 20.0], [60.0, 20.0], [10.0, 40.0], [30.0, 30.0]])


def shifted(*errors):
    """Predictions that are this far off, in pixels to the right."""
    return TARGET[:, :2] + torch.tensor([[error, 0.0] for error in errors])


@pytest.mark.parametrize(
    ("normaliser", "length"),
    [("box", 50.0), ("image", 100.0), ("keypoints", 50.0), ("224", 80.0)],  # to the right, 224 pixels are 80
)
def test_each_normaliser_by_hand(normaliser, length):
    predicted = shifted(0.0, 0.06 * length, 0.11 * length, 0.16 * length)
    scores = pck(predicted, TARGET, TARGET, (0.05, 0.1, 0.15, 0.2), normaliser, BOX, SIZE)
    assert scores.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_224_stretches_each_axis_by_itself():
    down = TARGET[:, :2] + torch.tensor([0.0, 9.0])
    across = TARGET[:, :2] + torch.tensor([9.0, 0.0])
    at = {"alphas": (0.1,), "normaliser": "224", "size": SIZE}  # 10 pixels down, 8 across
    assert pck(down, TARGET, TARGET, **at) == 1.0 and pck(across, TARGET, TARGET, **at) == 0.0


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 300))
def test_an_error_of_exactly_the_reach_counts_unless_strict(percent, length):
    """In whole numbers there is no rounding to hide behind: the error is a whole share of the length."""
    target = keypoints([[0.0, 0.0], [float(100 * length), 0.0]])
    predicted = target[:, :2] + torch.tensor([float(percent * length), 0.0])
    at = {"alphas": (percent / 100,), "normaliser": "keypoints"}
    assert pck(predicted, target, target, **at) == 1.0
    assert pck(predicted, target, target, strict=True, **at) == 0.0


@settings(deadline=None)
@given(points, points, st.sampled_from(NORMALISERS), st.booleans())
def test_pck_grows_with_alpha_and_strictness_never_helps(predicted, places, normaliser, strict):
    places[0] = places[1] + 1  # the keypoints have an extent
    target = keypoints(places)
    options = {"alphas": ALPHAS, "normaliser": normaliser, "box": BOX, "size": SIZE}
    scores = pck(predicted, target, target, strict=strict, **options)
    assert (np.diff(scores) >= 0).all() and (scores >= 0).all() and (scores <= 1).all()
    assert (scores <= pck(predicted, target, target, **options)).all()
    assert (pck(target[:, :2], target, target, **options) == 1).all()
    assert pck(target[:, :2], target, target, strict=True, **options)[0] == 0


@settings(deadline=None)
@given(points, points, st.sampled_from([0.5, 2.0, 4.0]))
def test_pck_by_keypoints_ignores_the_scale_of_the_image(predicted, places, scale):
    places[0] = places[1] + 1
    scores = pck(predicted, keypoints(places), keypoints(places), ALPHAS, "keypoints")
    scaled = keypoints(scale * places)
    assert (pck(scale * predicted, scaled, scaled, ALPHAS, "keypoints") == scores).all()


@pytest.mark.parametrize("missing", [[NAN, NAN, 1.0], [-1.0, -1.0, 0.0], [NAN, 5.0, 1.0], [500.0, 0.0, 0.0]])
@pytest.mark.parametrize("where", ["source", "target"])
def test_a_keypoint_missing_in_either_image_is_missing_in_both(missing, where):
    """It takes no part, and does not widen the keypoints' extent: a padding of -1 once did that."""
    whole = {"source": TARGET.clone(), "target": TARGET.clone()}
    whole[where][1] = torch.tensor(missing)
    predicted = shifted(0.0, NAN, 1.9, 2.1)
    scores = pck(predicted, whole["source"], whole["target"], (0.1,), "keypoints")  # what is left is 20 wide and high
    assert scores.item() == pytest.approx(2 / 3)


def test_pairs_that_cannot_be_judged():
    nothing = keypoints(TARGET[:, :2], [0, 0, 1, 1])
    other = keypoints(TARGET[:, :2], [1, 1, 0, 0])
    with pytest.raises(DataError, match="visible in both"):
        pck(TARGET[:, :2], nothing, other, normaliser="keypoints")
    with pytest.raises(DataError, match="predicted: found NaN"):
        pck(shifted(0.0, NAN, 0.0, 0.0), TARGET, TARGET, normaliser="keypoints")
    with pytest.raises(DataError, match=r"length of 0\.0"):
        pck(TARGET[:1, :2], TARGET[:1], TARGET[:1], normaliser="keypoints")
    with pytest.raises(DataError, match="length of nan"):
        pck(TARGET[:, :2], TARGET, TARGET, box=torch.full((4,), NAN))


def test_pck_asks_for_what_its_normaliser_needs():
    for normaliser, needed in (("box", "box"), ("image", "size"), ("224", "size")):
        with pytest.raises(UsageError, match=f"{needed}=None: the normaliser '{normaliser}'"):
            pck(TARGET[:, :2], TARGET, TARGET, normaliser=normaliser)
    with pytest.raises(UsageError, match="normaliser='head'"):
        pck(TARGET[:, :2], TARGET, TARGET, normaliser="head")
    for alphas in ((), (0.1, -0.1), (NAN,)):
        with pytest.raises(UsageError, match="alphas="):
            pck(TARGET[:, :2], TARGET, TARGET, alphas, "keypoints")


part_maps = arrays(np.int64, (5, 6), elements=st.integers(0, 3)).map(torch.from_numpy)


def part_iou(predicted, target, part):
    found, true = predicted == part, target == part
    return ((found & true).sum() / (found | true).sum()).item(), (found | true).sum().item(), true.sum().item()


@settings(deadline=None)
@given(part_maps, part_maps.filter(lambda parts: (parts > 0).any()))
def test_weighted_iou_by_its_definition(predicted, target):
    common = target[target > 0].unique().tolist()
    ious, unions, areas = zip(*(part_iou(predicted, target, part) for part in common))
    assert weighted_iou(predicted, target, common, "union") == pytest.approx(np.average(ious, weights=unions))
    assert weighted_iou(predicted, target, common, "target") == pytest.approx(np.average(ious, weights=areas))
    for weights in ("union", "target"):
        assert weighted_iou(target, target, common, weights) == pytest.approx(1.0)


def test_the_two_published_weights_differ():
    target, predicted = torch.tensor([[1, 1, 1, 1, 2, 0, 0, 0]]), torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    assert weighted_iou(predicted, target, (1, 2), "target") == pytest.approx(0.8 + 0.2 / 4)
    assert weighted_iou(predicted, target, (1, 2), "union") == pytest.approx(0.5 + 0.5 / 4)


def test_a_part_that_the_transfer_loses_counts_and_one_that_only_an_image_has_does_not():
    target = torch.tensor([[1, 1, 2, 3]])
    predicted = torch.tensor([[1, 1, 0, 0]])
    assert weighted_iou(predicted, target, (1, 2), "target") == pytest.approx(2 / 3)
    assert weighted_iou(predicted, target, (1,), "target") == 1.0


def test_weighted_iou_of_no_common_part_and_of_wrong_ones():
    parts = torch.tensor([[1, 2]])
    assert weighted_iou(parts, parts, (), "union") == 0.0
    with pytest.raises(DataError, match="common: found no part"):
        weighted_iou(parts, parts, (), "target")
    with pytest.raises(DataError, match="part 3 is not there"):
        weighted_iou(parts, parts, (1, 3), "union")
    for common in ((0, 1), (1, 1)):
        with pytest.raises(UsageError, match="common="):
            weighted_iou(parts, parts, common, "union")
    with pytest.raises(UsageError, match="weights='area'"):
        weighted_iou(parts, parts, (1,), "area")
    unchecked = weighted_iou.__wrapped__  # the shapes are checked without jaxtyping, too
    with pytest.raises(UsageError, match=r"found \(1, 2\); expected the target's \(2, 1\)"):
        unchecked(parts, parts.T, (1,), "union")


@settings(deadline=None)
@given(part_maps, part_maps.filter(lambda parts: (parts == 1).any()))
def test_mask_iou_is_that_of_a_single_part(predicted, target):
    value = mask_iou(predicted == 1, target == 1)
    assert value == pytest.approx(weighted_iou(predicted, target, (1,), "union")) and 0 <= value <= 1
    assert mask_iou(target == 1, target == 1) == 1.0


def test_an_empty_mask_cannot_be_judged():
    with pytest.raises(DataError, match="empty mask"):
        mask_iou(torch.ones(2, 2).bool(), torch.zeros(2, 2).bool())


def strips(*widths):
    """Boxes from the left edge, of the height 1: their IoU with the whole, of width 100, is their width in percent."""
    return torch.tensor([[0.0, 0.0, float(width), 1.0] for width in widths])


WHOLE = strips(100)


@settings(deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=120), st.randoms())
def test_pcr_counts_strictly_and_never_falls(percents, random):
    matched, true = strips(*percents), WHOLE.expand(len(percents), 4)
    result = region_matching(matched, true, torch.tensor([random.random() for _ in percents]))
    expected = [np.mean([100 - percent < threshold for percent in percents]) for threshold in range(101)]
    assert result.pcr == pytest.approx(expected, abs=1e-12)  # in whole numbers: no rounding decides
    assert (np.diff(result.pcr) >= 0).all() and result.pcr[0] == 0
    assert result.auc == pytest.approx(sum(expected) / 100 - expected[-1] / 200)
    count = min(len(percents), 100)
    assert np.isfinite(result.miou_at_k[:count]).all() and np.isnan(result.miou_at_k[count:]).all()


def test_perfect_matches_have_all_but_the_first_threshold():
    result = region_matching(WHOLE, WHOLE, torch.ones(1))
    assert result.pcr[0] == 0 and (result.pcr[1:] == 1).all() and result.auc == pytest.approx(0.995)


def test_the_surest_matches_come_first():
    result = region_matching(strips(20, 60, 100), WHOLE.expand(3, 4), torch.tensor([0.2, 0.1, 0.3]))
    assert result.miou_at_k[:3].tolist() == pytest.approx([1.0, 0.6, 0.6])
    tie = region_matching(strips(20, 60), WHOLE.expand(2, 4), torch.ones(2))
    assert tie.miou_at_k[:2].tolist() == pytest.approx([0.2, 0.4])


def test_regions_that_cannot_be_judged():
    with pytest.raises(DataError, match="found no region"):
        region_matching(WHOLE[:0], WHOLE[:0], torch.zeros(0))
    with pytest.raises(DataError, match="finite"):
        region_matching(WHOLE, WHOLE, torch.tensor([NAN]))


def test_active_regions_lie_on_the_object_and_hold_a_visible_keypoint():
    object_box = torch.tensor([0.0, 0.0, 40.0, 40.0])
    boxes = torch.tensor(
        [[0, 0, 10, 10], [20, 0, 30, 10], [35, 30, 45, 40], [32, 30, 42, 40], [30, 30, 40, 40]]
    ).float()
    seen = keypoints([[5.0, 5.0], [25.0, 5.0], [36.0, 36.0], [NAN, NAN]], [1, 0, 1, 1])
    assert active_regions(boxes, object_box, seen).tolist() == [True, False, False, True, True]
    three_quarters = torch.tensor([[30.0, 30.0, 40.0, 40.0]]) + torch.tensor([2.5, 0.0, 2.5, 0.0])
    assert not active_regions(three_quarters, object_box, seen).any()  # more than 75 %, not 75 %


CORNERS = keypoints([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0], [40.0, 40.0], [10.0, 20.0]])


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(-5, 20), st.floats(-5, 20))
def test_a_spline_through_an_affine_map_is_that_map(across, down, right, lower):
    scale, move = torch.tensor([across, down]), torch.tensor([right, lower])
    target = keypoints(CORNERS[:, :2] * scale + move)
    boxes = torch.tensor([[5.0, 5.0, 15.0, 30.0], [0.0, 0.0, 40.0, 40.0], [-10.0, 30.0, 50.0, 60.0]])
    expected = boxes * scale.repeat(2) + move.repeat(2)
    extent = torch.tensor([60.0, 50.0]).repeat(2)
    expected = expected.clamp(min=0).minimum(extent)
    torch.testing.assert_close(true_regions(boxes, CORNERS, target, (50, 60)), expected, atol=1e-3, rtol=1e-4)


def test_a_turned_region_becomes_a_box_by_the_means_of_its_outer_and_inner_corners():
    turn = torch.tensor([[math.cos(0.5), math.sin(0.5)], [-math.sin(0.5), math.cos(0.5)]])
    target = keypoints(CORNERS[:, :2] @ turn + 100)
    corners = torch.tensor([[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]]) @ turn + 100
    low, high = corners.sort(dim=0).values.unflatten(0, (2, 2)).mean(dim=1)
    found = true_regions(torch.tensor([[10.0, 10.0, 30.0, 30.0]]), CORNERS, target, (200, 200))
    torch.testing.assert_close(found[0], torch.cat([low, high]), atol=1e-3, rtol=1e-4)


def test_a_spline_goes_through_keypoints_that_no_affine_map_joins():
    target = keypoints([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0], [40.0, 40.0], [25.0, 30.0]])
    at_keypoint = torch.tensor([[10.0, 20.0, 10.001, 20.001]])
    found = true_regions(at_keypoint, CORNERS, target, (50, 50))
    torch.testing.assert_close(found[0], torch.tensor([25.0, 30.0, 25.0, 30.0]), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "source",
    [
        keypoints([[0.0, 0.0], [9.0, 0.0]]),
        keypoints([[0.0, 0.0], [9.0, 9.0], [4.0, 4.0], [2.0, 2.0]]),
        keypoints([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0]], [1, 1, 0]),
        keypoints([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [9.0, 9.0]]),
        keypoints([[NAN, 0.0], [9.0, 0.0], [NAN, NAN]]),
    ],
)
def test_keypoints_that_span_no_plane_give_no_region(source):
    with pytest.raises(DataError, match="not all on one line and no two"):
        true_regions(WHOLE, source, torch.cat([source[:, :2].nan_to_num() + 1, source[:, 2:]], 1), (50, 50))


def test_means_over_pairs_and_over_classes():
    values = [np.array([1.0, 0.0]), np.array([0.0, 0.0]), np.array([0.5, 1.0])]
    assert mean_over_pairs(values).tolist() == pytest.approx([0.5, 1 / 3])
    assert mean_over_pairs(values, ["car", "car", "duck"]).tolist() == pytest.approx([0.5, 0.5])
    assert mean_over_pairs(values, ["duck", "car", "car"]).tolist() == pytest.approx([0.625, 0.25])


def test_places_that_a_pair_does_not_have_are_left_out_of_their_mean():
    values = [np.array([1.0, NAN, NAN]), np.array([0.0, 0.4, NAN])]
    assert mean_over_pairs(values).tolist() == pytest.approx([0.5, 0.4, NAN], nan_ok=True)


def test_means_of_nothing_and_of_unlike_things():
    with pytest.raises(UsageError, match="found 0"):
        mean_over_pairs([])
    with pytest.raises(UsageError, match="one shape"):
        mean_over_pairs([np.zeros(2), np.zeros(3)])
    with pytest.raises(UsageError, match="one for each of the 2 pairs"):
        mean_over_pairs([1.0, 2.0], ["car"])


# ---- intervals over images


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_an_interval_over_images_holds_its_mean_and_forgets_names_and_order(count, seed):
    random = np.random.default_rng(seed)
    values, images = random.random(3 * count), random.integers(0, count, (3 * count, 2))
    found = interval_over_images(values, images, np.random.default_rng(0))
    assert found.mean == pytest.approx(values.mean()) and found.low <= found.mean <= found.high
    assert found == interval_over_images(values, 7 * images + 3, np.random.default_rng(0))
    turned = interval_over_images(values, images[:, ::-1], np.random.default_rng(0))
    assert (turned.low, turned.high) == (found.low, found.high)


def test_pairs_that_share_images_are_less_evidence_than_pairs_that_do_not():
    values = np.tile([0.0, 1.0], 50)
    apart = np.arange(200).reshape(100, 2)
    shared = np.stack([np.arange(100) % 2, 2 + np.arange(100) // 2], axis=1)  # image 0 is in all that fail
    widths = []
    for images in (apart, shared):
        interval = interval_over_images(values, images, np.random.default_rng(0))
        widths.append(interval.high - interval.low)
    assert widths[1] > 2 * widths[0]


def test_equal_values_leave_no_doubt_and_missing_ones_do_not_count():
    values = np.array([0.5, np.nan, 0.5])
    interval = interval_over_images(values, np.array([[0, 1], [5, 6], [1, 2]]), np.random.default_rng(0))
    assert (interval.low, interval.mean, interval.high, interval.n) == (0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([1.0], {}, "found 2 pairs; expected one for each of the 1"),
        ([1.0, np.nan], {}, "found 1 pairs that have one"),
        ([1.0, 0.0], {"confidence": 1.0}, "confidence=1.0"),
        ([1.0, 0.0], {"resamples": 5}, "resamples=5"),
    ],
)
def test_intervals_that_cannot_be(values, options, words):
    with pytest.raises(UsageError, match=words):
        interval_over_images(np.array(values), np.array([[0, 1], [1, 2]]), np.random.default_rng(0), **options)
