r"""From maps to a segmentation network: backgrounds, seed cues, the losses of SEC, and heads.

Kolesnikov and Lampert, Seed, Expand and Constrain: Three Principles for Weakly-Supervised Image Segmentation, ECCV
2016, with the numbers of its released code. Chen et al., Semantic Image Segmentation with Deep Convolutional Nets and
Fully Connected CRFs, ICLR 2015, for its head. Ahn and Kwak, Learning Pixel-level Semantic Affinity, CVPR 2018, for the
maps of several scales, the backgrounds and the head of two convolutions; equation numbers are those of chapter 7.
Channel 0 is the background, channel k + 1 class k.
"""

from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Grid, mean_over, normalize, resize_maps
from wsl_core.refine import CRFParameters, dense_crf

__all__ = [
    "DECAYS", "SCALES", "at_cell_centres", "atrous_head", "attention", "boundary_loss", "constant_background",
    "expansion_loss", "floored_softmax", "labels_of_cells", "labels_of_pixels", "large_fov_head", "least_salient",
    "multi_scale_cam", "multi_scale_labels", "multi_scale_maps", "pixel_loss", "rank_pool", "seed_cues", "seeding_loss",
    "with_background",
]  # fmt: skip

IGNORE = 255  # in seed cues: a pixel of which nothing is known
PROBABILITY_FLOOR = 1e-4  # of SEC's released code; no logarithm of it is infinite
DECAYS = (0.996, 0.0, 0.999)  # d+, d- and d of the background, for 41 x 41 cells
SCALES = (1.0, 0.5, 1.5, 2.0)  # at which AffinityNet's released code looks at an image


# Seed cues


def seed_cues(
    maps: Float[Tensor, "K H W"],
    labels: Float[Tensor, " K"],
    saliency: Float[Tensor, "H W"] | None = None,
    threshold: float = 0.2,
    background_share: float = 0.1,
) -> Int[Tensor, "H W"]:
    r"""Pixels of which a class, or the background, is believed without much doubt.

    Class k takes the pixels above $\tau$ of its map's maximum, the background the least salient ones. Where several
    classes want a pixel, the one with the smaller region has it, since it lies in front; any class goes before the
    background. The rest is 255. SEC's released code holds its cues but not how they were made: thresholds are the
    paper's (GAIN takes the same 20 %), and how conflicts end is how re-implementations have it.

    Args:
        maps: raw maps of all classes. One whose maximum is not positive, or that is flat, gives no cue.
        labels: multi-hot; absent classes give no cue.
        saliency: where anything at all is to be seen. SEC and GAIN take a separate method's, which no image label
            trains; ``None`` takes :func:`attention` as a stand-in, which knows of the classes alone.
        threshold: $\tau$ in [0, 1).
        background_share: see :func:`least_salient`.

    Raises:
        UsageError: ``threshold`` or ``background_share`` is out of range, or the saliency is not of the maps' size.
        DataError: maps or saliency hold NaN or infinity.

    >>> maps = torch.tensor([[[0.0, 0.1, 0.3, 1.0]], [[0.0, 0.0, 0.0, 1.0]]])
    >>> seed_cues(maps, torch.ones(2)).tolist()
    [[0, 255, 1, 2]]
    """
    if not 0 <= threshold < 1:
        raise UsageError(f"threshold={threshold}: expected a share of the maximum in [0, 1).")
    if saliency is None:
        saliency = attention(maps, labels)
    if saliency.shape != maps.shape[-2:]:
        raise UsageError(f"saliency: found {tuple(saliency.shape)}; expected the maps' {tuple(maps.shape[-2:])}.")
    lit = (normalize(maps, "max") > threshold) & (labels > 0)[:, None, None]
    area = lit.sum(dim=(1, 2))[:, None, None]
    smallest = torch.where(lit, area, lit[0].numel() + 1).argmin(dim=0)
    background = torch.where(least_salient(saliency, background_share), 0, IGNORE)
    return torch.where(lit.any(dim=0), smallest + 1, background)


