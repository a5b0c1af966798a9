"""The wheel holds all that the package needs: installed elsewhere, it trains, with no repository in sight."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as a wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "wsl_core"):
        (copy / name).symlink_to(ROOT / name)
    pip("wheel", str(copy), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    (wheel,) = folder.glob("*.whl")
    pip("install", str(wheel), "--no-deps", "--target", str(folder / "site"))
    return folder / "site"


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """Run Python in an empty folder with the installed package in front of everything."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "WSL_CACHE": str(folder / "cache")}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_is_the_installed_package_that_is_imported(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "-c", "import wsl_core; print(wsl_core.__file__)")
    assert Path(where.strip()) == installed / "wsl_core" / "__init__.py"


def test_package_data_ships(installed: Path) -> None:
    source = ROOT / "wsl_core"
    data = [
        path.relative_to(source) for pattern in ("**/*.yml", "**/*.json", "py.typed") for path in source.glob(pattern)
    ]
    assert Path("py.typed") in data and Path("claims/register.yml") in data
    assert [path for path in data if not (installed / "wsl_core" / path).exists()] == []


def test_the_register_loads_without_the_repository(installed: Path, tmp_path: Path) -> None:
    code = "from wsl_core.claims import load_register; print(len(load_register().of('cam')))"
    assert int(run(installed, tmp_path, "-c", code)) > 0


def test_a_smoke_run_trains_and_is_evaluated(installed: Path, tmp_path: Path) -> None:
    train = ("train", "cam", "--dataset", "synthetic", "--recipe", "smoke", "--run-dir", "run")
    run(installed, tmp_path, "-m", "wsl_core", *train)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_the_readmes_example_runs(installed: Path, tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert run(installed, tmp_path, "-c", example + "print(maps.shape[:2])").strip() == "torch.Size([1, 8])"
