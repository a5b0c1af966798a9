"""Small tensor functions that several papers share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import ten_crop

from wsl_core.errors import DataError, UsageError

__all__ = [
    "ERASINGS", "POOLINGS", "Affinity", "Descriptors", "Grid", "Pooling", "classes_asked", "classification_loss",
    "erase", "global_pool", "half_plane_offsets", "mean_over", "normalize", "resize_maps", "ten_crop_scores",
    "valid_pairs",
]  # fmt: skip

POSITIONS = (-2, -1)
GEM_FLOOR = 1e-6  # as in the GeM paper's code: the root has no finite gradient at zero


class Pooling(NamedTuple):
    """One way to reduce the positions of a feature map to a number."""

    pool: Callable[[Tensor, float], Tensor]  # features (B, D, h, w) and the parameter to (B, D)
    expected: str | None = None  # what the parameter is; None where the pooling takes none
    allows: Callable[[float], bool] = lambda parameter: True  # whether a value of the parameter is in its range


def _log_mean_exp(features: Float[Tensor, "B D h w"], r: float) -> Float[Tensor, "B D"]:
    top = features.detach().amax(dim=POSITIONS, keepdim=True)  # cancels out; expm1 and log1p keep the digits of small r
    return top[..., 0, 0] + (r * (features - top)).expm1().mean(dim=POSITIONS).log1p() / r  # (2.4)


def _top_mean(features: Float[Tensor, "B D h w"], q: float) -> Float[Tensor, "B D"]:
    values = features.flatten(-2)
    return values.topk(max(1, int(q * values.shape[-1] + 0.5)), dim=-1).values.mean(dim=-1)  # (2.5)


def _generalized_mean(features: Float[Tensor, "B D h w"], p: float) -> Float[Tensor, "B D"]:
    features = features.clamp(min=GEM_FLOOR)
    top = features.detach().amax(dim=POSITIONS, keepdim=True)  # cancels out; without it a high power overflows
    return top[..., 0, 0] * (features / top).pow(p).mean(dim=POSITIONS).pow(1 / p)  # (2.6)


POOLINGS = {
    "gap": Pooling(lambda features, _: features.mean(dim=POSITIONS)),  # (1.1), (2.1)
    "gmp": Pooling(lambda features, _: features.amax(dim=POSITIONS)),  # (1.8), (2.1)
    "lse": Pooling(_log_mean_exp, "a sharpness r > 0", lambda r: 0 < r < float("inf")),
    "topk": Pooling(_top_mean, "a share q of the positions, 0 < q <= 1", lambda q: 0 < q <= 1),
    "gem": Pooling(_generalized_mean, "an exponent p >= 1", lambda p: 1 <= p < float("inf")),
}


def global_pool(
    features: Float[Tensor, "B D h w"], how: str = "gap", parameter: float | None = None
) -> Float[Tensor, "B D"]:
    r"""Reduce every feature map to one number, $F_k$: the mean, the maximum, or something between.

    - ``"gap"``, the mean: $\frac{1}{hw}\sum_{x,y} f_k(x,y)$. Its gradient is $1/hw$ everywhere.
    - ``"gmp"``, the maximum: $\max_{x,y} f_k(x,y)$. All of its gradient is at the maximum.
    - ``"lse"``, log-sum-exp: $\frac 1r\log\frac 1{hw}\sum_{x,y} e^{r f_k(x,y)}$. GAP for $r\to 0$, GMP for
      $r\to\infty$. Its gradient is a softmax of $r f_k$.
    - ``"topk"``, the mean of the highest share $q$ of the positions. GAP for $q=1$, GMP for a single position. Its
      gradient is the same at these positions.
    - ``"gem"``, the generalised mean: $(\frac 1{hw}\sum_{x,y} f_k(x,y)^p)^{1/p}$. GAP for $p=1$, GMP for
      $p\to\infty$. Its gradient grows as $f_k^{p-1}$.

    The CAM paper writes GAP as a sum; the layer computes the mean, and the constant is absorbed in the weights.
    Log-sum-exp is from Pinheiro and Collobert (CVPR 2015). GeM, the generalised mean of Radenovic, Tolias and Chum
    (TPAMI 2019), needs features that are not negative, as behind a ReLU: like theirs, it lifts every value to at least
    1e-6. Where several positions share the maximum, GMP divides its gradient among them. A share counts whole
    positions, at least one.

    Args:
        features: the last feature maps.
        how: one of ``POOLINGS``.
        parameter: r, q or p; ``None`` for GAP and GMP, which have none.

    Raises:
        UsageError: ``how`` is not one of ``POOLINGS``, or ``parameter`` does not fit it.

    >>> import torch
    >>> features = torch.tensor([[[[0.0, 4.0], [0.0, 0.0]]]])
    >>> global_pool(features).item(), global_pool(features, "topk", 0.5).item(), global_pool(features, "gmp").item()
    (1.0, 2.0, 4.0)
    """
    if how not in POOLINGS:
        raise UsageError(f"pooling={how!r} is unknown; expected one of {', '.join(POOLINGS)}.")
    pool, expected, allows = POOLINGS[how]
    if expected is None and parameter is not None:
        raise UsageError(f"pooling_parameter={parameter!r}: pooling {how!r} takes none; leave it out.")
    if expected is not None and not (type(parameter) in (int, float) and allows(parameter)):
        raise UsageError(f"pooling_parameter={parameter!r}: pooling {how!r} expects {expected}.")
    wide = features.to(torch.promote_types(features.dtype, torch.float32))  # 16 bits would lose a mean near -1 in LSE
    return pool(wide, parameter).to(features.dtype)


def classification_loss(logits: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], task: str) -> Float[Tensor, ""]:
    """Cross-entropy for one label an image, the multi-label soft-margin loss for several.

    Args:
        labels: multi-hot, 0 or 1.
        task: ``"single"`` label an image or ``"multi"``.

    Raises:
        UsageError: ``labels`` have another shape than ``logits``, or the task is unknown.

    >>> classification_loss(torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 0]]), "single").item()  # log 4
    1.3862943649291992
    """
    if labels.shape != logits.shape:
        raise UsageError(f"labels: found shape {tuple(labels.shape)}; expected multi-hot {tuple(logits.shape)}.")
    if task not in ("single", "multi"):
        raise UsageError(f"task={task!r} is unknown; expected 'single' or 'multi'.")
    if task == "single":
        return F.cross_entropy(logits, labels.argmax(dim=1))
    return F.multilabel_soft_margin_loss(logits, labels)


def classes_asked(labels: Tensor | None, maps: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K"]:
    """Which classes' maps somebody asks for: those of the labels, or all without labels; of the maps' type.

    Raises:
        UsageError: ``labels`` are not (B, K). A row for all images, or a column for all classes, is not spread.

    >>> classes_asked(None, torch.zeros(1, 2, 3, 3)).tolist()
    [[1.0, 1.0]]
    """
    if labels is None:
        return maps.new_ones(maps.shape[:2])
    if labels.shape != maps.shape[:2]:
        raise UsageError(f"labels: found shape {tuple(labels.shape)}; expected multi-hot {tuple(maps.shape[:2])}.")
    return labels.to(maps)


def normalize(
    maps: Float[Tensor, "*batch h w"], how: str = "minmax", checked: bool = True
) -> Float[Tensor, "*batch h w"]:
    r"""Bring every map to [0, 1], each by itself.

    ``"minmax"``: $(M - \min M)/(\max M - \min M)$; the lowest value becomes 0, whatever its sign.
    ``"max"``: $\max(M, 0)/\max M$; 0 keeps its meaning, no evidence. The CAM paper's "20 % of the maximum" is this one.
    A constant map says nothing about place: it becomes zeros. So does, under ``"max"``, a map without a positive value.

    Args:
        checked: ``False`` within a training step, where a look at every map would make the GPU wait for the host. NaN
            stays NaN then, and the training loop finds it in the loss.

    Raises:
        DataError: a value is NaN or infinite, or the range of a map overflows its float type.
        UsageError: ``how`` is neither ``"minmax"`` nor ``"max"``.

    >>> import torch
    >>> normalize(torch.tensor([[-1.0, 0.0, 3.0]])).tolist()
    [[0.0, 0.25, 1.0]]
    >>> normalize(torch.tensor([[-1.0, 0.0, 3.0]]), how="max").tolist()
    [[0.0, 0.0, 1.0]]
    """
    if how not in ("minmax", "max"):
        raise UsageError(f"how={how!r} is unknown; expected 'minmax' or 'max'.")
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    if checked and not span.isfinite().all():  # a NaN or an infinity anywhere reaches the span
        raise DataError(
            f"maps {tuple(maps.shape)}: found NaN, infinity or an overflowing range; expected finite scores. "
            "Look for a diverged network or a division by zero before this call."
        )
    if how == "max":
        maps, low, top = maps.clamp(min=0), 0.0, high  # (1.10)
    else:
        top = span  # (1.9)
    flat = (span == 0) | (top <= 0)
    return ((maps - low) / top.masked_fill(flat, 1)).masked_fill(flat, 0)


ERASINGS = ("strict", "inclusive", "soft")


def erase(
    features: Float[Tensor, "B D h w"],
    maps: Float[Tensor, "B h w"],
    threshold: float,
    how: str = "strict",
    slope: float = 20.0,
) -> Float[Tensor, "B D h w"]:
    r"""Take out the positions that a normalised map lights up, in all channels at once.

    - ``"strict"``: positions with $\bar M > \tau_e$ become exactly 0; the others stay. The ACoL paper's.
    - ``"inclusive"``: positions with $\bar M \ge \tau_e$, as the released code has it.
    - ``"soft"``: every position is multiplied by $1/(1 + e^{\kappa(\bar M - \tau_e)})$, a half at the threshold.

    A threshold above 1 takes out nothing, one below 0 everything; with ``"soft"`` both hold only roughly. With hard
    erasing no gradient reaches the map, which is compared and not used.

    Args:
        features: of images or of a network.
        maps: in [0, 1], as :func:`normalize` makes them. A flat map is zero there, so nothing of it is taken out by a
            threshold above 0.
        threshold: $\tau_e$.
        slope: $\kappa > 0$ of the soft mask.

    Raises:
        UsageError: ``how`` is not one of ``ERASINGS``, or ``slope`` is not a finite number above 0.

    >>> features, maps = torch.ones(1, 2, 1, 3), torch.tensor([[[0.0, 0.6, 1.0]]])
    >>> erase(features, maps, 0.6)[0, 0].tolist(), erase(features, maps, 0.6, "inclusive")[0, 0].tolist()
    ([[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    """
    if how not in ERASINGS:
        raise UsageError(f"how={how!r} is unknown; expected one of {', '.join(ERASINGS)}.")
    if not 0 < slope < float("inf"):
        raise UsageError(f"slope={slope}: expected a finite number above 0.")
    maps = maps[:, None]
    if how == "soft":
        return features * (slope * (threshold - maps)).sigmoid().to(features.dtype)  # (3.9)
    return features.masked_fill(maps > threshold if how == "strict" else maps >= threshold, 0)  # (3.5), (3.6)


def ten_crop_scores(
    model: Callable[[Tensor], Tensor], images: Float[Tensor, "B 3 H W"], size: int, average: str = "logits"
) -> Float[Tensor, "B K"]:
    """Class scores from ten views: the four corners and the centre, and their mirror images.

    Args:
        model: ``model(images)`` gives logits (B, K); it sees 10 B images at once.
        images: RGB in [0, 1], no side shorter than ``size``.
        size: side of the square crops in pixels.
        average: of the ``"logits"``, as the released ACoL code does, or of the ``"probabilities"`` after a softmax.

    Raises:
        UsageError: ``average`` is unknown, or a crop does not fit into the images.

    >>> views = torch.arange(36.0).view(1, 1, 6, 6).expand(1, 3, 6, 6)
    >>> ten_crop_scores(lambda crops: crops.mean(dim=(2, 3)), views, 4)[0].tolist()  # the centre of mass stays
    [17.5, 17.5, 17.5]
    """
    if average not in ("logits", "probabilities"):
        raise UsageError(f"average={average!r} is unknown; expected 'logits' or 'probabilities'.")
    if not 1 <= size <= min(images.shape[-2:]):
        raise UsageError(f"size={size}: a square crop has to fit into images of {tuple(images.shape[-2:])} pixels.")
    views = torch.cat(ten_crop(images, size))
    scores = model(views)
    scores = scores.softmax(dim=1) if average == "probabilities" else scores
    return scores.unflatten(0, (10, len(images))).mean(dim=0)


class Grid(NamedTuple):
    """Where the cells of a feature map lie on the image: cell i is centred ``first + i * stride`` pixels from its edge.

    Cells that tile the image evenly have ``first = stride / 2``. Layers with odd kernels and a stride do not tile: they
    look at the upper left pixel of their cell. ``Backbone.grid`` says where the cells of a network are.
    """

    stride: float
    first: float


def resize_maps(
    maps: Float[Tensor, "B K h w"], size: tuple[int, int], grid: Grid | None = None
) -> Float[Tensor, "B K H W"]:
    """Enlarge maps to ``size`` (height, width) by bilinear interpolation between cell centres.

    Outside the outermost centres the nearest value holds. Linear in the pixels of the result, of which a second copy is
    held meanwhile.

    Args:
        maps: one value a cell.
        size: with a ``grid``, that of the image that the network has seen.
        grid: where the cells are centred; ``None`` where they tile the image evenly.

    Raises:
        DataError: the maps are whole numbers, or have no cell.

    >>> import torch
    >>> resize_maps(torch.tensor([[[[0.0, 1.0]]]]), (1, 4)).tolist()
    [[[[0.0, 0.25, 0.75, 1.0]]]]
    >>> resize_maps(torch.tensor([[[[0.0, 1.0]]]]), (1, 4), Grid(stride=2, first=0.5)).tolist()
    [[[[0.0, 0.5, 1.0, 1.0]]]]
    """
    if not maps.is_floating_point() or 0 in maps.shape[-2:]:
        raise DataError(f"maps {tuple(maps.shape)}, {maps.dtype}: expected floating-point maps with at least one cell.")
    for dim, pixels in zip((-2, -1), size, strict=True):
        cells = maps.shape[dim]
        stride, first = grid or Grid(pixels / cells, pixels / cells / 2)
        centres = torch.arange(pixels, device=maps.device, dtype=torch.float64) + 0.5
        position = ((centres - first) / stride).clamp(0, cells - 1)  # of each pixel, in cells
        left = position.long().clamp(max=max(cells - 2, 0))
        right = (left + 1).clamp(max=cells - 1)
        share = (position - left).to(maps.dtype)
        if dim == -2:
            share = share[:, None]
        maps = maps.index_select(dim, left).lerp_(maps.index_select(dim, right), share)
    return maps


class Descriptors(NamedTuple):
    """What a network says about every cell of an image, to be matched with the cells of another.

    The ``grid`` of the model that made them says where the cells lie on the image.

    >>> Descriptors(torch.zeros(1, 5, 3, 4)).sigma is None
    True
    """

    features: Float[Tensor, "B D h w"]
    sigma: Float[Tensor, "B 1 h w"] | None = None  # predicted uncertainty of each, where the network has one


class Affinity(NamedTuple):
    r"""How alike near cells are: a symmetric matrix $W$ over the cells of each image, never written out.

    Each pair of cells stands once. ``values[b, o, y, x]`` is $W_{ij}$, in [0, 1], of cell (y, x) and the one at
    (y, x) + ``offsets[o]``. On the diagonal $W$ is 1, for pairs that are not listed or not valid it is 0. See
    :func:`half_plane_offsets` and :func:`valid_pairs`.

    >>> offsets = half_plane_offsets(radius=2)
    >>> alike = Affinity(torch.ones(1, len(offsets), 2, 3), offsets, valid_pairs(offsets, (2, 3)))
    >>> int(alike.valid.sum())  # pairs of neighbours in 2 x 3 cells: side by side, diagonal, one above the other
    11
    """

    values: Float[Tensor, "B O h w"]
    offsets: Int[Tensor, "O 2"]  # dy, dx: of two opposite ones only one
    valid: Bool[Tensor, "O h w"]  # whether the pair counts; never where the second cell lies outside


def half_plane_offsets(radius: int) -> Int[Tensor, "O 2"]:
    r"""(dy, dx) of the neighbours nearer than ``radius`` cells: $dy^2 + dx^2 < r^2$, strictly.

    Of two opposite offsets, the one that leads down, or to the right within the row. So every pair of cells is met
    once. In the order of AffinityNet's released code, row by row.

    Raises:
        UsageError: ``radius`` is below 2, within which a cell has no neighbour.

    >>> half_plane_offsets(2).tolist()
    [[0, 1], [1, -1], [1, 0], [1, 1]]
    >>> len(half_plane_offsets(5))
    34
    """
    if radius < 2:
        raise UsageError(f"radius={radius}: expected at least 2; no other cell is nearer than 1.")
    reach = torch.arange(1 - radius, radius)
    dy, dx = torch.meshgrid(reach, reach, indexing="ij")
    chosen = (dy.square() + dx.square() < radius**2) & ((dy > 0) | (dy == 0) & (dx > 0))
    return torch.stack([dy[chosen], dx[chosen]], dim=1)


def valid_pairs(offsets: Int[Tensor, "O 2"], size: tuple[int, int], official: bool = False) -> Bool[Tensor, "O h w"]:
    """Whether the cell at (y, x) + ``offsets[o]`` lies on the map: one ``True`` for every pair.

    Args:
        offsets: as :func:`half_plane_offsets` gives them.
        size: (height, width) in cells.
        official: only what AffinityNet's released code takes: pairs whose first cell has all of its possible
            neighbours on the map. It loses those near the left, right and lower edges.

    >>> valid_pairs(torch.tensor([[0, 1]]), (2, 3)).tolist()
    [[[True, True, False], [True, True, False]]]
    >>> offsets = half_plane_offsets(5)
    >>> every, taken = (int(valid_pairs(offsets, (56, 56), official).sum()) for official in (False, True))
    >>> every, taken
    (99128, 84864)
    """
    height, width = size
    rows = torch.arange(height, device=offsets.device)[:, None]
    columns = torch.arange(width, device=offsets.device)
    dy, dx = offsets[:, :, None, None].unbind(dim=1)
    valid = (rows + dy >= 0) & (rows + dy < height) & (columns + dx >= 0) & (columns + dx < width)
    if official:
        reach = offsets.abs().max()
        valid = valid & (rows < height - reach) & (columns >= reach) & (columns < width - reach)
    return valid


def mean_over(values: Float[Tensor, "*shape"], chosen: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean of the chosen values, and 0 where none is chosen: what is left out may be anything but has no gradient.

    Over several processes the count is that of all, so that their gradients' mean is the gradient of the one mean.

    >>> values = torch.tensor([1.0, 3.0, float("inf")])
    >>> mean_over(values, values < 9).item(), mean_over(values, values < 0).item()
    (2.0, 0.0)
    """
    count = chosen.sum().to(values.dtype)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return torch.where(chosen, values, 0).sum() / count.masked_fill(count == 0, 1)