def attention(maps: Float[Tensor, "K H W"], labels: Float[Tensor, " K"]) -> Float[Tensor, "H W"]:
    """How much any of the present classes lights up a pixel, in [0, 1]: our stand-in for a saliency method.

    Unlike a saliency method it takes things that often come with a class for the class, and those without a label for
    background.

    >>> attention(torch.tensor([[[0.0, 2.0]], [[4.0, 2.0]]]), torch.tensor([1.0, 1.0])).tolist()
    [[1.0, 1.0]]
    """
    return (normalize(maps, "max") * labels[:, None, None]).amax(dim=0)


def least_salient(saliency: Float[Tensor, "H W"], share: float = 0.1) -> Bool[Tensor, "H W"]:
    """The background's cues: the given share of the pixels, those of lowest saliency, and all that are as low.

    Raises:
        UsageError: ``share`` is not in (0, 1].
        DataError: the saliency holds NaN or infinity.

    >>> least_salient(torch.tensor([[0.1, 0.7, 0.1, 0.9]]), 0.25).tolist()
    [[True, False, True, False]]
    """
    if not 0 < share <= 1:
        raise UsageError(f"background_share={share}: expected a share of the pixels in (0, 1].")
    if not saliency.isfinite().all():
        raise DataError("saliency: found NaN or infinity; expected finite scores.")
    rank = max(1, round(share * saliency.numel()))
    return saliency <= saliency.flatten().kthvalue(rank).values


# Maps beside a background


@torch.no_grad()
def multi_scale_maps(
    predict: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B 3 H W"],
    scales: tuple[float, ...] = SCALES,
    flip: bool = True,
    grid: Grid | None = None,
) -> Float[Tensor, "B C H W"]:
    """The mean of the maps of an image at several sizes, and of its mirror image at each.

    Args:
        predict: ``predict(images)`` gives maps (B, C, h, w) of images of any size.
        images: RGB in [0, 1].
        scales: factors on the image's sides.
        flip: whether mirror images are looked at, too.
        grid: where the cells of the maps are centred, see :func:`wsl_core.ops.resize_maps`.

    Raises:
        UsageError: there is no scale, or one that leaves no pixel.

    >>> multi_scale_maps(lambda views: views[:, :1], torch.full((1, 3, 4, 6), 0.5)).unique().tolist()
    [0.5]
    """
    size = (images.shape[-2], images.shape[-1])
    if not scales or not all(1 <= scale * min(size) < float("inf") for scale in scales):
        raise UsageError(f"scales={scales}: expected factors that leave images of {size} pixels at least one.")
    views = (False, True) if flip else (False,)
    total = torch.zeros(())
    for scale, mirrored in product(scales, views):
        view = images.flip(-1) if mirrored else images
        if scale != 1:  # to sides that are rounded, but sampled at exactly this scale: that of the cells' places
            view = F.interpolate(view, scale_factor=scale, mode="bilinear", antialias=True)
        cells = Grid(grid.stride / scale, grid.first / scale) if grid else None
        maps = resize_maps(predict(view).float(), size, cells)
        total = total.to(maps) + (maps.flip(-1) if mirrored else maps)
    return total / (len(scales) * len(views))


def multi_scale_cam(
    model: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    labels: Float[Tensor, "B K"],
    scales: tuple[float, ...] = SCALES,
    flip: bool = True,
) -> Float[Tensor, "B K H W"]:
    r"""AffinityNet's CAMs: what speaks for a class at several scales, $M_c \leftarrow M_c / \max M_c$ (equation 7.1).

    Negative evidence is cut off at every scale, as in the released code. Classes that the image is not labelled with
    are zero; so is one for which nothing speaks.

    Args:
        model: with ``localize`` and ``grid``, in evaluation mode.
        labels: multi-hot.
        scales, flip: see :func:`multi_scale_maps`.

    Returns:
        Maps in [0, 1], the maximum of each 1.

    Raises:
        UsageError: as in :func:`multi_scale_maps`.
        DataError: the network's maps hold NaN or infinity.

    >>> class Bright(nn.Module):
    ...     grid = Grid(stride=1, first=0.5)
    ...
    ...     def localize(self, images, labels):
    ...         return (images - 0.5)[:, :2] * labels[:, :, None, None]
    >>> images = torch.tensor([0.0, 1.0, 0.75]).expand(1, 3, 1, 3)
    >>> multi_scale_cam(Bright(), images, torch.tensor([[1.0, 0.0]]), scales=(1.0,)).tolist()
    [[[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]]
    """

    def evidence(views: Tensor) -> Tensor:
        return model.localize(views, labels).relu()

    return normalize(multi_scale_maps(evidence, images, scales, flip, model.grid), "max")  # (7.1)


