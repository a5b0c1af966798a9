r"""AnchorNet: Novotny, Larlus and Vedaldi, Learn Geometry-sensitive Features for Semantic Matching, CVPR 2017.

From image labels alone, a bank of filters is learned for every class, so that each filter fires at one part that comes
back from image to image, and the filters of a class fire at different parts. An auto-encoder then merges the banks of
all classes into channels that belong to none: an eye is an eye on any animal. Equation numbers are those of chapter 5.

No code was published, and of the paper only descriptions could be read. Its equations are followed, not its figure, in
which the names of the variables are said to be swapped. What is ours is named in :class:`AnchorNet`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wsl_core.backbones import Backbone, build_backbone
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Descriptors, Grid, global_pool, resize_maps

__all__ = [
    "AnchorNet", "Targets", "background_loss", "discriminability_loss", "one_against_background",
    "principal_components", "reconstruction_error", "redundancy", "unit_vectors",
]  # fmt: skip

STAGES = {"small": (2, 3, 4), "resnet50": (1, 2, 3)}  # residual stages, counted from 1; the finest has stride 4
RESIDUAL_STAGES = 4  # of both backbones, at their ends
PCA_CHANNELS = 256  # the paper's
NO_LENGTH = 1e-12  # a vector that is shorter has no direction

CHOICES = {
    "task": ("single", "multi"),
    "trunk": ("trained", "frozen"),
    "negatives": ("others", "background"),
    "balance": ("signs", "pairs"),
    "similarity": ("squared", "absolute"),
    "reconstruction_reaches": ("autoencoder", "everything"),
}
WEIGHTS = ("background_weight", "filter_diversity_weight", "response_diversity_weight", "reconstruction_weight")


class Targets(NamedTuple):
    """What the filters of a class are to say about an image: +1 something, -1 nothing; and how much that counts."""

    sign: Float[Tensor, "B K"]  # y
    share: Float[Tensor, "B K"]  # of each image they add up to 1: a sum over them is a mean over the image's classes


class AnchorNet(nn.Module):
    r"""Hypercolumns, a bank of filters for each class, and an auto-encoder of all their responses.

    The paper sums over images, filters and pairs of filters. Here are means, so that no weight depends on how many
    there are, and the loss of a batch is the mean of the losses of its images.

    The 1x1 convolutions before the hypercolumn start as a PCA of the trunk's activations, over the first batch that
    is trained on, or over any images by :meth:`init_pca`. They are weights like others: trained on, saved, resumed.

    Args:
        backbone: ``"small"`` or ``"resnet50"``, the paper's.
        num_classes: number of classes, K.
        filters: filters a class, $J$ (the paper's $K$, unknown). Four, so that they can be looked at.
        agnostic_channels: channels that belong to no class (the paper's $L$, unknown). Fewer than there are filters,
            so that some have to be shared.
        background_weight: of $L^-_{discr}$. No source speaks of one; 1.
        filter_diversity_weight: of $L^A_{div}$. Unknown. In trials on the synthetic worlds, filters coincided without
            it, and left the object with a large one.
        response_diversity_weight: of $L^B_{div}$, likewise. The responses are compared as they are, without smoothing.
        reconstruction_weight: of $L_{rec}$. Without effect on the filters unless ``reconstruction_reaches`` them.
        similarity: what of a cosine the diversity losses count: ``"squared"``, or ``"absolute"``. Unknown; the square
            leaves nearly orthogonal filters alone.
        negatives: the images that are no image of a class. ``"others"``: all of them. ``"background"``: those without
            any label alone, as in the paper, it seems; what classes share is then no evidence against either.
        balance: how the classes of an image count. ``"signs"``: its own and all others as much as each other.
            ``"pairs"``: each alike, a plain sum as in the equation; the many classes that an image is not of outweigh
            its own then, and a short training ends with filters that never fire. How the paper's training images were
            balanced is unknown.
        reconstruction_reaches: ``"autoencoder"``: $L_{rec}$ takes the responses as constants. Filters that coincide are
            the easiest to reconstruct, so the loss would work against diversity. Or ``"everything"``.
        channel_dropout: probability that the auto-encoder does not see a response map; the paper's.
        trunk: ``"trained"``, or ``"frozen"``, with its BatchNorm statistics. Unknown; frozen is for trunks that have
            learned before.
        stages: the residual stages of the hypercolumn, from 1 to 4. Unknown; ``None`` takes the first three of
            ResNet-50, since 56x56 cells at 224 pixels are those of its first, and the last three of ``small``.
        pca_channels: channels a stage; ``None`` takes the paper's 256, and of a narrower stage as many as it has.
        task: ``"single"`` label an image or ``"multi"``: what the data have. The losses are the same.
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, or ``None``.
        output_stride: pixels per cell of the trunk's last stage; ``None`` keeps the published one (8 for ``small``).
        stride_by: see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes the backbone's own.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = AnchorNet(num_classes=3).eval()
    >>> images = torch.rand(2, 3, 96, 96)
    >>> model(images).shape, model.localize(images).shape, model.describe(images).features.shape
    (torch.Size([2, 3]), torch.Size([2, 3, 24, 24]), torch.Size([2, 16, 24, 24]))
    """

    paper = "anchornet"
    new_modules = ("reductions", "filters", "encoder", "decoder")

    def __init__(
        self,
        backbone: str = "small",
        num_classes: int = 8,
        filters: int = 4,
        agnostic_channels: int = 16,
        background_weight: float = 1.0,
        filter_diversity_weight: float = 0.2,
        response_diversity_weight: float = 0.2,
        reconstruction_weight: float = 1.0,
        similarity: str = "squared",
        negatives: str = "others",
        balance: str = "signs",
        reconstruction_reaches: str = "autoencoder",
        channel_dropout: float = 0.25,
        trunk: str = "trained",
        stages: Sequence[int] | None = None,
        pca_channels: int | None = None,
        task: str = "single",
        weights: str | None = None,
        output_stride: int | None = None,
        stride_by: str | None = None,
        width: int | None = None,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
        _check(self.config)
        self.task, self.trunk, self.negatives, self.balance = task, trunk, negatives, balance
        self.similarity, self.channel_dropout = similarity, channel_dropout
        self.reconstruction_reaches = reconstruction_reaches
        self.loss_weights = {name.removesuffix("_weight"): self.config[name] for name in WEIGHTS}
        options = {} if width is None else {"width": width}
        self.backbone = build_backbone(backbone, weights, output_stride, stride_by, **options)
        self._cut_trunk(STAGES[backbone] if stages is None else stages)
        self.backbone.requires_grad_(trunk == "trained")
        channels = [_width(self.backbone.layers[place]) for place in self._places]
        reduced = [min(PCA_CHANNELS if pca_channels is None else pca_channels, width) for width in channels]
        self.reductions = nn.ModuleList(nn.Conv2d(*sizes, 1) for sizes in zip(channels, reduced))
        self.register_buffer("pca_is_set", torch.tensor(False))  # saved with the weights: a resumed run keeps its PCA
        self._pca_was_looked_for = False
        responses = num_classes * filters
        # Beyond the border the outermost cells are repeated. With zeros there any filter would be quieter in a corner,
        # and whatever an image shows, the greatest response of a filter that should be silent would lie there.
        self.filters = nn.Conv2d(sum(reduced), responses, 3, padding=1, padding_mode="replicate", bias=False)
        # Without biases the auto-encoder keeps the scale of what it is given, which its loss does not see.
        self.encoder = nn.Conv2d(responses, agnostic_channels, 1, bias=False)
        self.decoder = nn.ConvTranspose2d(agnostic_channels, responses, 3, padding=1, bias=False)

    def _cut_trunk(self, stages: Sequence[int]) -> None:
        """Leave out what lies behind the last stage: a parameter that no loss reaches would stop several processes."""
        layers = self.backbone.layers
        before = len(layers) - RESIDUAL_STAGES
        self._places = [before + stage - 1 for stage in stages]
        self._grids = [Backbone(layers[: place + 1], channels=0).grid for place in self._places]
        self.backbone.layers, self.backbone.classifier = layers[: self._places[-1] + 1], None
        self.backbone.channels = _width(self.backbone.layers[-1])

    @property
    def grid(self) -> Grid:
        """Where the cells of maps and descriptors are centred on the image: those of the finest stage."""
        return self._grids[0]

    def train(self, mode: bool = True) -> "AnchorNet":
        """Training or evaluation mode; a frozen trunk stays in the latter."""
        super().train(mode)
        if self.trunk == "frozen":
            self.backbone.eval()
        return self

    @torch.no_grad()
    def init_pca(self, images: Float[Tensor, "B 3 H W"]) -> None:
        """Set the 1x1 convolutions to the principal components of the trunk's activations on these images.

        Training does the same with its first batch where nobody has called this before. Call it for more images than a
        batch has, or for a model that is not trained at all.

        Raises:
            DataError: an activation is not finite.

        >>> model = AnchorNet(num_classes=3)
        >>> model.init_pca(torch.rand(4, 3, 64, 64))
        >>> weight = model.reductions[0].weight[:, :, 0, 0]
        >>> torch.allclose(weight @ weight.T, torch.eye(32), atol=1e-5)
        True
        """
        training = self.backbone.training
        self.backbone.eval()  # BatchNorm's statistics are the training's to move
        stages = self._stages(images)
        self.backbone.train(training)
        self._set_pca(stages)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        r"""Logits of RGB images in [0, 1]: the mean over the filters of a class of $\mathrm{gmax}(F_j * \Phi)$."""
        return _scores(self._responses(images))

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        r"""Raw maps, signed, of every class: the response of the filter that fires most at a cell, $\max_j F_j*\Phi$.

        The filters of a class are to cover the object together, so their union is its map. With ``labels`` the maps of
        other classes are zero.
        """
        return self.scores_and_maps(images, labels)[1]

    def scores_and_maps(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
        """Logits, and what :meth:`localize` returns, from one pass."""
        responses = self._responses(images)
        maps = responses.amax(dim=2)
        return _scores(responses), maps if labels is None else maps * labels[:, :, None, None]

    def describe(self, images: Float[Tensor, "B 3 H W"], which: str = "class-agnostic") -> Descriptors:
        r"""A descriptor of every cell, to be matched by its direction.

        Args:
            which: ``"class-agnostic"``: the auto-encoder's channels, $\mathrm{Enc}(\Gamma)$. ``"class-specific"``: the
                responses of all banks, $\Gamma$, in the order of the classes. ``"hypercolumn"``: $\Phi$, the baseline
                without heads.

        Raises:
            UsageError: ``which`` is none of these.

        >>> model = AnchorNet(num_classes=3, filters=5).eval()
        >>> model.describe(torch.rand(1, 3, 64, 64), "class-specific").features.shape
        torch.Size([1, 15, 16, 16])
        """
        if which not in ("class-agnostic", "class-specific", "hypercolumn"):
            raise UsageError(f"which={which!r}: expected 'class-agnostic', 'class-specific' or 'hypercolumn'.")
        features = self._hypercolumn(self._stages(images))
        if which != "hypercolumn":
            features = self.filters(features)
        if which == "class-agnostic":
            features = self.encoder(features)
        return Descriptors(features)

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """The five losses of a batch with ``image`` (B, 3, H, W) and ``labels`` (B, K), and their weighted sum.

        An image without any label is background: a negative of every class.

        - ``"discriminability"``, weight 1, see :func:`discriminability_loss`;
        - ``"background"``, see :func:`background_loss`;
        - ``"filter_diversity"`` and ``"response_diversity"``, see :func:`redundancy`;
        - ``"reconstruction"``, see :func:`reconstruction_error`.

        Raises:
            DataError: at the first step, an activation is not finite.
        """
        stages = self._stages(batch["image"])
        if self.training and not self._pca_was_looked_for:  # once: at every step, the host would wait for the device
            self._pca_was_looked_for = True
            if not self.pca_is_set:
                self._set_pca([stage.detach() for stage in stages])
        responses = self._banks(self._hypercolumn(stages))
        targets = one_against_background(batch["labels"], self.negatives, self.balance)
        banks = self.filters.weight.unflatten(0, responses.shape[1:3]).flatten(2)  # (K, J, 9 D)
        losses = {
            "discriminability": discriminability_loss(responses, targets),
            "background": background_loss(responses, targets),
            "filter_diversity": redundancy(banks, self.similarity),  # (5.5)
            "response_diversity": redundancy(responses.flatten(3), self.similarity),  # (5.6)
            "reconstruction": self._reconstruction(responses.flatten(1, 2)),
        }
        weighted = [weight * losses[name] for name, weight in self.loss_weights.items()]
        return losses | {"total": losses["discriminability"] + sum(weighted)}  # (5.9)

    def _stages(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """What comes out of each stage of the hypercolumn, behind its ReLU."""
        found, features = [], (images - self.backbone.mean) / self.backbone.std
        for place, layer in enumerate(self.backbone.layers):
            features = layer(features)
            if place in self._places:
                found.append(features)
        return found

    def _hypercolumn(self, stages: list[Tensor]) -> Float[Tensor, "B D h w"]:
        """All stages, reduced, at the cells of the finest one, each of unit length there."""
        cells = tuple(stages[0].shape[-2:])
        columns = []
        for features, reduce, grid in zip(stages, self.reductions, self._grids):
            coarser = Grid(grid.stride / self.grid.stride, (grid.first - self.grid.first) / self.grid.stride + 0.5)
            columns.append(unit_vectors(resize_maps(reduce(features), cells, coarser), dim=1))
        return torch.cat(columns, dim=1)  # (5.1)

    def _banks(self, hypercolumn: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K J h w"]:
        r"""$F_j * \Phi$ of every class."""
        return self.filters(hypercolumn).unflatten(1, (self.config["num_classes"], -1))  # (5.2)

    def _responses(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K J h w"]:
        return self._banks(self._hypercolumn(self._stages(images)))

    def _reconstruction(self, responses: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
        if self.reconstruction_reaches == "autoencoder":
            responses = responses.detach()
        seen = F.dropout2d(responses, self.channel_dropout, self.training)  # whole channels
        return reconstruction_error(self.decoder(self.encoder(seen)), responses)  # (5.7), (5.8)

    @torch.no_grad()
    def _set_pca(self, stages: list[Tensor]) -> None:
        for features, reduce in zip(stages, self.reductions):
            components, mean = principal_components(features, reduce.out_channels)
            reduce.weight.copy_(components[:, :, None, None])
            reduce.bias.copy_(-components @ mean)
        self.pca_is_set.fill_(True)


def unit_vectors(vectors: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape"]:
    """Vectors along ``dim``, each divided by its length. One of length zero stays zero, and has no gradient.

    >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), dim=1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))  # 16 bits would lose short ones
    lengths = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    without = lengths <= NO_LENGTH
    return (vectors / lengths.masked_fill(without, 1)).masked_fill(without, 0)


