"""The layers of a network in order of execution, and those of the official networks to compare them with."""

import json
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tests.conftest import REPOSITORY

STRUCTURES = REPOSITORY.parent / "shared" / "reference" / "network_structures.json"
COMPARED = {
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation"),
    nn.Dropout2d: ("p",),
    nn.GroupNorm: ("num_groups",),
    FrozenBatchNorm2d: (),
}


def executed(model: nn.Module, side: int = 448) -> list[dict[str, Any]]:
    """The layers of a model on the meta device, as the reference lists them; BatchNorm that is frozen is BatchNorm."""
    rows: list[dict[str, Any]] = []

    def note(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        frozen = isinstance(layer, FrozenBatchNorm2d)
        row = {"type": "BatchNorm2d" if frozen else type(layer).__name__, "out": list(output.shape[1:])}
        for name in COMPARED[type(layer)]:
            value = getattr(layer, name)
            row[name] = list(value) if isinstance(value, tuple) else value
        if isinstance(layer, nn.Conv2d):
            row["bias"] = layer.bias is not None
        if frozen:
            row["num_features"] = len(layer.weight)
        rows.append(row)

    hooks = [layer.register_forward_hook(note) for layer in model.modules() if type(layer) in COMPARED]
    model(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return rows


def reference_structure(name: str) -> dict[str, Any]:
    """``layers`` and the number of ``parameters``; a test that asks for them is skipped where they are not."""
    if not STRUCTURES.exists():
        pytest.skip("the reference structures lie beside the repository in development")
    return json.loads(STRUCTURES.read_text())[name]


def parameters_of(model: nn.Module) -> int:
    """How many the released network has: with the factors and offsets of a BatchNorm that is frozen."""
    frozen = [layer for layer in model.modules() if isinstance(layer, FrozenBatchNorm2d)]
    return sum(p.numel() for p in model.parameters()) + sum(2 * len(layer.weight) for layer in frozen)
