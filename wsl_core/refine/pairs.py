r"""What AffinityNet learns from: pairs of near cells that surely show the same, or surely do not.

Ahn and Kwak, Learning Pixel-level Semantic Affinity with Image-level Supervision, CVPR 2018. The background's score
$M_{bg} = (1 - \max_c M_c)^\alpha$ is high everywhere for a low $\alpha$: what is object even then, behind a dense CRF,
surely is. For a high $\alpha$ it is low everywhere: what is background even then surely is. Nothing is known of the
rest. $W^*_{ij}$ of two near cells is 1 where both are known to be the same, 0 where they are known to differ; the other
pairs count nowhere.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from wsl_core.data.base import IGNORE
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import half_plane_offsets, valid_pairs
from wsl_core.refine.crf import CRFParameters, dense_crf_many

__all__ = ["PairLabels", "affinity_labels", "confident_labels", "crf_with_background"]

NO_SCORE = 1e-5  # the released code's: below it in all labels lies padding


def crf_with_background(
    images: Iterable[Float[Tensor, "3 _ _"]],
    maps: Iterable[Float[Tensor, "K _ _"]],
    labels: Iterable[Float[Tensor, " K"]],
    alpha: float,
    workers: int = 0,
    backend: str = "auto",
    parameters: str | CRFParameters = "affinitynet",
) -> Iterator[Float[Tensor, "K1 _ _"]]:
    r"""Maps beside a background of $(1 - \max_c M_c)^\alpha$, refined by a dense CRF: one image after the other.

    As in the released code, the CRF knows only the background and the classes of the image: it has fewer labels to
    weigh, and the others get 0. The scores of a pixel are divided by their sum: to the CRF only their ratios matter.

    Args:
        images: RGB in [0, 1], of any sizes.
        maps: of K classes, of the size of their image, in [0, 1]: CAMs divided by their maximum.
        labels: multi-hot.
        alpha: $\alpha \ge 0$. 4 for confident objects; for confident background 24 in the paper's results, 32 by
            default in the code that was released later.
        workers, backend, parameters: as of :func:`wsl_core.refine.dense_crf_many`.

    Yields:
        Probabilities of the background and the K classes, (K + 1, H, W), which sum to 1.

    Raises:
        UsageError: ``alpha`` is out of range, or sizes differ.
        DataError: a map has NaN or values outside [0, 1].

    >>> image, cams = torch.rand(3, 4, 5), torch.full((2, 4, 5), 0.9)
    >>> refined = next(crf_with_background([image], [cams], [torch.tensor([0.0, 1.0])], alpha=4))
    >>> refined.shape, refined.argmax(dim=0).unique().tolist()  # the second class, and nothing of the first
    (torch.Size([3, 4, 5]), [2])
    """
    if not 0 <= alpha < float("inf"):
        raise UsageError(f"alpha={alpha}: expected a finite number, at least 0.")
    waiting: deque[Tensor] = deque()  # of the images on their way through the CRF, which labels take part

    def probabilities() -> Iterator[Tensor]:
        for scores, present in zip(maps, labels, strict=True):
            _check_maps(scores, present)
            shown = scores.detach() * (present > 0)[:, None, None]
            background = (1 - shown.amax(dim=0, keepdim=True)).pow(alpha)
            taking_part = torch.cat([present.new_ones(1), present]) > 0
            waiting.append(taking_part)
            chosen = torch.cat([background, shown])[taking_part]
            yield chosen / chosen.sum(dim=0)

    for refined in dense_crf_many(images, probabilities(), workers, backend, parameters):
        taking_part = waiting.popleft()
        every = refined.new_zeros(len(taking_part), *refined.shape[1:])
        every[taking_part] = refined
        yield every


def confident_labels(
    low: Float[Tensor, "*batch L H W"], high: Float[Tensor, "*batch L H W"], cell: int = 1
) -> Int[Tensor, "*batch h w"]:
    r"""What is surely a class, what is surely background (0), and 255 for the rest.

    A class where it is best under the low $\alpha$; background where this is best under the high one. Where both hold,
    background wins, as in the released code. Where no label has a score, as in padding, nothing is known.

    Args:
        low: probabilities of the background and the classes under the low $\alpha$, as :func:`crf_with_background`
            gives them.
        high: those under the high $\alpha$.
        cell: side of a cell in pixels. The released code averages the probabilities over cells of 8 x 8 and then takes
            the best. Cells at the lower and right edge may be smaller.

    Raises:
        UsageError: ``low`` and ``high`` differ in size, or ``cell`` is below 1.
        DataError: a probability is NaN or negative.

    >>> low = torch.tensor([[0.9, 0.6, 0.3], [0.1, 0.4, 0.7]])[:, None]
    >>> high = torch.tensor([[0.8, 0.3, 0.1], [0.2, 0.7, 0.9]])[:, None]
    >>> confident_labels(low, high).tolist()
    [[0, 255, 1]]
    """
    if low.shape != high.shape or 0 in low.shape:
        raise UsageError(
            f"low {tuple(low.shape)} and high {tuple(high.shape)}: expected (..., L, H, W), the same for both, with at "
            "least one label and pixel."
        )
    if cell < 1:
        raise UsageError(f"cell={cell}: expected a side of at least 1 pixel.")
    for name, given in (("low", low), ("high", high)):
        if not (given >= 0).all():
            raise DataError(f"{name}: found NaN or negative values; expected probabilities.")
    low, high = (_cell_means(given, cell) for given in (low, high))
    best = low.argmax(dim=-3)
    labels = best.masked_fill(best == 0, IGNORE).masked_fill(high.argmax(dim=-3) == 0, 0)
    scored = torch.maximum(low, high).amax(dim=-3) >= NO_SCORE
    return labels.masked_fill(~scored, IGNORE)


class PairLabels(NamedTuple):
    r"""Three sets of pairs, (B, O, h, w) as the values of an :class:`wsl_core.ops.Affinity`; no pair is in two of them.

    A set without a pair is ``False`` everywhere; a mean over it has to be defined where it is taken.

    >>> labels = affinity_labels(torch.tensor([[[0, 0, 1, 1, 255]]]), radius=2)
    >>> [int(pairs.sum()) for pairs in labels]
    [1, 1, 1]
    """

    foreground: Bool[Tensor, "B O h w"]  # both of the same class, $\mathcal P^+_{fg}$
    background: Bool[Tensor, "B O h w"]  # both background, $\mathcal P^+_{bg}$
    negative: Bool[Tensor, "B O h w"]  # of different labels, $\mathcal P^-$


def affinity_labels(labels: Int[Tensor, "B h w"], radius: int = 5, official: bool = False) -> PairLabels:
    """All pairs of cells nearer than ``radius``, by what is known of them. A pair with a 255 is in none of the sets.

    Args:
        labels: of cells: 0 background, k + 1 class k, 255 not known. As :func:`confident_labels` gives them.
        radius: see :func:`wsl_core.ops.half_plane_offsets`, whose order the pairs have.
        official: see :func:`wsl_core.ops.valid_pairs`.

    Raises:
        UsageError: ``radius`` is below 2.
        DataError: a label is outside 0, ..., 255.

    >>> foreground, background, negative = affinity_labels(torch.tensor([[[0, 0, 1, 255]]]), radius=3)
    >>> half_plane_offsets(3)[:2].tolist(), background[0, :2, 0].int().tolist(), negative[0, :2, 0].int().tolist()
    ([[0, 1], [0, 2]], [[1, 0, 0, 0], [0, 0, 0, 0]], [[0, 1, 0, 0], [1, 0, 0, 0]])
    """
    if ((labels < 0) | (labels > IGNORE)).any():
        raise DataError(
            f"labels: found values from {int(labels.min())} to {int(labels.max())}; expected 0 for background, 1 and "
            f"more for classes, {IGNORE} for what is not known."
        )
    offsets = half_plane_offsets(radius).to(labels.device)
    here = labels[:, None]
    # What rolls over an edge belongs to no valid pair.
    there = torch.stack([labels.roll((-dy, -dx), dims=(-2, -1)) for dy, dx in offsets.tolist()], dim=1)
    known = valid_pairs(offsets, (labels.shape[1], labels.shape[2]), official) & (here != IGNORE) & (there != IGNORE)
    same = known & (here == there)
    return PairLabels(foreground=same & (here > 0), background=same & (here == 0), negative=known & (here != there))


def _cell_means(probabilities: Float[Tensor, "*batch L H W"], cell: int) -> Float[Tensor, "*batch L h w"]:
    stack = probabilities.reshape(-1, 1, *probabilities.shape[-2:])
    pooled = avg_pool2d(stack, cell, ceil_mode=True)
    return pooled.view(*probabilities.shape[:-2], *pooled.shape[-2:])


def _check_maps(maps: Tensor, labels: Tensor) -> None:
    if len(labels) != len(maps) or len(maps) == 0:
        raise UsageError(f"labels ({len(labels)},) and maps {tuple(maps.shape)}: expected one map for each class.")
    if not ((maps >= 0) & (maps <= 1)).all():
        raise DataError(
            "maps: found NaN or values outside [0, 1]; expected maps divided by their maximum, as normalize(maps, "
            "how='max') gives them."
        )