def one_against_background(labels: Float[Tensor, "B K"], negatives: str = "others", balance: str = "signs") -> Targets:
    """$y$ of every image and class, +1 for its own classes and -1 for others, and the share that each pair has.

    Args:
        labels: multi-hot. An image without a label is background, -1 for all classes.
        negatives: ``"others"``: every image without the class. ``"background"``: those without any label; the other
            pairs count nothing.
        balance: ``"signs"``: of an image with both, the classes of either sign have half of the weight. ``"pairs"``:
            each class that counts has the same.

    Raises:
        UsageError: ``negatives`` or ``balance`` is unknown.

    >>> targets = one_against_background(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    >>> targets.sign.tolist()
    [[1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]
    >>> targets.share[0].tolist()
    [0.5, 0.25, 0.25]
    """
    if negatives not in CHOICES["negatives"]:
        raise UsageError(f"negatives={negatives!r} is unknown; expected 'others' or 'background'.")
    if balance not in CHOICES["balance"]:
        raise UsageError(f"balance={balance!r} is unknown; expected 'signs' or 'pairs'.")
    positive, negative = labels > 0, labels <= 0
    sign = positive.to(labels) - negative.to(labels)
    if negatives == "background":
        negative = negative & negative.all(dim=1, keepdim=True)
    share = (positive | negative).to(labels)
    if balance == "signs":
        share = sum(pairs / pairs.sum(dim=1, keepdim=True).clamp(min=1) for pairs in (positive, negative))
    return Targets(sign, (share / share.sum(dim=1, keepdim=True)).to(labels))


