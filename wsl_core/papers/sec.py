"""SEC: Kolesnikov and Lampert, Seed, Expand and Constrain, ECCV 2016, the segmentation network behind GAIN's maps.

A DeepLab-LargeFOV network learns from seed cues (a few pixels of each class, taken from maps), from image labels and
from the image's edges. The losses are in :mod:`wsl_core.segmentation`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsl_core.backbones import build_erasing_trunk
from wsl_core.errors import UsageError
from wsl_core.ops import Grid
from wsl_core.refine import PARAMETERS, dense_crf
from wsl_core.refine.crf import BACKENDS
from wsl_core.segmentation import (
    DECAYS,
    at_cell_centres,
    boundary_loss,
    expansion_loss,
    floored_softmax,
    large_fov_head,
    rank_pool,
    seeding_loss,
)

__all__ = ["SEC"]

PAPER_CELLS = 41 * 41  # for which the paper's decays are made
CRF_SHRINKS = 1.5  # times the output stride: the released code's 12 at stride 8
PAPER_DILATION, SMALL_DILATION = 12, 3  # about the same share of 41 cells and of 12


class SEC(nn.Module):
    r"""A segmentation network that learns from seed cues, image labels and edges.

    Args:
        backbone: a name of :data:`wsl_core.backbones.BACKBONES`; the paper has VGG16.
        num_classes: number of classes, K, without the background.
        task: ``"single"`` label an image or ``"multi"``: what the data have. The losses are the same.
        weights: ``"DEFAULT"`` for torchvision's ImageNet weights, or ``None``.
        output_stride: pixels per cell of the map; the paper has 8, 41x41 cells for 321x321 pixels.
        stride_by: see :func:`wsl_core.backbones.set_output_stride`; ``None`` takes removal for ``small``, dilation for
            the others, as DeepLab does.
        head_channels: width of the head; ``None`` takes the paper's 1024, and the trunk's for ``small``.
        dilation: of the head's 3x3 convolution; ``None`` takes the paper's 12, and 3 for ``small``.
        dropout: in the head.
        crf_backend: see :func:`wsl_core.refine.dense_crf`.
        width: channels of the first block of ``small``.

    Raises:
        UsageError: an argument is outside what is listed above.

    >>> model = SEC(num_classes=3).eval()
    >>> images = torch.rand(2, 3, 96, 96)
    >>> model(images).shape, model.segment(images).shape, model.localize(images).shape
    (torch.Size([2, 3]), torch.Size([2, 4, 12, 12]), torch.Size([2, 3, 12, 12]))
    """

    paper = "sec"
    new_modules = ("head",)

    def __init__(
        self,
        backbone: str = "small",
        num_classes: int = 8,
        task: str = "multi",
        weights: str | None = None,
        output_stride: int = 8,
        stride_by: str | None = None,
        head_channels: int | None = None,
        dilation: int | None = None,
        dropout: float = 0.5,
        crf_backend: str = "auto",
        width: int | None = None,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
        _check(num_classes, task, crf_backend)
        self.task, self.crf_backend = task, crf_backend
        small = backbone == "small"
        options = {} if width is None else {"width": width}
        stride_by = stride_by or ("removal" if small else "dilation")
        self.backbone = build_erasing_trunk(backbone, weights, output_stride, stride_by, **options)
        if head_channels is None:
            head_channels = self.backbone.channels if small else 1024
        if dilation is None:
            dilation = SMALL_DILATION if small else PAPER_DILATION
        self.head = large_fov_head(self.backbone.channels, num_classes + 1, head_channels, dilation, dropout, small)

    @property
    def grid(self) -> Grid:
        """Where the cells of the maps are centred on the image, for :func:`wsl_core.ops.resize_maps`."""
        return self.backbone.grid  # the head's convolutions move no centre

    def segment(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Scores of the background and of every class at each cell, C = K + 1, before the softmax.

        :func:`wsl_core.segmentation.labels_of_pixels` makes a mask of them.
        """
        return self.head(self.backbone(images))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits of the classes: of the pooled probabilities that the expansion loss holds against the image labels."""
        return self._pooled_logits(floored_softmax(self.segment(images)))

    def localize(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K h w"]:
        """Probabilities of every class at each cell; with ``labels`` (B, K) those of other classes are zero."""
        return self.scores_and_maps(images, labels)[1]

    def scores_and_maps(
        self, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
        """Logits, and what :meth:`localize` returns, from one pass."""
        probabilities = floored_softmax(self.segment(images))
        maps = probabilities[:, 1:]
        return self._pooled_logits(probabilities), maps if labels is None else maps * labels[:, :, None, None]

    def losses(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, ""]]:
        """The three losses and their sum.

        Args:
            batch: ``image`` (B, 3, H, W), ``labels`` (B, K), and as ``mask`` (B, H, W) the seed cues, made beforehand:
                see :func:`wsl_core.segmentation.seed_cues` and :class:`wsl_core.data.masked.WithMasks`. A data set's
                own masks in their place are full supervision.

        Raises:
            UsageError: there is no ``mask``.
            DataError: a cue is no class.
        """
        if "mask" not in batch:
            raise UsageError("batch: found no 'mask'; expected seed cues. Wrap the data set with WithMasks.")
        probabilities = floored_softmax(self.segment(batch["image"]))
        cells = tuple(probabilities.shape[-2:])
        seed = seeding_loss(probabilities, at_cell_centres(batch["mask"], self.grid, cells))
        expand = expansion_loss(probabilities, batch["labels"], self._decays(cells))
        constrain = boundary_loss(probabilities, self._refined(probabilities, batch["image"]))
        return {"seed": seed, "expand": expand, "constrain": constrain, "total": seed + expand + constrain}

    @torch.no_grad()
    def _refined(
        self, probabilities: Float[Tensor, "B C h w"], images: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B C h w"]:
        pixels = at_cell_centres(images, self.grid, tuple(probabilities.shape[-2:]))
        # A network that has run away is the training loop's to report, by a loss that is not finite.
        probabilities = probabilities.nan_to_num(1 / probabilities.shape[1])
        parameters = PARAMETERS["sec"].shrunk(CRF_SHRINKS * self.grid.stride)
        return dense_crf(pixels, probabilities, self.crf_backend, parameters)

    def _pooled_logits(self, probabilities: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K"]:
        return rank_pool(probabilities[:, 1:], self._decays(tuple(probabilities.shape[-2:]))[0]).logit()

    def _decays(self, cells: tuple[int, int]) -> tuple[float, ...]:
        """The paper's, at its 41x41 cells; with fewer cells the same share of them has the same weight."""
        return tuple(decay ** (PAPER_CELLS / (cells[0] * cells[1])) for decay in DECAYS)


def _check(num_classes: int, task: str, crf_backend: str) -> None:
    if num_classes < 1:
        raise UsageError(f"num_classes={num_classes}: expected at least 1.")
    if task not in ("single", "multi"):
        raise UsageError(f"task={task!r} is unknown; expected 'single' or 'multi'.")
    if crf_backend not in BACKENDS:
        raise UsageError(f"crf_backend={crf_backend!r} is unknown; expected one of {', '.join(BACKENDS)}.")
