r"""Chapter 2: average against maximum pooling, measured on the synthetic worlds.

What the chapter measures live is measured here by the same functions. Where a rule has a threshold $\tau$, each variant
gets the one that is best for it on val; test is only read off.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.data import Dataset, collate
from wsl_core.data.intervened import Intervened
from wsl_core.metrics import MaxBoxAccEvaluator, PixelEvaluator, best_ious
from wsl_core.ops import normalize, resize_maps
from wsl_core.papers.cam import gradient_saliency
from wsl_core.recipes import Recipe
from wsl_core.training import open_split, predict
from wsl_core.training.evaluation import THRESHOLDS, classification_scores

__all__ = [
    "EXPERIMENTS",
    "PARTS",
    "Seen",
    "best_threshold",
    "box_ious",
    "grouped",
    "over_cells",
    "part_drops",
    "pixel_scores",
    "relative_score",
    "saliency",
    "score_boxes",
    "score_pixels",
    "see",
    "shares",
]

PAPER_THRESHOLD = 0.2  # tau, a share of the map's maximum
IOU = 0.5  # delta
NORMALIZATIONS = {"max": "", "minmax": ", min-max"}  # how a variant's name tells them; the paper divides by the maximum
PARTS = {"head": ("head", "eye"), "body": ("body",), "limbs": ("leg", "tail")}  # of a creature, by what may tell it
DOSES = {f"concentration {dose:g}": dose for dose in (0.0, 0.5, 1.0)}
CHANGED = 200  # images that are rendered again without each part
SHORT = {"steps": 600, "batch_size": 32}  # thirty networks have to fit in an hour

CHOSEN = "GT-known localisation accuracy (IoU 0.5), threshold chosen on val"
FIXED = "GT-known localisation accuracy (IoU 0.5), threshold 20 %"
TOP1 = "top-1 localisation accuracy (IoU 0.5), threshold chosen on val"
MAX_BOX_ACC = "MaxBoxAccV2, in [0, 1]"
PXAP = "PxAP, in [0, 1]"
COVERAGE = "coverage: share of the objects' pixels that are lit, threshold 20 %"
PRECISION = "precision: share of the lit pixels that are the objects', threshold 20 %"
CLASSIFICATION = "mean average precision of classification"
ACCURACY = "classification accuracy"
RELIANCE = "largest share that a part (head, body, limbs) has in the drops of the score when each is left out"


# What a network sees -----------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Images of one class each, with a map of this class at the images' own pixels."""

    maps: Float[Tensor, "N H W"]
    logits: Float[Tensor, "N K"]
    labels: Int[Tensor, " N"]
    boxes: list[Float[Tensor, "_ 4"]]
    objects: Bool[Tensor, "N H W"]  # the pixels of the class
    parts: Int[Tensor, "N H W"]


def see(model: nn.Module, dataset: Dataset) -> Seen:
    """The network's raw maps of the labelled classes; one class an image, images of one size."""
    columns = []
    for batch, logits, maps, grid in predict(model, dataset, progress=False, labelled=True):
        labels = batch["labels"].argmax(dim=1)
        own = maps[torch.arange(len(labels)), labels][:, None]
        own = resize_maps(own, tuple(batch["image"].shape[-2:]), grid)[:, 0]
        objects = batch["mask"] == labels[:, None, None] + 1
        columns.append((own, logits, labels, batch["boxes"], objects, batch["parts"]))
    maps, logits, labels, boxes, objects, parts = zip(*columns, strict=True)
    every = [box for batch in boxes for box in batch]
    return Seen(torch.cat(maps), torch.cat(logits), torch.cat(labels), every, torch.cat(objects), torch.cat(parts))


def saliency(model: nn.Module, dataset: Dataset) -> Float[Tensor, "N H W"]:
    """Gradient saliency of the labelled classes, the paper's baseline."""
    device = next(model.parameters()).device
    maps = []
    for batch in DataLoader(dataset, 64, collate_fn=collate, generator=torch.Generator()):
        every = gradient_saliency(model, batch["image"].to(device), batch["labels"].to(device))
        maps.append(every.sum(dim=1).cpu())  # the maps of other classes are zero
    return torch.cat(maps)


def over_cells(maps: Float[Tensor, "N H W"], stride: int) -> Float[Tensor, "N H W"]:
    """Means over squares of ``stride`` pixels, enlarged as a map of such cells is: saliency without its specks.

    >>> over_cells(torch.tensor([[[0.0, 2.0], [4.0, 6.0]]]), 2).unique().tolist()
    [3.0]
    """
    return resize_maps(F.avg_pool2d(maps[:, None], stride), tuple(maps.shape[-2:]))[:, 0]


