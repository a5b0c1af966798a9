"""Nearest neighbours: their definition in one line, exact maps by construction, and bounded memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.errors import UsageError
from wsl_core.matching import DescriptorMap, cell_centres, nearest_neighbours
from wsl_core.ops import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid(stride=4, first=2)
sides = st.integers(1, 7)


def random_map(channels, height, width, seed=0, grid=GRID):
    return DescriptorMap(torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed)), grid)


@settings(deadline=None)
@given(sides, sides, sides, sides, st.integers(1, 5), st.integers(0, 99))
def test_it_is_the_least_distance_whatever_the_sizes(h, w, h2, w2, channels, seed):
    """In double precision: in single, two of a hair's breadth may swap."""
    maps = random_map(channels, h, w, seed), random_map(channels, h2, w2, seed + 100)
    a, b = (DescriptorMap(described.features.double(), GRID) for described in maps)
    distances = torch.cdist(a.features.flatten(1).T, b.features.flatten(1).T)
    expected = cell_centres((h2, w2), GRID).flatten(0, 1)[distances.argmin(dim=1)].view(h, w, 2)
    back = distances.argmin(dim=0)[distances.argmin(dim=1)] == torch.arange(h * w)
    result = nearest_neighbours(a, b, mutual=True)
    assert torch.equal(result.positions, expected) and torch.equal(result.valid.flatten(), back)
    torch.testing.assert_close(result.scores.flatten(), -distances.amin(dim=1))
    one_way = nearest_neighbours(a, b)
    assert torch.equal(one_way.positions, expected) and one_way.valid.all() and one_way.grid == GRID
    single = nearest_neighbours(*maps).scores.flatten().square().double()
    torch.testing.assert_close(single, distances.amin(dim=1).square(), atol=1e-5, rtol=0)


def test_an_image_matches_itself_by_the_identity():
    described = random_map(8, 9, 11)
    result = nearest_neighbours(described, described, mutual=True)
    assert torch.equal(result.positions, cell_centres((9, 11), GRID))
    assert result.valid.all() and not result.scores.any()


def test_mirrored_and_shifted_copies_are_found_exactly():
    scene = random_map(8, 9, 16)
    mirrored = nearest_neighbours(scene, DescriptorMap(scene.features.flip(-1), GRID))
    assert torch.equal(mirrored.positions, cell_centres((9, 16), GRID).flip(1))
    crop = DescriptorMap(scene.features[:, 2:8, 3:13], GRID)
    inside = nearest_neighbours(crop, scene, mutual=True)
    assert torch.equal(inside.positions, cell_centres((6, 10), GRID) + 4 * torch.tensor([3.0, 2.0]))
    outward = nearest_neighbours(scene, crop, mutual=True)
    shown = torch.zeros(9, 16, dtype=torch.bool)
    shown[2:8, 3:13] = True
    assert inside.valid.all() and torch.equal(outward.valid, shown)


def test_each_image_has_its_own_grid():
    features = random_map(8, 3, 4).features
    result = nearest_neighbours(DescriptorMap(features, Grid(8, 4)), DescriptorMap(features, Grid(2, 5)))
    assert result.grid == Grid(8, 4) and torch.equal(result.positions, cell_centres((3, 4), Grid(2, 5)))


@settings(deadline=None)
@given(st.integers(1, 300))
def test_the_chunk_changes_nothing(chunk):
    a, b = random_map(6, 5, 7), random_map(6, 6, 4, 1)
    for whole, part in zip(nearest_neighbours(a, b, True), nearest_neighbours(a, b, True, chunk)):
        assert whole == part if isinstance(whole, Grid) else torch.allclose(whole, part)


def test_no_more_distances_are_held_than_the_chunk_allows(monkeypatch):
    held, product = [], torch.addmm

    def watched(*arguments):
        held.append(product(*arguments))
        return held[-1]

    monkeypatch.setattr(torch, "addmm", watched)
    nearest_neighbours(random_map(6, 10, 10), random_map(6, 8, 5, 1), chunk=200)
    assert [tuple(part.shape) for part in held] == [(5, 40)] * 20


def test_what_all_descriptors_share_costs_no_digits():
    a, b = random_map(8, 9, 11), random_map(8, 9, 11, 1)
    far = [DescriptorMap(described.features + 3000, GRID) for described in (a, b)]
    agree = (nearest_neighbours(*far).positions == nearest_neighbours(a, b).positions).float().mean()
    assert agree == 1


def test_flat_images_match_the_first_cell_and_give_no_nan():
    flat = DescriptorMap(torch.zeros(3, 4, 5), GRID)
    result = nearest_neighbours(flat, flat, mutual=True)
    assert (result.positions == torch.tensor([2.0, 2.0])).all() and not result.scores.any()
    assert result.valid.flatten().tolist() == [True] + [False] * 19


def test_a_chunk_holds_something():
    with pytest.raises(UsageError, match="chunk=0"):
        nearest_neighbours(random_map(1, 1, 1), random_map(1, 1, 1), chunk=0)
