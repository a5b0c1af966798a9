"""The builder: the whole book passes, a broken one does not, and nothing half-made is left."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tests.book.pages import Built, write_notebook
from tools import book


def build(source: Path, *arguments: str) -> int:
    folder = source.parent
    return book.main(
        ["--source", str(source), "--work", str(folder / "work"), "--out", str(folder / "html"), *arguments]
    )


def test_the_whole_book_builds_without_a_warning(built: Built) -> None:
    assert built.status == 0
    names = book.toc_files(yaml.safe_load((built.source / "_toc.yml").read_text()))
    assert [name for name in names if not (built.html / f"{name}.html").exists()] == []
    assert (built.html / "index.html").exists()


def test_no_table_is_left_as_text_and_no_button_leads_to_sources_that_are_not_there(built: Built) -> None:
    pages = [*built.html.glob("book/*.html"), *built.html.glob("notebooks/*.html")]
    assert len(pages) > 10
    assert [page.name for page in pages if "_sources/" in page.read_text(encoding="utf-8")] == []
    assert [page.name for page in pages if re.search(r"\|\s*(---|—|–)+", page.read_text(encoding="utf-8"))] == []


def test_the_status_page_says_how_long_every_page_took(built: Built) -> None:
    page = (built.html / "book" / "status.html").read_text()
    names = [path.stem for path in built.source.glob("notebooks/*.ipynb")]
    times = {
        name: re.search(rf"<td><p>{name}</p></td>\s*<td>.*?(\d{{4}}-\d\d-\d\d).*?</tr>", page, re.S) for name in names
    }
    assert len(names) > 5 and [name for name, found in times.items() if not found] == []
    assert all(
        re.search(r"\d+\.\d</p>", found[0]) and "smoke" in found[0]
        for name, found in times.items()
        if name[0].isdigit()
    )
    assert "torch</p></td>" in page and "gain-boats" in page


def test_formulas_of_docstrings_are_formulas_on_the_page(built: Built) -> None:
    page = (built.html / "book" / "api.html").read_text()
    assert r"\(\frac{1}{hw}\sum_{x,y} f_k(x,y)\)" in page and "$F_k$" not in page


def test_a_second_build_does_only_what_is_needed(tiny_source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = {"page.ipynb: executing", "page.ipynb: found executed", "building the HTML", "nothing has changed"}

    def steps_of_a_build() -> set[str]:
        assert build(tiny_source) == 0
        told = capfd.readouterr().err
        return {step for step in steps if step in told}

    assert steps_of_a_build() == {"page.ipynb: executing", "building the HTML"}
    assert steps_of_a_build() == {"page.ipynb: found executed", "nothing has changed"}
    (tiny_source / "book" / "preface.md").write_text("# Preface\n\nOther text.\n")
    assert steps_of_a_build() == {"page.ipynb: found executed", "building the HTML"}
    assert "Other text." in (tiny_source.parent / "html" / "book" / "preface.html").read_text()


def test_cells_of_wide_tables_name_their_column_for_phones(tiny_source: Path) -> None:
    wide = "| | Paper | Code |\n|---|---|---|\n| **Bias** | *none* | kept |\n| **Sign** | | both |"
    narrow = "| Split | Images |\n|---|---|\n| train | many |"
    (tiny_source / "book" / "preface.md").write_text(f"# Preface\n\n{wide}\n\n{narrow}\n")
    assert build(tiny_source) == 0
    page = (tiny_source.parent / "html" / "book" / "preface.html").read_text()
    assert page.count("<table") == 2 and page.count('<table class="stacked') == 1
    names = re.findall(r'<p class="column-name">(.*?)</p>\s*<p>(.*?)</p>', page)
    assert names == [("Paper", "<em>none</em>"), ("Code", "kept"), ("Code", "both")]


def test_a_failing_cell_fails_the_build_and_shows_its_error(
    tiny_source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_notebook(tiny_source / "notebooks" / "page.ipynb", "# A page", "1 + 1", "raise ValueError('the map is flat')")
    assert build(tiny_source) == 1
    message = capfd.readouterr().err
    assert "page.ipynb" in message and "the map is flat" in message
    assert not (tiny_source.parent / "html").exists()
    kept = [file.name for file in (tiny_source.parent / "work" / "executed").iterdir()]
    assert kept and all(name.startswith("partial-") for name in kept), "a failed run must not be found again"


@pytest.mark.parametrize(
    "text", ["[](missing.md)", "{cite}`nobody2016`", "![alt](missing.png)", "#### Skipped a level"]
)
def test_a_warning_fails_the_build_and_keeps_the_earlier_book(tiny_source: Path, text: str) -> None:
    earlier = tiny_source.parent / "html" / "index.html"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    with (tiny_source / "book" / "preface.md").open("a") as file:
        file.write(f"\n{text}\n")
    assert build(tiny_source) == 1
    assert earlier.read_text() == "earlier"


def test_a_page_beyond_its_budget_fails_the_build(tiny_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "PAGE_BUDGET", 100)
    assert build(tiny_source) == 1


def test_a_markdown_page_with_a_kernel_is_executed_and_gets_the_parameters(tiny_source: Path) -> None:
    page = """---
kernelspec: {name: python3, display_name: Python 3}
---
# A page

```{code-cell}
:tags: [parameters]
scale = "book"
```

```{code-cell}
print("the scale is", scale)
```
"""
    (tiny_source / "notebooks" / "page.ipynb").unlink()
    (tiny_source / "notebooks" / "page.md").write_text(page)
    assert build(tiny_source, "--scale", "smoke") == 0
    assert "the scale is smoke" in (tiny_source.parent / "html" / "notebooks" / "page.html").read_text()


def test_only_parameters_that_differ_are_injected(tmp_path: Path) -> None:
    cell = new_code_cell('scale = "book"  # smoke | book | paper\nseed = 0', metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "page.ipynb")
    wanted = {"scale": "book", "seed": 3, "dataset": "synthetic"}
    assert book.changed_parameters(tmp_path / "page.ipynb", wanted) == {"seed": 3}


def test_an_execution_is_keyed_on_cells_parameters_package_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, package = tmp_path / "page.ipynb", tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(book.wsl_core, "__file__", str(package / "__init__.py"))
    write_notebook(page, "# Title", "1")
    keys = [book.cache_key(page, {}), book.cache_key(page, {"seed": 1})]
    write_notebook(page, "# Title", "2")
    keys.append(book.cache_key(page, {}))
    (package / "ops.py").write_text("")
    keys.append(book.cache_key(page, {}))
    monkeypatch.setenv("WSL_DATA", "elsewhere")
    keys.append(book.cache_key(page, {}))
    assert len(set(keys)) == len(keys)
    assert book.cache_key(page, {}) == keys[-1]


def test_without_the_offline_assets_the_addresses_stay_at_their_defaults(tmp_path: Path) -> None:
    config = tmp_path / "_config.yml"
    config.write_text((book.ROOT / "_config.yml").read_text())
    book.load_from_cdn(config)
    settings = yaml.safe_load(config.read_text())["sphinx"]["config"]
    assert "offline" not in json.dumps(settings)
    assert settings["html_js_files"] == ["shim.js"]
