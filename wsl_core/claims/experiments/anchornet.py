r"""Chapter 5: what the AnchorNet paper claims, measured on the synthetic world of families.

One classifier is trained for each random seed. All AnchorNets of the seed share its trunk, which stays as it is: they
differ by their losses alone. What the chapter measures live is measured here by the same functions. Which part a
channel stands for, and which channels of a descriptor are looked at, is chosen on val; test is only read off.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import center_crop

from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.claims.experiments.deep_features import batches
from wsl_core.claims.experiments.gap_vs_gmp import SHORT
from wsl_core.data import Dataset, InMemory, Sample, Subset
from wsl_core.data.chained import Chained
from wsl_core.data.intervened import Intervened
from wsl_core.data.pairs import Pair, families, pairs, shared_parts
from wsl_core.errors import UsageError
from wsl_core.matching import (
    Correspondence,
    DescriptorMap,
    cell_centres,
    dense_sift,
    dsp,
    hog,
    nearest_neighbours,
    position,
    proposal_flow,
    raw_colours,
    sliding_boxes,
    transfer_mask,
    transfer_points,
)
from wsl_core.metrics.matching import mask_iou, mean_over_pairs, pck, weighted_iou
from wsl_core.ops import Grid, normalize
from wsl_core.papers.anchornet import AnchorNet, unit_vectors
from wsl_core.papers.cam import CAM
from wsl_core.recipes import Recipe, get_recipe
from wsl_core.training import fit, open_split

__all__ = [
    "ANCHORS",
    "EXPERIMENTS",
    "KINDS",
    "LOSSES",
    "MATCHERS",
    "Fired",
    "Matched",
    "agreement",
    "anchors",
    "chosen_pairs",
    "describers",
    "distinct_parts",
    "fire",
    "likeliest_parts",
    "lit_apart",
    "lit_on_object",
    "match_all",
    "of_own_class",
    "parts_at_cells",
    "peak_parts",
    "relabelled",
    "score_channels",
    "score_pair",
    "tight_box",
    "shared_agreement",
    "untrained",
    "with_backgrounds",
]

LIT = 0.5  # of a response's own maximum
PCA_IMAGES = 128
PER_CLASS = 8  # images of a class that are matched
PAIRS = 36  # of each kind
OTHER_SCENES = 1  # the seed of a world in which no image of the training lies
STRIDE = 4  # of descriptors that need no network, as of the hypercolumn
ALPHAS = (0.05, 0.1, 0.15)

WITHIN, ACROSS = KINDS = ("within classes", "across classes")
ANCHORS = {
    "class-agnostic anchors": "class-agnostic",
    "class-specific anchors": "class-specific",
    "hypercolumns": "hypercolumn",
}

NAMED = "share of test images whose class has the highest response"
APART = "one minus the IoU of what two channels of the class light up, mean over pairs of channels"
COVERAGE = "share of the object's cells that any channel of the class lights up"
PRECISION = "share of the lit cells that lie on the object"
DISTINCT = "distinct parts under the peaks of the class's channels, for each image"
ON_OBJECT = "share of the channels' peaks that lie on the object"
SAME_PART = "share of images in which a channel's peak lies on the channel's part, chosen on val"
PURITY = "share of a channel's lit cells that lie on the channel's part, chosen on val"
SHARED = "the same on images of another class of the family, part and channels chosen on the first class"
PCK = {alpha: f"PCK at {alpha:g} of the longer side of the object's box" for alpha in ALPHAS}
PART_IOU = "IoU of transferred parts, weighted by their union"
MASK_IOU = "IoU of the transferred mask"


# What is trained on a classifier's trunk ---------------------------------------------------------------------------

LOSSES: dict[str, dict[str, Any]] = {  # name -> what it changes of the model
    "AnchorNet": {},
    "without L_div^A": {"filter_diversity_weight": 0.0},
    "without L_div^B": {"response_diversity_weight": 0.0},
    "without both": {"filter_diversity_weight": 0.0, "response_diversity_weight": 0.0},
    "diversity weight 0.2": {"filter_diversity_weight": 0.2, "response_diversity_weight": 0.2},
    "without the average": {"background_weight": 0.0},
    "other classes as negatives": {"negatives": "others"},
}
FULL = "AnchorNet"


def anchors(dataset: Dataset, classifier: CAM, recipe: Recipe, seed: int) -> AnchorNet:
    """AnchorNet on the trunk of a classifier, which stays as it is.

    Banks, reductions and auto-encoder are trained; the reductions start as a PCA over the first images of ``dataset``.

    Args:
        dataset: images without a label are background.
        classifier: its backbone has residual stages: ``"small"`` or ``"resnet50"``.
        recipe: of ``"anchornet"``.
    """
    first = _some_images(dataset)

    def build() -> AnchorNet:
        network = _on_trunk(dataset, classifier, recipe)
        network.init_pca(first)
        return network

    return fit(build, dataset, recipe, seed=seed).model


def untrained(dataset: Dataset, recipe: Recipe) -> AnchorNet:
    """The control: an AnchorNet whose trunk and banks have learnt nothing. Its reductions are a PCA, too."""
    network = AnchorNet(num_classes=len(dataset.classes), task=dataset.task, **recipe.model).eval()
    network.init_pca(_some_images(dataset))
    return network


def _on_trunk(dataset: Dataset, classifier: CAM, recipe: Recipe) -> AnchorNet:
    trunk = {key: classifier.config[key] for key in ("backbone", "output_stride", "stride_by", "width")}
    options = {**recipe.model, **trunk, "weights": None, "trunk": "frozen"}
    network = AnchorNet(num_classes=len(dataset.classes), task=dataset.task, **options)
    weights = classifier.backbone.state_dict()
    network.backbone.load_state_dict({key: weights[key] for key in network.backbone.state_dict()})
    return network


def _some_images(dataset: Dataset) -> Float[Tensor, "B 3 H W"]:
    """Images for the PCA, evenly over the data set; of each the middle, as large as the smallest of them."""
    count = min(PCA_IMAGES, len(dataset))
    images = [dataset[i * len(dataset) // count]["image"] for i in range(count)]
    size = [min(image.shape[side] for image in images) for side in (-2, -1)]
    return torch.stack([center_crop(image, size) for image in images])


# What channels do --------------------------------------------------------------------------------------------------


class Fired(NamedTuple):
    """The responses of channels to images of one class each, and what lies under the centres of the cells."""

    maps: Float[Tensor, "N C h w"]
    labels: Int[Tensor, " N"]
    parts: Int[Tensor, "N h w"]  # 0 beside the object


@torch.no_grad()
def fire(model: AnchorNet, dataset: Dataset, which: str = "class-specific") -> Fired:
    """All channels of a descriptor on all images of a data set; images of one size, with parts.

    >>> from wsl_core.data import load_dataset
    >>> world = load_dataset("synthetic", "val", objects=1, size=32, length=2)
    >>> fire(AnchorNet(width=4).eval(), world).maps.shape
    torch.Size([2, 32, 8, 8])
    """
    device = next(model.parameters()).device
    found = []
    for batch in batches(dataset):
        maps = model.describe(batch["image"].to(device), which).features.cpu()
        parts = parts_at_cells(batch["parts"], (maps.shape[-2], maps.shape[-1]), model.grid)
        found.append((maps, batch["labels"].argmax(dim=1), parts))
    return Fired(*(torch.cat(column) for column in zip(*found, strict=True)))


def parts_at_cells(parts: Int[Tensor, "B H W"], shape: tuple[int, int], grid: Grid) -> Int[Tensor, "B h w"]:
    """The part at the pixel in which each cell's centre lies.

    >>> parts_at_cells(torch.arange(16).view(1, 4, 4), (2, 2), Grid(stride=2, first=1))[0].tolist()
    [[5, 7], [13, 15]]
    """
    x, y = cell_centres(shape, grid, parts.device).long().unbind(-1)
    return parts[:, y.clamp(max=parts.shape[1] - 1), x.clamp(max=parts.shape[2] - 1)]


def of_own_class(fired: Fired, classes: int) -> Float[Tensor, "N J h w"]:
    """Of the banks of all classes, in their order, the responses of the bank of each image's class."""
    return fired.maps.unflatten(1, (classes, -1))[torch.arange(len(fired.labels)), fired.labels]