def discriminability_loss(responses: Float[Tensor, "B K J h w"], targets: Targets) -> Float[Tensor, ""]:
    r"""$\frac1J\sum_j \psi\big(-y\,\mathrm{gmax}(F_j * \Phi)\big)$, softplus $\psi(z) = \log(1 + e^z)$ (equation 5.3).

    Every filter by itself has to fire somewhere on an image of its class, and nowhere on others.

    Args:
        responses: of $J$ filters of each class.
        targets: $y$ and the weights, see :func:`one_against_background`.

    Returns:
        The weighted mean over the classes of an image, and the mean over images.

    >>> responses = torch.tensor([[[[[-9.0, 0.0]]]]])
    >>> discriminability_loss(responses, one_against_background(torch.ones(1, 1))).item()  # log 2
    0.6931471824645996
    """
    strongest = _pooled(responses, "gmp")
    return _mean(F.softplus(-targets.sign[:, :, None] * strongest), targets.share)  # (5.3)


def background_loss(responses: Float[Tensor, "B K J h w"], targets: Targets) -> Float[Tensor, ""]:
    r"""$\frac1J\sum_j \psi\big(\mathrm{gavg}(F_j * \Phi)\big)$ where $y = -1$, else 0 (equation 5.4).

    The maximum has a gradient at one cell alone; this mean has one everywhere, and speeds up the learning of what is
    nowhere on a negative image.

    Args:
        responses: of $J$ filters of each class.
        targets: $y$ and the weights, see :func:`one_against_background`.

    Returns:
        The weighted mean over the classes of an image, its own adding 0, and the mean over images.

    >>> responses = torch.tensor([[[[[-3.0, 3.0]]]], [[[[9.0, 9.0]]]]])
    >>> background_loss(responses, one_against_background(torch.tensor([[0.0], [1.0]]))).item()  # (log 2) / 2
    0.3465735912322998
    """
    return _mean(F.softplus(_pooled(responses, "gap")), targets.share * (targets.sign < 0))  # (5.4)


