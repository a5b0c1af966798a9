"""What the maps of all classes cost beside the plain forward pass; the ratio is what counts."""

import time

import torch

from wsl_core.papers.cam import CAM

CASES = {
    "small, 8 classes, 96 px, batch 32": ({"backbone": "small", "num_classes": 8}, 32, 96),
    "ResNet-50, 1000 classes, 224 px, batch 2": ({"backbone": "resnet50", "num_classes": 1000}, 2, 224),
    "VGG16, 1000 classes, 224 px, batch 2": ({"backbone": "vgg16", "num_classes": 1000}, 2, 224),
}
ROUNDS = 9


def main() -> None:
    print("median seconds of the forward pass, of the pass with all maps, and their ratio")
    for name, (options, batch, side) in CASES.items():
        model, images = CAM(**options).eval(), torch.rand(batch, 3, side, side)
        plain, mapped = [], []
        with torch.inference_mode():
            for _ in range(ROUNDS):  # in turn, so that a busy moment hits both alike
                plain.append(seconds(model, images))
                mapped.append(seconds(model.scores_and_maps, images))
        forward, both = (sorted(times)[ROUNDS // 2] for times in (plain, mapped))
        print(f"{name:44} {forward:8.4f} {both:8.4f} {both / forward:6.3f}")


def seconds(function, images: torch.Tensor) -> float:
    start = time.perf_counter()
    function(images)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
