r"""Chapter 3: what the ACoL paper claims, measured on the synthetic worlds.

All networks share trunk, head and steps; iterative erasing has trunk and head twice. What the chapter measures live is
measured here by the same functions. Where a rule has a threshold $\tau$, each variant gets the one that is best for it
on val; test is only read off.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.claims.experiments.gap_vs_gmp import (
    CHOSEN,
    CLASSIFICATION,
    COVERAGE,
    DOSES,
    IOU,
    NORMALIZATIONS,
    PARTS,
    PXAP,
    TOP1,
    Seen,
    best_threshold,
    box_ious,
    classification,
    grouped,
    pixel_scores,
    score_boxes,
    score_pixels,
    see,
    zoo_data,
)
from wsl_core.data import Dataset, collate
from wsl_core.ops import erase, normalize, resize_maps, ten_crop_scores
from wsl_core.papers.acol import ACoL
from wsl_core.papers.erasing_baselines import SingleClassifier
from wsl_core.recipes import Recipe
from wsl_core.training import open_split

__all__ = ["EXPERIMENTS", "HOLES", "answers_of_b", "conv_map_errors", "overlap", "see_branches"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the erasing, the paper's
CROP = 11 / 12  # side of the ten crops, as a share of the image's
CHECKED = 64  # images for an identity, which holds for each of them

HOLES = ("true class", "another class", "class that A predicts", "none: whole features")  # where A's region is erased

ACCURACY = "classification accuracy"
LEAK = "share of images in which B names the class that the hole is cut for, another than the image's"
COMPLEMENT = "one minus the IoU of what A and B light up, threshold 50 %"
IDENTITY = "largest error of 1x1 convolution, then mean, against mean, then linear layer: maps and logits, relative"


def see_branches(model: ACoL, dataset: Dataset, labels: str = "ground truth") -> dict[str, Seen]:
    """Maps of A, of B, and fused, for the labelled or for the predicted class; one class an image.

    Args:
        model: of two classifiers.
        labels: ``"ground truth"`` or ``"predicted"``: whose region is erased, and whose maps are returned.
    """
    model.eval()
    device = next(model.parameters()).device
    columns = []
    for batch in DataLoader(dataset, 64, collate_fn=collate, generator=torch.Generator()):
        images, true = batch["image"].to(device), batch["labels"].argmax(dim=1)
        with torch.no_grad():
            logits = model(images)
            chosen = true.to(device) if labels == "ground truth" else logits.argmax(dim=1)
            maps = model.branch_maps(images, F.one_hot(chosen, logits.shape[1]).float())
        a, b = (branch.sum(dim=1, keepdim=True).cpu() for branch in maps)  # maps of other classes are zero
        size = (images.shape[-2], images.shape[-1])
        fused = torch.maximum(normalize(a), normalize(b))
        large = [resize_maps(one, size, model.grid)[:, 0] for one in (a, b, fused)]
        objects = batch["mask"] == true[:, None, None] + 1
        columns.append((*large, logits.cpu(), true, batch["boxes"], objects, batch["parts"]))
    a, b, fused, logits, true, boxes, objects, parts = zip(*columns, strict=True)
    every = [box for batch in boxes for box in batch]
    rest = (torch.cat(logits), torch.cat(true), every, torch.cat(objects), torch.cat(parts))
    return {name: Seen(torch.cat(maps), *rest) for name, maps in (("A", a), ("B", b), ("fused", fused))}


def overlap(a: Float[Tensor, "N H W"], b: Float[Tensor, "N H W"], threshold: float = 0.5) -> float:
    """Mean IoU of what two maps of each image light up, each between its least and greatest value.

    Two flat maps overlap in nothing.

    >>> overlap(torch.tensor([[[0.0, 1.0, 1.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]]))
    0.3333333432674408
    """
    lit_a, lit_b = (normalize(maps) > threshold for maps in (a, b))
    shared, either = ((lit_a & lit_b).sum((1, 2)), (lit_a | lit_b).sum((1, 2)))
    return (shared / either.clamp(min=1)).mean().item()


def conv_map_errors(model: SingleClassifier, images: Float[Tensor, "B 3 H W"]) -> dict[str, float]:
    """The paper's equivalence: pooling behind the last convolution, or before it, as a linear layer.

    Both ways with the same weights, in two precisions; the largest difference of maps and logits, divided by the
    largest value.
    """
    errors = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        network = deepcopy(model).to(dtype).eval()
        *before, last = network.classifier
        with torch.no_grad():
            features = nn.Sequential(*before)(network.backbone(images.to(dtype)))
            maps = last(features)
            linear = features.mean(dim=(2, 3)) @ last.weight[:, :, 0, 0].T + last.bias
            by_cam = torch.einsum("bdhw,kd->bkhw", features, last.weight[:, :, 0, 0]) + last.bias[:, None, None]
        pairs = ((maps.mean(dim=(2, 3)), linear), (maps, by_cam))
        errors[name] = max(((one - other).abs().max() / other.abs().max()).item() for one, other in pairs)
    return errors


@torch.no_grad()
def answers_of_b(model: ACoL, dataset: Dataset, hole: str) -> tuple[float, float]:
    """How often B names the image's class, and how often the class for which the hole was cut.

    Args:
        hole: one of ``HOLES``. "another class" is each of the others in turn, image by image. Without a hole, the class
            that A predicts stands for the hole's.
    """
    device = next(model.parameters()).device
    right: list[Tensor] = []
    for batch in DataLoader(dataset, 64, collate_fn=collate, generator=torch.Generator()):
        true = batch["labels"].argmax(dim=1).to(device)
        features = model.backbone(batch["image"].to(device))
        maps_a = model.classifier_a(features)
        named = maps_a.mean(dim=(2, 3)).argmax(dim=1)
        classes = maps_a.shape[1]
        other = (true + 1 + torch.arange(len(true), device=device) % (classes - 1)) % classes
        cut_for = dict(zip(HOLES, (true, other, named, named), strict=True))[hole]
        lit = normalize(maps_a[torch.arange(len(true)), cut_for]) * (hole != HOLES[-1])
        left = erase(features, lit, model.erase_threshold, model.erasing, model.slope)
        answer = model.classifier_b(left).mean(dim=(2, 3)).argmax(dim=1)
        right.append(torch.stack([answer == true, answer == cut_for], dim=1).cpu())
    image_class, hole_class = torch.cat(right).float().mean(dim=0).tolist()
    return image_class, hole_class


def measure_creatures(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """Every network by every metric under both normalisations; the branches of those that have two."""
    val, test = data["val"], data["test"]
    found: Measurement = {ACCURACY: {name: classification(model, test) for name, model in models.items()}}
    images = torch.stack([test[i]["image"] for i in range(min(CHECKED, len(test)))])
    found[IDENTITY] = conv_map_errors(models["one classifier"], images)
    for name, model in models.items():
        _score(found, name, see(model, val), see(model, test))
        if isinstance(model, ACoL):
            on_val, on_test = see_branches(model, val), see_branches(model, test)
            for branch in ("A", "B"):
                _score(found, f"{name}, {branch}", on_val[branch], on_test[branch])
                _score_parts(found, f"{name}, {branch}", on_test[branch], test)
            _score_parts(found, f"{name}, fused", on_test["fused"], test)
            found.setdefault(COMPLEMENT, {})[name] = 1 - overlap(on_test["A"].maps, on_test["B"].maps)
            found.setdefault(LEAK, {})[name] = answers_of_b(model, test, "another class")[1]
    erased_late = deepcopy(models["nothing erased"]) if "nothing erased" in models else None
    if erased_late is not None:
        erased_late.erase_threshold = models["ACoL"].erase_threshold
        late = see_branches(erased_late, test)
        found[COMPLEMENT]["nothing erased in training, erased at test"] = 1 - overlap(late["A"].maps, late["B"].maps)
    _score_labels(found, models, val, test)
    return found


def _score(found: Measurement, name: str, val: Seen, test: Seen) -> None:
    for how, suffix in NORMALIZATIONS.items():
        for metric, value in (score_boxes(val, test, how) | score_pixels(test, how)).items():
            found.setdefault(metric, {})[name + suffix] = value


def _score_parts(found: Measurement, name: str, test: Seen, dataset: Dataset) -> None:
    """Which share of head, body and limbs is lit, each map between its least and greatest value."""
    lit = pixel_scores(test._replace(parts=grouped(test.parts, dataset.part_names)), "minmax")
    found[COVERAGE] |= {f"{name}, {part}": lit["part_coverage"][p] for p, part in enumerate(PARTS)}


def _score_labels(found: Measurement, models: Mapping[str, nn.Module], val: Dataset, test: Dataset) -> None:
    """Where the label comes from: erasing by the predicted class, and classes named by another network or ten crops."""
    acol = models["ACoL"]
    ious = {split: box_ious(see_branches(acol, data)["fused"]) for split, data in (("val", val), ("test", test))}
    best = best_threshold(ious["val"])
    right = torch.from_numpy(ious["test"][:, best] >= IOU)
    by_prediction = see_branches(acol, test, "predicted")["fused"]
    found[CHOSEN]["ACoL, predicted label"] = float((box_ious(by_prediction)[:, best] >= IOU).mean())
    others = {name: classification(model, val) for name, model in models.items() if name != "ACoL"}
    stronger = models[max(others, key=lambda name: others[name])]
    size = round(CROP * test.image_size)
    for name, model, crop in (
        ("ACoL, classes by the best other network", stronger, None),
        ("ACoL, classes by ten crops", acol, size),
    ):
        correct = named(model, test, crop)
        found[ACCURACY][name] = correct.float().mean().item()
        found[TOP1][name] = (right & correct).float().mean().item()


@torch.no_grad()
def named(model: nn.Module, dataset: Dataset, crop: int | None = None) -> Bool[Tensor, " N"]:
    """Whether the highest score is that of the label, from the whole image or from ten crops."""
    device = next(model.parameters()).device
    correct = []
    for batch in DataLoader(dataset, 64, collate_fn=collate, generator=torch.Generator()):
        images = batch["image"].to(device)
        logits = model(images) if crop is None else ten_crop_scores(model, images, crop)
        correct.append(logits.argmax(dim=1).cpu() == batch["labels"].argmax(dim=1))
    return torch.cat(correct)


def measure_dose(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """Both networks at every concentration of the evidence; the differences between them are variants too."""
    found: Measurement = {ACCURACY: {}}
    for name, model in models.items():
        dose = name.partition(", ")[2]
        found[ACCURACY][name] = classification(model, data[f"test, {dose}"])
        _score(found, name, *(see(model, data[f"{split}, {dose}"]) for split in ("val", "test")))
    for metric, suffix in ((PXAP, ", min-max"), (CHOSEN, ", min-max"), (ACCURACY, "")):
        for dose in DOSES:
            two, one = (found[metric][f"{network}, {dose}{suffix}"] for network in ("ACoL", "one classifier"))
            found[metric][f"ACoL minus one classifier, {dose}{suffix}"] = two - one
    return found


def measure_zoo(models: Mapping[str, nn.Module], data: Mapping[str, Dataset]) -> Measurement:
    """Both networks on images of one object."""
    found: Measurement = {CLASSIFICATION: {name: classification(model, data["test"]) for name, model in models.items()}}
    val, test = (data[f"{split}, one object"] for split in ("val", "test"))
    for name, model in models.items():
        _score(found, name, see(model, val), see(model, test))
    return found


def dose_data(recipe: Recipe) -> dict[str, Dataset]:
    """Val and test at every concentration."""
    return {
        f"{split}, {dose}": open_split(recipe, split, concentration=concentration)
        for dose, concentration in DOSES.items()
        for split in ("val", "test")
    }


def creatures_data(recipe: Recipe) -> dict[str, Dataset]:
    """The recipe's world: val to choose thresholds on, test to read off."""
    return {split: open_split(recipe, split) for split in ("val", "test")}


EXPERIMENTS = (
    Experiment(
        name="acol-creatures",
        paper="acol",
        dataset="synthetic",
        scope="synthetic",
        variants={
            "ACoL": {},
            "one classifier": {"paper": "single_classifier"},
            **{f"threshold {value:g}": {"model": {"erase_threshold": value}} for value in THRESHOLDS if value != 0.6},
            "threshold 0.2": {"model": {"erase_threshold": 0.2}},
            "nothing erased": {"model": {"erase_threshold": 1.1}},
            "soft erasing": {"model": {"erasing": "soft"}},
            "another image's mask": {"model": {"mask_of": "another image"}},
            "random cells": {"model": {"mask_of": "random cells"}},
            "Hide-and-Seek": {"paper": "hide_and_seek"},
            "iterative erasing": {"paper": "iterative_erasing"},
        },
        data=creatures_data,
        measure=measure_creatures,
    ),
    Experiment(
        name="acol-dose",
        paper="acol",
        dataset="synthetic",
        scope="synthetic",
        variants={
            f"{network}, {dose}": {"paper": paper, "data": {"concentration": concentration}}
            for dose, concentration in DOSES.items()
            for network, paper in (("ACoL", "acol"), ("one classifier", "single_classifier"))
        },
        data=dose_data,
        measure=measure_dose,
    ),
    Experiment(
        name="acol-zoo",
        paper="cam",  # whose recipe has the zoo
        dataset="synthetic",
        scope="synthetic",
        variants={"ACoL": {"paper": "acol"}, "one classifier": {"paper": "single_classifier"}},
        data=zoo_data,
        measure=measure_zoo,
    ),
)
