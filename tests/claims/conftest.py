"""Claims and records made for the tests, by the same functions that the book uses."""

import numpy as np
import pytest

from wsl_core.claims.records import Record, differences
from wsl_core.claims.register import Claim, Comparison


def make_paired_claim(margin=0.02, baselines=("other",), identifier="cam-example", kind="paired"):
    comparison = Comparison("one", tuple(baselines), {})
    return Claim(
        identifier, "cam", "method", "One is better.", kind, "accuracy", "synthetic", comparison,
        experiment="example", margin=margin, labels="ground truth",
    )  # fmt: skip


def make_exact_claim(**limits):
    return Claim(
        "cam-exact", "cam", "method", "Equal.", "exact", "error", "synthetic", Comparison("", (), limits),
        experiment="example", labels="none",
    )  # fmt: skip


def make_record(claim, **values):
    values = {variant.replace("_", " "): np.asarray(numbers, float).tolist() for variant, numbers in values.items()}
    n = len(next(iter(values.values())))
    return Record(
        claim=claim.id, experiment=claim.experiment, metric=claim.metric, scope="synthetic", scale="book",
        seeds=list(range(n)), values=values, differences=differences(claim, values), key="k", source="s",
        data_version={"test": "1"}, code_version="0", commit="c", hardware="a computer", minutes=1.0,
        date="2025-01-01T00:00:00+00:00",
    )  # fmt: skip


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def paired_claim():
    return make_paired_claim


@pytest.fixture
def exact_claim():
    return make_exact_claim


@pytest.fixture
def record_of():
    return make_record