def with_background(maps: Float[Tensor, "*batch K H W"], alpha: float = 16.0) -> Float[Tensor, "*batch C H W"]:
    r"""Maps behind a background that is what they leave over: $M_{bg} = (1 - \max_c M_c)^\alpha$ (equation 7.2).

    The larger $\alpha$, the less background: it is strong only where no class has any evidence.

    Args:
        maps: of K classes, in [0, 1].
        alpha: $\alpha \ge 0$; 16 for the random walk, 4 and 24 for the confident labels.

    Raises:
        UsageError: ``alpha`` is out of range.
        DataError: a value is NaN or outside [0, 1].

    >>> with_background(torch.tensor([[[0.5, 0.0]], [[0.0, 0.0]]]), alpha=2)[0].tolist()
    [[0.25, 1.0]]
    """
    if not 0 <= alpha < float("inf"):
        raise UsageError(f"alpha={alpha}: expected a finite number, at least 0.")
    _check_unit_range(maps)
    background = (1 - maps.amax(dim=-3, keepdim=True)).pow(alpha)  # (7.2)
    return torch.cat([background, maps], dim=-3)


def constant_background(maps: Float[Tensor, "*batch K H W"], score: float = 0.2) -> Float[Tensor, "*batch C H W"]:
    """Maps behind a background of one score: how CAMs by themselves are evaluated, and another thing than a power.

    Args:
        maps: of K classes, in [0, 1].
        score: 0.2 in AffinityNet's released code, 0.15 in IRN's.

    Raises:
        UsageError: ``score`` is not in [0, 1].
        DataError: a value is NaN or outside [0, 1].

    >>> constant_background(torch.tensor([[[0.5, 0.1]]])).argmax(dim=0).tolist()
    [[1, 0]]
    """
    if not 0 <= score <= 1:
        raise UsageError(f"score={score}: expected a score in [0, 1], as the maps have.")
    _check_unit_range(maps)
    return torch.cat([torch.full_like(maps[..., :1, :, :], score), maps], dim=-3)


def _check_unit_range(maps: Tensor) -> None:
    if maps.shape[-3] == 0 or not ((maps >= 0) & (maps <= 1)).all():
        raise DataError(
            f"maps {tuple(maps.shape)}: found no class, NaN or values outside [0, 1]; expected maps divided by their "
            "maximum, as normalize(maps, how='max') gives them."
        )


