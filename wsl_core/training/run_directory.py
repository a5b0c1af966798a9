"""A training run on disk: what it is, how far it got, and what came out.

::

    recipe.json       recipe, random seed and data: the identity of the run
    model.json        paper, constructor arguments, classes, task, image size: how to build the model again
    environment.json  one entry for each call that worked on the run: versions, device, seconds
    history.jsonl     one line for each logging step
    checkpoints/      the last two, each a folder step_XXXXXXX that is moved into place when it is complete
    model.safetensors the final weights; a run that has them is finished
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from tqdm import tqdm

from wsl_core.errors import DataError, TrainingError, UsageError
from wsl_core.files import atomic_write, read_json, write_json
from wsl_core.recipes import Recipe

__all__ = ["Checkpoint", "RunDirectory", "load_weights", "say"]

KEPT = 2  # checkpoints: one to fall back to should the last one be damaged
TENSOR_FILES = ("model.safetensors", "training.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on as if it had never stopped.

    Attributes:
        step: optimiser steps done.
        model: parameters and buffers by name.
        training: state of the optimiser and of the random generators.
        scaler: state of the fp16 loss scaler; empty otherwise.
    """

    step: int
    model: dict[str, Tensor]
    training: dict[str, Tensor]
    scaler: dict[str, Any]


class RunDirectory:
    """One folder, one run.

    >>> import tempfile
    >>> RunDirectory(tempfile.mkdtemp()).finished
    False
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.weights = self.path / "model.safetensors"
        self.checkpoints = self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the final weights are there."""
        return self.weights.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time work on the run; the lock goes with its holder, however that ends.

        Raises:
            UsageError: there is a file where the folder should be.
        """
        nearest = next(path for path in (self.path, *self.path.parents) if path.exists())
        if not nearest.is_dir():
            raise UsageError(f"run_dir {self.path}: {nearest} is a file; name a folder, new or of the same run.")
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{self.path}: another process is training this run; waiting for it.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def open(self, identity: dict[str, Any], model: dict[str, Any]) -> None:
        """Begin the run, or make sure that what is there is the same run.

        Args:
            identity: ``recipe``, ``seed`` and ``data``.
            model: content of model.json.

        Raises:
            UsageError: the folder holds another run, or something else.
        """
        recipe_file = self.path / "recipe.json"
        if recipe_file.exists():
            self._check_same(identity, model)
        elif any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise UsageError(f"{self.path}: the folder is not empty and holds no run. Name a new folder as run_dir.")
        with _writing(self.path):
            if not recipe_file.exists():
                write_json(recipe_file, identity)
            write_json(self.path / "model.json", model)

    def _check_same(self, identity: dict[str, Any], model: dict[str, Any]) -> None:
        there = read_form(self.path / "recipe.json", ("recipe", "seed", "data"))
        there["recipe"], identity = Recipe.from_dict(there["recipe"]).identity(), dict(identity)
        identity["recipe"] = Recipe.from_dict(identity["recipe"]).identity()
        if (self.path / "model.json").exists():
            there["model"], identity["model"] = read_json(self.path / "model.json"), model
        for name, found, expected in _differences(there, identity):
            raise UsageError(
                f"{self.path} holds another run: {name} is {found!r} there, and {expected!r} was asked for. "
                f"Name another run_dir, or delete this folder to train anew."
            )

    def begin_session(self, environment: dict[str, Any]) -> None:
        """Note the circumstances under which a call works on the run, and warn if its source is another than before."""
        path = self.path / "environment.json"
        sessions = read_json(path) if path.exists() else []
        if sessions and sessions[-1]["source"] != environment["source"]:
            say(f"{self.path}: what training reads of the source has changed since the run began; going on.")
        with _writing(path):
            write_json(path, [*sessions, environment])

    def end_session(self, seconds: float) -> None:
        """Add to the last session how long it took."""
        path = self.path / "environment.json"
        *earlier, last = read_json(path)
        with _writing(path):
            write_json(path, [*earlier, last | {"seconds": round(seconds, 1)}])

    def append_history(self, entry: dict[str, Any]) -> None:
        """Add one line to history.jsonl."""
        path = self.path / "history.jsonl"
        with _writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_history(self, step: int) -> list[dict[str, Any]]:
        """Drop what was logged after ``step``, half a line at the end included; return the rest."""
        history = [entry for entry in self.history() if entry["step"] <= step]
        with _writing(self.path), atomic_write(self.path / "history.jsonl", "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in history)
        return history

    def history(self) -> list[dict[str, Any]]:
        """The logged lines, without one that a killed process left unfinished at the end.

        Raises:
            DataError: a line is not what training writes.
        """
        path = self.path / "history.jsonl"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        *lines, _ = text.split("\n")  # behind the last end of a line is nothing, or half a line
        return [_history_entry(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all, then delete all but the last two.

        Raises:
            TrainingError: it cannot be written, say because the disk is full. Earlier checkpoints are as they were.
        """
        final = self.checkpoints / f"step_{checkpoint.step:07d}"
        partial = self.checkpoints / f".{final.name}.partial"
        try:
            with _writing(final):
                partial.mkdir(parents=True)
                for name, tensors in zip(TENSOR_FILES, (checkpoint.model, checkpoint.training), strict=True):
                    save_file(tensors, partial / name)
                    _sync(partial / name)
                sums = {name: _sha256(partial / name) for name in TENSOR_FILES}
                state = {"step": checkpoint.step, "scaler": checkpoint.scaler, "sha256": sums}
                write_json(partial / "state.json", state)
                os.replace(partial, final)
                _sync(self.checkpoints)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self._checkpoint_folders()[:-KEPT]:
            shutil.rmtree(old)

    def load_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint that is whole; what is damaged, unfinished or later than that is deleted."""
        for folder in self.checkpoints.glob(".*.partial"):
            shutil.rmtree(folder)
        for folder in reversed(self._checkpoint_folders()):
            try:
                return _read_checkpoint(folder)
            except (DataError, OSError, SafetensorError, KeyError, TypeError) as error:
                say(f"{folder}: the checkpoint is damaged ({error}); going back to the one before.")
                shutil.rmtree(folder)
        return None

    def _checkpoint_folders(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step_*"))

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Write the final weights."""
        with _writing(self.weights), atomic_write(self.weights) as file:
            file.write(save(weights))


