r"""Chapter 6: what the introspection paper claims, measured on the synthetic world of families.

All networks of a random seed begin with the same weights and differ by one choice each. What they are compared with,
AnchorNet's channels and the features of a classifier, is trained for the same seed. Descriptors of networks are read at
places four pixels apart, interpolated as in the training. What the chapter measures live is measured here by the same
functions. Labelled images, and which part a channel stands for, come from val; test is only read off.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from wsl_core.claims.experiments.anchornet import (
    ALPHAS,
    MATCHERS,
    PCK,
    PER_CLASS,
    SAME_PART,
    Describe,
    Fired,
    anchors,
    best_of_descriptor,
    chosen_pairs,
    describers,
    fire,
    match_all,
    of_random_cells,
    parts_at_cells,
    with_backgrounds,
)
from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.claims.experiments.deep_features import batches
from wsl_core.claims.experiments.gap_vs_gmp import SHORT
from wsl_core.data import Dataset, InMemory, Sample
from wsl_core.data.cropped import Cropped
from wsl_core.data.intervened import Intervened
from wsl_core.data.pairs import Pair
from wsl_core.data.warps import Views, correspond, two_views
from wsl_core.errors import DataError, UsageError
from wsl_core.localize import foreground_boxes
from wsl_core.matching import DescriptorMap, cell_centres, match_regions, nearest_neighbours, sliding_boxes
from wsl_core.metrics import region_matching
from wsl_core.metrics.matching import active_regions, true_regions
from wsl_core.ops import Descriptors, Grid
from wsl_core.papers.anchornet import AnchorNet
from wsl_core.papers.cam import CAM
from wsl_core.papers.introspection import Introspection, sample_at
from wsl_core.recipes import Recipe, get_recipe
from wsl_core.training import fit, open_split

__all__ = [
    "EXPERIMENTS",
    "MODELS",
    "Regions",
    "RegionPair",
    "WarpMatches",
    "centredness",
    "channels_of",
    "confidence_of",
    "cosine_of_others",
    "crops",
    "dense",
    "describe_by",
    "detect_points",
    "gradient_magnitude",
    "match_warps",
    "point_prototypes",
    "region_pairs",
    "roc_area",
    "score_confidence",
    "score_regions",
    "textured_cells",
    "untrained",
    "warped",
]

STRIDE = 4  # pixels between the places that are described, as of the descriptors that need no network
REACH = 8.0  # pixels up to which a match across warps is right: one cell of the network
WARPED = 32  # images whose warps are matched
SMOOTH = 12  # pixels a side of the square in which gradients and contrasts are measured
CONTRAST = 0.05  # standard deviation of the brightness from which on a square has texture
SHOTS = (1, 3, 5)  # labelled images of a class
DRAWS = 3  # of the labelled images
ALPHA = 0.1
CHANNELS = 6  # of a descriptor, for each class: as many as an AnchorNet's class has

SHORTER = {"steps": 300, "batch_size": 16}  # seven networks a random seed

FULL, FIXED, ON_CROPS = "introspection", "fixed robust loss", "on crops by CAM"
MODELS: dict[str, dict[str, Any]] = {  # name -> what it changes of the model
    FULL: {},
    FIXED: {"loss": "fixed"},
    "without the normaliser": {"loss": "unnormalised"},
    "not rectified": {"rectified": False},
    "no hard points": {"hard_points": 100_000},  # more than there are: every place is compared with every other
    "few correspondences": {"correspondences": 64},
}
UNTRAINED = "untrained"

WARPS = "share of matches across warps within 8 pixels"
SURE = "area under the ROC curve for right matches across warps"
FOREGROUND = "area under the ROC curve for the object's cells"
TEXTURE = "area under the ROC curve for patterned against plain background"
CONFIDENCE = "mean confidence, one over sigma"
OTHERS = "one minus the mean absolute cosine of places that do not match"
PCR = "area under the PCR curve"
POINTS = "share of keypoints found within 0.1 of the longer side of the object's box, from labelled images"


# Descriptors and confidence ----------------------------------------------------------------------------------------


@torch.no_grad()
def dense(model: Introspection, images: Float[Tensor, "B 3 H W"]) -> Descriptors:
    """Descriptors of unit length and uncertainties at places ``STRIDE`` pixels apart.

    They are interpolated between the network's cells, as in the training.

    >>> dense(Introspection(width=4).eval(), torch.rand(1, 3, 32, 48)).features.shape
    torch.Size([1, 16, 8, 12])
    """
    images = images.to(next(model.parameters()).device)
    found = model.describe(images)
    shape = images.shape[-2] // STRIDE, images.shape[-1] // STRIDE
    places = cell_centres(shape, _grid(), images.device).flatten(0, 1).expand(len(images), -1, -1)
    features = F.normalize(sample_at(found.features, places, model.grid), dim=-1).mT.unflatten(2, shape).cpu()
    if found.sigma is None:
        return Descriptors(features)
    return Descriptors(features, sample_at(found.sigma, places, model.grid).mT.unflatten(2, shape).cpu())


def _grid() -> Grid:
    return Grid(STRIDE, STRIDE / 2)


def describe_by(model: Introspection) -> Describe:
    """What a network says about an image, as matchers take it.

    >>> describe_by(Introspection(width=4).eval())({"image": torch.rand(3, 32, 32)}).features.shape
    torch.Size([16, 8, 8])
    """

    def describe(sample: Sample) -> DescriptorMap:
        return DescriptorMap(dense(model, sample["image"][None]).features[0], _grid())

    return describe


Score = Callable[[Float[Tensor, "3 H W"]], Float[Tensor, "h w"]]  # of the places of an image: how much one trusts them


def confidence_of(model: Introspection) -> Score:
    r"""Confidence $1/\sigma$ at the places of an image.

    Raises:
        UsageError: the network predicts no uncertainty.

    >>> bool((confidence_of(Introspection(width=4).eval())(torch.rand(3, 32, 32)) > 0).all())
    True
    """
    if model.uncertainty is None:
        raise UsageError('model: has loss="fixed" and predicts no uncertainty; expected another loss.')
    return lambda image: 1 / dense(model, image[None]).sigma[0, 0]


def gradient_magnitude(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "h w"]:
    """A control: the mean slope of the brightness in a square around each place.

    >>> ramp = torch.linspace(0, 1, 32).expand(3, 32, 32)
    >>> bool((gradient_magnitude(ramp) > 0).all()), gradient_magnitude(torch.ones(3, 32, 32)).amax().item()
    (True, 0.0)
    """
    grey = image.mean(dim=0)
    down, across = torch.gradient(grey)
    return _around(torch.hypot(down, across))


def centredness(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "h w"]:
    """A control that looks at no pixel: minus the distance from the image's centre.

    >>> centredness(torch.rand(3, 8, 8)).tolist()[0][0] < 0
    True
    """
    size = image.shape[-2], image.shape[-1]
    centre = torch.tensor([size[1], size[0]]) / 2
    return -(cell_centres((size[0] // STRIDE, size[1] // STRIDE), _grid()) - centre).norm(dim=-1)


def textured_cells(image: Float[Tensor, "3 H W"]) -> Bool[Tensor, "h w"]:
    """Around which places an image has contrast: the standard deviation of the brightness in a square.

    >>> image = torch.zeros(3, 48, 48)
    >>> image[:, :, 24::4] = 1  # stripes on the right
    >>> textured_cells(image)[5, [2, 9]].tolist()
    [False, True]
    """
    grey = image.mean(dim=0)
    variance = _around(grey.square()) - _around(grey).square()
    return variance.clamp(min=0).sqrt() > CONTRAST


def _around(values: Float[Tensor, "H W"]) -> Float[Tensor, "h w"]:
    """Means over squares centred on the places; beyond the border the image is mirrored."""
    rim = (SMOOTH - STRIDE) // 2
    return F.avg_pool2d(F.pad(values[None, None], (rim,) * 4, mode="reflect"), SMOOTH, STRIDE)[0, 0]


def roc_area(scores: Float[Tensor, " N"], positive: Bool[Tensor, " N"]) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, a tie counting half.

    Raises:
        DataError: there is no positive, or no negative; or a score is not finite.

    >>> roc_area(torch.tensor([3.0, 1.0, 1.0, 0.0]), torch.tensor([True, True, False, False]))
    0.875
    """
    if not scores.isfinite().all():
        raise DataError("scores: found NaN or infinity; expected finite numbers.")
    count = int(positive.sum())
    if not 0 < count < len(positive):
        raise DataError(f"positive: found {count} of {len(positive)}; expected some, and not all. Leave the image out.")
    ordered = scores[~positive].sort().values
    below, at_most = (
        torch.searchsorted(ordered, scores[positive].contiguous(), right=right) for right in (False, True)
    )
    return ((below + at_most).double().mean() / (2 * len(ordered))).item()