def redundancy(vectors: Float[Tensor, "*sets J D"], similarity: str = "squared") -> Float[Tensor, ""]:
    r"""How alike the vectors of a set are: mean over pairs of $\cos^2$, then over sets (equations 5.5 and 5.6).

    Of the filters of a class it is $L^A_{div}$, of their responses on an image $L^B_{div}$: 0 for orthogonal vectors,
    1 for vectors that are the same but for a factor, 0 for a single one. A vector of zeros is like no other.

    Args:
        vectors: $J$ in each set.
        similarity: ``"squared"`` or ``"absolute"`` cosine.

    Raises:
        UsageError: ``similarity`` is neither.

    >>> orthogonal, doubled = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, -2.0]])
    >>> redundancy(orthogonal).item(), redundancy(doubled).item()
    (0.0, 1.0)
    """
    if similarity not in CHOICES["similarity"]:
        raise UsageError(f"similarity={similarity!r} is unknown; expected 'squared' or 'absolute'.")
    units = unit_vectors(vectors, dim=-1)
    cosines = units @ units.mT
    alike = cosines.square() if similarity == "squared" else cosines.abs()
    count = vectors.shape[-2]
    others = 1 - torch.eye(count, device=vectors.device, dtype=alike.dtype)
    return (alike * others).sum(dim=(-2, -1)).mean() / max(count * (count - 1), 1)


