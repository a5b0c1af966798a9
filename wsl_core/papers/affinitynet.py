r"""AffinityNet: Ahn and Kwak, Learning Pixel-level Semantic Affinity with Image-level Supervision, CVPR 2018.

A pipeline of three networks. A classifier's CAMs mark parts of the objects. Where they are confident, pairs of near
cells are known to show the same thing or not, and from these AffinityNet learns which cells belong together; a random
walk along its affinities carries the CAMs to the objects' borders. The masks that come out train a segmentation network
as if they were the truth. Nothing but image labels goes in. Equation numbers are those of chapter 7.

The classifier is :class:`wsl_core.papers.cam.CAM`; its maps and their background, (7.1) and (7.2), are
:func:`wsl_core.segmentation.multi_scale_cam` and :func:`wsl_core.segmentation.with_background`; the CRF and the
confident labels, (7.5), are in :mod:`wsl_core.refine`, and so is the walk, (7.10) and (7.11).

The paper's networks were written for TensorFlow and not published. What it does not say is taken from the PyTorch code
that its authors released later, jiwoon-ahn/psa. Where the two differ, the paper's is the default and the code's a
choice.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from wsl_core.backbones import LEVELS, build_affinity_trunk, build_backbone, feature_levels
from wsl_core.errors import UsageError
from wsl_core.ops import Affinity, Grid, half_plane_offsets, mean_over, resize_maps, valid_pairs
from wsl_core.refine import PairLabels, affinity_labels, random_walk
from wsl_core.segmentation import atrous_head, floored_softmax, labels_of_cells, pixel_loss

__all__ = ["AffinityNet", "SegmentationNetwork", "affinity_losses", "pair_distances"]

CHANNELS = (128, 256, 512)  # the paper's; the released code has half as many
SMALL_CHANNELS = (16, 32, 64)
CHANNELS_IN_GROUP = 8  # of the released VGG16's GroupNorm
INITIAL_GAIN = 4.0  # of the last layer, in the released code
NEAREST = 1e-5  # of two features that should differ; the released code has it beside W, in every logarithm
PAPER_DILATION, SMALL_DILATION = 12, 6  # about the same share of 56 cells and of 24
DEEPLAB_RATES = (12, 24, 36)  # torchvision's, at stride 8

CHOICES = {
    "task": ("single", "multi"),
    "distance": ("l1", "mean"),
    "pairs": ("all", "official"),
    "balance": ("sets", "pairs"),
    "head": ("atrous", "deeplabv3"),
}


class AffinityNet(nn.Module):
    r"""Which near cells show the same thing, whatever it is.

    Args:
        backbone: ``"resnet38"``, the paper's, or another name of :data:`wsl_core.backbones.LEVELS`.
        channels: of the three projections; ``None`` takes the paper's 128, 256 and 512, and an eighth for ``small``.
            The released code has 64, 128 and 256.
        distance: of two features. ``"l1"``: the sum over channels of their absolute differences, as the paper has it.
            ``"mean"``: their mean, as the released code has it.
        radius: pairs are nearer than this many cells. The paper has 5.
        pairs: to learn from. ``"all"`` within the radius, or ``"official"``, without those that the released code loses
            near the borders.
        balance: ``"sets"``: the mean of each of the three sets, the negative one's twice, as the paper has it.
            ``"pairs"``: the mean over all pairs, in which the most frequent kind outweighs the others.
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, of ``resnet38`` the path of a file, or ``None``.
        output_stride: pixels per cell; ``None`` takes 8, and 4 for ``small``.
        stride_by: see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes the backbone's own.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = AffinityNet().eval()
    >>> affinity = model.affinity(torch.rand(2, 3, 96, 96))
    >>> affinity.values.shape, len(affinity.offsets), bool((affinity.values <= 1).all())
    (torch.Size([2, 34, 24, 24]), 34, True)
    """

    paper = "affinitynet"
    new_modules = ("projections", "fusion")

    def __init__(
        self,
        backbone: str = "small",
        channels: Sequence[int] | None = None,
        distance: str = "l1",
        radius: int = 5,
        pairs: str = "all",
        balance: str = "sets",
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
        if channels is None:
            channels = SMALL_CHANNELS if backbone == "small" else CHANNELS
        if len(channels) != 3 or any(count < 1 or count % CHANNELS_IN_GROUP for count in channels):
            raise UsageError(f"channels={channels!r}: expected three multiples of {CHANNELS_IN_GROUP}.")
        if radius < 2:
            raise UsageError(f"radius={radius}: expected at least 2; no other cell is nearer than 1.")
        self.distance, self.balance = distance, balance
        self.radius, self.official = radius, pairs == "official"
        options = {} if width is None else {"width": width}
        self.backbone = build_affinity_trunk(backbone, weights, output_stride, stride_by, **options)
        self.levels = LEVELS[backbone]
        # VGG16 has no BatchNorm, so the released code normalises what it makes of it.
        self.projections = nn.ModuleList(
            _projection(inputs, outputs, norm=backbone == "vgg16_atrous")
            for inputs, outputs in zip(self._widths(), channels)
        )
        total = sum(channels)
        self.fusion = nn.Conv2d(total, total, 1, bias=False)
        # A sum of C differences is C times their mean: with features as much smaller, both start at like affinities.
        nn.init.xavier_uniform_(self.fusion.weight, INITIAL_GAIN / (total if distance == "l1" else 1))

    @torch.no_grad()
    def _widths(self) -> list[int]:
        """Channels of the three levels, by a look at what comes out of them."""
        self.backbone.eval()
        probe = torch.zeros(1, 3, 2 * self.backbone.stride, 2 * self.backbone.stride, device=self.backbone.mean.device)
        widths = [level.shape[1] for level in feature_levels(self.backbone, self.levels, probe)]
        self.backbone.train()
        return widths

    @property
    def grid(self) -> Grid:
        """Where the cells are centred on the image: what the network looks at, see :meth:`spread` for the walk's."""
        return self.backbone.grid

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        r"""$f^{\mathrm{aff}}(x, y)$ of RGB images in [0, 1]: three levels of features, each projected, then mixed."""
        levels = feature_levels(self.backbone, self.levels, images)
        projected = [F.elu(project(level)) for project, level in zip(self.projections, levels)]
        return F.elu(self.fusion(torch.cat(projected, dim=1)))

    def affinity(self, images: Float[Tensor, "B 3 H W"], official: bool = False) -> Affinity:
        r"""$W_{ij} = \exp(-\|f^{\mathrm{aff}}_i - f^{\mathrm{aff}}_j\|_1)$ of near cells (equations 7.3 and 7.4).

        Args:
            official: without the pairs that the released code loses near the borders.
        """
        distances = self._distances(images)
        offsets = half_plane_offsets(self.radius).to(distances.device)
        valid = valid_pairs(offsets, (distances.shape[-2], distances.shape[-1]), official)
        return Affinity((-distances).exp().masked_fill(~valid, 0), offsets, valid)  # (7.3), (7.4)

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        r"""The three losses of a batch, and $L = L^+_{fg} + L^+_{bg} + 2 L^-$ (equation 7.9).

        Args:
            batch: ``image`` (B, 3, H, W), and as ``mask`` (B, H, W) what is surely known of each pixel, made
                beforehand: see :func:`wsl_core.refine.confident_labels` and :class:`wsl_core.data.masked.WithMasks`. A
                data set's own masks in their place are full supervision.

        Raises:
            UsageError: there is no ``mask``.
            DataError: a label is outside 0, ..., 255.
        """
        cells = labels_of_cells(_masks(batch, "confident labels"), self.backbone.stride)
        labels = affinity_labels(cells, self.radius, self.official)
        return affinity_losses(self._distances(batch["image"]), labels, self.balance)

    @torch.no_grad()
    def spread(
        self,
        images: Float[Tensor, "B 3 H W"],
        maps: Float[Tensor, "B C _ _"],
        beta: float = 8,
        steps: int = 256,
        official: bool = False,
    ) -> Float[Tensor, "B C H W"]:
        r"""Maps walked along the affinities of their images (equations 7.10 and 7.11), at the images' size.

        As in the released code, the maps are averaged over cells that tile the image, walked, and enlarged bilinearly.
        It pads an image with zeros to whole cells; here a cell at the edge has the mean of the pixels that it has.

        Args:
            maps: of the background and the classes, in one scale: :func:`wsl_core.segmentation.with_background`.
            beta, steps: see :func:`wsl_core.refine.random_walk`.
            official: see :meth:`affinity`.

        Raises:
            UsageError: the sizes differ, or ``beta`` or ``steps`` is out of range.
            DataError: the maps are not finite.
        """
        if maps.shape[-2:] != images.shape[-2:]:
            raise UsageError(f"maps: found {tuple(maps.shape)}; expected the images' size, {tuple(images.shape[-2:])}.")
        cell = self.backbone.stride
        means = F.avg_pool2d(maps, cell, ceil_mode=True)
        walked = random_walk(means, self.affinity(images, official), beta, steps)
        return resize_maps(walked, (maps.shape[-2], maps.shape[-1]), Grid(cell, cell / 2))

    def _distances(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B O h w"]:
        return pair_distances(self(images), half_plane_offsets(self.radius), self.distance)


def pair_distances(
    features: Float[Tensor, "B D h w"], offsets: Int[Tensor, "O 2"], distance: str = "l1"
) -> Float[Tensor, "B O h w"]:
    """How far the features of each cell are from those of the cells at the given offsets.

    One offset after the other: memory for all differences at once would be D times that of the result, and training
    would keep it. What is behind an edge is counted from the opposite one: see :func:`wsl_core.ops.valid_pairs`.

    Args:
        distance: ``"l1"``: the sum over channels of the absolute differences. ``"mean"``: their mean.

    Raises:
        UsageError: ``distance`` is neither.

    >>> features = torch.tensor([[[[0.0, 1.0]], [[2.0, 5.0]]]])
    >>> [pair_distances(features, torch.tensor([[0, 1]]), how)[0, 0, 0, 0].item() for how in ("l1", "mean")]
    [4.0, 2.0]
    """
    if distance not in CHOICES["distance"]:
        raise UsageError(f"distance={distance!r} is unknown; expected 'l1' or 'mean'.")
    wide = features.to(torch.promote_types(features.dtype, torch.float32))  # 16 bits would lose small differences
    sums = [
        checkpoint(_absolute_difference, wide, dy, dx, use_reentrant=False, preserve_rng_state=False)
        for dy, dx in offsets.tolist()
    ]
    return torch.stack(sums, dim=1) / (features.shape[1] if distance == "mean" else 1)


def _absolute_difference(features: Float[Tensor, "B D h w"], dy: int, dx: int) -> Float[Tensor, "B h w"]:
    return (features - features.roll((-dy, -dx), dims=(-2, -1))).abs().sum(dim=1)


def affinity_losses(
    distances: Float[Tensor, "B O h w"], labels: PairLabels, balance: str = "sets"
) -> dict[str, Float[Tensor, ""]]:
    r"""$L^+_{fg}$, $L^+_{bg}$ and $L^-$ (equations 7.6 to 7.8), and their sum (7.9).

    $-\log W_{ij}$ is the distance itself, and $-\log (1 - W_{ij})$ has a value for distances from 1e-5 up. The loss of
    an empty set is 0. The released code's total is a quarter of this one.

    Args:
        distances: $-\log W$.
        labels: which pairs are in which set.
        balance: ``"sets"`` or ``"pairs"``, see :class:`AffinityNet`.

    Raises:
        UsageError: ``balance`` is neither.

    >>> distances = torch.tensor([[[[1.0, 2.0, 0.5, 9.0]]]])
    >>> foreground = torch.tensor([[[[True, True, False, False]]]])
    >>> losses = affinity_losses(distances, PairLabels(foreground, foreground.flip(3), foreground & False))
    >>> [losses[name].item() for name in ("foreground", "background", "negative", "total")]
    [1.5, 4.75, 0.0, 6.25]
    """
    if balance not in CHOICES["balance"]:
        raise UsageError(f"balance={balance!r} is unknown; expected 'sets' or 'pairs'.")
    repelled = -(-torch.expm1(-distances.clamp(min=NEAREST))).log()
    losses = {
        "foreground": mean_over(distances, labels.foreground),  # (7.6)
        "background": mean_over(distances, labels.background),  # (7.7)
        "negative": mean_over(repelled, labels.negative),  # (7.8)
    }
    if balance == "sets":
        total = losses["foreground"] + losses["background"] + 2 * losses["negative"]  # (7.9)
    else:
        attracting = labels.foreground | labels.background
        total = mean_over(torch.where(attracting, distances, repelled), attracting | labels.negative)
    return losses | {"total": total}


class SegmentationNetwork(nn.Module):
    r"""The last stage: a network that predicts masks of background and classes, and learns from masks.

    Args:
        backbone: ``"resnet38"``, the paper's, or another name of :data:`wsl_core.backbones.BACKBONES`.
        num_classes: number of classes, K, without the background.
        head: ``"atrous"``: the paper's two convolutions with holes. ``"deeplabv3"``: torchvision's atrous spatial
            pyramid pooling; behind ``resnet50`` the network is torchvision's DeepLabV3, without its auxiliary
            classifier. In training it wants at least two images in a batch.
        head_channels: of the first of the two convolutions; ``None`` takes the paper's 512, and the trunk's for
            ``small``. Only with ``"atrous"``.
        dilation: of both; ``None`` takes the paper's 12, and 6 for ``small``. Only with ``"atrous"``.
        task: ``"single"`` label an image or ``"multi"``: what the data have. The loss is the same.
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, of ``resnet38`` the path of a file, or ``None``.
        output_stride: pixels per cell; ``None`` takes the paper's 8, and 4 for ``small``.
        stride_by: see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes the backbone's own.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = SegmentationNetwork(num_classes=3).eval()
    >>> images = torch.rand(2, 3, 96, 96)
    >>> model(images).shape, model.segment(images).shape, model.localize(images).shape
    (torch.Size([2, 3]), torch.Size([2, 4, 24, 24]), torch.Size([2, 3, 24, 24]))
    """

    paper = "affinitynet_segmentation"
    new_modules = ("head",)

    def __init__(
        self,
        backbone: str = "small",
        num_classes: int = 8,
        head: str = "atrous",
        head_channels: int | None = None,
        dilation: int | None = None,
        task: str = "multi",
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
        if head == "deeplabv3" and (head_channels, dilation) != (None, None):
            raise UsageError(f"head={head!r}: head_channels and dilation belong to 'atrous'; leave them out.")
        self.task, small = task, backbone == "small"
        options = {} if width is None else {"width": width}
        stride = (4 if small else 8) if output_stride is None else output_stride
        self.backbone = build_backbone(backbone, weights, stride, stride_by, **options)
        self.backbone.classifier = None
        channels, outputs = self.backbone.channels, num_classes + 1
        if head == "deeplabv3":
            self.head = DeepLabHead(channels, outputs, DEEPLAB_RATES)
        else:
            if head_channels is None:
                head_channels = channels if small else 512
            if dilation is None:
                dilation = SMALL_DILATION if small else PAPER_DILATION
            self.head = atrous_head(channels, outputs, head_channels, dilation, norm=small)

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps are centred on the image, for :func:`wsl_core.ops.resize_maps`."""
        return self.backbone.grid  # the head's convolutions move no centre

    def segment(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Scores of the background and of every class at each cell, C = K + 1, before the softmax.

        :func:`wsl_core.segmentation.labels_of_pixels` and :func:`wsl_core.segmentation.multi_scale_labels` make masks.
        """
        return self.head(self.backbone(images))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits of the classes: of the highest probability that a class has anywhere."""
        return self.scores_and_maps(images)[0]

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        """Probabilities of every class at each cell; with ``labels`` (B, K) those of other classes are zero."""
        return self.scores_and_maps(images, labels)[1]

    def scores_and_maps(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
        """Logits, and what :meth:`localize` returns, from one pass."""
        maps = floored_softmax(self.segment(images))[:, 1:]
        return maps.amax(dim=(-2, -1)).logit(), maps if labels is None else maps * labels[:, :, None, None]

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of a batch.

        Args:
            batch: ``image`` (B, 3, H, W), and as ``mask`` (B, H, W) the pseudo-labels, 255 where there is none: see
                :class:`wsl_core.data.masked.WithMasks`. A data set's own masks in their place are full supervision.

        Raises:
            UsageError: there is no ``mask``.
            DataError: a label is no class.
        """
        masks = _masks(batch, "pseudo-labels")
        loss = pixel_loss(self.segment(batch["image"]), masks, self.grid)
        return {"segmentation": loss, "total": loss}


def _projection(inputs: int, outputs: int, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return nn.Sequential(convolution, *([nn.GroupNorm(outputs // CHANNELS_IN_GROUP, outputs)] if norm else []))


def _masks(batch: dict[str, Any], what: str) -> Int[Tensor, "B H W"]:
    if "mask" not in batch:
        raise UsageError(f"batch: found no 'mask'; expected {what}. Wrap the data set with WithMasks.")
    return batch["mask"]


def _check(config: dict[str, Any]) -> None:
    if config.get("num_classes", 1) < 1:
        raise UsageError(f"num_classes={config['num_classes']}: expected at least 1.")
    for name in CHOICES.keys() & config.keys():
        if config[name] not in CHOICES[name]:
            expected = " or ".join(map(repr, CHOICES[name]))
            raise UsageError(f"{name}={config[name]!r} is unknown; expected {expected}.")
