"""Boxes and masks from maps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsl_core.errors import DataError, UsageError
from wsl_core.localize import boxes_from_map, mask_from_maps


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
