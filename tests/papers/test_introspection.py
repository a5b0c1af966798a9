"""Laws of the introspection loss (PAPERS.md, section 9), its mining against loops, and the ways it can be run."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

from wsl_core.data import load_dataset
from wsl_core.data.warps import Views, Warp, correspond, two_views
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Descriptors, Grid, resize_maps
from wsl_core.papers import introspection
from wsl_core.papers.introspection import (
    Introspection,
    Points,
    correspondence_labels,
    matching_errors,
    matching_scores,
    negative_log_density,
    sample_at,
)
from wsl_core.recipes import get_recipe
from wsl_core.training import fit, load_run

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(0))
SIGMAS = (0.05, 0.1, 0.5, 1.0, 3.0, 100.0)
LOSSES = ("introspection", "unnormalised", "fixed")


def tiny(**options):
    torch.manual_seed(1)
    return Introspection(**{"width": 4} | options)


def trained_looking(**options):
    """A small network whose BatchNorm statistics and heads are not the initial ones, in evaluation mode."""
    model = tiny(**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(model.descriptor.weight)
    if model.uncertainty is not None:
        nn.init.normal_(model.uncertainty.weight)
    return model.eval()


def losses_of(model, images=IMAGES, seed=0):
    torch.manual_seed(seed)
    return model.losses({"image": images})


# ---- the network


def test_the_papers_network_has_14x14_cells_of_2048_channels():
    with torch.device("meta"):
        model = Introspection("resnet50").eval()
        features, sigma = model.describe(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, 2048, 14, 14) and sigma.shape == (1, 1, 14, 14)
    assert model.grid == Grid(16, 0.5)
    last = [module for module in model.backbone.layers[-1].modules() if isinstance(module, nn.Conv2d)]
    assert {module.stride for module in last} == {(1, 1)}
    # The convolution that had the stride sees what it was trained on without dilation, those behind it with.
    assert [module.dilation[0] for module in last if module.kernel_size == (3, 3)] == [1, 2, 2]
    assert model.backbone.classifier is None


def test_descriptors_have_unit_length_and_sigma_a_floor():
    model = trained_looking(sigma_floor=0.25)
    features, sigma = model.describe(IMAGES)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3, 4, 5))
    assert 0.25 < sigma.min() < sigma.max()
    nn.init.constant_(model.uncertainty.bias, -1e4)
    assert torch.equal(model.describe(IMAGES).sigma, torch.full((3, 1, 4, 5), 0.25))
    nn.init.constant_(model.uncertainty.bias, 1e4)
    assert model.describe(IMAGES).sigma.isfinite().all()


def test_descriptors_in_bfloat16_have_unit_length_too():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, sigma = trained_looking().describe(IMAGES)
    assert features.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3, 4, 5))


def test_without_introspection_there_is_no_uncertainty():
    model = tiny(loss="fixed")
    assert model.describe(IMAGES).sigma is None
    assert not any(name.startswith("uncertainty") for name, _ in model.named_parameters())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_parameter_is_reached(loss):
    """Several processes would wait for ever for the gradient of one that is not."""
    model = tiny(loss=loss).train()
    losses_of(model)["total"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ---- scores, labels, errors: (6.3) to (6.5)


def test_scores_are_rectified_cosines():
    a, b = (nn.functional.normalize(torch.randn(2, 5, 4), dim=-1) for _ in range(2))
    for lowest in (0.0, -1.0):
        scores = matching_scores(a, b, lowest)
        for n in range(2):
            for i in range(5):
                for j in range(5):
                    cosine = sum(x * y for x, y in zip(a[n, i].tolist(), b[n, j].tolist()))
                    assert scores[n, i, j].item() == pytest.approx(max(lowest, cosine), abs=1e-5)
    assert (matching_scores(a, b) == 0).any()


def test_the_best_that_can_happen_to_a_wrong_pair_is_orthogonal_or_anti_parallel():
    """Down the gradient of the error of one pair that does not match, from 60 degrees."""
    fixed = torch.tensor([[1.0, 0.0]])
    for lowest, best in ((0.0, 0.0), (-1.0, -1.0)):
        angle = torch.tensor(math.pi / 3, requires_grad=True)
        for _ in range(200):
            moving = torch.stack([angle.cos(), angle.sin()])[None]
            error = matching_errors(matching_scores(fixed, moving, lowest), torch.tensor([[-1]]), lowest).sum()
            (gradient,) = torch.autograd.grad(error, angle)
            angle = (angle - 0.1 * gradient).detach().requires_grad_()
        assert math.cos(angle.item()) == pytest.approx(best, abs=0.1)


def test_labels_at_and_between_the_thresholds():
    distances = torch.tensor([0.0, 0.5, 0.51, 15.0, 15.1, 1e6])
    assert correspondence_labels(distances, 0.5, 15).tolist() == [1, 1, 0, 0, -1, -1]
    assert correspondence_labels(distances).tolist() == [1, 1, 1, 0, 0, -1]
    for near, far in ((2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(UsageError, match="expected distances in pixels, 0 <= near <= far"):
            correspondence_labels(distances, near, far)


@pytest.mark.parametrize("lowest", [0.0, -1.0])
def test_errors_by_hand(lowest):
    scores = torch.tensor([lowest, 0.25, 1.0])
    ones = torch.ones(3, dtype=torch.long)
    assert matching_errors(scores, ones, lowest).tolist() == [1 - lowest, 0.75, 0]
    assert matching_errors(scores, -ones, lowest).tolist() == [0, 0.25 - lowest, 1 - lowest]
    assert matching_errors(scores, 0 * ones, lowest).tolist() == [0, 0, 0]


# ---- the density, (6.7) and (6.8)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("label", [1, -1])
@pytest.mark.parametrize("lowest", [0.0, -1.0])
def test_the_density_integrates_to_one(sigma, label, lowest):
    def density(score):
        scores, uncertainty = (torch.tensor(value, dtype=torch.float64) for value in (score, sigma))
        error = matching_errors(scores, torch.tensor(label), lowest)
        return math.exp(-negative_log_density(error, uncertainty, 1 - lowest).item())

    area, _ = quad(density, lowest, 1, epsabs=1e-9)
    assert area == pytest.approx(1, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(0.002, 1e4))
def test_the_stable_form_equals_the_naive_one(error, sigma):
    """Naive, in float64, where e^(1 / sigma) does not overflow."""
    naive = -math.log(math.exp((1 - error) / sigma) / (sigma * (math.exp(1 / sigma) - 1)))
    found = negative_log_density(*(torch.tensor(value, dtype=torch.float64) for value in (error, sigma)))
    assert found.item() == pytest.approx(naive, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_stable_form_and_its_gradient_are_finite_from_1e_4_to_1e4(dtype):
    errors, sigma = torch.meshgrid(
        torch.linspace(0, 1, 11, dtype=dtype), torch.logspace(-4, 4, 81, dtype=dtype), indexing="ij"
    )
    errors, sigma = errors.clone().requires_grad_(), sigma.clone().requires_grad_()
    losses = negative_log_density(errors, sigma)
    gradients = torch.autograd.grad(losses.sum(), (errors, sigma))
    assert losses.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(gradients[0], 1 / sigma)


def test_single_precision_is_enough():
    """At large uncertainties, 1 - e^(-1 / sigma) is a small difference of large numbers, if so computed."""
    errors, sigma = torch.full((41,), 0.25), torch.logspace(0, 4, 41)
    wide = negative_log_density(errors.double(), sigma.double())
    torch.testing.assert_close(negative_log_density(errors, sigma).double(), wide, rtol=0, atol=5e-6)


def test_gradients_of_the_density_in_float64():
    errors = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    sigma = torch.logspace(-1.5, 2, 12, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(negative_log_density, (errors, sigma))


def test_the_loss_tends_to_zero_for_an_infinite_uncertainty():
    errors = torch.linspace(0, 1, 5, dtype=torch.float64)
    for sigma in (1e2, 1e4, 1e6):
        assert negative_log_density(errors, torch.tensor(sigma, dtype=torch.float64).expand(5)).abs().max() < 1 / sigma


@settings(max_examples=60, deadline=None)
@given(st.floats(0.5, 1), st.floats(0.01, 50))
def test_an_error_above_a_half_pushes_the_uncertainty_up(error, sigma):
    sigma = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(negative_log_density(torch.tensor(error, dtype=torch.float64), sigma), sigma)
    assert gradient <= 1e-12
    if error > 0.51:
        assert gradient < 0


@pytest.mark.parametrize("error", [0.02, 0.1, 0.3, 0.45])
def test_an_error_below_a_half_has_a_finite_best_uncertainty(error):
    """Where the expected error under the density is the error: the slope changes its sign once."""
    sigma = torch.logspace(-3, 3, 2000, dtype=torch.float64).requires_grad_()
    losses = negative_log_density(torch.full_like(sigma, error), sigma)
    slope = torch.autograd.grad(losses.sum(), sigma)[0].sign()
    assert slope[0] < 0 < slope[-1] and (slope[1:] != slope[:-1]).sum() == 1
    best = sigma[losses.argmin()].item()
    mean = quad(lambda s: s * math.exp(-s / best), 0, 1)[0] / quad(lambda s: math.exp(-s / best), 0, 1)[0]
    assert mean == pytest.approx(error, abs=1e-3)


def test_a_perfect_match_rewards_ever_less_uncertainty():
    sigma = torch.logspace(0, -30, 31, dtype=torch.float64)
    assert (negative_log_density(torch.zeros_like(sigma), sigma).diff() < -1e-3).all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_an_uncertainty_that_is_none_is_refused(sigma):
    errors, sigmas = torch.zeros(2), torch.tensor([1.0, sigma])
    with pytest.raises(DataError, match=r"sigma \(2,\): found 0, a negative number, NaN or infinity"):
        negative_log_density(errors, sigmas)


# ---- sampling


@pytest.mark.parametrize("grid", [Grid(8, 0.5), Grid(8, 4), Grid(4, 3)])
def test_sampling_at_every_pixel_is_what_enlarging_gives(grid):
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    x, y = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(32) + 0.5, indexing="xy")
    pixels = torch.stack([x, y], dim=-1).flatten(0, 1).expand(2, -1, 2)
    expected = resize_maps(maps, (32, 40), grid).flatten(2).mT
    torch.testing.assert_close(sample_at(maps, pixels, grid), expected, rtol=1e-4, atol=1e-4)


def test_sampling_one_cell():
    assert sample_at(torch.ones(1, 2, 1, 1), torch.tensor([[[-50.0, 9.0]]]), Grid(8, 0.5)).tolist() == [[[1, 1]]]


def test_sampled_descriptors_have_unit_length():
    model = trained_looking()
    described = model.describe(torch.cat([IMAGES, IMAGES]))
    places = 40 * torch.rand(3, 50, 2)
    a, b = model._describe_points(described, Points(places, places, torch.ones(3, 50).bool()))
    torch.testing.assert_close(a.features.norm(dim=-1), torch.ones(3, 50))
    torch.testing.assert_close((a.features, a.sigma), (b.features, b.sigma))
    assert (sample_at(described.features[:3], places, model.grid).norm(dim=-1) < 0.99).any()  # without, they had not


# ---- correspondences and their number


def points_of(model, size, count=2, seed=0):
    torch.manual_seed(seed)
    images = torch.rand(count, 3, *size)
    views = two_views(images, model.warps)
    cells = [math.ceil(side / model.grid.stride) for side in size]
    return views, model._shared_points(views, torch.zeros(2 * count, 1, *cells))


@pytest.mark.parametrize(
    ("backbone", "side", "correspondences", "hard"), [("resnet50", 224, 700, 30), ("small", 96, 514, 22)]
)
def test_the_papers_numbers_and_what_they_are_for_small(backbone, side, correspondences, hard, monkeypatch):
    with torch.device("meta"):
        model = Introspection(backbone)
    views, points = points_of(model, (side, side), count=1)
    assert points.a.shape == points.b.shape == (1, correspondences, 2)
    thresholds = []
    monkeypatch.setattr(
        introspection, "correspondence_labels",
        lambda distances, near, far: (thresholds.append((near, far)), correspondence_labels(distances, near, far))[1],
    )  # fmt: skip
    features = nn.functional.normalize(torch.randn(1, correspondences, 3), dim=-1)
    described = introspection.Described(features, torch.ones(1, correspondences))
    assert model._hard_points(described, described, points).shape == (1, hard)
    assert thresholds == [(model.grid.stride / 16, 30 * model.grid.stride / 16)]


@pytest.mark.parametrize("kind", ["affine", "projective", "thin-plate"])
def test_points_are_pixels_of_view_a_and_where_they_are_in_view_b(kind):
    model = tiny(warps=kind)
    views, points = points_of(model, (32, 40))
    assert torch.equal(points.a % 1, torch.full_like(points.a, 0.5))
    assert ((points.a > 0) & (points.a < torch.tensor([40.0, 32.0]))).all()
    expected, valid = correspond(points.a, views.warp_a, views.warp_b)
    torch.testing.assert_close(points.b, expected)
    assert torch.equal(points.valid, valid) and valid.float().mean() > 0.9
    x, y = points.a[points.valid].unbind(dim=-1)
    assert x.min() < 12 and x.max() > 28 and y.min() < 10 and y.max() > 22  # drawn from everywhere


def test_where_few_places_are_shared_the_rest_is_not_valid():
    model = tiny(correspondences=50)
    away = torch.eye(3).repeat(2, 1, 1)
    away[0, 0, 2], away[1, 0, 2] = 1.95, 3.0  # views that share a 40th of their width, and none
    images = torch.rand(2, 3, 32, 40)
    views = Views(images, images, Warp(torch.eye(3).repeat(2, 1, 1), None, (32, 40)), Warp(away, None, (32, 40)))
    torch.manual_seed(0)
    points = model._shared_points(views, torch.zeros(4, 1, 4, 5))
    assert 0 < points.valid[0].sum() < 20 and not points.valid[1].any()
    assert (points.a[0, points.valid[0]][:, 0] > 38).all()
    assert torch.equal(points.valid, points.valid.sort(dim=1, descending=True).values)


def test_an_image_without_pairs_adds_nothing_to_the_mean():
    losses, counted = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[True, True], [False, False]])
    assert introspection._mean(losses, counted).item() == 1.0


@pytest.mark.parametrize("loss", LOSSES)
def test_views_that_share_nothing_have_neither_a_loss_nor_a_gradient(loss, monkeypatch):
    nowhere = lambda points, a, b: (points, torch.zeros(points.shape[:2]).bool())  # noqa: E731
    monkeypatch.setattr(introspection, "correspond", nowhere)
    model = trained_looking(loss=loss)
    losses = losses_of(model)
    losses["total"].backward()
    assert [value.item() for value in losses.values()] == [0, 0, 0]
    assert not any(parameter.grad.any() for parameter in model.parameters())


# ---- the loss, (6.9) and (6.10), against loops over points


class Loops:
    """The loss of one image, pair by pair."""

    def __init__(self, model, features, sigma, points, n):
        self.model, self.points = model, points.b[n].tolist()
        self.valid = [i for i, valid in enumerate(points.valid[n].tolist()) if valid]
        self.features, self.sigma = [], []
        for view, places in enumerate((points.a[n], points.b[n])):
            image = slice(len(points.valid) * view + n, len(points.valid) * view + n + 1)
            rows = sample_at(features[image], places[None], model.grid)[0]
            self.features.append([row / row.norm() for row in rows])
            self.sigma.append(None if sigma is None else sample_at(sigma[image], places[None], model.grid)[0, :, 0])

    def label(self, i, j):
        distance = math.dist(self.points[i], self.points[j])
        return 1 if distance <= 0.5 else 0 if distance <= 15 else -1

    def loss(self, i, j, label):
        lowest = -1 if not self.model.config["rectified"] else 0
        score = max(self.features[0][i].dot(self.features[1][j]).item(), lowest)
        error = 1 - score if label > 0 else score - lowest
        if self.model.loss == "fixed":
            return error
        sigma = (self.sigma[0][i] + self.sigma[1][j]).item() / 2
        if self.model.loss == "unnormalised":
            return error / sigma
        return error / sigma + math.log(sigma) + math.log(1 - math.exp((lowest - 1) / sigma))

    def hardest(self, count):
        means = {}
        for j in self.valid:
            column = [self.loss(i, j, self.label(i, j)) for i in self.valid if self.label(i, j)]
            means[j] = sum(column) / len(column)
        return sorted(self.valid, key=lambda j: -means[j])[:count]

    def means(self, count):
        own = [self.loss(i, i, 1) for i in self.valid]
        others = [self.loss(i, j, -1) for j in self.hardest(count) for i in self.valid if self.label(i, j) < 0]
        return sum(own) / len(own), sum(others) / len(others)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"loss": "fixed"}, {"loss": "unnormalised"}, {"rectified": False}, {"hard_points": 9},
        {"hard_points": 99}, {"negative_share": 0.2, "warps": "thin-plate"},
    ],
)  # fmt: skip
def test_the_loss_by_loops_over_points(options, monkeypatch):
    monkeypatch.setattr(introspection, "DRAWN", 1)  # so that some places are not in both views
    model = trained_looking(**{"correspondences": 30} | options)
    found = losses_of(model, seed=4)
    torch.manual_seed(4)
    views = two_views(IMAGES, model.warps)
    with torch.no_grad():
        features, sigma = model.describe(torch.cat([views.a, views.b]))
    points = model._shared_points(views, features)
    assert not points.valid.all() and points.valid.any(dim=1).all()
    hard = options.get("hard_points", 1)  # 30 of 700 places, of 30 places
    means = [Loops(model, features, sigma, points, n).means(min(hard, 30)) for n in range(3)]
    matching, others = (sum(values) / 3 for values in zip(*means))
    assert found["matching"].item() == pytest.approx(matching, rel=1e-4, abs=1e-5)
    assert found["others"].item() == pytest.approx(others, rel=1e-4, abs=1e-5)
    share = options.get("negative_share", 0.5)
    assert found["total"].item() == pytest.approx((1 - share) * matching + share * others, rel=1e-4, abs=1e-5)


def scene(distances, count=4):
    """Places in a row on view b; the first of view a is compared with places that lie at ``distances`` from it."""
    x = torch.tensor([[0.0, *distances]])
    places = torch.stack([x, torch.zeros_like(x)], dim=-1)
    return Points(places, places, torch.ones(1, len(distances) + 1).bool())


def test_borderline_pairs_change_nothing():
    """Whatever the descriptors of places 2 and 3 say of each other, half a pixel to 15 pixels apart."""
    model = tiny(hard_points=9)
    points = scene([100.0, 110.0, 200.0])  # 100 and 110 are borderline to each other
    random = torch.Generator().manual_seed(0)
    features = nn.functional.normalize(torch.rand(1, 4, 6, generator=random), dim=-1)
    sigma = torch.rand(1, 4, generator=random) + 0.1
    described = introspection.Described(features, sigma)
    scores = torch.rand(1, 4, 4, generator=random)

    def others(scores, monkeypatch):
        monkeypatch.setattr(introspection, "matching_scores", lambda a, b, lowest: scores)
        losses, counted = model._losses_of_others(described, described, points, torch.arange(4)[None])
        return losses[counted], counted.view(4, 4)

    changed = scores.clone()
    changed[0, 1, 2], changed[0, 2, 1] = 1.0, 0.0
    with pytest.MonkeyPatch.context() as monkeypatch:
        before, counted = others(scores, monkeypatch)
        after, _ = others(changed, monkeypatch)
        assert torch.equal(before, after)
        assert not counted[1, 2] and not counted[2, 1] and counted.sum() == 16 - 4 - 2
        hard = model._hard_points(described, described, points)
        monkeypatch.setattr(introspection, "matching_scores", lambda a, b, lowest: scores)
        assert torch.equal(model._hard_points(described, described, points), hard)
        changed[0, 0, 3] = 1.0  # a pair that counts
        assert not torch.equal(others(changed, monkeypatch)[0], before)


def test_the_distance_of_a_place_to_itself_is_none():
    """By a product of matrices it would be a good part of a pixel, 200 pixels away from the origin."""
    places = 224 * torch.rand(1, 700, 2, generator=torch.Generator().manual_seed(0))
    points = Points(places, places, torch.ones(1, 700).bool())
    model = tiny()
    with pytest.MonkeyPatch.context() as monkeypatch:
        distances = []
        monkeypatch.setattr(
            introspection, "correspondence_labels",
            lambda found, near, far: (distances.append(found), correspondence_labels(found, near, far))[1],
        )  # fmt: skip
        model._labels(points, places)
    assert distances[0].diagonal(dim1=1, dim2=2).max() == 0


# ---- what goes wrong without each part


def trained_heads(steps=40, **options):
    """The loss at each step of training the heads alone, and the descriptors of all cells in the end."""
    model = trained_looking(**options)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.descriptor.parameters(), lr=0.05)
    history = []
    for step in range(steps):
        total = losses_of(model, images, seed=step)["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    return history, model.describe(images).features.detach().flatten(2).mT


def test_without_negatives_every_place_gets_the_same_descriptor():
    history, features = trained_heads(loss="fixed", negative_share=0.0)
    assert history[-1] < history[0] / 3 and matching_scores(features, features).min() > 0.97
    history, features = trained_heads(loss="fixed")
    assert matching_scores(features, features).min() < 0.5


@pytest.mark.parametrize("error", [0.05, 0.2, 0.49])
def test_without_the_normaliser_the_uncertainty_goes_to_infinity_whatever_the_error(error):
    sigma = torch.logspace(-2, 4, 50).requires_grad_()
    scores, labels = torch.full((50,), 1 - error), torch.ones(50, dtype=torch.long)
    slopes = {}
    for loss in ("unnormalised", "introspection"):
        (slopes[loss],) = torch.autograd.grad(tiny(loss=loss)._loss(scores, labels, sigma).sum(), sigma)
    assert slopes["unnormalised"].max() < 0
    assert slopes["introspection"][25:35].min() > 0


def test_the_loss_is_differentiable_where_mining_does_not_change():
    """In float64; which points are the hardest is decided before."""
    model = trained_looking(correspondences=20).double()
    images = IMAGES[:2].double()
    points = Points(
        *(32 * torch.rand(2, 20, 2, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2)),
        torch.ones(2, 20).bool(),
    )
    hard = torch.tensor([[3, 7, 11], [0, 1, 2]])

    def losses(weight, sigma_weight):
        heads = {"descriptor.weight": weight, "uncertainty.weight": sigma_weight}
        described = torch.func.functional_call(Described(model), {f"model.{k}": v for k, v in heads.items()}, (images,))
        a, b = model._describe_points(Descriptors(*described), points)
        others, counted = model._losses_of_others(a, b, points, hard)
        return model._own_losses(a, b).mean(), (others * counted).sum()

    weights = [head.weight.detach().clone().requires_grad_() for head in (model.descriptor, model.uncertainty)]
    assert torch.autograd.gradcheck(losses, weights, fast_mode=True)
    assert all(gradient.any() for gradient in torch.autograd.grad(sum(losses(*weights)), weights))


class Described(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        images = torch.cat([images, 1 - images])
        return tuple(self.model.describe(images))


@pytest.mark.parametrize("options", [{}, {"loss": "fixed"}, {"rectified": False}])
def test_losses_in_bfloat16_are_near_those_in_float32(options):
    model = trained_looking(**options)
    wide = losses_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = losses_of(model)
    for name in wide:
        torch.testing.assert_close(narrow[name], wide[name], rtol=0.1, atol=0.05)


def test_views_and_places_are_drawn_anew_and_from_torchs_generator():
    model = trained_looking()
    torch.manual_seed(0)
    first, second = (model.losses({"image": IMAGES})["total"].item() for _ in range(2))
    assert first != second and losses_of(model)["total"].item() == first


def test_images_that_are_not_finite_are_left_to_the_training_loop():
    assert losses_of(trained_looking(), IMAGES * float("nan"))["total"].isnan()


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 8, 8)])
def test_flat_images_and_images_of_one_cell_have_a_finite_loss(images):
    model = tiny().train()
    losses = losses_of(model, images)
    losses["total"].backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ---- runs

RECIPE = get_recipe("introspection", "synthetic", "smoke").replace(
    images=None, steps=5, batch_size=4, log_every=1, checkpoint_every=2, warmup_steps=1, model={"width": 4}
)


def run(folder):
    data = load_dataset("synthetic", "train", world="creatures", size=32, length=8)
    return fit(lambda: Introspection(**RECIPE.model), data, RECIPE, run_dir=folder, seed=3, device="cpu")


def test_a_run_that_was_stopped_ends_in_the_same_weights(tmp_path, monkeypatch):
    """The random numbers of views and places come out of the checkpoint."""
    whole = run(tmp_path / "whole").model.state_dict()
    losses, calls = Introspection.losses, iter(range(5))

    def stop_in_the_fourth_step(model, batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return losses(model, batch)

    monkeypatch.setattr(Introspection, "losses", stop_in_the_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    monkeypatch.undo()
    resumed = run(tmp_path / "stopped").model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_a_finished_run_is_built_again(tmp_path):
    trained = run(tmp_path / "run").model
    again = load_run(tmp_path / "run").model
    assert again.config == trained.config
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in again.state_dict().items())
    torch.testing.assert_close(tuple(again.describe(IMAGES)), tuple(trained.describe(IMAGES)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "vgg16"}, "backbone='vgg16': expected 'small' or 'resnet50'"),
        ({"loss": "robust"}, "loss='robust' is unknown; expected 'introspection' or 'unnormalised' or 'fixed'"),
        ({"warps": "rigid"}, "warps='rigid' is unknown"),
        ({"negative_share": 1.5}, "negative_share=1.5"),
        ({"negative_share": math.nan}, "negative_share=nan"),
        ({"sigma_floor": 0.0}, "sigma_floor=0.0: expected a finite number above 0"),
        ({"sigma_floor": math.inf}, "sigma_floor=inf"),
        ({"correspondences": 0}, "correspondences=0: expected a whole number, at least 1, or None"),
        ({"hard_points": 0}, "hard_points=0"),
        ({"hard_points": True}, "hard_points=True"),
        ({"weights": "DEFAULT"}, "small backbone has no published weights"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        Introspection(**arguments)
