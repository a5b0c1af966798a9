"""What a training step of ACoL costs beside the sum of its parts, and beside CAM's; the ratios are what counts."""

from collections.abc import Callable

import torch
from _timing import DEVICE, median_times
from torch import Tensor, nn

from wsl_core.papers.acol import ACoL
from wsl_core.papers.cam import CAM
from wsl_core.papers.erasing_baselines import SingleClassifier

CASES = {
    "small, 8 classes, 96 px, batch 32": ({"backbone": "small", "num_classes": 8}, 32, 96),
    "VGG16, 200 classes, 224 px, batch 1": ({"backbone": "vgg16", "num_classes": 200}, 1, 224),
}
ON_A_GPU = {"ResNet-50, 200 classes, 224 px, batch 64": ({"backbone": "resnet50", "num_classes": 200}, 64, 224)}


def main() -> None:
    print(
        "median seconds of a step, forward and backward: ACoL's, its trunk's and heads' alone, CAM's, one classifier's"
    )
    for name, case in (CASES | (ON_A_GPU if DEVICE == "cuda" else {})).items():
        median = median_times(parts(*case))
        print(name, {part: round(value, 4) for part, value in median.items()})
        together = median["trunk"] + 2 * median["head"]
        print(f"  ACoL / (trunk + 2 heads)   {median['ACoL'] / together:6.3f}")
        print(f"  ACoL / CAM                 {median['ACoL'] / median['CAM']:6.3f}")
        print(f"  ACoL / one classifier      {median['ACoL'] / median['one classifier']:6.3f}")


def parts(options: dict, batch: int, side: int) -> dict[str, Callable[[], Tensor]]:
    """The losses of whole networks, and of the parts of ACoL by themselves."""
    images = torch.rand(batch, 3, side, side, device=DEVICE).to(memory_format=torch.channels_last)
    labels = torch.eye(options["num_classes"])[torch.randint(options["num_classes"], (batch,))].to(DEVICE)
    models = {"ACoL": ACoL(**options), "CAM": CAM(**options), "one classifier": SingleClassifier(**options)}
    for model in models.values():
        model.to(DEVICE, memory_format=torch.channels_last).train()
    acol = models["ACoL"]
    features = acol.backbone(images).detach().requires_grad_()

    def head() -> Tensor:
        return nn.functional.cross_entropy(acol.classifier_a(features).mean(dim=(2, 3)), labels)

    steps = {
        name: lambda model=model: model.losses({"image": images, "labels": labels})["total"]
        for name, model in models.items()
    }
    return steps | {"trunk": lambda: acol.backbone(images).sum(), "head": head}


if __name__ == "__main__":
    main()
