"""What ACoL is compared with: one classifier with ACoL's head, Hide-and-Seek, and iterative erasing.

- Hide-and-Seek: Singh and Lee, Hide-and-Seek: Forcing a Network to be Meticulous, ICCV 2017. Random patches of the
  *image* are hidden in training.
- Iterative erasing: after AE-PSL, Wei et al., Object Region Mining with Adversarial Erasing, CVPR 2017. What one
  network lights up is erased from the *image*, and another network is trained on the rest.

Equation numbers are those of chapter 3.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wsl_core.backbones import build_erasing_trunk, map_classifier
from wsl_core.errors import UsageError
from wsl_core.ops import Grid, classes_asked, classification_loss, erase, normalize, resize_maps

__all__ = ["HideAndSeek", "IterativeErasing", "SingleClassifier", "hidden_patches"]


class SingleClassifier(nn.Module):
    """CAM with ACoL's trunk and head, the released code's own baseline (``vgg_v0``): two further 3x3 convolutions.

    Args:
        backbone: a name of :data:`wsl_core.backbones.BACKBONES`.
        num_classes: number of classes, K.
        task: ``"single"`` label an image (softmax) or ``"multi"`` (one sigmoid a class).
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, or ``None``.
        output_stride: pixels per cell of the map; ``None`` takes 8 for VGG16 and ``small``, 16 for the others.
        stride_by: see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes removal.
        head_channels: width of the 3x3 convolutions; ``None`` takes 1024, and the trunk's for ``small``.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = SingleClassifier(num_classes=3).eval()
    >>> model.localize(torch.rand(2, 3, 96, 96)).shape
    torch.Size([2, 3, 12, 12])
    """

    paper = "single_classifier"
    new_modules: tuple[str, ...] = ("classifier",)

    def __init__(
        self,
        backbone: str = "small",
        num_classes: int = 8,
        task: str = "single",
        weights: str | None = None,
        output_stride: int | None = None,
        stride_by: str | None = None,
        head_channels: int | None = None,
        width: int | None = None,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
        _check(num_classes, task)
        self.task = task
        options = {} if width is None else {"width": width}
        self.backbone = build_erasing_trunk(backbone, weights, output_stride, stride_by, **options)
        self.classifier = map_classifier(self.backbone, backbone, num_classes, head_channels)

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps are centred on the image, for :func:`wsl_core.ops.resize_maps`."""
        return self.backbone.grid

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits. Images are RGB in [0, 1]."""
        return self.scores_and_maps(images)[0]

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        """Raw maps; with ``labels`` (B, K) those of other classes are zero."""
        return self.scores_and_maps(images, labels)[1]

    def scores_and_maps(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
        """Logits, and what :meth:`localize` returns, from one pass."""
        maps = self.classifier(self.backbone(images))  # (3.2)
        return maps.mean(dim=(2, 3)), maps * classes_asked(labels, maps)[..., None, None]  # (3.3)

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """Classification loss of a batch with ``image`` (B, 3, H, W) and ``labels`` (B, K)."""
        loss = classification_loss(self(batch["image"]), batch["labels"], self.task)
        return {"classification": loss, "total": loss}


class HideAndSeek(SingleClassifier):
    """One classifier whose training images have patches hidden at random; at test it sees whole images.

    Args:
        patches: along each side of the image; 4 by 4 are our choice.
        hide: probability that a patch is hidden; a half is the default of Choe et al. Hidden pixels get the mean colour
            that the trunk subtracts.
        options: those of :class:`SingleClassifier`.

    Raises:
        UsageError: an argument is out of range.

    >>> HideAndSeek(num_classes=3)(torch.rand(1, 3, 96, 96)).shape
    torch.Size([1, 3])
    """

    paper = "hide_and_seek"

    def __init__(self, *, patches: int = 4, hide: float = 0.5, **options: Any):
        if type(patches) is not int or patches < 1:
            raise UsageError(f"patches={patches}: expected a whole number, at least 1.")
        if not 0 <= hide <= 1:
            raise UsageError(f"hide={hide}: expected a probability in [0, 1].")
        super().__init__(**options)
        self.config |= {"patches": patches, "hide": hide}
        self.patches, self.hide = patches, hide

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """Classification loss of the images with patches hidden. Draws from torch's generator of the CPU."""
        images = batch["image"]
        hidden = hidden_patches(images, self.patches, self.hide)
        return super().losses(batch | {"image": torch.where(hidden, self.backbone.mean, images)})