def peak_parts(maps: Float[Tensor, "N C h w"], parts: Int[Tensor, "N h w"]) -> Int[Tensor, "N C"]:
    """The part under the highest response of each channel; 0 beside the object.

    >>> peak_parts(torch.tensor([[[[0.0, 2.0]], [[3.0, 1.0]]]]), torch.tensor([[[0, 7]]])).tolist()
    [[7, 0]]
    """
    return parts.flatten(1).gather(1, maps.flatten(2).argmax(dim=2))


def lit(maps: Float[Tensor, "*shape h w"]) -> Bool[Tensor, "*shape h w"]:
    """The cells above half of the greatest response, where there is a positive one."""
    return normalize(maps, "max") > LIT


def lit_apart(own: Float[Tensor, "N J h w"]) -> float:
    """One minus the mean IoU of what two channels light up, over pairs of channels and images.

    Two channels of which neither lights anything up coincide.

    Raises:
        UsageError: there is one channel alone.

    >>> lit_apart(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 2.0]]]]))  # one pair of three coincides
    0.6666666865348816
    """
    count = own.shape[1]
    if count < 2:
        raise UsageError(f"own: found {count} channel; expected two at least, to be held against each other.")
    first, second = torch.triu_indices(count, count, offset=1)
    a, b = (lit(own).flatten(2)[:, rows] for rows in (first, second))
    shared, either = (a & b).sum(dim=2), (a | b).sum(dim=2)
    return (1 - torch.where(either > 0, shared / either.clamp(min=1), 1.0)).mean().item()


