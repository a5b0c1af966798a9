r"""ACoL: Zhang, Wei, Feng, Yang and Huang, Adversarial Complementary Learning, CVPR 2018.

Two classifiers share a trunk. What the first one looks at is erased from the features before the second one sees them,
so that it has to find something else. Both maps together cover more of the object, it is hoped. Equation numbers are
those of chapter 3.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsl_core.backbones import build_erasing_trunk, map_classifier
from wsl_core.errors import UsageError
from wsl_core.ops import ERASINGS, Grid, classes_asked, classification_loss, erase, normalize

__all__ = ["ACoL", "BranchMaps"]


MASKS_OF = ("itself", "another image", "random cells")


class BranchMaps(NamedTuple):
    """Raw maps of both classifiers, B's with what A lights up for the same class erased."""

    a: Float[Tensor, "B K h w"]
    b: Float[Tensor, "B K h w"]


class ACoL(nn.Module):
    r"""Two classifiers, of which the second sees what the first leaves over.

    Args:
        backbone: a name of :data:`wsl_core.backbones.BACKBONES`; the paper has VGG16 and GoogLeNet.
        num_classes: number of classes, K.
        erase_threshold: $\tau_e$; the paper writes $\delta$. Above 1 nothing is erased, below 0 everything.
        erasing: ``"strict"`` ($>$, the paper's), ``"inclusive"`` ($\ge$, the released code's) or ``"soft"``, see
            :func:`wsl_core.ops.erase`.
        slope: $\kappa$ of the soft mask.
        mask_of: whose map decides what is erased in training: ``"itself"``, or as a control, in which just as much is
            erased elsewhere, that of ``"another image"`` of the batch, or ``"random cells"``: its own, shuffled.
        task: ``"single"`` label an image (softmax) or ``"multi"`` (one sigmoid a class).
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, or ``None``.
        output_stride: pixels per cell of the map; ``None`` takes 8 for VGG16 and ``small``, 16 for the others.
        stride_by: see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes removal, as the released code.
        head_channels: width of the 3x3 convolutions; ``None`` takes the paper's 1024, and the trunk's for ``small``.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = ACoL(num_classes=3).eval()
    >>> images = torch.rand(2, 3, 96, 96)
    >>> model(images).shape, model.localize(images).shape
    (torch.Size([2, 3]), torch.Size([2, 3, 12, 12]))
    """

    paper = "acol"
    new_modules = ("classifier_a", "classifier_b")

    def __init__(
        self,
        backbone: str = "small",
        num_classes: int = 8,
        erase_threshold: float = 0.6,
        erasing: str = "strict",
        slope: float = 20.0,
        mask_of: str = "itself",
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
        _check(num_classes, task, erase_threshold, erasing, slope, mask_of)
        self.task, self.mask_of = task, mask_of
        self.erase_threshold, self.erasing, self.slope = erase_threshold, erasing, slope
        options = {} if width is None else {"width": width}
        self.backbone = build_erasing_trunk(backbone, weights, output_stride, stride_by, **options)
        self.classifier_a = map_classifier(self.backbone, backbone, num_classes, head_channels)
        self.classifier_b = map_classifier(self.backbone, backbone, num_classes, head_channels)

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps are centred on the image, for :func:`wsl_core.ops.resize_maps`."""
        return self.backbone.grid  # 3x3 convolutions move no centre

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits of classifier A, which need no label. Images are RGB in [0, 1]."""
        return self.classifier_a(self.backbone(images)).mean(dim=(2, 3))  # (3.3)

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """Both classifiers' losses of a batch with ``image`` (B, 3, H, W) and ``labels`` (B, K), and their sum.

        B sees the features without what A lights up for the image's own classes. With several labels an image, which
        the paper does not have, a position is judged by the class that lights it up most.

        Raises:
            UsageError: ``mask_of`` is another image's, and there is no other, or labels have another shape than logits.
        """
        features, labels = self.backbone(batch["image"]), batch["labels"]
        maps_a = self.classifier_a(features)
        lit = (normalize(maps_a.detach().float(), checked=False) * labels[:, :, None, None]).amax(dim=1)  # (3.4)
        maps_b = self.classifier_b(self._erase(features, self._moved(lit)))
        a, b = (classification_loss(maps.mean(dim=(2, 3)), labels, self.task) for maps in (maps_a, maps_b))
        return {"a": a, "b": b, "total": a + b}  # (3.7)

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        r"""The fused map of every class, $\max(\bar M^A, \bar M^B)$, in [0, 1].

        For each class, what A lights up *for this class* is erased before B looks. So there is no question which label
        the erasing takes: with ``labels`` of the ground truth it is as in the released code, with a one-hot prediction
        as at a test that knows no label. A flat map says nothing and is zero.

        Args:
            labels: (B, K) multi-hot; maps of other classes are zero. ``None`` gives the maps of all classes. B's
                classifier runs once for each class that any image of the batch asks for.

        Raises:
            UsageError: ``labels`` have another shape.
        """
        return self.scores_and_maps(images, labels)[1]

    def branch_maps(self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None) -> BranchMaps:
        """The raw maps of A and of B that :meth:`localize` fuses; zero for classes without a label.

        >>> model = ACoL(num_classes=3).eval()
        >>> a, b = model.branch_maps(torch.rand(2, 3, 96, 96), torch.eye(3)[:2])
        >>> a.shape == b.shape, bool(b[0, 1].any())
        (True, False)
        """
        features = self.backbone(images)
        return self._branch_maps(features, self.classifier_a(features), labels)

    def scores_and_maps(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
        """A's logits, and what :meth:`localize` returns, from one pass through the trunk."""
        features = self.backbone(images)
        maps_a = self.classifier_a(features)
        maps = self._branch_maps(features, maps_a, labels)
        return maps_a.mean(dim=(2, 3)), torch.maximum(normalize(maps.a), normalize(maps.b))  # (3.8)

    def _branch_maps(
        self, features: Float[Tensor, "B D h w"], maps_a: Float[Tensor, "B K h w"], labels: Tensor | None
    ) -> BranchMaps:
        asked = classes_asked(labels, maps_a)
        lit, maps_b = normalize(maps_a.float()), torch.zeros_like(maps_a)
        for c in asked.any(dim=0).nonzero().flatten().tolist():
            which = asked[:, c].nonzero().flatten()  # the images that ask for this class
            maps_b[which, c] = self.classifier_b(self._erase(features[which], lit[which, c]))[:, c]
        return BranchMaps(maps_a * asked[..., None, None], maps_b)

    def _moved(self, lit: Float[Tensor, "B h w"]) -> Float[Tensor, "B h w"]:
        if self.mask_of == "another image":
            if len(lit) == 1:
                raise UsageError("mask_of='another image': found a batch of one; expected at least two images.")
            return lit.roll(1, dims=0)
        if self.mask_of == "random cells":
            order = torch.rand(lit.flatten(1).shape).argsort(dim=1).to(lit.device)  # drawn on the CPU, as elsewhere
            return lit.flatten(1).gather(1, order).view_as(lit)
        return lit

    def _erase(self, features: Float[Tensor, "B D h w"], lit: Float[Tensor, "B h w"]) -> Float[Tensor, "B D h w"]:
        return erase(features, lit, self.erase_threshold, self.erasing, self.slope)  # (3.6)


def _check(num_classes: int, task: str, erase_threshold: float, erasing: str, slope: float, mask_of: str) -> None:
    if num_classes < 1:
        raise UsageError(f"num_classes={num_classes}: expected at least 1.")
    if task not in ("single", "multi"):
        raise UsageError(f"task={task!r} is unknown; expected 'single' or 'multi'.")
    if type(erase_threshold) not in (int, float) or not math.isfinite(erase_threshold):
        raise UsageError(f"erase_threshold={erase_threshold!r}: expected a finite number.")
    if erasing not in ERASINGS:
        raise UsageError(f"erasing={erasing!r} is unknown; expected one of {', '.join(ERASINGS)}.")
    if not 0 < slope < math.inf:
        raise UsageError(f"slope={slope}: expected a finite number above 0.")
    if mask_of not in MASKS_OF:
        raise UsageError(f"mask_of={mask_of!r} is unknown; expected one of {', '.join(MASKS_OF)}.")
