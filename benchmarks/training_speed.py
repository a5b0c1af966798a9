"""How fast the training loop is beside the bare step that it makes, and how fast images are loaded by themselves.

The bare step has its images on the device: forward, backward, optimiser, nothing else. The loop takes them from memory
through its loader, watches for numbers that are not finite, and logs. One command on a GPU; on a CPU a smaller case.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _timing import DEVICE, wait
from PIL import Image

from wsl_core.data import Dataset, Sample, load_dataset
from wsl_core.papers import build_for
from wsl_core.recipes import Recipe
from wsl_core.training.loop import _loader, build_optimizer, start_accelerator, train

ON_GPU = DEVICE == "cuda"
SIDE, BATCH, STEPS = (224, 64, 100) if ON_GPU else (96, 32, 8)
MODEL = {"backbone": "resnet50" if ON_GPU else "small"}
PAPERS = ("cam", "acol", "gain")
RECIPE = Recipe(
    "cam", "speed", steps=STEPS, batch_size=BATCH, model=MODEL, precision="bf16" if ON_GPU else "no",
    channels_last=True, workers=12 if ON_GPU else 0, log_every=50, checkpoint_every=0,
)  # fmt: skip


class Noise(Dataset):
    """Images in memory."""

    name, split, classes, task, licence, version = "speed", "train", tuple("abcdefgh"), "single", "MIT", "1"

    def __init__(self) -> None:
        self.images = torch.rand(2 * BATCH, 3, SIDE, SIDE)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        index = self.position(index)
        return {"id": str(index), "image": self.images[index], "labels": torch.eye(len(self.classes))[index % 8]}


def main() -> None:
    where = torch.cuda.get_device_name() if ON_GPU else "cpu"
    print(f"images a second on {where}: {MODEL['backbone']}, {SIDE} px, batch {BATCH}, precision {RECIPE.precision}")
    for paper in PAPERS:
        recipe, dataset = RECIPE.replace(paper=paper), Noise()
        bare, loop = (images_a_second(run(recipe, dataset)) for run in (bare_steps, whole_loop))
        memory = f"{torch.cuda.max_memory_allocated() / 1e9:8.2f} GB" if ON_GPU else ""
        print(f"{paper:6} bare step {bare:9.1f}   loop {loop:9.1f}   loop / bare {loop / bare:6.3f} {memory}")
    with tempfile.TemporaryDirectory() as folder:
        print(f"loading {SIDE}-pixel JPEGs alone, {RECIPE.workers} workers: {loaded_a_second(Path(folder)):9.1f}")


def images_a_second(run: Callable[[int], None]) -> float:
    """From runs of two lengths, so that what happens once a run does not count."""
    short, long = (elapsed(run, steps) for steps in (STEPS // 4, STEPS))
    return BATCH * (STEPS - STEPS // 4) / (long - short)


def elapsed(run: Callable[[int], None], steps: int) -> float:
    wait()
    start = time.perf_counter()
    run(steps)
    wait()
    return time.perf_counter() - start


def bare_steps(recipe: Recipe, dataset: Noise) -> Callable[[int], None]:
    accelerator = start_accelerator(recipe)
    model = build_for(dataset, recipe.paper, **recipe.model).to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, recipe)
    batch = {
        "image": dataset.images[:BATCH].to(DEVICE, memory_format=torch.channels_last),
        "labels": torch.stack([dataset[i]["labels"] for i in range(BATCH)]).to(DEVICE),
    }

    def run(steps: int) -> None:
        for _ in range(steps):
            with accelerator.autocast():
                loss = model.losses(batch)["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def whole_loop(recipe: Recipe, dataset: Noise) -> Callable[[int], None]:
    def run(steps: int) -> None:
        own = recipe.replace(steps=steps)
        train(start_accelerator(own), build_for(dataset, own.paper, **own.model), dataset, None, own, 0, None)

    return run


def loaded_a_second(folder: Path) -> float:
    """JPEG files of noise, decoded, cropped and put into batches, by the loop's own loader."""
    for number in range(2 * BATCH):
        target = folder / ("a" if number % 2 else "b") / f"{number}.jpg"
        target.parent.mkdir(exist_ok=True)
        Image.effect_noise((SIDE, SIDE), 60).convert("RGB").save(target)
    files = load_dataset("folder", "train", root=folder)

    def run(steps: int) -> None:
        for _ in _loader(files, RECIPE, 0, range(steps), start_accelerator(RECIPE)):
            pass

    return images_a_second(run)


if __name__ == "__main__":
    main()
