"""Records: what was measured for a claim, seed by seed, and from what. One small JSON file a claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from wsl_core.claims.register import Claim, load_register
from wsl_core.errors import DataError
from wsl_core.files import read_json, write_json
from wsl_core.metrics.statistics import paired_difference

__all__ = ["RECORDS", "Record", "load_record", "load_records", "records_for", "save_record"]

RECORDS = Path(__file__).with_name("records")  # ships with the package


@dataclass(frozen=True)
class Record:
    """The measurement of one claim.

    Attributes:
        claim: identifier in the register.
        experiment: what measured it.
        metric: what the values are.
        scope: what was measured on: ``"synthetic"``, ``"Tiny ImageNet"`` or ``"the paper's data"``.
        scale: the recipes' scale.
        seeds: one number a run; the order of the values.
        values: for each variant one value a seed, controls included.
        differences: for each baseline the paired difference: mean, low, high, n, confidence (95 %). Empty for exact
            claims and for a single seed.
        key: changes with the recipes, the data's version, or the source that trains and measures.
        data_version: version and length of each data set that was trained or measured on.
        source: digest of the source that trains and measures.
        code_version: of wsl_core.
        commit: of the repository when the record was written; ``source`` says exactly what ran.
        hardware: processor, threads, accelerator.
        date: when the last seed was measured, ISO 8601.
        minutes: all seeds together, training included; a training that was killed counts from where it went on.
    """

    claim: str
    experiment: str
    metric: str
    scope: str
    scale: str
    seeds: Sequence[int]
    values: Mapping[str, Sequence[float]]
    differences: Mapping[str, Mapping[str, float]]
    key: str
    data_version: Mapping[str, str]
    source: str
    code_version: str
    commit: str
    hardware: str
    date: str
    minutes: float

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise DataError(f"record of {self.claim!r}: seeds are {list(self.seeds)}; expected different ones.")
        for variant, values in self.values.items():
            if not all(map(math.isfinite, values)):
                raise DataError(
                    f"record of {self.claim!r}: variant {variant!r} has {list(values)}; expected finite values. "
                    "Measure the claim again."
                )
            if len(values) != len(self.seeds):
                raise DataError(
                    f"record of {self.claim!r}: variant {variant!r} has {len(values)} values for {len(self.seeds)} "
                    "seeds; expected one a seed. Measure the claim again."
                )


def save_record(record: Record, folder: str | Path = RECORDS) -> Path:
    """Write ``folder/<claim>.json``, atomically.

    >>> import tempfile
    >>> load_record("no-such-claim", tempfile.mkdtemp()) is None
    True
    """
    path = Path(folder) / f"{record.claim}.json"
    write_json(path, asdict(record))
    return path


def load_record(claim: str, folder: str | Path = RECORDS) -> Record | None:
    """The record of a claim, or ``None`` where it was not measured.

    Raises:
        DataError: the file is not a record, or is one of another claim.
    """
    path = Path(folder) / f"{claim}.json"
    if not path.is_file():
        return None
    found = read_json(path)
    expected = {field.name for field in fields(Record)}
    if not isinstance(found, dict) or set(found) != expected:
        differing = sorted(expected ^ set(found)) if isinstance(found, dict) else "no fields at all"
        raise DataError(f"{path}: not a record of this version (fields that differ: {differing}). Measure it again.")
    if found["claim"] != claim:
        raise DataError(f"{path}: holds the record of {found['claim']!r}. Rename it or delete it.")
    return Record(**found)


def load_records(folder: str | Path = RECORDS) -> dict[str, Record]:
    """The records of all claims of the register that have one."""
    found = ((identifier, load_record(identifier, folder)) for identifier in load_register().ids)
    return {identifier: record for identifier, record in found if record is not None}


def differences(claim: Claim, values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """The paired 95 % interval against each baseline, as a record keeps it.

    >>> claim = load_register().claim("cam-finer-last-map")
    >>> found = differences(claim, {"output stride 8": [0.5, 0.7], "output stride 16": [0.4, 0.6]})
    >>> round(found["output stride 16"]["mean"], 6)
    0.1
    """
    better = claim.comparison.better
    if not claim.subtracts or len(values[better]) < 2:
        return {}
    return {
        baseline: asdict(paired_difference(values[better], values[baseline])) for baseline in claim.comparison.baselines
    }


def records_for(claim: str, folder: str | Path = RECORDS) -> dict[str, Any] | None:
    """What a figure of the recorded runs needs, or ``None`` where the claim was not measured.

    Returns:
        ``seeds`` int (n,), ``values``: variant -> float (n,), ``differences``: baseline -> float (n,) paired by seed,
        ``better``, ``baselines``, ``metric``, ``scope``, ``margin``.

    Raises:
        UsageError: no such claim.
        DataError: the record cannot be read.
    """
    entry = load_register().claim(claim)
    record = load_record(claim, folder)
    if record is None:
        return None
    values = {variant: np.array(numbers, dtype=np.float64) for variant, numbers in record.values.items()}
    better = entry.comparison.better
    return {
        "seeds": np.array(record.seeds),
        "values": values,
        "differences": {name: values[better] - values[name] for name in entry.comparison.baselines if better},
        "better": better,
        "baselines": entry.comparison.baselines,
        "metric": record.metric,
        "scope": record.scope,
        "margin": entry.margin,
    }
