r"""Chapter 2: what else the features are good for: units as detectors, other concepts, crops.

The networks stay as they were trained. Where something is learned on top of them it is one linear layer, on images that
they have not been trained on; its weight decay, as every threshold, is chosen on val.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.ops import roi_align

from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.claims.experiments.cam import TEXT_PRECISION, localise, pixel_precision, with_text
from wsl_core.claims.experiments.gap_vs_gmp import ACCURACY, SHORT, best_threshold, box_ious, see
from wsl_core.data import Batch, Dataset, Subset, collate
from wsl_core.localize import boxes_from_map
from wsl_core.metrics import pointing_hits
from wsl_core.ops import global_pool, resize_maps
from wsl_core.papers import build_model
from wsl_core.papers.cam import CAM
from wsl_core.recipes import Recipe
from wsl_core.training import open_split, predict
from wsl_core.training.evaluation import THRESHOLDS

__all__ = [
    "EXPERIMENTS", "Described", "best_linear", "cut_out", "describe", "fit_linear", "propose", "squares", "unit_hits"
]  # fmt: skip

DETECTORS = 3  # units of the highest weight that are looked at for each class
STRONGEST = 20  # images in which a unit fires most
FRESH = 1000  # images for a linear layer
DECAYS = (1.0, 0.1, 0.01, 0.001)  # of its weights, the strongest first
CLOSER = 3  # how much finer the scene is rendered from which crops are cut
MARGIN = 0.1  # around a proposed box, as a share of its longer side

UNITS = "share of a unit's 20 strongest images in which its peak lies on an object of the class"


def batches(dataset: Dataset) -> Iterator[Batch]:
    """The samples in order; draws no random number."""
    return iter(DataLoader(dataset, 64, collate_fn=collate, generator=torch.Generator()))


# Units as detectors ------------------------------------------------------------------------------------------------


@torch.no_grad()
def unit_hits(model: CAM, dataset: Dataset, strongest: int = STRONGEST) -> Float[Tensor, "D K"]:
    """For each unit and each class: in how many of the unit's strongest images its peak lies on an object of the class.

    Args:
        dataset: one class an image.
        strongest: images in which the unit's maximum is highest.

    Returns:
        shares in [0, 1].
    """
    peaks, hits, labels = [], [], []
    for batch in batches(dataset):
        label, features = batch["labels"].argmax(dim=1), model.features(batch["image"])
        objects = batch["mask"] == label[:, None, None] + 1
        peaks.append(features.amax(dim=(2, 3)))
        hits.append(torch.stack([pointing_hits(unit, objects, model.grid) for unit in features.unbind(1)], dim=1))
        labels.append(batch["labels"])
    strength, on_object = torch.cat(peaks), torch.cat(hits).float()  # (N, D) each
    chosen = strength.topk(min(strongest, len(strength)), dim=0).indices  # (n, D)
    return (on_object.gather(0, chosen)[:, :, None] * torch.cat(labels)[chosen]).mean(dim=0)


def measure_units(
    model: CAM, dataset: Dataset, detectors: int = DETECTORS, strongest: int = STRONGEST
) -> dict[str, float]:
    """The units of the highest weight for a class, beside the mean over all units, which is what a random one gives."""
    hits = unit_hits(model, dataset, strongest)
    weight = model.classifier.weight.detach()  # (K, D)
    order = weight.argsort(dim=1, descending=True)
    ranked = hits.T.gather(1, order)  # (K, D)
    return {
        "units of the highest weight": ranked[:, :detectors].mean().item(),
        "units at random": hits.mean().item(),
        "units of the lowest weight": ranked[:, -detectors:].mean().item(),
    }


# A linear layer on features ----------------------------------------------------------------------------------------


class Described(NamedTuple):
    """Images as the classifier gets them."""

    features: Float[Tensor, "N D"]  # pooled
    labels: Int[Tensor, " N"]


@torch.no_grad()
def describe(model: CAM, images: Iterator[tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B K"]]]) -> Described:
    """Pooled features of batches of images with one label each."""
    found = [
        (global_pool(model.features(batch), model.pooling, model.pooling_parameter), labels.argmax(dim=1))
        for batch, labels in images
    ]
    features, labels = zip(*found, strict=True)
    return Described(torch.cat(features), torch.cat(labels))


def fit_linear(train: Described, classes: int, decay: float) -> nn.Linear:
    r"""Multinomial logistic regression, $\sum_i \mathrm{CE}_i / N + \frac\lambda 2 \lVert w \rVert^2$, to convergence.

    The decay acts on standardised features; the layer that is returned takes them as they are.
    """
    mean, std = train.features.mean(dim=0), train.features.std(dim=0).clamp(min=1e-6)
    inputs = ((train.features - mean) / std).double()
    layer = nn.Linear(inputs.shape[1], classes, dtype=torch.float64)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(inputs), train.labels) + decay / 2 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        layer.weight /= std
        layer.bias -= layer.weight @ mean.double()
    return layer.float().requires_grad_(False)


def accuracy(layer: nn.Linear, described: Described) -> float:
    """Share of images whose class scores highest."""
    return (layer(described.features).argmax(dim=1) == described.labels).float().mean().item()


def best_linear(train: Described, val: Described, classes: int) -> nn.Linear:
    """The layer whose weight decay is best on val; the strongest of those that are equally good."""
    return max((fit_linear(train, classes, decay) for decay in DECAYS), key=lambda layer: accuracy(layer, val))


# Other concepts ----------------------------------------------------------------------------------------------------


def measure_features(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """A network that was trained on objects: its units, and a concept of which it has never heard."""
    model = models["CAM"].cpu()
    untrained = build_model(model.paper, **model.config).eval()
    return {
        UNITS: measure_units(model, data["test, one object"]),
        TEXT_PRECISION: transfer(model, untrained, data),
    }


def transfer(model: CAM, untrained: CAM, data: Mapping[str, Dataset]) -> dict[str, float]:
    """How well the text is found when only a linear layer has seen which images have text."""
    written = with_text(data["text, test"])
    test = localise(taught(model, data), written)
    found = {
        "learnt on objects": test,
        "untrained network": localise(taught(untrained, data), written),
        "another image's map": test.of_another_image(),
        "centre Gaussian": test.centre_gaussian(),
    }
    return {variant: pixel_precision(one) for variant, one in found.items()}


def taught(model: CAM, data: Mapping[str, Dataset]) -> CAM:
    """A copy with another linear layer, fitted to tell text from no text on features as they are."""
    train, val = (
        describe(model, ((batch["image"], batch["labels"]) for batch in batches(data[f"text, {split}"])))
        for split in ("train", "val")
    )
    other = deepcopy(model)
    other.classifier = best_linear(train, val, classes=2)
    return other


def features_data(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's world with one object in every image, and street scenes with and without text."""
    return {
        "test, one object": open_split(recipe, "test", objects=1),
        "text, train": open_split(recipe, "train", world="text", length=FRESH),
        "text, val": open_split(recipe, "val", world="text"),
        "text, test": open_split(recipe, "test", world="text"),
    }


