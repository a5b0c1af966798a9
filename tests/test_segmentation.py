"""Seed cues, the losses of SEC in their limit cases and against their definitions, and the way to a mask."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Grid, resize_maps
from wsl_core.refine import dense_crf
from wsl_core.segmentation import (
    DECAYS,
    SCALES,
    at_cell_centres,
    atrous_head,
    attention,
    boundary_loss,
    constant_background,
    expansion_loss,
    floored_softmax,
    labels_of_cells,
    labels_of_pixels,
    large_fov_head,
    least_salient,
    multi_scale_cam,
    multi_scale_labels,
    multi_scale_maps,
    pixel_loss,
    rank_pool,
    seed_cues,
    seeding_loss,
    with_background,
)

pytestmark = pytest.mark.usefixtures("one_thread")

B, K, H, W = 2, 3, 4, 5


def scores(seed: int = 0, dtype=torch.float32, batch: int = B) -> torch.Tensor:
    return 2 * torch.randn(batch, K + 1, H, W, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_cues(seed: int = 0) -> torch.Tensor:
    drawn = torch.randint(0, 2 * (K + 1), (B, H, W), generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn > K, 255, drawn)


LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


# Seed cues


maps_of_three = arrays(np.float32, (3, 4, 5), elements=st.sampled_from([-1.0, 0.0, 0.1, 0.5, 1.0, 3.0]))


@given(maps_of_three, st.tuples(*[st.sampled_from([0.0, 1.0])] * 3), st.sampled_from([0.0, 0.2, 0.5]))
def test_every_cue_is_above_its_threshold_and_the_smallest_region_wins(values, present, threshold):
    maps, labels = torch.from_numpy(values), torch.tensor(present)
    cues = seed_cues(maps, labels, threshold=threshold).numpy()
    highest = values.max(axis=(1, 2))
    flat = np.ptp(values, axis=(1, 2)) == 0
    wants = [
        (values[k] > threshold * highest[k]) & (highest[k] > 0) & (present[k] > 0) & ~flat[k] & (values[k] > 0)
        for k in range(3)
    ]
    for k in range(3):
        assert not (cues == k + 1)[~wants[k]].any()
        smaller = [wants[j] for j in range(3) if 0 < wants[j].sum() < wants[k].sum()]
        assert not ((cues == k + 1) & np.any([np.zeros_like(wants[k]), *smaller], axis=0)).any()
    assert np.isin(cues, [1, 2, 3])[np.any(wants, axis=0)].all()  # a class goes before the background
    assert np.isin(cues, [0, 255])[~np.any(wants, axis=0)].all()


def test_the_background_comes_from_the_saliency_that_is_given():
    maps, labels = torch.zeros(1, 2, 5), torch.ones(1)
    maps[0, 0, 0] = 1.0
    saliency = torch.arange(10.0).view(2, 5)
    assert seed_cues(maps, labels, saliency, background_share=0.3).tolist() == [[1, 0, 0, 255, 255], [255] * 5]
    assert seed_cues(maps, labels, 9 - saliency, background_share=0.1)[1].tolist() == [255] * 4 + [0]


def test_without_a_saliency_the_least_attended_is_background():
    maps, labels = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 0.0, 1.0])
    stand_in = seed_cues(maps, labels, attention(maps, labels), threshold=0.9)
    assert torch.equal(seed_cues(maps, labels, threshold=0.9), stand_in)
    assert (stand_in == 0).any() and not (stand_in == 2).any()
    lowest = (maps / maps.amax(dim=(1, 2), keepdim=True))[[0, 2]].amax(dim=0)
    assert lowest[stand_in == 0].max() <= lowest[stand_in == 255].min()


def test_flat_and_negative_maps_give_no_cue():
    maps = torch.stack([torch.full((4, 4), 2.0), -torch.rand(4, 4), torch.zeros(4, 4)])
    saliency = torch.arange(16.0).view(4, 4)
    assert seed_cues(maps, torch.ones(3), saliency).unique().tolist() == [0, 255]


@given(arrays(np.float32, (4, 5), elements=st.floats(-1, 1, width=32)), st.floats(0.01, 1))
def test_the_least_salient_are_as_many_as_asked_and_lower_than_the_rest(values, share):
    chosen = least_salient(torch.from_numpy(values), share).numpy()
    assert chosen.sum() >= max(1, round(share * 20))
    assert (values < values[chosen].max()).sum() < max(1, round(share * 20))  # more only where they tie
    assert (values[~chosen] > values[chosen].max()).all()


# Losses


def test_floored_probabilities_sum_to_one_and_have_finite_logarithms():
    extreme = torch.tensor([1e4, 0.0, -1e4]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        probabilities = floored_softmax(extreme.to(dtype))
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones_like(probabilities[:, 0]))
        assert probabilities.min() > 9e-5 and (1 - probabilities).min() > 9e-5


def test_seeding_is_the_mean_over_the_cues_of_an_image_then_over_images():
    probabilities, cues = floored_softmax(scores()), random_cues()
    alone = []
    for i in range(B):
        at = [(y, x) for y, x in itertools.product(range(H), range(W)) if cues[i, y, x] != 255]
        alone.append(-sum(math.log(probabilities[i, cues[i, y, x], y, x]) for y, x in at) / len(at))
    assert seeding_loss(probabilities, cues).item() == pytest.approx(sum(alone) / B, rel=1e-5)


def test_cues_of_every_pixel_make_seeding_the_cross_entropy():
    cues = random_cues().clamp(max=K)
    probabilities = scores().softmax(dim=1)
    expected = torch.nn.functional.cross_entropy(scores(), cues)
    torch.testing.assert_close(seeding_loss(probabilities, cues), expected)


def test_pixels_without_a_cue_get_no_gradient_from_seeding():
    probabilities, cues = floored_softmax(scores()).requires_grad_(), random_cues()
    seeding_loss(probabilities, cues).backward()
    assert not probabilities.grad.permute(0, 2, 3, 1)[cues == 255].any()
    assert probabilities.grad.permute(0, 2, 3, 1)[cues != 255].any(dim=-1).all()


def test_an_image_without_cues_adds_nothing():
    probabilities, cues = floored_softmax(scores()), random_cues()
    cues[1] = 255
    torch.testing.assert_close(seeding_loss(probabilities, cues), seeding_loss(probabilities[:1], cues[:1]) / 2)
    assert seeding_loss(probabilities[1:], cues[1:]).item() == 0


@given(arrays(np.float64, (3, 4), elements=st.floats(0, 1)), st.floats(0, 1), st.floats(0, 1), st.randoms())
def test_rank_pooling_lies_between_mean_and_maximum(values, decay, other, random):
    tensor = torch.from_numpy(values)
    pooled = rank_pool(tensor, decay).item()
    ranked = np.sort(values.ravel())[::-1]
    weights = decay ** np.arange(12)
    assert pooled == pytest.approx((ranked * weights).sum() / weights.sum())
    assert rank_pool(tensor, 1.0).item() == pytest.approx(values.mean()) and rank_pool(tensor, 0.0) == values.max()
    low, high = sorted((decay, other))
    assert rank_pool(tensor, low) >= rank_pool(tensor, high) - 1e-12
    shuffled = random.sample(list(values.ravel()), 12)
    assert rank_pool(torch.tensor(shuffled, dtype=torch.float64).view(2, 6), decay).item() == pytest.approx(pooled)


def test_expansion_is_its_three_terms():
    probabilities = floored_softmax(scores()).double().numpy()
    total = 0.0
    for image, labels in zip(probabilities, LABELS.numpy(), strict=True):
        ranked = np.sort(image.reshape(K + 1, -1), axis=1)[:, ::-1]
        pooled = [(ranked * d ** np.arange(H * W)).sum(axis=1) / (d ** np.arange(H * W)).sum() for d in DECAYS]
        present, absent = np.flatnonzero(labels) + 1, np.flatnonzero(labels == 0) + 1
        total -= np.log(pooled[0][present]).mean() + np.log(1 - pooled[1][absent]).mean() + np.log(pooled[2][0])
    assert expansion_loss(torch.from_numpy(probabilities), LABELS).item() == pytest.approx(total / 2)


def test_expansion_knows_images_with_all_classes_and_with_none():
    probabilities = floored_softmax(scores())
    for labels in (torch.zeros(B, K), torch.ones(B, K)):
        assert expansion_loss(probabilities, labels).isfinite()
    everything = -(rank_pool(probabilities[:, 1:], DECAYS[0]).log().mean(dim=1))
    background = -rank_pool(probabilities[:, 0], DECAYS[2]).log()
    torch.testing.assert_close(expansion_loss(probabilities, torch.ones(B, K)), (everything + background).mean())


def test_the_boundary_loss_is_a_divergence():
    probabilities = floored_softmax(scores())
    refined = floored_softmax(scores(1))
    assert boundary_loss(probabilities, refined) > 0
    even = torch.full((1, 4, 2, 2), 0.25)
    assert boundary_loss(even, even).item() == 0
    sure = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    half = torch.full((1, 2, 2, 2), 0.5)
    assert boundary_loss(half, sure).item() == pytest.approx(math.log(2), rel=2e-3)


def test_the_refined_prediction_is_a_constant():
    logits, target = scores(dtype=torch.float64).requires_grad_(), scores(1, torch.float64).requires_grad_()
    refined = floored_softmax(target)
    boundary_loss(floored_softmax(logits), refined).backward()
    assert target.grad is None and logits.grad.any()


@pytest.mark.parametrize("loss", ["seed", "expand", "constrain"])
def test_gradients_in_float64(loss):
    refined = floored_softmax(scores(1, torch.float64))
    losses = {
        "seed": lambda values: seeding_loss(floored_softmax(values), random_cues()),
        "expand": lambda values: expansion_loss(floored_softmax(values), LABELS, (0.9, 0.0, 0.99)),
        "constrain": lambda values: boundary_loss(floored_softmax(values), refined),
    }
    assert torch.autograd.gradcheck(losses[loss], scores(dtype=torch.float64).requires_grad_())


# Network


def test_the_head_sees_one_dilation_far_and_keeps_the_size():
    torch.manual_seed(0)
    head = large_fov_head(4, 3, width=32, dilation=12).eval()
    features = torch.zeros(1, 4, 41, 41)
    before = head(features)
    features[0, :, 20, 20] = 1.0
    felt = (head(features) != before).any(dim=1)[0].nonzero().tolist()
    assert felt == [[y, x] for y in (8, 20, 32) for x in (8, 20, 32)]
    assert before.shape == (1, 3, 41, 41)


@pytest.mark.parametrize("grid", [Grid(8, 0.5), Grid(8, 4.0), Grid(2, 1.0)])
def test_a_cells_pixel_lies_at_its_centre(grid):
    pixels = torch.arange(40.0).expand(1, 30, 40)
    height, width = (int((side - grid.first - 0.5) // grid.stride) + 1 for side in (30, 40))
    cells = at_cell_centres(pixels, grid, (height, width))
    assert cells.shape == (1, height, width)
    assert cells[0, 0].tolist() == [int(grid.first + grid.stride * i) for i in range(width)]
    # Enlarging what was taken there gives it back between the centres, to the half pixel that a centre may lie off.
    enlarged = resize_maps(cells[None], (30, 40), grid)[0]
    inside = slice(int(grid.first) + 1, int(grid.first + grid.stride * (width - 1)))
    assert ((enlarged - pixels)[:, :, inside].abs() <= 0.5).all()


def test_an_arrays_kind_stays():
    cues = torch.tensor([[[0, 255, 3, 1]]])
    assert at_cell_centres(cues, Grid(2, 1.0), (1, 2)).tolist() == [[[255, 1]]]
    assert torch.equal(at_cell_centres(cues, Grid(1, 0.5), (1, 4)), cues)


def test_pixels_get_the_best_label_with_and_without_a_crf():
    images = torch.rand(B, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    enlarged = resize_maps(scores(), (16, 20), Grid(4, 2.0))
    assert torch.equal(labels_of_pixels(scores(), images, Grid(4, 2.0), crf=None), enlarged.argmax(dim=1))
    refined = dense_crf(images, enlarged.softmax(dim=1), "torch", "irn").argmax(dim=1)
    assert torch.equal(labels_of_pixels(scores(), images, Grid(4, 2.0), "irn", "torch"), refined)
    assert not torch.equal(refined, enlarged.argmax(dim=1))


# Errors


@pytest.mark.filterwarnings("ignore")
def test_errors_name_what_is_wrong():
    maps, labels = torch.rand(2, 4, 4), torch.ones(2)
    for arguments, words in [
        ({"threshold": 1.0}, "threshold=1"),
        ({"background_share": 0.0}, "background_share=0"),
        ({"background_share": 1.5}, "background_share=1.5"),
    ]:
        with pytest.raises(UsageError, match=words):
            seed_cues(maps, labels, **arguments)
    with pytest.raises(DataError, match="NaN"):
        seed_cues(maps * math.nan, labels)
    with pytest.raises(DataError, match="saliency: found NaN"):
        seed_cues(maps, labels, maps[0] * math.nan)
    unchecked = getattr(seed_cues, "__wrapped__", seed_cues)  # the shapes are checked without jaxtyping, too
    with pytest.raises(UsageError, match=r"saliency: found \(4, 3\); expected the maps' \(4, 4\)"):
        unchecked(maps, labels, maps[0, :, :3])
    with pytest.raises(DataError, match="cues: found 4; expected 0 to 3, or 255"):
        seeding_loss(floored_softmax(scores()), torch.full((B, H, W), 4))
    with pytest.raises(DataError, match="cues: found -1"):
        seeding_loss(floored_softmax(scores()), torch.full((B, H, W), -1))
    with pytest.raises(UsageError, match=r"decay=1\.5"):
        rank_pool(maps, 1.5)
    with pytest.raises(UsageError, match="dilation=0"):
        large_fov_head(4, 3, dilation=0)
    with pytest.raises(UsageError, match=r"dropout=1\.0"):
        large_fov_head(4, 3, dropout=1.0)


# AffinityNet's maps, backgrounds and last stage


def ramps(height: int, width: int) -> torch.Tensor:
    """An image whose first two colours are the place of each pixel, (1, 3, H, W), in pixels."""
    y, x = (torch.arange(side) + 0.5 for side in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)])[None]


@pytest.mark.parametrize(("height", "width"), [(24, 32), (27, 37)])
@pytest.mark.parametrize("scales", [SCALES, (0.5,), (1.3,)])
@pytest.mark.parametrize("flip", [False, True])
def test_maps_of_all_scales_lie_where_the_image_is(height, width, scales, flip):
    """Cells that report what lies at their centre: enlarged, they have to give back the image."""
    images, grid = ramps(height, width), Grid(stride=2, first=0.5)
    maps = multi_scale_maps(lambda views: views[:, :2, ::2, ::2], images, scales, flip, grid)
    inside = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(maps[inside], images[:, :2][inside])


def test_several_scales_are_a_mean_over_views():
    seen = []

    def predict(views):
        seen.append(views)
        return torch.full((1, 1, 2, 2), float(len(seen)))

    images = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    maps = multi_scale_maps(predict, images)
    assert maps.unique().tolist() == [4.5] and maps.shape == (1, 1, 8, 10)
    assert [tuple(view.shape[-2:]) for view in seen[::2]] == [(8, 10), (4, 5), (12, 15), (16, 20)]
    for plain, mirrored in zip(seen[::2], seen[1::2]):
        torch.testing.assert_close(plain.flip(-1), mirrored)
    assert torch.equal(seen[0], images) and all(view.min() >= 0 and view.max() <= 1 for view in seen)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, 0.1), (float("nan"),), (-1.0,)])
def test_scales_that_leave_nothing(scales):
    with pytest.raises(UsageError, match="scales="):
        multi_scale_maps(lambda views: views, torch.zeros(1, 3, 4, 8), scales)


class Colours(torch.nn.Module):
    """Evidence for three classes: a colour's distance from a half; darkness is evidence against it."""

    grid = Grid(stride=1, first=0.5)

    def localize(self, images, labels):
        return (images - 0.5) * labels[:, :, None, None]

    def segment(self, images):
        return 9 * images[:, :2]


