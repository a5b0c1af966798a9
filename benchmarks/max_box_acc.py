"""MaxBoxAcc, V1 and V2 at 1,000 thresholds, beside OpenCV's contours threshold by threshold; the ratio is what counts.

Two peers. The plain loop cuts, finds the contours and compares their boxes at each threshold. The official evaluator
then looks for each threshold's best IoU in the list of all thresholds' boxes, and takes the maximum over the true boxes
again each time: it is the slower, the more contours a map has. All three must agree in every value.
"""

import time
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage

from wsl_core.metrics import best_iou_curves
from wsl_core.metrics.score_maps import THRESHOLDS

SIDE = 224
BOXES = np.array([[50, 60, 150, 160], [10, 20, 90, 95]])  # corners included
REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "wsol_dev.npz"
ROUNDS = 5


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print("milliseconds of processor time a map on one core (median), and how many times faster wsl_core is")
    print(f"{'':34}{'wsl_core':>10}{'loop':>10}{'ratio':>7}{'official':>10}{'ratio':>7}")
    totals = []
    for name, score_map in score_maps().items():
        truth = torch.from_numpy(np.add(BOXES, [0, 0, 1, 1]))
        ours, mine = timed(lambda s=score_map, t=truth: best_iou_curves(torch.from_numpy(s), t), ROUNDS)
        loop, plain = timed(lambda s=score_map: [plain_loop(s, every) for every in (False, True)], ROUNDS)
        official, theirs = timed(lambda s=score_map: [official_loop(s, every) for every in (False, True)], 1)
        np.testing.assert_array_equal(np.array(mine), np.array(plain))
        np.testing.assert_array_equal(np.array(mine), np.array(theirs))
        totals.append((ours, loop, official))
        report(name, ours, loop, official)
    report("mean", *np.mean(totals, axis=0))


def report(name: str, ours: float, loop: float, official: float) -> None:
    ratios = loop / ours, official / ours
    print(f"{name:34}{1e3 * ours:10.1f}{1e3 * loop:10.1f}{ratios[0]:7.1f}{1e3 * official:10.1f}{ratios[1]:7.1f}")


def score_maps() -> dict[str, np.ndarray]:
    """Maps as networks make them, coarse cells enlarged; blurred noise; and the reference's, where it is there."""
    random = np.random.default_rng(0)
    maps = {}
    for cells in (7, 14, 28):
        coarse = cv2.resize(random.random((cells, cells)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        maps[f"map of {cells} x {cells} cells"] = coarse
    for sigma in (8, 2):
        maps[f"noise, blurred by {sigma} pixels"] = ndimage.gaussian_filter(random.random((SIDE, SIDE)), sigma)
    maps = {name: (s - s.min()) / (s - s.min()).max() for name, s in maps.items()}
    if REFERENCE.exists():
        with np.load(REFERENCE) as archive:
            maps |= {f"reference {i}": s.astype(np.float64) for i, s in enumerate(archive["scoremaps"])}
    return maps


def contour_boxes(score_map: np.ndarray, every: bool) -> list[np.ndarray]:
    """The boxes at each threshold, corners included."""
    height, width = score_map.shape
    levels = (score_map * 255).astype(np.uint8)
    boxes = []
    for threshold in THRESHOLDS:
        _, lit = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
        contours = cv2.findContours(lit, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if contours and not every:
            contours = [max(contours, key=cv2.contourArea)]
        found = [cv2.boundingRect(contour) for contour in contours]
        found = [[x, y, min(x + w, width - 1), min(y + h, height - 1)] for x, y, w, h in found]
        boxes.append(np.array(found or [[0, 0, 0, 0]]))
    return boxes


def ious(boxes: np.ndarray) -> np.ndarray:
    """IoU "with +1" of each box with each true one."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    left, top, right, bottom = BOXES.T
    overlap = np.maximum(np.minimum(x1, right) - np.maximum(x0, left) + 1, 0)
    overlap = overlap * np.maximum(np.minimum(y1, bottom) - np.maximum(y0, top) + 1, 0)
    return overlap / ((x1 - x0 + 1) * (y1 - y0 + 1) + (right - left + 1) * (bottom - top + 1) - overlap)


def plain_loop(score_map: np.ndarray, every: bool) -> list[float]:
    return [ious(boxes).max() for boxes in contour_boxes(score_map, every)]


def official_loop(score_map: np.ndarray, every: bool) -> list[float]:
    """With the search of the official ``BoxEvaluator.accumulate`` in the list of all boxes."""
    boxes = contour_boxes(score_map, every)
    overlaps = ious(np.concatenate(boxes))
    ends = np.cumsum([len(of_one) for of_one in boxes])
    return [max(overlaps.max(1)[end - len(of_one) : end]) for of_one, end in zip(boxes, ends, strict=True)]


def timed(function, rounds: int) -> tuple[float, object]:
    """Median processor time of a call, and what it returned. Nobody else's work is counted."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return float(np.median(times)), result


if __name__ == "__main__":
    main()
