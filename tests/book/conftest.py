"""The book, built once at smoke scale with the real configuration and all its pages, and one more page: the widgets."""

import shutil
from pathlib import Path

import pytest

from tests.book.pages import WIDGET_CELL, WIDGETS, Built, append_to_toc, write_notebook
from tests.smoke import smoke_work
from tools import book


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("book")
    built = Built(folder / "source", smoke_work(tmp_path_factory), folder / "html")
    book.copy_sources(book.ROOT, built.source)
    write_notebook(built.source / f"{WIDGETS}.ipynb", "# Every widget\n\nMath: $x$", WIDGET_CELL)
    append_to_toc(built.source, WIDGETS)
    built.status = book.main(built.arguments)
    return built


@pytest.fixture
def tiny_source(tmp_path: Path) -> Path:
    """A book of two pages without the package's pages: quick to build, made to be broken."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(book.ROOT / "_config.yml", source)
    for folder in ("assets", "book/_ext"):
        shutil.copytree(book.ROOT / folder, source / folder)
    (source / "book" / "preface.md").write_text("# Preface\n\nText.\n")
    (source / "book" / "references.bib").write_text("")
    (source / "_toc.yml").write_text("format: jb-book\nroot: book/preface\nchapters:\n  - file: notebooks/page\n")
    write_notebook(source / "notebooks" / "page.ipynb", "# A page", "print(6 * 7)")
    return source
