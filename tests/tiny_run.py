"""A data set and a model that train in a second, and a program that is killed while it trains them.

``python -m tests.tiny_run FOLDER`` trains once without a stop into FOLDER/whole, and in FOLDER/killed once for each way
of dying in FAULTS, then to the end. Each attempt is a process of its own, ended by SIGKILL. With ``once`` behind it, it
trains PLAIN into FOLDER, for several processes to share.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from wsl_core.data import Dataset, Sample
from wsl_core.recipes import Recipe
from wsl_core.training import fit, run_directory

RECIPE = Recipe(
    "tiny", "blobs", steps=40, batch_size=6, warmup_steps=4, log_every=2, checkpoint_every=4, eval_every=8,
    channels_last=True, clip_norm=1.0, augment={"flip": 0.5, "shift": 2, "brightness": 0.2},
)  # fmt: skip

# Nothing that depends on how a batch is shared among processes: no BatchNorm, dropout or augmentation goes with it.
PLAIN = RECIPE.replace(steps=6, augment=dict.fromkeys(RECIPE.augment, 0))


class Blobs(Dataset):
    """Noise with one brighter channel, which is the class."""

    name, classes, task, licence, version = "blobs", ("red", "green"), "single", "MIT", "1"

    def __init__(self, length: int = 20, split: str = "train") -> None:
        self.length, self.split = length, split

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = self.position(index)
        image = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(index)) / 2
        image[index % 2] += 0.4
        return {"id": f"blob-{index}", "image": image, "labels": torch.eye(2)[index % 2]}


class Tiny(nn.Module):
    """A classifier with everything that a checkpoint must hold: BatchNorm, dropout, two kinds of layers."""

    new_modules = ("head",)

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Dropout(0.3)]
        self.body = nn.Sequential(*layers) if norm else nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))

    def localize(self, images, labels=None):
        return F.conv2d(self.body(images), self.head.weight[:, :, None, None])

    def losses(self, batch):
        loss = F.cross_entropy(self(batch["image"]), batch["labels"].argmax(1))
        return {"classification": loss, "total": loss}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(number: int, function):
    """``function``, but the process dies when it is called for the ``number``-th time."""
    calls = iter(range(1, 1_000_000))

    def wrapped(*arguments, **options):
        if next(calls) == number:
            die()
        return function(*arguments, **options)

    return wrapped


def die_in_step(step: int):
    def install() -> None:
        Tiny.losses = die_at_call(step, Tiny.losses)

    return install


def die_in_checkpoint(call: int):
    """Die before a tensor file is written: even calls are the second file of a checkpoint."""

    def install() -> None:
        run_directory.save_file = die_at_call(call, run_directory.save_file)

    return install


def die_around_move(before: bool):
    def install() -> None:
        replace = os.replace

        def wrapped(source, target):
            if "step_" in Path(target).name and before:
                die()
            replace(source, target)
            if "step_" in Path(target).name:
                die()

        run_directory.os.replace = wrapped

    return install


def die_in_history_line() -> None:
    def append(self, entry) -> None:
        with open(self.path / "history.jsonl", "a") as file:
            file.write('{"step": ')
        die()

    run_directory.RunDirectory.append_history = append


def wait_for_death() -> None:
    """Train slowly, so that the signal from outside comes while there is still something to do."""
    losses = Tiny.losses

    def slow(self, batch):
        time.sleep(0.2)
        return losses(self, batch)

    Tiny.losses = slow


def die_before_weights() -> None:
    run_directory.RunDirectory.finish = die_at_call(1, None)


FAULTS = (
    die_in_step(1),
    die_in_step(3),  # before the first checkpoint
    die_in_step(7),
    die_in_checkpoint(1),
    die_in_checkpoint(4),
    die_around_move(before=True),
    die_around_move(before=False),
    die_in_history_line,
    wait_for_death,
    die_in_step(6),
    wait_for_death,
    die_before_weights,
)


def train(run_dir: Path) -> None:
    torch.set_num_threads(1)
    fit(Tiny, Blobs(), RECIPE, Blobs(8, "val"), run_dir, seed=3, device="cpu")


def attempt(run_dir: Path, fault=None) -> int:
    """Train in a new process; return the number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        if fault:
            fault()
        train(run_dir)
        os._exit(0)
    if fault is wait_for_death:
        time.sleep(0.5)
        os.kill(child, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    attempt(folder / "whole")
    endings = [attempt(folder / "killed", fault) for fault in FAULTS]
    print(*endings, attempt(folder / "killed"))


if __name__ == "__main__":
    if sys.argv[2:] == ["once"]:
        fit(lambda: Tiny(norm=False), Blobs(), PLAIN, run_dir=sys.argv[1], device="cpu")
    else:
        main(Path(sys.argv[1]))
