"""Running a trained model over a data set, and scoring what comes out beside the controls."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from wsl_core.data import Batch, Dataset, Subset, collate
from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import (
    LocalizationEvaluator,
    MaxBoxAccEvaluator,
    best_centered_box,
    centered_boxes,
    fixed_box_accuracy,
)
from wsl_core.metrics.localization import has_its_boxes
from wsl_core.ops import Grid, normalize, resize_maps

__all__ = [
    "Prediction", "classification_scores", "has_boxes", "localization_report", "max_box_acc_report", "predict",
    "to_device",
]  # fmt: skip

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # tau, among which val chooses
MAP_ROWS = (  # what is scored, and how it is normalised
    ("own map", "max"),
    ("own map", "minmax"),
    ("another image's map", "max"),
    ("another image's map", "minmax"),
    ("centre Gaussian", "max"),
)
REPORTED = (
    "gt_known", "top1_localization", "top5_localization", "top1_classification", "top5_classification", "mean_iou",
    "pairs", "unboxed_images",
)  # fmt: skip
MAP_LABELS = "ground truth for gt_known, predicted for top1 and top5"


class Prediction(NamedTuple):
    """What a network says about a batch: class scores, and raw maps of all classes."""

    batch: Batch
    logits: Float[Tensor, "B K"]
    maps: Float[Tensor, "B K h w"]
    grid: Grid | None  # where the cells of the maps lie, for `resize_maps`


def predict(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
    labelled: bool = False,
) -> Iterator[Prediction]:
    """Logits and raw maps for every sample, batch by batch, in the data set's order.

    Maps are of all classes, or with ``labelled`` of those that an image is labelled with; the others are zero then.
    That matters for models that make each class's map by itself, such as ACoL. Nothing is kept, so memory stays what
    one batch needs. Everything yielded is on the CPU. The model is put into evaluation mode, and moved to ``device`` if
    one is named. Images of several sizes go through it one by one, so that no padding takes part in the scores; their
    maps are enlarged to the images' own pixels.

    The model is called as ``model.scores_and_maps(images, labels)``, or if it has no such method as ``model(images)``
    and ``model.localize(images, labels)``. Without a ``grid`` of its own, the cells of its maps are taken to tile the
    image.
    """
    for batch in _batches(model, dataset, batch_size, device, progress):
        with torch.no_grad():  # ends before the yield: the caller's gradients are the caller's business
            prediction = _predict_batch(model, batch, labelled)
        yield prediction


def _batches(
    model: nn.Module, dataset: Dataset, batch_size: int, device: str | torch.device | None, progress: bool
) -> Iterator[Batch]:
    model.eval()
    if device is not None:
        model.to(device)
    loader = DataLoader(dataset, batch_size, collate_fn=collate, generator=torch.Generator())
    title = f"{dataset.name}/{dataset.split}"
    yield from tqdm(loader, title, unit="batch", mininterval=0.5, disable=not progress)


def _predict_batch(model: nn.Module, batch: Batch, labelled: bool) -> Prediction:
    parts = _without_padding(batch)
    if len(parts) > 1:
        return _together(batch, [_predict_batch(model, alone, labelled) for alone in parts])
    device = next(model.parameters()).device
    images, labels = batch["image"].to(device), batch["labels"].to(device) if labelled else None
    if hasattr(model, "scores_and_maps"):
        logits, maps = model.scores_and_maps(images, labels)  # one forward pass for both
    else:
        logits, maps = model(images), model.localize(images, labels)
    return Prediction(batch, logits.float().cpu(), maps.float().cpu(), getattr(model, "grid", None))


def _without_padding(batch: Batch) -> list[Batch]:
    """The batch itself if all its images have one size, else each image alone, cut to its own."""
    sizes = batch["size"].tolist()
    if all(size == sizes[0] for size in sizes):
        return [batch]
    return [
        {"image": batch["image"][i : i + 1, :, :h, :w]} | {key: batch[key][i : i + 1] for key in ("size", "labels")}
        for i, (h, w) in enumerate(sizes)
    ]


def _together(batch: Batch, alone: list[Prediction]) -> Prediction:
    """Predictions of single images as one of the batch, with maps at the images' own pixels."""
    logits = torch.cat([one.logits for one in alone])
    canvas = torch.zeros(*logits.shape, *batch["image"].shape[-2:])  # (B, K, H, W)
    for i, (h, w) in enumerate(batch["size"].tolist()):
        canvas[i, :, :h, :w] = resize_maps(alone[i].maps, (h, w), alone[i].grid)[0]
    return Prediction(batch, logits, canvas, None)


