"""Single runs on real data: kept as they came out, shown with their date, and no part of any verdict."""

import json

import pytest

from tools.keep_run import keep
from wsl_core.claims import pages
from wsl_core.claims.single_runs import FOLDER, load_single_runs
from wsl_core.errors import DataError
from wsl_core.files import write_json

SESSION = {"processor": "a computer", "threads": 1, "device": "cpu", "commit": "c0ffee", "source": "5eed"}


@pytest.fixture
def finished(tmp_path):
    """A run directory and its scores; what they hold is made up."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    write_json(run_dir / "recipe.json", {"recipe": {"paper": "acol"}, "seed": 3, "data": {"name": "photos"}})
    write_json(run_dir / "environment.json", [SESSION | {"seconds": 60.0}, SESSION | {"seconds": 30.0}])
    (run_dir / "model.safetensors").write_bytes(b"")
    boxes = [
        {"name": "own map", "normalization": "max", "max_box_acc_v1": 0.25, "max_box_acc_v2": 0.5},
        {"name": "centre Gaussian", "normalization": "max", "max_box_acc_v1": 0.75, "max_box_acc_v2": 1.0},
    ]
    scores = {"run": str(run_dir), "images": 7, "classification": {"accuracy": 0.125}, "max_box_acc": boxes}
    write_json(tmp_path / "scores.json", scores)
    return run_dir, tmp_path / "scores.json"


def test_a_run_is_kept_with_where_it_comes_from_and_replaces_its_earlier_self(finished, tmp_path):
    for name in ("ACoL", "CAM", "ACoL"):
        keep(*finished, "photos", name, tmp_path)
    cam, acol = load_single_runs("photos", tmp_path)
    assert (cam["network"], acol["network"], acol["seed"], acol["minutes"]) == ("CAM", "ACoL", 3, 1.5)
    assert acol["hardware"] == "a computer, 1 threads, cpu" and acol["commit"] == "c0ffee"
    assert acol["scores"]["images"] == 7 and str(tmp_path) not in json.dumps(acol)


def test_the_table_has_a_row_a_network_and_its_controls(finished, tmp_path, monkeypatch):
    keep(*finished, "photos", "ACoL", tmp_path)
    shown = []
    monkeypatch.setattr(pages, "table", lambda *args, **options: shown.append(args))
    monkeypatch.setattr(pages, "load_single_runs", lambda name: load_single_runs(name, tmp_path))
    pages.single_runs_table("photos")
    ((rows, heads, caption),) = shown
    assert rows[0] == ["ACoL", 0.125, 0.25, 0.5, "", ""] and len(heads) == len(rows[0])
    assert rows[-1] == ["centre Gaussian, no network", "", 0.75, 1.0, "", ""]
    assert "photos, test, 7 images; random seed 3 alone; a computer" in caption


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"network": "ACoL"}]'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "photos.json").write_text(content)
    with pytest.raises(DataError, match=r"photos\.json: not a list of runs"):
        load_single_runs("photos", tmp_path)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_runs_of_one_file_had_the_same_budget_and_the_same_data(path):
    runs = load_single_runs(path.stem)
    budgets = {json.dumps({**run["recipe"], "paper": "", "source": ""}, sort_keys=True) for run in runs}
    assert len(budgets) == 1 and len({json.dumps(run["data"], sort_keys=True) for run in runs}) == 1
    assert len({(run["network"], run["seed"]) for run in runs}) == len(runs)
