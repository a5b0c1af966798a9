"""Intervals for a handful of runs.

Five seeds are few: a percentile bootstrap over them covers far less than it promises. Student's t is exact for normal
values and close enough for scores that are means over many images, so every interval here is a t-interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from wsl_core.errors import UsageError

__all__ = ["Interval", "mean_interval", "paired_difference", "prediction_interval"]

Values = Sequence[float | int] | np.ndarray


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


def _t_interval(values: np.ndarray, scale: float, confidence: float) -> Interval:
    """Mean plus and minus ``scale`` standard deviations times the t-quantile."""
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95.")
    n = len(values)
    mean = float(values.mean())
    quantile = stats.t.isf((1.0 - confidence) / 2.0, df=n - 1)  # isf keeps its digits for confidences close to 1
    half = float(quantile * values.std(ddof=1) * scale)
    return Interval(mean, mean - half, mean + half, n, confidence)


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
