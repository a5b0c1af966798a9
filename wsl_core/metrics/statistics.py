"""Intervals for a handful of runs and for many images, and how many runs a claim needs.

Five seeds are few: a percentile bootstrap over them covers far less than it promises. Student's t is exact for normal
values and close enough for scores that are means over many images, so an interval over seeds is a t-interval. Over the
images of one run, of which there are hundreds, the bootstrap needs no assumption about the values.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats

from wsl_core.errors import UsageError

__all__ = [
    "Interval",
    "bootstrap_interval",
    "equivalent",
    "mean_interval",
    "paired_difference",
    "prediction_interval",
    "seeds_needed",
]

Values = Sequence[float | int] | np.ndarray
MOST_SEEDS = 10_000
BATCH = 2**22  # resampled values held at a time, 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean with its interval, both in the units of the values.

    Attributes:
        mean: mean of the values.
        low: lower end, at most ``mean``.
        high: upper end, at least ``mean``.
        n: how many values there were.
        confidence: two-sided confidence, in (0, 1).
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def __contains__(self, value: float | int) -> bool:
        """Whether ``value`` lies between the ends, ends included."""
        return bool(self.low <= value <= self.high)


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    r"""The t-interval of a mean: :math:`\bar x \pm t_{n-1}\, s / \sqrt{n}` (Student, Biometrika 1908).

    Args:
        values: one value a run, at least two.
        confidence: two-sided confidence, in (0, 1).

    Raises:
        UsageError: fewer than two values, a value that is not finite, or a confidence outside (0, 1).

    >>> interval = mean_interval([0.61, 0.58, 0.60, 0.63, 0.59])
    >>> f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    '0.602 [0.578, 0.626]'
    """
    checked = _checked(values, "values")
    return _t_interval(checked, 1.0 / math.sqrt(len(checked)), confidence)


def paired_difference(a: Values, b: Values, confidence: float = 0.95) -> Interval:
    """The t-interval of the mean of ``a - b``, where ``a[i]`` and ``b[i]`` share their seed.

    Pairing removes what a seed does to both: it is the difference that is measured, not two clouds of runs.

    Args:
        a: one value a run, at least two.
        b: as many values, in the same order of seeds.
        confidence: two-sided confidence, in (0, 1).

    Raises:
        UsageError: as in :func:`mean_interval`, or ``a`` and ``b`` differ in length.

    >>> paired_difference([3, 5, 7], [2, 4, 6])
    Interval(mean=1.0, low=1.0, high=1.0, n=3, confidence=0.95)
    """
    first, second = _checked(a, "a"), _checked(b, "b")
    if len(first) != len(second):
        raise UsageError(
            f"a has {len(first)} values and b has {len(second)}; expected one value of each for every seed. "
            "Leave out the seeds that only one of them was run with."
        )
    return mean_interval(first - second, confidence)


def prediction_interval(values: Values, confidence: float = 0.95) -> Interval:
    r"""Where one further run should fall: :math:`\bar x \pm t_{n-1}\, s \sqrt{1 + 1/n}`.

    It is wider than :func:`mean_interval`, because one run varies more than a mean.

    Raises:
        UsageError: as in :func:`mean_interval`.

    >>> recorded = [0.61, 0.58, 0.60, 0.63, 0.59]
    >>> 0.56 in prediction_interval(recorded), 0.56 in mean_interval(recorded)
    (True, False)
    """
    checked = _checked(values, "values")
    return _t_interval(checked, math.sqrt(1.0 + 1.0 / len(checked)), confidence)


def bootstrap_interval(
    values: Values, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The percentile bootstrap of a mean over images (Efron, Annals of Statistics 1979).

    It says how the score of *this* run would vary with the images that were drawn, and nothing about other seeds. For
    two runs on the same images give it their differences, image by image: what makes an image hard drops out. Of a mean
    over many images the percentile interval is as good as the bias-corrected one (BCa), whose time grows with the
    square of their number. With few values it is far too narrow: take :func:`mean_interval` over seeds.

    The cost is ``resamples`` times the number of values, in pieces of 32 MB.

    Args:
        values: one value an image, at least two.
        generator: where the resamples come from; the same state gives the same interval.
        confidence: two-sided confidence, in (0, 1).
        resamples: how many times as many images are drawn again.

    Raises:
        UsageError: as in :func:`mean_interval`, or too few ``resamples`` for an end of the interval.

    >>> correct = np.repeat([0.0, 1.0], [150, 350])
    >>> interval = bootstrap_interval(correct, np.random.default_rng(0))
    >>> f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    '0.70 [0.66, 0.74]'
    """
    checked = _checked(values, "values")
    _check_share(confidence, "confidence")
    least = math.ceil(2 / (1 - confidence))
    if resamples < least:
        raise UsageError(
            f"resamples is {resamples}: the ends of a {confidence:.1%} interval need at least {least}, such as 10000."
        )
    result = stats.bootstrap(
        (checked,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, BATCH // len(checked)),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=generator,
    )
    low, high = result.confidence_interval
    return Interval(float(checked.mean()), float(low), float(high), len(checked), confidence)


def equivalent(interval: Interval, margin: float) -> bool:
    r"""Whether the difference counts as none: its whole interval lies within :math:`\pm m`.

    "Not significant" is no evidence of equality, since few seeds make anything insignificant. This rule is: it rejects
    both "at least m above" and "at least m below" by a one-sided t-test each (TOST; Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics 1987). Each errs at half of what the interval leaves out: a 90 % interval
    tests at 5 %. The register's verdicts use this rule with wider intervals, so they err less.

    Args:
        interval: of a difference, such as :func:`paired_difference` gives.
        margin: differences up to it count as none; at least 0, in the units of the values.

    Raises:
        UsageError: ``margin`` is negative.

    >>> difference = paired_difference([0.61, 0.58, 0.60], [0.60, 0.58, 0.61], confidence=0.90)
    >>> equivalent(difference, margin=0.02), equivalent(difference, margin=0.01)
    (True, False)
    """
    if not margin >= 0:
        raise UsageError(f"margin is {margin}; expected a number that is not negative.")
    return bool(-margin <= interval.low and interval.high <= margin)


def seeds_needed(
    standard_deviation: float, margin: float, power: float = 0.8, confidence: float = 0.95, to_show: str = "difference"
) -> int:
    r"""How many seeds a comparison of two methods needs, each seed run with both.

    ``"difference"``: a true difference of ``margin`` is found, its interval lies above zero, with probability
    ``power``. Then :math:`\bar d \sqrt n / s` follows the non-central t distribution with :math:`n - 1` degrees of
    freedom and non-centrality :math:`m \sqrt n / \sigma`. To find a difference above a claim's own margin, give what it
    exceeds that margin by.

    ``"equivalence"``: methods without any true difference are shown to be :func:`equivalent` within ``margin``.

    Args:
        standard_deviation: of the paired difference over seeds, above 0; a guess from few seeds makes a guess of this.
        margin: above 0, in the same units.
        power: probability of showing what is true, in (0, 1).
        confidence: of the two-sided interval that decides, in (0, 1).
        to_show: ``"difference"`` or ``"equivalence"``.

    Raises:
        UsageError: an argument is out of range, or 10,000 seeds would not do.

    >>> seeds_needed(standard_deviation=0.02, margin=0.01), seeds_needed(standard_deviation=0.02, margin=0.04)
    (34, 5)
    """
    for name, value in (("standard_deviation", standard_deviation), ("margin", margin)):
        if not 0.0 < value < math.inf:
            raise UsageError(f"{name} is {value}; expected a positive number.")
    _check_share(power, "power")
    _check_share(confidence, "confidence")
    if to_show not in _POWERS:
        raise UsageError(f"to_show={to_show!r} is unknown; expected {' or '.join(map(repr, _POWERS))}.")
    ratio = margin / standard_deviation
    candidates = range(2, MOST_SEEDS + 1)
    position = bisect_left(candidates, power, key=lambda n: _POWERS[to_show](n, ratio, confidence))
    if position == len(candidates):
        raise UsageError(
            f"margin={margin} is too small beside standard_deviation={standard_deviation}: {MOST_SEEDS} seeds would "
            "not show it. Reduce the noise, for example by evaluating on more images."
        )
    return candidates[position]


def _power_of_difference(n: int, ratio: float, confidence: float) -> float:
    """Probability that the interval of n pairs lies above zero; ``ratio`` is true difference / standard deviation."""
    return float(stats.nct.sf(_quantile(n, confidence), n - 1, ratio * math.sqrt(n)))


def _power_of_equivalence(n: int, ratio: float, confidence: float) -> float:
    """Probability that the interval of n pairs lies within plus and minus ``ratio`` standard deviations of zero.

    For a given s the mean has to lie within m - t s / sqrt(n); the probability of that, averaged over s.
    """
    quantile, scaled = _quantile(n, confidence), ratio * math.sqrt(n)

    def inside(u: np.ndarray) -> np.ndarray:  # u is the probability of a smaller s
        s = np.sqrt(stats.chi2.ppf(u, n - 1) / (n - 1))
        return 2 * stats.norm.cdf(scaled - quantile * s) - 1

    largest_s = scaled / quantile  # from here on the interval is wider than what it has to lie in
    return float(integrate.fixed_quad(inside, 0, stats.chi2.cdf((n - 1) * largest_s**2, n - 1), n=64)[0])


_POWERS: dict[str, Callable[[int, float, float], float]] = {
    "difference": _power_of_difference,
    "equivalence": _power_of_equivalence,
}


def _t_interval(values: np.ndarray, scale: float, confidence: float) -> Interval:
    """Mean plus and minus ``scale`` standard deviations times the t-quantile."""
    _check_share(confidence, "confidence")
    n = len(values)
    mean = float(values.mean())
    half = _quantile(n, confidence) * float(values.std(ddof=1)) * scale
    return Interval(mean, mean - half, mean + half, n, confidence)


def _quantile(n: int, confidence: float) -> float:
    """Student's t for the two-sided interval of n values."""
    return float(stats.t.isf((1.0 - confidence) / 2.0, df=n - 1))  # isf keeps its digits for confidences close to 1


def _check_share(value: float, argument: str) -> None:
    if not 0.0 < value < 1.0:
        raise UsageError(f"{argument} is {value}; expected a number between 0 and 1, such as 0.95.")


def _checked(values: Values, argument: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise UsageError(
            f"{argument} has shape {array.shape}; expected at least 2 values in a row. "
            "An interval needs several runs: measure more seeds."
        )
    if not np.isfinite(array).all():
        position = int(np.flatnonzero(~np.isfinite(array))[0])
        raise UsageError(
            f"{argument}[{position}] is {array[position]}; expected finite numbers. "
            "Find the run that gave it before drawing an interval."
        )
    return array
