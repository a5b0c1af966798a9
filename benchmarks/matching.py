"""What matching two maps costs: nearest neighbours beside one matrix product, DSP in seconds and in its growth.

The ratio, and how the seconds grow with the cells, are what counts.
"""

import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from wsl_core.matching import DescriptorMap, dense_sift, dsp, nearest_neighbours
from wsl_core.ops import Grid

HYPERCOLUMNS = (768, 56, 56)
ROUNDS = 7


def main() -> None:
    torch.set_num_threads(1)
    beside_a_product()
    of_a_pair()
    growth()


def beside_a_product() -> None:
    a, b = (F.normalize(torch.randn(HYPERCOLUMNS), dim=0) for _ in range(2))
    maps = [DescriptorMap(features, Grid(stride=4, first=2)) for features in (a, b)]
    cells_a, cells_b = (features.flatten(1).T.contiguous() for features in (a, b))
    cases = {
        "matrix product": lambda: cells_a @ cells_b.T,
        "nearest": lambda: nearest_neighbours(*maps),
        "mutual": lambda: nearest_neighbours(*maps, mutual=True),
    }
    times = medians(cases)
    print(f"two maps of {HYPERCOLUMNS}, seconds on one core", {name: round(value, 3) for name, value in times.items()})
    for name in ("nearest", "mutual"):
        print(f"  {name} / product   {times[name] / times['matrix product']:6.3f}")


def of_a_pair() -> None:
    """Dense SIFT at every second pixel, and at every one."""
    images = torch.rand(2, 3, 96, 96)
    images = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="bilinear")  # structure, and nothing to find
    for stride in (2, 1):
        maps = [dense_sift(image, stride) for image in images]
        seconds = medians({"dsp": lambda maps=maps: dsp(*maps)})["dsp"]
        print(f"DSP of a pair at 96 px, dense SIFT at stride {stride}: {seconds:.3f} s")


def growth() -> None:
    """The last step is linear in the cells; what the nodes cost is bounded, and stands in the first rows."""
    print("DSP of two maps of 128 channels")
    for side in (48, 96, 144, 192):
        maps = [DescriptorMap(torch.rand(128, side, side), Grid(stride=1, first=0.5)) for _ in range(2)]
        cases = {"all": lambda maps=maps: dsp(*maps), "nodes": lambda maps=maps: dsp(*maps, cell_window=0)}
        times = medians(cases)
        last = 1e6 * (times["all"] - times["nodes"]) / side**2
        print(f"  {side:4} x {side:3} cells {times['all']:7.3f} s, of the last step {last:6.1f} microseconds a cell")


def medians(cases: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Processor time of each; in turn, so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            start = time.process_time()
            case()
            times[name].append(time.process_time() - start)
    return {name: sorted(values)[ROUNDS // 2] for name, values in times.items()}


if __name__ == "__main__":
    main()
