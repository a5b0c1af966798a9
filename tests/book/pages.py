"""Pages that the tests of the book write themselves."""

from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.strip import KERNEL

WIDGETS = "notebooks/widgets"
WIDGET_CELL = """
import ipywidgets as widgets

figure = '<figure><img alt="frame {0}" src="data:,"><figcaption>Frame {0}</figcaption></figure>'
stack = widgets.Stack([widgets.HTML(figure.format(i)) for i in range(4)], selected_index=0)
slider = widgets.IntSlider(min=0, max=3, description="Threshold")
play = widgets.Play(min=0, max=3, interval=100)
quiz = widgets.RadioButtons(options=["yes", "no"], index=None, description="Is $x$ large?")
answer = widgets.Stack([widgets.HTML("right"), widgets.HTML("wrong")], selected_index=None)
widgets.jslink((slider, "value"), (stack, "selected_index"))
widgets.jslink((play, "value"), (slider, "value"))
widgets.jslink((quiz, "index"), (answer, "selected_index"))
others = [
    widgets.SelectionSlider(options=["low", "high"], description="Level"),
    widgets.ToggleButtons(options=["CAM", "Grad-CAM"], description="Method"),
    widgets.Dropdown(options=["cat", "dog"], description="Class"),
    widgets.Accordion([widgets.HTML("inside")], titles=["More"]),
]
widgets.VBox([slider, stack, play, quiz, answer, *others])
"""


@dataclass
class Built:
    """A built book, its source, and whether the build succeeded (0)."""

    source: Path
    work: Path
    html: Path
    status: int = 1

    @property
    def arguments(self) -> list[str]:
        return ["--scale", "smoke", "--source", str(self.source), "--work", str(self.work), "--out", str(self.html)]


def write_notebook(path: Path, text: str, *code: str) -> None:
    cells = [new_markdown_cell(text), *(new_code_cell(source) for source in code)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), path)


def append_to_toc(source: Path, page: str) -> None:
    toc = yaml.safe_load((source / "_toc.yml").read_text())
    toc["parts"][-1]["chapters"].append({"file": page})
    (source / "_toc.yml").write_text(yaml.safe_dump(toc))
