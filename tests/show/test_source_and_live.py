"""The package's source on a page, and the reader's own image."""

import html
import io
import re
import types
from datetime import UTC, datetime
from pathlib import Path

import ipywidgets as widgets
import pytest
import torch
from PIL import Image
from torch import nn

from wsl_core import localize, show
from wsl_core.data import Dataset
from wsl_core.errors import UsageError
from wsl_core.show import live, sources
from wsl_core.show.live import explain_upload, uploaded_file
from wsl_core.show.sources import source_html


def text_of(content: str) -> str:
    """What a reader sees of HTML."""
    return html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", content, flags=re.S))


def test_source_shows_the_very_code_and_where_it_stands():
    text = text_of(source_html(localize.boxes_from_map))
    lines = Path(localize.__file__).read_text(encoding="utf-8").splitlines()
    first, last = map(int, re.search(r"wsl_core/localize\.py, lines (\d+) to (\d+)", text).groups())
    assert "\n".join(lines[first - 1 : last]) in text
    assert lines[first - 1].startswith("def boxes_from_map(")


def test_source_of_a_method_starts_at_the_margin():
    text = text_of(source_html(Dataset.position))
    assert "\nfor " not in text
    assert re.search(r"\d+def position\(self", text)  # right after the line numbers of the caption


@pytest.mark.parametrize("obj", [localize, Dataset, Dataset.check_split, show.overlay])
def test_source_takes_modules_classes_and_methods(obj):
    assert obj.__name__.split(".")[-1] in text_of(source_html(obj))


def test_source_can_leave_out_docstrings():
    text = text_of(source_html(localize.boxes_from_map, docstring=False))
    assert "docstrings left out" in text
    assert "Boxes around what a map lights up" not in text
    assert "ndimage.label" in text


@pytest.mark.parametrize("obj", [len, torch.nn.functional.relu, 3])
def test_source_of_something_else_is_refused(obj):
    with pytest.raises(Exception, match=r"wsl_core|source_html"):
        source_html(obj)


def test_source_holds_no_link_and_is_reachable_by_keyboard(monkeypatch):
    seen = []
    monkeypatch.setattr(sources, "display", lambda shown: seen.append(shown.data))
    show.source(localize.mask_from_maps)
    assert "<a " not in seen[0]
    assert "http" not in seen[0]
    assert "tabindex='0'" in seen[0]


class Seer(nn.Module):
    """A classifier with known scores: class 2, then 0, then 1."""

    task = "single"

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([1.0, 0.0, 2.0, -1.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = tuple(images.shape)
        return self.scores.expand(len(images), 4)

    def localize(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4) * self.scores[:, None, None]


CLASSES = ["cat", "dog", "bird", "boat"]


def image_bytes(mode: str = "RGB", size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def uploads(name: str, content: bytes) -> list:
    """The same file as ipywidgets 8 and as ipywidgets 7 report it."""
    return [
        ({"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)},),
        {name: {"metadata": {"name": name, "type": "image/png"}, "content": content}},
    ]


@pytest.mark.parametrize("version", [0, 1])
def test_both_formats_of_an_upload_give_name_and_bytes(version):
    assert uploaded_file(uploads("a.png", b"abc")[version]) == ("a.png", b"abc")


@pytest.mark.parametrize("empty", [(), {}])
def test_no_upload_is_refused(empty):
    with pytest.raises(UsageError, match="no file"):
        uploaded_file(empty)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")])
def test_a_good_image_gives_the_best_three_classes(version, mode, kind):
    answer = explain_upload(uploads("mine.png", image_bytes(mode, kind=kind))[version], Seer(), CLASSES)
    verdict, explorer = answer.children
    assert "What it sees in mine.png: bird 0.64, cat 0.24, dog 0.09." in verdict.value
    (selector, _) = explorer.children[0].children
    assert [label for label, _ in selector.options] == ["bird", "cat", "dog"]


def test_a_large_image_is_shrunk_first():
    model = Seer()
    explain_upload(uploads("large.png", image_bytes(size=(600, 300)))[0], model, CLASSES, size=100)
    assert model.seen == (1, 3, 50, 100)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("content", [b"", b"not an image", image_bytes()[:60]])
def test_a_broken_file_gives_a_line_that_names_it(version, content):
    answer = explain_upload(uploads("<my> photo.png", content)[version], Seer(), CLASSES)
    assert isinstance(answer, widgets.HTML)
    assert 'role="alert"' in answer.value
    assert "&lt;my&gt; photo.png" in answer.value
    assert "/tmp" not in answer.value


def kernel(allow_stdin: bool) -> types.SimpleNamespace:
    return types.SimpleNamespace(kernel=types.SimpleNamespace(_allow_stdin=allow_stdin))


@pytest.fixture
def in_front_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSL_STATIC", raising=False)
    monkeypatch.setattr(live, "get_ipython", lambda: kernel(allow_stdin=True))


def test_a_front_end_is_live_and_the_book_s_build_is_not(in_front_of_a_kernel, monkeypatch):
    assert show.is_live()
    monkeypatch.setenv("WSL_STATIC", "1")
    assert not show.is_live()


@pytest.mark.parametrize("shell", [None, types.SimpleNamespace(), kernel(allow_stdin=False)])
def test_scripts_terminals_and_executed_notebooks_are_not_live(shell, monkeypatch):
    monkeypatch.delenv("WSL_STATIC", raising=False)
    monkeypatch.setattr(live, "get_ipython", lambda: shell)
    assert not show.is_live()


def test_without_a_reader_there_is_no_upload_button():
    note = show.own_image(Seer(), CLASSES)
    assert isinstance(note, widgets.HTML)
    assert "Run this notebook" in note.value


def test_an_upload_is_answered_and_clearing_it_keeps_the_answer(in_front_of_a_kernel):
    upload, answer = show.own_image(Seer(), CLASSES).children
    assert upload.description == "Your image"
    now = datetime.now(UTC)
    upload.value = [{"name": "a.png", "type": "image/png", "size": 3, "content": image_bytes(), "last_modified": now}]
    assert "bird" in answer.children[0].children[0].value
    upload.value = []
    assert len(answer.children) == 1
