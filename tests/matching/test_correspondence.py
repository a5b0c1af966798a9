"""What a correspondence carries along: points, colours and labels end up where they are told."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.errors import DataError, UsageError
from wsl_core.matching import (
    Correspondence,
    DescriptorMap,
    cell_centres,
    dsp,
    match_regions,
    nearest_neighbours,
    sliding_boxes,
    transfer_mask,
    transfer_points,
    warp_image,
)
from wsl_core.ops import Grid

PIXELS = Grid(1, 0.5)
IMAGE = torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 4, (5, 8), generator=torch.Generator().manual_seed(1))


def moved(shape, grid, move, valid=None):
    """Every cell moves by x, y."""
    ones = torch.ones(shape)
    valid = ones.bool() if valid is None else valid
    return Correspondence(cell_centres(shape, grid) + torch.tensor(move), ones, valid, grid)


def mirrored(height, width):
    positions = cell_centres((height, width), PIXELS) * torch.tensor([-1.0, 1.0]) + torch.tensor([width, 0.0])
    ones = torch.ones(height, width)
    return Correspondence(positions, ones, ones.bool(), PIXELS)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(1, 16), st.floats(0, 8), st.data())
def test_each_centre_goes_where_its_cell_goes(height, width, stride, first, data):
    seed = data.draw(st.integers(0, 100))
    grid, ones = Grid(stride, first), torch.ones(height, width)
    positions = torch.rand(height, width, 2, generator=torch.Generator().manual_seed(seed)) * 50
    correspondence = Correspondence(positions, ones, ones.bool(), grid)
    centres = cell_centres((height, width), grid).flatten(0, 1)
    torch.testing.assert_close(transfer_points(centres, correspondence), positions.flatten(0, 1), atol=1e-4, rtol=0)


def test_a_point_moves_with_the_nearest_cell_even_from_beyond_the_map():
    grid = Grid(4, 2)
    positions = cell_centres((2, 2), grid) + torch.tensor([[[10.0, 0], [20, 0]], [[30, 0], [40, 0]]])
    correspondence = Correspondence(positions, torch.ones(2, 2), torch.ones(2, 2).bool(), grid)
    points = torch.tensor([[0.0, 0.0], [7.9, 3.9], [3.0, 4.1], [4.1, 4.1], [99.0, 99.0], [-9.0, 99.0]])
    moves = (transfer_points(points, correspondence) - points)[:, 0]
    torch.testing.assert_close(moves, torch.tensor([10.0, 20, 30, 40, 40, 30]))


def test_of_two_cells_at_the_same_distance_the_upper_left_one_counts():
    moves = torch.arange(9.0).view(3, 3, 1) * torch.tensor([10.0, 0.0])
    ones = torch.ones(3, 3)
    correspondence = Correspondence(cell_centres((3, 3), PIXELS) + moves, ones, ones.bool(), PIXELS)
    points = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    assert (transfer_points(points, correspondence) - points)[:, 0].tolist() == [0, 10, 30, 40]


def test_missing_points_stay_missing():
    result = transfer_points(
        torch.tensor([[float("nan"), float("nan")], [1.0, 1.0]]), moved((3, 3), PIXELS, (2.0, 1.0))
    )
    assert result[0].isnan().all() and result[1].tolist() == [3.0, 2.0]


def test_cells_without_a_match_move_with_the_nearest_that_has_one():
    valid = torch.tensor([[True, False, False, False, True]])
    positions = cell_centres((1, 5), PIXELS) + torch.tensor([10.0, 0.0])
    positions[0, 1:4] = float("nan")
    positions[0, 4] += 10
    correspondence = Correspondence(positions, torch.ones(1, 5), valid, PIXELS)
    points = cell_centres((1, 5), PIXELS)[0]
    moves = (transfer_points(points, correspondence) - points)[:, 0]
    assert moves[[0, 1, 3, 4]].tolist() == [10, 10, 20, 20]


def test_without_any_match_nothing_is_carried():
    nothing = moved((2, 2), PIXELS, (0.0, 0.0), torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(DataError, match="no valid cell"):
        transfer_points(torch.zeros(1, 2), nothing)
    with pytest.raises(DataError, match="no valid cell"):
        warp_image(IMAGE, nothing, (2, 2))
    with pytest.raises(DataError, match="no valid cell"):
        transfer_mask(LABELS, nothing, (2, 2))


@settings(deadline=None)
@given(st.integers(-3, 3), st.integers(-3, 3))
def test_images_and_masks_move_by_whole_pixels_exactly_and_their_border_holds(right, down):
    correspondence = moved((5, 8), PIXELS, (float(right), float(down)))
    rows = (torch.arange(5) + down).clamp(0, 4)[:, None]
    columns = (torch.arange(8) + right).clamp(0, 7)
    torch.testing.assert_close(warp_image(IMAGE, correspondence, (5, 8)), IMAGE[:, rows, columns])
    assert torch.equal(transfer_mask(LABELS, correspondence, (5, 8)), LABELS[rows, columns])


def test_a_mirrored_image_and_its_mask_come_back():
    torch.testing.assert_close(warp_image(IMAGE, mirrored(5, 8), (5, 8)), IMAGE.flip(-1))
    assert torch.equal(transfer_mask(LABELS, mirrored(5, 8), (5, 8)), LABELS.flip(-1))


def test_what_is_carried_over_has_the_size_of_image_a():
    coarse = moved((2, 3), Grid(4, 2), (0.0, 0.0))
    assert warp_image(IMAGE, coarse, (8, 12)).shape == (3, 8, 12)
    assert transfer_mask(LABELS, coarse, (8, 12)).shape == (8, 12)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_no_label_and_no_colour_is_invented(seed):
    random = torch.Generator().manual_seed(seed)
    positions = torch.rand(6, 4, 2, generator=random) * 20 - 5
    correspondence = Correspondence(positions, torch.ones(6, 4), torch.ones(6, 4).bool(), Grid(2, 1))
    image = warp_image(IMAGE, correspondence, (12, 8))
    assert image.min() >= IMAGE.min() - 1e-6 and image.max() <= IMAGE.max() + 1e-6
    assert torch.isin(transfer_mask(LABELS, correspondence, (12, 8)), LABELS).all()


BOXES = sliding_boxes((8, 8))
MATCHERS = {
    "nearest_neighbours": nearest_neighbours,
    "dsp": dsp,
    "match_regions": lambda a, b: match_regions(a, b, BOXES, BOXES),
}


@pytest.mark.parametrize("match", MATCHERS.values(), ids=MATCHERS)
def test_every_matcher_refuses_what_are_no_descriptors(match):
    good = DescriptorMap(torch.rand(3, 8, 8), PIXELS)
    for value in (float("nan"), float("inf")):
        bad = DescriptorMap(torch.rand(3, 8, 8).index_fill(2, torch.tensor([5]), value), PIXELS)
        with pytest.raises(DataError, match="a: found NaN"):
            match(bad, good)
        with pytest.raises(DataError, match="b: found NaN"):
            match(good, bad)
    with pytest.raises(UsageError, match="3 and 4 channels"):
        match(good, DescriptorMap(torch.rand(4, 8, 8), PIXELS))
    with pytest.raises(DataError, match="at least one cell"):
        match(good, DescriptorMap(torch.rand(3, 0, 8), PIXELS))


@pytest.mark.parametrize("match", MATCHERS.values(), ids=MATCHERS)
def test_no_matcher_keeps_gradients_and_all_take_half_precision(match):
    described = DescriptorMap(torch.rand(3, 8, 8, dtype=torch.bfloat16, requires_grad=True), PIXELS)
    result = match(described, described)
    values = result if isinstance(result, torch.Tensor) else result.scores
    assert not values.requires_grad and values.dtype == torch.float32