def box_ious(seen: Seen, how: str = "max") -> Float[np.ndarray, "N T"]:
    """IoU of the box of each image's map with the best matching true box, at all of ``THRESHOLDS``."""
    return np.stack([best_ious(*pair, THRESHOLDS, how) for pair in zip(seen.maps, seen.boxes, strict=True)])


def best_threshold(ious: Float[np.ndarray, "N T"], iou: float = IOU) -> int:
    """Position of the one threshold that makes most boxes of the set right. For a choice on val.

    >>> best_threshold(np.array([[0.9, 0.6, 0.0], [0.0, 0.7, 0.8]]))
    1
    """
    return int((ious >= iou).mean(axis=0).argmax())


def pixel_scores(seen: Seen, how: str = "max", threshold: float = PAPER_THRESHOLD) -> dict[str, Any]:
    """What of the objects and of their parts is lit, by :class:`wsl_core.metrics.PixelEvaluator`."""
    evaluator = PixelEvaluator()
    evaluator.update(normalize(seen.maps, how), seen.objects.long(), seen.parts)
    return evaluator.compute(threshold)


# The zoo: localisation by every metric -----------------------------------------------------------------------------


def measure_zoo(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """Both networks, and the gradient of the first, by every metric and under both normalisations."""
    on_val, on_test = (evidence(models, data[f"{split}, one object"]) for split in ("val", "test"))
    found: Measurement = {CLASSIFICATION: {name: classification(model, data["test"]) for name, model in models.items()}}
    for name, test in on_test.items():
        for how, suffix in NORMALIZATIONS.items():
            for metric, value in (score_boxes(on_val[name], test, how) | score_pixels(test, how)).items():
                found.setdefault(metric, {})[name + suffix] = value
    return found


def evidence(models: Mapping[str, nn.Module], dataset: Dataset) -> dict[str, Seen]:
    """The maps of every network, and back-propagation through the GAP network, as it is and averaged over cells."""
    seen = {name: see(model, dataset) for name, model in models.items()}
    by_pixel = saliency(models["GAP"], dataset)
    by_cell = over_cells(by_pixel, int(models["GAP"].grid.stride))
    seen["gradient saliency"] = seen["GAP"]._replace(maps=by_pixel)
    seen["gradient saliency over cells"] = seen["GAP"]._replace(maps=by_cell)
    return seen


def classification(model: nn.Module, dataset: Dataset) -> float:
    """Accuracy with one label an image, mean average precision with several."""
    (score,) = classification_scores(model, dataset).values()
    return score


def score_boxes(val: Seen, test: Seen, how: str) -> dict[str, float]:
    """The paper's box rule at 20 % and at the threshold that is best on val; the rule of wsolevaluation."""
    ious = box_ious(test, how)
    right = ious[:, best_threshold(box_ious(val, how))] >= IOU
    named = (test.logits.argmax(dim=1) == test.labels).numpy()
    official = MaxBoxAccEvaluator()
    official.update(normalize(test.maps, how), test.boxes)
    return {
        CHOSEN: float(right.mean()),
        FIXED: float((ious[:, THRESHOLDS.index(PAPER_THRESHOLD)] >= IOU).mean()),
        TOP1: float((right & named).mean()),
        MAX_BOX_ACC: official.compute()["max_box_acc_v2"] / 100,
    }


def score_pixels(test: Seen, how: str) -> dict[str, float]:
    """The share of the object that is lit, what that costs, and both at all thresholds in one number."""
    found = pixel_scores(test, how)
    return {PXAP: found["pxap"] / 100, COVERAGE: found["coverage"], PRECISION: found["precision"]}


def zoo_data(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's world with one object in every image, to localise, and as it is, to classify."""
    return {
        "val, one object": open_split(recipe, "val", objects=1),
        "test, one object": open_split(recipe, "test", objects=1),
        "test": open_split(recipe, "test"),
    }


# The creatures: how concentrated is the evidence? ------------------------------------------------------------------


def measure_dose(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """Extent and reliance of both networks at every concentration; differences between them are variants too."""
    found: Measurement = {COVERAGE: {}, PXAP: {}, ACCURACY: {}, RELIANCE: {}}
    for name, model in models.items():
        dose = name.partition(", ")[2]
        dataset = data[f"test, {dose}"]
        test = see(model, dataset)
        lit = pixel_scores(test._replace(parts=grouped(test.parts, dataset.part_names)))
        found[ACCURACY][name] = classification(model, dataset)
        found[COVERAGE][name] = lit["coverage"]
        found[COVERAGE] |= {f"{name}, {part}": lit["part_coverage"][p] for p, part in enumerate(PARTS)}
        for how, suffix in NORMALIZATIONS.items():
            found[PXAP][name + suffix] = score_pixels(test, how)[PXAP]
        without = {part: data[f"without {part}, {dose}"] for part in PARTS}
        reliance = shares(part_drops(model, data[f"whole, {dose}"], without))
        found[RELIANCE][name] = max(reliance.values())
        found[RELIANCE] |= {f"{name}, {part}": share for part, share in reliance.items()}
    for metric, suffixes in ((COVERAGE, ("",)), (PXAP, NORMALIZATIONS.values())):
        for name in (dose + suffix for dose in DOSES for suffix in suffixes):
            found[metric][f"GAP minus GMP, {name}"] = found[metric][f"GAP, {name}"] - found[metric][f"GMP, {name}"]
    return found


def grouped(parts: Int[Tensor, "*pixels"], part_names: Sequence[str]) -> Int[Tensor, "*pixels"]:
    """Parts by what may tell the species: 1 head, 2 body, 3 limbs, as in ``PARTS``; 0 for none.

    >>> grouped(torch.tensor([0, 1, 2, 3]), ("tail", "eye", "body")).tolist()
    [0, 3, 1, 2]
    """
    group = {name: p + 1 for p, names in enumerate(PARTS.values()) for name in names}
    return torch.tensor([0, *(group[name] for name in part_names)])[parts]


def relative_score(logits: Float[Tensor, "N K"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The labelled class's logit above the mean of all: what a softmax sees does not change when all logits rise.

    >>> relative_score(torch.tensor([[5.0, 1.0]]), torch.tensor([0])).item()
    2.0
    """
    return logits.gather(1, labels[:, None])[:, 0] - logits.mean(dim=1)


def part_drops(model: nn.Module, whole: Dataset, without: Mapping[str, Dataset]) -> dict[str, float]:
    """By how much the score falls when a part is left out, mean over images. ``without``: the same images, by part."""
    before = labelled_score(model, whole)
    return {part: (before - labelled_score(model, dataset)).mean().item() for part, dataset in without.items()}


def labelled_score(model: nn.Module, dataset: Dataset) -> Float[Tensor, " N"]:
    """:func:`relative_score` of every image of a data set with one class an image."""
    found = predict(model, dataset, progress=False)
    return torch.cat([relative_score(one.logits, one.batch["labels"].argmax(dim=1)) for one in found])


def shares(drops: Mapping[str, float]) -> dict[str, float]:
    """Each part's share in the drops. A part whose absence raises the score has none; without any drop all have equal.

    >>> shares({"head": 3.0, "body": -1.0, "limbs": 1.0})
    {'head': 0.75, 'body': 0.0, 'limbs': 0.25}
    """
    positive = {part: max(drop, 0.0) for part, drop in drops.items()}
    total = sum(positive.values())
    return {part: drop / total if total else 1 / len(drops) for part, drop in positive.items()}


def dose_data(recipe: Recipe) -> dict[str, Dataset]:
    """The test set at every concentration; fewer images as they are and without each of the parts."""
    found: dict[str, Dataset] = {}
    for dose, concentration in DOSES.items():
        found[f"test, {dose}"] = open_split(recipe, "test", concentration=concentration)
        few = open_split(recipe, "test", concentration=concentration, length=recipe.images or CHANGED)
        found[f"whole, {dose}"] = few
        for part, names in PARTS.items():
            found[f"without {part}, {dose}"] = Intervened(few, remove=names)
    return found


EXPERIMENTS = (
    Experiment(
        name="gap-gmp-zoo",
        paper="cam",
        dataset="synthetic",
        scope="synthetic",
        variants={"GAP": {}, "GMP": {"model": {"pooling": "gmp"}}},
        data=zoo_data,
        measure=measure_zoo,
    ),
    Experiment(
        name="gap-gmp-dose",
        paper="cam",
        dataset="synthetic",
        scope="synthetic",
        variants={
            f"{pooling.upper()}, {dose}": {
                "data": {"world": "creatures", "concentration": concentration},
                "model": {"pooling": pooling},
                **SHORT,
            }
            for dose, concentration in DOSES.items()
            for pooling in ("gap", "gmp")
        },
        data=dose_data,
        measure=measure_dose,
    ),
)
