"""Figures and widgets that work with and without a kernel.

``figure``, ``grid``, ``curves``, ``records_figure``, ``table`` and ``source`` display what they make. ``explore``,
``explore_boxes``, ``explore_matches``, ``quiz`` and ``own_image`` return a widget: make it the last line of a cell.
"""

from importlib import import_module
from typing import Any

from wsl_core.show.pictures import draw_boxes, overlay
from wsl_core.show.style import COLORS, style

__all__ = [
    "COLORS",
    "style",
    "overlay",
    "draw_boxes",
    "figure",
    "grid",
    "curves",
    "records_figure",
    "table",
    "source",
    "explore",
    "explore_boxes",
    "explore_matches",
    "quiz",
    "weight",
    "is_live",
    "own_image",
]

# Loaded when asked for: these need IPython and ipywidgets, which a notebook has and the command line does without.
_NOTEBOOK = {
    "explorers": ("explore_boxes", "explore_matches"),
    "figures": ("curves", "figure", "grid", "records_figure"),
    "live": ("is_live", "own_image"),
    "sources": ("source",),
    "tables": ("table",),
    "widgets": ("explore", "quiz", "weight"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NOTEBOOK.items():
        if name in names:
            return getattr(import_module(f"wsl_core.show.{module}"), name)
    raise AttributeError(f"module 'wsl_core.show' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
