r"""Chapter 1: what the CAM paper claims, measured on the synthetic worlds.

What the chapter measures live is measured here by the same functions on the same images. Where a rule has a threshold
$\tau$, each variant gets the one that is best for it on val; test is only read off.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.data import Dataset, Subset, collate
from wsl_core.metrics import pointing_hits
from wsl_core.ops import Grid, normalize, resize_maps
from wsl_core.papers import build_model
from wsl_core.papers.cam import CAM, grad_cam
from wsl_core.recipes import Recipe
from wsl_core.training import localization_report, open_split, predict

__all__ = ["EXPERIMENTS"]

PAPER_THRESHOLD = 0.2  # tau, a share of the map's maximum
CHECKED = 64  # images for an identity, which holds for each of them

IDENTITY = "largest error of mean(map) + bias against the logit, relative to the largest logit"
GRAD_CAM = "largest error of Grad-CAM against the rectified map, both divided by their maxima"
CHOSEN = "GT-known localisation accuracy (IoU 0.5), threshold chosen on val"
FIXED = "GT-known localisation accuracy (IoU 0.5), threshold 20 %"
POINTING = "pointing accuracy on images with two classes"
TEXT_PRECISION = "pixel average precision of the text's boxes, mean over images"


# The zoo: where is the object? -------------------------------------------------------------------------------------


def localisation(model: nn.Module, data: Mapping[str, Dataset], threshold: float | None = None) -> dict[str, float]:
    """GT-known accuracy of the network's own maps beside everything that they have to beat: what the chapter shows."""
    splits = (data[f"{split}, one object"] for split in ("train", "val", "test"))
    rows = localization_report(model, *splits, threshold=threshold)
    return {_variant(row): row["gt_known"] for row in rows}


def _variant(row: Mapping[str, Any]) -> str:
    """The paper divides by the maximum; the other normalisation is named."""
    return f"{row['name']}, min-max" if row.get("normalization") == "minmax" else row["name"]


# The zoo: do two classes get two maps? -----------------------------------------------------------------------------


