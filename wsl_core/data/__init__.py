"""Samples, data sets, and the one way to open them: :func:`load_dataset`."""

import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from wsl_core.data.base import Batch, Dataset, InMemory, Sample, Subset, check_count, collate
from wsl_core.data.cropped import Cropped
from wsl_core.data.few_masks import FewMasks
from wsl_core.data.translated import Translated
from wsl_core.errors import UsageError

__all__ = [
    "DATASETS", "Batch", "Cropped", "Dataset", "FewMasks", "InMemory", "Sample", "Subset", "Translated", "collate",
    "load_dataset",
]  # fmt: skip

# Imported when asked for. A class takes the split and, by name, what its signature lists: perhaps root and download.
DATASETS = {
    "synthetic": "wsl_core.data.synthetic:Synthetic",
    "tiny-imagenet": "wsl_core.data.tiny_imagenet:TinyImageNet",
    "folder": "wsl_core.data.folder:Folder",
    "pf-willow": "wsl_core.data.proposal_flow:PFWillow",
    "pf-pascal": "wsl_core.data.proposal_flow:PFPascal",
    "pascal-parts": "wsl_core.data.pascal_parts:PascalParts",
    "voc2012": "wsl_core.data.voc2012:VOC2012",
    "cub200": "wsl_core.data.cub200:CUB200",
    "imagenet": "wsl_core.data.imagenet:ImageNet",
    "openimages30k": "wsl_core.data.openimages:OpenImages30k",
}


def load_dataset(
    name: str,
    split: str,
    root: str | Path | None = None,
    download: bool = False,
    translate: int | bool = False,
    few_masks: dict[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Open a data set by its name.

    Args:
        name: one of ``DATASETS``.
        split: "train" to fit, "val" to choose hyper-parameters, "test" to be touched once.
        root: the folder that holds the data set's official top folder; by default ``$WSL_DATA``. Data sets that are
            made rather than stored ignore it.
        download: fetch what is missing into ``root``, where the data set can.
        translate: side of a grey canvas in pixels (``True`` means 96). Each image is put at a random but fixed position
            on it: see :class:`Translated`.
        few_masks: arguments of :class:`FewMasks`, such as ``{"masks": 0.03, "form": "box"}``. It takes masks from the
            "train" split alone: the others keep theirs, for they are there to measure.
        options: what the data set's own class takes.

    Raises:
        UsageError: the name, the split or an option is unknown, or ``root`` is missing.

    >>> load_dataset("atlantis", "train")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.UsageError: data set 'atlantis' is unknown; expected one of synthetic, tiny-imagenet, folder...
    """
    if name not in DATASETS:
        raise UsageError(f"data set {name!r} is unknown; expected one of {', '.join(DATASETS)}.")
    module, class_name = DATASETS[name].split(":")
    dataset_class = getattr(import_module(module), class_name)
    parameters = set(inspect.signature(dataset_class).parameters) - {"split"}
    for option in options:
        if option not in parameters:
            known = ", ".join(sorted((parameters | {"translate", "few_masks"}) - {"root", "download"}))
            raise UsageError(f"option {option!r} is unknown to data set {name!r}; expected one of {known}.")
    canvas = 96 if translate is True else translate
    if canvas:
        check_count("translate", canvas, 1, 10_000)
    if few_masks is not None:
        _check_few_masks(few_masks)
    if "root" in parameters:
        options["root"] = _find_root(name, root, download and "download" in parameters)
    if "download" in parameters:
        options["download"] = download
    dataset = dataset_class(split, **options)
    if canvas:
        dataset = Translated(dataset, canvas)
    return FewMasks(dataset, **few_masks) if few_masks is not None and split == "train" else dataset


def _check_few_masks(arguments: object) -> None:
    """Raise UsageError unless these are arguments of ``FewMasks`` by name, as a recipe or a command line gives them."""
    if not isinstance(arguments, dict) or "masks" not in arguments:
        raise UsageError(
            f'few_masks is {arguments!r}; expected the arguments of FewMasks, such as {{"masks": 0.03, "form": "box"}}.'
        )
    known = list(inspect.signature(FewMasks).parameters)[1:]
    for argument in arguments:
        if argument not in known:
            raise UsageError(f"few_masks has no argument {argument!r}; expected some of {', '.join(known)}.")


def _find_root(name: str, root: str | Path | None, may_create: bool) -> Path:
    """The folder that ``root`` or else ``$WSL_DATA`` names."""
    source = "root" if root is not None else "$WSL_DATA"
    root = root if root is not None else os.environ.get("WSL_DATA")
    if not root:
        raise UsageError(f"data set {name!r} needs root, the folder that holds it; pass root or set $WSL_DATA.")
    folder = Path(root).expanduser()
    if not folder.is_dir() and not may_create:
        raise UsageError(f"{source} is {folder}, which is not a folder; data set {name!r} expects its data there.")
    return folder
