r"""Chapter 7: what the AffinityNet paper claims, measured on the synthetic zoo, whose parts all have a texture.

All networks of a random seed learn from the maps of one classifier and begin with its trunk. Every AffinityNet differs
from the full one by one choice; every segmentation network by the masks that it learns from. What the chapter measures
live is measured here by the same functions. The labels of an image are given, as where pseudo-labels are made, but for
segmentation networks, which see the image alone.

Whatever has a number to choose gets it on val, by one rule: of a short list, the setting with the highest mIoU, of
equal ones the first. Walks along any affinities choose from the same list. Test is only read off.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.data import Dataset, Subset
from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import SegmentationEvaluator
from wsl_core.ops import Affinity, Grid, half_plane_offsets, resize_maps, valid_pairs
from wsl_core.papers.affinitynet import AffinityNet, pair_distances
from wsl_core.recipes import Recipe, get_recipe
from wsl_core.refine import PairLabels, affinity_labels, crf_with_background, dense_crf, random_walk
from wsl_core.segmentation import IGNORE, constant_background, labels_of_cells, with_background
from wsl_core.training import open_split
from wsl_core.training.stages import (
    Marked,
    Refinement,
    confident_masks,
    learn_from,
    mark,
    pseudo_labels,
    segmentation_scores,
)

__all__ = [
    "EXPERIMENTS",
    "NETWORKS",
    "Setting",
    "Split",
    "best_of",
    "by_maps",
    "confident_numbers",
    "forced_masks",
    "label_quality",
    "learnt",
    "masks_of",
    "open_marked",
    "random_features",
    "rgb_affinity",
    "score",
    "segmenter",
    "sweep",
    "tuned_walks",
    "walk",
]

CELL = 4  # pixels a side: of the small AffinityNet
RADIUS = 5
SCORES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # of a constant background
ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0, 16.0)  # below the paper's 1, too: maps of this world spread beyond the objects
CONFIDENT = ((4.0, 24.0), (2.0, 12.0), (1.0, 6.0), (0.5, 3.0))  # the paper's two alphas, and weaker ones in proportion
BETAS = (2.0, 8.0, 32.0)
STEPS = 256
SWEPT_BETAS, SWEPT_STEPS = (0.0, 1.0, 2.0, 8.0, 32.0), (0, 4, 16, 64, 256)
RADII = (2, 3, 5, 8, 12)
LEARNT_ON, CHOSEN_ON, SCORED_ON = 400, 32, 100  # images
SHORT = {"steps": 150, "batch_size": 8}  # of each AffinityNet
SHORTER = {"steps": 200}  # of each segmentation network

FULL, UNCERTAIN = "AffinityNet", "uncertain positions used"
NETWORKS: dict[str, dict[str, Any]] = {  # name -> what it changes of the model
    FULL: {},
    "channel mean": {"distance": "mean"},
    "one mean over all pairs": {"balance": "pairs"},
    "without the pairs at the border": {"pairs": "official"},
    "radius 3": {"radius": 3},
    UNCERTAIN: {},
}
RANDOM, RGB = "random features", "raw RGB"

MIOU = "mIoU over the background and all classes"
BOUNDARY_IOU = "Boundary IoU over the background and all classes"
RIGHT = "share of affinity labels that are right"
KNOWN = "share of the pixels of which something is surely known"

CONSTANT, POWER, CRF = "CAM, constant background", "CAM, power background", "CAM with CRF"
WALK, WALK_CRF = "walk", "walk with CRF"
SEGMENTED = "segmentation network"
FROM_WALK, FROM_CAM, FROM_TRUTH = "pseudo-labels of the walk", "pseudo-labels of CAM with CRF", "true masks"


# Scores ------------------------------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Images with their labels and maps, and their true masks."""

    marked: list[Marked]
    truths: list[Int[Tensor, "_ _"]]
    classes: tuple[str, ...]


