"""Laws of deformable spatial pyramid matching: its two limits, its energy, and the parts by their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.errors import UsageError
from wsl_core.matching import DescriptorMap, cell_centres, dsp
from wsl_core.matching.spatial_pyramid import (
    _best_labels,
    _edges,
    _energy,
    _leaves,
    _lower_envelope,
    _node_costs,
    _Pyramid,
)
from wsl_core.ops import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid(stride=4, first=2)
INFINITY = float("inf")


def random_map(channels, height, width, seed=0):
    return DescriptorMap(torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed)), GRID)


def moves(correspondence):
    """Of each cell, in cells: x, y."""
    centres = cell_centres(correspondence.valid.shape, correspondence.grid)
    return ((correspondence.positions - centres) / correspondence.grid.stride).round().long()


def truncated(a, b, truncation):
    """d(p, q) for all pairs of cells, and 1 wherever q lies beside b, as a function of p and q."""
    distances = torch.cdist(a.features.flatten(1).T, b.features.flatten(1).T, p=1)
    d = (distances / (truncation * distances.mean())).clamp(max=1).view(*a.features.shape[1:], *b.features.shape[1:])

    def value(y, x, v, u):
        return d[y, x, v, u].item() if 0 <= v < d.shape[2] and 0 <= u < d.shape[3] else 1.0

    return value


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(6, 9), st.integers(5, 9))
def test_infinite_smoothness_is_the_best_single_translation(seed, height, width):
    a, b = random_map(4, 8, 6, seed), random_map(4, height, width, seed + 100)
    result = dsp(a, b, window=0.4, levels=2, smoothness=INFINITY, jump=INFINITY)
    assert len(moves(result).flatten(0, 1).unique(dim=0)) == 1
    d = truncated(a, b, 1.0)
    reach_y, reach_x = int(0.4 * max(8, height)), int(0.4 * max(6, width))

    def cost(v, u):
        at = torch.tensor([[d(y, x, y + v, x + u) for x in range(6)] for y in range(8)])
        return at.mean() + sum(part.mean() for half in at.chunk(2) for part in half.chunk(2, dim=1))

    ways = [(v, u) for v in range(-reach_y, reach_y + 1) for u in range(-reach_x, reach_x + 1)]
    u, v = moves(result)[0, 0].tolist()
    assert (v, u) in ways and cost(v, u).item() == pytest.approx(min(cost(*way).item() for way in ways), abs=1e-5)
    rows, columns = torch.arange(8)[:, None] + v, torch.arange(6) + u
    assert torch.equal(result.valid, (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(5, 9), st.integers(0, 3))
def test_without_smoothness_it_is_the_nearest_neighbour_in_the_window(seed, width, window):
    a, b = random_map(4, 6, 7, seed), random_map(4, 7, width, seed + 100)
    result = dsp(a, b, window=0.0, cell_window=window, smoothness=0.0, truncation=100.0)
    d = truncated(a, b, 100.0)
    reach = range(-window, window + 1)
    for y, x in torch.cartesian_prod(torch.arange(6), torch.arange(7)).tolist():
        best = min(d(y, x, y + v, x + u) for v in reach for u in reach)
        assert result.scores[y, x].item() == pytest.approx(-best, abs=1e-6)
        u, v = moves(result)[y, x].tolist()
        assert abs(u) <= window and abs(v) <= window
        assert d(y, x, y + v, x + u) == pytest.approx(best, abs=1e-6)


def test_without_smoothness_each_node_takes_its_own_best_translation():
    a, b = random_map(4, 8, 8), random_map(4, 8, 8, 1)
    result = dsp(a, b, window=0.5, cell_window=0, levels=2, smoothness=0.0)
    d = truncated(a, b, 1.0)
    for top in (0, 4):
        for left in (0, 4):
            cells = [(y, x) for y in range(top, top + 4) for x in range(left, left + 4)]
            costs = {(u, v): sum(d(y, x, y + v, x + u) for y, x in cells) for u in range(-4, 5) for v in range(-4, 5)}
            found = moves(result)[top : top + 4, left : left + 4].flatten(0, 1).unique(dim=0)
            assert len(found) == 1 and costs[tuple(found[0].tolist())] == pytest.approx(min(costs.values()), abs=1e-4)


@pytest.mark.parametrize("side", [16, 60])  # 60 x 60 cells are more than the nodes look at: every other one
def test_an_image_matches_itself_and_its_shifted_copy_exactly(side):
    scene = torch.nn.functional.avg_pool2d(random_map(8, side + 4, side + 5).features, 3, 1)
    a = DescriptorMap(scene[:, :side, :side], GRID)
    same = dsp(a, a)
    assert not moves(same).any() and not same.scores.any() and same.valid.all()
    shifted = dsp(a, DescriptorMap(scene[:, 2:, 3:], GRID))
    assert (moves(shifted)[2:, 3:] == torch.tensor([-3, -2])).all()
    assert not shifted.scores[2:, 3:].any()


def test_a_mirrored_copy_is_found_where_every_cell_is_free():
    scene = random_map(8, 6, 9)
    mirror = DescriptorMap(scene.features.flip(-1), GRID)
    result = dsp(scene, mirror, window=0.0, cell_window=8, smoothness=0.0)
    assert torch.equal(result.positions, cell_centres((6, 9), GRID).flip(1))


def test_parts_that_move_apart_are_both_followed():
    """Two halves, each by its own way: what no single translation can do."""
    scene = random_map(8, 16, 16).features
    b = torch.cat([scene[:, :8].roll(2, dims=2), scene[:, 8:].roll(-2, dims=2)], dim=1)
    found = moves(dsp(DescriptorMap(scene, GRID), DescriptorMap(b, GRID), cell_window=0))
    assert (found[:8] == torch.tensor([2, 0])).all() and (found[8:] == torch.tensor([-2, 0])).all()


@given(st.floats(1e-3, 1e3))
@settings(max_examples=5, deadline=None)
def test_the_scale_of_the_descriptors_does_not_matter(scale):
    a, b = random_map(4, 9, 8), random_map(4, 8, 10, 1)
    scaled = [DescriptorMap(described.features * scale, GRID) for described in (a, b)]
    torch.testing.assert_close(dsp(*scaled).scores, dsp(a, b).scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape_a", "shape_b"), [((4, 4), (100, 100)), ((100, 100), (4, 4)), ((5, 40), (40, 5))])
def test_sizes_may_differ_by_much(shape_a, shape_b):
    result = dsp(random_map(2, *shape_a), random_map(2, *shape_b, 1))
    assert result.valid.shape == shape_a and result.valid.any()
    extent = 4 * torch.tensor([shape_b[1], shape_b[0]])
    inside = ((result.positions > 0) & (result.positions < extent)).all(dim=-1)
    assert torch.equal(inside, result.valid) and result.scores.isfinite().all()


@pytest.mark.parametrize("smoothness", [0.0, 1.6])  # without it, nodes in the middle could go anywhere
def test_flat_images_stay_where_they_are(smoothness):
    flat = DescriptorMap(torch.ones(3, 12, 12), GRID)
    result = dsp(flat, flat, smoothness=smoothness)
    assert not moves(result).any() and not result.scores.any() and result.valid.all()


def test_images_that_have_nothing_alike_stay_where_they_are():
    result = dsp(random_map(4, 12, 12), random_map(4, 12, 12, 1), truncation=1e-6)
    assert not moves(result).any() and (result.scores == -1).all() and result.valid.all()


envelopes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))


@settings(deadline=None)
@given(envelopes, st.sampled_from([0.0, 0.1, 1.0, INFINITY]), st.sampled_from([0.0, 0.3, INFINITY]))
def test_the_lower_envelope_is_the_least_over_all_ways(shape, way, jump):
    height, width, seed = shape
    costs = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    apart = (places[:, None] - places).abs().sum(dim=-1)
    ways = torch.where(apart > 0, way * apart, 0.0).clamp(max=jump)
    expected = (costs.flatten() + ways).amin(dim=1).view(1, height, width)
    torch.testing.assert_close(_lower_envelope(costs, way, jump), expected)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_node_costs_are_means_over_their_cells(levels):
    distances = torch.rand(9, 7, 6, 8, generator=torch.Generator().manual_seed(0))
    like, ways = torch.zeros(0), torch.arange(-2, 3)
    costs = _node_costs(distances, ways, ways, _leaves((9, 7), levels, like), levels)
    number = 0
    for level in range(levels):
        side = 2**level
        for row in range(side):
            for column in range(side):
                last = 2 ** (levels - 1)
                rows = [y for y in range(9) if y * last // 9 * side // last == row]
                columns = [x for x in range(7) if x * last // 7 * side // last == column]
                at = [
                    distances[y, x, y + 1, x - 2].item() if y + 1 < 6 and x - 2 >= 0 else 1.0
                    for y in rows
                    for x in columns
                ]
                assert costs[number, 3, 0].item() == pytest.approx(sum(at) / len(at), abs=1e-5)
                number += 1
    assert number == len(costs)


def test_the_graph_links_parents_with_children_and_neighbours_with_each_other():
    edges = {tuple(sorted(edge)) for edge in _edges(3, torch.zeros(0)).tolist()}
    assert len(edges) == 4 + 16 + 4 + 24
    assert {edge for edge in edges if 0 in edge} == {(0, child) for child in range(1, 5)}
    assert {edge for edge in edges if 1 in edge} == {(0, 1), (1, 2), (1, 3), (1, 5), (1, 6), (1, 9), (1, 10)}
    assert {edge for edge in edges if 20 in edge} == {(4, 20), (16, 20), (19, 20)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.05, 0.3, 3.0]), st.sampled_from([0.1, 0.5, INFINITY]))
def test_the_labelling_is_never_worse_than_one_translation_or_than_none_linked(seed, way, jump):
    costs = torch.rand(21, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    places = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-2, 3))
    pyramid = _Pyramid(costs, _edges(3, costs), places, way, way, jump)
    found = _energy(_best_labels(pyramid), pyramid)
    single = min(_energy(torch.full((21,), label), pyramid) for label in range(15))
    assert found <= single and found <= _energy(costs.flatten(1).argmin(dim=1), pyramid)


def test_on_a_tree_belief_propagation_finds_the_least_energy():
    """A root and its children without the links between these: no loop, so what it finds is exact."""
    edges = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4]])
    places = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 1))
    every = torch.cartesian_prod(*[torch.arange(6)] * 5)
    for seed in range(5):
        costs = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pyramid = _Pyramid(costs, edges, places, 0.2, 0.2, 0.5)
        alone = costs.flatten(1)[torch.arange(5), every].sum(dim=1)
        apart = (places[every[:, :1]] - places[every[:, 1:]]).abs().sum(dim=-1)
        least = (alone + (0.2 * apart).clamp(max=0.5).sum(dim=1)).min().item()
        assert _energy(_best_labels(pyramid), pyramid) == pytest.approx(least)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"window": 1.1}, "window=1.1"),
        ({"cell_window": -1}, "cell_window=-1"),
        ({"levels": 0}, "levels=0"),
        ({"levels": 5}, "fewer than 16 a side"),
        ({"smoothness": -0.1}, "smoothness=-0.1"),
        ({"smoothness": math.nan}, "smoothness=nan"),
        ({"jump": -1.0}, "jump=-1"),
        ({"truncation": 0.0}, "truncation=0"),
        ({"truncation": INFINITY}, "truncation=inf"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        dsp(random_map(2, 8, 8), random_map(2, 8, 8), **arguments)
