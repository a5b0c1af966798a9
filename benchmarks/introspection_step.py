"""What a training step of introspection costs beside the passes of its network alone; the ratio is what counts.

The step draws two views of each image, finds and samples their correspondences, mines, and has the loss of all pairs.
Beside it: the two views through the same network, forward and backward, from any loss that costs nothing.
"""

from collections.abc import Callable

import torch
from _timing import DEVICE, median_times
from torch import Tensor

from wsl_core.data.warps import KINDS
from wsl_core.papers.introspection import Introspection

CASES = {  # backbone, images, pixels a side
    "small, 96 px, batch 16": ("small", 16, 96),
    "ResNet-50, 224 px, batch 2": ("resnet50", 2, 224),
}
ON_A_GPU = {"ResNet-50, 224 px, batch 64": ("resnet50", 64, 224)}


def main() -> None:
    print(f"median seconds of a step, forward and backward, on {DEVICE}; its limit with ResNet-50 is 1.5 passes")
    for name, case in (CASES | (ON_A_GPU if DEVICE == "cuda" else {})).items():
        median = median_times(steps(*case))
        print(name, {step: round(value, 4) for step, value in median.items()})
        for kind in KINDS:
            print(f"  {kind:10} / passes   {median[kind] / median['passes']:6.3f}")


def steps(backbone: str, batch: int, side: int) -> dict[str, Callable[[], Tensor]]:
    """The losses of a step with each kind of warps, and a sum of all that the network says of two views."""
    images = torch.rand(batch, 3, side, side, device=DEVICE).to(memory_format=torch.channels_last)
    model = Introspection(backbone).to(DEVICE, memory_format=torch.channels_last).train()
    views = torch.cat([images, images])

    def step(kind: str) -> Tensor:
        model.warps = kind
        return model.losses({"image": images})["total"]

    def passes() -> Tensor:
        features, sigma = model.describe(views)
        return features.sum() + sigma.sum()

    return {"passes": passes} | {kind: lambda kind=kind: step(kind) for kind in KINDS}


if __name__ == "__main__":
    main()
