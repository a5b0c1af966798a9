import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from wsl_core.errors import UsageError
from wsl_core.metrics.statistics import (
    Interval,
    bootstrap_interval,
    equivalent,
    mean_interval,
    paired_difference,
    prediction_interval,
    seeds_needed,
)

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


# Bootstrap over images ---------------------------------------------------------------------------------------------


def bootstrap_coverage(draw, truth, runs):
    generator = np.random.default_rng(7)
    return np.mean([truth in bootstrap_interval(draw(generator), generator, resamples=500) for _ in range(runs)])


def test_the_bootstrap_over_five_seeds_covers_far_less_than_it_says():
    """Student's interval of the same five covers 95 %: test_t_interval_covers_the_mean_with_five_values."""
    assert 0.75 < bootstrap_coverage(lambda generator: generator.normal(3, 1, 5), 3, runs=600) < 0.88


def test_the_bootstrap_over_images_covers_what_it_says():
    """Right or wrong for each of 300 images, which is anything but normal."""
    assert 0.92 < bootstrap_coverage(lambda generator: generator.random(300) < 0.7, 0.7, runs=400) < 0.98


def test_over_many_images_bootstrap_and_student_agree():
    values = np.random.default_rng(3).gamma(2, 0.1, 2000)
    student, bootstrap = mean_interval(values), bootstrap_interval(values, np.random.default_rng(4))
    width = student.high - student.low
    assert (bootstrap.mean, bootstrap.n, bootstrap.confidence) == (student.mean, 2000, 0.95)
    assert bootstrap.low == pytest.approx(student.low, abs=0.05 * width)
    assert bootstrap.high == pytest.approx(student.high, abs=0.05 * width)


def test_differences_of_the_same_images_say_more_than_two_intervals():
    random = np.random.default_rng(5)
    hardness = random.random(200)
    better, baseline = hardness + 0.03 + random.normal(0, 0.02, 200), hardness + random.normal(0, 0.02, 200)
    apart = bootstrap_interval(better, random), bootstrap_interval(baseline, random)
    assert apart[0].low < apart[1].high and bootstrap_interval(better - baseline, random).low > 0


def test_the_generator_decides_the_bootstrap_and_equal_images_leave_nothing_to_chance():
    values = np.random.default_rng(6).random(50)
    first, again, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert bootstrap_interval([0.5] * 10, np.random.default_rng(0)) == Interval(0.5, 0.5, 0.5, 10)


def test_what_cannot_be_resampled():
    generator = np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"values\[1\] is nan"):
        bootstrap_interval([0.1, math.nan], generator)
    with pytest.raises(UsageError, match=r"resamples is 20.*at least 40"):
        bootstrap_interval([0.1, 0.2], generator, resamples=20)
    with pytest.raises(UsageError, match="confidence is 95"):
        bootstrap_interval([0.1, 0.2], generator, confidence=95)


# No difference -----------------------------------------------------------------------------------------------------


@given(st.lists(numbers, min_size=2, max_size=12), st.floats(0.01, 50))
def test_equivalence_is_two_one_sided_t_tests(values, margin):
    assume(np.std(values) > 1e-3)
    not_above = stats.ttest_1samp(values, margin, alternative="less").pvalue
    not_below = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    assume(abs(max(not_above, not_below) - 0.05) > 1e-6)
    assert equivalent(mean_interval(values, 0.90), margin) == (max(not_above, not_below) < 0.05)


@pytest.mark.parametrize("truth", [0.1, -0.1])
def test_a_difference_as_large_as_the_margin_is_called_none_in_5_percent(truth):
    runs = np.random.default_rng(8).normal(truth, 0.02, (2000, 5))
    assert 0.035 < np.mean([equivalent(mean_interval(row, 0.90), 0.1) for row in runs]) < 0.065


def test_noise_is_no_evidence_of_equality():
    """No true difference and none significant, but five noisy runs cannot show that there is none."""
    runs = np.random.default_rng(9).normal(0, 0.2, (500, 5))
    assert np.mean([equivalent(mean_interval(row, 0.90), 0.1) for row in runs]) < 0.1


@pytest.mark.parametrize("margin", [-0.01, math.nan])
def test_a_margin_is_not_negative(margin):
    with pytest.raises(UsageError, match="margin is"):
        equivalent(Interval(0.0, -0.1, 0.1, 5), margin)


# How many seeds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "power", "seeds"), [(0.2, 0.8, 199), (0.5, 0.8, 34), (0.8, 0.8, 15), (0.5, 0.95, 54)]
)
def test_textbook_sample_sizes_of_a_paired_t_test(ratio, power, seeds):
    """Cohen's small, medium and large effect, as G*Power gives them at a two-sided level of 5 %."""
    assert seeds_needed(1.0, ratio, power) == seeds


@pytest.mark.parametrize(("ratio", "to_show"), [(1.0, "difference"), (2.0, "difference"), (1.0, "equivalence")])
def test_as_many_seeds_show_it_as_often_as_asked_and_one_less_does_not(ratio, to_show):
    shown = {
        "difference": lambda interval: interval.low > ratio,  # the truth is 2 * ratio: a margin, and as much above it
        "equivalence": lambda interval: equivalent(interval, ratio),
    }
    truth = 2 * ratio if to_show == "difference" else 0.0
    enough = seeds_needed(1.0, ratio, to_show=to_show)
    random = np.random.default_rng(10)
    rates = [
        np.mean([shown[to_show](mean_interval(row)) for row in random.normal(truth, 1, (3000, n))])
        for n in (enough - 1, enough)
    ]
    assert rates[0] < 0.8 + 0.015 and rates[1] > 0.8 - 0.015 and rates[0] < rates[1]


@settings(max_examples=25)
@given(st.floats(0.1, 5), st.floats(0.5, 0.95), st.floats(0.8, 0.99), st.sampled_from(["difference", "equivalence"]))
def test_more_is_asked_of_more_seeds(ratio, power, confidence, to_show):
    seeds = seeds_needed(1.0, ratio, power, confidence, to_show)
    assert 2 <= seeds == seeds_needed(7.0, 7 * ratio, power, confidence, to_show)
    assert seeds <= seeds_needed(1.0, ratio, power + 0.04, confidence, to_show)
    assert seeds <= seeds_needed(1.0, ratio, power, confidence + 0.009, to_show)
    assert seeds >= seeds_needed(1.0, 1.1 * ratio, power, confidence, to_show)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, 0.1), "standard_deviation is 0.0"),
        ((0.1, -0.1), "margin is -0.1"),
        ((math.inf, 0.1), "standard_deviation is inf"),
        ((0.1, 0.1, 80), "power is 80"),
        ((0.1, 0.1, 0.8, 95), "confidence is 95"),
        ((0.1, 0.1, 0.8, 0.95, "superiority"), "to_show='superiority'"),
        ((1.0, 1e-3), "10000 seeds would not show it"),
    ],
)
def test_seeds_for_what_cannot_be_shown(arguments, words):
    with pytest.raises(UsageError, match=words):
        seeds_needed(*arguments)
