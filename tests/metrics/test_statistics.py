import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsl_core.errors import UsageError
from wsl_core.metrics.statistics import Interval, mean_interval, paired_difference, prediction_interval

numbers = st.floats(-100, 100, allow_nan=False)
samples = st.lists(numbers, min_size=2, max_size=12)


def test_textbook_interval():
    # t(0.975, df=4) = 2.776445; s of 1..5 is sqrt(2.5)
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3 and interval.n == 5 and interval.confidence == 0.95
    assert interval.high - 3 == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert 3 - interval.low == pytest.approx(interval.high - 3)


def test_pairing_removes_what_a_seed_does_to_both():
    rng = np.random.default_rng(0)
    seed_effect = rng.normal(0, 5, 6)
    noise = rng.normal(0, 0.01, 6)
    interval = paired_difference(seed_effect + 0.1, seed_effect + noise)
    assert interval.high - interval.low < 0.05


def test_one_seed_measured_twice_is_a_point():
    assert paired_difference([1, 2, 3], [1, 2, 3]) == Interval(0.0, 0.0, 0.0, 3)


def test_prediction_interval_covers_the_next_run():
    runs = np.random.default_rng(1).normal(0, 1, (2000, 6))
    inside = [row[5] in prediction_interval(row[:5]) for row in runs]
    assert 0.93 < np.mean(inside) < 0.97


def test_t_interval_covers_the_mean_with_five_values():
    runs = np.random.default_rng(2).normal(3, 1, (2000, 5))
    assert 0.93 < np.mean([3 in mean_interval(row) for row in runs]) < 0.97


@given(samples, st.floats(0.01, 50), st.floats(-50, 50))
def test_scaling_and_shifting_the_values_does_it_to_the_interval(values, scale, shift):
    before, after = mean_interval(values), mean_interval(np.array(values) * scale + shift)
    for name in ("mean", "low", "high"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) * scale + shift, rel=1e-6, abs=1e-6)


@given(samples)
def test_negating_the_values_mirrors_the_interval(values):
    before, after = mean_interval(values), mean_interval(-np.array(values))
    assert after.low == pytest.approx(-before.high) and after.high == pytest.approx(-before.low)


@given(samples, st.floats(0.5, 0.98), st.floats(0.001, 0.01))
def test_more_confidence_is_a_wider_interval(values, confidence, more):
    assume(np.std(values) > 1e-6)
    narrow, wide = mean_interval(values, confidence), mean_interval(values, confidence + more)
    assert wide.low < narrow.low <= narrow.mean <= narrow.high < wide.high


@given(samples)
def test_one_run_varies_more_than_a_mean(values):
    mean, further = mean_interval(values), prediction_interval(values)
    assert further.low <= mean.low and mean.high <= further.high


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "at least 2 values"),
        ([0.5], "at least 2 values"),
        (np.ones((2, 2)), r"shape \(2, 2\)"),
        ([0.1, math.nan, 0.2], r"values\[1\] is nan"),
        ([0.1, 0.2, math.inf], r"values\[2\] is inf"),
    ],
)
@pytest.mark.parametrize("function", [mean_interval, prediction_interval])
def test_values_that_have_no_interval(function, values, message):
    with pytest.raises(UsageError, match=message):
        function(values)


def test_a_pair_needs_both():
    with pytest.raises(UsageError, match="a has 3 values and b has 2"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(UsageError, match=r"b\[0\] is nan"):
        paired_difference([1, 2], [math.nan, 2])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_is_a_share(confidence):
    with pytest.raises(UsageError, match="confidence"):
        mean_interval([1.0, 2.0], confidence)
