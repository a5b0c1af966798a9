"""One paper, one file. This page only finds the models by name."""

import inspect
from importlib import import_module
from typing import Any

from torch import nn

from wsl_core.data import Dataset
from wsl_core.errors import UsageError

__all__ = ["PAPERS", "build_for", "build_model", "learns_labels", "model_class"]

PAPERS = {  # name: file and class
    "cam": "cam.CAM",
    "acol": "acol.ACoL",
    "gain": "gain.GAIN",
    "single_classifier": "erasing_baselines.SingleClassifier",
    "hide_and_seek": "erasing_baselines.HideAndSeek",
    "iterative_erasing": "erasing_baselines.IterativeErasing",
    "sec": "sec.SEC",
    "anchornet": "anchornet.AnchorNet",
    "introspection": "introspection.Introspection",
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


def build_for(dataset: Dataset, paper: str, **config: Any) -> nn.Module:
    """Build the model of a paper to be trained on a data set: for its classes and task, if the model learns labels.

    Raises:
        UsageError: no such paper.

    >>> from wsl_core.data import load_dataset
    >>> build_for(load_dataset("synthetic", "train"), "cam").config["num_classes"]
    8
    """
    labels = {"num_classes": len(dataset.classes), "task": dataset.task}
    return build_model(paper, **config, **(labels if learns_labels(paper) else {}))


def learns_labels(paper: str) -> bool:
    """Whether a paper's model is built for a number of classes; one that learns from images alone is not.

    >>> learns_labels("cam"), learns_labels("introspection")
    (True, False)
    """
    parameters = inspect.signature(model_class(paper)).parameters.values()
    return any(one.name == "num_classes" or one.kind is one.VAR_KEYWORD for one in parameters)  # some pass options on


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