def open_marked(classifier: nn.Module, dataset: Dataset) -> Split:
    """The maps of every image of a data set with masks, kept.

    >>> from wsl_core.data import load_dataset
    >>> from wsl_core.papers.cam import CAM
    >>> split = open_marked(CAM(num_classes=8, width=4), load_dataset("synthetic", "val", size=32, length=2))
    >>> len(split.marked), split.truths[0].shape
    (2, torch.Size([32, 32]))
    """
    return Split(list(mark(classifier, dataset)), [sample["mask"] for sample in dataset], dataset.classes)


def score(masks: Iterable[Int[Tensor, "_ _"]], split: Split) -> dict[str, Any]:
    """What masks of a split score, pooled over all of its pixels.

    >>> truth = torch.tensor([[0, 1]])
    >>> one = Marked(torch.rand(3, 1, 2), torch.ones(1), torch.rand(1, 1, 2))
    >>> score([truth], Split([one], [truth], ("cat",)))["miou"]
    1.0
    """
    evaluator = SegmentationEvaluator(len(split.classes))
    for mask, truth in zip(masks, split.truths, strict=True):
        evaluator.update(mask, truth)
    return evaluator.compute()


Masks = Callable[[Split], Iterable[Int[Tensor, "_ _"]]]


def best_of(settings: Sequence[Any], masks: Callable[[Any], Masks], val: Split) -> Any:
    """The rule by which every number is chosen: the highest mIoU on val, of equal ones the first.

    Args:
        masks: setting -> the masks that it makes of a split.

    Raises:
        UsageError: there is no setting.
    """
    if not settings:
        raise UsageError("settings is empty; expected one at least.")
    return max(settings, key=lambda setting: score(masks(setting)(val), val)["miou"])  # max keeps the first


# Without a walk ----------------------------------------------------------------------------------------------------


def by_maps(kind: str) -> Callable[[float], Masks]:
    """Masks from maps alone, by their one number: a constant background's score, or a background's alpha.

    Args:
        kind: ``CONSTANT``, ``POWER`` or ``CRF``.

    >>> one = Marked(torch.rand(3, 1, 2), torch.ones(1), torch.tensor([[[0.3, 1.0]]]))
    >>> split = Split([one], [torch.tensor([[0, 1]])], ("cat",))
    >>> [mask.tolist() for mask in by_maps(CONSTANT)(0.4)(split)]
    [[[0, 1]]]
    """

    def constant(one: Marked, number: float) -> Tensor:
        return constant_background(one.maps, number)

    def power(one: Marked, number: float) -> Tensor:
        return with_background(one.maps, number)

    def refined(one: Marked, number: float) -> Tensor:
        return next(crf_with_background([one.image], [one.maps], [one.labels], number))

    scores = {CONSTANT: constant, POWER: power, CRF: refined}[kind]
    return lambda number: lambda split: (scores(one, number).argmax(dim=0) for one in split.marked)


def forced_masks(marked: Iterable[Marked], alpha: float) -> list[Int[Tensor, "_ _"]]:
    """The control for the neutral pixels: every pixel takes a label, sure or not, behind a CRF."""
    return list(by_maps(CRF)(alpha)(Split(list(marked), [], ())))


# Walks -------------------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """What a walk chooses on val."""

    alpha: float
    beta: float


SETTINGS = tuple(Setting(alpha, beta) for beta, alpha in product(BETAS, ALPHAS))

AffinityOf = Callable[[Float[Tensor, "B 3 H W"]], Affinity]


@torch.no_grad()
def rgb_affinity(images: Float[Tensor, "B 3 H W"], cell: int = CELL) -> Affinity:
    """A control that has learnt nothing: the affinity of two cells is that of their mean colours.

    >>> bool((rgb_affinity(torch.full((1, 3, 16, 16), 0.5)).values.amax() == 1))
    True
    """
    cells = avg_pool2d(images, cell, ceil_mode=True)
    offsets = half_plane_offsets(RADIUS)
    valid = valid_pairs(offsets, (cells.shape[-2], cells.shape[-1]))
    return Affinity((-pair_distances(cells, offsets)).exp().masked_fill(~valid, 0), offsets, valid)