def lit_on_object(own: Float[Tensor, "N J h w"], parts: Int[Tensor, "N h w"]) -> tuple[float, float]:
    """Which share of the objects' cells any channel lights up, and which share of the lit cells lies on objects.

    Pooled over the images. Where nothing is lit, the second is 0.

    >>> own, parts = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]]]), torch.tensor([[[1, 1, 0]]])
    >>> lit_on_object(own, parts)
    (0.5, 0.5)
    """
    union, objects = lit(own).any(dim=1), parts > 0
    both = int((union & objects).sum())
    return both / max(int(objects.sum()), 1), both / max(int(union.sum()), 1)


def distinct_parts(peaks: Int[Tensor, "N C"]) -> float:
    """How many different parts the peaks of an image lie on, mean over the images; the background is no part.

    >>> distinct_parts(torch.tensor([[3, 3, 0], [1, 2, 3]]))
    2.0
    """
    ordered = peaks.sort(dim=1).values
    new = F.pad(ordered.diff(dim=1) != 0, (1, 0), value=True) & (ordered > 0)
    return new.sum(dim=1).double().mean().item()


def _shares(peaks: Int[Tensor, "N C"], labels: Int[Tensor, " N"], classes: int, parts: int) -> Float[Tensor, "K C P"]:
    """In which share of the images of each class each channel's peak lies on each part; part 0 is none."""
    member = F.one_hot(labels, classes).float()
    counts = torch.einsum("nk,ncp->kcp", member, F.one_hot(peaks, parts + 1).float())
    return counts / member.sum(dim=0).clamp(min=1)[:, None, None]


