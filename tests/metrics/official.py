"""What clovaai/wsolevaluation computes, threshold by threshold with OpenCV: the oracle of the tests."""

import cv2
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def official_boxes(levels: np.ndarray, cut: int) -> tuple[list[list[int]], list[int]]:
    """The boxes of all contours of levels > cut, and that of the largest, as x0, y0, x1, y1 inclusive."""
    height, width = levels.shape
    _, lit = cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(lit, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return [[0, 0, 0, 0]], [0, 0, 0, 0]

    def box(contour: np.ndarray) -> list[int]:
        x, y, w, h = cv2.boundingRect(contour)
        return [x, y, min(x + w, width - 1), min(y + h, height - 1)]

    return [box(contour) for contour in contours], box(max(contours, key=cv2.contourArea))


def official_iou(a: list[int], b: list[int]) -> float:
    """Of inclusive boxes, "with +1"."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in (0, 1))
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return overlap / (sum(areas) - overlap)


def official_curves(score_map: np.ndarray, truth: list[list[int]], thresholds: list[float]) -> np.ndarray:
    """Best IoU of the largest contour and of all, (2, T), for float64 scores and inclusive true boxes."""
    levels = (score_map * 255).astype(np.uint8)
    curves = []
    for threshold in thresholds:
        boxes, largest = official_boxes(levels, int(threshold * levels.max()))
        curves.append([max(official_iou(a, b) for a in some for b in truth) for some in ([largest], boxes)])
    return np.array(curves).T


@st.composite
def level_maps(draw: st.DrawFn) -> np.ndarray:
    """Maps of 8 bits: noise, plateaus, constants, or frames within frames, which have holes within holes."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    if draw(st.booleans()):
        values = st.integers(0, 255) if draw(st.booleans()) else st.sampled_from([0, 1, 100, 255])
        return draw(arrays(np.uint8, (height, width), elements=values))
    levels = np.full((height, width), draw(st.sampled_from([0, 0, 40, 255])), np.uint8)
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        w, h = draw(st.integers(1, width - x)), draw(st.integers(1, height - y))
        levels[y : y + h, x : x + w] = draw(st.integers(0, 255))
        if draw(st.booleans()) and min(w, h) > 2:
            levels[y + 1 : y + h - 1, x + 1 : x + w - 1] = draw(st.integers(0, 255))
    return levels
