"""Gradients of GAIN_ext's loss on a batch whose labels and masks lie unevenly; several processes share the batch.

``torchrun --nproc-per-node=2 -m tests.papers.gain_gradients FILE`` writes what data-parallel training would apply.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from wsl_core.papers.gain import GAIN
from wsl_core.training.loop import LossModule

IMAGES = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
LABELS = {
    "uneven": torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]),
    "one process without a label": torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]]),
    "no label": torch.zeros(4, 3),
}
MASKS = torch.full((4, 48, 48), 255)
MASKS[0, :30, :20] = 1
MASKS[0, 30:] = 0


def gradients(accelerator: Accelerator) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = GAIN(num_classes=3, width=4, task="multi", attention_weight=10.0)
    losses = accelerator.prepare(LossModule(model)).eval()  # BatchNorm frozen: its statistics are each process's own
    share = len(IMAGES) // accelerator.num_processes
    own = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    found = {}
    for case, labels in LABELS.items():
        model.zero_grad()
        batch = {"image": IMAGES[own], "labels": labels[own], "mask": MASKS[own]}
        accelerator.backward(losses(batch)["total"])
        found |= {f"{case}, {name}": parameter.grad.clone() for name, parameter in model.named_parameters()}
    return found


if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    found = gradients(accelerator)
    if accelerator.is_main_process:
        torch.save(found, Path(sys.argv[1]))
    accelerator.end_training()