def likeliest_parts(
    peaks: Int[Tensor, "N C"], labels: Int[Tensor, " N"], classes: int, parts: int
) -> Int[Tensor, "K C"]:
    """The part on which each channel's peak lies most often in images of each class; of equal ones the first.

    Args:
        peaks: see :func:`peak_parts`.
        parts: how many there are. Part 0, beside the object, is never the answer.

    >>> peaks, labels = torch.tensor([[2, 0], [2, 0], [1, 1]]), torch.tensor([0, 0, 0])
    >>> likeliest_parts(peaks, labels, classes=1, parts=2).tolist()
    [[2, 1]]
    """
    return _shares(peaks, labels, classes, parts)[:, :, 1:].argmax(dim=2) + 1


def agreement(
    peaks: Int[Tensor, "N C"], labels: Int[Tensor, " N"], expected: Int[Tensor, "K C"]
) -> Float[Tensor, "K C"]:
    """In which share of the images of each class each channel's peak lies on the expected part.

    A class without images has 0.

    >>> agreement(torch.tensor([[2], [1]]), torch.tensor([0, 0]), torch.tensor([[2]])).tolist()
    [[0.5]]
    """
    member = F.one_hot(labels, len(expected)).float()
    right = (peaks == expected[labels]).float()
    return member.T @ right / member.sum(dim=0).clamp(min=1)[:, None]


def shared_agreement(
    val: Fired, test: Fired, dataset: Dataset, channels: int
) -> dict[tuple[str, str], Float[Tensor, " C"]]:
    """For every two classes of a family: how often channels that mark a part of the first mark it in the second.

    On val images of the first class each channel gets its part, and the ``channels`` that agree best with theirs are
    taken, among those whose part the second class has too.

    Args:
        dataset: which classes are of one family, and which parts mean the same.
    """
    parts, classes = len(dataset.part_names), len(dataset.classes)
    on_val, on_test = (peak_parts(fired.maps, fired.parts) for fired in (val, test))
    own = likeliest_parts(on_val, val.labels, classes, parts)
    sure = agreement(on_val, val.labels, own)
    shares = _shares(on_test, test.labels, classes, parts)
    found = {}
    for first, second, meaning in _related(dataset):
        means = meaning[own[first]]  # of each channel: the part of the second class, 0 if it has none
        best = torch.where(means > 0, sure[first], -1.0).topk(channels).indices
        found[dataset.classes[first], dataset.classes[second]] = shares[second, best, means[best]] * (means[best] > 0)
    return found


def _related(dataset: Dataset) -> list[tuple[int, int, Int[Tensor, " P"]]]:
    """Ordered pairs of classes of one family, and for each part of the first the same part of the second, or 0."""
    found = []
    for family in families(dataset):
        for first in family:
            for second in family:
                if first != second and (rows := shared_parts(dataset, first, second)):
                    meaning = torch.zeros(len(dataset.part_names) + 1, dtype=torch.int64)
                    source, target = torch.tensor(rows).T
                    meaning[source] = target
                    found.append((dataset.classes.index(first), dataset.classes.index(second), meaning))
    return found


def score_channels(val: Fired, test: Fired, dataset: Dataset) -> dict[str, float]:
    """Are the channels of a class sparse, diverse, on the object, and the same from image to image?"""
    classes, parts = len(dataset.classes), len(dataset.part_names)
    on_val, own = of_own_class(val, classes), of_own_class(test, classes)
    expected = likeliest_parts(peak_parts(on_val, val.parts), val.labels, classes, parts)
    peaks = peak_parts(own, test.parts)
    covered, precise = lit_on_object(own, test.parts)
    scores = test.maps.unflatten(1, (classes, -1)).amax(dim=(3, 4)).mean(dim=2)  # AnchorNet's logits
    return {
        NAMED: (scores.argmax(dim=1) == test.labels).float().mean().item(),
        APART: lit_apart(own),
        COVERAGE: covered,
        PRECISION: precise,
        DISTINCT: distinct_parts(peaks),
        ON_OBJECT: (peaks > 0).float().mean().item(),
        SAME_PART: _over_present(agreement(peaks, test.labels, expected), test.labels),
        PURITY: _purity(own, test, expected),
    }


