"""Laws of the affinity labels, a loop over all pairs of cells, and AffinityNet's released code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import block_reduce

from tests.refine.reference import psa, taken_by_official
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import half_plane_offsets, valid_pairs
from wsl_core.refine import CRFParameters, affinity_labels, confident_labels, crf_with_background, dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = hnp.arrays(
    "int64",
    st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7)),
    elements=st.sampled_from([0, 1, 2, 255]),
).map(torch.from_numpy)
NO_CRF = CRFParameters(iterations=0)


# ---- pairs


def test_the_pairs_are_the_released_codes():
    reference = psa()
    labels = reference["label"].long()[None]
    found = affinity_labels(labels, int(reference["radius"]), official=True)
    expected = {"foreground": "fg_pos", "background": "bg_pos", "negative": "neg"}
    for name, theirs in expected.items():
        pairs = getattr(found, name)[0]
        assert torch.equal(taken_by_official(pairs), reference[theirs].bool())
        assert pairs.sum() == reference[theirs].sum()  # and none beside what it takes
        assert getattr(affinity_labels(labels), name).sum() > pairs.sum()


@given(LABELS, st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_every_pair_is_in_the_set_where_it_belongs(labels, radius):
    found = affinity_labels(labels, radius)
    _, height, width = labels.shape
    for b, image in enumerate(labels.tolist()):
        for o, (dy, dx) in enumerate(half_plane_offsets(radius).tolist()):
            for y in range(height):
                for x in range(width):
                    sets = [bool(pairs[b, o, y, x]) for pairs in found]
                    inside = y + dy < height and 0 <= x + dx < width
                    pair = (image[y][x], image[y + dy][x + dx]) if inside else (255, 255)
                    if 255 in pair:
                        assert sets == [False, False, False]
                    else:
                        same = pair[0] == pair[1]
                        assert sets == [same and pair[0] > 0, same and pair[0] == 0, not same]


@given(LABELS)
@settings(max_examples=20, deadline=None)
def test_no_pair_is_lost_where_all_is_known(labels):
    labels = labels.masked_fill(labels == 255, 3)
    found = affinity_labels(labels, 3)
    total = found.foreground.int() + found.background + found.negative
    valid = valid_pairs(half_plane_offsets(3), tuple(labels.shape[1:]))
    assert torch.equal(total, valid.int().expand_as(total))


@pytest.mark.parametrize(("label", "full"), [(0, "background"), (4, "foreground"), (255, None)])
def test_sets_can_be_empty(label, full):
    found = affinity_labels(torch.full((1, 6, 6), label))
    for name, pairs in found._asdict().items():
        assert pairs.shape == (1, 34, 6, 6) and pairs.any() == (name == full)


def test_a_map_within_the_cut_has_no_official_pair():
    """8 cells across are the radius on both sides; the released code fails there."""
    found = affinity_labels(torch.zeros(1, 8, 8, dtype=torch.int64), official=True)
    assert not any(pairs.any() for pairs in found)


@pytest.mark.parametrize("label", [-1, 256])
def test_labels_out_of_range(label):
    with pytest.raises(DataError, match=f"labels: found values from {min(label, 0)} to {max(label, 0)}; expected 0"):
        affinity_labels(torch.tensor([[[0, label]]]))
    with pytest.raises(UsageError, match="radius=1"):
        affinity_labels(torch.zeros(1, 2, 2, dtype=torch.int64), radius=1)


# ---- confident labels


def stacks(*pixels):
    """Pixels of (background, first class, second class) as (3, 1, N)."""
    return torch.tensor(pixels).T[:, None]


def test_what_is_confident():
    low = stacks((0.6, 0.3, 0.1), (0.6, 0.3, 0.1), (0.3, 0.6, 0.1), (0.2, 0.3, 0.5), (0.0, 0.0, 0.0), (0.1, 0.9, 0.0))
    high = stacks((0.5, 0.4, 0.1), (0.2, 0.6, 0.2), (0.2, 0.7, 0.1), (0.0, 0.4, 0.6), (0.0, 0.0, 0.0), (0.6, 0.4, 0.0))
    # Background in both; in the low alone; a class in both, twice; padding; and where the two CRFs contradict.
    assert confident_labels(low, high).tolist() == [[0, 255, 1, 2, 255, 0]]


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_with_one_alpha_for_both_all_is_known(seed):
    scores = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(seed)) + 0.01
    assert torch.equal(confident_labels(scores, scores), scores.argmax(dim=1))


def test_cells_average_before_they_choose():
    generator = torch.Generator().manual_seed(0)
    low, high = (torch.rand(2, 4, 16, 24, generator=generator) for _ in range(2))
    low[:, 1:] *= 1.1
    high[0, 0] *= 1.5
    pooled = [torch.from_numpy(block_reduce(one.numpy(), (1, 1, 8, 8))) / 64 for one in (low, high)]
    labels = confident_labels(low, high, cell=8)
    assert labels.shape == (2, 2, 3) and torch.equal(labels, confident_labels(*pooled))
    assert len(labels.unique()) > 2
    assert torch.equal(confident_labels(low[0], high[0], cell=8), labels[0])


def test_a_smaller_last_cell_counts_what_it_has():
    low = torch.zeros(2, 3, 3)
    low[0], low[1, 2] = 0.4, 1.0
    assert confident_labels(low, low, cell=2).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("low", "high", "options", "error", "words"),
    [
        (torch.rand(2, 3, 3), torch.rand(2, 3, 4), {}, UsageError, r"low \(2, 3, 3\) and high \(2, 3, 4\)"),
        (torch.rand(2, 0, 3), torch.rand(2, 0, 3), {}, UsageError, "at least one label and pixel"),
        (torch.rand(2, 3, 3), torch.rand(2, 3, 3), {"cell": 0}, UsageError, "cell=0: expected a side"),
        (torch.full((2, 3, 3), math.nan), torch.rand(2, 3, 3), {}, DataError, "low: found NaN or negative"),
        (torch.rand(2, 3, 3), -torch.ones(2, 3, 3), {}, DataError, "high: found NaN or negative"),
    ],
)
def test_wrong_probabilities(low, high, options, error, words):
    unchecked = getattr(confident_labels, "__wrapped__", confident_labels)  # also without jaxtyping
    with pytest.raises(error, match=words):
        unchecked(low, high, **options)


# ---- the background's power and the CRF


def scene(seed=0, height=12, width=14):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 6, 3, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    maps = fine[3:] / fine[3:].amax(dim=(1, 2), keepdim=True)
    return fine[:3], maps, torch.tensor([1.0, 0.0, 1.0])


@pytest.mark.parametrize("alpha", [0, 1, 4, 24])
def test_the_background_is_what_no_class_of_the_image_claims(alpha):
    image, maps, labels = scene()
    refined = next(crf_with_background([image], [maps], [labels], alpha, parameters=NO_CRF))
    background = (1 - torch.maximum(maps[0], maps[2])) ** alpha
    both = torch.stack([background, maps[0], torch.zeros_like(background), maps[2]])
    torch.testing.assert_close(refined, both / both.sum(dim=0), rtol=0, atol=1e-4)  # the CRF lifts zeros a little


def test_the_crf_knows_the_classes_of_the_image():
    image, maps, labels = scene(1)
    refined = next(crf_with_background([image], [maps], [labels], 4, backend="torch"))
    background = (1 - torch.maximum(maps[0], maps[2])) ** 4
    taking_part = torch.stack([background, maps[0], maps[2]])
    expected = dense_crf(image, taking_part / taking_part.sum(dim=0), "torch")
    torch.testing.assert_close(refined[[0, 1, 3]], expected)
    assert refined[2].abs().max() == 0 and (expected - taking_part).abs().max() > 0.1


def test_an_image_of_no_class_is_background():
    image, maps, labels = scene(2)
    refined = next(crf_with_background([image], [maps], [0 * labels], 4))
    assert torch.equal(refined.argmax(dim=0), torch.zeros(12, 14, dtype=torch.int64)) and (refined[0] == 1).all()


@given(st.integers(0, 10**6), st.floats(1, 8), st.floats(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_higher_alpha_has_less_background(seed, alpha, factor):
    """So without a CRF no pixel is both: surely a class, and surely background."""
    image, maps, labels = scene(seed)
    low, high = (
        next(crf_with_background([image], [maps], [labels], power, parameters=NO_CRF)).argmax(dim=0) == 0
        for power in (alpha, factor * alpha)
    )
    assert not (high & ~low).any()


def test_from_maps_to_pairs():
    """A disc and a map that falls off slowly: sure inside and far outside, and not in a ring between."""
    rows, columns = torch.meshgrid(torch.arange(48) - 23.5, torch.arange(48) - 23.5, indexing="ij")
    distance = (rows.square() + columns.square()).sqrt()
    disc = (distance < 12).float()
    image, maps = (0.2 + 0.7 * disc).expand(3, 48, 48), (1 - distance / 24).clamp(0, 1)[None]
    low, high = (next(crf_with_background([image], [maps], [torch.ones(1)], a, 0, "torch")) for a in (4, 24))
    labels = confident_labels(low, high, cell=4)
    share = torch.nn.functional.avg_pool2d(disc[None], 4)[0]  # of each cell
    assert (share[labels == 1] >= 0.5).all() and (share[labels == 0] == 0).all()
    assert (labels == 255).any() and all(pairs.any() for pairs in affinity_labels(labels[None], 8))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_several_sizes_and_classes_keep_their_order(workers):
    scenes = [scene(seed, 6 + seed, 7)[:2] for seed in range(5)]
    images, maps = zip(*scenes, strict=True)
    labels = torch.eye(3)[[0, 1, 2, 1, 0]] + torch.eye(3)[[1, 1, 0, 2, 2]]
    refined = list(crf_with_background(images, maps, labels, 4, workers, "torch"))
    for i in range(5):
        alone = next(crf_with_background(images[i : i + 1], maps[i : i + 1], labels[i : i + 1], 4, 0, "torch"))
        torch.testing.assert_close(refined[i], alone)


@pytest.mark.parametrize(
    ("maps", "labels", "alpha", "error", "words"),
    [
        (torch.rand(2, 4, 4), torch.ones(2), -1, UsageError, "alpha=-1: expected a finite number"),
        (torch.rand(2, 4, 4), torch.ones(2), math.nan, UsageError, "alpha=nan"),
        (torch.rand(2, 4, 4), torch.ones(3), 4, UsageError, r"labels \(3,\) and maps \(2, 4, 4\)"),
        (torch.full((2, 4, 4), math.nan), torch.ones(2), 4, DataError, "maps: found NaN"),
        (torch.full((2, 4, 4), 1.5), torch.ones(2), 4, DataError, r"outside \[0, 1\]; expected maps divided by"),
    ],
)
def test_wrong_maps(maps, labels, alpha, error, words):
    unchecked = getattr(crf_with_background, "__wrapped__", crf_with_background)
    with pytest.raises(error, match=words):
        next(unchecked([torch.rand(3, 4, 4)], [maps], [labels], alpha, backend="torch"))
