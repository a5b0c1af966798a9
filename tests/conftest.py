"""What every test shares: annotations are checked at run time, and data come from one place."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

# Before the package is imported for the first time. "float" admits int (the numeric tower), as type checkers have it.
install_import_hook("wsl_core", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_CLASSES = {"n01443537": "goldfish", "n02123045": "tabby", "n07753592": "banana"}

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data for development; a test that asks for it is skipped where there is none."""
    for folder in (os.environ.get("WSL_DATA"), REPOSITORY.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no real data: $WSL_DATA is not set, and there is no shared/data beside the repository")


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a miniature tiny-imagenet-200 in the official layout. Read only: copy it before you break it."""
    root = tmp_path_factory.mktemp("tiny")
    make_tiny_imagenet(root)
    return root


def make_tiny_imagenet(root: Path, train: int = 6, val: int = 5) -> None:
    """Write ``root/tiny-imagenet-200``: three classes, each image with one bright square on grey noise.

    The first training image of every class is greyscale. The square is the box; its colour tells the class.
    """
    top = root / "tiny-imagenet-200"
    random = np.random.default_rng(0)
    (top / "val" / "images").mkdir(parents=True)
    (top / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in TINY_CLASSES))
    (top / "words.txt").write_text("".join(f"{wnid}\t{name}, other name\n" for wnid, name in TINY_CLASSES.items()))
    val_lines = []
    for channel, wnid in enumerate(TINY_CLASSES):
        images = top / "train" / wnid / "images"
        images.mkdir(parents=True)
        lines = []
        for number in range(train):
            box = _write_square(images / f"{wnid}_{number}.JPEG", channel, random, grey=number == 0)
            lines.append(f"{wnid}_{number}.JPEG\t{box}\n")
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(lines))
        for number in range(channel * val, (channel + 1) * val):
            box = _write_square(top / "val" / "images" / f"val_{number}.JPEG", channel, random)
            val_lines.append(f"val_{number}.JPEG\t{wnid}\t{box}\n")
    (top / "val" / "val_annotations.txt").write_text("".join(val_lines))


def _write_square(path: Path, channel: int, random: np.random.Generator, grey: bool = False) -> str:
    """One 64 x 64 JPEG; returns the square's inclusive corners, tab separated."""
    pixels = random.integers(90, 130, (64, 64, 3), dtype=np.uint8)
    (left, top), side = random.integers(0, 30, 2), int(random.integers(16, 34))
    pixels[top : top + side, left : left + side, channel] = 250
    image = Image.fromarray(pixels)
    (image.convert("L") if grey else image).save(path, quality=95)
    return f"{left}\t{top}\t{left + side - 1}\t{top + side - 1}"


@pytest.fixture(scope="module")
def one_thread():
    """On networks this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
