"""Laws of the dense CRF, its two backends against each other, and the lattice against the sum over all pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.errors import DataError, UsageError
from wsl_core.refine import DEEPLAB, PARAMETERS, CRFParameters, dense_crf, dense_crf_many
from wsl_core.refine.permutohedral import PermutohedralLattice

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 12, 16


def scene(seed: int = 0, labels: int = 3, height: int = HEIGHT, width: int = WIDTH):
    """Smooth colours, and probabilities that know little."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3 + labels, 3, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    noise = torch.randn(labels, height, width, generator=generator)
    return fine[:3], (4 * fine[3:] + noise).softmax(dim=0)


def exact_kernel(features):
    """k of all pairs, (N, N), divided by the roots of the sums of rows and columns."""
    kernel = (-torch.cdist(features, features).square() / 2).exp()
    norm = kernel.sum(dim=1).rsqrt()
    return norm[:, None] * kernel * norm


def exact_crf(image, probabilities, parameters):
    """Mean-field inference with the sum over all pairs, written out in float64."""
    labels, height, width = probabilities.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([columns, rows], dim=-1).reshape(-1, 2).double()
    colour = (image * 255 + 0.5).floor().reshape(3, -1).T.double()
    near = exact_kernel(position / parameters.position_sxy)
    alike = exact_kernel(torch.cat([position / parameters.bilateral_sxy, colour / parameters.bilateral_srgb], dim=1))
    kernel = parameters.position_weight * near + parameters.bilateral_weight * alike
    known = probabilities.double().clamp(min=1e-5).log().reshape(labels, -1)
    beliefs = known.softmax(dim=0)
    for _ in range(parameters.iterations):
        beliefs = (known + beliefs @ kernel).softmax(dim=0)
    return beliefs.reshape(labels, height, width)


@pytest.fixture
def pydensecrf():
    return pytest.importorskip("pydensecrf", reason="pydensecrf is not installed: the extra crf")


@pytest.mark.parametrize("parameters", [*PARAMETERS.values(), DEEPLAB, PARAMETERS["sec"].shrunk(12)])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (41, 41), (60, 80)])
def test_both_backends_compute_the_same(pydensecrf, parameters, size):
    """To rounding, which the iterations can make large at a few undecided pixels."""
    image, probabilities = scene(1, 4, *size)
    ours, theirs = (dense_crf(image, probabilities, backend, parameters) for backend in ("torch", "pydensecrf"))
    assert (ours - probabilities).abs().max() > 0.3  # the CRF has something to do
    assert (ours - theirs).abs().mean() < 1e-5
    assert ((ours - theirs).abs() < 1e-3).double().mean() > 0.998


@pytest.mark.parametrize(
    "parameters", [CRFParameters(bilateral_sxy=6.0, bilateral_srgb=30.0), CRFParameters(position_sxy=1.5)]
)
def test_the_lattice_comes_close_to_the_sum_over_all_pairs(parameters):
    """The lattice approximates, in the authors' code as here: little beside what the CRF moves, over 12 scenes."""
    wrong, moved, agreeing = 0.0, 0.0, 0.0
    for seed in range(12):
        image, probabilities = scene(seed)
        ours, exact = dense_crf(image, probabilities, "torch", parameters), exact_crf(image, probabilities, parameters)
        wrong += (ours - exact).abs().mean().item() / 12
        moved += (exact - probabilities).abs().mean().item() / 12
        agreeing += (ours.argmax(dim=0) == exact.argmax(dim=0)).double().mean().item() / 12
    assert wrong < 0.15 * moved and agreeing > 0.93


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_lattice_filters_with_a_gaussian_of_one_standard_deviation(d):
    """A single point's response at growing distances, against the Gaussian's; both relative to distance 0."""
    axis = torch.linspace(0, 2.5, 26)
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(100, d, generator=generator), dim=1)
    start = torch.randn(100, 1, d, generator=generator)  # at many places of the lattice, whose cells it does not favour
    features = start + axis[:, None] * direction[:, None]  # (100, 26, d): 100 images of one line of points each
    # Fill the space around: the blur passes only through vertices that some point touches.
    around = start + 1.5 * torch.randn(100, 400 * d, d, generator=generator)
    values = torch.zeros(100, 26 + 400 * d, 1)
    values[:, 0] = 1.0
    response = PermutohedralLattice(torch.cat([features, around], dim=1)).filter(values)[:, :26, 0].mean(dim=0)
    torch.testing.assert_close(response / response[0], (-axis.square() / 2).exp(), rtol=0, atol=0.06)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 10**6), st.floats(0.1, 30))