def _purity(own: Float[Tensor, "N J h w"], test: Fired, expected: Int[Tensor, "K J"]) -> float:
    on_part = test.parts[:, None] == expected[test.labels][:, :, None, None]
    bright = lit(own)
    return (bright & on_part).sum().item() / max(int(bright.sum()), 1)


def _over_present(shares: Float[Tensor, "K C"], labels: Int[Tensor, " N"]) -> float:
    """Mean over channels and over the classes that occur."""
    return shares[labels.unique()].mean().item()


def best_of_descriptor(val: Fired, test: Fired, dataset: Dataset, channels: int) -> float:
    """``SAME_PART`` of a descriptor whose channels belong to no class: the best ``channels`` for each class, by val."""
    classes, parts = len(dataset.classes), len(dataset.part_names)
    on_val, on_test = (peak_parts(fired.maps, fired.parts) for fired in (val, test))
    expected = likeliest_parts(on_val, val.labels, classes, parts)
    best = agreement(on_val, val.labels, expected).topk(channels, dim=1).indices
    return _over_present(agreement(on_test, test.labels, expected).gather(1, best), test.labels)


def of_random_cells(val: Fired, test: Fired, dataset: Dataset, channels: int) -> dict[str, float]:
    """What channels would score whose peak lies on any cell of the object: the parts' shares of its area.

    ``PURITY`` and ``SAME_PART``: of the part that is largest on val. ``SHARED``: of the ``channels`` largest ones that
    two classes share.
    """
    classes, parts = len(dataset.classes), len(dataset.part_names)
    on_val, on_test = (_areas(fired, classes, parts) for fired in (val, test))
    largest = on_val.argmax(dim=1, keepdim=True)
    same = on_test.gather(1, largest)[test.labels.unique()].mean().item()
    shared = []
    for first, second, meaning in _related(dataset):
        area = torch.where(meaning > 0, on_val[first], 0.0)
        best = area.topk(min(channels, int((meaning > 0).sum()))).indices
        shared.append(on_test[second, meaning[best]].mean().item())
    return {PURITY: same, SAME_PART: same, SHARED: float(np.mean(shared)) if shared else 0.0}


def _areas(fired: Fired, classes: int, parts: int) -> Float[Tensor, "K P"]:
    """The share of the object that each part has, mean over the images of a class; part 0 has none."""
    count = F.one_hot(fired.parts.flatten(1), parts + 1).sum(dim=1).float()
    count[:, 0] = 0
    member = F.one_hot(fired.labels, classes).float()
    share = count / count.sum(dim=1, keepdim=True).clamp(min=1)
    return member.T @ share / member.sum(dim=0).clamp(min=1)[:, None]


# What descriptors are worth in matching ----------------------------------------------------------------------------

Describe = Callable[[Sample], DescriptorMap]
Matcher = Callable[[DescriptorMap, DescriptorMap, tuple[int, int], tuple[int, int]], Correspondence]

MATCHERS: dict[str, Matcher] = {
    "nearest": lambda a, b, *_: nearest_neighbours(a, b),
    "mutual": lambda a, b, *_: nearest_neighbours(a, b, mutual=True),
    "DSP": lambda a, b, *_: dsp(a, b),
    "Proposal Flow": lambda a, b, size_a, size_b: proposal_flow(a, b, sliding_boxes(size_a), sliding_boxes(size_b)),
}
POSITION = {"position in the image": None, "position in the box": "boxes"}


