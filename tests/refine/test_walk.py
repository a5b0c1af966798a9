"""Laws of the random walk, the matrix over all pairs of cells, and AffinityNet's released code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.refine.reference import psa, taken_by_official
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Affinity, half_plane_offsets, valid_pairs
from wsl_core.refine import random_walk

pytestmark = pytest.mark.usefixtures("one_thread")


def affinity_of(features, radius=3, official=False):
    """exp(-mean of |difference| over channels) of all pairs; NaN where there is none."""
    offsets = half_plane_offsets(radius)
    valid = valid_pairs(offsets, tuple(features.shape[-2:]), official)
    there = torch.stack([features.roll((-dy, -dx), dims=(-2, -1)) for dy, dx in offsets.tolist()], dim=1)
    values = (-(features[:, None] - there).abs().mean(dim=2)).exp()
    return Affinity(values.masked_fill(~valid, math.nan), offsets, valid)


def scene(seed=0, images=2, classes=3, height=7, width=6, radius=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(images, classes, height, width, generator=generator, dtype=dtype)
    features = 4 * torch.rand(images, 2, height, width, generator=generator, dtype=dtype)
    return maps, affinity_of(features, radius)


def dense(affinity, beta):
    """T over all pairs of cells, (B, N, N), entry by entry."""
    images, _, height, width = affinity.values.shape
    matrix = torch.eye(height * width, dtype=torch.float64).repeat(images, 1, 1)
    for o, y, x in affinity.valid.nonzero().tolist():
        dy, dx = affinity.offsets[o].tolist()
        here, there = y * width + x, (y + dy) * width + x + dx
        matrix[:, here, there] = matrix[:, there, here] = affinity.values[:, o, y, x].double() ** beta
    return matrix / matrix.sum(dim=2, keepdim=True)


def walk_densely(maps, affinity, beta, steps):
    transitions = torch.linalg.matrix_power(dense(affinity, beta), steps)
    return torch.einsum("bij,bcj->bci", transitions, maps.flatten(2).double()).view(maps.shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_walk_is_the_released_codes(dtype):
    """Its pairs leave some out near the edges, and it squares the matrix eight times, in single precision."""
    reference = psa()
    affinity = affinity_of(reference["features"][None], int(reference["radius"]), official=True)
    torch.testing.assert_close(taken_by_official(affinity.values[0]), reference["affinity_pairs"], rtol=1e-6, atol=0)
    cams, numbers = reference["cam"][None].to(dtype), {"beta": int(reference["beta"]), "steps": int(reference["t"])}
    found = random_walk(cams, affinity, **numbers)[0]
    torch.testing.assert_close(found.double(), reference["random_walk"], rtol=0, atol=1e-5)
    every = affinity_of(reference["features"][None], int(reference["radius"]))
    assert (random_walk(cams, every, **numbers)[0] - found).abs().max() > 1e-3  # it matters what is left out


@given(
    st.integers(0, 10**6), st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6),
    st.integers(2, 4), st.sampled_from([0, 0.5, 1, 8]), st.integers(0, 12),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_neighbours_alone_do_what_the_whole_matrix_does(seed, images, classes, height, width, radius, beta, steps):
    maps, affinity = scene(seed, images, classes, height, width, radius)
    torch.testing.assert_close(
        random_walk(maps, affinity, beta, steps), walk_densely(maps, affinity, beta, steps), rtol=0, atol=1e-12
    )


def test_256_steps_are_eight_squarings():
    maps, affinity = scene(1, height=11, width=13, radius=5, dtype=torch.float32)
    transitions = dense(affinity, 8)
    for _ in range(8):
        transitions = transitions @ transitions
    expected = torch.einsum("bij,bcj->bci", transitions, maps.flatten(2).double()).view(maps.shape)
    torch.testing.assert_close(random_walk(maps, affinity), expected.float(), rtol=0, atol=1e-6)


def test_rows_of_the_transition_matrix_are_probabilities():
    _, affinity = scene(2, images=1, height=5, width=4)
    each = torch.eye(20, dtype=torch.float64).view(1, 20, 5, 4)  # a map for every cell: what comes out is T, transposed
    transitions = random_walk(each, affinity, steps=1).flatten(2)[0].T
    torch.testing.assert_close(transitions.sum(dim=1), torch.ones(20, dtype=torch.float64))
    assert transitions.min() >= 0
    torch.testing.assert_close(transitions, dense(affinity, 8)[0])


@given(st.integers(0, 10**6), st.floats(-100, 100), st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_a_constant_map_stays_and_any_other_keeps_its_range(seed, level, steps):
    maps, affinity = scene(seed)
    flat = torch.full_like(maps, level)
    torch.testing.assert_close(random_walk(flat, affinity, steps=steps), flat)
    walked = random_walk(maps, affinity, steps=steps)
    assert walked.min() >= maps.min() - 1e-12 and walked.max() <= maps.max() + 1e-12
    assert walked.std() < maps.std()


def test_a_constant_map_stays_in_single_precision():
    _, affinity = scene(0, dtype=torch.float32)
    flat = torch.full((2, 1, 7, 6), 0.7)
    torch.testing.assert_close(random_walk(flat, affinity, steps=1024), flat, rtol=0, atol=1e-4)


def test_no_step_is_the_identity_and_steps_add_up():
    maps, affinity = scene(3)
    assert torch.equal(random_walk(maps, affinity, steps=0), maps)
    twice = random_walk(random_walk(maps, affinity, steps=5), affinity, steps=7)
    torch.testing.assert_close(twice, random_walk(maps, affinity, steps=12))


def halves(between, height=6, width=8):
    """Affinity 1 within the left and the right half, and the given one between them."""
    features = torch.zeros(1, 1, height, width)
    features[..., width // 2 :] = -math.log(between)
    return affinity_of(features)


def test_a_large_power_confines_the_walk_to_what_is_alike():
    affinity = halves(between=0.5)
    maps = torch.zeros(1, 1, 6, 8)
    maps[..., 1, 1] = 1.0
    crossed = [random_walk(maps, affinity, beta, steps=8)[..., 4:].sum().item() for beta in (0, 1, 8, 200)]
    assert crossed == sorted(crossed, reverse=True) and crossed[0] > 2 * crossed[2] and crossed[3] < 1e-12
    walked = random_walk(maps, affinity, beta=200, steps=2000)[..., :4]
    # In the long run each cell is visited as often as it has neighbours: the lit one's share of those of its half.
    neighbours = (dense(affinity, 200)[0] > 1e-9).sum(dim=1).view(6, 8)
    share = neighbours[1, 1] / neighbours[:, :4].sum()
    torch.testing.assert_close(walked, share.float().expand_as(walked), rtol=0, atol=1e-6)


def test_the_power_zero_asks_nobody():
    maps, affinity = scene(4)
    same = affinity._replace(values=torch.ones_like(affinity.values))
    torch.testing.assert_close(random_walk(maps, affinity, beta=0), random_walk(maps, same))


def test_a_cell_like_no_other_keeps_its_score():
    maps, affinity = scene(5)
    alone = affinity._replace(values=torch.zeros_like(affinity.values))
    assert torch.equal(random_walk(maps, alone), maps)


def test_images_and_maps_do_not_mix():
    maps, affinity = scene(6, images=3)
    together = random_walk(maps, affinity)
    for b in range(3):
        one = affinity._replace(values=affinity.values[b : b + 1])
        for c in range(3):
            torch.testing.assert_close(random_walk(maps[b : b + 1, c : c + 1], one)[0, 0], together[b, c])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype):
    """What half precision loses, it loses at the input and at the output alone."""
    maps, affinity = scene(7)
    half = maps.to(dtype), affinity._replace(values=affinity.values.to(dtype))
    found = random_walk(*half)
    assert found.dtype == dtype
    wide = random_walk(half[0].double(), affinity._replace(values=half[1].values.double()))
    torch.testing.assert_close(found.double(), wide, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_no_gradient_passes():
    maps, affinity = scene(8)
    assert not random_walk(maps.requires_grad_(), affinity, steps=1).requires_grad


def changed(affinity, **changes):
    return affinity._replace(**{name: change(getattr(affinity, name)) for name, change in changes.items()})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"values": lambda v: torch.full_like(v, math.nan)},
            DataError,
            r"affinity.values: found NaN or values outside",
        ),
        ({"values": lambda v: -v}, DataError, r"outside \[0, 1\] in valid pairs"),
        ({"values": lambda v: v + 1}, DataError, r"outside \[0, 1\] in valid pairs"),
        ({"values": lambda v: v[:, 1:]}, UsageError, r"expected \(B, C, h, w\), \(B, 12, h, w\) and \(12, h, w\)"),
        ({"values": lambda v: v[:1]}, UsageError, "maps .*: expected"),
        ({"values": lambda v: v[..., 1:], "valid": lambda v: v[..., 1:]}, UsageError, "Resize the maps"),
        ({"valid": torch.ones_like}, DataError, "affinity.valid: found a pair with a cell outside"),
        ({"offsets": lambda o: torch.cat([o[:-1], o[:1]])}, UsageError, "an offset comes twice"),
        ({"offsets": lambda o: torch.cat([o[:-1], -o[:1]])}, UsageError, "beside its opposite"),
        ({"offsets": lambda o: 0 * o}, UsageError, r"or is \(0, 0\)"),
    ],
)
def test_wrong_affinities(changes, error, words):
    maps, affinity = scene(9)
    if "valid" in changes and "values" not in changes:
        affinity = affinity._replace(values=affinity.values.nan_to_num(0.5))
    with pytest.raises(error, match=words):
        random_walk(maps, changed(affinity, **changes))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": -1}, "beta=-1: expected a finite number, at least 0"),
        ({"beta": math.inf}, "beta=inf"),
        ({"beta": math.nan}, "beta=nan"),
        ({"steps": -1}, "steps=-1: expected 0 or more"),
    ],
)
def test_wrong_numbers(options, words):
    with pytest.raises(UsageError, match=words):
        random_walk(*scene(), **options)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_maps_that_are_not_finite(bad):
    maps, affinity = scene()
    maps[0, 0, 0, 0] = bad
    with pytest.raises(DataError, match=r"maps .* found NaN or infinity"):
        random_walk(maps, affinity)
