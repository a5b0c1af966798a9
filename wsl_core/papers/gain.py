r"""GAIN: Li, Wu, Peng, Ernst and Fu, Tell Me Where to Look: Guided Attention Inference Network, CVPR 2018.

The map of a classifier becomes a part of its training. What the map lights up is removed from the image, and the
network is punished where it still finds the class in the rest: so the map has to cover all that speaks for the class,
it is hoped. GAIN_ext compares the map with masks besides, for the few images that have one. Equation numbers are those
of chapter 4; (4.1) to (4.8) are the paper's (1) to (8).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wsl_core.backbones import build_backbone
from wsl_core.data.base import IGNORE
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Grid, classification_loss, erase, global_pool, normalize, resize_maps

__all__ = ["GAIN", "attention_error", "attention_maps", "nearest_cells"]

CHOICES = {
    "task": ("single", "multi"),
    "normalization": ("max", "minmax", "none"),
    "upsampling": ("bilinear", "nearest"),
    "fill": ("mean", "black"),
    "mining_score": ("probability", "logit"),
    "channel_weights": ("constant", "differentiable"),
    "masked_parameters": ("shared", "constant"),
}


class Pairs(NamedTuple):
    """Every pair of an image and one of its classes; an image without a label has none."""

    image: Int[Tensor, " P"]
    label: Int[Tensor, " P"]
    share: Float[Tensor, " P"]  # 1 / (B |C|): a sum with it is a mean over the classes of an image, then over images


class GAIN(nn.Module):
    r"""A classifier that is trained on its own maps; with an ``attention_weight`` it is GAIN_ext.

    All streams share the parameters. The attention layer is the last of the trunk. The paper does not say how a map is
    scaled and enlarged, which numbers $\tau$ and $\kappa$ are, and whether the score in (4.5) is a logit: those are
    named choices. Maps are scaled each by itself and enlarged to where their cells look.

    The masked images go through the network *as at a test*: BatchNorm takes its running statistics, which stand for
    whole images, and does not move them. Statistics of the masked images themselves would divide out what the removal
    has changed. There is no dropout. The head is GAP and one linear layer, not the fully connected layers that the
    paper's VGG may have kept.

    Args:
        backbone: a name of :data:`wsl_core.backbones.BACKBONES`; the paper has a VGG of unknown depth.
        num_classes: number of classes, K.
        mining_weight: $\lambda_{am}$, the paper's $\alpha = 1$; 0 leaves a plain classifier.
        attention_weight: $\lambda_e$; 0 is GAIN, the paper's 10 is GAIN_ext and needs a ``mask`` in every batch.
        threshold: $\tau$ of the soft mask, in units of the map as ``normalization`` leaves it; a half, as in a
            third party's code (``alokwhitewolf/Guided-Attention-Inference-Network``). The paper's is unknown.
        slope: $\kappa$ of the soft mask; 8, as there.
        normalization: ``"max"`` keeps the meaning of zero, no evidence; ``"minmax"`` is both third parties'; ``"none"``
            takes the raw map, whose scale is that of the logits divided by $hw$.
        upsampling: how a map is enlarged to the image: ``"bilinear"``, or ``"nearest"``: in blocks, each pixel takes
            the cell whose centre is nearest.
        fill: what an image fades to. ``"mean"`` is the mean colour that the trunk subtracts: to the trunk it is zero,
            so that (4.3) holds for what the network computes with. ``"black"`` is (4.3) on RGB; black is a strong
            signal to the trunk.
        mining_score: ``"probability"`` (softmax or sigmoid, by the task), or ``"logit"``. Without bound from below,
            the mean of logits can be lowered for ever; with a softmax even without any change to the classification.
        channel_weights: ``"constant"``, as in the paper, or ``"differentiable"``: the gradient flows through
            $\alpha_k^c$ as well.
        masked_parameters: ``"shared"``, the paper's, or ``"constant"``: the masked stream judges and does not learn, so
            that the mining loss reaches the parameters through the map alone.
        task: ``"single"`` label an image (softmax) or ``"multi"`` (one sigmoid a class, the paper's).
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, or ``None``.
        output_stride: pixels per cell of the map; ``None`` keeps the published one.
        stride_by: see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes the backbone's own.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = GAIN(num_classes=3).eval()
    >>> images = torch.rand(2, 3, 96, 96)
    >>> model(images).shape, model.localize(images).shape
    (torch.Size([2, 3]), torch.Size([2, 3, 12, 12]))
    """

    paper = "gain"
    new_modules = ("classifier",)

    def __init__(
        self,
        backbone: str = "small",
        num_classes: int = 8,
        mining_weight: float = 1.0,
        attention_weight: float = 0.0,
        threshold: float = 0.5,
        slope: float = 8.0,
        normalization: str = "max",
        upsampling: str = "bilinear",
        fill: str = "mean",
        mining_score: str = "probability",
        channel_weights: str = "constant",
        masked_parameters: str = "shared",
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
        self.mining_weight, self.attention_weight = mining_weight, attention_weight
        self.threshold, self.slope = threshold, slope
        self.normalization, self.upsampling = normalization, upsampling
        self.fill, self.mining_score = fill, mining_score
        self.channel_weights, self.masked_parameters, self.task = channel_weights, masked_parameters, task
        options = {} if width is None else {"width": width}
        self.backbone = build_backbone(backbone, weights, output_stride, stride_by, **options)
        self.backbone.classifier = None  # ImageNet's; a parameter that no loss reaches would stop several processes
        self.classifier = nn.Linear(self.backbone.channels, num_classes)

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps are centred on the image, for :func:`wsl_core.ops.resize_maps`."""
        return self.backbone.grid

    def classify(self, features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K"]:
        """Logits $S_c$ of the attention layer's features: GAP and a linear layer."""
        return self.classifier(global_pool(features))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits $S_c$ of RGB images in [0, 1]."""
        return self.classify(self.backbone(images))

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        r"""Losses of a batch with ``image`` (B, 3, H, W) and ``labels`` (B, K), and their weighted sum.

        - ``"classification"``, $L_{cl}$.
        - ``"mining"``, $L_{am}$: mean over the classes of an image, then over all images; one without a label adds 0.
        - ``"attention"``, $L_e$, with an ``attention_weight`` only: ``mask`` (B, H, W) holds 0 for background, k + 1
          for class k, and 255 for pixels that do not count. Mean over the pixels that count, over the classes of an
          image, and over **all** images; one without a mask adds 0. So a batch is the mean of its images one by one,
          as the paper takes them, and a mask weighs the same however rare masks are. A box is a mask that fills it.

        Raises:
            UsageError: there is an ``attention_weight`` and no ``mask``.
            DataError: the mask is not as large as the image, or an image has no label where each should have one.
        """
        images, labels = batch["image"], batch["labels"]
        pairs = _pairs(labels)
        if self.task == "single" and not labels.any(dim=1).all():
            raise DataError("labels: found an image without a label; expected one. task='multi' takes such images.")
        features = self.backbone(images)
        attention = self._pixel_attention(features, pairs, images)
        masked_scores = self._masked_scores(self._remove(images, attention, pairs), pairs)
        losses = {
            "classification": classification_loss(self.classify(features), labels, self.task),
            "mining": (masked_scores * pairs.share).sum(),  # (4.5)
        }
        total = losses["classification"] + self.mining_weight * losses["mining"]  # (4.6)
        if self.attention_weight:
            losses["attention"] = self._attention_loss(attention, pairs, batch)
            total = total + self.attention_weight * losses["attention"]  # (4.8)
        return losses | {"total": total}

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        """Raw attention maps $A^c$, at least 0, of every class; with ``labels`` the maps of other classes are zero.

        They carry no gradient. Each class costs one backward pass through the head, the trunk runs once.

        >>> GAIN(num_classes=2).localize(torch.rand(1, 3, 64, 64), torch.tensor([[1.0, 0.0]]))[0, 1].any().item()
        False
        """
        with torch.no_grad():
            features = self.backbone(images)
        return self._attention_of_classes(features, labels)

    def scores_and_maps(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
        """Logits, and what :meth:`localize` returns, from one pass through the trunk."""
        features = self.backbone(images)
        return self.classify(features), self._attention_of_classes(features.detach(), labels)

    def masked_images(self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"]) -> Float[Tensor, "P 3 H W"]:
        r"""$I^{*c}$, what is left of an image without the evidence of class c, for all pairs in ``labels.nonzero()``.

        >>> GAIN(num_classes=2).masked_images(torch.rand(3, 3, 64, 64), torch.eye(2)[[0, 1, 1]]).shape
        torch.Size([3, 3, 64, 64])
        """
        with torch.no_grad():
            features, pairs = self.backbone(images), _pairs(labels)
            return self._remove(images, self._pixel_attention(features, pairs, images), pairs)

    def _attention(self, features: Float[Tensor, "P D h w"], label: Int[Tensor, " P"]) -> Float[Tensor, "P h w"]:
        """The map of one class for each of the features; a gradient flows to them if they have one."""
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            features = features.to(self.classifier.weight)  # 16 bits do not hold a gradient that GAP divides by hw
            if not features.requires_grad:
                features = features.detach().requires_grad_()
            score = self.classify(features).gather(1, label[:, None]).sum()  # the images do not influence each other
            differentiable = self.channel_weights == "differentiable"
            (gradient,) = torch.autograd.grad(score, features, create_graph=differentiable)
            return attention_maps(features, gradient.mean(dim=(2, 3)))  # (4.1)

    def _attention_of_classes(
        self, features: Float[Tensor, "B D h w"], labels: Float[Tensor, "B K"] | None
    ) -> Float[Tensor, "B K h w"]:
        weight = self.classifier.weight
        asked = torch.ones(len(features), len(weight), device=weight.device) if labels is None else labels
        maps = weight.new_zeros(*asked.shape, *features.shape[-2:])
        for c in asked.any(dim=0).nonzero().flatten().tolist():  # one by one: the features of all pairs are too many
            which = asked[:, c].nonzero().flatten()
            maps[which, c] = self._attention(features[which], torch.full_like(which, c)).detach()
        return maps

    def _pixel_attention(
        self, features: Float[Tensor, "B D h w"], pairs: Pairs, images: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "P H W"]:
        """The map of each pair, normalised and enlarged to the image."""
        maps = self._attention(features[pairs.image], pairs.label)
        if self.normalization != "none":
            maps = normalize(maps, self.normalization, checked=False)
        height, width = images.shape[-2:]
        if self.upsampling == "nearest":
            return nearest_cells(maps, (height, width), self.grid)
        return resize_maps(maps[:, None], (height, width), self.grid)[:, 0]

    def _remove(
        self, images: Float[Tensor, "B 3 H W"], attention: Float[Tensor, "P H W"], pairs: Pairs
    ) -> Float[Tensor, "P 3 H W"]:
        nothing = self.backbone.mean if self.fill == "mean" else torch.zeros_like(self.backbone.mean)
        images = images[pairs.image]  # unlike index_select, this keeps channels_last
        return nothing + erase(images - nothing, attention, self.threshold, "soft", self.slope)  # (4.3), (4.4)

    def _masked_scores(self, masked: Float[Tensor, "P 3 H W"], pairs: Pairs) -> Float[Tensor, " P"]:
        """What the network still says about the class of each pair."""
        constant = self.masked_parameters == "constant"
        parameters = {name: value.detach() for name, value in self.named_parameters() if constant}
        with _as_at_a_test(self):
            scores = torch.func.functional_call(self, parameters, (masked,))
        if self.mining_score == "probability":
            scores = scores.softmax(dim=1) if self.task == "single" else scores.sigmoid()
        return scores.gather(1, pairs.label[:, None])[:, 0]

    def _attention_loss(
        self, attention: Float[Tensor, "P H W"], pairs: Pairs, batch: dict[str, Any]
    ) -> Float[Tensor, ""]:
        if "mask" not in batch:
            raise UsageError(
                f"attention_weight={self.attention_weight}: the batch has no mask. Take a data set with masks, 255 "
                "wherever nothing is known, or leave the weight at 0."
            )
        mask, sides = batch["mask"], tuple(attention.shape[-2:])
        if mask.shape[-2:] != sides:
            raise DataError(f"mask {tuple(mask.shape)}: expected a mask of the images' own {sides} pixels.")
        known = mask != IGNORE
        target = mask[pairs.image] == pairs.label[:, None, None] + 1  # H^c
        return (attention_error(attention, target, known[pairs.image]) * pairs.share).sum()


def attention_maps(features: Float[Tensor, "P D h w"], channel_weights: Float[Tensor, "P D"]) -> Float[Tensor, "P h w"]:
    r"""$A^c = \mathrm{ReLU}\big(\sum_k \alpha_k^c f_k\big)$ (equation 4.2): Grad-CAM, with a gradient to the features.

    >>> attention_maps(torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]]), torch.tensor([[1.0, -1.0]])).tolist()
    [[[0.0, 2.0]]]
    """
    return torch.einsum("pdhw,pd->phw", features, channel_weights).relu()  # (4.2)


def attention_error(
    attention: Float[Tensor, "P H W"], target: Bool[Tensor, "P H W"], known: Bool[Tensor, "P H W"]
) -> Float[Tensor, " P"]:
    r"""$(A^c - H^c)^2$ of equation 4.7, as its mean over the pixels that are known; 0 where none is.

    Args:
        attention: in [0, 1], or what ``normalization`` leaves.
        target: $H^c$, whether a pixel belongs to the class.
        known: whether a pixel counts.

    >>> attention, target = torch.tensor([[[1.0, 0.5, 0.0]]]), torch.tensor([[[True, True, True]]])
    >>> attention_error(attention, target, torch.tensor([[[True, True, False]]])).tolist()
    [0.125]
    """
    errors = (attention - target.to(attention)).square() * known
    return errors.sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)  # (4.7)


def nearest_cells(maps: Float[Tensor, "P h w"], size: tuple[int, int], grid: Grid) -> Float[Tensor, "P H W"]:
    """Enlarge maps in blocks: each pixel takes the cell whose centre is nearest.

    >>> nearest_cells(torch.tensor([[[1.0, 2.0]]]), (1, 5), Grid(stride=2, first=1.0))[0, 0].tolist()
    [1.0, 1.0, 2.0, 2.0, 2.0]
    """
    rows, columns = (
        ((torch.arange(side, device=maps.device) + 0.5 - grid.first) / grid.stride).round().long().clamp(0, cells - 1)
        for side, cells in zip(size, maps.shape[-2:], strict=True)
    )
    return maps[:, rows[:, None], columns]


def _pairs(labels: Float[Tensor, "B K"]) -> Pairs:
    image, label = labels.nonzero(as_tuple=True)
    return Pairs(image, label, 1 / (len(labels) * labels.count_nonzero(dim=1)[image]))


@contextmanager
def _as_at_a_test(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check(config: dict[str, Any]) -> None:
    if config["num_classes"] < 1:
        raise UsageError(f"num_classes={config['num_classes']}: expected at least 1.")
    for name, choices in CHOICES.items():
        if config[name] not in choices:
            raise UsageError(f"{name}={config[name]!r} is unknown; expected {' or '.join(map(repr, choices))}.")
    for name, expected, allows in (
        ("mining_weight", "a finite number that is not negative", lambda value: value >= 0),
        ("attention_weight", "a finite number that is not negative", lambda value: value >= 0),
        ("threshold", "a finite number", lambda value: True),
        ("slope", "a finite number above 0", lambda value: value > 0),
    ):
        value = config[name]
        if type(value) not in (int, float) or not math.isfinite(value) or not allows(value):
            raise UsageError(f"{name}={value!r}: expected {expected}.")
