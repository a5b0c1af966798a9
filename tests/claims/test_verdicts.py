import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsl_core.claims.register import load_register
from wsl_core.claims.verdicts import classify, corrected_confidence, family_size, judge
from wsl_core.errors import UsageError
from wsl_core.metrics.statistics import Interval

SEEDS = 5


@pytest.fixture
def judge_difference(random, paired_claim, record_of):
    """Judge two variants whose runs share what their seed does and differ by ``shift`` plus noise."""

    def judge_one(shift, margin, family, noise=0.01):
        shared = random.normal(0.5, 0.05, SEEDS)
        one, other = (shared + random.normal(0, noise, SEEDS) for _ in range(2))
        claim = paired_claim(margin)
        return judge(claim, record_of(claim, one=one + shift, other=other), family)

    return judge_one


# What chance does --------------------------------------------------------------------------------------------------


def count_supported(judge_difference, margin, family):
    return sum(judge_difference(0.0, margin, family).status == "supported" for _ in range(1000))


def test_a_thing_compared_with_itself_1000_times(judge_difference):
    """The chapter's machinery: its correction and the smallest margin that the register holds."""
    claims = load_register().of("cam")
    margin = min(claim.margin for claim in claims if claim.kind == "paired")
    assert count_supported(judge_difference, margin, family_size(claims)) <= 25


def test_the_correction_alone_keeps_chance_out(judge_difference):
    """Even were every difference to count (no margin to speak of), the corrected intervals hold."""
    assert count_supported(judge_difference, 1e-9, family_size(load_register().of("cam"))) <= 25


def test_without_correction_and_margin_the_interval_errs_as_often_as_it_says(judge_difference):
    """A check of the check: uncorrected, 2.5 % are expected on this side; far fewer would mean a dull instrument."""
    assert 10 <= count_supported(judge_difference, 1e-9, 1) <= 45


def test_a_whole_chapter_without_any_effect(judge_difference):
    """Of scorecards with ten claims and nothing behind them, few show a single "supported"."""
    scorecards = [[judge_difference(0.0, 1e-9, 10).status for _ in range(10)] for _ in range(150)]
    assert np.mean(["supported" in scorecard for scorecard in scorecards]) <= 0.05


def test_an_effect_well_above_the_margin_is_found(judge_difference):
    found = [judge_difference(0.15, 0.02, family=10).status for _ in range(200)]
    assert np.mean([status == "supported" for status in found]) > 0.95
    found = [judge_difference(-0.15, 0.02, family=10).status for _ in range(200)]
    assert np.mean([status == "refuted" for status in found]) > 0.95


def test_a_difference_well_below_the_margin_is_called_none(judge_difference):
    assert {judge_difference(0.0, 0.02, family=1, noise=0.001).status for _ in range(50)} == {"no difference"}


# The rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (0.021, 0.3, "supported"),
        (0.02, 0.3, "inconclusive"),  # touching the margin is not above it
        (0.01, 0.3, "inconclusive"),
        (-0.02, 0.02, "no difference"),  # the margin itself still counts as none
        (0.01, 0.019, "no difference"),  # a difference, but too small to count
        (-0.021, 0.02, "inconclusive"),
        (-0.3, 0.3, "inconclusive"),
        (-0.3, -0.02, "inconclusive"),
        (-0.3, -0.021, "refuted"),
    ],
)
def test_where_the_interval_lies(low, high, status):
    assert classify(Interval((low + high) / 2, low, high, SEEDS), 0.02) == status


ends = st.floats(-1, 1, allow_nan=False)


@given(ends, ends, st.floats(0, 0.5))
def test_swapping_the_variants_swaps_the_verdict(a, b, margin):
    low, high = sorted((a, b))
    swapped = {"supported": "refuted", "refuted": "supported"}
    status = classify(Interval((low + high) / 2, low, high, SEEDS), margin)
    assert classify(Interval(-(low + high) / 2, -high, -low, SEEDS), margin) == swapped.get(status, status)


@given(ends, ends, st.floats(0.001, 0.2), st.floats(0.001, 0.2))
def test_a_wider_margin_never_supports_more(a, b, margin, more):
    low, high = sorted((a, b))
    interval = Interval((low + high) / 2, low, high, SEEDS)
    if classify(interval, margin + more) == "supported":
        assert classify(interval, margin) == "supported"


@given(st.integers(1, 200))
def test_the_correction_splits_the_error_evenly(family):
    assert (1 - corrected_confidence(family)) * family == pytest.approx(0.05)


def test_the_corrected_interval_contains_the_plain_one(judge_difference):
    (compared,) = judge_difference(0.1, 0.02, family=10).compared
    assert compared.corrected.low < compared.plain.low < compared.plain.high < compared.corrected.high