def random_features(seed: int) -> AffinityNet:
    """The control: an AffinityNet with the weights that its seed gives, trunk included.

    >>> bool((random_features(0).fusion.weight == random_features(0).fusion.weight).all())
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AffinityNet(radius=RADIUS).eval()


@torch.no_grad()
def walk(
    one: Marked, affinity: Affinity, alphas: Sequence[float], beta: float, steps: int = STEPS, cell: int = CELL
) -> dict[float, Float[Tensor, "L H W"]]:
    """Walked scores of the labels that an image may have, by alpha (equations 7.10 and 7.11).

    Each map walks by itself. So the classes' walk once, whatever background will stand beside them, and those of absent
    classes not at all. As :meth:`wsl_core.papers.affinitynet.AffinityNet.spread`, for affinities of any origin.

    Args:
        affinity: of the image's cells.
        alphas: of the backgrounds.
        beta, steps: see :func:`wsl_core.refine.random_walk`.
        cell: pixels a side of a cell.

    Raises:
        DataError: the image has no label.

    >>> one = Marked(torch.rand(3, 16, 16), torch.ones(1), torch.zeros(1, 16, 16))
    >>> {alpha: tuple(found.shape) for alpha, found in walk(one, rgb_affinity(one.image[None]), [4.0], 8).items()}
    {4.0: (2, 16, 16)}
    """
    shown = one.maps[one.labels > 0]
    if not len(shown):
        raise DataError("labels: found an image without any; expected one class at least. Leave the image out.")
    backgrounds = torch.stack([with_background(shown, alpha)[0] for alpha in alphas])
    means = avg_pool2d(torch.cat([backgrounds, shown])[None], cell, ceil_mode=True)
    walked = random_walk(means, affinity, beta, steps)
    large = resize_maps(walked, (shown.shape[-2], shown.shape[-1]), Grid(cell, cell / 2))[0]
    return {alpha: torch.cat([large[i : i + 1], large[len(alphas) :]]) for i, alpha in enumerate(alphas)}


def masks_of(
    scores: Iterable[Float[Tensor, "_ _ _"]], marked: Iterable[Marked], crf: bool = False
) -> Iterable[Int[Tensor, "_ _"]]:
    """The best label of each pixel, with or without a CRF in between.

    Args:
        scores: of each image, of the labels that it may have, as :func:`walk` gives them.
    """
    for found, one in zip(scores, marked, strict=True):
        shares = found / found.sum(dim=0)
        best = dense_crf(one.image, shares) if crf else shares
        yield one.names[best.argmax(dim=0)]


def tuned_walks(
    affinity_of: AffinityOf, val: Split, test: Split, crfs: Sequence[bool] = (False, True)
) -> dict[bool, tuple[Setting, list[Float[Tensor, "_ _ _"]]]]:
    """Without and with a CRF behind the walk: the setting that val chooses, and the test images' scores under it."""
    walked = {beta: [walk(one, affinity_of(one.image[None]), ALPHAS, beta) for one in val.marked] for beta in BETAS}

    def masks(setting: Setting, crf: bool) -> Masks:
        chosen = [found[setting.alpha] for found in walked[setting.beta]]
        return lambda split: masks_of(chosen, split.marked, crf)

    best = {crf: best_of(SETTINGS, partial(masks, crf=crf), val) for crf in crfs}
    return {crf: (setting, _walked(affinity_of, test, setting)) for crf, setting in best.items()}


def _walked(affinity_of: AffinityOf, split: Split, setting: Setting, steps: int = STEPS) -> list[Tensor]:
    alpha, beta = setting
    return [walk(one, affinity_of(one.image[None]), [alpha], beta, steps)[alpha] for one in split.marked]


def sweep(affinity_of: AffinityOf, split: Split, setting: Setting) -> dict[str, dict[str, Any]]:
    r"""Scores over $\beta$ at all steps, and over the steps t at the chosen $\beta$; no network is trained for it.

    Returns:
        By the names ``"beta 8"`` and ``"64 steps"``.
    """
    by_beta = {f"beta {beta:g}": (setting._replace(beta=beta), STEPS) for beta in SWEPT_BETAS}
    by_steps = {f"{steps} steps": (setting, steps) for steps in SWEPT_STEPS}
    return {
        name: score(masks_of(_walked(affinity_of, split, *how), split.marked), split)
        for name, how in (by_beta | by_steps).items()
    }