# Crops -------------------------------------------------------------------------------------------------------------


def measure_crops(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """Classify at a glance, cut out the box of the predicted class's map, look closer, classify again."""
    model = models["GAP"].cpu()
    threshold = THRESHOLDS[best_threshold(box_ious(see(model, data["val"])))]
    views: dict[str, dict[str, Described]] = {}
    for split in ("train", "val", "test"):
        for view, described in look(model, data[split], data[f"{split}, close"], threshold).items():
            views.setdefault(view, {})[split] = described
    classes = len(data["train"].classes)
    return {
        ACCURACY: {
            view: accuracy(best_linear(split["train"], split["val"], classes), split["test"])
            for view, split in views.items()
        }
    }


def look(model: CAM, glance: Dataset, close: Dataset, threshold: float) -> dict[str, Described]:
    """The features of the full image and of crops: by the map, by another image's map, by the true box."""
    size = glance.image_size
    boxes = CLOSER * propose(model, glance, threshold)
    true = torch.cat([sample["boxes"] for sample in close])
    crops = {"crop by map": boxes, "crop by another image's map": boxes.roll(1, dims=0), "crop by true box": true}
    full = describe(model, ((batch["image"], batch["labels"]) for batch in batches(glance)))
    cut = {view: describe(model, _crops(close, squares(places, CLOSER * size), size)) for view, places in crops.items()}
    return {"full image": full, **cut}


def propose(model: CAM, dataset: Dataset, threshold: float) -> Float[Tensor, "N 4"]:
    """The box of the predicted class's map for each image; the full frame where the map has no evidence."""
    boxes = []
    for batch, logits, maps, grid in predict(model, dataset, progress=False):
        height, width = batch["image"].shape[-2:]
        own = maps[torch.arange(len(maps)), logits.argmax(dim=1)][:, None]
        for one in resize_maps(own, (height, width), grid)[:, 0]:
            found = boxes_from_map(one, threshold)
            boxes.append(found[0] if len(found) else torch.tensor([0.0, 0.0, width, height]))
    return torch.stack(boxes)


def squares(boxes: Float[Tensor, "N 4"], frame: float, margin: float = MARGIN) -> Float[Tensor, "N 4"]:
    """The square around each box with a margin, moved and at most made as small as the frame so that it lies within.

    >>> squares(torch.tensor([[0.0, 4.0, 10.0, 6.0]]), frame=20, margin=0.2).tolist()
    [[0.0, 0.0, 12.0, 12.0]]
    """
    side = ((boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True) * (1 + margin)).clamp(max=frame)
    start = (boxes[:, :2] + boxes[:, 2:] - side) / 2
    start = torch.minimum(start.clamp(min=0), frame - side)
    return torch.cat([start, start + side], dim=1)


def cut_out(images: Float[Tensor, "B 3 H W"], boxes: Float[Tensor, "B 4"], size: int) -> Float[Tensor, "B 3 size size"]:
    """What each image shows in its box, at ``size`` by ``size`` pixels; each is the mean of what it covers.

    >>> images = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    >>> cut_out(images, torch.tensor([[0.0, 0.0, 2.0, 2.0]]), 1)[0, 0].item()  # of 0, 1, 4 and 5
    2.5
    """
    return roi_align(images, list(boxes[:, None]), size, aligned=True)


def _crops(
    close: Dataset, boxes: Float[Tensor, "N 4"], size: int
) -> Iterator[tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B K"]]]:
    start = 0
    for batch in batches(close):
        images = batch["image"]
        yield cut_out(images, boxes[start : start + len(images)], size), batch["labels"]
        start += len(images)


def crops_data(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's images, and the same scenes rendered finer. Train: images that the network has not been shown."""
    trained_on, size = len(open_split(recipe, "train")), open_split(recipe, "train").image_size
    splits: dict[str, Dataset] = {}
    for name, options in (("", {}), (", close", {"size": CLOSER * size})):
        longer = open_split(recipe, "train", length=trained_on + FRESH, **options)
        splits[f"train{name}"] = Subset(longer, range(len(longer))[-FRESH:])
        splits |= {f"{split}{name}": open_split(recipe, split, **options) for split in ("val", "test")}
    return splits


GLANCE = {
    "data": {"world": "creatures", "species": 12, "concentration": 0.5, "size": 48},
    "model": {"output_stride": 4},  # a map of 12 by 12, as in the other chapters' networks
    **SHORT,
}

EXPERIMENTS = (
    Experiment(
        name="cam-features",
        paper="cam",
        dataset="synthetic",
        scope="synthetic",
        variants={"CAM": {}},
        data=features_data,
        measure=measure_features,
    ),
    Experiment(
        name="cam-crops",
        paper="cam",
        dataset="synthetic",
        scope="synthetic",
        variants={"GAP": GLANCE},
        data=crops_data,
        measure=measure_crops,
    ),
)
