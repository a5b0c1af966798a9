"""Making records: train what the claims compare, seed by seed, and write down what came out.

Trained networks and the measurement of each seed are kept in the cache. A killed call loses the seed that it was at,
and of that only what came after the last checkpoint.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output
from typing import Any

import torch

import wsl_core
from wsl_core.claims.experiments import EXPERIMENTS, Experiment, Measurement, get_experiment
from wsl_core.claims.records import RECORDS, Record, differences, load_record, save_record
from wsl_core.claims.register import Claim, load_register
from wsl_core.data import Dataset, InMemory
from wsl_core.errors import TrainingError, UsageError
from wsl_core.files import cache_dir, read_json, write_json
from wsl_core.papers import build_for
from wsl_core.recipes import Recipe
from wsl_core.training import Run, cached_run, open_split

__all__ = ["is_stale", "measure"]

RECORDED_SCALES = ("book", "paper")  # what the package's own records may be of


def measure(
    claims: Sequence[str] = (), scale: str = "book", seeds: int = 5, folder: str | Path = RECORDS
) -> list[Record]:
    """Measure claims, by default all that this book tests, and write their records.

    A claim whose record is current and has enough seeds, or more, is left alone. Progress goes to standard error.

    Args:
        claims: identifiers.
        scale: of the recipes: ``"smoke"``, ``"book"`` or ``"paper"``.
        seeds: the random seeds 0 ... seeds - 1.
        folder: where the records go.

    Raises:
        UsageError: a claim that does not exist or is not tested here, no seed, or smoke runs for the package's records.
        TrainingError: a network diverged, or a measured value is not finite.
    """
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}; expected at least 1.")
    if Path(folder).resolve() == RECORDS.resolve() and scale not in RECORDED_SCALES:
        raise UsageError(f"scale {scale!r} proves nothing and stays out of the package's records; name another folder.")
    records = []
    for experiment, group in _by_experiment(claims):
        records += _measure_group(experiment, group, scale, seeds, Path(folder))
    return records


def is_stale(record: Record, keys: dict[tuple[str, str], str] | None = None) -> bool:
    """Whether recipes, data or source have changed since the record was made.

    Args:
        record: of any experiment.
        keys: today's keys by experiment and scale, as far as they are known. What is missing is added: a key takes a
            look at every data set and source file, and the records of an experiment share it.

    >>> values = {"GAP": [0.5]}
    >>> of_an_experiment_that_is_gone = Record(
    ...     "cam-example", "cam-gone", "accuracy", "synthetic", "book", [0], values, {}, "key", {}, "source", "0",
    ...     "commit", "a computer", "2025-01-01", 1.0
    ... )
    >>> is_stale(of_an_experiment_that_is_gone)
    True
    """
    if record.experiment not in EXPERIMENTS:
        return True
    keys = {} if keys is None else keys
    which = record.experiment, record.scale
    if which not in keys:
        keys[which] = EXPERIMENTS[record.experiment].key(record.scale)
    return keys[which] != record.key


def _by_experiment(identifiers: Sequence[str]) -> list[tuple[Experiment, list[Claim]]]:
    """Claims that share an experiment are measured together."""
    register = load_register()
    claims = [register.claim(identifier) for identifier in identifiers]
    for claim in claims:
        if not claim.tested:
            raise UsageError(f"claim {claim.id!r} is not tested here: {claim.reason}.")
    claims = claims or [claim for claim in register.claims if claim.tested]
    names = dict.fromkeys(claim.experiment for claim in claims)  # in order, each once
    return [(get_experiment(name), [claim for claim in claims if claim.experiment == name]) for name in names]


def _measure_group(experiment: Experiment, claims: list[Claim], scale: str, seeds: int, folder: Path) -> list[Record]:
    key = experiment.key(scale)
    found = {claim.id: load_record(claim.id, folder) for claim in claims}
    records = {
        claim.id: record
        for claim in claims
        if (record := found[claim.id]) and record.key == key and record.metric == claim.metric
        if len(record.seeds) >= seeds
    }
    for name, record in records.items():
        _say(f"{name}: the record of {len(record.seeds)} seeds is current.")
    if len(records) < len(claims):
        measured = _Seeds(experiment, scale, key, seeds).all()
        for claim in claims:
            if claim.id not in records:
                records[claim.id] = _record(claim, experiment, scale, key, measured)
                _say(f"{claim.id}: wrote {save_record(records[claim.id], folder)}")
    return [records[claim.id] for claim in claims]


class _Seeds:
    """The measurements of one experiment, one file a seed in the cache; what several seeds need is opened once."""

    def __init__(self, experiment: Experiment, scale: str, key: str, seeds: int):
        self.experiment, self.scale, self.seeds = experiment, scale, seeds
        self.recipes = experiment.recipes(scale)
        self.folder = cache_dir() / "claims" / f"{experiment.name}-{key}"
        self._measured_on: dict[str, Dataset] = {}
        self._trained_on: dict[str, Dataset] = {}

    def all(self) -> list[dict[str, Any]]:
        return [self.one(seed) for seed in range(self.seeds)]

    def one(self, seed: int) -> dict[str, Any]:
        path = self.folder / f"seed_{seed}.json"
        name = f"{self.experiment.name}, {self.scale}: seed {seed + 1} of {self.seeds}"
        if path.exists():
            _say(f"{name} was measured before.")
            return read_json(path)
        _say(f"{name} ...")
        found = self.measure(seed)
        write_json(path, found)
        _say(f"{name}: {found['minutes']:.1f} minutes.")
        return found

    def measure(self, seed: int) -> dict[str, Any]:
        runs = {variant: self.run(recipe, seed) for variant, recipe in self.recipes.items()}
        self._measured_on = self._measured_on or {
            role: InMemory(dataset) for role, dataset in self.experiment.datasets(self.scale).items()
        }
        start = time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            values = self.experiment.measure({variant: run.model for variant, run in runs.items()}, self._measured_on)
        _check_finite(values, self.experiment, seed)
        sessions = [session for run in runs.values() for session in read_json(run.run_dir / "environment.json")]
        seconds = time.perf_counter() - start + sum(session.get("seconds", 0.0) for session in sessions)
        return {
            "seed": seed,
            "values": values,
            "minutes": seconds / 60,
            "hardware": _hardware(sessions[-1]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def run(self, recipe: Recipe, seed: int) -> Run:
        train_set = self.train_set(recipe)
        build = partial(build_for, train_set, recipe.paper, **recipe.model)
        return cached_run(build, train_set, recipe, seed)

    def train_set(self, recipe: Recipe) -> Dataset:
        name = json.dumps([recipe.dataset, recipe.data, recipe.images], sort_keys=True)
        if name not in self._trained_on:
            train_set = open_split(recipe, "train")
            self._trained_on[name] = InMemory(train_set, progress=True) if recipe.in_memory else train_set
        return self._trained_on[name]


def _record(claim: Claim, experiment: Experiment, scale: str, key: str, measured: list[dict[str, Any]]) -> Record:
    values = _values(claim, experiment, measured)
    return Record(
        claim=claim.id,
        experiment=experiment.name,
        metric=claim.metric,
        scope=experiment.scope,
        scale=scale,
        seeds=[one["seed"] for one in measured],
        values=values,
        differences=differences(claim, values),
        key=key,
        data_version=experiment.data_versions(scale),
        source=experiment.source(scale),
        code_version=wsl_core.__version__,
        commit=_commit(),
        hardware="; ".join(dict.fromkeys(one["hardware"] for one in measured)),
        date=max(one["date"] for one in measured),
        minutes=round(sum(one["minutes"] for one in measured), 2),
    )


def _values(claim: Claim, experiment: Experiment, measured: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Each variant's values over the seeds."""
    by_seed: list[Mapping[str, float]] = [one["values"].get(claim.metric, {}) for one in measured]
    missing = [variant for variant in claim.comparison.variants if variant not in by_seed[0]]
    if missing:
        raise UsageError(
            f"claim {claim.id!r}: experiment {experiment.name!r} does not give {claim.metric!r} of "
            f"{', '.join(missing)}. Make the register and the experiment agree."
        )
    return {variant: [values[variant] for values in by_seed] for variant in by_seed[0]}


def _check_finite(values: Measurement, experiment: Experiment, seed: int) -> None:
    for metric, variants in values.items():
        for variant, value in variants.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"experiment {experiment.name!r}, seed {seed}: {metric} of {variant} is {value}; expected a number."
                )


def _hardware(session: Mapping[str, Any]) -> str:
    return f"{session['processor']}, {session['threads']} threads, {session['device']}"


def _commit() -> str:
    """The commit of the repository that the package lies in; "unknown" outside of one."""
    try:
        folder = Path(wsl_core.__file__).parent
        return check_output(["git", "rev-parse", "HEAD"], cwd=folder, stderr=DEVNULL, text=True, timeout=10).strip()
    except (OSError, SubprocessError):
        return "unknown"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
