"""The tree of components against labelling each level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsl_core.metrics.component_tree import Runs, component_tree

STRUCTURES = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}

images = st.one_of(
    arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=elements)
    for elements in (st.integers(1, 3), st.integers(1, 255))
)


def labelled(image: np.ndarray, level: int, neighbours: int) -> list[np.ndarray]:
    components, count = ndimage.label(image >= level, STRUCTURES[neighbours])
    return [np.flatnonzero(components == i + 1) for i in range(count)]


@given(images, st.sampled_from([4, 8]), st.sampled_from([0, 256]))
def test_each_level_has_the_components_that_labelling_finds(inside, neighbours, ring):
    image = np.pad(inside, 1, constant_values=ring)
    runs = Runs(image)
    tree = component_tree(runs, runs.value, neighbours)
    place = np.arange(image.size)
    tree_values = np.full((2, len(tree.level)), -image.size)
    np.maximum.at(tree_values[0], tree.node[runs.of], -place)
    np.maximum.at(tree_values[1], tree.node[runs.of], place)
    first, last = tree.gather(tree_values, np.maximum)
    size = tree.gather(np.bincount(tree.node[runs.of], minlength=len(tree.level))[None], np.add)[0]
    for level in np.unique(image):
        there = (tree.floor < level) & (level <= tree.level)
        found = sorted(zip(-first[there], last[there], size[there], strict=True))
        expected = sorted((pixels[0], pixels[-1], pixels.size) for pixels in labelled(image, level, neighbours))
        assert found == expected


@given(images, st.sampled_from([4, 8]))
def test_parents_lie_lower_and_the_root_is_everything(inside, neighbours):
    runs = Runs(np.pad(inside, 1))
    tree = component_tree(runs, runs.value, neighbours)
    (root,) = np.flatnonzero(tree.parent == len(tree.parent))
    below = np.delete(np.arange(len(tree.parent)), root)
    np.testing.assert_array_equal(tree.level[tree.parent[below]], tree.floor[below])
    assert (tree.floor < tree.level).all() and tree.level[root] == 0 and tree.floor[root] == -1
    assert tree.gather(np.bincount(tree.node, runs.length).astype(int)[None], np.add)[0, root] == runs.of.size


def test_a_plateau_is_one_node_however_it_winds():
    spiral = np.array([[5, 5, 5, 5], [1, 1, 1, 5], [5, 5, 1, 5], [5, 1, 1, 5], [5, 5, 5, 5]])
    runs = Runs(np.pad(spiral, 1))
    assert sorted(component_tree(runs, runs.value, 4).level) == [0, 1, 5]


def test_the_left_and_the_right_side_do_not_touch():
    runs = Runs(np.pad(np.array([[7, 1, 7]]), 1))
    assert sorted(component_tree(runs, runs.value, 8).level) == [0, 1, 7, 7]


@pytest.mark.parametrize("side", [3, 400])
def test_keys_order_pixels_by_value_then_by_place(side):
    image = np.random.default_rng(0).integers(0, 257, (side, side))
    runs = Runs(image)
    keys = runs.keys(runs.value)
    np.testing.assert_array_equal(np.argsort(keys), np.argsort(image.ravel(), kind="stable"))
    np.testing.assert_array_equal(runs.pixels(keys), np.arange(image.size))
