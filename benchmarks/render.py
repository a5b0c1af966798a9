"""How fast the synthetic worlds are rendered: ``python benchmarks/render.py [--size 96] [--count 300]``."""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from wsl_core.data.synthetic import WORLDS, Synthetic


def render(world: str, size: int, first: int, count: int) -> float:
    """Render ``count`` samples from ``first`` on and return the seconds that it took."""
    torch.set_num_threads(1)
    dataset = Synthetic("train", world, size)
    dataset[0]  # fills the caches
    start = time.perf_counter()
    for index in range(first, first + count):
        dataset[index]
    return time.perf_counter() - start


def rate(world: str, size: int, count: int, processes: int) -> float:
    """Images a second of so many processes together, each with ``count`` images, without the time to start them."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        jobs = [pool.submit(render, world, size, worker * count, count) for worker in range(processes)]
        return processes * count / max(job.result() for job in jobs)


def main() -> None:
    """Print a line for each world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels")
    parser.add_argument("--count", type=int, default=300, help="pictures per process")
    options = parser.parse_args()
    print(f"images/s at {options.size} px   one process   two processes")
    for world in WORLDS:
        one, two = (rate(world, options.size, options.count, processes) for processes in (1, 2))
        print(f"{world:24s} {one:11.0f} {two:15.0f}")


if __name__ == "__main__":
    main()
