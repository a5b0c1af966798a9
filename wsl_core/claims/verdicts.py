r"""From records to verdicts, by rules that were fixed before.

A paired claim is judged by the t-interval of its paired difference d = better - baseline, against a margin m > 0:

========================  ===============================
the interval lies         verdict
========================  ===============================
above +m                  supported
below -m                  refuted
within [-m, +m]           no difference
anywhere else             inconclusive
========================  ===============================

A claim of the kind "equal" says that there is no difference: it is supported within [-m, +m] and refuted beyond it on
either side.

Many comparisons at once find something by chance. The confidence of the interval that decides is therefore raised to
1 - 0.05 / (number of comparisons that the register plans for the paper), after Bonferroni. One paper is one family: a
chapter is read alone, and its verdicts do not move when another chapter is written. What is planned counts, not what
was measured, so that leaving a claim out buys nothing. Holm's procedure would be a little sharper, but it
corrects p-values in order of size and leaves no interval that can be drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from wsl_core.claims.records import Record
from wsl_core.claims.register import Claim
from wsl_core.errors import UsageError
from wsl_core.metrics.statistics import Interval, equivalent, paired_difference

__all__ = ["MINIMUM_SEEDS", "Compared", "Status", "Verdict", "classify", "corrected_confidence", "family_size", "judge"]

Status = Literal["supported", "refuted", "no difference", "inconclusive", "not tested here"]
MINIMUM_SEEDS = 5
CONFIDENCE = 0.95
# A claim over several baselines is as strong as its weakest comparison.
_FROM_WEAKEST: tuple[Status, ...] = ("refuted", "no difference", "inconclusive", "supported")
# What a difference says about the claim that there is none.
_OF_EQUALITY: dict[Status, Status] = {
    "no difference": "supported", "supported": "refuted", "refuted": "refuted", "inconclusive": "inconclusive"
}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One comparison of a claim.

    Attributes:
        baseline: a baseline's name; of an exact claim, the variant that was held against its limit.
        status: what this comparison alone says.
        plain: the 95 % interval of the paired difference; ``None`` for exact claims.
        corrected: the interval that decides; ``None`` for exact claims.
        worst: exact claims: the largest error of any seed.
        limit: exact claims: the largest error allowed.
        equal: the claim is that there is no difference.
    """

    baseline: str
    status: Status
    plain: Interval | None = None
    corrected: Interval | None = None
    worst: float | None = None
    limit: float | None = None
    equal: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the records say about a claim.

    Attributes:
        claim: identifier.
        status: the verdict.
        scope: on what: ``"synthetic"``, ``"Tiny ImageNet"``, ``"the paper's data"``; empty where nothing was measured.
        reason: why there is no other verdict; empty where the comparisons say it.
        compared: the comparisons; empty where nothing was measured.
    """

    claim: str
    status: Status
    scope: str = ""
    reason: str = ""
    compared: tuple[Compared, ...] = ()

    @property
    def deciding(self) -> Compared | None:
        """The comparison that the verdict hangs on: the weakest one, or ``None`` where nothing was measured."""
        return min(self.compared, key=_weakness, default=None)


def classify(interval: Interval, margin: float) -> Status:
    """The verdict that an interval of a difference gives.

    Args:
        interval: of better - baseline, at the confidence that is to decide.
        margin: differences below it count as none; at least 0.

    Raises:
        UsageError: ``margin`` is negative.

    >>> classify(Interval(mean=0.10, low=0.05, high=0.15, n=5), margin=0.02)
    'supported'
    >>> classify(Interval(mean=0.04, low=0.01, high=0.07, n=5), margin=0.02)
    'inconclusive'
    """
    if equivalent(interval, margin):
        return "no difference"
    if interval.low > margin:
        return "supported"
    if interval.high < -margin:
        return "refuted"
    return "inconclusive"


def family_size(claims: Iterable[Claim]) -> int:
    """How many comparisons of variants these claims plan; give it all claims of one paper.

    >>> from wsl_core.claims.register import load_register
    >>> register = load_register()
    >>> family_size([register.claim("cam-map-mean-is-logit"), register.claim("gain-beats-erasing-networks")])
    0
    """
    return sum(len(claim.comparison.baselines) for claim in claims if claim.subtracts)


def corrected_confidence(family: int, confidence: float = CONFIDENCE) -> float:
    """Bonferroni: the confidence of each interval, so that all ``family`` hold together with ``confidence``.

    Raises:
        UsageError: ``family`` is below 1.

    >>> round(corrected_confidence(10), 6)
    0.995
    """
    if family < 1:
        raise UsageError(f"family is {family}; expected the number of comparisons, at least 1.")
    return 1.0 - (1.0 - confidence) / family


def judge(claim: Claim, record: Record | None, family: int) -> Verdict:
    """The verdict on a claim, from its record alone.

    Args:
        claim: from the register.
        record: its measurement, or ``None``.
        family: :func:`family_size` of the paper's claims; not used for exact claims.

    Raises:
        UsageError: the record is one of another claim, or lacks a variant that the claim compares.
    """
    if not claim.tested:
        return Verdict(claim.id, "not tested here", reason=claim.reason)
    if record is None:
        return Verdict(claim.id, "not tested here", reason="not measured yet")
    _check_fits(claim, record)
    compared = _exact(claim, record) if claim.kind == "exact" else ()
    n = len(record.seeds)
    if n < MINIMUM_SEEDS:
        reason = f"seeds recorded: {n}, needed: {MINIMUM_SEEDS}"
        return Verdict(claim.id, "inconclusive", record.scope, reason, compared)
    compared = compared or _paired(claim, record, family)
    return Verdict(claim.id, min(compared, key=_weakness).status, record.scope, "", compared)


def _exact(claim: Claim, record: Record) -> tuple[Compared, ...]:
    worst = {variant: max(map(abs, record.values[variant])) for variant in claim.comparison.limits}
    return tuple(
        Compared(variant, "supported" if worst[variant] <= limit else "refuted", worst=worst[variant], limit=limit)
        for variant, limit in claim.comparison.limits.items()
    )


def _paired(claim: Claim, record: Record, family: int) -> tuple[Compared, ...]:
    better = record.values[claim.comparison.better]
    confidence = corrected_confidence(family)
    compared = []
    for baseline in claim.comparison.baselines:
        plain = paired_difference(better, record.values[baseline], CONFIDENCE)
        corrected = paired_difference(better, record.values[baseline], confidence)
        status = classify(corrected, claim.margin)
        equal = claim.kind == "equal"
        status = _OF_EQUALITY[status] if equal else status
        compared.append(Compared(baseline, status, plain, corrected, equal=equal))
    return tuple(compared)


def _weakness(compared: Compared) -> tuple[int, float]:
    """Sorts comparisons from the weakest; then the lowest interval, the widest from 0, the error nearest its limit."""
    if compared.corrected is None:
        strength = -compared.worst / compared.limit
    elif compared.equal:
        strength = -max(abs(compared.corrected.low), abs(compared.corrected.high))
    else:
        strength = compared.corrected.low
    return _FROM_WEAKEST.index(compared.status), strength


def _check_fits(claim: Claim, record: Record) -> None:
    if record.claim != claim.id:
        raise UsageError(f"record is one of {record.claim!r}; expected one of {claim.id!r}.")
    missing = [variant for variant in claim.comparison.variants if variant not in record.values]
    for what, found, expected in (
        ("metric", record.metric, claim.metric),
        ("experiment", record.experiment, claim.experiment),
    ):
        if found != expected:
            told = f"its {what} is {found!r}, the claim's {expected!r}"
            raise UsageError(f"record of {claim.id!r}: {told}. Measure it again.")
    if missing:
        raise UsageError(f"record of {claim.id!r} lacks {', '.join(missing)}. Measure the claim again.")