def score_confidence(
    score: Score,
    dataset: Dataset | Sequence[Sample],
    plain: Dataset | Sequence[Sample],
    empty: Dataset | Sequence[Sample],
) -> dict[str, float]:
    """How well a score tells objects from what is behind them, and patterned from plain background.

    Mean over the images that have both.

    Args:
        dataset: images with masks.
        plain: the same or others, with nothing but an object and a backdrop.
        empty: these without their objects, from which it is read where the backdrop has texture.
    """
    objects = [(score(sample["image"]), _on_object(sample), None) for sample in dataset]
    texture = [
        (score(sample["image"]), textured_cells(bare["image"]), ~_on_object(sample))
        for sample, bare in zip(plain, empty, strict=True)
    ]
    return {FOREGROUND: _mean_area(objects), TEXTURE: _mean_area(texture)}


def _on_object(sample: Sample) -> Bool[Tensor, "h w"]:
    height, width = sample["mask"].shape
    return parts_at_cells(sample["mask"][None], (height // STRIDE, width // STRIDE), _grid())[0] > 0


def _mean_area(images: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> float:
    """Mean ROC area over the images that have positives and negatives among the places that count."""
    areas = []
    for scores, positive, counts in images:
        counts = torch.ones_like(positive) if counts is None else counts
        if 0 < int(positive[counts].sum()) < int(counts.sum()):
            areas.append(roc_area(scores[counts], positive[counts]))
    if not areas:
        raise DataError("images: found none with positive and negative places; expected one at least.")
    return float(np.mean(areas))


# Across warps ------------------------------------------------------------------------------------------------------


def warped(dataset: Dataset, count: int = WARPED, seed: int = 0) -> list[Views]:
    """Two views of each of some images, evenly over the data set; the same for every descriptor.

    >>> from wsl_core.data import load_dataset
    >>> views = warped(load_dataset("synthetic", "val", size=32, length=4), count=2)
    >>> len(views), views[0].a.shape
    (2, torch.Size([1, 3, 32, 32]))
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(count, len(dataset))
    return [two_views(dataset[i * len(dataset) // count]["image"][None], generator=generator) for i in range(count)]


class WarpMatches(NamedTuple):
    """Of the places of view a that view b shows: how far their matches are off, in pixels, and how alike they look."""

    errors: Float[Tensor, " N"]
    alike: Float[Tensor, " N"]
    shown: Bool[Tensor, "h w"]  # which places of view a these are

    @property
    def right(self) -> Bool[Tensor, " N"]:
        """Which matches are within ``REACH``."""
        return self.errors <= REACH


def match_warps(views: Views, describe: Describe) -> WarpMatches:
    """Match the two views of one image by the nearest neighbour, and compare with where the places truly went.

    >>> from wsl_core.data import load_dataset
    >>> views = warped(load_dataset("synthetic", "val", size=32, length=1), count=1)[0]
    >>> match_warps(views, describe_by(Introspection(width=4).eval())).shown.shape
    torch.Size([8, 8])
    """
    a, b = (describe({"image": view[0]}) for view in (views.a, views.b))
    found = nearest_neighbours(a, b)
    shape = found.valid.shape
    centres = cell_centres((shape[0], shape[1]), a.grid).flatten(0, 1)
    truth, shown = correspond(centres[None], views.warp_a, views.warp_b)
    errors = (found.positions.flatten(0, 1) - truth[0]).norm(dim=-1)
    return WarpMatches(errors[shown[0]], found.scores.flatten()[shown[0]], shown[0].unflatten(0, shape))


def _share_right(pairs_of_views: Sequence[Views], describe: Describe) -> float:
    shares = [match_warps(views, describe).right for views in pairs_of_views]
    return float(np.mean([share.float().mean().item() for share in shares if len(share)]))


def _sure_of_right(pairs_of_views: Sequence[Views], describe: Describe, score: Score | None) -> float:
    """How well a score of view a, or without one the likeness of the match, tells the right matches from the wrong."""
    images = []
    for views in pairs_of_views:
        matches = match_warps(views, describe)
        scores = matches.alike if score is None else score(views.a[0])[matches.shown]
        images.append((scores, matches.right, None))
    return _mean_area(images)


def cosine_of_others(pairs_of_views: Sequence[Views], describe: Describe) -> float:
    """The mean absolute cosine of places of two views of which neither shows what the other does: 0 if orthogonal.

    Raises:
        DataError: no two places are so far apart.

    >>> from wsl_core.data import load_dataset
    >>> views = warped(load_dataset("synthetic", "val", size=64, length=1), count=1)
    >>> constant = lambda sample: DescriptorMap(torch.ones(1, 16, 16), Grid(4, 2))
    >>> cosine_of_others(views, constant)
    1.0
    """
    means = []
    for views in pairs_of_views:
        a, b = (describe({"image": view[0]}) for view in (views.a, views.b))
        centres = cell_centres((a.features.shape[1], a.features.shape[2]), a.grid).flatten(0, 1)
        truth, shown = correspond(centres[None], views.warp_a, views.warp_b)
        apart = (torch.cdist(truth[0], centres) > 2 * REACH) & shown[0][:, None]
        cosines = F.normalize(a.features.flatten(1), dim=0).T @ F.normalize(b.features.flatten(1), dim=0)
        if apart.any():
            means.append(cosines[apart].abs().mean().item())
    if not means:
        raise DataError("views: found no two places that are apart; expected larger images.")
    return float(np.mean(means))


# Regions -----------------------------------------------------------------------------------------------------------


class RegionPair(NamedTuple):
    """What is judged of a pair: the source's regions, where they truly lie in the target, and all of the target's."""

    pair: Pair
    source: Float[Tensor, "M 4"]
    true: Float[Tensor, "M 4"]
    target: Float[Tensor, "N 4"]


def region_pairs(dataset: Dataset | Sequence[Sample], chosen: Sequence[Pair]) -> list[RegionPair]:
    """The pairs that show keypoints enough to say where regions lie; of each the regions that are judged.

    Raises:
        DataError: there is no such pair.
    """
    found = []
    for pair in chosen:
        source, target = dataset[pair.source], dataset[pair.target]
        boxes, others = (sliding_boxes((one["image"].shape[-2], one["image"].shape[-1])) for one in (source, target))
        rows = pair.keypoints
        active = boxes[active_regions(boxes, source["boxes"][0], source["keypoints"][rows[:, 0]])]
        points = source["keypoints"][rows[:, 0]], target["keypoints"][rows[:, 1]]
        try:
            true = true_regions(active, *points, (target["image"].shape[-2], target["image"].shape[-1]))
        except DataError:  # too few keypoints in common
            continue
        inside = ((true[:, 2:] - true[:, :2]) > 0).all(dim=1)
        if inside.any():
            found.append(RegionPair(pair, active[inside], true[inside], others))
    if not found:
        raise DataError("chosen: found no pair with three keypoints in common; expected one at least.")
    return found


class Regions(NamedTuple):
    """The PCR curve over its thresholds, and the area under it: means over pairs."""

    pcr: Float[np.ndarray, "101"]
    auc: float


def score_regions(dataset: Dataset | Sequence[Sample], judged: Sequence[RegionPair], describe: Describe) -> Regions:
    """Match regions by their looks alone, and judge where they land.

    A region that looks like none of the target's takes the target's first, the full frame.
    """
    described = {i: describe(dataset[i]) for i in {i for one in judged for i in (one.pair.source, one.pair.target)}}
    results = []
    for one in judged:
        a, b = described[one.pair.source], described[one.pair.target]
        sureness, best = match_regions(a, b, one.source, one.target, how="nam").max(dim=1)
        results.append(region_matching(one.target[best], one.true, sureness))
    return Regions(np.mean([result.pcr for result in results], axis=0), float(np.mean([r.auc for r in results])))


# Points from few labelled images -----------------------------------------------------------------------------------


def point_prototypes(
    described: Sequence[DescriptorMap], keypoints: Sequence[Float[Tensor, "P 3"]]
) -> tuple[Float[Tensor, "P D"], Bool[Tensor, " P"]]:
    """The mean descriptor of each keypoint over the labelled images that show it, and which keypoints any shows.

    Args:
        described: the labelled images.
        keypoints: x, y, visible, of each.

    >>> image = DescriptorMap(torch.eye(2)[:, None], Grid(4, 2))  # two places
    >>> prototypes, known = point_prototypes([image], [torch.tensor([[6.0, 2.0, 1.0], [0.0, 0.0, 0.0]])])
    >>> prototypes[0].tolist(), known.tolist()
    ([0.0, 1.0], [True, False])
    """
    totals, counts = 0, 0
    for one, points in zip(described, keypoints, strict=True):
        seen = (points[:, 2] > 0).float()
        values = sample_at(one.features[None].float(), points[None, :, :2], one.grid)[0]
        totals, counts = totals + values * seen[:, None], counts + seen
    return totals / counts.clamp(min=1)[:, None], counts > 0


def detect_points(described: DescriptorMap, prototypes: Float[Tensor, "P D"]) -> Float[Tensor, "P 2"]:
    """Where each prototype's nearest descriptor lies in an image: x, y in pixels.

    >>> image = DescriptorMap(torch.eye(2)[:, None], Grid(4, 2))
    >>> detect_points(image, torch.tensor([[0.1, 0.9]])).tolist()
    [[6.0, 2.0]]
    """
    features = described.features.float()
    nearest = torch.cdist(prototypes, features.flatten(1).T).argmin(dim=1)
    return cell_centres((features.shape[1], features.shape[2]), described.grid).flatten(0, 1)[nearest]


def few_shot(
    labelled: Dataset | Sequence[Sample],
    test: Dataset | Sequence[Sample],
    describe: Describe,
    shots: Sequence[int] = SHOTS,
) -> dict[int, float]:
    """From so many labelled images of a class, which share of the keypoints in other images of it is found.

    Right is what lies within ``ALPHA`` of the longer side of the object's box. Mean over images, classes, draws; a
    keypoint that no labelled image shows is left out.

    Raises:
        DataError: a class has too few labelled images, or no keypoint is left.
    """
    kept, tests = _by_class(labelled), _by_class(test)
    needed = max(shots) + DRAWS - 1
    shares: dict[int, list[float]] = {count: [] for count in shots}
    for label in sorted(set(kept) & set(tests)):
        known, judged = kept[label][:needed], tests[label][:PER_CLASS]
        if len(known) < needed:
            raise DataError(f"labelled: class {label} has {len(known)} images; expected {needed} at least.")
        described = [describe(sample) for sample in known]
        targets = [(sample, describe(sample)) for sample in judged]
        for count in shots:
            for first in range(DRAWS):
                own = slice(first, first + count)
                prototypes = point_prototypes(described[own], [sample["keypoints"] for sample in known[own]])
                shares[count] += _points_found(targets, *prototypes)
    if not all(shares.values()):
        raise DataError("test: found no keypoint that a labelled image shows as well; expected one at least.")
    return {count: float(np.mean(found)) for count, found in shares.items()}


def _by_class(dataset: Dataset | Sequence[Sample]) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = {}
    for sample in dataset:
        found.setdefault(int(sample["labels"].argmax()), []).append(sample)
    return found


def _points_found(
    targets: Sequence[tuple[Sample, DescriptorMap]], prototypes: Float[Tensor, "P D"], known: Bool[Tensor, " P"]
) -> list[float]:
    shares = []
    for sample, described in targets:
        points, box = sample["keypoints"], sample["boxes"][0]
        judged = known & (points[:, 2] > 0)
        if judged.any():
            errors = (detect_points(described, prototypes[judged]) - points[judged, :2]).norm(dim=1)
            shares.append((errors <= ALPHA * (box[2:] - box[:2]).max()).float().mean().item())
    return shares


# Networks ----------------------------------------------------------------------------------------------------------


def untrained(model: Introspection, seed: int) -> Introspection:
    """The control: the network with the weights from which the training began.

    >>> model = Introspection(width=4)
    >>> untrained(model, 0).config == model.config
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Introspection(**model.config).eval()


def crops(dataset: Dataset, classifier: CAM) -> Dataset:
    """Images cut down to the box of their class's map, by a classifier that has seen labels of images.

    >>> from wsl_core.data import load_dataset
    >>> world = load_dataset("synthetic", "val", world="families", size=32, length=2)
    >>> crops(world, CAM(num_classes=8, width=4).eval())[0]["image"].shape
    torch.Size([3, 32, 32])
    """
    with torch.no_grad():
        boxes = [foreground_boxes(classifier, batch["image"], batch["labels"]) for batch in batches(dataset)]
    return InMemory(Cropped(dataset, torch.cat(boxes), dataset.image_size))


@torch.no_grad()
def channels_of(model: Introspection, dataset: Dataset) -> Fired:
    """All channels on all images of a data set; images of one size, with parts.

    >>> from wsl_core.data import load_dataset
    >>> world = load_dataset("synthetic", "val", objects=1, size=32, length=2)
    >>> channels_of(Introspection(width=4).eval(), world).maps.shape
    torch.Size([2, 16, 8, 8])
    """
    found = []
    for batch in batches(dataset):
        maps = dense(model, batch["image"]).features
        parts = parts_at_cells(batch["parts"], (maps.shape[-2], maps.shape[-1]), _grid())
        found.append((maps, batch["labels"].argmax(dim=1), parts))
    return Fired(*(torch.cat(column) for column in zip(*found, strict=True)))


# The measurement ---------------------------------------------------------------------------------------------------

HAND_MADE = ("dense SIFT", "HOG", "raw RGB")
RIVALS = ("class-agnostic anchors", "class-specific anchors", "hypercolumns", "classifier's features", *HAND_MADE)


def measure_introspection(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """Networks that learn from warps: where they trust themselves, and what their descriptors are worth."""
    seed = torch.initial_seed() % 2**32  # the experiment's, which all its networks share
    networks: dict[str, Introspection] = {name: model.cpu() for name, model in models.items()}
    networks[UNTRAINED] = untrained(networks[FULL], seed)
    recipe = get_recipe("cam", "synthetic", "book").replace(data={"world": "families"}, **SHORT)
    classifier = _trained(CAM, data["train"], recipe, seed)
    anchored = anchors(data["with backgrounds"], classifier, _anchors_recipe(), seed).cpu()
    cropped = crops(data["train"], classifier)
    recipe = get_recipe("introspection", "synthetic", "book").replace(**SHORTER)
    networks[ON_CROPS] = fit(lambda: Introspection(**recipe.model), cropped, recipe, seed=seed).model.cpu().eval()
    found: Measurement = {}
    _measure_confidence(found, networks, data)
    described = {name: describe_by(network) for name, network in networks.items()}
    rivals = describers(anchored, classifier)
    _measure_warps(found, networks, described, rivals, data["test"])
    _measure_matching(found, described, rivals, data["test"])
    _measure_points(found, described, rivals, data)
    _measure_channels(found, networks, anchored, data)
    return found


def _trained(kind: type[CAM], dataset: Dataset, recipe: Recipe, seed: int) -> CAM:
    def build() -> CAM:
        return kind(num_classes=len(dataset.classes), task=dataset.task, **recipe.model)

    return fit(build, dataset, recipe, seed=seed).model.cpu().eval()


def _anchors_recipe() -> Recipe:
    return get_recipe("anchornet", "synthetic", "book").replace(model={"negatives": "background"})


def _measure_confidence(found: Measurement, networks: Mapping[str, Introspection], data: Mapping[str, Dataset]) -> None:
    scores = {name: confidence_of(network) for name, network in networks.items() if network.uncertainty is not None}
    images = [sample for sample, _ in zip(data["test"], range(len(data["plain"])))]
    for name, score in (scores | CONTROLS).items():
        _note(found, name, score_confidence(score, images, data["plain"], data["empty"]))
        if name in scores:
            _note(found, name, {CONFIDENCE: float(np.mean([score(one["image"]).mean().item() for one in images]))})


CONTROLS: dict[str, Score] = {"gradient magnitude": gradient_magnitude, "distance from the centre": centredness}


def _measure_warps(
    found: Measurement,
    networks: Mapping[str, Introspection],
    described: Mapping[str, Describe],
    rivals: Mapping[str, Describe],
    dataset: Dataset,
) -> None:
    views = warped(dataset)
    for name, describe in (described | {name: rivals[name] for name in (*RIVALS, "position in the image")}).items():
        _note(found, name, {WARPS: _share_right(views, describe)})
    for name, describe in described.items():
        _note(found, name, {OTHERS: 1 - cosine_of_others(views, describe)})
    own = {name: confidence_of(networks[name]) for name in (FULL, UNTRAINED)}
    for name, score in ({**own, **CONTROLS, "likeness of the match": None}).items():
        _note(found, name, {SURE: _sure_of_right(views, described[FULL], score)})


def _measure_matching(
    found: Measurement, described: Mapping[str, Describe], rivals: Mapping[str, Describe], dataset: Dataset
) -> None:
    few, chosen = chosen_pairs(dataset)
    every = {**described, **rivals}
    for kind, of_kind in chosen.items():
        for matcher in ("nearest", "DSP"):
            for name in every if matcher == "nearest" else (FULL, FIXED, ON_CROPS, *RIVALS):
                matched = match_all(few, of_kind, every[name], MATCHERS[matcher])
                _note(found, f"{name}, {matcher}, {kind}", {PCK[alpha]: matched.mean(PCK[alpha]) for alpha in ALPHAS})
        judged = region_pairs(few, of_kind)
        for name in (FULL, FIXED, UNTRAINED, ON_CROPS, *RIVALS):
            _note(found, f"{name}, {kind}", {PCR: score_regions(few, judged, every[name]).auc})


def _measure_points(
    found: Measurement, described: Mapping[str, Describe], rivals: Mapping[str, Describe], data: Mapping[str, Dataset]
) -> None:
    own = {name: described[name] for name in (FULL, FIXED, UNTRAINED, ON_CROPS)}
    for name, describe in {**own, **{name: rivals[name] for name in (*RIVALS, "position in the image")}}.items():
        for shots, share in few_shot(data["val"], data["test"], describe).items():
            _note(found, f"{name}, {shots} labelled", {POINTS: share})


def _measure_channels(
    found: Measurement, networks: Mapping[str, Introspection], anchored: AnchorNet, data: Mapping[str, Dataset]
) -> None:
    for name in (FULL, FIXED, UNTRAINED):
        splits = [channels_of(networks[name], data[split]) for split in ("val", "test")]
        _note(found, name, {SAME_PART: best_of_descriptor(*splits, data["test"], CHANNELS)})
    by_chance = of_random_cells(*splits, data["test"], CHANNELS)
    _note(found, "a random cell of the object", {SAME_PART: by_chance[SAME_PART]})
    splits = [fire(anchored, data[split], "class-agnostic") for split in ("val", "test")]
    _note(found, "class-agnostic anchors", {SAME_PART: best_of_descriptor(*splits, data["test"], CHANNELS)})


def _note(found: Measurement, variant: str, scores: Mapping[str, float]) -> None:
    for metric, value in scores.items():
        found.setdefault(metric, {})[variant] = value


PLAIN_IMAGES = 100


def families_data(recipe: Recipe) -> dict[str, Dataset]:
    """Train, alone and with backgrounds; val and test; test images of an object and a backdrop, and the backdrop."""
    splits: dict[str, Dataset] = {split: open_split(recipe, split) for split in ("train", "val", "test")}
    count = min(PLAIN_IMAGES, len(splits["test"]))
    plain = open_split(recipe.replace(images=None), "test", distractors=0, length=count)
    empty = Intervened(plain, remove=plain.classes)
    return splits | {"with backgrounds": with_backgrounds(recipe), "plain": plain, "empty": empty}


EXPERIMENTS = (
    Experiment(
        name="introspection-families",
        paper="introspection",
        dataset="synthetic",
        scope="synthetic",
        variants={name: {"model": changes, **SHORTER} for name, changes in MODELS.items()},
        data=families_data,
        measure=measure_introspection,
    ),
)
