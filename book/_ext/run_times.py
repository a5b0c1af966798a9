"""Sphinx extension: how this very book was made.

The directive ``run-times`` inserts a table of the executed notebooks, as papermill noted it in each of them: when, how
long, at which scale. Below stands where that was, and with which versions; the builder executes a notebook again when
one of these changes.
"""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from wsl_core.training.runs import _processor as processor  # records are keyed on it, under this name

PACKAGES = ("wsl-core", "torch", "torchvision", "accelerate", "pydensecrf2", "numpy", "jupyter-book", "papermill")
FOUND = "found the finished run"  # what training says of a network that is trained already


class RunTimes(SphinxDirective):
    """Two tables: the pages, and what they ran on."""

    def run(self) -> list[nodes.Node]:
        notebooks = [Path(self.env.doc2path(name)) for name in sorted(self.env.found_docs)]
        rows = [row(path) for path in notebooks if path.suffix == ".ipynb"]
        for name in sorted(self.env.found_docs):
            self.env.note_dependency(self.env.doc2path(name))
        container = nodes.container()
        self.state.nested_parse(StringList([*pages(rows), "", *surroundings()]), self.content_offset, container)
        return container.children


def pages(rows: list[str]) -> list[str]:
    head = "| Page | Executed | Minutes | Scale | Seed | Networks found trained |"
    return [head, "|---|---|---|---|---|---|", *rows]


def row(notebook: Path) -> str:
    """When and how long a notebook ran, as a row of the table; one that was never executed says so."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    noted = content["metadata"].get("papermill", {})
    name = notebook.stem
    if not noted.get("duration"):
        return f"| {name} | not executed | | | | |"
    chosen = noted.get("default_parameters", {}) | noted.get("parameters", {})
    minutes, day = noted["duration"] / 60, noted["start_time"][:10]
    return (
        f"| {name} | {day} | {minutes:.1f} | {chosen.get('scale', '')} | {chosen.get('seed', '')} | {found(content)} |"
    )


def found(content: dict[str, Any]) -> int:
    """How many networks a notebook did not have to train, since an earlier run had."""
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    return sum("".join(output.get("text", "")).count(FOUND) for output in outputs)


def surroundings() -> list[str]:
    """The machine and the versions, as a table."""
    machine = {
        "processor": processor(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(),
        "Python": platform.python_version(),
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in (machine | versions()).items())]


def versions() -> dict[str, str]:
    installed = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("run-times", RunTimes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
