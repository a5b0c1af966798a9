"""Every notebook runs at smoke scale on every data set that is there, and its marked cells print what is stored."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from tests.smoke import smoke_work
from tools import book, strip

FOLDER = book.ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CHAPTERS = sorted(FOLDER.glob("[0-9]*.ipynb"))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def marked_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if strip.CHECKED in cell.metadata.get("tags", [])]


def run_smoke(notebook: Path, factory: pytest.TempPathFactory, **parameters: str) -> NotebookNode:
    """Run a notebook, or find the run of another test of this session; a failing cell raises BuildError."""
    parameters = {"scale": "smoke", **parameters}
    return read(book.executed(notebook, parameters, smoke_work(factory) / "executed", cwd=notebook.parent))


@pytest.fixture(scope="session")
def own_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: a bright patch at a random place, its colour is the class."""
    root, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(80, 120, (72, 64, 3), dtype=np.uint8)
                x, y = random.integers(0, 32, 2)
                pixels[y : y + 28, x : x + 28, channel] = 240
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_the_synthetic_world(notebook: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert run_smoke(notebook, tmp_path_factory).cells


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_runs_on_tiny_imagenet(notebook: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not (shared_data / "tiny-imagenet-200").is_dir():
        pytest.skip(f"{shared_data} has no tiny-imagenet-200")
    assert run_smoke(notebook, tmp_path_factory, dataset="tiny-imagenet", root=str(shared_data)).cells


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_runs_on_a_readers_own_images(
    notebook: Path, own_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert run_smoke(notebook, tmp_path_factory, dataset="folder", root=str(own_images)).cells


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stripped_but_for_the_text_of_marked_cells(notebook: Path) -> None:
    assert nbformat.writes(strip.strip(read(notebook))) + "\n" == notebook.read_text(encoding="utf-8")
    for cell in marked_cells(read(notebook)):
        assert cell.outputs, f"nbval would compare nothing with this cell:\n{cell.source}"


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_its_parameters_and_marked_cells(notebook: Path) -> None:
    assert set(book.default_parameters(notebook)) == {"scale", "dataset", "root", "seed"}
    assert marked_cells(read(notebook))


@pytest.mark.parametrize(
    "notebook", [path for path in NOTEBOOKS if marked_cells(read(path))], ids=lambda path: path.stem
)
def test_marked_cells_print_what_is_stored(notebook: Path, tmp_path: Path) -> None:
    smoke = parameterize_notebook(load_notebook_node(str(notebook)), {"scale": "smoke"})
    checked = run_nbval(smoke, tmp_path)
    assert checked.returncode == 0, checked.stdout


def test_the_check_of_marked_cells_notices_a_difference(tmp_path: Path) -> None:
    output = nbformat.v4.new_output("stream", name="stdout", text="41\n")
    cell = nbformat.v4.new_code_cell(
        "print(6 * 7)", metadata={"tags": [strip.CHECKED]}, outputs=[output], execution_count=1
    )
    checked = run_nbval(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": strip.KERNEL}), tmp_path)
    assert checked.returncode == 1 and "42" in checked.stdout


def run_nbval(notebook: NotebookNode, folder: Path) -> subprocess.CompletedProcess[str]:
    """Execute a notebook anew with nbval and compare its marked cells."""
    path = folder / "checked.ipynb"
    nbformat.write(notebook, path)
    (folder / "pytest.ini").write_text("[pytest]\n")  # away from the repository's own configuration
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-kernel-name=python3", "-q", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(book.ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