@settings(max_examples=40, deadline=None)
def test_the_lattice_places_every_point_inside_its_simplex(d, points, seed, spread):
    """Barycentric weights are those of a point inside: none below 0, one in sum; and the vertices give it back."""
    from wsl_core.refine.permutohedral import _elevation, _enclosing_simplices

    features = spread * torch.randn(1, points, d, generator=torch.Generator().manual_seed(seed))
    corners, ranks, weights = _enclosing_simplices(features)
    assert (corners.sum(dim=-1) == 0).all() and (corners % (d + 1) == 0).all()
    assert (ranks.sort(dim=-1).values == torch.arange(d + 1)).all()
    assert weights.min() > -1e-3
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, points))
    remainder = torch.arange(d + 1)
    vertices = corners[..., None, :] + remainder[:, None] - (d + 1) * (ranks[..., None, :] > d - remainder[:, None])
    found = (weights[..., None] * vertices).sum(dim=-2)
    torch.testing.assert_close(found, features @ _elevation(d).float().T, rtol=1e-3, atol=1e-3)


def test_images_of_a_batch_do_not_mix():
    scenes = [scene(seed) for seed in range(3)]
    images, probabilities = (torch.stack(column) for column in zip(*scenes, strict=True))
    for backend in ("torch", "auto"):
        alone = torch.stack([dense_crf(*one, backend) for one in scenes])
        torch.testing.assert_close(dense_crf(images, probabilities, backend), alone, rtol=0, atol=1e-5)
    nested = dense_crf(images[None], probabilities[None], "torch")
    torch.testing.assert_close(nested[0], dense_crf(images, probabilities, "torch"))


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_what_comes_out_are_probabilities(backend):
    image, probabilities = scene(3)
    refined = dense_crf(image, probabilities, backend)
    assert refined.min() >= 0 and refined.shape == probabilities.shape and refined.dtype == probabilities.dtype
    torch.testing.assert_close(refined.sum(dim=0), torch.ones(HEIGHT, WIDTH))
    assert dense_crf(image, probabilities.double(), backend).dtype == torch.float64


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_without_iterations_or_weights_nothing_changes(backend):
    image, probabilities = scene(4)
    for parameters in (CRFParameters(iterations=0), CRFParameters(position_weight=0.0, bilateral_weight=0.0)):
        torch.testing.assert_close(
            dense_crf(image, probabilities, backend, parameters), probabilities, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_zero_probabilities_and_sure_ones_stay_finite(backend):
    image, _ = scene(5)
    sure = torch.zeros(3, HEIGHT, WIDTH)
    sure[0] = 1.0
    refined = dense_crf(image, sure, backend)
    assert refined.isfinite().all() and refined[0].min() > 0.99
    speck = sure.clone()
    speck[:, 5, 5] = torch.tensor([0.0, 1.0, 0.0])  # a zero forbids nothing: the neighbours win over a sure pixel
    assert dense_crf(image * 0, speck, backend).argmax(dim=0).max() == 0


@given(st.integers(0, 10**6), st.permutations(range(3)))
@settings(max_examples=15, deadline=None)
def test_labels_have_no_order(seed, order):
    image, probabilities = scene(seed)
    torch.testing.assert_close(
        dense_crf(image, probabilities[order], "torch"), dense_crf(image, probabilities, "torch")[order],
        rtol=0, atol=1e-4,
    )  # fmt: skip


def test_one_label_and_one_pixel():
    assert dense_crf(torch.rand(3, 4, 5), torch.ones(1, 4, 5), "torch").tolist() == torch.ones(1, 4, 5).tolist()
    refined = dense_crf(torch.rand(3, 1, 1), torch.tensor([0.75, 0.25]).view(2, 1, 1), "torch")
    assert refined.isfinite().all() and refined[0] > refined[1]


def test_the_edge_is_the_images_and_not_the_maps():
    image = torch.zeros(3, 20, 20)
    image[:, :, 10:] = 1.0
    probabilities = torch.full((2, 20, 20), 0.2)
    probabilities[0, :, :7] = probabilities[1, :, 7:] = 0.8  # the map's edge lies three pixels beside
    refined = dense_crf(image, probabilities, "torch", CRFParameters(position_weight=0.0, bilateral_sxy=20.0))
    assert (refined.argmax(dim=0) == (torch.arange(20) >= 10)).all()


def test_no_gradient_passes():
    image, probabilities = scene(6)
    assert not dense_crf(image, probabilities.requires_grad_(), "torch").requires_grad


def test_parameters_shrink_with_the_map():
    assert PARAMETERS["sec"].shrunk(12) == CRFParameters(position_sxy=0.25, bilateral_sxy=80 / 12)
    assert PARAMETERS["irn"] == CRFParameters(bilateral_sxy=50.0, bilateral_srgb=5.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_many_images_come_back_in_order(workers):
    scenes = [scene(seed, height=6 + seed % 3, width=5) for seed in range(7)]
    refined = list(dense_crf_many(*zip(*scenes, strict=True), workers=workers, backend="torch", parameters="irn"))
    for found, one in zip(refined, scenes, strict=True):
        torch.testing.assert_close(found, dense_crf(*one, "torch", "irn"))


def test_many_images_are_asked_for_as_they_are_needed():
    asked = []

    def images():
        for seed in range(100):
            asked.append(seed)
            yield scene(seed)[0]

    refined = dense_crf_many(images(), (scene(seed)[1] for seed in range(100)), workers=0)
    next(refined)
    assert len(asked) == 1


def test_a_missing_pydensecrf_is_named_and_auto_does_without(monkeypatch):
    monkeypatch.setattr("wsl_core.refine.crf.find_spec", lambda name: None)
    image, probabilities = scene(7)
    assert torch.equal(dense_crf(image, probabilities), dense_crf(image, probabilities, "torch"))
    with pytest.raises(UsageError, match=r"'pydensecrf' is not installed; install wsl-core\[crf\]"):
        dense_crf(image, probabilities, "pydensecrf")


def test_auto_is_pydensecrf_where_it_is_installed(pydensecrf):
    image, probabilities = scene(8)
    assert torch.equal(dense_crf(image, probabilities), dense_crf(image, probabilities, "pydensecrf"))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"backend": "numpy"}, UsageError, "backend='numpy' is unknown"),
        ({"parameters": "mine"}, UsageError, "parameters='mine' is unknown"),
        ({"image": torch.rand(3, 5, 5)}, UsageError, "of the same size"),
        ({"image": torch.rand(1, HEIGHT, WIDTH)}, UsageError, r"expected \(\.\.\., 3, H, W\)"),
        ({"image": torch.full((3, HEIGHT, WIDTH), 128.0)}, DataError, r"values outside \[0, 1\]"),
        ({"image": torch.full((3, HEIGHT, WIDTH), math.nan)}, DataError, "image: found NaN"),
        ({"probabilities": torch.ones(2, HEIGHT, WIDTH)}, DataError, "sums over labels from 2 to 2"),
        ({"probabilities": torch.full((2, HEIGHT, WIDTH), math.nan)}, DataError, "probabilities: found NaN"),
        ({"probabilities": torch.tensor([1.5, -0.5]).view(2, 1, 1).expand(2, HEIGHT, WIDTH)}, DataError, "negative"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_input(changes, error, words):
    image, probabilities = scene(9, labels=2)
    arguments = {"image": image, "probabilities": probabilities, "backend": "torch"} | changes
    unchecked = getattr(dense_crf, "__wrapped__", dense_crf)  # the shapes are checked without jaxtyping, too
    with pytest.raises(error, match=words):
        unchecked(**arguments)


def test_wrong_numbers():
    for changes, words in [
        ({"position_sxy": 0.0}, "position_sxy=0"),
        ({"bilateral_srgb": math.inf}, "bilateral_srgb=inf"),
        ({"bilateral_weight": -1.0}, "bilateral_weight=-1"),
        ({"iterations": -1}, "iterations=-1"),
    ]:
        with pytest.raises(UsageError, match=words):
            CRFParameters(**changes)
    with pytest.raises(UsageError, match="workers=-1"):
        list(dense_crf_many([], [], workers=-1))
    with pytest.raises(UsageError, match="too many standard deviations"):
        dense_crf(*scene(), "torch", CRFParameters(bilateral_srgb=1e-3, bilateral_sxy=1e-3))
