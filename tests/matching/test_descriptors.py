"""Descriptors without training: they look where their grid says, and say nothing of flat images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.errors import DataError, UsageError
from wsl_core.matching import cell_centres, dense_sift, hog, nearest_neighbours, position, raw_colours
from wsl_core.ops import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))
DESCRIBE = {"sift": dense_sift, "hog": hog}


def dot(x, y):
    image = torch.full((3, 64, 64), 0.5)
    image[:, y, x] = 1.0
    return image


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(22, 40), st.integers(22, 40))
def test_sift_descriptors_see_a_dot_from_all_sides_alike(stride, bin_size, x, y):
    """Those that see it lie around it: a grid half a stride off would show."""
    described = dense_sift(dot(x, y), stride, bin_size)
    sees = described.features.any(dim=0)
    around = cell_centres(sees.shape, described.grid)[sees]
    middle = (around.amin(dim=0) + around.amax(dim=0)) / 2
    assert (middle - torch.tensor([x + 0.5, y + 0.5])).abs().max() <= stride / 2 + 1e-4
    assert described.grid.stride == stride and 0 <= described.grid.first <= max(stride, 3 * bin_size / 2)


def test_sift_sees_a_dot_exactly_in_the_middle_at_stride_one():
    described = dense_sift(dot(30, 27), stride=1, bin_size=5)
    sees = described.features.any(dim=0)
    around = cell_centres(sees.shape, described.grid)[sees]
    assert ((around.amin(dim=0) + around.amax(dim=0)) / 2).tolist() == [30.5, 27.5]


@pytest.mark.parametrize(("stride", "bin_size"), [(2, 4), (4, 4), (8, 4), (4, 8)])
def test_sift_tiles_the_image(stride, bin_size):
    described = dense_sift(IMAGE, stride, bin_size)
    assert described.grid == Grid(stride, stride / 2)
    assert described.features.shape == (128, 64 // stride, 80 // stride)


@pytest.mark.parametrize("cell", [4, 8])
def test_a_hog_block_sees_what_is_in_it(cell):
    x, y = 30, 27
    described = hog(dot(x, y), cell)
    sees = described.features.any(dim=0)
    reach = (cell_centres(sees.shape, described.grid) - torch.tensor([x + 0.5, y + 0.5])).abs().amax(dim=-1)
    assert sees[reach < 1.5 * cell].all() and not sees[reach > 1.5 * cell + 1.5].any()
    assert sees.shape == (64 // cell - 2, 64 // cell - 2)


@pytest.mark.parametrize("describe", DESCRIBE.values(), ids=DESCRIBE)
def test_descriptors_move_with_the_image(describe):
    """A crop matches its place in the image."""
    crop, whole = describe(IMAGE[:, 16:56, 24:64]), describe(IMAGE)
    result = nearest_neighbours(crop, whole)
    expected = cell_centres(result.valid.shape, result.grid) + torch.tensor([24.0, 16.0])
    inner = (slice(4, -4),) * 2 if describe is dense_sift else (slice(1, -1),) * 2  # borders have other neighbours
    torch.testing.assert_close(result.positions[inner], expected[inner])


@pytest.mark.parametrize("describe", DESCRIBE.values(), ids=DESCRIBE)
def test_descriptors_have_unit_length_or_none(describe):
    torch.testing.assert_close(describe(IMAGE).features.norm(dim=0), torch.ones(describe(IMAGE).features.shape[1:]))
    for flat in (torch.zeros(3, 32, 32), torch.full((3, 32, 32), 0.7)):
        assert not describe(flat).features.any()
    assert describe(IMAGE.half()).features.dtype == torch.float16 and describe(IMAGE.double()).features.isfinite().all()


@settings(deadline=None)
@given(st.integers(8, 50), st.integers(8, 50), st.integers(1, 8))
def test_position_is_relative_to_the_image(height, width, stride):
    described = position((height, width), stride=stride)
    centres = cell_centres((height // stride, width // stride), Grid(stride, stride / 2))
    torch.testing.assert_close(described.features.permute(1, 2, 0) * torch.tensor([width, height]), centres)
    assert described.grid == Grid(stride, stride / 2)


def test_position_alone_maps_the_one_box_onto_the_other():
    box_a, box_b = torch.tensor([8.0, 8.0, 24.0, 40.0]), torch.tensor([16.0, 0.0, 48.0, 16.0])
    a, b = position((48, 64), box_a, stride=1), position((48, 64), box_b, stride=1)
    result = nearest_neighbours(a, b)
    centres = cell_centres((48, 64), Grid(1, 0.5))
    expected = box_b[:2] + (centres - box_a[:2]) * (box_b[2:] - box_b[:2]) / (box_a[2:] - box_a[:2])
    inside = ((centres > box_a[:2]) & (centres < box_a[2:])).all(dim=-1)
    assert (result.positions - expected)[inside].abs().max() <= 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: dense_sift(IMAGE, stride=0), UsageError, "stride=0"),
        (lambda: dense_sift(IMAGE, bin_size=0), UsageError, "bin_size=0"),
        (lambda: dense_sift(IMAGE[:, :15]), UsageError, "needs 16 a side"),
        (lambda: dense_sift(IMAGE * float("nan")), DataError, "NaN"),
        (lambda: hog(IMAGE, cell=0), UsageError, "cell=0"),
        (lambda: hog(IMAGE[:, :, :23]), UsageError, "needs 24 a side"),
        (lambda: hog(IMAGE / 0), DataError, "infinity"),
        (lambda: position((8, 8), stride=9), UsageError, "stride=9"),
        (lambda: position((8, 8), torch.tensor([2.0, 2.0, 2.0, 5.0])), DataError, "box: found"),
        (lambda: position((8, 8), torch.tensor([2.0, 2.0, float("inf"), 5.0])), DataError, "box: found"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_raw_colours_are_the_squares_around_a_cell():
    described = raw_colours(IMAGE, stride=4)
    assert described.grid == Grid(4, 2) and described.features.shape == (27, 16, 20)
    squares = IMAGE.unflatten(2, (20, 4)).unflatten(1, (16, 4)).mean(dim=(2, 4))
    around = squares[:, 3:6, 7:10].flatten()  # channel, row, column
    torch.testing.assert_close(described.features[:, 4, 8], around)
    corner = described.features[:, 0, 0].view(3, 3, 3)
    torch.testing.assert_close(corner[:, 0, 0], squares[:, 0, 0])  # beyond the border the outermost square is repeated
    torch.testing.assert_close(corner[:, 2, 2], squares[:, 1, 1])


def test_raw_colours_refuse_what_they_cannot_describe():
    with pytest.raises(UsageError, match="stride=0"):
        raw_colours(IMAGE, stride=0)
    with pytest.raises(UsageError, match="a descriptor needs 65 a side"):
        raw_colours(IMAGE, stride=65)
    with pytest.raises(DataError, match="NaN"):
        raw_colours(torch.full((3, 8, 8), float("nan")))
