"""Networks that turn images into feature maps.

``small`` is made to be trained on a CPU. The others are torchvision's, cut where the CAM paper cuts them. Two of these
are not quite the papers': torchvision's AlexNet is the one-tower variant (64, 192, 384, 256, 256 channels) and its
GoogLeNet has BatchNorm.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.error import URLError

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from wsl_core.errors import DownloadError, UsageError
from wsl_core.ops import Grid

__all__ = ["BACKBONES", "Backbone", "build_backbone", "build_erasing_trunk", "map_classifier", "set_output_stride"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, standard deviation of RGB in [0, 1]
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # what torchvision's GoogLeNet (`transform_input`) amounts to


class Backbone(nn.Module):
    """A fully convolutional network with its own input normalisation.

    Attributes:
        channels: number of feature maps, D.
        classifier: the linear layer that the pre-trained network put behind global average pooling, if any.

    >>> build_backbone("small")(torch.zeros(1, 3, 96, 96)).shape
    torch.Size([1, 64, 12, 12])
    """

    def __init__(self, layers: nn.Sequential, channels: int, statistics=IMAGENET, classifier=None):
        super().__init__()
        self.layers, self.channels, self.classifier = layers, channels, classifier
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def grid(self) -> Grid:
        """Where the feature cells are centred on the image, by the geometry of the layers.

        A layer of kernel k, padding p and dilation d moves the centre of the first cell by d(k - 1)/2 - p of its own
        input cells: nothing where k is odd and p its half, half a cell for a 2x2 pooling.

        >>> build_backbone("vgg16").grid, build_backbone("resnet50", output_stride=16).grid
        (Grid(stride=16, first=8.0), Grid(stride=16, first=0.5))
        """
        stride, first = 1, 0.5
        for entry in _layers(self.layers):
            if not _is_shortcut(entry):
                kernel, step, padding, dilation = (
                    _pair(getattr(entry.module, name))[0] for name in ("kernel_size", "stride", "padding", "dilation")
                )
                first += stride * (dilation * (kernel - 1) / 2 - padding)
                stride *= step
        return Grid(stride, first)

    @property
    def stride(self) -> int:
        """Output stride, in image pixels per feature cell."""
        return int(self.grid.stride)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Features of RGB images in [0, 1]; no value is below zero, since every network here ends in a ReLU."""
        return self.layers((images - self.mean) / self.std)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        residual = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (residual + self.shortcut(x)).relu()


def _small(weights: str | None, width: int = 16) -> Backbone:
    """5x5 stem of stride 2 and four basic blocks of width, 2, 3 and 4 times width: stride 16 before any change."""
    widths = [width, 2 * width, 3 * width, 4 * width]
    stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    blocks = [
        BasicBlock(inputs, outputs, stride)
        for inputs, outputs, stride in zip([width, *widths], widths, (1, 2, 2, 2), strict=False)
    ]
    return Backbone(nn.Sequential(stem, *blocks), channels=4 * width)


def _alexnet(weights: str | None) -> Backbone:
    layers = _torchvision("alexnet", weights).features[:12]  # after conv5 and its ReLU: 13x13 at 224
    return Backbone(layers, channels=256)


def _vgg16(weights: str | None) -> Backbone:
    layers = _torchvision("vgg16", weights).features[:30]  # after conv5-3 and its ReLU: 14x14 at 224
    return Backbone(layers, channels=512)


def _googlenet(weights: str | None) -> Backbone:
    options = {} if weights else {"aux_logits": False, "init_weights": True}
    network = _torchvision("googlenet", weights, **options)
    until_4e = list(network.named_children())[:13]  # conv1 ... inception4e: 14x14 at 224
    layers = nn.Sequential()
    for name, layer in until_4e:
        layers.add_module(name, layer)
    return Backbone(layers, channels=832, statistics=HALVES)


def _resnet50(weights: str | None) -> Backbone:
    return from_resnet(_torchvision("resnet50", weights), keep_classifier=weights is not None)


def from_resnet(network: torchvision.models.ResNet, keep_classifier: bool = True) -> Backbone:
    """Use the convolutional part of a torchvision ResNet as it is; it already ends in GAP and one linear layer.

    >>> from_resnet(torchvision.models.resnet18()).channels
    512
    """
    layers = nn.Sequential()
    for name, layer in list(network.named_children())[:-2]:
        layers.add_module(name, layer)
    classifier = network.fc if keep_classifier else None
    return Backbone(layers, channels=network.fc.in_features, classifier=classifier)


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "small": _small,
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "googlenet": _googlenet,
    "resnet50": _resnet50,
}
DEFAULT_STRIDE = {"small": 8}  # the others keep the stride they were published with
DEFAULT_STRIDE_BY = {"small": "removal"}  # trained from scratch: there are no weights whose neighbourhoods to keep


