"""Runs: train a model, find a trained one again, load one."""

import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output
from typing import Any

import accelerate
import torch
import torchvision
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

import wsl_core
from wsl_core.data import Dataset, InMemory, Subset, load_dataset
from wsl_core.errors import UsageError
from wsl_core.files import cache_dir
from wsl_core.papers import build_model
from wsl_core.recipes import Recipe
from wsl_core.training.loop import start_accelerator, to_saved, train
from wsl_core.training.run_directory import RunDirectory, load_weights, read_form, say
from wsl_core.training.sources import run_key, source_digest, training_sources

__all__ = ["Run", "cached_run", "fit", "load_run", "open_split"]


@dataclass(frozen=True)
class Run:
    """A trained model and how it came about.

    Attributes:
        model: in evaluation mode.
        history: one entry a logging step: ``step``, ``epoch``, ``lr``, ``losses`` and at times ``val``.
        recipe, seed: what it was trained with.
        data: ``name``, ``split``, ``version`` and number of ``images`` of the training set.
        classes, task: what the logits mean.
        image_size: what the longer side of an image is shrunk to before the network sees it, in pixels; ``None`` where
            images keep their size.
        run_dir: the folder of the run, if it has one.
        found: whether it was found on disk instead of trained by this call.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    recipe: Recipe
    seed: int
    data: dict[str, Any]
    classes: tuple[str, ...]
    task: str
    image_size: int | None
    run_dir: Path | None = None
    found: bool = False


def fit(
    build: Callable[[], nn.Module],
    train_set: Dataset,
    recipe: Recipe,
    val_set: Dataset | None = None,
    run_dir: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Run:
    """Seed everything, build a model, train it.

    With ``run_dir`` the run can be stopped at any point, even by ``kill -9``: the same call goes on from the last
    checkpoint, on a CPU to bit-identical weights, and a finished run is found and not trained again.

    Args:
        build: makes the model; called after seeding. The model has ``losses(batch)`` with a "total".
        val_set: scored every ``recipe.eval_every`` steps.
        run_dir: a new folder, or that of the same run. Without it nothing is written.
        device: "cpu", "cuda", or ``None`` for what accelerate finds. Several processes: ``accelerate launch``.

    Raises:
        UsageError: ``run_dir`` holds another run, or the device cannot do what the recipe asks.
        TrainingError: a loss is not finite, or the disk is full.
    """
    accelerator, model = _begin(build, recipe, seed, device)
    _check_task(model, train_set)
    data = {"name": train_set.name, "split": train_set.split, "version": train_set.version, "images": len(train_set)}
    description = _describe(model, train_set)
    directory = RunDirectory(run_dir) if run_dir is not None else None
    with directory.locked() if directory and accelerator.is_main_process else nullcontext():
        if directory and accelerator.is_main_process:
            directory.open({"recipe": recipe.to_dict(), "seed": seed, "data": data}, description)
        accelerator.wait_for_everyone()
        found = directory is not None and directory.finished
        if found:
            history = _load_finished(accelerator, model, directory)
        else:
            history = _train_and_save(accelerator, model, train_set, val_set, recipe, seed, directory)
        accelerator.wait_for_everyone()
    return Run(
        model.eval(), history, recipe, seed, data, train_set.classes, train_set.task, train_set.image_size,
        directory.path if directory else None, found,
    )  # fmt: skip


def _begin(
    build: Callable[[], nn.Module], recipe: Recipe, seed: int, device: str | None
) -> tuple[Accelerator, nn.Module]:
    """What decides about the first weights: device and precision, the random seed, and only then the model."""
    accelerator = start_accelerator(recipe, device)
    set_seed(seed)
    return accelerator, build()


def cached_run(
    build: Callable[[], nn.Module],
    train_set: Dataset,
    recipe: Recipe,
    seed: int = 0,
    val_set: Dataset | None = None,
    device: str | None = None,
) -> Run:
    """:func:`fit` in the cache, ``cache_dir() / "runs"``, under a key of recipe, data, random seed and source.

    Whoever asks for the same run again, another chapter say, gets the one that is there.
    """
    key = run_key(recipe, train_set.version, seed)
    return fit(build, train_set, recipe, val_set, cache_dir() / "runs" / key, seed, device)


def load_run(run_dir: str | Path) -> Run:
    """Rebuild the trained model of a finished run, in evaluation mode on the CPU.

    Raises:
        UsageError: the folder holds no run, one that is not finished, or one whose model only its ``build`` can make:
            it is of no registered paper, or read from a network that was there.
        DataError: the weights are damaged.
    """
    directory = RunDirectory(run_dir)
    for name in ("recipe.json", "model.json"):
        if not (directory.path / name).exists():
            raise UsageError(f"{directory.path}: not a run directory, {name} is missing. Name the run_dir of a run.")
    identity = read_form(directory.path / "recipe.json", ("recipe", "seed", "data"))
    model = read_form(directory.path / "model.json", ("paper", "config", "classes", "task", "image_size"))
    if not directory.finished:
        raise UsageError(f"{directory.path}: the run is not finished. Start the same training again to go on with it.")
    if model["paper"] is None:
        raise UsageError(f"{directory.path}: the model is of no registered paper. Call fit again with its build.")
    try:
        network = build_model(model["paper"], **model["config"])
    except (TypeError, UsageError) as error:
        raise UsageError(
            f"{directory.path / 'model.json'}: no model can be built from it ({error}). Call fit again with its build."
        ) from error
    load_weights(network, directory.weights)
    return Run(
        network.eval(), directory.history(), Recipe.from_dict(identity["recipe"]), identity["seed"], identity["data"],
        tuple(model["classes"]), model["task"], model["image_size"], directory.path, found=True,
    )  # fmt: skip


def open_split(
    recipe: Recipe, split: str, root: str | Path | None = None, download: bool = False, **options: Any
) -> Dataset:
    """The data of a recipe: its data set and options, cut down to ``recipe.images``.

    >>> len(open_split(Recipe("cam", "synthetic", steps=1, images=3), "val"))
    3
    """
    if reserved := sorted({"name", "split", "root", "download"} & set(recipe.data)):
        raise UsageError(
            f"recipe field data.{reserved[0]}: it is an argument of its own, not an option of the data set."
        )
    dataset = load_dataset(recipe.dataset, split, root, download, **(recipe.data | options))
    if recipe.images is not None and recipe.images < len(dataset):
        dataset = Subset(dataset, [i * len(dataset) // recipe.images for i in range(recipe.images)])
    return dataset


def _train_and_save(
    accelerator: Accelerator,
    model: nn.Module,
    train_set: Dataset,
    val_set: Dataset | None,
    recipe: Recipe,
    seed: int,
    directory: RunDirectory | None,
) -> list[dict[str, Any]]:
    writes = directory is not None and accelerator.is_main_process
    start = time.perf_counter()
    if writes:
        directory.begin_session(_environment(accelerator, recipe))
    if recipe.in_memory:
        train_set = _in_memory(train_set, accelerator)
        val_set = _in_memory(val_set, accelerator) if val_set is not None and recipe.eval_every else val_set
    history = train(accelerator, model, train_set, val_set, recipe, seed, directory)
    if writes:
        directory.end_session(time.perf_counter() - start)
        directory.finish(to_saved(model.state_dict()))
    return history


def _in_memory(dataset: Dataset, accelerator: Accelerator) -> Dataset:
    return dataset if isinstance(dataset, InMemory) else InMemory(dataset, progress=accelerator.is_main_process)


def _load_finished(accelerator: Accelerator, model: nn.Module, directory: RunDirectory) -> list[dict[str, Any]]:
    load_weights(model, directory.weights)
    model.to(accelerator.device)
    if accelerator.is_main_process:
        say(f"found the finished run in {directory.path}; nothing is trained again.")
    return directory.history()


def _check_task(model: nn.Module, train_set: Dataset) -> None:
    task = getattr(model, "task", train_set.task)
    if task != train_set.task:
        raise UsageError(
            f"task={task!r}: the data set {train_set.name} has task {train_set.task!r}; "
            "build the model with task=train_set.task."
        )


def _describe(model: nn.Module, train_set: Dataset) -> dict[str, Any]:
    """What it takes to build the model again and to feed it. Its own weights replace any pre-trained ones."""
    config = getattr(model, "config", {})
    return {
        "paper": getattr(model, "paper", None),
        "config": config | ({"weights": None} if "weights" in config else {}),
        "classes": list(train_set.classes),
        "task": train_set.task,
        "image_size": train_set.image_size,
    }


def _environment(accelerator: Accelerator, recipe: Recipe) -> dict[str, Any]:
    cuda = accelerator.device.type == "cuda"
    return {
        "wsl_core": wsl_core.__version__,
        "commit": _commit(),
        "source": source_digest(training_sources(recipe)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "accelerate": accelerate.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else str(accelerator.device),
        "processes": accelerator.num_processes,
    }


def _commit() -> str | None:
    """The last commit that touched the package, where it lies in a git repository."""
    folder = Path(wsl_core.__file__).parent
    try:
        command = ["git", "-C", str(folder), "log", "-1", "--format=%H", "--", "."]
        return check_output(command, stderr=DEVNULL, text=True, timeout=10).strip() or None
    except (OSError, SubprocessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return f"{names[0].partition(':')[2].strip() if names else platform.processor()} ({os.cpu_count()} cores)"
