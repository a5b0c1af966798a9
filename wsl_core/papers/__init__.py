"""One paper, one file. This page only finds them by name."""

from importlib import import_module
from typing import Any

from torch import nn

from wsl_core.errors import UsageError

__all__ = ["PAPERS", "build_model"]

PAPERS = {"cam": "CAM"}  # file name: class name


def build_model(paper: str, **config: Any) -> nn.Module:
    """Build the model of a paper from its constructor's arguments.

    Raises:
        UsageError: no such paper.

    >>> build_model("cam", num_classes=3).config["num_classes"]
    3
    """
    if paper not in PAPERS:
        raise UsageError(f"paper {paper!r} is unknown; expected one of {', '.join(PAPERS)}.")
    return getattr(import_module(f"wsl_core.papers.{paper}"), PAPERS[paper])(**config)