def test_cams_hold_what_speaks_for_the_labels_alone():
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images[1, 1] = 0.2  # nothing speaks for the second class
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    maps = multi_scale_cam(Colours(), images, labels)
    assert torch.equal(maps.amax(dim=(2, 3)), torch.tensor([[1.0, 0, 1], [0, 0, 1]])) and maps.min() == 0
    alone = multi_scale_cam(Colours(), images, labels, scales=(1.0,), flip=False)
    expected = (images[0, 0] - 0.5).relu()
    torch.testing.assert_close(alone[0, 0], expected / expected.max())
    # Evidence against a class at one scale takes nothing from what speaks for it at another.
    summed = multi_scale_maps(lambda views: Colours().localize(views, labels).relu(), images, grid=Colours.grid)
    torch.testing.assert_close(maps[0, 2], summed[0, 2] / summed[0, 2].max())


unit_maps = arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1, width=32)).map(torch.from_numpy)


@given(unit_maps, st.sampled_from([1.0, 4.0, 16.0, 24.0]))
def test_the_background_is_what_the_classes_leave_over(maps, alpha):
    beside = with_background(maps, alpha)
    assert torch.equal(beside[1:], maps) and beside.shape == (3, 3, 4)
    torch.testing.assert_close(beside[0], (1 - maps.max(dim=0).values) ** alpha)
    assert (with_background(maps, 2 * alpha)[0] <= beside[0]).all()  # the larger alpha, the less background
    assert (with_background(maps, 0.0)[0] == 1).all()


