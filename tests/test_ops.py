"""Laws of the small functions: range, flat maps, bad values, gradients."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import (
    Grid,
    classes_asked,
    global_pool,
    half_plane_offsets,
    mean_over,
    normalize,
    resize_maps,
    ten_crop_scores,
    valid_pairs,
)

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


FAMILY = [("gap", None), ("gmp", None), ("lse", 5.0), ("topk", 0.2), ("gem", 3.0)]
rectified = hnp.arrays("float64", (1, 2, 4, 5), elements=st.floats(0, 50)).map(torch.from_numpy)
pairs = {  # two values of each parameter, the one nearer to GAP first
    "lse": st.tuples(st.floats(1e-3, 20), st.floats(1e-3, 20)).map(sorted),
    "topk": st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: sorted(pair, reverse=True)),
    "gem": st.tuples(st.floats(1, 20), st.floats(1, 20)).map(sorted),
}


def gradient_of_pooling(features, how, parameter=None):
    features = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(global_pool(features, how, parameter).sum(), features)
    return gradient


@pytest.mark.parametrize(("how", "parameter"), FAMILY)
def test_pooling_gradients_in_float64(how, parameter):
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: global_pool(x, how, parameter), features)


@pytest.mark.parametrize(
    ("how", "parameter", "limit"),
    [
        ("lse", 1e-6, "gap"),
        ("lse", 1e6, "gmp"),
        ("topk", 1, "gap"),
        ("topk", 1e-9, "gmp"),
        ("gem", 1, "gap"),
        ("gem", 1e7, "gmp"),
    ],
)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_the_ends_of_the_family_are_gap_and_gmp(how, parameter, limit, scale):
    """In the precision of training: small r loses no digits, a large power does not overflow."""
    features = scale * torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    if how == "lse":
        parameter /= scale  # r has the unit of one over a feature
    torch.testing.assert_close(global_pool(features, how, parameter), global_pool(features, limit), rtol=2e-5, atol=0)


@pytest.mark.parametrize("how", pairs)
@given(features=rectified, data=st.data())
def test_between_gap_and_gmp_the_family_rises(how, features, data):
    near_gap, near_gmp = data.draw(pairs[how])
    values = [global_pool(features, *step) for step in (("gap",), (how, near_gap), (how, near_gmp), ("gmp",))]
    for lower, higher in pairwise(values):
        assert (lower <= higher + 2e-6).all()  # GeM lifts zeros to 1e-6


def test_each_pooling_gives_a_position_its_own_share_of_the_gradient():
    features = torch.rand(1, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    flat = features.flatten()
    highest = torch.zeros(20, dtype=torch.float64)
    highest[flat.topk(5).indices] = 1 / 5
    expected = {
        ("gap", None): torch.full_like(flat, 1 / 20),
        ("gmp", None): (flat == flat.max()).double(),
        ("lse", 7.0): (7 * flat).softmax(dim=0),
        ("topk", 0.25): highest,
        ("gem", 4.0): flat**3 / 20 / flat.pow(4).mean() ** 0.75,
    }
    for (how, parameter), gradient in expected.items():
        torch.testing.assert_close(gradient_of_pooling(features, how, parameter).flatten(), gradient)


def test_gmp_divides_its_gradient_among_equal_maxima():
    assert gradient_of_pooling(torch.tensor([[[[2.0, 2.0], [1.0, 0.0]]]]), "gmp").flatten().tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(("how", "parameter"), FAMILY)
def test_a_silent_unit_has_a_finite_value_and_gradient(how, parameter):
    """Behind a ReLU whole maps are zero, and others zero almost everywhere."""
    features = torch.zeros(2, 1, 6, 6)
    features[1, 0, 2, 3] = 300.0
    assert global_pool(features, how, parameter)[0].item() == pytest.approx(0, abs=2e-6)
    assert gradient_of_pooling(features, how, parameter).isfinite().all()


@pytest.mark.parametrize(
    ("how", "parameter", "words"),
    [
        ("gap", 2.0, "'gap' takes none"),
        ("gmp", 0.0, "'gmp' takes none"),
        ("lse", None, "pooling_parameter=None: pooling 'lse' expects a sharpness r > 0"),
        ("lse", 0.0, "sharpness"),
        ("lse", float("inf"), "sharpness"),
        ("lse", float("nan"), "sharpness"),
        ("topk", 0.0, "share q"),
        ("topk", 3, "share q"),
        ("gem", 0.5, "exponent p >= 1"),
    ],
)
def test_a_pooling_parameter_out_of_range(how, parameter, words):
    with pytest.raises(UsageError, match=words):
        global_pool(torch.zeros(1, 1, 2, 2), how, parameter)


def test_resize_keeps_a_constant_and_the_range():
    assert torch.equal(resize_maps(torch.full((1, 1, 3, 3), 2.0), (7, 11)), torch.full((1, 1, 7, 11), 2.0))
    maps = torch.rand(1, 2, 5, 5)
    larger = resize_maps(maps, (40, 40))
    assert larger.min() >= maps.min() and larger.max() <= maps.max()


@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 30)] * 2))
def test_cells_that_tile_the_image_are_enlarged_as_torch_does(cells, size):
    maps = torch.rand(2, 3, *cells, dtype=torch.float64)
    torch.testing.assert_close(resize_maps(maps, size), F.interpolate(maps, size, mode="bilinear"))


@given(st.integers(2, 9), st.integers(1, 8), st.floats(-4, 12))
def test_a_cell_is_put_where_the_grid_says(cells, stride, first):
    """A map that holds the place of each of its cells must show every pixel between them its own place."""
    place = first + stride * torch.arange(cells, dtype=torch.float64)
    enlarged = resize_maps(place.expand(1, 1, cells, cells), (40, 40), Grid(stride, first))[0, 0, 0]
    pixel = torch.arange(40) + 0.5
    torch.testing.assert_close(enlarged, pixel.double().clamp(place[0].item(), place[-1].item()))


def test_log_sum_exp_survives_sixteen_bits():
    """One bright cell among 23x23: the mean of exp - 1 is so near -1 that 16 bits cannot tell them apart."""
    features = torch.zeros(1, 1, 23, 23)
    features[..., 11, 11] = 40.0
    expected = global_pool(features, "lse", 4.0)
    for dtype in (torch.bfloat16, torch.float16):
        low = features.to(dtype).requires_grad_()
        pooled = global_pool(low, "lse", 4.0)
        pooled.sum().backward()
        assert pooled.dtype == dtype and low.grad.isfinite().all()
        torch.testing.assert_close(pooled.detach().float(), expected, rtol=1e-2, atol=0)


def test_a_share_of_half_a_position_rounds_up():
    five = torch.arange(5.0).view(1, 1, 1, 5)
    assert global_pool(five, "topk", 0.5).item() == 3.0  # the mean of 4, 3 and 2


def test_resize_lets_gradients_through_and_refuses_maps_without_a_cell():
    maps = torch.rand(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: resize_maps(m, (5, 4), Grid(2.0, 0.5)), maps)
    with pytest.raises(DataError, match="at least one cell"):
        resize_maps(torch.zeros(1, 1, 0, 2), (4, 4))


def test_ten_crops_are_corners_centre_and_their_mirror_images():
    images = torch.rand(2, 3, 8, 10)
    seen = []
    ten_crop_scores(lambda crops: seen.append(crops) or crops.mean(dim=(2, 3)), images, 4)
    views = seen[0].unflatten(0, (10, 2))
    assert torch.equal(views[0], images[..., :4, :4]) and torch.equal(views[3], images[..., -4:, -4:])
    mirrored = {tuple(view.flatten().tolist()) for view in views[5:]}
    assert mirrored == {tuple(view.flip(-1).flatten().tolist()) for view in views[:5]}


def test_averaging_logits_and_probabilities_differ_unless_all_views_agree():
    images = torch.rand(2, 3, 6, 6)
    model = lambda crops: 9 * crops[:, :, 0, 0]  # noqa: E731
    logits, probabilities = (ten_crop_scores(model, images, 4, how) for how in ("logits", "probabilities"))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    assert not torch.allclose(logits.softmax(dim=1), probabilities)
    flat = images[..., :1, :1].expand(2, 3, 6, 6)
    same = [ten_crop_scores(model, flat, 4, how) for how in ("logits", "probabilities")]
    torch.testing.assert_close(same[0].softmax(dim=1), same[1])


def test_ten_crops_that_do_not_fit():
    with pytest.raises(UsageError, match="size=7"):
        ten_crop_scores(torch.nn.Identity(), torch.rand(1, 3, 6, 9), 7)
    with pytest.raises(UsageError, match="average='votes'"):
        ten_crop_scores(torch.nn.Identity(), torch.rand(1, 3, 6, 9), 4, "votes")


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (3,), (3, 5), (4, 3)])
def test_labels_that_would_be_spread_are_refused(shape):
    with pytest.raises(UsageError, match=r"labels: found shape \(.*\); expected multi-hot \(3, 4\)"):
        classes_asked(torch.ones(shape), torch.zeros(3, 4, 2, 2))
    assert torch.equal(classes_asked(torch.eye(4)[:3].long(), torch.zeros(3, 4, 2, 2)), torch.eye(4)[:3])


@given(st.integers(2, 6))
def test_half_plane_offsets_name_every_neighbour_once(radius):
    offsets = [tuple(offset) for offset in half_plane_offsets(radius).tolist()]
    both = offsets + [(-dy, -dx) for dy, dx in offsets]
    reach = range(-radius, radius + 1)
    expected = [(y, x) for y in reach for x in reach if 0 < y * y + x * x < radius * radius]
    assert sorted(both) == sorted(expected)
    assert offsets == sorted(offsets) and offsets[0] == (0, 1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 5))
def test_valid_pairs_are_those_of_two_cells(height, width, radius):
    offsets = half_plane_offsets(radius)
    every, taken = (valid_pairs(offsets, (height, width), official) for official in (False, True))
    for o, (dy, dx) in enumerate(offsets.tolist()):
        for y in range(height):
            for x in range(width):
                assert every[o, y, x] == (y + dy < height and 0 <= x + dx < width)
    # The released code cuts out one region for all offsets: radius - 1 rows below it, and as many columns beside it.
    reach = radius - 1
    region = torch.zeros(height, width, dtype=torch.bool)
    region[: max(height - reach, 0), reach : max(width - reach, 0)] = True
    assert torch.equal(taken, region.expand_as(taken)) and not (taken & ~every).any()


def test_the_released_code_loses_one_pair_in_seven():
    """At a crop of 448 pixels, 56 x 56 cells, within radius 5."""
    offsets = half_plane_offsets(5)
    every, taken = (valid_pairs(offsets, (56, 56), official).sum().item() for official in (False, True))
    assert len(offsets) == 34 and round(100 * (1 - taken / every), 1) == 14.4


def test_no_neighbour_is_nearer_than_one():
    with pytest.raises(UsageError, match="radius=1: expected at least 2"):
        half_plane_offsets(1)


def test_a_mean_over_several_processes_counts_what_all_have(monkeypatch):
    """Two processes with 1 and 3 chosen values: the mean of what they return is the one mean."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.fill_(4))
    first = mean_over(torch.tensor([5.0, 9.0]), torch.tensor([True, False]))
    second = mean_over(torch.tensor([1.0, 2.0, 4.0]), torch.ones(3, dtype=torch.bool))
    assert (first + second) / 2 == (5 + 1 + 2 + 4) / 4


def test_what_is_left_out_of_a_mean_has_no_gradient():
    values = torch.tensor([2.0, float("inf"), float("nan")], requires_grad=True)
    for count in (1, 0):
        mean = mean_over(values, torch.arange(3) < count)
        (gradient,) = torch.autograd.grad(mean, values)
        assert mean == 2 * count and gradient.tolist() == [count, 0, 0]