def reconstruction_error(
    reconstruction: Float[Tensor, "B C h w"], responses: Float[Tensor, "B C h w"]
) -> Float[Tensor, ""]:
    r"""$D$ of equation 5.8: squared distance of both arguments, each of unit length at every cell; in [0, 4].

    Scale is ignored, cell by cell. Nothing can be read off a cell of zeros: its distance to any direction is 1. That
    the lengths are those of cells, as in the hypercolumn, and that the distance is squared, is ours.

    Returns:
        The mean over cells and images.

    >>> a = torch.tensor([[[[1.0]], [[0.0]]]])
    >>> reconstruction_error(5 * a, a).item(), reconstruction_error(-a, a).item(), reconstruction_error(0 * a, a).item()
    (0.0, 4.0, 1.0)
    """
    difference = unit_vectors(reconstruction, dim=1) - unit_vectors(responses, dim=1)
    return difference.square().sum(dim=1).mean()


def principal_components(
    features: Float[Tensor, "B D h w"], count: int
) -> tuple[Float[Tensor, "count D"], Float[Tensor, " D"]]:
    """Orthonormal directions of greatest variance over all positions, from the greatest down, and the mean.

    Of the two signs of a direction, the one that makes its greatest component positive. Over several processes, all
    their positions count.

    Raises:
        UsageError: ``count`` is not in 1, ..., D.
        DataError: a feature is not finite.

    >>> features = torch.tensor([[[[0.0, 2.0, 4.0]], [[1.0, 1.0, 1.0]]]])
    >>> principal_components(features, 1)
    (tensor([[1., 0.]]), tensor([2., 1.]))
    """
    channels = features.shape[1]
    if not 1 <= count <= channels:
        raise UsageError(f"count={count}: expected 1 to {channels} components of {channels} channels.")
    wide = F.pad(features.double().movedim(1, -1).flatten(0, -2), (0, 1), value=1)  # a column of ones: counts and sums
    moments = wide.T @ wide
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(moments)
    moments = moments / moments[-1, -1]
    if not moments.isfinite().all():
        raise DataError(
            f"features {tuple(features.shape)}: found NaN or infinity; expected finite activations. Look at the images "
            "and at the trunk's weights."
        )
    mean = moments[:-1, -1]
    directions = torch.linalg.eigh(moments[:-1, :-1] - torch.outer(mean, mean)).eigenvectors  # columns, least first
    components = directions.T.flip(0)[:count]
    greatest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * greatest.sign()).to(features), mean.to(features)


