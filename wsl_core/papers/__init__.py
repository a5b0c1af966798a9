"""One paper, one file. This page only finds the models by name."""

from importlib import import_module
from typing import Any

from torch import nn

from wsl_core.errors import UsageError

__all__ = ["PAPERS", "build_model", "model_class"]

PAPERS = {  # name: file and class
    "cam": "cam.CAM",
    "acol": "acol.ACoL",
    "gain": "gain.GAIN",
    "single_classifier": "erasing_baselines.SingleClassifier",
    "hide_and_seek": "erasing_baselines.HideAndSeek",
    "iterative_erasing": "erasing_baselines.IterativeErasing",
    "sec": "sec.SEC",
    "anchornet": "anchornet.AnchorNet",
    "affinitynet_cam": "cam.CAM",
    "affinitynet": "affinitynet.AffinityNet",
    "affinitynet_segmentation": "affinitynet.SegmentationNetwork",
}


def build_model(paper: str, **config: Any) -> nn.Module:
    """Build the model of a paper from its constructor's arguments.

    Raises:
        UsageError: no such paper.

    >>> build_model("cam", num_classes=3).config["num_classes"]
    3
    """
    return model_class(paper)(**config)


def model_class(paper: str) -> type[nn.Module]:
    """The class of a paper's model; nothing else is imported.

    Raises:
        UsageError: no such paper.

    >>> model_class("cam").__name__
    'CAM'
    """
    if paper not in PAPERS:
        raise UsageError(f"paper {paper!r} is unknown; expected one of {', '.join(PAPERS)}.")
    file, name = PAPERS[paper].split(".")
    return getattr(import_module(f"wsl_core.papers.{file}"), name)
