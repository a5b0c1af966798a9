"""The tools around the book: stripping, setting up, fetching, reading the table of contents."""

import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import assets, book, environment, strip


def executed_cell(**metadata: object) -> nbformat.NotebookNode:
    outputs = [
        new_output("stream", name="stdout", text="one\n"),
        new_output("stream", name="stderr", text="progress"),
        new_output("stream", name="stdout", text="two\n"),
        new_output("execute_result", data={"text/plain": "3", "text/html": "<b>3</b>"}, execution_count=7),
    ]
    return new_code_cell("...", execution_count=7, outputs=outputs, metadata={"papermill": {"duration": 1}, **metadata})


def test_stripping_keeps_the_text_of_marked_cells_alone(tmp_path: Path) -> None:
    marked, plain = executed_cell(tags=[strip.CHECKED]), executed_cell(tags=["hide-input"])
    path = tmp_path / "page.ipynb"
    nbformat.write(new_notebook(cells=[marked, plain], metadata={"widgets": {"state": {}}}), path)
    assert strip.main([str(path)]) == 1
    notebook = nbformat.read(path, as_version=4)
    printed, value = notebook.cells[0].outputs
    assert (printed.text, value.data) == ("one\ntwo\n", {"text/plain": "3"})
    assert notebook.cells[1].outputs == [] and notebook.cells[1].execution_count is None
    assert notebook.cells[1].metadata == {"tags": ["hide-input"]} and "widgets" not in notebook.metadata
    assert strip.main([str(path)]) == 0, "a second time there is nothing to strip"


def test_an_installation_that_fails_leaves_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = tmp_path / "installed.sha256"
    stamp.write_text("of an older list")
    monkeypatch.setattr(environment, "STAMP", stamp)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: subprocess.CompletedProcess(arguments, 1))
    with pytest.raises(SystemExit, match=r"failed: .*pip"):
        environment.main()
    assert not stamp.exists()


def test_an_installation_that_is_up_to_date_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = tmp_path / "installed.sha256"
    stamp.write_text(environment.fingerprint())
    monkeypatch.setattr(environment, "STAMP", stamp)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: pytest.fail("nothing should run"))
    environment.main()


def test_an_old_python_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.sys, "version_info", (3, 10, 0))
    with pytest.raises(SystemExit, match=r"needs 3\.11 or later"):
        environment.main()


def test_without_npm_the_book_is_told_to_use_a_cdn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assets, "OFFLINE", tmp_path)
    monkeypatch.setattr(assets, "STAMP", tmp_path / "lock.sha256")
    monkeypatch.setattr(assets, "npm_programs", list)
    assets.main()
    assert "CDN" in capsys.readouterr().err
    assert not (tmp_path / "lock.sha256").exists()


def test_the_assets_are_all_there_or_not_at_all() -> None:
    if not assets.have_assets():
        pytest.skip("assets/offline was not fetched here: `make assets`")
    for target in assets.PARTS.values():
        assert (assets.OFFLINE / target).exists(), target
    assert list((assets.OFFLINE / "widgets").glob("*.woff2"))


def test_a_table_of_contents_is_read_in_order() -> None:
    toc = {"root": "a", "parts": [{"chapters": [{"file": "b", "sections": [{"file": "c"}]}, {"url": "x"}]}]}
    assert book.toc_files(toc) == ["a", "b", "c"]