def describers(model: AnchorNet, classifier: CAM | None = None, naive: AnchorNet | None = None) -> dict[str, Describe]:
    """Every descriptor that is compared, by name, the controls last.

    Args:
        model: gives class-agnostic and class-specific anchors and hypercolumns.
        classifier: gives its last features, the ones that it names classes by.
        naive: see :func:`untrained`.
    """
    found: dict[str, Describe] = {name: _of_network(model, which) for name, which in ANCHORS.items()}
    if classifier is not None:
        found["classifier's features"] = _of_classifier(classifier)
    found |= {
        "dense SIFT": lambda sample: dense_sift(sample["image"], STRIDE),
        "HOG": lambda sample: hog(sample["image"], STRIDE),
        "raw RGB": lambda sample: raw_colours(sample["image"], STRIDE),
    }
    if naive is not None:
        found["hypercolumns, untrained"] = _of_network(naive, "hypercolumn")
    found["position in the image"] = lambda sample: position(_size(sample), None, STRIDE)
    found["position in the box"] = lambda sample: position(_size(sample), sample["boxes"][0], STRIDE)
    return found


def _of_network(model: AnchorNet, which: str) -> Describe:
    @torch.no_grad()
    def describe(sample: Sample) -> DescriptorMap:
        image = sample["image"][None].to(next(model.parameters()).device)
        return DescriptorMap(unit_vectors(model.describe(image, which).features[0].cpu(), dim=0), model.grid)

    return describe


def _of_classifier(classifier: CAM) -> Describe:
    @torch.no_grad()
    def describe(sample: Sample) -> DescriptorMap:
        image = sample["image"][None].to(next(classifier.parameters()).device)
        return DescriptorMap(unit_vectors(classifier.features(image)[0].cpu(), dim=0), classifier.grid)

    return describe


def _size(sample: Sample) -> tuple[int, int]:
    return sample["image"].shape[-2], sample["image"].shape[-1]


def chosen_pairs(
    dataset: Dataset, per_class: int = PER_CLASS, count: int = PAIRS
) -> tuple[Dataset, dict[str, list[Pair]]]:
    """A few images of each class, and pairs among them: of one class, and of two classes of a family."""
    kept: dict[int, list[int]] = {}
    for i, sample in enumerate(dataset):
        kept.setdefault(int(sample["labels"].argmax()), []).append(i)
    few = InMemory(Subset(dataset, sorted(i for own in kept.values() for i in own[:per_class])))
    every = {kind: pairs(few, across=kind == ACROSS) for kind in KINDS}
    return few, {kind: pairs(few, kind == ACROSS, min(count, len(every[kind]))) for kind in KINDS}


def tight_box(keypoints: Float[Tensor, "P 3"]) -> Float[Tensor, " 4"]:
    """The box around the visible keypoints, for data without boxes: x0, y0, x1, y1.

    Raises:
        UsageError: no keypoint is visible.

    >>> tight_box(torch.tensor([[2.0, 9.0, 1.0], [6.0, 3.0, 1.0], [0.0, 0.0, 0.0]])).tolist()
    [2.0, 3.0, 6.0, 9.0]
    """
    points = keypoints[keypoints[:, 2] > 0, :2]
    if not len(points):
        raise UsageError("keypoints: found none that is visible; expected one at least.")
    return torch.cat([points.amin(dim=0), points.amax(dim=0)])


def relabelled(parts: Int[Tensor, "H W"], values: Int[Tensor, " M"]) -> Int[Tensor, "H W"]:
    """Parts that two images have in common, numbered alike: ``values[i]`` becomes i + 1, all else 0.

    >>> relabelled(torch.tensor([[4, 9, 0]]), torch.tensor([9, 4])).tolist()
    [[2, 1, 0]]
    """
    number = torch.zeros(int(max(parts.max(), values.max() if len(values) else 0)) + 1, dtype=torch.int64)
    number[values] = torch.arange(1, len(values) + 1)
    return number[parts]


