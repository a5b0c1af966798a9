"""Laws of Proposal Flow: exact maps by construction, and each term of a match by its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from wsl_core.errors import DataError, UsageError
from wsl_core.matching import (
    REGION_MATCHERS,
    DescriptorMap,
    cell_centres,
    match_regions,
    proposal_flow,
    sliding_boxes,
)
from wsl_core.matching.regions import (
    HOUGH_CELL,
    LOCAL_CELL,
    LOCAL_SCALE,
    _geometric_medians,
    _hough,
    _landings,
    _local,
    _offsets,
    _pooled,
)
from wsl_core.ops import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid(stride=4, first=2)


def random_map(channels, height, width, seed=0):
    return DescriptorMap(torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed)), GRID)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500))
def test_sliding_boxes_cover_the_image_and_nothing_else(height, width):
    boxes = sliding_boxes((height, width))
    assert len(boxes) == 542 == len(boxes.unique(dim=0))
    assert boxes[0].tolist() == [0, 0, width, height]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
    shares = (boxes[:, 2:] - boxes[:, :2]) / torch.tensor([width, height])
    assert ((shares.log2().round() - shares.log2()).abs() < 1e-3).all()
    assert (shares.log2().diff(dim=1).abs() < 1.001).all()


def test_windows_of_a_size_overlap_by_half():
    boxes = sliding_boxes((64, 64))
    smallest = boxes[boxes[:, 2:].sub(boxes[:, :2]).amax(dim=1) < 9]
    assert sorted(smallest[:, 0].unique().tolist()) == [4.0 * i for i in range(15)]


@pytest.mark.parametrize("how", REGION_MATCHERS)
def test_an_image_matches_itself_by_the_identity(how):
    described, boxes = random_map(8, 16, 12), sliding_boxes((64, 48))
    confidence = match_regions(described, described, boxes, boxes, how)
    assert torch.equal(confidence.argmax(dim=1), torch.arange(542))
    result = proposal_flow(described, described, boxes, boxes, how)
    torch.testing.assert_close(result.positions, cell_centres((16, 12), GRID), atol=1e-3, rtol=0)
    assert result.valid.all() and result.grid == GRID


@pytest.mark.parametrize("how", REGION_MATCHERS)
def test_a_shifted_copy_is_found(how):
    """By half a smallest window, so that windows show the same in both images."""
    scene = random_map(8, 32, 34).features
    a, b = (DescriptorMap(scene[:, :, left : left + 32], GRID) for left in (0, 2))
    boxes = sliding_boxes((128, 128))
    result = proposal_flow(a, b, boxes, boxes, how)
    moves = (result.positions - cell_centres((32, 32), GRID))[:, 4:]
    assert (moves - torch.tensor([-8.0, 0.0])).abs().amax(dim=-1).lt(0.1).float().mean() > 0.9


def test_an_enlarged_copy_is_found():
    """What a shows in its middle fills b: regions twice as large match, and the flow scales."""
    scene = torch.nn.functional.avg_pool2d(random_map(8, 36, 36).features, 5, 1)
    enlarged = scene[:, 8:24, 8:24].repeat_interleave(2, 1).repeat_interleave(2, 2)
    boxes = sliding_boxes((128, 128))
    result = proposal_flow(DescriptorMap(scene, GRID), DescriptorMap(enlarged, GRID), boxes, boxes, "phm")
    middle = slice(8, 24)
    expected = 2 * (cell_centres((32, 32), GRID) - 32)
    assert (result.positions - expected)[middle, middle].abs().amax(dim=-1).lt(1).float().mean() > 0.9


@pytest.mark.parametrize("how", REGION_MATCHERS)
def test_the_scale_of_the_descriptors_does_not_count(how):
    a, b, boxes = random_map(4, 12, 16), random_map(4, 12, 16, 1), sliding_boxes((48, 64))
    confidence = match_regions(a, b, boxes, boxes, how)
    fourfold = [DescriptorMap(4 * described.features, GRID) for described in (a, b)]  # without rounding
    assert torch.equal(match_regions(*fourfold, boxes, boxes, how), confidence)
    assert confidence.min() >= 0 and confidence.any(dim=1).all() and confidence.isfinite().all()


def test_what_all_regions_have_in_common_does_not_count():
    a, b, boxes = random_map(4, 12, 16), random_map(4, 12, 16, 1), sliding_boxes((48, 64))
    other = [DescriptorMap(described.features + 5, GRID) for described in (a, b)]
    appearance = match_regions(a, b, boxes, boxes, "nam")
    torch.testing.assert_close(match_regions(*other, boxes, boxes, "nam"), appearance, atol=1e-4, rtol=0)


def test_appearance_is_a_cosine_and_symmetric():
    a, b, boxes = random_map(4, 12, 16), random_map(4, 12, 16, 1), sliding_boxes((48, 64))
    appearance = match_regions(a, b, boxes, boxes, "nam")
    assert appearance.min() >= 0 and appearance.max() <= 1 + 1e-5
    torch.testing.assert_close(appearance, match_regions(b, a, boxes, boxes, "nam").T)


def test_regions_of_different_shape_do_not_match():
    random = torch.Generator().manual_seed(0)
    low = torch.rand(40, 2, generator=random) * 24
    boxes = torch.cat([low, low + 4 + torch.rand(40, 2, generator=random) * 20], dim=1)
    described = random_map(4, 12, 12)
    appearance = match_regions(described, described, boxes, boxes, "nam")
    aspect = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    change = torch.maximum(aspect[:, None] / aspect, aspect / aspect[:, None])
    assert not appearance[change >= 2].any() and appearance[(change > 1.8) & (change < 2)].any()


@pytest.mark.parametrize("grid", [GRID, Grid(stride=4, first=0), Grid(stride=2.5, first=5)])
def test_regions_are_pooled_where_their_grid_says(grid):
    """Of cells that know where they are, a region's mean is its middle."""
    places = DescriptorMap(cell_centres((20, 24), grid).permute(2, 0, 1), grid)
    boxes = torch.tensor([[12.0, 10.0, 40.0, 38.0], [20.0, 15.0, 27.0, 40.0]])
    middles = _pooled(places, boxes).unflatten(1, (2, -1)).mean(dim=-1)
    torch.testing.assert_close(middles, (boxes[:, :2] + boxes[:, 2:]) / 2)