def test_a_claim_is_as_strong_as_its_weakest_comparison(paired_claim, record_of):
    claim = paired_claim(baselines=("weak", "same", "strong"))
    one = [0.50, 0.51, 0.52, 0.49, 0.48]
    near = np.array([0.001, -0.001, 0.001, -0.001, 0.0])
    runs = {"one": one, "weak": np.array(one) - 0.2 + near, "same": np.array(one) + near}
    refuted = judge(claim, record_of(claim, **runs, strong=np.array(one) + 0.2 + near), 1)
    assert [compared.status for compared in refuted.compared] == ["supported", "no difference", "refuted"]
    assert refuted.status == "refuted" and refuted.deciding.baseline == "strong"
    even = judge(claim, record_of(claim, **runs, strong=np.array(one) - 0.1 + near), 1)
    assert even.status == "no difference" and even.deciding.baseline == "same"


def test_an_identity_has_to_hold_for_every_seed(exact_claim, record_of):
    claim = exact_claim(float32=1e-5, float64=1e-12)
    good = judge(claim, record_of(claim, float32=[1e-7] * SEEDS, float64=[0.0] * SEEDS), 0)
    assert good.status == "supported" and good.scope == "synthetic"
    bad = judge(claim, record_of(claim, float32=[1e-7] * SEEDS, float64=[0.0] * 4 + [1e-11]), 0)
    assert bad.status == "refuted" and bad.deciding.baseline == "float64" and bad.deciding.worst == 1e-11


@pytest.mark.parametrize(
    ("shift", "spread", "status"),
    [(0.0, 0.001, "supported"), (0.1, 0.001, "refuted"), (-0.1, 0.001, "refuted"), (0.0, 0.1, "inconclusive")],
)
def test_that_two_are_equal_needs_an_interval_within_the_margin(paired_claim, record_of, shift, spread, status):
    claim = paired_claim(margin=0.02, kind="equal")
    other = np.array([0.5, 0.6, 0.7, 0.6, 0.5])
    one = other + shift + spread * np.array([1, -1, 0, -1, 1])
    assert judge(claim, record_of(claim, one=one, other=other), family_size([claim])).status == status


def test_too_few_seeds_decide_nothing(paired_claim, record_of):
    claim = paired_claim()
    verdict = judge(claim, record_of(claim, one=[0.9] * 4, other=[0.1] * 4), 1)
    assert (verdict.status, verdict.reason, verdict.compared) == ("inconclusive", "seeds recorded: 4, needed: 5", ())


def test_without_a_record_there_is_no_verdict(paired_claim):
    assert judge(paired_claim(), None, 1).reason == "not measured yet"
    untested = load_register().claim("cam-surgery-costs-little")
    verdict = judge(untested, None, 1)
    assert (verdict.status, verdict.reason) == ("not tested here", untested.reason)


def test_family_counts_every_planned_comparison(exact_claim, paired_claim):
    assert family_size([paired_claim(), paired_claim(baselines=("a", "b")), exact_claim(float32=1.0)]) == 3


def test_wrong_arguments(exact_claim, paired_claim, record_of):
    claim = paired_claim()
    record = record_of(claim, one=[0.1] * SEEDS, other=[0.1] * SEEDS)
    with pytest.raises(UsageError, match="record is one of 'cam-example'"):
        judge(exact_claim(float32=1.0), record, 1)
    with pytest.raises(UsageError, match="lacks third"):
        judge(paired_claim(baselines=("other", "third")), record, 1)
    with pytest.raises(UsageError, match="margin"):
        classify(Interval(0.0, 0.0, 0.0, SEEDS), -0.1)
    with pytest.raises(UsageError, match="family"):
        corrected_confidence(0)


def test_of_several_equalities_the_one_farthest_from_zero_decides(paired_claim, record_of):
    claim = dataclasses.replace(paired_claim(baselines=("near", "far")), kind="equal", margin=0.5)
    steps = np.array([0.001, -0.001, 0.0, 0.001, -0.001])
    record = record_of(claim, one=(0.5 + steps).tolist(), near=[0.5] * 5, far=[0.4] * 5)
    assert judge(claim, record, 2).deciding.baseline == "far"


def test_a_record_of_another_metric_is_none_of_the_claim(paired_claim, record_of):
    claim = paired_claim()
    record = record_of(claim, one=[0.9] * 5, other=[0.1] * 5)
    with pytest.raises(UsageError, match=r"its metric is .*Measure it again"):
        judge(dataclasses.replace(claim, metric="something else"), record, 1)
