r"""Probabilistic introspection: Novotny, Albanie, Larlus and Vedaldi, CVPR 2018.

Two random warps of an image show the same places twice. Descriptors learn to agree where the places are the same and
to be orthogonal where they are not. Of many places, sky or flat walls, nobody can say which is which: beside each
descriptor the network says how uncertain it is, and the loss is the likelihood of what came out. Equation numbers are
those of chapter 6.

The title is Self-supervised Learning of Geometrically Stable Features Through Probabilistic Introspection. Of the paper
only descriptions could be read, and no code. What is ours is named in :class:`Introspection`.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wsl_core.backbones import build_backbone
from wsl_core.data.warps import KINDS, Views, correspond, two_views
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Descriptors, Grid

__all__ = [
    "Introspection", "correspondence_labels", "matching_errors", "matching_scores", "negative_log_density", "sample_at"
]  # fmt: skip

STRIDES = {"small": 8, "resnet50": 16}
PAPER_STRIDE, PAPER_CELLS = 16, 14 * 14  # of ResNet-50 at 224 pixels, for which the paper's numbers are meant:
NEAR, FAR = 1, 30  # pixels; r_1 and r_2, the paper's tau_1 and tau_2
CORRESPONDENCES, HARD_POINTS = 700, 30  # a pair of views
DRAWN = 4  # places of a view for each correspondence: not all are seen in the other view

CHOICES = {"loss": ("introspection", "unnormalised", "fixed"), "warps": KINDS}


class Points(NamedTuple):
    """Places that both views show."""

    a: Float[Tensor, "B N 2"]  # u, in pixels of view a
    b: Float[Tensor, "B N 2"]  # g(u), in pixels of view b
    valid: Bool[Tensor, "B N"]  # fewer than N may have been found


class Described(NamedTuple):
    """What a view says about N of its places."""

    features: Float[Tensor, "B N D"]  # of unit length
    sigma: Float[Tensor, "B N"] | None


class Introspection(nn.Module):
    r"""A descriptor and an uncertainty for each cell, learned from pairs of warps without any label.

    The paper's numbers are meant for 14x14 cells of 16 pixels. Elsewhere distances grow and shrink with the cells, and
    there are as many correspondences a cell: ``small`` at 96 pixels has 514 of them and 22 hard points on 12x12 cells
    of 8 pixels, and what lies between half a pixel and 15 pixels is borderline.

    Args:
        backbone: ``"small"`` or ``"resnet50"``, the paper's, whose last stage has stride 1 and dilation 2. The
            convolution that had the stride is not dilated here, nor need it be: it sees what it saw before.
        loss: ``"introspection"``: the negative logarithm of the likelihood. ``"unnormalised"``: $\ell/\sigma$ alone,
            without the density's normaliser, which sends the uncertainty to infinity. (So does not the logarithm of
            $e^{(1 - \ell)/\sigma}$, which would send it to 0: the 1 that the normaliser cancels is no matter of taste
            without it.) ``"fixed"``: the matching loss by itself, to which the likelihood comes down when the
            uncertainty is a constant; the network then predicts none.
        rectified: cut scores off at 0, so that what does not match becomes orthogonal. Without, it becomes
            anti-parallel; the density is then one over scores from -1 on.
        negative_share: weight of what does not match, the rest being that of what does. The paper re-weights, its
            weights are unknown; a half. With 0 a descriptor that is the same everywhere is perfect.
        sigma_floor: the least uncertainty, $\sigma_0$. Where a match is perfect, the loss falls without bound as the
            uncertainty goes to 0. Ours, as is the softplus above it.
        correspondences: places of a pair of views; ``None`` takes the paper's 700 for 14x14 cells.
        hard_points: of these, how many of view b are compared with all of view a: those with the highest mean loss.
            ``None`` takes the paper's 30 of 700.
        warps: one of :data:`wsl_core.data.warps.KINDS`. The sources disagree about the paper's.
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, or ``None``.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = Introspection().eval()
    >>> features, sigma = model.describe(torch.rand(2, 3, 96, 96))
    >>> features.shape, sigma.shape
    (torch.Size([2, 64, 12, 12]), torch.Size([2, 1, 12, 12]))
    """

    paper = "introspection"
    new_modules = ("descriptor", "uncertainty")

    def __init__(
        self,
        backbone: str = "small",
        loss: str = "introspection",
        rectified: bool = True,
        negative_share: float = 0.5,
        sigma_floor: float = 0.01,
        correspondences: int | None = None,
        hard_points: int | None = None,
        warps: str = "projective",
        weights: str | None = None,
        width: int | None = None,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
        _check(self.config)
        self.loss, self.warps, self.negative_share = loss, warps, negative_share
        self.lowest_score = 0.0 if rectified else -1.0
        self.sigma_floor = sigma_floor
        self.correspondences, self.hard_points = correspondences, hard_points
        options = {} if width is None else {"width": width}
        self.backbone = build_backbone(backbone, weights, STRIDES[backbone], **options)
        self.backbone.classifier = None  # a parameter that no loss reaches would stop several processes
        self.descriptor = nn.Conv2d(self.backbone.channels, self.backbone.channels, 1)
        self.uncertainty = None if loss == "fixed" else nn.Conv2d(self.backbone.channels, 1, 1)

    @property
    def grid(self) -> Grid:
        """Where the cells are centred on the image."""
        return self.backbone.grid

    def describe(self, images: Float[Tensor, "B 3 H W"]) -> Descriptors:
        r"""A descriptor of unit length and an uncertainty above ``sigma_floor`` for every cell of RGB images in [0, 1].

        Confidence is low uncertainty. With ``loss="fixed"`` there is none.
        """
        cells = self.backbone(images)
        features = F.normalize(_widened(self.descriptor(cells)), dim=1)  # (6.1)
        if self.uncertainty is None:
            return Descriptors(features)
        return Descriptors(features, self.sigma_floor + F.softplus(_widened(self.uncertainty(cells))))  # (6.2)

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        r"""The loss of two views of each ``image`` (B, 3, H, W), $x' = x \circ g^{-1}$ but that both are warped.

        - ``"matching"``: the mean over the correspondences;
        - ``"others"``: the mean over the places of view a, each with the hard points of view b that it does not match;
        - ``"total"``: their sum, weighted by ``negative_share``.

        The mean of each image first, then over images; one whose views share no place adds 0. Views and places are
        drawn from torch's generator of the CPU.
        """
        images = batch["image"]
        with torch.autocast(images.device.type, enabled=False):  # positions need all their digits
            views = two_views(images, self.warps)
        described = self.describe(torch.cat([views.a, views.b]))
        with torch.autocast(images.device.type, enabled=False):  # of 1 - s, 16 bits would leave little
            points = self._shared_points(views, described.features)
            a, b = self._describe_points(described, points)
            hard = self._hard_points(a, b, points)
            matching = _mean(self._own_losses(a, b), points.valid)
            others = _mean(*self._losses_of_others(a, b, points, hard))
        share = self.negative_share
        return {"matching": matching, "others": others, "total": (1 - share) * matching + share * others}  # (6.10)

    def _shared_points(self, views: Views, features: Float[Tensor, "_ D h w"]) -> Points:
        """Pixels of view a, drawn evenly, that view b shows as well."""
        cells = features[0, 0].numel()
        count = self.correspondences or max(1, round(CORRESPONDENCES * cells / PAPER_CELLS))
        extent = torch.tensor(views.a.shape[:-3:-1])  # width, height
        drawn = (torch.rand(len(views.a), DRAWN * count, 2) * extent).floor().to(views.a) + 0.5
        positions, valid = correspond(drawn, views.warp_a, views.warp_b)
        first = valid.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        return Points(_pick(drawn, first), _pick(positions, first), valid.gather(1, first))

    def _describe_points(self, described: Descriptors, points: Points) -> tuple[Described, Described]:
        """The places of view a, which is the first half of what is described, and those of view b."""
        positions = torch.cat([points.a, points.b])
        features = F.normalize(sample_at(described.features, positions, self.grid), dim=-1).chunk(2)
        if described.sigma is None:
            return Described(features[0], None), Described(features[1], None)
        sigma = sample_at(described.sigma, positions, self.grid)[..., 0].chunk(2)
        return Described(features[0], sigma[0]), Described(features[1], sigma[1])

    @torch.no_grad()
    def _hard_points(self, a: Described, b: Described, points: Points) -> Int[Tensor, "B M"]:
        """Which places of view b have the highest mean loss, over all of view a but the borderline."""
        labels = self._labels(points, points.b)
        losses = self._loss(matching_scores(a.features, b.features, self.lowest_score), labels, _pair_sigmas(a, b))
        counted = (labels != 0).to(losses)
        means = (losses * counted).sum(dim=1) / counted.sum(dim=1)  # a valid place has itself at least
        means = means.masked_fill(~points.valid, -math.inf)
        correspondences = means.shape[1]
        count = self.hard_points or max(1, round(HARD_POINTS * correspondences / CORRESPONDENCES))
        return means.topk(min(count, correspondences)).indices  # (6.9)

    def _own_losses(self, a: Described, b: Described) -> Float[Tensor, "B N"]:
        """The loss of each place with its own self in the other view."""
        scores = (a.features * b.features).sum(dim=-1).clamp(min=self.lowest_score)  # (6.3)
        sigma = None if a.sigma is None else (a.sigma + b.sigma) / 2  # (6.6)
        return self._loss(scores, torch.ones_like(scores, dtype=torch.int8), sigma)

    def _losses_of_others(
        self, a: Described, b: Described, points: Points, hard: Int[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B P"], Bool[Tensor, "B P"]]:
        """The loss of each place of view a with each hard point, and whether these do not match."""
        labels = self._labels(points, _pick(points.b, hard)) * points.valid.gather(1, hard)[:, None]
        b = Described(_pick(b.features, hard), None if b.sigma is None else b.sigma.gather(1, hard))
        losses = self._loss(matching_scores(a.features, b.features, self.lowest_score), labels, _pair_sigmas(a, b))
        return losses.flatten(1), (labels < 0).flatten(1)

    def _labels(self, points: Points, others: Float[Tensor, "B M 2"]) -> Int[Tensor, "B N M"]:
        """Of each place of view a with each of these places of view b; 0 where the former is not valid."""
        # The default mode multiplies matrices, and a distance of 0 comes out as a good part of a pixel.
        distances = torch.cdist(points.b, others, compute_mode="donot_use_mm_for_euclid_dist")
        scale = self.grid.stride / PAPER_STRIDE
        return correspondence_labels(distances, NEAR * scale, FAR * scale) * points.valid[:, :, None]

    def _loss(
        self, scores: Float[Tensor, "*pairs"], labels: Int[Tensor, "*pairs"], sigma: Float[Tensor, "*pairs"] | None
    ) -> Float[Tensor, "*pairs"]:
        errors = matching_errors(scores, labels, self.lowest_score)
        if self.loss == "fixed":
            return errors
        if self.loss == "unnormalised":
            return errors / sigma
        return negative_log_density(errors, sigma, 1 - self.lowest_score, checked=False)


def matching_scores(
    a: Float[Tensor, "*batch N D"], b: Float[Tensor, "*batch M D"], lowest: float = 0.0
) -> Float[Tensor, "*batch N M"]:
    r"""$s_{uu'} = \max\{0, \langle\phi(u), \phi'(u')\rangle\}$ (equation 6.3), in [0, 1].

    Without the maximum, descriptors that do not match would best be opposite, which no three can be to each other.
    Orthogonal to each other can be as many as there are channels.

    Args:
        a, b: descriptors of unit length.
        lowest: the score below which none falls; -1 leaves all as they are.

    >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [-1.0, 0.0]])
    >>> matching_scores(a, b).tolist(), matching_scores(a, b, lowest=-1).tolist()
    ([[0.6000000238418579, 0.0]], [[0.6000000238418579, -1.0]])
    """
    return (a @ b.mT).clamp(min=lowest)  # (6.3)


def correspondence_labels(
    distances: Float[Tensor, "*pairs"], near: float = NEAR, far: float = FAR
) -> Int[Tensor, "*pairs"]:
    r"""$y_{uu'}$ of places that lie $\|u' - g(u)\|$ apart (equation 6.4).

    Args:
        distances: in pixels.
        near: $r_1$, up to which it is the same place: 1.
        far: $r_2$, beyond which it is another: -1. Between the two is the borderline, 0.

    Raises:
        UsageError: not $0 \le r_1 \le r_2$.

    >>> correspondence_labels(torch.tensor([0.0, 1.0, 1.5, 30.0, 31.0])).tolist()
    [1, 1, 0, 0, -1]
    """
    if not 0 <= near <= far:
        raise UsageError(f"near={near}, far={far}: expected distances in pixels, 0 <= near <= far.")
    return (distances <= near).to(torch.int8) - (distances > far).to(torch.int8)  # (6.4)


def matching_errors(
    scores: Float[Tensor, "*pairs"], labels: Int[Tensor, "*pairs"], lowest: float = 0.0
) -> Float[Tensor, "*pairs"]:
    r"""$\ell(s, y)$, equation 6.5: $1 - s$ where places match, $s$ where they do not, 0 on the borderline.

    Args:
        scores: from ``lowest`` to 1.
        labels: 1, -1, and 0 for the borderline.
        lowest: the score that places should have which do not match: 0 if scores are rectified, else -1.

    Returns:
        How far a score is from what it should be, in [0, 1 - ``lowest``].

    >>> matching_errors(torch.tensor([0.75, 0.75, 0.75]), torch.tensor([1, 0, -1])).tolist()
    [0.25, 0.0, 0.75]
    """
    return torch.where(labels > 0, 1 - scores, scores - lowest) * labels.abs()  # (6.5)


def negative_log_density(
    errors: Float[Tensor, "*pairs"], sigma: Float[Tensor, "*pairs"], width: float = 1.0, checked: bool = True
) -> Float[Tensor, "*pairs"]:
    r"""$-\log p(s \mid y, \sigma) = \ell/\sigma + \log\sigma + \log(1 - e^{-1/\sigma})$ (equation 6.8).

    The density is $p = e^{(1 - \ell)/\sigma} / C(\sigma)$ (equation 6.7). Its normaliser, the integral over all scores,
    is the same for both labels: $C(\sigma) = \sigma\,(e^{1/\sigma} - 1)$. Written as here nothing overflows.

    It tends to 0 for $\sigma \to \infty$, where all scores are equally likely. For a given error there is a best
    uncertainty, which is finite only below an error of 1/2: a greater one is better explained by knowing nothing. At
    an error of 0 it falls without bound as $\sigma \to 0$. Without the normaliser, $\ell/\sigma$ would be least
    for $\sigma \to \infty$, whatever the error.

    Args:
        errors: $\ell$, see :func:`matching_errors`.
        sigma: $\sigma > 0$.
        width: of the range of scores: 1, or 2 for scores from -1 on, with $e^{-2/\sigma}$ in the equation.
        checked: ``False`` within a training step, where a look at every value would make the GPU wait for the host.

    Raises:
        DataError: an uncertainty is not above 0, or not finite.

    >>> sigma = torch.tensor([0.01, 1.0, 1e4])
    >>> [round(value, 3) + 0 for value in negative_log_density(torch.tensor([0.25] * 3), sigma).tolist()]
    [20.395, -0.209, 0.0]
    """
    if checked and not ((sigma > 0) & sigma.isfinite()).all():
        raise DataError(
            f"sigma {tuple(sigma.shape)}: found 0, a negative number, NaN or infinity; expected finite uncertainties "
            "above 0. Put a softplus and a floor behind what predicts them."
        )
    return errors / sigma + sigma.log() + (-torch.expm1(-width / sigma)).log()  # (6.8)


def sample_at(maps: Float[Tensor, "B C h w"], points: Float[Tensor, "B N 2"], grid: Grid) -> Float[Tensor, "B N C"]:
    """The values of maps at places of the image, interpolated bilinearly between the centres of the cells.

    Beyond the outermost centres the nearest value holds. Descriptors between cells are shorter than those of cells.

    Args:
        points: x, y in pixels of the image.
        grid: where the cells are centred on the image.

    >>> ramp = torch.tensor([[[[0.0, 1.0, 2.0]]]])
    >>> sample_at(ramp, torch.tensor([[[0.0, 1.0], [4.0, 1.0], [5.0, 9.0]]]), Grid(stride=4, first=2))[..., 0].tolist()
    [[0.0, 0.5, 0.75]]
    """
    cells = torch.tensor(maps.shape[:-3:-1]).to(points)  # columns, rows
    shares = (2 * (points - grid.first) / grid.stride + 1) / cells - 1
    return F.grid_sample(maps, shares[:, :, None], padding_mode="border", align_corners=False)[..., 0].mT


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))  # in 16 bits a unit vector is none


def _pair_sigmas(a: Described, b: Described) -> Float[Tensor, "B N M"] | None:
    return None if a.sigma is None else (a.sigma[:, :, None] + b.sigma[:, None]) / 2  # (6.6)


def _pick(values: Float[Tensor, "B N C"], which: Int[Tensor, "B M"]) -> Float[Tensor, "B M C"]:
    return values.gather(1, which[:, :, None].expand(-1, -1, values.shape[2]))


def _mean(losses: Float[Tensor, "B P"], counted: Bool[Tensor, "B P"]) -> Float[Tensor, ""]:
    """Of those that count of each image, then of the images."""
    return ((losses * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)).mean()


def _check(config: dict[str, Any]) -> None:
    if config["backbone"] not in STRIDES:
        raise UsageError(f"backbone={config['backbone']!r}: expected {' or '.join(map(repr, STRIDES))}.")
    for name, choices in CHOICES.items():
        if config[name] not in choices:
            raise UsageError(f"{name}={config[name]!r} is unknown; expected {' or '.join(map(repr, choices))}.")
    if not 0 <= config["negative_share"] <= 1:
        raise UsageError(f"negative_share={config['negative_share']!r}: expected a share in [0, 1].")
    if not 0 < config["sigma_floor"] < math.inf:
        raise UsageError(f"sigma_floor={config['sigma_floor']!r}: expected a finite number above 0.")
    for name in ("correspondences", "hard_points"):
        if (count := config[name]) is not None and not (type(count) is int and count >= 1):
            raise UsageError(f"{name}={count!r}: expected a whole number, at least 1, or None.")