def build_backbone(
    name: str,
    weights: str | None = None,
    output_stride: int | None = None,
    stride_by: str | None = None,
    **options: int,
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: one of ``BACKBONES``.
        weights: ``None`` for random ones, ``"DEFAULT"`` for torchvision's (from its cache, else downloaded).
        output_stride: pixels per feature cell; ``None`` keeps the published one (8 for ``small``).
        stride_by: how a smaller stride is reached, ``"dilation"`` or ``"removal"``, see :func:`set_output_stride`;
            ``None`` takes removal for ``small``, dilation for the others.
        options: ``width`` for ``small``, the channels of its first block.

    Raises:
        UsageError: an unknown name, stride or option, or weights for ``small``.
        DownloadError: the weights are not in the cache and cannot be fetched.

    >>> build_backbone("vgg16", output_stride=8)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 512, 8, 8])
    """
    if name not in BACKBONES:
        raise UsageError(f"backbone={name!r} is unknown; expected one of {', '.join(BACKBONES)}.")
    if name == "small" and weights:
        raise UsageError(f"weights={weights!r}: the small backbone has no published weights; leave weights=None.")
    if unknown := sorted(set(options) - ({"width"} if name == "small" else set())):
        raise UsageError(f"option {unknown[0]!r} does not exist for backbone {name!r}.")
    backbone = BACKBONES[name](weights, **options)
    if output_stride is None:
        output_stride = DEFAULT_STRIDE.get(name, backbone.stride)
    set_output_stride(backbone, output_stride, stride_by or DEFAULT_STRIDE_BY.get(name, "dilation"))
    return backbone


ERASING_STRIDE = {"vgg16": 8, "resnet50": 16}  # 28x28 and 14x14 cells at 224
HEAD_WIDTH = 1024


def build_erasing_trunk(
    name: str,
    weights: str | None = None,
    output_stride: int | None = None,
    stride_by: str | None = None,
    **options: int,
) -> Backbone:
    """The trunk of ACoL and of the methods that it is compared with: :func:`build_backbone` with other defaults.

    VGG16 is as ACoL's released code has it: every max-pooling 3x3 with padding 1, the fifth kept with stride 1, and a
    3x3 average pooling behind it. Strides are taken out without dilation. VGG16 ends at stride 8, ResNet-50 at 16.

    Raises:
        UsageError: as in :func:`build_backbone`.

    >>> build_erasing_trunk("vgg16")(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 512, 8, 8])
    """
    if output_stride is None:
        output_stride = ERASING_STRIDE.get(name)
    backbone = build_backbone(name, weights, output_stride, stride_by or "removal", **options)
    if name == "vgg16":
        for place, layer in enumerate(backbone.layers):
            if isinstance(layer, nn.MaxPool2d):
                backbone.layers[place] = nn.MaxPool2d(3, layer.stride, padding=1)
        backbone.layers.extend([nn.MaxPool2d(3, 1, padding=1), nn.AvgPool2d(3, 1, padding=1)])
    backbone.classifier = None
    return backbone


def map_classifier(backbone: Backbone, name: str, num_classes: int, width: int | None = None) -> nn.Sequential:
    """ACoL's classifier: two 3x3 convolutions and one 1x1 with a channel a class. Its maps' means are the logits.

    ``small`` gets as many channels as its last block and BatchNorm, without which so short a training fails; the others
    get the paper's 1024 and none. Weights start as in the released code of Choe et al.: He's for ResNet (and here for
    ``small``), Xavier's for the others; biases at zero.

    Args:
        backbone: what comes before it.
        name: the backbone's.
        num_classes: number of classes, K.
        width: channels of the 3x3 convolutions.

    Raises:
        UsageError: ``width`` is below 1.

    >>> backbone = build_erasing_trunk("small")
    >>> map_classifier(backbone, "small", 5)(backbone(torch.zeros(1, 3, 96, 96))).shape
    torch.Size([1, 5, 12, 12])
    """
    small = name == "small"
    if width is None:
        width = backbone.channels if small else HEAD_WIDTH
    if width < 1:
        raise UsageError(f"head_channels={width}: expected at least 1.")
    layers: list[nn.Module] = []
    for inputs in (backbone.channels, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), *([nn.BatchNorm2d(width)] if small else []), nn.ReLU()]
    layers.append(nn.Conv2d(width, num_classes, 1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            if name in ("small", "resnet50"):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class _Strided(NamedTuple):
    parent: nn.Module
    name: str
    module: nn.Module


def set_output_stride(backbone: Backbone, stride: int, by: str = "dilation") -> None:
    """Make the feature map finer, in place, by taking the stride out of the last strided layers.

    With ``by="removal"`` that is all: the layers behind see a map twice as fine, so their receptive field halves.
    With ``by="dilation"`` the layers behind are dilated instead and keep it; pre-trained weights then see the
    neighbourhoods they were trained on. A pooling layer without its stride becomes 3x3 with padding 1 and is never
    dilated, as in the released ACoL and AffinityNet code, so that the size stays a whole fraction of the image's.
    Two calls, to stride 16 and then to 8, make the same network as one call to 8.

    Raises:
        UsageError: the backbone cannot reach this stride, or ``by`` is unknown.

    >>> backbone = build_backbone("resnet50")
    >>> set_output_stride(backbone, 16)
    >>> backbone(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 2048, 4, 4])
    """
    if by not in ("dilation", "removal"):
        raise UsageError(f"stride_by={by!r} is unknown; expected 'dilation' or 'removal'.")
    stages = _strided_stages(backbone.layers)
    possible = [backbone.stride >> halvings for halvings in range(len(stages) + 1)]
    if stride not in possible:
        raise UsageError(f"output_stride={stride} is impossible for this backbone; expected one of {possible}.")
    finer = stages[len(stages) - possible.index(stride) :]
    first = {stage[0].module for stage in finer}
    every = {entry.module for stage in finer for entry in stage}
    factor = 1  # how much finer the map is at this layer than it was before the call
    for entry in list(_layers(backbone.layers)):
        if entry.module in every:
            _remove_stride(entry, factor)
            if by == "dilation" and entry.module in first:
                factor *= 2
        elif isinstance(entry.module, nn.Conv2d):
            _dilate(entry.module, factor)


def _layers(parent: nn.Module) -> Iterator[_Strided]:
    """Convolutions and poolings in order of registration, which is the order of execution in every network here."""
    for name, child in parent.named_children():
        if isinstance(child, (nn.Conv2d, nn.MaxPool2d)):
            yield _Strided(parent, name, child)
        else:
            yield from _layers(child)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _strided_stages(layers: nn.Sequential) -> list[list[_Strided]]:
    """Layers that halve the map, grouped: a residual block halves in its main path and in its shortcut at once."""
    stages: list[list[_Strided]] = []
    for entry in _layers(layers):
        if _pair(entry.module.stride)[0] != 2:
            continue
        if _is_shortcut(entry):
            stages[-1].append(entry)
        else:
            stages.append([entry])
    return stages


def _is_shortcut(entry: _Strided) -> bool:
    """A residual block's 1x1 convolution of stride 2, which runs beside the main path."""
    return isinstance(entry.module, nn.Conv2d) and (entry.module.kernel_size, entry.module.stride) == ((1, 1), (2, 2))


