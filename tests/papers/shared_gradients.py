"""Gradients of every paper's loss on a batch whose labels and masks lie unevenly; several processes share the batch.

``torchrun --nproc-per-node=2 -m tests.papers.shared_gradients FILE`` writes what data-parallel training would apply.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from wsl_core.papers import PAPERS, build_model, learns_labels
from wsl_core.training.loop import LossModule

IMAGES = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
UNEVEN = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
MASKS = torch.full((4, 48, 48), 255)
MASKS[0, :30, :20] = 1
MASKS[0, 30:] = 0
MASKS[2, :9] = 1
HALVES = slice(0, 2), slice(2, 4)


class Case(NamedTuple):
    paper: str
    options: dict[str, Any]
    labels: Tensor = UNEVEN


CASES = {paper: Case(paper, {}) for paper in PAPERS} | {
    "GAIN_ext": Case("gain", {"attention_weight": 10.0}),
    "one process without a label": Case(
        "gain", {"attention_weight": 10.0}, torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    ),
    "no label": Case("gain", {"attention_weight": 10.0}, torch.zeros(4, 3)),
    "AnchorNet, all pairs alike": Case("anchornet", {"balance": "pairs"}),
    "AffinityNet, all pairs alike": Case("affinitynet", {"balance": "pairs"}),
}


def gradients(accelerator: Accelerator, case: Case, own: slice) -> dict[str, Tensor]:
    """Of the loss on a process's own images; draws begin anew."""
    torch.manual_seed(0)
    labels = {"num_classes": 3, "task": "multi"} if learns_labels(case.paper) else {}
    model = build_model(case.paper, width=4, **labels, **case.options)
    losses = accelerator.prepare(LossModule(model)).eval()  # BatchNorm frozen: its statistics are each process's own
    accelerator.backward(losses({"image": IMAGES[own], "labels": case.labels[own], "mask": MASKS[own]})["total"])
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = {name: gradients(accelerator, case, HALVES[accelerator.process_index]) for name, case in CASES.items()}
    if accelerator.is_main_process:
        torch.save(found, Path(sys.argv[1]))
    accelerator.end_training()