def read_form(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a JSON file that has to be an object with these keys.

    Raises:
        DataError: it is not.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise DataError(f"{path}: found other content; expected an object with {', '.join(keys)}. Train the run anew.")
    return content


def _history_entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        entry = None
    if not isinstance(entry, dict) or "step" not in entry:
        raise DataError(f'{where}: found {line[:60]!r}; expected a JSON object with "step". Delete the line.')
    return entry


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into ``model``.

    Raises:
        DataError: the file is damaged, or made by another version of the model's source.
    """
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{path}: not the weights of this model ({str(error).splitlines()[0]}). "
            f"Delete the file and train again: training goes on from the last checkpoint."
        ) from error


def say(message: str) -> None:
    """Tell the person at the terminal, without breaking a progress bar."""
    tqdm.write(message, file=sys.stderr)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the path when the disk is full or forbids writing."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path}: could not be written ({error}). What was written before is whole: "
            f"make room, and start again with the same run_dir to go on from the last checkpoint."
        ) from error


def _read_checkpoint(folder: Path) -> Checkpoint:
    state = read_json(folder / "state.json")
    for name in TENSOR_FILES:
        if _sha256(folder / name) != state["sha256"][name]:
            raise DataError(f"the checksum of {name} is wrong")
    model, training = (load_file(folder / name) for name in TENSOR_FILES)
    return Checkpoint(state["step"], model, training, state["scaler"])


def _differences(found: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Entries that differ, by dotted name."""
    for name in [*expected, *(name for name in found if name not in expected)]:
        a, b = found.get(name), expected.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            yield prefix + name, a, b


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make sure that a file, or the entries of a folder, have reached the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
