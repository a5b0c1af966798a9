"""The random walk beside what the released code does: the matrix over all pairs of cells, squared eight times.

The ratio, how the seconds grow with the cells, and the memory are what counts. The matrix is squared once only: that
takes long, and hardly varies. What it costs to fill it is not counted.
"""

import resource
import time

import torch

from wsl_core.ops import Affinity, half_plane_offsets, valid_pairs
from wsl_core.refine import random_walk

MAPS, SIDE, RADIUS, BETA, SQUARINGS = 4, 64, 5, 8, 8
ROUNDS = 7


def main() -> None:
    torch.set_num_threads(1)
    growth()  # first: the matrix below takes more memory
    beside_the_matrix()


def growth() -> None:
    print(f"{MAPS} maps, radius {RADIUS}, {2**SQUARINGS} steps, on one core; with Python and torch {peak():.2f} GB")
    for side in (32, 64, 128, 256):
        maps, affinity = scene(side)
        seconds = median_seconds(maps, affinity, ROUNDS if side <= SIDE else 3)
        cost = 1e6 * seconds / side**2
        print(f"  {side:3} x {side:3} cells {seconds:7.3f} s, {cost:6.1f} microseconds a cell, peak {peak():.2f} GB")


def beside_the_matrix() -> None:
    maps, affinity = scene(SIDE)
    ours, walked = median_seconds(maps, affinity, ROUNDS), random_walk(maps, affinity, BETA, 2**SQUARINGS)
    matrix = over_all_pairs(affinity)
    start = time.process_time()
    for _ in range(SQUARINGS):
        matrix = matrix @ matrix
    expected = (matrix @ maps[0].flatten(1).T).T.view_as(maps[0])
    dense = time.process_time() - start
    apart = (walked[0] - expected).abs().max()
    print(f"{SIDE} x {SIDE} cells: {ours:.3f} s, the matrix {dense:.1f} s, ratio {dense / ours:.0f}")
    print(f"  the results are at most {apart:.1e} apart")


def scene(side: int) -> tuple[torch.Tensor, Affinity]:
    """Maps, and affinities of noise with some structure."""
    torch.manual_seed(0)
    coarse = torch.rand(1, MAPS + 16, side // 4, side // 4)
    fine = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    maps, features = fine[:, :MAPS], 2 * fine[:, MAPS:]
    offsets = half_plane_offsets(RADIUS)
    there = (features.roll((-dy, -dx), dims=(-2, -1)) for dy, dx in offsets.tolist())
    values = torch.stack([(-(features - one).abs().mean(dim=1)).exp() for one in there], dim=1)
    return maps, Affinity(values, offsets, valid_pairs(offsets, (side, side)))


def over_all_pairs(affinity: Affinity) -> torch.Tensor:
    """T, (N, N)."""
    cells = torch.arange(affinity.valid[0].numel())
    matrix = torch.eye(len(cells))
    for values, (dy, dx), valid in zip(affinity.values[0], affinity.offsets.tolist(), affinity.valid):
        here = cells[valid.flatten()]
        there = here + dy * valid.shape[1] + dx
        matrix[here, there] = matrix[there, here] = values[valid] ** BETA
    return matrix / matrix.sum(dim=1, keepdim=True)


def median_seconds(maps: torch.Tensor, affinity: Affinity, rounds: int) -> float:
    """Processor time."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        random_walk(maps, affinity, BETA, 2**SQUARINGS)
        times.append(time.process_time() - start)
    return sorted(times)[rounds // 2]


def peak() -> float:
    """Of this process so far, in GB (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