def score_pair(
    source: Sample, target: Sample, pair: Pair, found: Correspondence, normaliser: str = "box"
) -> dict[str, float]:
    """What one correspondence is worth. Keypoints are carried from the source to the target, parts and mask back.

    Parts are left out where the two images show none in common.
    """
    rows = pair.keypoints
    points = transfer_points(source["keypoints"][rows[:, 0], :2], found)
    truth = source["keypoints"][rows[:, 0]], target["keypoints"][rows[:, 1]]
    shares = pck(points, *truth, alphas=ALPHAS, normaliser=normaliser, box=target["boxes"][0])
    scores = {PCK[alpha]: float(share) for alpha, share in zip(ALPHAS, shares, strict=True)}
    if "mask" in source:
        carried = transfer_mask(target["mask"], found, _size(source)) == pair.target_class + 1
        scores[MASK_IOU] = mask_iou(carried, source["mask"] == pair.source_class + 1)
    if len(pair.parts):
        own, other = (relabelled(sample["parts"], values) for sample, values in zip((source, target), pair.parts.T))
        carried = transfer_mask(other, found, _size(source))
        scores[PART_IOU] = weighted_iou(carried, own, range(1, len(pair.parts) + 1), "union")
    return scores


class Matched(NamedTuple):
    """What a descriptor with a matcher scores on every pair: metric -> one value a pair, NaN where it has none."""

    scores: dict[str, Float[np.ndarray, " Q"]]
    images: Int[np.ndarray, "Q 2"]  # source and target, as positions in the data set

    def mean(self, metric: str) -> float:
        """The mean over the pairs that have a value."""
        return float(mean_over_pairs(list(self.scores[metric])))


def match_all(
    dataset: Dataset | Sequence[Sample],
    chosen: Sequence[Pair],
    describe: Describe,
    matcher: Matcher,
    of_another_image: bool = False,
    normaliser: str = "box",
) -> Matched:
    """Match all pairs by one descriptor and one matcher.

    Args:
        normaliser: of PCK, see :func:`wsl_core.metrics.pck`.
        of_another_image: the control: the target is described by another image of its class, which knows where parts of
            the class often are, and not where they are here.
    """
    described = {i: describe(dataset[i]) for i in {i for pair in chosen for i in (pair.source, pair.target)}}
    stand_in = _stand_ins(dataset, described) if of_another_image else {i: i for i in described}
    rows = []
    for pair in chosen:
        source, target = dataset[pair.source], dataset[pair.target]
        a, b = described[pair.source], described[stand_in[pair.target]]
        rows.append(score_pair(source, target, pair, matcher(a, b, _size(source), _size(target)), normaliser))
    metrics = dict.fromkeys(metric for row in rows for metric in row)
    scores = {metric: np.array([row.get(metric, np.nan) for row in rows]) for metric in metrics}
    return Matched(scores, np.array([[pair.source, pair.target] for pair in chosen]))


def _stand_ins(dataset: Dataset | Sequence[Sample], images: Iterable[int]) -> dict[int, int]:
    """For each image the next one of its class; the first for the last."""
    same: dict[int, list[int]] = {}
    for i in sorted(images):
        same.setdefault(int(dataset[i]["labels"].argmax()), []).append(i)
    return {i: other for own in same.values() for i, other in zip(own, own[1:] + own[:1], strict=True)}


# The measurement ---------------------------------------------------------------------------------------------------

NEAREST = "nearest"
REGULARISED = (*ANCHORS, "classifier's features", "dense SIFT", "HOG", "raw RGB")  # what every matcher gets
CONTROLS = ("hypercolumns, untrained", *POSITION)  # what a descriptor has to beat
RIVALS = ("class-specific anchors", "hypercolumns", "dense SIFT")  # of the class-agnostic anchors