def _remove_stride(entry: _Strided, factor: int) -> None:
    if isinstance(entry.module, nn.MaxPool2d):
        setattr(entry.parent, entry.name, nn.MaxPool2d(3, stride=1, padding=1))
    else:
        entry.module.stride = (1, 1)
        _dilate(entry.module, factor)


def _dilate(convolution: nn.Conv2d, factor: int) -> None:
    """Spread the kernel ``factor`` times as far: an earlier call may have dilated it already."""
    if factor > 1:
        dilation = factor * convolution.dilation[0]
        padding = dilation * (convolution.kernel_size[0] - 1) // 2
        convolution.dilation, convolution.padding = (dilation, dilation), (padding, padding)


def _torchvision(name: str, weights: str | None, **options: bool) -> nn.Module:
    try:
        return torchvision.models.get_model(name, weights=weights, **options)
    except (KeyError, ValueError) as error:
        raise UsageError(f"weights={weights!r} is unknown for {name}; expected None or 'DEFAULT'.") from error
    except (URLError, OSError) as error:
        file = torchvision.models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]
        raise DownloadError(
            f"weights={weights!r} for {name}: {file} is not in {torch.hub.get_dir()}/checkpoints and could not be "
            f"fetched ({error}). Put the file there, or use weights=None."
        ) from error
