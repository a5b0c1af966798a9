"""Boxes and masks from maps."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from wsl_core.errors import DataError, UsageError
from wsl_core.localize import boxes_from_map, foreground_boxes, mask_from_maps, official_boxes
from wsl_core.ops import Grid, normalize
from wsl_core.papers.cam import CAM


def rectangle(height=12, width=16, y0=2, x0=3, y1=6, x1=9, value=1.0):
    score_map = torch.zeros(height, width)
    score_map[y0:y1, x0:x1] = value
    return score_map


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 8), st.integers(1, 8), st.floats(0.1, 100))
def test_a_rectangle_is_its_own_box(x, y, w, h, value):
    score_map = rectangle(20, 20, y, x, y + h, x + w, value)
    assert boxes_from_map(score_map).tolist() == [[x, y, x + w, y + h]]


def test_the_threshold_is_strict_and_relative_to_the_maximum():
    score_map = rectangle(value=10.0)
    score_map[8, 8] = 2.0  # exactly 20 % of the maximum: out
    assert len(boxes_from_map(score_map, 0.2, "all")) == 1
    score_map[8, 8] = 2.01
    assert len(boxes_from_map(score_map, 0.2, "all")) == 2


def test_largest_component_by_area_and_all_in_order():
    score_map = rectangle()
    score_map[9:12, 12:16] = 0.5
    assert boxes_from_map(score_map).tolist() == [[3, 2, 9, 6]]
    assert boxes_from_map(score_map, rule="all").tolist() == [[3, 2, 9, 6], [12, 9, 16, 12]]


def test_diagonal_neighbours_belong_together():
    assert boxes_from_map(torch.eye(5)).tolist() == [[0, 0, 5, 5]]


@pytest.mark.parametrize("score_map", [torch.zeros(4, 4), -torch.rand(4, 4) - 0.1])
def test_no_evidence_gives_no_box(score_map):
    assert boxes_from_map(score_map).shape == (0, 4)


def test_a_higher_threshold_never_gives_a_larger_lit_area():
    score_map = torch.rand(30, 30)
    mask = [mask_from_maps(score_map[None], torch.ones(1), t).sum().item() for t in (0.0, 0.2, 0.5, 0.9)]
    assert mask == sorted(mask, reverse=True)


def test_negative_background_never_lights_up():
    score_map = rectangle() - 5.0
    score_map[0, 0] = 1.0
    assert boxes_from_map(score_map, 0.0).tolist() == [[0, 0, 1, 1]]


def test_masks_name_the_winning_present_class():
    maps = torch.stack([rectangle(x0=0, x1=4), rectangle(x0=8, x1=12), rectangle(x0=4, x1=8)])
    mask = mask_from_maps(maps, torch.tensor([1.0, 1.0, 0.0]))
    assert mask[3, 2] == 1 and mask[3, 9] == 2 and mask[3, 5] == 0 and mask[0, 0] == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 20.0])
def test_thresholds_outside_the_range(threshold):
    with pytest.raises(UsageError, match="threshold"):
        boxes_from_map(torch.rand(3, 3), threshold)
    with pytest.raises(UsageError, match="threshold"):
        mask_from_maps(torch.rand(1, 3, 3), torch.ones(1), threshold)


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="rule='smallest'"):
        boxes_from_map(torch.rand(3, 3), rule="smallest")
    with pytest.raises(DataError, match="NaN"):
        boxes_from_map(torch.tensor([[float("nan"), 1.0]]))


# The rule of the released code ---------------------------------------------------------------------------------------


def test_official_boxes_of_nested_levels():
    """Gray 51 is above level 20 only, 255 above all three: two boxes, as those of levels 100 and 110 are the same."""
    score_map = rectangle(60, 60, 5, 5, 45, 50, 0.2)
    score_map[10:20, 12:30] = 1.0
    assert official_boxes(score_map).tolist() == [[5, 5, 50, 45], [12, 10, 30, 20]]
    assert official_boxes(7 * score_map).tolist() == official_boxes(score_map).tolist()
    assert official_boxes(score_map, levels=(100,)).tolist() == [[12, 10, 30, 20]]


def test_an_official_level_is_exceeded_strictly_after_rounding():
    score_map = rectangle(60, 60, 5, 5, 15, 15)
    score_map[30:40, 30:40] = 20.4 / 255  # rounds to 20
    assert official_boxes(score_map, levels=(20,)).tolist() == [[5, 5, 15, 15]]
    score_map[30:40, 30:40] = 20.6 / 255
    assert official_boxes(score_map, levels=(20,)).tolist() == [[5, 5, 15, 15], [30, 30, 40, 40]]


def test_a_box_goes_when_a_larger_one_shares_more_than_half_of_its_own_area():
    for width, boxes in ((20, 2), (21, 1)):
        score_map = rectangle(60, 60, 10, 5, 20, 45, 0.2)  # 40 wide
        score_map[10:20, 5 : 5 + width] = 1.0
        assert len(official_boxes(score_map, levels=(20, 100))) == boxes


def test_the_successor_of_a_removed_box_stays():
    """Three boxes, each more than half of the first: the second goes, the third is never held against the first."""
    score_map = rectangle(60, 60, 5, 5, 45, 45, 0.2)
    score_map[5:45, 5:43] = 105 / 255
    score_map[5:45, 5:41] = 1.0
    assert official_boxes(score_map).tolist() == [[5, 5, 45, 45], [5, 5, 41, 45]]
    assert official_boxes(rectangle(60, 60, 5, 5, 45, 45)).tolist() == [[5, 5, 45, 45]] * 2


def test_shallow_specks_go_only_beside_a_deep_region():
    """A pixel stays from 10.5 / 255 of the greatest depth on: depth 1 beside 24, no longer beside 25."""
    for side, boxes in ((48, 2), (50, 1)):
        score_map = rectangle(90, 90, 5, 5, 5 + side, 5 + side)
        score_map[70, 70] = 1.0
        assert len(official_boxes(score_map, levels=(20,))) == boxes
    assert official_boxes(score_map, levels=(20,)).tolist() == [[6, 6, 54, 54]]  # and the rim of the region


def test_holes_have_boxes_with_their_rim():
    score_map = rectangle(60, 60, 5, 5, 45, 45)
    score_map[20:24, 30:36] = 0.0
    assert official_boxes(score_map, levels=(20,)).tolist() == [[5, 5, 45, 45], [29, 19, 37, 25]]
    score_map[20:24, 30:] = 0.0  # a bay is no hole
    assert official_boxes(score_map, levels=(20,)).tolist() == [[5, 5, 45, 45]]


def test_official_boxes_end_before_the_right_and_lower_edge():
    assert official_boxes(torch.ones(30, 40), levels=(20,)).tolist() == [[0, 0, 35, 25]]
    assert official_boxes(rectangle(30, 40, 26, 36, 30, 40)).shape == (0, 4)  # wholly in the margin


@pytest.mark.parametrize("score_map", [torch.zeros(30, 30), -torch.rand(30, 30) - 0.1])
def test_no_evidence_gives_no_official_box(score_map):
    assert official_boxes(score_map).shape == (0, 4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_official_boxes_of_noise_keep_the_rules(seed, smooth):
    noise = torch.rand(1, 1, 30, 40, generator=torch.Generator().manual_seed(seed))
    boxes = official_boxes(torch.nn.functional.avg_pool2d(noise, smooth, 1)[0, 0])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert (areas > 0).all() and areas.tolist() == sorted(areas.tolist(), reverse=True)
    assert boxes.min() >= 0 and (boxes.amax(dim=0)[2:] <= torch.tensor([36 - smooth, 26 - smooth])).all()


def test_official_boxes_name_bad_input():
    with pytest.raises(UsageError, match=r"levels=\(20, 255\)"):
        official_boxes(torch.rand(30, 30), (20, 255))
    with pytest.raises(UsageError, match=r"levels=\(\)"):
        official_boxes(torch.rand(30, 30), ())
    with pytest.raises(UsageError, match=r"score_map is \(12, 5\)"):
        official_boxes(torch.rand(12, 5))
    with pytest.raises(DataError, match="NaN"):
        official_boxes(torch.full((30, 30), float("nan")))


@pytest.mark.parametrize("value", [-1.0, 0.0, 2.5])
def test_a_constant_map_says_nothing_about_place(value):
    assert len(boxes_from_map(torch.full((4, 5), value))) == 0


@given(st.integers(-3, 3), st.integers(-2, 3), st.floats(0.0, 0.95), st.integers(0, 1000))
def test_raw_and_normalised_maps_give_the_same_boxes(lowest, highest, threshold, seed):
    """Whole numbers of few levels, so that constant and negative maps come up."""
    levels = torch.randint(min(lowest, highest), max(lowest, highest) + 1, (5, 6), generator=seeded(seed))
    score_map = levels.double()
    assume((score_map - threshold * score_map.max()).abs().min() > 1e-9)  # rounding alone decides about no pixel
    assert torch.equal(boxes_from_map(score_map, threshold), boxes_from_map(normalize(score_map, "max"), threshold))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# ---- the foreground


class Classifier(torch.nn.Module):
    """Class 0 sees red, class 1 green; one cell a pixel."""

    grid = Grid(1, 0.5)

    def forward(self, images):
        return self.localize(images).mean(dim=(2, 3))

    def localize(self, images, labels=None):
        maps = images[:, :2]
        return maps if labels is None else maps * labels[:, :, None, None]


def coloured_boxes():
    """A large red box beside a small green one; only green; nothing."""
    images = torch.zeros(3, 3, 12, 20)
    images[0, 0, 2:10, 1:9] = 1.0
    images[:2, 1, 4:7, 12:18] = 0.5
    return images


def test_the_foreground_is_the_box_of_the_predicted_class_or_the_whole_frame():
    boxes = foreground_boxes(Classifier(), coloured_boxes())
    assert boxes.tolist() == [[1, 2, 9, 10], [12, 4, 18, 7], [0, 0, 20, 12]]


def test_the_foreground_is_what_exceeds_a_share_of_the_maximum_and_not_of_the_range():
    images = coloured_boxes()[1:2]
    images[:, 1] += 0.2
    assert foreground_boxes(Classifier(), images).tolist() == [[0, 0, 20, 12]]
    assert foreground_boxes(Classifier(), images, threshold=0.5).tolist() == [[12, 4, 18, 7]]


def test_the_foreground_of_given_classes():
    """Each class's map counts by its own maximum; of both, the largest component."""
    images = coloured_boxes()[[0, 0, 0]]
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    boxes = foreground_boxes(Classifier(), images, labels)
    assert boxes.tolist() == [[12, 4, 18, 7], [1, 2, 9, 10], [0, 0, 20, 12]]


def test_the_foreground_of_a_coarse_map_lies_where_its_cells_look():
    model = CAM(num_classes=2, width=4).eval()
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 1, 1, 2] = 1.0
    model.localize = lambda images, labels: maps
    (box,) = foreground_boxes(model, torch.rand(1, 3, 32, 32), torch.tensor([[0.0, 1.0]]), threshold=0.5)
    assert box.tolist() == [
        13,
        5,
        20,
        12,
    ]  # half of the way to the neighbours of pixel (16, 8), which the cell looks at