def classification_scores(model: nn.Module, dataset: Dataset, batch_size: int = 64) -> dict[str, float]:
    """Accuracy of a single-label classifier, mean average precision of a multi-label one, in [0, 1].

    Leaves the model in evaluation mode. Draws no random number.

    Raises:
        DataError: the data set is empty.
    """
    found, labels = [], []
    for batch in _batches(model, dataset, batch_size, None, progress=False):
        found += [_logits(model, one["image"]) for one in _without_padding(batch)]
        labels.append(batch["labels"])
    if not found:
        raise DataError(f"data set {dataset.name}/{dataset.split} is empty; there is nothing to score.")
    logits, labels = torch.cat(found), torch.cat(labels)  # (N, K) each
    if dataset.task == "single":
        return {"accuracy": (logits.argmax(1) == labels.argmax(1)).float().mean().item()}
    return {"mean_average_precision": mean_average_precision(logits, labels)}


@torch.no_grad()
def _logits(model: nn.Module, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
    return model(images.to(next(model.parameters()).device)).float().cpu()


def localization_report(
    model: nn.Module,
    train_set: Dataset,
    val_set: Dataset,
    score_set: Dataset,
    threshold: float | None = None,
    iou: float = 0.5,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    r"""Localisation accuracy of a model's maps on ``score_set``, beside the controls that look at no image.

    Rows: the image's own map and another image's map, each with both normalisations; a Gaussian at the centre; the
    full frame; and the centred box that is right most often on ``train_set`` (on ``val_set``, if train has no boxes).
    Every map row has its own threshold $\tau$, the best on ``val_set``, unless ``threshold`` is given. The unit is a
    pair of an image and a class that is present. Images that lack a box for one of their classes are left out.

    Returns:
        For each row its ``name``, ``normalization``, ``threshold``, where its ``labels`` came from, accuracies in
        [0, 1], and how many ``pairs`` of image and class they are a share of.

    Raises:
        UsageError: no image of ``score_set`` has the boxes of its classes, or none of ``val_set`` has, and no threshold
            is given.
    """
    needed = (score_set,) if threshold is not None else (score_set, val_set)
    for dataset in needed:
        if not has_boxes(dataset):
            raise UsageError(f"data set {dataset.name}/{dataset.split} has no boxes; localisation needs them.")
    if threshold is None:
        chosen = {row: scores["best_threshold"] for row, scores in _score_maps(model, val_set, iou, batch_size).items()}
    else:
        chosen = dict.fromkeys(MAP_ROWS, threshold)
    scores = _score_maps(model, score_set, iou, batch_size, chosen)
    rows = [
        {"name": name, "normalization": how, "threshold": chosen[name, how], "labels": MAP_LABELS}
        | {key: scores[name, how][key] for key in REPORTED}
        for name, how in MAP_ROWS
    ]
    sizes, boxes = _pairs(score_set)
    fixed_boxes = {"full frame": (1.0, 1.0)}
    for dataset in (train_set, val_set):
        if len(fixed_boxes) == 1 and has_boxes(dataset):
            fixed_boxes[f"best centred box on {dataset.split}"] = best_centered_box(*_pairs(dataset), iou=iou)
    for name, shares in fixed_boxes.items():
        accuracy = fixed_box_accuracy(centered_boxes(sizes, *shares), boxes, iou)
        fixed = {"box_shares": list(shares), "gt_known": accuracy, "pairs": len(boxes)}
        rows.append({"name": name, "labels": "none"} | fixed)
    return rows


def max_box_acc_report(model: nn.Module, dataset: Dataset, batch_size: int = 64) -> list[dict[str, Any]]:
    r"""MaxBoxAcc and MaxBoxAccV2 of a model's maps, by the rule of wsolevaluation, beside the controls.

    The rule takes the threshold that is best for the very set that is scored, one for all its images, so nothing is
    chosen on val here. The unit is a pair of an image and a class that is present, as in :func:`localization_report`.

    Returns:
        For each row its ``name``, ``normalization`` ("max" or "minmax"), ``max_box_acc_v1`` and ``max_box_acc_v2`` in
        [0, 1], and the number of ``pairs``.

    Raises:
        UsageError: no image has the boxes of its classes.
    """
    if not has_boxes(dataset):
        raise UsageError(f"data set {dataset.name}/{dataset.split} has no boxes; localisation needs them.")
    evaluators = {row: MaxBoxAccEvaluator() for row in MAP_ROWS}
    pairs = 0
    for variants, _, annotation in _map_variants(model, dataset, batch_size):
        labels, boxes, box_labels = (annotation[key] for key in ("labels", "boxes", "box_labels"))
        if not has_its_boxes(labels, box_labels):
            continue
        of_each = [boxes[box_labels == c] for c in labels.nonzero().flatten()]
        pairs += len(of_each)
        for (name, how), evaluator in evaluators.items():
            evaluator.update(normalize(variants[name], how), of_each)
    return [
        {"name": name, "normalization": how, "pairs": pairs}
        | {key: evaluator.compute()[key] / 100 for key in ("max_box_acc_v1", "max_box_acc_v2")}
        for (name, how), evaluator in evaluators.items()
    ]


def has_boxes(dataset: Dataset) -> bool:
    """Whether any image has a box for each of its classes. Looks at samples until it finds one."""
    return any("boxes" in sample and has_its_boxes(sample["labels"], sample["box_labels"]) for sample in dataset)


def _score_maps(
    model: nn.Module,
    dataset: Dataset,
    iou: float,
    batch_size: int,
    chosen: dict[tuple[str, str], float] | None = None,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Scores of every map row from one pass over the data, at the ``chosen`` thresholds or at all of them."""
    evaluators = {
        row: LocalizationEvaluator(THRESHOLDS if chosen is None else chosen[row], iou, how=row[1]) for row in MAP_ROWS
    }
    for variants, logits, annotation in _map_variants(model, dataset, batch_size):
        for row, evaluator in evaluators.items():
            evaluator.add(variants[row[0]], logits, **annotation)
    return {row: evaluator.compute() for row, evaluator in evaluators.items()}


def _map_variants(
    model: nn.Module, dataset: Dataset, batch_size: int
) -> Iterator[tuple[dict[str, Float[Tensor, "P H W"]], Float[Tensor, " K"], dict[str, Tensor]]]:
    """Image by image, in a fixed random order: its maps and those of the controls, by name; logits; annotation."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = Subset(dataset, order)
    other = _map_of_its_class(model, Subset(dataset, order[-1:]))  # the first image gets the map of the last
    if len(dataset) == 1:
        other = torch.zeros_like(other)  # there is no other image
    for prediction in predict(model, shuffled, batch_size, labelled=True):
        for maps, logits, annotation in _images(prediction):
            variants = {
                "own map": maps,
                "another image's map": resize_maps(other[None, None], tuple(maps.shape[-2:]))[0].expand_as(maps),
                "centre Gaussian": _centre_gaussian(*maps.shape[-2:]).expand_as(maps),
            }
            yield variants, logits, annotation
            if len(maps):
                other = maps[0].clone()


def _images(
    prediction: Prediction,
) -> Iterator[tuple[Float[Tensor, "P H W"], Float[Tensor, " K"], dict[str, Tensor]]]:
    """Each image by itself, without padding: maps of its P classes at its own size, logits, labels and boxes."""
    batch = prediction.batch
    height, width = batch["image"].shape[-2:]
    for i, (h, w) in enumerate(batch["size"].tolist()):
        annotation = {key: batch[key][i] for key in ("labels", "boxes", "box_labels")}
        present = prediction.maps[i : i + 1, annotation["labels"] > 0]
        yield resize_maps(present, (height, width), prediction.grid)[0, :, :h, :w], prediction.logits[i], annotation


def _map_of_its_class(model: nn.Module, dataset: Dataset) -> Float[Tensor, "H W"]:
    """The map of the one image of ``dataset``, for its first class; an empty one where it shows none."""
    ((maps, _, _),) = (
        image for one in predict(model, dataset, progress=False, labelled=True) for image in _images(one)
    )
    return maps[0] if len(maps) else torch.zeros(maps.shape[-2:])


def _centre_gaussian(height: int, width: int) -> Float[Tensor, "h w"]:
    """A Gaussian whose standard deviation is a quarter of each side."""
    vertical, horizontal = (
        torch.exp(-((torch.arange(side) + 0.5) / side - 0.5).square() * 8) for side in (height, width)
    )
    return vertical[:, None] * horizontal


def _pairs(dataset: Dataset) -> tuple[Int[Tensor, "N 2"], list[Float[Tensor, "_ 4"]]]:
    """Image size and boxes of each pair of an image that has its boxes and a class that is present."""
    sizes, boxes = [], []
    for sample in dataset:
        if "boxes" in sample and has_its_boxes(sample["labels"], sample["box_labels"]):
            for c in sample["labels"].nonzero().flatten():
                sizes.append(sample["image"].shape[-2:])
                boxes.append(sample["boxes"][sample["box_labels"] == c])
    return torch.tensor(sizes), boxes


def mean_average_precision(scores: Float[Tensor, "N K"], labels: Float[Tensor, "N K"]) -> float:
    """Mean over the classes that occur of the precision at each of their images, ranked by score.

    Ties keep the order of the images. 0 if no class occurs.

    >>> mean_average_precision(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[0.0], [1.0], [0.0]]))
    0.5
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    hits = labels.gather(0, order)  # (N, K), the best ranked first
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)[:, None]
    found = hits.sum(0)
    average = (precision * hits).sum(0) / found.clamp(min=1)
    return average[found > 0].mean().item() if found.any() else 0.0


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``; lists and ``size`` stay where they are."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) and key != "size" else value
        for key, value in batch.items()
    }