def test_offsets_are_shares_of_image_b_and_octaves_of_area():
    boxes_a = torch.tensor([[10.0, 10, 20, 30]])
    boxes_b = torch.tensor([[0.0, 0, 100, 50], [25, 10, 45, 50]])
    offsets = _offsets(boxes_a, boxes_b)
    torch.testing.assert_close(offsets[0], torch.tensor([[0.35, 0.05, math.log2(25)], [0.2, 0.1, 2.0]]))


def test_all_matches_of_one_enlargement_land_together():
    boxes_a, scale, move = sliding_boxes((40, 60)), torch.tensor([2.0, 0.5]), torch.tensor([7.0, 3.0])
    boxes_b = boxes_a * scale.repeat(2) + move.repeat(2)
    landings = _landings(boxes_a, boxes_b).diagonal().T
    expected = torch.cat([(torch.tensor([60.0, 40.0]) * scale + move) / 124, torch.zeros(1)])  # from 3 to 127
    torch.testing.assert_close(landings, expected.expand(542, 3), atol=1e-4, rtol=1e-4)


def landed(*shares):
    """Landings at these shares of image b to the right, without a change of scale."""
    landings = torch.full((len(shares), len(shares[0]), 3), 0.01)
    landings[..., 0] += torch.tensor(shares)
    return landings


def test_many_that_agree_outvote_a_surer_one():
    appearance = torch.full((4, 2), 0.5)
    appearance[3, 1] = 0.9
    votes = _hough(appearance, landed([0.8, 0.2], [0.8, 0.5], [0.8, 1.1], [0.8, 1.4]))
    torch.testing.assert_close(votes[:, 0], votes[0, 0].expand(4))
    torch.testing.assert_close(votes[0, 0] / votes[3, 1], torch.tensor(2.0 / 0.9))


def test_a_region_votes_for_a_bin_once_and_with_its_surest_match():
    votes = _hough(torch.tensor([[0.2, 0.8, 0.5], [0.8, 0.0, 0.0]]), landed([0.4] * 3, [1.4] * 3))
    torch.testing.assert_close(votes, votes[0, 0].expand(2, 3))


def test_votes_reach_neighbouring_bins():
    landings = landed([0.4], [0.4 + HOUGH_CELL], [1.4])
    votes = _hough(torch.tensor([[1.0], [0.5], [0.0]]), landings)[:, 0]
    alone = _hough(torch.tensor([[1.0], [0.0], [0.0]]), landings)[:, 0]
    assert votes[0] > alone[0] > alone[1] > 0 and alone[2] == 0


def test_matches_that_land_far_off_do_not_count():
    """Although there are votes in the bins next to which they land."""
    landings = landed([0.0], [-0.1], [1.98], [2.1], [0.4], [0.4], [1.2], [1.2])
    landings[4:, 0, 2] = torch.tensor([-3.9, -4.1, 3.9, 4.1])
    assert (_hough(torch.ones(8, 1), landings)[:, 0] > 0).tolist() == [True, False] * 4


