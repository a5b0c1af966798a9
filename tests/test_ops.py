"""Laws of the small functions: range, flat maps, bad values, gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import global_pool, normalize, resize_maps

finite_maps = hnp.arrays("float32", (2, 3, 4), elements=st.floats(-1e6, 1e6, width=32)).map(torch.from_numpy)


@given(finite_maps, st.sampled_from(["minmax", "max"]))
def test_normalized_maps_lie_between_zero_and_one(maps, how):
    result = normalize(maps, how)
    assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1


@given(finite_maps, st.sampled_from(["minmax", "max"]))
def test_a_map_that_varies_reaches_one(maps, how):
    for single, result in zip(maps, normalize(maps, how), strict=True):
        varies = single.max() > single.min() and (how == "minmax" or single.max() > 0)
        assert result.max() == (1.0 if varies else 0.0)


def test_normalize_ignores_positive_scale_and_minmax_ignores_shift():
    maps = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    for how in ("minmax", "max"):
        torch.testing.assert_close(normalize(7 * maps, how), normalize(maps, how))
    torch.testing.assert_close(normalize(maps + 3), normalize(maps))


def test_max_keeps_zero_as_no_evidence_and_minmax_does_not():
    maps = torch.tensor([[-2.0, 0.0, 2.0]])
    assert normalize(maps, "max").tolist() == [[0, 0, 1]]
    assert normalize(maps, "minmax").tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize("value", [-3.0, 0.0, 5.0])
@pytest.mark.parametrize("how", ["minmax", "max"])
def test_constant_maps_become_zeros(value, how):
    assert normalize(torch.full((2, 3, 3), value), how).abs().max() == 0


def test_each_map_is_normalized_by_itself():
    maps = torch.stack([torch.eye(3), 100 * torch.eye(3)])
    torch.testing.assert_close(normalize(maps)[0], normalize(maps)[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_maps_raise(bad):
    maps = torch.zeros(2, 3, 3)
    maps[1, 0, 0] = bad
    for how in ("minmax", "max"):
        with pytest.raises(DataError, match="NaN"):
            normalize(maps, how)


def test_overflowing_range_raises():
    with pytest.raises(DataError, match="overflow"):
        normalize(torch.tensor([[-3e38, 3e38]]))


def test_unknown_names_raise():
    with pytest.raises(UsageError, match="how='l2'"):
        normalize(torch.zeros(1, 2, 2), "l2")
    with pytest.raises(UsageError, match="gap, gmp"):
        global_pool(torch.zeros(1, 1, 2, 2), "median")


def test_pooling_gradients_in_float64():
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    for how in ("gap", "gmp"):
        assert torch.autograd.gradcheck(lambda x, how=how: global_pool(x, how), features)


def test_gap_spreads_its_gradient_and_gmp_does_not():
    for how, touched in (("gap", 20), ("gmp", 1)):
        features = torch.rand(1, 1, 4, 5, requires_grad=True)
        global_pool(features, how).sum().backward()
        assert (features.grad != 0).sum() == touched


def test_resize_keeps_a_constant_and_the_range():
    assert torch.equal(resize_maps(torch.full((1, 1, 3, 3), 2.0), (7, 11)), torch.full((1, 1, 7, 11), 2.0))
    maps = torch.rand(1, 2, 5, 5)
    larger = resize_maps(maps, (40, 40))
    assert larger.min() >= maps.min() and larger.max() <= maps.max()