def hidden_patches(images: Float[Tensor, "B 3 H W"], patches: int, hide: float) -> Bool[Tensor, "B 1 H W"]:
    """Which pixels are hidden: each patch of the grid by itself, with probability ``hide``.

    >>> hidden_patches(torch.zeros(1, 3, 8, 8), 4, hide=1.0).all().item()
    True
    """
    drawn = torch.rand(len(images), 1, patches, patches).to(images.device) < hide
    rows, columns = (torch.arange(side, device=images.device) * patches // side for side in images.shape[-2:])
    return drawn[:, :, rows[:, None], columns]


class IterativeErasing(nn.Module):
    r"""Networks in a row: each is trained on images from which what the earlier ones light up has been erased.

    AE-PSL trains one network to its end, erases, and trains the next. Here all are trained in the same run, each step
    one after the other; nothing flows back from a network to an earlier one. Erased pixels get the mean colour that the
    trunks subtract.

    Args:
        networks: how many.
        erase_threshold: $\tau_e$ on a map between its least and greatest value, enlarged to the image.
        options: those of :class:`SingleClassifier`, for each network.

    Raises:
        UsageError: an argument is out of range.

    >>> model = IterativeErasing(num_classes=3).eval()
    >>> model.localize(torch.rand(2, 3, 96, 96)).shape
    torch.Size([2, 3, 12, 12])
    """

    paper = "iterative_erasing"

    def __init__(self, *, networks: int = 2, erase_threshold: float = 0.6, **options: Any):
        super().__init__()
        if type(networks) is not int or networks < 1:
            raise UsageError(f"networks={networks}: expected a whole number, at least 1.")
        if type(erase_threshold) not in (int, float) or not math.isfinite(erase_threshold):
            raise UsageError(f"erase_threshold={erase_threshold!r}: expected a finite number.")
        self.networks = nn.ModuleList([SingleClassifier(**options) for _ in range(networks)])
        first = self.networks[0]
        self.config = first.config | {"networks": networks, "erase_threshold": erase_threshold}
        self.task, self.erase_threshold = first.task, erase_threshold
        self.new_modules = tuple(f"networks.{i}.classifier" for i in range(networks))

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps are centred on the image, for :func:`wsl_core.ops.resize_maps`."""
        return self.networks[0].grid

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits of the first network, which sees the whole image."""
        return self.networks[0](images)

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """Each network's classification loss on its own images, and their sum."""
        images, labels = batch["image"], batch["labels"]
        losses: dict[str, Tensor] = {}
        for i, network in enumerate(self.networks):
            logits, maps = network.scores_and_maps(images)
            losses[f"network {i + 1}"] = classification_loss(logits, labels, self.task)
            if i + 1 < len(self.networks):
                lit = (normalize(maps.detach().float(), checked=False) * labels[:, :, None, None]).amax(dim=1)
                images = self._erase(images, lit)
        return losses | {"total": torch.stack(list(losses.values())).sum()}

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        """The highest of all networks' normalised maps, in [0, 1]; for each class, its own region is erased.

        Args:
            labels: (B, K) multi-hot; maps of other classes are zero. ``None`` gives the maps of all classes, at the
                cost of K passes through every network but the first.

        Raises:
            UsageError: ``labels`` have another shape.
        """
        fused = normalize(self.networks[0].localize(images))
        asked = classes_asked(labels, fused)
        fused = fused * asked[..., None, None]
        for c in asked.any(dim=0).nonzero().flatten().tolist():
            which = asked[:, c].nonzero().flatten()
            rest, lit = images[which], fused[which, c]
            for network in self.networks[1:]:
                rest = self._erase(rest, lit)
                lit = normalize(network.localize(rest)[:, c])
                fused[which, c] = torch.maximum(fused[which, c], lit)
        return fused

    def _erase(self, images: Float[Tensor, "B 3 H W"], lit: Float[Tensor, "B h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images with the mean colour where a map is lit: to the networks the mean is zero."""
        height, width = images.shape[-2:]
        mean = self.networks[0].backbone.mean
        enlarged = resize_maps(lit[:, None].float(), (height, width), self.grid)[:, 0]
        return mean + erase(images - mean, enlarged, self.erase_threshold)


def _check(num_classes: int, task: str) -> None:
    if num_classes < 1:
        raise UsageError(f"num_classes={num_classes}: expected at least 1.")
    if task not in ("single", "multi"):
        raise UsageError(f"task={task!r} is unknown; expected 'single' or 'multi'.")