def measure_families(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """AnchorNets on the classifier's trunk: what their channels mark, and what their descriptors are worth."""
    seed = torch.initial_seed() % 2**32  # the experiment's, which all its networks share
    classifier = models["classifier"].cpu()
    recipe = get_recipe("anchornet", "synthetic", "book")  # it counts epochs: fewer images, fewer steps
    recipe = recipe.replace(model={"negatives": "background"})
    naive = untrained(data["train"], recipe)  # first, with the weights from which a training would begin
    networks = {
        name: anchors(data["train"], classifier, recipe.replace(model=changes), seed).cpu()
        for name, changes in LOSSES.items()
    }
    found: Measurement = {}
    for name, network in networks.items():
        _note(found, name, score_channels(*_on_splits(network, data, "class-specific"), data["test"]))
    _measure_sharing(found, networks | {"untrained": naive}, data)
    _measure_matching(found, describers(networks[FULL], classifier, naive), data["test"])
    return found


def _measure_sharing(found: Measurement, networks: Mapping[str, AnchorNet], data: Mapping[str, Dataset]) -> None:
    """Channels that stand for one part: in the images of a class, and in those of its relatives."""
    count = networks[FULL].config["filters"]
    compared = {name: (FULL, which) for name, which in ANCHORS.items()}
    compared["class-agnostic anchors, other classes as negatives"] = ("other classes as negatives", "class-agnostic")
    compared["hypercolumns, untrained"] = ("untrained", "hypercolumn")
    for name, (network, which) in compared.items():
        splits = _on_splits(networks[network], data, which)
        across = shared_agreement(*splits, data["test"], count)
        shared = torch.stack(list(across.values())).mean().item()
        _note(found, name, {SAME_PART: best_of_descriptor(*splits, data["test"], count), SHARED: shared})
    _note(found, "a random cell of the object", of_random_cells(*splits, data["test"], count))


def _measure_matching(found: Measurement, described: Mapping[str, Describe], dataset: Dataset) -> None:
    few, chosen = chosen_pairs(dataset)
    for kind, of_kind in chosen.items():
        for matcher, match in MATCHERS.items():
            for name in described if matcher == NEAREST else REGULARISED:
                _note_pairs(found, f"{name}, {matcher}, {kind}", match_all(few, of_kind, described[name], match))
        for name in ANCHORS:
            matched = match_all(few, of_kind, described[name], MATCHERS[NEAREST], of_another_image=True)
            _note_pairs(found, f"{name} of another image, {NEAREST}, {kind}", matched)
    own = "class-agnostic anchors"
    for metric in (PCK[0.1], PART_IOU):
        for rival in RIVALS:
            for kind in KINDS:
                values = (found[metric][f"{name}, {NEAREST}, {kind}"] for name in (own, rival))
                found[metric][f"{own} minus {rival}, {NEAREST}, {kind}"] = float(np.subtract(*values))


def _on_splits(network: AnchorNet, data: Mapping[str, Dataset], which: str) -> tuple[Fired, Fired]:
    return fire(network, data["val"], which), fire(network, data["test"], which)


def _note(found: Measurement, variant: str, scores: Mapping[str, float]) -> None:
    for metric, value in scores.items():
        found.setdefault(metric, {})[variant] = value


def _note_pairs(found: Measurement, variant: str, matched: Matched) -> None:
    _note(found, variant, {metric: matched.mean(metric) for metric in matched.scores})


def with_backgrounds(recipe: Recipe) -> Dataset:
    """The training images, and a third as many of other scenes without their object: images of no class."""
    train = open_split(recipe, "train")
    scenes = open_split(recipe.replace(images=None), "train", seed=OTHER_SCENES, length=max(1, len(train) // 3))
    return Chained([train, Intervened(scenes, remove=scenes.classes)])


def families_data(recipe: Recipe) -> dict[str, Dataset]:
    """Train, with backgrounds, for the banks; val to choose parts and channels on; test to read off."""
    return {"train": with_backgrounds(recipe)} | {split: open_split(recipe, split) for split in ("val", "test")}


EXPERIMENTS = (
    Experiment(
        name="anchornet-families",
        paper="cam",  # whose classifier gives the trunk
        dataset="synthetic",
        scope="synthetic",
        variants={"classifier": {"data": {"world": "families"}, **SHORT}},
        data=families_data,
        measure=measure_families,
    ),
)
