"""The one training loop, :func:`train`. It reads from top to bottom; what it calls stands below it.

Nothing in it depends on how often it was stopped: the order of the data and the augmentation of a step are functions of
the random seed and the step's number, and a checkpoint holds everything else.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from wsl_core.data import Batch, Dataset, collate
from wsl_core.errors import TrainingError, UsageError
from wsl_core.recipes import Recipe
from wsl_core.training.augment import augment
from wsl_core.training.evaluation import classification_scores, to_device
from wsl_core.training.run_directory import Checkpoint, RunDirectory

__all__ = ["learning_rate", "parameter_groups", "start_accelerator", "train"]

FINITE_CHECK_EVERY = 8  # steps; asking the device at every step would make it wait for the host


class LossModule(nn.Module):
    """Model and losses in one module: several GPUs synchronise gradients only through the wrapped module's forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The model's losses, by name, with their "total"."""
        return self.model.losses(batch)


def train(
    accelerator: Accelerator,
    model: nn.Module,
    train_set: Dataset,
    val_set: Dataset | None,
    recipe: Recipe,
    seed: int,
    directory: RunDirectory | None,
) -> list[dict[str, Any]]:
    """Train ``model`` in place, from the last checkpoint in ``directory`` if there is one; return the history.

    Raises:
        TrainingError: a loss, gradient or weight is not finite, or a checkpoint cannot be written.
    """
    total_steps = count_steps(recipe, len(train_set))
    layout = torch.channels_last if recipe.channels_last else torch.preserve_format
    model.to(accelerator.device, memory_format=layout).train()
    loss_module, optimizer = accelerator.prepare(LossModule(model), build_optimizer(model, recipe))
    done, history = _resume(accelerator, model, optimizer, directory)
    rank, main = accelerator.process_index, accelerator.is_main_process
    loader = _loader(train_set, recipe, seed, range(done, total_steps), accelerator)
    watch = _FiniteWatch(accelerator, optimizer)
    sums: dict[str, Tensor] = {}
    count = 0

    bar = tqdm(total=total_steps, initial=done, desc="training", unit="step", disable=not main, mininterval=0.5)
    for step, batch in enumerate(loader, start=done):
        batch = to_device(batch, accelerator.device)  # image (B, 3, H, W), labels (B, K); B is this process's share
        batch = augment(batch, recipe.augment, generator("augment", seed, step, rank))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, total_steps) * group["multiplier"]

        losses = loss_module(batch)  # scalars, with their "total"
        optimizer.zero_grad()
        accelerator.backward(losses["total"])
        norm = accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm or math.inf)
        watch.look(step + 1, batch["id"], losses["total"], norm)
        optimizer.step()

        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach()
        count, done = count + 1, step + 1
        bar.update()

        last = done == total_steps
        log, checkpoint, evaluate = (
            every > 0 and (done % every == 0 or last)
            for every in (recipe.log_every, recipe.checkpoint_every, recipe.eval_every)
        )
        if done % FINITE_CHECK_EVERY == 0 or log:
            watch.report()
        if checkpoint or last:
            _check_weights(model, done)
        if log:
            means = accelerator.reduce(torch.stack(list(sums.values())) / count, "mean").tolist()
            entry = {"step": done, "epoch": done * recipe.batch_size / len(train_set)}
            entry |= {"lr": learning_rate(recipe, step, total_steps), "losses": dict(zip(sums, means, strict=True))}
            if evaluate and val_set is not None:
                entry["val"] = classification_scores(model, val_set, recipe.batch_size)
                model.train()
            history.append(entry)
            bar.set_postfix({name: f"{value:.3f}" for name, value in entry["losses"].items()}, refresh=False)
            sums, count = {}, 0
            if directory is not None and main:
                directory.append_history(entry)
        if checkpoint and directory is not None:  # always behind a log, so that there are no sums to keep
            saved = _checkpoint(accelerator, model, optimizer, done)
            if main:
                directory.save_checkpoint(saved)
    bar.close()
    return history


def count_steps(recipe: Recipe, images: int) -> int:
    """The number of optimiser steps on a training set of ``images`` images.

    >>> count_steps(Recipe("cam", "tiny-imagenet", epochs=12, batch_size=64), 8000)
    1500
    """
    return recipe.steps if recipe.steps is not None else math.ceil(recipe.epochs * images / recipe.batch_size)


def learning_rate(recipe: Recipe, step: int, total_steps: int | None = None) -> float:
    """The base learning rate of a step, counted from 0, before the multipliers of the parameter groups.

    With warm-up over $w$ of $T$ steps and progress $p = (t - w) / (T - w)$ the factor on ``recipe.lr`` is
    $(t + 1) / w$ while $t < w$, then 1 (constant), $(1 + cos(pi p)) / 2$ (cosine), $(1 - p)^power$ (poly) or
    $gamma^floor(t / step_size)$ (step).

    Args:
        total_steps: $T$; by default ``recipe.steps``.

    >>> recipe = Recipe("cam", "synthetic", steps=100, lr=1.0, schedule="cosine", warmup_steps=10)
    >>> [round(learning_rate(recipe, step), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    total_steps = recipe.steps if total_steps is None else total_steps
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(total_steps - recipe.warmup_steps, 1)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * progress)) / 2
    if recipe.schedule == "poly":
        return recipe.lr * (1 - progress) ** recipe.poly_power
    if recipe.schedule == "step":
        return recipe.lr * recipe.step_gamma ** (step // recipe.step_size)
    return recipe.lr


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Trainable parameters by the recipe's four multipliers, and apart those that do not decay.

    ``model.new_modules`` names the submodules whose weights start fresh; the rest counts as backbone.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> model.new_modules = ("1",)
    >>> recipe = Recipe("cam", "synthetic", steps=1, multipliers={"new_bias": 20.0})
    >>> [(group["name"], group["multiplier"]) for group in parameter_groups(model, recipe)]
    [('backbone_weight', 1.0), ('backbone_bias', 1.0), ('new_weight', 1.0), ('new_bias', 20.0)]
    """
    new = tuple(f"{name}." for name in getattr(model, "new_modules", ()))
    groups: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = f"{'new' if name.startswith(new) else 'backbone'}_{'bias' if name.endswith('bias') else 'weight'}"
            decays = recipe.bias_weight_decay or parameter.ndim > 1  # normalisation has one parameter a channel
            groups[kind, decays].append(parameter)
    return [
        {
            "params": parameters,
            "name": kind,
            "multiplier": recipe.multipliers[kind],
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (kind, decays), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW in its fused form, which :class:`_FiniteWatch` can tell to leave out a step."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)


def start_accelerator(recipe: Recipe, device: str | None = None) -> Accelerator:
    """Devices and precision for one run. ``device`` is "cpu", "cuda" or ``None`` for what accelerate finds.

    Raises:
        UsageError: there is no such device here, or it cannot do the recipe's precision.
    """
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"device is {device!r}; expected cpu or cuda. CUDA_VISIBLE_DEVICES chooses among GPUs.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is 'cuda', but torch finds no CUDA device here. Leave device out to train on the CPU.")
    if PartialState().num_processes == 1:  # a process trains several models, each on its own device and precision
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=recipe.precision, cpu=device == "cpu")
    if recipe.precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("recipe field precision: fp16 needs a GPU; a CPU can do 'no' and 'bf16'.")
    if recipe.batch_size % accelerator.num_processes:
        raise UsageError(
            f"recipe field batch_size: {recipe.batch_size} images a step cannot be shared evenly "
            f"by {accelerator.num_processes} processes."
        )
    return accelerator


def generator(*key: Any) -> torch.Generator:
    """A generator on the CPU that depends on ``key`` alone.

    >>> torch.equal(torch.rand(2, generator=generator("a", 1)), torch.rand(2, generator=generator("a", 1)))
    True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class StepSampler(Sampler[list[int]]):
    """Which samples this process takes at each step.

    The images of all steps form one endless row: a permutation for epoch 0, another for epoch 1, and so on. Step t
    takes the t-th ``batch_size`` of them, and every process its own part. So any step stands for itself.

    >>> steps = StepSampler(length=4, batch_size=2, seed=0, steps=range(4))
    >>> batches = list(steps)
    >>> sorted(batches[0] + batches[1]), batches[2:] == list(StepSampler(4, 2, 0, range(2, 4)))
    ([0, 1, 2, 3], True)
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, steps: range, rank: int = 0, processes: int = 1
    ) -> None:
        self.length, self.batch_size, self.seed, self.steps = length, batch_size, seed, steps
        self.share = batch_size // processes
        self.offset = rank * self.share

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = step * self.batch_size + self.offset
            yield [self._sample(place) for place in range(first, first + self.share)]

    def _sample(self, place: int) -> int:
        epoch, within = divmod(place, self.length)
        return int(_permutation(self.length, self.seed, epoch)[within])


@lru_cache(maxsize=2)  # a batch reaches over at most one border between epochs, unless it is larger than the data
def _permutation(length: int, seed: int, epoch: int) -> Int[Tensor, " length"]:
    return torch.randperm(length, generator=generator("order", seed, epoch))


def _loader(train_set: Dataset, recipe: Recipe, seed: int, steps: range, accelerator: Accelerator) -> DataLoader:
    sampler = StepSampler(
        len(train_set), recipe.batch_size, seed, steps, accelerator.process_index, accelerator.num_processes
    )
    return DataLoader(
        train_set,
        batch_sampler=sampler,
        num_workers=recipe.workers,
        collate_fn=collate,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # without one, the loader would draw from the generator that dropout uses
    )


class _FiniteWatch:
    """Notices a loss or gradient that is not finite, on the device, and leaves out the update that it would make.

    The host asks only now and then. With fp16 an infinite gradient is no error: the loss scaler sees to it.
    """

    def __init__(self, accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> None:
        self.scaled = accelerator.scaler is not None
        self.optimizer = optimizer.optimizer  # accelerate's wrapper holds torch's
        self.recent: list[tuple[int, list[str], Tensor]] = []

    def look(self, step: int, ids: list[str], loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> None:
        """Flag the step, and tell the fused optimiser whether to leave it out, as torch's GradScaler does."""
        bad = ~torch.isfinite(loss.detach())
        if not self.scaled:
            bad = bad | ~torch.isfinite(norm)
            self.optimizer.found_inf = bad.float()
        self.recent.append((step, ids, bad))

    def report(self) -> None:
        """Ask the device about the steps since the last time."""
        flags = torch.stack([bad for _, _, bad in self.recent]).tolist()
        culprits = [(step, ids) for (step, ids, _), bad in zip(self.recent, flags, strict=True) if bad]
        self.recent.clear()
        if culprits:
            batches = "; ".join(f"step {step}: {', '.join(ids)}" for step, ids in culprits)
            raise TrainingError(
                f"the loss or its gradient is not finite. The updates were left out, and checkpoints are sound. "
                f"Look at these samples, or lower lr: {batches}."
            )


def _check_weights(model: nn.Module, step: int) -> None:
    """Raise before weights are kept that a last finite gradient has thrown out of the range of their numbers."""
    state = model.state_dict()
    finite = torch.stack([tensor.isfinite().all() for tensor in state.values()]).tolist()
    if culprits := [name for name, sound in zip(state, finite, strict=True) if not sound]:
        raise TrainingError(
            f"step {step}: weights are not finite ({', '.join(culprits)}). They were not written, and earlier "
            f"checkpoints are sound. Lower lr, or bound the gradient with clip_norm."
        )


def _resume(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, directory: RunDirectory | None
) -> tuple[int, list[dict[str, Any]]]:
    """Put everything into the state of the last checkpoint; return its step and the history up to it."""
    if directory is None:
        return 0, []
    with accelerator.main_process_first():  # the main process deletes what is damaged before the others look
        checkpoint = directory.load_checkpoint()
        history = directory.rewind_history(checkpoint.step if checkpoint else 0)
    if checkpoint is None:
        return 0, history
    model.load_state_dict(checkpoint.model)
    _load_optimizer(optimizer, checkpoint.training)
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(checkpoint.scaler)
    _set_random_state(accelerator, checkpoint.training)
    return checkpoint.step, history


def _checkpoint(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Checkpoint:
    training = _random_state(accelerator)
    for number, state in optimizer.state_dict()["state"].items():
        training |= {f"optimizer.{number}.{name}": value for name, value in state.items() if value is not None}
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
    return Checkpoint(step, to_saved(model.state_dict()), to_saved(training), scaler)


def to_saved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that safetensors can write: on the CPU, contiguous, none sharing memory with another."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            like = parameters[int(number)].detach()
            if value.shape == like.shape:  # the fused step needs the parameter's memory layout
                value = torch.empty_like(like).copy_(value)
            state[int(number)][name] = value
    optimizer.load_state_dict({"state": dict(state), "param_groups": optimizer.state_dict()["param_groups"]})


def _random_state(accelerator: Accelerator) -> dict[str, Tensor]:
    """State of torch's generators, from which dropout draws, of all processes."""
    own = {f"random.cpu.{accelerator.process_index}": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        own[f"random.cuda.{accelerator.process_index}"] = torch.cuda.get_rng_state()
    return {name: state for states in gather_object([own]) for name, state in states.items()}


def _set_random_state(accelerator: Accelerator, tensors: dict[str, Tensor]) -> None:
    rank = accelerator.process_index
    if f"random.cpu.{rank}" in tensors:
        torch.set_rng_state(tensors[f"random.cpu.{rank}"])
    if f"random.cuda.{rank}" in tensors and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"random.cuda.{rank}"])
