r"""CAM: Zhou, Khosla, Lapedriza, Oliva and Torralba, Learning Deep Features for Discriminative Localization, CVPR 2016.

A classifier that ends in global average pooling and one linear layer scores a class by a weighted sum over positions.
The same weights, applied before the sum, give a map of where the score comes from. Equation numbers are those of
chapter 1.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wsl_core.backbones import Backbone, build_backbone, from_resnet
from wsl_core.errors import UsageError
from wsl_core.ops import Grid, classification_loss, global_pool

__all__ = ["CAM", "class_activation_maps", "grad_cam", "gradient_saliency"]

HEAD_CHANNELS = {"alexnet": 1024, "vgg16": 1024, "googlenet": 1024}  # the paper's extra convolution; others have none


class CAM(nn.Module):
    r"""A classifier whose evidence can be read as maps.

    Args:
        backbone: a name of :data:`wsl_core.backbones.BACKBONES`.
        num_classes: number of classes, K.
        pooling: ``"gap"`` (the paper's), ``"gmp"`` (its rival) or what lies between, see
            :func:`wsl_core.ops.global_pool`.
        pooling_parameter: the number that a pooling between GAP and GMP takes.
        task: ``"single"`` label an image (softmax) or ``"multi"`` (one sigmoid a class).
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, or ``None``.
        output_stride: pixels per cell of the map; ``None`` keeps the published one.
        stride_by: ``"dilation"`` or ``"removal"``, see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes
            removal for ``small``, which is trained from scratch, and dilation for the others.
        head_channels: width of the extra 3x3 convolution; ``None`` takes the paper's (1024 behind AlexNet, VGG16 and
            GoogLeNet; networks that already end in GAP need none), 0 leaves it out.
        dropout: probability of dropping a pooled feature (0.5 in the released VGG16).
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = CAM(num_classes=3)
    >>> model(torch.zeros(2, 3, 96, 96)).shape, model.localize(torch.zeros(2, 3, 96, 96)).shape
    (torch.Size([2, 3]), torch.Size([2, 3, 12, 12]))
    """

    paper = "cam"
    new_modules = ("head", "classifier")

    def __init__(
        self,
        backbone: str = "small",
        num_classes: int = 8,
        pooling: str = "gap",
        pooling_parameter: float | None = None,
        task: str = "single",
        weights: str | None = None,
        output_stride: int | None = None,
        stride_by: str | None = None,
        head_channels: int | None = None,
        dropout: float = 0.0,
        width: int | None = None,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
        _check(num_classes, task, dropout)
        global_pool(torch.zeros(1, 1, 1, 1), pooling, pooling_parameter)  # what is wrong fails here, not in training
        options = {} if width is None else {"width": width}
        self._assemble(build_backbone(backbone, weights, output_stride, stride_by, **options))

    @classmethod
    def from_resnet(cls, network: torchvision.models.ResNet) -> "CAM":
        """Read maps from a torchvision ResNet as it stands: its own layers, its own weights, no training.

        A run directory cannot rebuild such a model: ``load_run`` refuses it.

        >>> resnet = torchvision.models.resnet18(num_classes=5).eval()
        >>> CAM.from_resnet(resnet).localize(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 5, 2, 2])
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.config = {"num_classes": network.fc.out_features, "pooling": "gap", "task": "single"}
        model.config["pooling_parameter"] = None
        model.config |= {"head_channels": 0, "dropout": 0.0, "backbone": "a torchvision ResNet"}  # none that we build
        model._assemble(from_resnet(network))
        return model

    def _assemble(self, backbone: Backbone) -> None:
        """Backbone, the paper's extra convolution if any, and the linear layer that carries w."""
        config = self.config
        self.pooling, self.task = config["pooling"], config["task"]
        self.pooling_parameter = config["pooling_parameter"]
        pretrained, backbone.classifier = backbone.classifier, None
        self.backbone, channels, self.head = backbone, backbone.channels, nn.Identity()
        width = config["head_channels"]
        if width is None:
            width = HEAD_CHANNELS.get(config["backbone"], 0)
        if width:
            self.head = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU())
            channels = width
        self.dropout = nn.Dropout(config["dropout"])
        self.classifier = nn.Linear(channels, config["num_classes"])
        if pretrained is not None and not width and pretrained.out_features == config["num_classes"]:
            self.classifier = pretrained

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps are centred on the image, for :func:`wsl_core.ops.resize_maps`."""
        return self.backbone.grid  # the extra 3x3 convolution moves no centre

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """$f_k(x, y)$, the last convolutional maps. Images are RGB in [0, 1]."""
        return self.head(self.backbone(images))

    def classify(self, features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K"]:
        r"""$S_c = \sum_k w_k^c F_k + b_c$ with $F_k$ the pooled $f_k$ (equations 1.1 and 1.2)."""
        pooled = global_pool(features, self.pooling, self.pooling_parameter)  # (1.1)
        return self.classifier(self.dropout(pooled))  # (1.2)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits $S_c$ of RGB images in [0, 1]."""
        return self.classify(self.features(images))

    def scores_and_maps(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
        """Logits, and what :meth:`localize` returns, from one forward pass; maps cost K x D multiplications a cell.

        >>> model = CAM().eval()
        >>> logits, maps = model.scores_and_maps(torch.rand(1, 3, 96, 96))
        >>> torch.allclose(maps.mean(dim=(2, 3)) + model.classifier.bias, logits, atol=1e-5)
        True
        """
        features = self.features(images)
        maps = class_activation_maps(features, self.classifier.weight)
        return self.classify(features), maps if labels is None else maps * labels[:, :, None, None]

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        """Raw maps $M_c$, signed, of every class, predicted or not; with ``labels`` the maps of other classes are zero.

        >>> CAM(num_classes=2).localize(torch.rand(1, 3, 64, 64), torch.tensor([[1.0, 0.0]]))[0, 1].abs().max().item()
        0.0
        """
        return self.scores_and_maps(images, labels)[1]

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """Classification loss of a batch with ``image`` (B, 3, H, W) and ``labels`` (B, K)."""
        loss = classification_loss(self(batch["image"]), batch["labels"], self.task)
        return {"classification": loss, "total": loss}


def class_activation_maps(features: Float[Tensor, "B D h w"], weight: Float[Tensor, "K D"]) -> Float[Tensor, "B K h w"]:
    r"""$M_c(x, y) = \sum_k w_k^c f_k(x, y)$ (equation 1.3), for all classes at once: a 1x1 convolution.

    On a GAP network the mean of $M_c$ over positions plus the bias is the logit $S_c$ (equation 1.4).

    >>> features, layer = torch.rand(2, 5, 7, 7), nn.Linear(5, 3)
    >>> maps = class_activation_maps(features, layer.weight)
    >>> torch.allclose(maps.mean(dim=(2, 3)) + layer.bias, layer(features.mean(dim=(2, 3))), atol=1e-6)
    True
    """
    return F.conv2d(features, weight[:, :, None, None])  # (1.3)


def grad_cam(
    model: nn.Module, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"], layer: str
) -> Float[Tensor, "B K h w"]:
    r"""Grad-CAM (Selvaraju et al., 2017): $\mathrm{ReLU}\big(\sum_k \alpha_k^c f_k\big)$ (equation 1.6).

    The weight $\alpha_k^c$ is the mean over positions of $\partial S_c / \partial f_k(x, y)$. Behind GAP this gradient
    is $w_k^c / hw$ everywhere, so the map is $\mathrm{ReLU}(M_c) / hw$. Behind GMP one position has the whole gradient,
    the mean is the same, and so is the map. Works for any classifier and any layer.

    Args:
        model: called as ``model(images)``, returns logits (B, K); in evaluation mode, so that images do not mix. Its
            parameters and their ``.grad`` are left alone.
        labels: which classes to explain; the maps of the others are zero. One backward pass for each class present.
        layer: dotted name of the module whose output is f, such as ``"head"``.

    Raises:
        UsageError: there is no such module, ``model`` does not call it, or its output is not (B, D, h, w).

    >>> model = CAM(num_classes=2).eval()
    >>> images, labels = torch.rand(1, 3, 96, 96), torch.ones(1, 2)
    >>> maps = grad_cam(model, images, labels, "head")
    >>> torch.allclose(maps, model.localize(images).relu() / 144, atol=1e-6)
    True
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        raise UsageError(f"layer={layer!r} is not a module of {type(model).__name__}; see model.named_modules().")
    recorded: list[Tensor] = []
    hook = modules[layer].register_forward_hook(partial(_record_detached, recorded))
    try:
        with torch.enable_grad():
            scores = model(images).unbind(dim=1)
    finally:
        hook.remove()
    if not recorded:
        raise UsageError(f"layer={layer!r} was not called by {type(model).__name__}.forward.")
    features = recorded[-1]
    if features.ndim != 4:
        raise UsageError(f"layer={layer!r} returns {tuple(features.shape)}; expected feature maps (B, D, h, w).")
    maps = features.new_zeros(*labels.shape, *features.shape[-2:])
    for c, gradient in _gradients(scores, features, labels):
        alpha = gradient.mean(dim=(2, 3), keepdim=True)  # (B, D, 1, 1), (1.5)
        maps[:, c] = (alpha * features).sum(dim=1).detach().relu()  # (1.6)
    return maps * labels[:, :, None, None]


def gradient_saliency(
    model: nn.Module, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"]
) -> Float[Tensor, "B K H W"]:
    r"""Back-propagation, the CAM paper's baseline: $\max_{\text{RGB}} |\partial S_c / \partial I(x, y)|$.

    After Simonyan, Vedaldi and Zisserman (2013). Their boxes come from a GraphCut segmentation whose foreground and
    background are learned from the pixels above the 95 % and below the 30 % quantile of the saliency. Which rule gave
    the CAM paper's boxes of this baseline is unknown. Here they are drawn by the same rule as those of any other map,
    so that the maps are compared and not the rules.

    Args:
        model: called as ``model(images)``, returns logits (B, K); in evaluation mode, so that images do not mix. Its
            parameters and their ``.grad`` are left alone.
        labels: which classes to explain; the maps of the others are zero. One backward pass for each class present.

    >>> model = CAM(num_classes=2).eval()
    >>> maps = gradient_saliency(model, torch.rand(1, 3, 96, 96), torch.tensor([[1.0, 0.0]]))
    >>> maps.shape, maps.min().item(), maps[0, 1].max().item()
    (torch.Size([1, 2, 96, 96]), 0.0, 0.0)
    """
    pixels = images.detach().requires_grad_()
    with torch.enable_grad():
        scores = model(pixels).unbind(dim=1)
    maps = images.new_zeros(*labels.shape, *images.shape[-2:])
    for c, gradient in _gradients(scores, pixels, labels):
        maps[:, c] = gradient.abs().amax(dim=1)  # (2.7)
    return maps * labels[:, :, None, None]


def _gradients(
    scores: tuple[Float[Tensor, " B"], ...], inputs: Tensor, labels: Float[Tensor, "B K"]
) -> Iterator[tuple[int, Tensor]]:
    """Of each class that is present in the batch: its number and the gradient of its score, image by image."""
    for c in labels.any(dim=0).nonzero().flatten().tolist():
        ones = torch.ones_like(scores[c])  # one backward pass for the whole batch: images do not influence each other
        (gradient,) = torch.autograd.grad(scores[c], inputs, ones, retain_graph=True)
        yield c, gradient


def _record_detached(recorded: list[Tensor], module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    """A forward hook: the output becomes a leaf, since what lies before the layer needs no graph."""
    recorded.append(output.detach().requires_grad_())
    return recorded[-1].clone()  # the next layer may write into what it is given


def _check(num_classes: int, task: str, dropout: float) -> None:
    if num_classes < 1:
        raise UsageError(f"num_classes={num_classes}: expected at least 1.")
    if task not in ("single", "multi"):
        raise UsageError(f"task={task!r} is unknown; expected 'single' or 'multi'.")
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout={dropout}: expected a probability in [0, 1).")