@given(unit_maps, st.floats(0, 1))
def test_the_constant_background_wins_where_no_class_is_above_it(maps, score):
    labels = constant_background(maps, score).argmax(dim=0)
    top = maps.max(dim=0)
    assert torch.equal(labels, torch.where(top.values > torch.tensor(score), top.indices + 1, 0))


def test_backgrounds_refuse_what_is_no_share():
    for add in (with_background, constant_background):
        for value in (-0.1, 1.1, float("nan")):
            with pytest.raises(DataError, match="normalize"):
                add(torch.full((1, 2, 2), value))
        with pytest.raises(DataError, match="no class"):
            add(torch.zeros(0, 2, 2))
    for alpha in (-1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="alpha="):
            with_background(torch.zeros(1, 2, 2), alpha)
    with pytest.raises(UsageError, match="score=2"):
        constant_background(torch.zeros(1, 2, 2), 2.0)


masks_of_any_size = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda size: arrays(np.int64, (2, *size), elements=st.sampled_from([0, 1, 2, 255]))
)


@given(masks_of_any_size, st.integers(1, 4))
def test_a_cell_has_the_label_of_most_of_its_pixels(masks, cell):
    found = labels_of_cells(torch.from_numpy(masks), cell)
    height, width = masks.shape[1:]
    assert found.shape == (2, -(-height // cell), -(-width // cell))
    for b, y, x in itertools.product(*map(range, found.shape)):
        pixels = masks[b, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
        assert found[b, y, x] == np.bincount(pixels.ravel(), minlength=256).argmax()


def test_labels_of_cells_of_nothing():
    with pytest.raises(UsageError, match="cell=0"):
        labels_of_cells(torch.zeros(1, 2, 2, dtype=torch.int64), 0)
    with pytest.raises(DataError, match="found labels from -1 to 0; expected 0 to 255"):
        labels_of_cells(torch.tensor([[[0, -1]]]), 1)


def test_the_pixel_loss_is_one_mean_over_all_known_pixels():
    values, masks = scores(), random_cues()
    masks[0, 1:] = 255  # the images have different numbers of known pixels
    known = masks != 255
    expected = -values.log_softmax(dim=1).movedim(1, -1)[known].gather(1, masks[known][:, None]).mean()
    torch.testing.assert_close(pixel_loss(values, masks), expected)


def test_the_pixel_loss_is_of_the_enlarged_scores():
    values, grid = scores(), Grid(stride=2, first=0.5)
    masks = torch.randint(0, K + 1, (B, 2 * H, 2 * W), generator=torch.Generator().manual_seed(3))
    enlarged = resize_maps(values, (2 * H, 2 * W), grid)
    torch.testing.assert_close(pixel_loss(values, masks, grid), torch.nn.functional.cross_entropy(enlarged, masks))


def test_the_pixel_loss_of_nothing_known_is_zero():
    values = scores().requires_grad_()
    loss = pixel_loss(values, torch.full((B, H, W), 255))
    loss.backward()
    assert loss == 0 and not values.grad.any()
    with pytest.raises(DataError, match="masks: found 4; expected 0 to 3, or 255"):
        pixel_loss(values, torch.full((B, H, W), K + 1))


def test_the_pixel_losss_gradient():
    values, masks = scores(dtype=torch.float64).requires_grad_(), random_cues()
    masks[0, 0] = 255
    assert pixel_loss(values.float(), masks).dtype == torch.float32
    (gradient,) = torch.autograd.grad(pixel_loss(values, masks), values)
    known = masks != 255
    expected = values.softmax(dim=1) - torch.nn.functional.one_hot(masks.where(known, 0), K + 1).movedim(-1, 1)
    torch.testing.assert_close(gradient, expected * known[:, None] / known.sum(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("arguments", [{"width": 0}, {"dilation": 0}, {"outputs": 1}])
def test_wrong_atrous_heads(arguments):
    with pytest.raises(UsageError, match="expected at least 1, 1 and 2"):
        atrous_head(**{"channels": 4, "outputs": 3} | arguments)


def test_masks_of_several_scales_are_of_the_mean_probabilities():
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean = multi_scale_maps(lambda views: Colours().segment(views).softmax(dim=1), images, grid=Colours.grid)
    assert torch.equal(multi_scale_labels(Colours(), images, crf=None), mean.argmax(dim=1))
    refined = dense_crf(images, mean, "torch", "affinitynet").argmax(dim=1)
    assert torch.equal(multi_scale_labels(Colours(), images, backend="torch"), refined)
    assert not torch.equal(refined, mean.argmax(dim=1))