def test_the_local_offset_is_the_median_of_the_neighbourhood():
    """Three overlapping regions, of which one goes astray, and one far from all."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 5, 10, 15], [50, 50, 60, 60]])
    appearance = torch.diag(torch.tensor([0.6, 0.8, 0.6, 1.0])) + 0.1
    offsets = torch.zeros(4, 4, 3)
    offsets[range(4), range(4)] = torch.tensor([[0.1, 0, 0], [0.1, 0, 0], [0.9, 0.9, 3], [0.4, 0, 1]])
    closeness = _local(appearance, offsets, boxes)
    shares = torch.tensor([0.7, 0.9, 0.7, 1.1]) / 3.4
    near = shares[:3].sum()
    torch.testing.assert_close(closeness[[0, 1], [0, 1]], near.expand(2), atol=1e-3, rtol=1e-3)
    astray = near * math.exp(-math.hypot(0.8, 0.9) / LOCAL_CELL - 3 * LOCAL_SCALE)
    torch.testing.assert_close(closeness[2, 2], astray, atol=1e-6, rtol=1e-2)
    torch.testing.assert_close(closeness[3, 3], shares[3])


def test_regions_that_match_nothing_have_no_say_in_the_local_offset():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 5, 10, 15], [50, 50, 60, 60]])
    appearance = torch.zeros(4, 1)
    appearance[0] = 0.5
    offsets = torch.tensor([[0.1, 0.0, 0.0], [0.9, 0.0, 0.0], [0.8, 0.0, 0.0], [0.0, 0.0, 0.0]])[:, None]
    closeness = _local(appearance, offsets, boxes)
    torch.testing.assert_close(closeness[0, 0], torch.tensor(1.0), atol=1e-3, rtol=0)
    assert closeness.isfinite().all() and closeness[3, 0] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(3, 7))
def test_a_geometric_median_has_the_least_sum_of_distances(seed, count):
    random = torch.Generator().manual_seed(seed)
    points, weights = torch.rand(count, 3, generator=random), torch.rand(1, count, generator=random) + 0.1

    def total(place):
        return float((weights * (points - torch.as_tensor(place, dtype=torch.float32)).norm(dim=1)).sum())

    least = optimize.minimize(total, points.mean(dim=0).numpy(), method="Nelder-Mead").fun
    assert total(_geometric_medians(points, weights)[0]) == pytest.approx(least, rel=0.02)


def test_the_surest_region_carries_what_it_holds():
    """Two regions of a, side by side, of which one shows in b twice as wide; no region holds the last column."""
    scene = torch.nn.functional.avg_pool2d(random_map(8, 10, 30).features, 3, 1)[:, :8]
    a = DescriptorMap(scene[:, :, :17], GRID)
    b = DescriptorMap(torch.cat([scene[:, :, 8:16].repeat_interleave(2, 2), scene[:, :, :8]], dim=2), GRID)
    boxes_a = torch.tensor([[0.0, 0, 32, 32], [32, 0, 64, 32]])
    boxes_b = torch.tensor([[0.0, 0, 63, 32], [64, 0, 96, 32]])
    result = proposal_flow(a, b, boxes_a, boxes_b, "nam")
    centres = cell_centres((8, 17), GRID)
    torch.testing.assert_close(result.positions[:, :8], centres[:, :8] + torch.tensor([64.0, 0.0]))
    wide = (centres[:, 8:16] - torch.tensor([32.0, 0.0])) * torch.tensor([63 / 32, 1.0])
    torch.testing.assert_close(result.positions[:, 8:16], wide)
    assert result.valid[:, :16].all() and not result.valid[:, 16].any()
    appearance = match_regions(a, b, boxes_a, boxes_b, "nam")
    torch.testing.assert_close(result.scores[:, :8], appearance[0, 1].expand(8, 8))


@pytest.mark.parametrize("how", REGION_MATCHERS)
def test_sizes_may_differ(how):
    result = proposal_flow(
        random_map(4, 9, 14), random_map(4, 20, 7, 1), sliding_boxes((36, 56)), sliding_boxes((80, 28)), how
    )
    assert result.positions.shape == (9, 14, 2) and result.positions.isfinite().all()
    assert (result.positions >= 0).all() and (result.positions < torch.tensor([28.0, 80.0])).all()


@pytest.mark.parametrize("how", REGION_MATCHERS)
def test_flat_images_have_nothing_to_match(how):
    flat, boxes = DescriptorMap(torch.ones(3, 8, 8), GRID), sliding_boxes((32, 32))
    with pytest.raises(DataError, match="not flat"):
        match_regions(flat, flat, boxes, boxes, how)


def test_wrong_arguments():
    described, boxes = random_map(3, 8, 8), sliding_boxes((32, 32))
    with pytest.raises(UsageError, match="how='best'"):
        match_regions(described, described, boxes, boxes, "best")
    with pytest.raises(DataError, match="boxes_a: found no region"):
        match_regions(described, described, boxes[:0], boxes)
    with pytest.raises(DataError, match="boxes_b: found a region"):
        match_regions(described, described, boxes, torch.tensor([[3.0, 0.0, 3.0, 5.0]]))
    with pytest.raises(DataError, match="boxes_b: found a region"):
        match_regions(described, described, boxes, torch.tensor([[0.0, 0.0, float("nan"), 5.0]]))
    with pytest.raises(UsageError, match=r"size=\(0, 3\)"):
        sliding_boxes((0, 3))
