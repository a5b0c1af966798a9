"""Live evidence: where a run of one seed falls among the recorded runs. It never changes a verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsl_core.claims.records import RECORDS, load_record
from wsl_core.claims.register import load_register
from wsl_core.errors import UsageError
from wsl_core.metrics.statistics import Interval, prediction_interval

__all__ = ["LivePosition", "live_position"]

Where = Literal["inside", "above", "below", "not recorded"]


@dataclass(frozen=True)
class LivePosition:
    """Where one live value falls.

    Attributes:
        claim: identifier.
        variant: whose value it is.
        value: in the metric's units.
        where: relative to the range in which one further run is expected with 95 % confidence.
        expected: that range; ``None`` without at least two recorded seeds.
        sentence: the same for the reader.
    """

    claim: str
    variant: str
    value: float
    where: Where
    expected: Interval | None
    sentence: str


def live_position(
    claim: str,
    value: float | int,
    variant: str | None = None,
    folder: str | Path = RECORDS,
    seed: int | None = None,
) -> LivePosition:
    """Say where a live value falls relative to the recorded seeds of the same variant.

    Args:
        claim: identifier in the register.
        value: what the live run gave for the claim's metric.
        variant: whose value it is; by default the one that the claim says is better.
        seed: the live run's; a recorded run with the same one is left out, since it would be compared with itself.
        folder: of the records.

    Raises:
        UsageError: no such claim, or no such variant in its record.

    >>> import tempfile
    >>> live_position("cam-finer-last-map", 0.5, folder=tempfile.mkdtemp()).sentence
    'The live run gives 0.500 for output stride 8; no runs are recorded yet.'
    """
    entry = load_register().claim(claim)
    variant = variant or entry.comparison.variants[0]
    gives = f"The live run gives {_number(value)} for {variant}"
    record = load_record(claim, folder)
    if record is None or len(set(record.seeds) - {seed}) < 2:
        return LivePosition(claim, variant, value, "not recorded", None, f"{gives}; no runs are recorded yet.")
    if variant not in record.values:
        raise UsageError(f"variant {variant!r} is not in the record; expected one of {', '.join(record.values)}.")
    others = [number for recorded, number in zip(record.seeds, record.values[variant], strict=True) if recorded != seed]
    expected = prediction_interval(others)
    where: Where = "inside" if value in expected else "above" if value > expected.high else "below"
    span = f"{_number(expected.low)} to {_number(expected.high)}, from {expected.n} recorded runs with other seeds"
    sentence = f"{gives}: {where} the range where one further run is expected ({span})."
    return LivePosition(claim, variant, value, where, expected, sentence)


def _number(value: float) -> str:
    """Three decimals for scores, powers of ten for rounding errors."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
