"""What a training step of GAIN costs beside the plain classifier's, in time and memory; the ratios are what counts."""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from _timing import DEVICE, median_times
from torch import Tensor
from torch.nn import functional as F

from wsl_core.papers.gain import GAIN

CASES = {  # options of the network, images, pixels a side, labels an image
    "small, 8 classes, 96 px, batch 32": ({"backbone": "small", "num_classes": 8}, 32, 96, 1),
    "the same with two labels": ({"backbone": "small", "num_classes": 8, "task": "multi"}, 32, 96, 2),
    "VGG16, 20 classes, 224 px, batch 1": ({"backbone": "vgg16", "num_classes": 20, "task": "multi"}, 1, 224, 1),
}  # fmt: skip
ON_A_GPU = {"ResNet-50, 20 classes, 224 px, batch 64": ({"backbone": "resnet50", "num_classes": 20}, 64, 224, 1)}


def main() -> None:
    print(f"median seconds of a step, forward and backward, and the memory that it adds to the network's, on {DEVICE}")
    for name, case in (CASES | (ON_A_GPU if DEVICE == "cuda" else {})).items():
        median = median_times(losses(*case))
        print(name, {part: round(value, 4) for part, value in median.items()})
        for part in ("GAIN", "GAIN_ext"):
            print(f"  {part:8} / classifier, time    {median[part] / median['classifier']:6.3f}")
        if DEVICE == "cuda" or sys.platform == "linux":  # elsewhere nothing tells the peak of one step
            memory = {part: peak_memory(part, case) for part in median}
            for part in ("GAIN", "GAIN_ext"):
                print(f"  {part:8} / classifier, memory  {memory[part] / memory['classifier']:6.3f}")


def losses(options: dict, images: int, side: int, labels: int) -> dict[str, Callable[[], Tensor]]:
    """One network's loss by itself, with mining, and with masks besides."""
    labels_of_one = torch.zeros(options["num_classes"])
    labels_of_one[:labels] = 1.0
    gain, ext = GAIN(**options), GAIN(**options, attention_weight=10.0)
    for model in (gain, ext):
        model.to(DEVICE, memory_format=torch.channels_last).train()
    batch = {
        "image": torch.rand(images, 3, side, side, device=DEVICE).to(memory_format=torch.channels_last),
        "labels": labels_of_one.repeat(images, 1).to(DEVICE),
        "mask": torch.ones(images, side, side, dtype=torch.int64, device=DEVICE),
    }
    return {
        "classifier": lambda: F.multilabel_soft_margin_loss(gain(batch["image"]), batch["labels"]),
        "GAIN": lambda: gain.losses(batch)["total"],
        "GAIN_ext": lambda: ext.losses(batch)["total"],
    }


def peak_memory(part: str, case: tuple) -> float:
    """Bytes that the second step of a fresh process needs at most, beyond the networks and their gradients."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # glibc gives back what is freed, so that the peak is this step's
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_of_second_step, (part, case))


def peak_of_second_step(part: str, case: tuple) -> float:
    loss = losses(*case)[part]
    loss().backward()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss().backward()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = kilobytes("VmRSS")
    loss().backward()
    return 1024 * (kilobytes("VmHWM") - before)


def kilobytes(entry: str) -> int:
    return int(re.search(rf"{entry}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    main()