# What the labels are worth ------------------------------------------------------------------------------------------


def confident_numbers(val: Split) -> Refinement:
    r"""The paper's numbers with the two $\alpha$ of the confident labels that val chooses.

    They have the highest mIoU over the pixels of which they make something known; the others count nowhere.
    """

    def miou_of_known(alphas: tuple[float, float]) -> float:
        masks = list(confident_masks(val.marked, Refinement(*alphas)))
        truths = [truth.masked_fill(mask == IGNORE, IGNORE) for mask, truth in zip(masks, val.truths, strict=True)]
        known = (mask.masked_fill(mask == IGNORE, 0) for mask in masks)
        return score(known, val._replace(truths=truths))["miou"]

    return Refinement(*max(CONFIDENT, key=miou_of_known))


def label_quality(
    masks: Iterable[Int[Tensor, "_ _"]], truths: Iterable[Int[Tensor, "_ _"]], radii: Sequence[int] = RADII
) -> tuple[float, dict[int, float]]:
    """Which share of the pixels is known, and by radius which share of the affinity labels is right.

    Args:
        masks: what is surely known, 255 elsewhere.

    Raises:
        DataError: no pair is known.

    >>> truth = torch.zeros(8, 8, dtype=torch.int64)
    >>> label_quality([truth], [truth], radii=(2,))
    (1.0, {2: 1.0})
    """
    known = pixels = 0
    right, pairs = dict.fromkeys(radii, 0), dict.fromkeys(radii, 0)
    for mask, truth in zip(masks, truths, strict=True):
        known, pixels = known + int((mask != IGNORE).sum()), pixels + mask.numel()
        cells, true_cells = labels_of_cells(mask[None], CELL), labels_of_cells(truth[None], CELL)
        for radius in radii:
            given, true = affinity_labels(cells, radius), affinity_labels(true_cells, radius)
            alike, apart = _alike_and_apart(given)
            truly_alike, truly_apart = _alike_and_apart(true)
            right[radius] += int((alike & truly_alike).sum() + (apart & truly_apart).sum())
            pairs[radius] += int(((alike | apart) & (truly_alike | truly_apart)).sum())
    if not all(pairs.values()):
        raise DataError("masks: found no pair of which both cells are known; expected one at least.")
    return known / pixels, {radius: right[radius] / pairs[radius] for radius in radii}


def _alike_and_apart(labels: PairLabels) -> tuple[Tensor, Tensor]:
    return labels.foreground | labels.background, labels.negative


# The measurement ---------------------------------------------------------------------------------------------------


def learnt(
    name: str, classifier: nn.Module, dataset: Dataset, masks: Sequence[Int[Tensor, "_ _"]], seed: int
) -> AffinityNet:
    """One of ``NETWORKS``, trained on what is known of a data set."""
    recipe = get_recipe("affinitynet", "synthetic", "book").replace(model=NETWORKS[name], **SHORT)
    return learn_from(masks, dataset, classifier, recipe, seed).model.cpu().eval()


def segmenter(classifier: nn.Module, dataset: Dataset, masks: Sequence[Tensor], seed: int) -> nn.Module:
    """A segmentation network, trained on masks."""
    recipe = get_recipe("affinitynet_segmentation", "synthetic", "book").replace(**SHORTER)
    return learn_from(masks, dataset, classifier, recipe, seed).model.cpu().eval()