def _scores(responses: Float[Tensor, "B K J h w"]) -> Float[Tensor, "B K"]:
    return _pooled(responses, "gmp").mean(dim=2)


def _pooled(responses: Float[Tensor, "B K J h w"], how: str) -> Float[Tensor, "B K J"]:
    return global_pool(responses.flatten(1, 2), how).unflatten(1, responses.shape[1:3])


def _mean(losses: Float[Tensor, "B K J"], shares: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """The mean over filters, the sum over classes by their shares, the mean over images."""
    return (losses.mean(dim=2) * shares).sum(dim=1).mean()


def _width(stage: nn.Module) -> int:
    return [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)][-1].out_channels


def _check(config: dict[str, Any]) -> None:
    if config["backbone"] not in STAGES:
        raise UsageError(f"backbone={config['backbone']!r}: expected one with residual stages, {' or '.join(STAGES)}.")
    for name in ("num_classes", "filters", "agnostic_channels"):
        if config[name] < 1:
            raise UsageError(f"{name}={config[name]}: expected at least 1.")
    for name, choices in CHOICES.items():
        if config[name] not in choices:
            raise UsageError(f"{name}={config[name]!r} is unknown; expected {' or '.join(map(repr, choices))}.")
    for name in WEIGHTS:
        if not 0 <= config[name] < math.inf:
            raise UsageError(f"{name}={config[name]!r}: expected a finite number that is not negative.")
    if not 0 <= config["channel_dropout"] < 1:
        raise UsageError(f"channel_dropout={config['channel_dropout']!r}: expected a probability in [0, 1).")
    if (channels := config["pca_channels"]) is not None and channels < 1:
        raise UsageError(f"pca_channels={channels}: expected at least 1, or None.")
    if (stages := config["stages"]) is not None:
        known = all(type(stage) is int and 1 <= stage <= RESIDUAL_STAGES for stage in stages)
        if not stages or not known or list(stages) != sorted(set(stages)):
            raise UsageError(f"stages={stages!r}: expected different numbers from 1 to {RESIDUAL_STAGES}, rising.")