def pointing(model: nn.Module, dataset: Dataset) -> dict[str, float]:
    """Share of (image, class) pairs whose highest point lies on an object of the class; two classes an image."""
    own, other, centre = [], [], []
    for batch, _, maps, grid in predict(model, dataset, progress=False):
        present = batch["labels"].topk(2, dim=1).indices  # (B, 2)
        image = torch.arange(len(present))
        for label, rival in (present.unbind(1), present.flip(1).unbind(1)):
            masks = batch["mask"] == label[:, None, None] + 1
            seen = masks.any(dim=(1, 2))  # an object can hide behind the other
            own.append(pointing_hits(maps[image, label], masks, grid)[seen])
            other.append(pointing_hits(maps[image, rival], masks, grid)[seen])
            centre.append(masks[:, masks.shape[1] // 2, masks.shape[2] // 2][seen])
    hits = {"map of the class": own, "map of the other class": other, "image centre": centre}
    return {variant: torch.cat(found).float().mean().item() for variant, found in hits.items()}


# The zoo: two identities -------------------------------------------------------------------------------------------


def identity_error(model: CAM, images: Float[Tensor, "B 3 H W"]) -> float:
    """How far mean(M_c) + b_c is from the logit S_c, over all images and classes."""
    with torch.no_grad():
        logits, maps = model.scores_and_maps(images)
    return ((maps.mean(dim=(2, 3)) + model.classifier.bias - logits).abs().max() / logits.abs().max()).item()


def grad_cam_error(model: CAM, images: Float[Tensor, "B 3 H W"], labels: Float[Tensor, "B K"]) -> float:
    """How far Grad-CAM is from ReLU(M_c), each divided by its maximum, over the labelled classes."""
    with torch.no_grad():
        rectified = model.localize(images, labels).relu()
    return (normalize(grad_cam(model, images, labels, "head"), "max") - normalize(rectified, "max")).abs().max().item()


def identities(model: nn.Module, dataset: Dataset) -> Measurement:
    """Both identities in single and in double precision, on the CPU: a GPU may round products to 10 bits."""
    batch = collate([dataset[index] for index in range(min(CHECKED, len(dataset)))])
    errors: Measurement = {IDENTITY: {}, GRAD_CAM: {}}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        precise = deepcopy(model).cpu().to(dtype)
        images, labels = batch["image"].to(dtype), batch["labels"].to(dtype)
        errors[IDENTITY][name] = identity_error(precise, images)
        errors[GRAD_CAM][name] = grad_cam_error(precise, images, labels)
    return errors


def measure_zoo(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """All that one network tells."""
    model = models["CAM"]
    return {
        FIXED: localisation(model, data, PAPER_THRESHOLD),
        CHOSEN: localisation(model, data),
        POINTING: pointing(model, data["test, two objects"]),
        **identities(model, data["test, one object"]),
    }


# The zoo: does a finer map help? -----------------------------------------------------------------------------------


def measure_stride(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """The same maps at several resolutions: dilation changes nothing else, removal also how far a cell sees."""
    return {CHOSEN: {variant: localisation(model, data)["own map"] for variant, model in models.items()}}


def zoo_data(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's world, with a given number of objects in every image."""
    return {
        "train, one object": open_split(recipe, "train", objects=1, length=500),
        "val, one object": open_split(recipe, "val", objects=1),
        "test, one object": open_split(recipe, "test", objects=1),
        "test, two objects": open_split(recipe, "test", objects=2),
    }


# Text or no text ---------------------------------------------------------------------------------------------------


class Localised(NamedTuple):
    """One map an image, of its class, and what it should find."""

    maps: Float[Tensor, "N h w"]
    boxes: list[Float[Tensor, "_ 4"]]
    size: tuple[int, int]  # of the images, which are all alike
    grid: Grid | None = None  # where the cells of the maps lie

    def of_another_image(self) -> "Localised":
        """The control: each image gets the map of its neighbour."""
        return self._replace(maps=self.maps.roll(1, dims=0))

    def centre_gaussian(self) -> "Localised":
        """The control: the same bump in the middle of every image."""
        return self._replace(maps=gaussian(self.size).expand(len(self.maps), -1, -1), grid=None)


def localise(model: nn.Module, dataset: Dataset) -> Localised:
    """The map of the labelled class for every image of a data set with one class an image."""
    found = list(predict(model, dataset, progress=False))
    maps = [one.maps[torch.arange(len(one.maps)), one.batch["labels"].argmax(dim=1)] for one in found]
    boxes = [box for one in found for box in one.batch["boxes"]]
    return Localised(torch.cat(maps), boxes, tuple(found[0].batch["image"].shape[-2:]), found[0].grid)


def gaussian(size: tuple[int, int]) -> Float[Tensor, "1 H W"]:
    """A bump in the middle whose standard deviation is a quarter of each side."""
    y, x = ((torch.arange(side) + 0.5) / side - 0.5 for side in size)
    return torch.exp(-8 * (y[:, None] ** 2 + x[None] ** 2))[None]


def measure_text(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """The trained network's maps beside those of its own first weights."""
    model, written = models["CAM"], with_text(data["test"])
    test, untrained = localise(model, written), build_model(model.paper, **model.config)
    found = {
        "own map": test,
        "untrained network": localise(untrained, written),
        "another image's map": test.of_another_image(),
        "centre Gaussian": test.centre_gaussian(),
    }
    return {TEXT_PRECISION: {variant: pixel_precision(one) for variant, one in found.items()}}


def with_text(dataset: Dataset) -> Dataset:
    """The images that have text; "no text" has no place to look for."""
    return Subset(dataset, [index for index, sample in enumerate(dataset) if len(sample["boxes"])])


def pixel_precision(found: Localised) -> float:
    """Mean over images of the average precision of pixels. Ranking within an image, it needs no normalisation."""
    enlarged = resize_maps(found.maps[:, None], found.size, found.grid)[:, 0]
    scores = [average_precision(one, inside(boxes, found.size)) for one, boxes in zip(enlarged, found.boxes)]
    return sum(scores) / len(scores)


def inside(boxes: Float[Tensor, "M 4"], size: tuple[int, int]) -> Bool[Tensor, "H W"]:
    """The pixels whose centres lie in any of the boxes."""
    y, x = (torch.arange(side) + 0.5 for side in size)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (M, 1) each
    return ((y0 <= y) & (y < y1)).float().T @ ((x0 <= x) & (x < x1)).float() > 0


def average_precision(scores: Float[Tensor, "H W"], truth: Bool[Tensor, "H W"]) -> float:
    r"""$\sum_l P_l (R_l - R_{l-1})$ over all distinct scores; a constant map gets the share of true pixels.

    >>> average_precision(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([[True, False], [False, False]]))
    1.0
    """
    order = scores.flatten().argsort(descending=True)
    ranked, hits = scores.flatten()[order], truth.flatten()[order].double().cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])])  # equal scores are one step
    counts = torch.arange(1, len(ranked) + 1)[last]
    gained = torch.diff(hits[last], prepend=torch.zeros(1, dtype=torch.float64))
    return float((hits[last] / counts * gained).sum() / hits[-1])


def text_data(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's world."""
    return {"test": open_split(recipe, "test")}


EXPERIMENTS = (
    Experiment("cam-zoo", "cam", "synthetic", "synthetic", {"CAM": {}}, zoo_data, measure_zoo),
    Experiment(
        name="cam-stride",
        paper="cam",
        dataset="synthetic",
        scope="synthetic",
        variants={
            "output stride 16": {"model": {"output_stride": 16}},
            "output stride 8": {"model": {"stride_by": "dilation"}},  # sees as far as with stride 16
            "output stride 8 by removal": {},  # the recipe's: its last block sees half as far
        },
        data=zoo_data,
        measure=measure_stride,
    ),
    Experiment(
        name="cam-text",
        paper="cam",
        dataset="synthetic",
        scope="synthetic",
        variants={"CAM": {"data": {"world": "text"}}},
        data=text_data,
        measure=measure_text,
    ),
)
