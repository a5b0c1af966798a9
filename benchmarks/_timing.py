"""Times of training steps, taken side by side in one run."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

ROUNDS = 9
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def median_times(losses: Mapping[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Median seconds of a forward and backward pass of each; in turn, so that a busy moment hits all alike.

    On a GPU in bf16, as the recipes have it there.
    """
    times: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(ROUNDS + 1):
        for name, loss in losses.items():
            taken = seconds(loss)
            if turn:  # the first round warms up
                times[name].append(taken)
    return {name: sorted(values)[ROUNDS // 2] for name, values in times.items()}


def seconds(loss: Callable[[], Tensor]) -> float:
    wait()
    start = time.perf_counter()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
        value = loss()
    value.backward()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Until the GPU has done what it was told to."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
