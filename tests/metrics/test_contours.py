"""Contours at all levels against OpenCV, level by level."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tests.metrics.official import level_maps, official_boxes
from wsl_core.metrics.contours import find_contours, highest_per_level

RING_WITH_A_TAIL = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]], np.uint8)  # polygon = hole's
TWO_ALIKE = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]], np.uint8)
RING_IN_RING = np.pad(np.pad(np.pad(np.ones((1, 1), np.uint8), 1), 1, constant_values=2), 1)
GREY_MOAT = np.array([[9, 9, 9, 9, 9], [9, 3, 3, 3, 9], [9, 3, 9, 3, 9], [9, 3, 3, 3, 9], [9, 9, 9, 9, 9]], np.uint8)


@given(level_maps())
@example(RING_WITH_A_TAIL)
@example(TWO_ALIKE)
@example(RING_IN_RING)
@example(GREY_MOAT)
@example(np.zeros((3, 3), np.uint8))
@example(np.full((1, 1), 255, np.uint8))
@example(np.eye(4, dtype=np.uint8))
def test_every_level_has_the_boxes_that_opencv_finds(levels):
    contours = find_contours(levels)
    for cut in np.unique(np.append(levels, [0, 254])):
        there = (contours.low <= cut) & (cut < contours.high)
        boxes, largest = official_boxes(levels, int(cut))
        inclusive = np.array([0, 0, 1, 1])
        assert sorted((contours.boxes[there] - inclusive).tolist()) == sorted(boxes)
        assert (contours.largest[cut] - inclusive).tolist() == largest


def test_smooth_maps_of_many_levels():
    coarse = np.random.default_rng(0).random((5, 6))
    smooth = np.kron(coarse, np.ones((9, 7)))
    for _ in range(30):
        padded = np.pad(smooth, 1, mode="edge")
        smooth = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    levels = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    contours = find_contours(levels)
    for cut in range(256):
        boxes, largest = official_boxes(levels, cut)
        there = (contours.low <= cut) & (cut < contours.high)
        assert sorted((contours.boxes[there] - [0, 0, 1, 1]).tolist()) == sorted(boxes)
        assert (contours.largest[cut] - [0, 0, 1, 1]).tolist() == largest


ranges = st.tuples(st.integers(0, 256), st.integers(0, 256), st.integers(1, 1000))


@given(st.lists(ranges, max_size=20))
def test_the_highest_of_ranges_is_what_a_loop_finds(entries):
    low, high, values = np.array(entries, dtype=np.int64).reshape(-1, 3).T
    expected = [max([v for lo, hi, v in entries if lo <= level < hi], default=0) for level in range(256)]
    assert highest_per_level(low, high, values).tolist() == expected