def labels_of_cells(masks: Int[Tensor, "B H W"], cell: int) -> Int[Tensor, "B h w"]:
    """The label of most pixels of each cell, of two equally frequent ones the lower; 255 where most are unknown.

    AffinityNet's released code takes the best of the mean probabilities of a cell. Of masks, which are certain of every
    pixel, that is the most frequent label. Cells at the lower and right edge may have fewer pixels.

    Args:
        masks: 0 background, k + 1 class k, 255 unknown.
        cell: side of a cell in pixels.

    Raises:
        UsageError: ``cell`` is below 1.
        DataError: a label is outside 0, ..., 255.

    >>> labels_of_cells(torch.tensor([[[0, 0, 3, 3, 255], [0, 2, 3, 255, 255]]]), 2).tolist()
    [[[0, 3, 255]]]
    """
    if cell < 1:
        raise UsageError(f"cell={cell}: expected a side of at least 1 pixel.")
    if ((masks < 0) | (masks > IGNORE)).any():
        raise DataError(f"masks: found labels from {int(masks.min())} to {int(masks.max())}; expected 0 to {IGNORE}.")
    images, height, width = masks.shape
    rows, columns = (torch.arange(side, device=masks.device) // cell for side in (height, width))
    image = torch.arange(images, device=masks.device)[:, None, None]
    h, w = -(-height // cell), -(-width // cell)
    place = (image * h + rows[:, None]) * w + columns
    votes = (place * (IGNORE + 1) + masks).flatten().bincount(minlength=images * h * w * (IGNORE + 1))
    return votes.view(images, h, w, IGNORE + 1).argmax(dim=-1)


# Losses


def floored_softmax(scores: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    """Probabilities of which none is below about 1e-4, as in SEC's released code.

    >>> floored_softmax(torch.tensor([100.0, -100.0]).view(1, 2, 1, 1)).flatten()
    tensor([9.9990e-01, 9.9980e-05])
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))  # in 16 bits the floor would be lost
    return _floored(wide.softmax(dim=1))


def _floored(probabilities: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    lifted = probabilities + PROBABILITY_FLOOR
    return lifted / lifted.sum(dim=1, keepdim=True)


def seeding_loss(probabilities: Float[Tensor, "B C h w"], cues: Int[Tensor, "B h w"]) -> Float[Tensor, ""]:
    r"""Cross-entropy at the seed cues alone: $-\frac{1}{\sum_c |S_c|} \sum_c \sum_{u \in S_c} \log p_{u,c}$.

    The mean over the cues of an image, the background's among them, then over the images. An image without cues adds 0.

    Raises:
        DataError: a cue is neither a channel nor 255.

    >>> seeding_loss(torch.full((1, 4, 1, 2), 0.25), torch.tensor([[[3, 255]]])).item()  # log 4
    1.3862943649291992
    """
    known = cues != IGNORE
    channels = probabilities.shape[1]
    if (wrong := cues[known & ((cues < 0) | (cues >= channels))]).numel():
        raise DataError(f"cues: found {int(wrong[0])}; expected 0 to {channels - 1}, or 255 where nothing is known.")
    chosen = probabilities.gather(1, torch.where(known, cues, 0)[:, None])[:, 0]  # (B, h, w)
    logarithms = torch.where(known, chosen, 1).log()
    return -(logarithms.sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)).mean()


def rank_pool(values: Float[Tensor, "*batch h w"], decay: float) -> Float[Tensor, "*batch"]:
    r"""Global weighted rank pooling: $G = \sum_j d^{j-1} v_{(j)} / \sum_j d^{j-1}$ with $v_{(1)} \ge v_{(2)} \ge \dots$

    The mean for d = 1, the maximum for d = 0.

    Raises:
        UsageError: ``decay`` is not in [0, 1].

    >>> values = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> [rank_pool(values, decay).item() for decay in (0.0, 1.0)]
    [1.0, 0.25]
    """
    if not 0 <= decay <= 1:
        raise UsageError(f"decay={decay}: expected a number in [0, 1].")
    ranked = values.flatten(-2).sort(dim=-1, descending=True).values
    weights = decay ** torch.arange(ranked.shape[-1], dtype=values.dtype, device=values.device)
    return (ranked * weights).sum(dim=-1) / weights.sum()


def expansion_loss(
    probabilities: Float[Tensor, "B C h w"],
    labels: Float[Tensor, "B K"],
    decays: tuple[float, float, float] = DECAYS,
) -> Float[Tensor, ""]:
    r"""Present classes and the background should cover some of the image, absent classes nothing.

    $-\frac{1}{|P|}\sum_{c \in P} \log G_c(d_+) - \frac{1}{|A|}\sum_{c \in A} \log(1 - G_c(d_-)) -
    \log G_{bg}(d_{bg})$ with P the present and A the absent classes of an image and G :func:`rank_pool` of their
    probabilities; the mean over images. A sum over no class is 0.

    Args:
        probabilities: as :func:`floored_softmax` makes them; of a 0 or a 1 the logarithm may be infinite.
        labels: multi-hot, K = C - 1.
        decays: $d_+, d_-, d_{bg}$. They fit 41 x 41 cells; fewer cells want smaller ones.

    >>> certain = floored_softmax(torch.tensor([[9.0, -9.0], [-9.0, 9.0], [-9.0, -9.0]]).view(1, 3, 1, 2))
    >>> present, absent = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> bool(expansion_loss(certain, present) < expansion_loss(certain, absent))
    True
    """
    d_present, d_absent, d_background = decays
    background, classes = probabilities[:, 0], probabilities[:, 1:]
    present = labels > 0
    covers = _mean_where(rank_pool(classes, d_present).log(), present)
    leaves = _mean_where((1 - rank_pool(classes, d_absent)).log(), ~present)
    return -(covers + leaves + rank_pool(background, d_background).log()).mean()


def _mean_where(values: Float[Tensor, "B K"], chosen: Bool[Tensor, "B K"]) -> Float[Tensor, " B"]:
    return torch.where(chosen, values, 0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def boundary_loss(probabilities: Float[Tensor, "B C h w"], refined: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    r"""SEC's constrain-to-boundary loss: $\frac 1n \sum_u \sum_c Q_{u,c} \log (Q_{u,c} / p_{u,c})$, a mean over images.

    Q is what a CRF makes of the probabilities, floored like them, and a constant: the gradient pulls the network to its
    own refined prediction. (SEC's released code adds a gradient through the CRF, roughly estimated.)

    Args:
        refined: Q, such as :func:`wsl_core.refine.dense_crf` returns.

    >>> even = torch.full((1, 2, 3, 3), 0.5)
    >>> boundary_loss(even, even).item()
    0.0
    """
    target = _floored(refined.detach())
    return (target * (target / probabilities).log()).sum(dim=1).mean()


def pixel_loss(
    scores: Float[Tensor, "B C h w"], masks: Int[Tensor, "B H W"], grid: Grid | None = None
) -> Float[Tensor, ""]:
    r"""Cross-entropy of every pixel of which something is known (equation 7.12), 0 where nothing is.

    $-\frac1{|\Omega|} \sum_{u \in \Omega} \log p_{u, y_u}$ with p the softmax of the scores, enlarged to the pixels,
    and $\Omega$ all known pixels of all images.

    Args:
        scores: before the softmax.
        masks: channels, and 255 where nothing is known.
        grid: where the cells are centred, see :func:`wsl_core.ops.resize_maps`.

    Raises:
        DataError: a label is neither a channel nor 255.

    >>> pixel_loss(torch.zeros(1, 4, 1, 1), torch.tensor([[[3, 255], [0, 255]]])).item()  # log 4
    1.3862943649291992
    """
    known, channels = masks != IGNORE, scores.shape[1]
    if (wrong := masks[known & ((masks < 0) | (masks >= channels))]).numel():
        raise DataError(f"masks: found {int(wrong[0])}; expected 0 to {channels - 1}, or 255 where nothing is known.")
    enlarged = resize_maps(scores.float(), (masks.shape[-2], masks.shape[-1]), grid)
    return mean_over(F.cross_entropy(enlarged, masks, ignore_index=IGNORE, reduction="none"), known)  # (7.12)


# Network


def atrous_head(channels: int, outputs: int, width: int = 512, dilation: int = 12, norm: bool = False) -> nn.Sequential:
    """AffinityNet's segmentation head: two 3x3 convolutions with holes, the second to the scores.

    Args:
        channels: of the trunk.
        outputs: K + 1.
        width: channels of the first convolution.
        norm: BatchNorm before its ReLU, without which a trunk that starts from nothing fails.

    Raises:
        UsageError: an argument is out of range.

    >>> atrous_head(64, 21)(torch.zeros(1, 64, 41, 41)).shape
    torch.Size([1, 21, 41, 41])
    """
    if width < 1 or dilation < 1 or outputs < 2:
        raise UsageError(
            f"head_channels={width}, dilation={dilation}, outputs={outputs}: expected at least 1, 1 and 2."
        )
    first, last = (
        nn.Conv2d(*sizes, 3, padding=dilation, dilation=dilation) for sizes in ((channels, width), (width, outputs))
    )
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    nn.init.normal_(last.weight, std=0.01)
    for convolution in (first, last):
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(first, *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU(), last)


def large_fov_head(
    channels: int, outputs: int, width: int = 1024, dilation: int = 12, dropout: float = 0.5, norm: bool = False
) -> nn.Sequential:
    """DeepLab-LargeFOV's head: a 3x3 convolution with holes that sees far, two of 1x1, dropout before each of these.

    The last layer starts at a Gaussian of 0.01, as DeepLab's; the others, which DeepLab cuts out of VGG16's fully
    connected layers, start at He's weights.

    Args:
        channels: of the trunk.
        outputs: K + 1.
        norm: BatchNorm before each ReLU, without which a trunk that starts from nothing fails.

    Raises:
        UsageError: an argument is out of range.

    >>> large_fov_head(512, 21)(torch.zeros(1, 512, 41, 41)).shape
    torch.Size([1, 21, 41, 41])
    """
    if width < 1 or dilation < 1 or outputs < 2:
        raise UsageError(
            f"head_channels={width}, dilation={dilation}, outputs={outputs}: expected at least 1, 1 and 2."
        )
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout={dropout}: expected a probability in [0, 1).")
    layers: list[nn.Module] = []
    for convolution in (nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.Conv2d(width, width, 1)):
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)
        layers += [convolution, *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]
    last = nn.Conv2d(width, outputs, 1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def at_cell_centres(arrays: Tensor, grid: Grid, cells: tuple[int, int]) -> Tensor:
    """Of arrays over pixels (..., H, W) the pixel at the centre of each cell, (..., h, w): of images or of seed cues.

    >>> at_cell_centres(torch.arange(6).view(1, 6), Grid(stride=2, first=1.0), (1, 3)).tolist()
    [[1, 3, 5]]
    """
    for dim, count in zip((-2, -1), cells, strict=True):
        centres = grid.first + grid.stride * torch.arange(count, device=arrays.device)
        arrays = arrays.index_select(dim, centres.long().clamp(0, arrays.shape[dim] - 1))
    return arrays


def labels_of_pixels(
    scores: Float[Tensor, "B C h w"],
    images: Float[Tensor, "B 3 H W"],
    grid: Grid | None = None,
    crf: str | CRFParameters | None = "sec",
    backend: str = "auto",
) -> Int[Tensor, "B H W"]:
    """The mask that a segmentation network predicts: scores enlarged to the image, softmax, CRF, the best label.

    Args:
        scores: of background and classes, before the softmax.
        images: RGB in [0, 1].
        grid: where the cells are centred, see :func:`wsl_core.ops.resize_maps`.
        crf: parameters of :func:`wsl_core.refine.dense_crf`; ``None`` leaves it out.
        backend: of the CRF.

    >>> labels_of_pixels(torch.tensor([[[[1.0]], [[2.0]]]]), torch.rand(1, 3, 2, 3)).tolist()
    [[[1, 1, 1], [1, 1, 1]]]
    """
    probabilities = resize_maps(scores.float(), tuple(images.shape[-2:]), grid).softmax(dim=1)
    if crf is not None:
        probabilities = dense_crf(images, probabilities, backend, crf)
    return probabilities.argmax(dim=1)


def multi_scale_labels(
    model: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    scales: tuple[float, ...] = SCALES,
    flip: bool = True,
    crf: str | CRFParameters | None = "affinitynet",
    backend: str = "auto",
) -> Int[Tensor, "B H W"]:
    """The mask that a segmentation network predicts from several scales: the mean of its probabilities, CRF, the best.

    Args:
        model: with ``segment`` and ``grid``, in evaluation mode.
        images: RGB in [0, 1].
        scales, flip: see :func:`multi_scale_maps`.
        crf: parameters of :func:`wsl_core.refine.dense_crf`; ``None`` leaves it out.
        backend: of the CRF.

    Raises:
        UsageError: as in :func:`multi_scale_maps`.

    >>> class Dark(nn.Module):
    ...     grid = Grid(stride=1, first=0.5)
    ...
    ...     def segment(self, images):
    ...         return torch.stack([images.mean(dim=1), 1 - images.mean(dim=1)], dim=1)
    >>> multi_scale_labels(Dark(), torch.tensor([0.9, 0.9, 0.1, 0.1]).expand(1, 3, 2, 4), crf=None)[0].tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """

    def probabilities(views: Tensor) -> Tensor:
        return model.segment(views).float().softmax(dim=1)

    mean = multi_scale_maps(probabilities, images, scales, flip, model.grid)
    return (mean if crf is None else dense_crf(images, mean, backend, crf)).argmax(dim=1)
