"""Networks that turn images into feature maps.

``small`` is made to be trained on a CPU. ``resnet38`` and ``vgg16_atrous`` are AffinityNet's, by its released code. The
others are torchvision's, cut where the CAM paper cuts them. Two of these are not quite the papers': torchvision's
AlexNet is the one-tower variant (64, 192, 384, 256, 256 channels) and its GoogLeNet has BatchNorm.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple
from urllib.error import URLError

import torch
import torchvision
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from wsl_core.errors import DataError, DownloadError, UsageError
from wsl_core.ops import Grid

__all__ = [
    "BACKBONES", "LEVELS", "Backbone", "build_affinity_trunk", "build_backbone", "build_erasing_trunk",
    "feature_levels", "map_classifier", "set_output_stride",
]  # fmt: skip

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


class PreActivatedBlock(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU, and a shortcut: a block of :func:`_resnet38`.

    Where the block changes the shape, the shortcut is a 1x1 convolution of what is behind the first ReLU. BatchNorm is
    never trained: its statistics and factors stay as the weights have them. Names are those of the released weights.
    """

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int = 1, first_dilation: int = 1, dilation: int = 1
    ):
        super().__init__()
        self.bn_branch2a, self.relu_branch2a = FrozenBatchNorm2d(inputs), nn.ReLU()
        self.conv_branch2a = _same_size(inputs, middle, 3, stride, first_dilation)
        self.bn_branch2b1 = FrozenBatchNorm2d(middle)
        self.conv_branch2b1 = _same_size(middle, outputs, 3, dilation=dilation)
        reshapes = stride != 1 or inputs != outputs
        self.conv_branch1 = _same_size(inputs, outputs, 1, stride) if reshapes else None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        active = self.relu_branch2a(self.bn_branch2a(x))
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(active)
        middle = self.bn_branch2b1(self.conv_branch2a(active)).relu()
        return shortcut + self.conv_branch2b1(middle)


class PreActivatedBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each behind BatchNorm and ReLU, the last two behind dropout of whole channels.

    Otherwise as :class:`PreActivatedBlock`, with a shortcut that widens.
    """

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float):
        super().__init__()
        narrow, wide = outputs // 4, outputs // 2
        self.bn_branch2a, self.relu_branch2a = FrozenBatchNorm2d(inputs), nn.ReLU()
        self.conv_branch2a = _same_size(inputs, narrow, 1)
        self.bn_branch2b1, self.dropout_2b1 = FrozenBatchNorm2d(narrow), nn.Dropout2d(dropout)
        self.conv_branch2b1 = _same_size(narrow, wide, 3, dilation=dilation)
        self.bn_branch2b2, self.dropout_2b2 = FrozenBatchNorm2d(wide), nn.Dropout2d(dropout)
        self.conv_branch2b2 = _same_size(wide, outputs, 1)
        self.conv_branch1 = _same_size(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        active = self.relu_branch2a(self.bn_branch2a(x))
        shortcut = self.conv_branch1(active)
        middle = self.dropout_2b1(self.bn_branch2b1(self.conv_branch2a(active)).relu())
        middle = self.dropout_2b2(self.bn_branch2b2(self.conv_branch2b1(middle)).relu())
        return shortcut + self.conv_branch2b2(middle)


def _same_size(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


def _resnet38(weights: str | None, width: int = 64) -> Backbone:
    """ResNet-38 (Wu, Shen and van den Hengel, 2016) at stride 8, layer by layer as AffinityNet's released code has it.

    Made to be fine-tuned: BatchNorm is constant, and with weights the first convolution and the three blocks behind it
    are not trained either. ``weights`` is the path of a file, see :func:`_load_released`. ``width`` is the first
    convolution's, of which all others are multiples.
    """
    layers = nn.Sequential()
    layers.add_module("conv1a", _same_size(3, width, 3))
    inputs = width
    for number, (factor, blocks) in {2: (2, 3), 3: (4, 3), 4: (8, 6)}.items():
        outputs = factor * width
        layers.add_module(f"b{number}", PreActivatedBlock(inputs, outputs, outputs, stride=2))
        for place in range(1, blocks):
            layers.add_module(f"b{number}_{place}", PreActivatedBlock(outputs, outputs, outputs))
        inputs = outputs
    layers.add_module("b5", PreActivatedBlock(inputs, inputs, 2 * inputs, first_dilation=1, dilation=2))
    for place in (1, 2):
        layers.add_module(f"b5_{place}", PreActivatedBlock(2 * inputs, inputs, 2 * inputs, 1, 2, 2))
    layers.add_module("b6", PreActivatedBottleneck(2 * inputs, 4 * inputs, dilation=4, dropout=0.3))
    layers.add_module("b7", PreActivatedBottleneck(4 * inputs, 8 * inputs, dilation=4, dropout=0.5))
    layers.add_module("bn7", FrozenBatchNorm2d(8 * inputs))
    layers.add_module("relu7", nn.ReLU())
    if weights:
        _load_released(layers, weights)
        layers[:4].requires_grad_(False)  # conv1a, b2, b2_1, b2_2
    return Backbone(layers, channels=8 * inputs)


def _load_released(layers: nn.Sequential, weights: str) -> None:
    """Load weights from a file: a dictionary of tensors by the released code's names, ``b2.conv_branch2a.weight``.

    What else is in it, such as the layers of a classifier, is left out. Nothing but tensors is read.

    Raises:
        DownloadError: there is no such file.
        DataError: it is damaged, or a tensor is missing or of another shape.
    """
    path = Path(weights)
    if not path.is_file():
        raise DownloadError(
            f"weights={weights!r} for resnet38: found no such file, and no address is known to fetch one from. Give "
            "the path of a .pth or .safetensors file: either res38_cls.pth or res38_aff.pth of jiwoon-ahn/psa, or "
            "ilsvrc-cls_rna-a1_cls1000_ep-0001.params of itijyou/ademxapp, which is MXNet's, made into a dictionary of "
            "tensors by convert_mxnet_to_torch of psa's network/resnet38d.py. Or use weights=None."
        )
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path}: not a file of tensors ({str(error).splitlines()[0]}). Fetch or convert it anew."
        ) from error
    names = layers.state_dict().keys()
    if missing := [name for name in names if not isinstance(tensors, dict) or name not in tensors]:
        raise DataError(
            f"{path}: found no tensor {missing[0]!r}, and {len(missing)} of {len(names)} are missing; expected the "
            "names of jiwoon-ahn/psa's network/resnet38d.py."
        )
    try:
        layers.load_state_dict({name: tensors[name] for name in names})
    except RuntimeError as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}. Expected ResNet-38's shapes.") from error


def _vgg16_atrous(weights: str | None) -> Backbone:
    """VGG16 at stride 8 with its first two linear layers made convolutions, as in AffinityNet's released code.

    Max-pooling is 3x3, the fifth is left out, its convolutions have holes instead of the fourth's stride. ``fc6`` keeps
    a 3x3 grid of the 7x7 positions and every fourth channel, ``fc7`` every fourth channel, as DeepLab cut them. The
    released code starts from DeepLab's Caffe weights for images of 0 to 255, this one from torchvision's. With weights
    the first four convolutions are not trained.
    """
    network = _torchvision("vgg16", weights)
    backbone = Backbone(network.features[:30], channels=1024)
    set_output_stride(backbone, 8)
    layers = backbone.layers
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            layers[place] = nn.MaxPool2d(3, layer.stride, padding=1)
    linear6, linear7 = network.classifier[0], network.classifier[3]
    layers.add_module("fc6", _as_convolution(linear6.weight.view(4096, 512, 7, 7)[::4, :, ::3, ::3], linear6.bias[::4]))
    layers.add_module("relu6", nn.ReLU())
    layers.add_module("drop6", nn.Dropout2d(0.5))
    layers.add_module("fc7", _as_convolution(linear7.weight[::4, ::4, None, None], linear7.bias[::4]))
    layers.add_module("relu7", nn.ReLU())
    if weights:
        layers[:10].requires_grad_(False)  # up to the second pooling
    return backbone


def _as_convolution(weight: Float[Tensor, "D C k k"], bias: Float[Tensor, " D"]) -> nn.Conv2d:
    outputs, inputs, kernel, _ = weight.shape
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    convolution.weight, convolution.bias = (nn.Parameter(values.detach().clone()) for values in (weight, bias))
    return convolution


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "small": _small,
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "googlenet": _googlenet,
    "resnet50": _resnet50,
    "resnet38": _resnet38,
    "vgg16_atrous": _vgg16_atrous,
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


AFFINITY_STRIDE = {"small": 4}  # where the last three blocks of small have the same cells; the others: 8
FC6_DILATION = 4  # in the released AffinityNet; its CAM network has 1

LEVELS = {  # what AffinityNet reads, from fine to coarse: modules of Backbone.layers
    "small": ("2", "3", "4"),
    "resnet50": ("layer2", "layer3", "layer4"),
    "resnet38": ("b5.relu_branch2a", "b6.relu_branch2a", "relu7"),
    "vgg16_atrous": ("22", "29", "relu7"),  # behind the ReLUs of conv4-3, conv5-3 and fc7
}


def build_affinity_trunk(
    name: str,
    weights: str | None = None,
    output_stride: int | None = None,
    stride_by: str | None = None,
    **options: int,
) -> Backbone:
    """The trunk of AffinityNet: :func:`build_backbone` with three levels of features on the same cells.

    ``small`` ends at stride 4, the others at 8. ``fc6`` of ``vgg16_atrous`` is dilated by 4, as in the released code.

    Raises:
        UsageError: the backbone has no entry in ``LEVELS``, its levels would not have the same cells, or as in
            :func:`build_backbone`.

    >>> trunk = build_affinity_trunk("small")
    >>> [level.shape[1:] for level in feature_levels(trunk, LEVELS["small"], torch.zeros(1, 3, 96, 96))]
    [torch.Size([32, 24, 24]), torch.Size([48, 24, 24]), torch.Size([64, 24, 24])]
    """
    if name not in LEVELS:
        raise UsageError(f"backbone={name!r}: expected one with three levels of features, {', '.join(LEVELS)}.")
    if output_stride is None:
        output_stride = AFFINITY_STRIDE.get(name, 8)
    backbone = build_backbone(name, weights, output_stride, stride_by, **options)
    children = list(dict(backbone.layers.named_children()))
    first, last = (children.index(LEVELS[name][end].partition(".")[0]) for end in (0, -1))
    strides = [Backbone(backbone.layers[: place + 1], channels=0).stride for place in (first, last)]
    if strides[0] != strides[1]:
        raise UsageError(
            f"output_stride={output_stride}: the levels of {name} have strides {strides[0]} to {strides[1]}; expected "
            f"the same cells for all. Take {strides[0]} or less."
        )
    if name == "vgg16_atrous":
        _dilate(backbone.layers.fc6, FC6_DILATION)
    backbone.classifier = None
    return backbone


def feature_levels(
    backbone: Backbone, levels: tuple[str, ...], images: Float[Tensor, "B 3 H W"]
) -> list[Float[Tensor, "B _ _ _"]]:
    """Features of several depths from one pass.

    Args:
        levels: names of modules of ``backbone.layers``, dotted where they lie deeper, such as those of ``LEVELS``.
        images: RGB in [0, 1].

    Returns:
        What each of them returned, in the order of ``levels``.

    >>> backbone = build_backbone("small").eval()
    >>> images = torch.rand(1, 3, 32, 32)
    >>> torch.equal(feature_levels(backbone, ("4",), images)[0], backbone(images))
    True
    """
    found: dict[str, Tensor] = {}
    hooks = [
        backbone.layers.get_submodule(level).register_forward_hook(partial(_keep, found, level)) for level in levels
    ]
    try:
        backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[level] for level in levels]


def _keep(found: dict[str, Tensor], level: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    found[level] = output


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
