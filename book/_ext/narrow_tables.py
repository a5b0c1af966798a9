"""Sphinx extension: tables that a phone shows row by row.

A table of three columns or more is too wide for a phone. It gets the class ``stacked``, and every cell but the first
of its row the name of its column, which the style sheet shows only where it puts the cells below each other.
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

COLUMNS = 3  # so many, or more, and the rows of a table are stacked


class NameCells(SphinxPostTransform):
    """Write each column's name into its cells."""

    default_priority = 800

    def run(self, **kwargs: Any) -> None:
        for table in self.document.findall(nodes.table):
            head = next(table.findall(nodes.thead), None)
            if head is not None and len(head[0]) >= COLUMNS:
                table["classes"].append("stacked")
                names = [entry.astext() for entry in head[0]]
                for row in next(table.findall(nodes.tbody)):
                    name_cells(row, names)


def name_cells(row: nodes.row, names: list[str]) -> None:
    for entry, name in list(zip(row, names, strict=True))[1:]:  # the first cell is the heading of its row
        if entry.astext():
            entry.insert(0, nodes.paragraph("", name, classes=["column-name"]))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(NameCells)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