def measure_affinitynet(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """The pipeline stage by stage, beside the controls, and what each choice of AffinityNet is worth."""
    seed = torch.initial_seed() % 2**32  # the experiment's, which all its networks share
    classifier = models["classifier"].cpu().eval()
    marked = list(mark(classifier, data["train"]))
    val, test = (open_marked(classifier, data[split]) for split in ("val", "test"))
    numbers = confident_numbers(val)
    certain = list(confident_masks(marked, numbers))
    found: Measurement = {}
    _measure_labels(found, certain, [sample["mask"] for sample in data["train"]])
    forced = forced_masks(marked, _measure_maps(found, val, test))
    networks = {
        name: learnt(name, classifier, data["train"], forced if name == UNCERTAIN else certain, seed)
        for name in NETWORKS
    }
    affinities = {name: network.affinity for name, network in networks.items()}
    affinities |= {RANDOM: random_features(seed).affinity, RGB: rgb_affinity}
    setting = _measure_walks(found, {name: _no_gradient(one) for name, one in affinities.items()}, val, test)
    numbers = replace(numbers, alpha=setting.alpha, beta=setting.beta)
    masks = {
        FROM_WALK: list(pseudo_labels(marked, networks[FULL], numbers)),
        FROM_CAM: forced,
        FROM_TRUTH: [sample["mask"] for sample in data["train"]],
    }
    for name, own in masks.items():
        network = segmenter(classifier, data["train"], own, seed)
        for suffix, crf in (("", None), (" with CRF", "affinitynet")):
            _note(found, f"{SEGMENTED}{suffix}, {name}", segmentation_scores(network, data["test"], crf=crf))
    return found


def _no_gradient(affinity_of: AffinityOf) -> AffinityOf:
    return torch.no_grad()(affinity_of)


def _measure_labels(found: Measurement, certain: Sequence[Tensor], truths: Sequence[Tensor]) -> None:
    known, right = label_quality(certain, truths)
    found[KNOWN] = {"confident labels": known}
    found[RIGHT] = {f"radius {radius}": share for radius, share in right.items()}


def _measure_maps(found: Measurement, val: Split, test: Split) -> float:
    """Masks without a walk; returns the alpha that val chooses for a CRF alone."""
    for kind, numbers in ((CONSTANT, SCORES), (POWER, ALPHAS), (CRF, ALPHAS)):
        best = best_of(numbers, by_maps(kind), val)
        _note(found, kind, score(by_maps(kind)(best)(test), test))
    return best


def _measure_walks(found: Measurement, affinities: Mapping[str, AffinityOf], val: Split, test: Split) -> Setting:
    """Every walk at its own setting; returns that of the full network behind a CRF, whose masks will be learnt from."""
    chosen: dict[tuple[str, bool], Setting] = {}
    for name, affinity_of in affinities.items():
        crfs = (False, True) if name in (FULL, RANDOM, RGB) else (False,)
        for crf, (setting, scores) in tuned_walks(affinity_of, val, test, crfs).items():
            chosen[name, crf] = setting
            kind = WALK_CRF if crf else WALK
            _note(found, f"{kind}, {name}", score(masks_of(scores, test.marked, crf), test))
    for how, scored in sweep(affinities[FULL], test, chosen[FULL, False]).items():
        _note(found, f"{WALK}, {how}", scored)
    return chosen[FULL, True]


def _note(found: Measurement, variant: str, scores: Mapping[str, Any]) -> None:
    for metric, key in ((MIOU, "miou"), (BOUNDARY_IOU, "boundary_iou")):
        found.setdefault(metric, {})[variant] = scores[key]


def _some(dataset: Dataset, count: int) -> Dataset:
    """So many images, evenly over the data set."""
    count = min(count, len(dataset))
    return Subset(dataset, [i * len(dataset) // count for i in range(count)])


def zoo_data(recipe: Recipe) -> dict[str, Dataset]:
    """A part of train, whose masks are made and learnt from; parts of val and test."""
    counts = {"train": LEARNT_ON, "val": CHOSEN_ON, "test": SCORED_ON}
    return {split: _some(open_split(recipe, split), count) for split, count in counts.items()}


EXPERIMENTS = (
    Experiment(
        name="affinitynet-zoo",
        paper="affinitynet_cam",
        dataset="synthetic",
        scope="synthetic",
        variants={"classifier": {}},
        data=zoo_data,
        measure=measure_affinitynet,
    ),
)
