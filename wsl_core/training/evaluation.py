"""Running a trained model over a data set, and scoring what comes out beside the controls."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from wsl_core.data import Batch, Dataset, Subset, collate
from wsl_core.errors import UsageError
from wsl_core.metrics import LocalizationEvaluator, best_centered_box, centered_boxes, fixed_box_accuracy
from wsl_core.ops import resize_maps

__all__ = ["classification_scores", "localization_report", "predict", "to_device"]

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # tau, among which val chooses
MAP_ROWS = (  # what is scored, and how it is normalised
    ("own map", "max"),
    ("own map", "minmax"),
    ("another image's map", "max"),
    ("another image's map", "minmax"),
    ("centre Gaussian", "max"),
)
REPORTED = (
    "gt_known", "top1_localization", "top5_localization", "top1_classification", "top5_classification", "mean_iou"
)  # fmt: skip
MAP_LABELS = "ground truth for gt_known, predicted for top1 and top5"


def predict(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Iterator[tuple[Batch, Float[Tensor, "B K"], Float[Tensor, "B K h w"]]]:
    """Logits and raw maps of all classes for every sample, batch by batch, in the data set's order.

    Nothing is kept, so memory stays what one batch needs. Everything yielded is on the CPU. The model is put into
    evaluation mode, and moved to ``device`` if one is named. Images of several sizes go through it one by one, so that
    no padding takes part in the scores; their maps are enlarged to the images' own pixels.
    """
    model.eval()
    if device is not None:
        model.to(device)
    loader = DataLoader(dataset, batch_size, collate_fn=collate, generator=torch.Generator())
    title = f"{dataset.name}/{dataset.split}"
    for batch in tqdm(loader, title, unit="batch", mininterval=0.5, disable=not progress):
        with torch.no_grad():  # ends before the yield: the caller's gradients are the caller's business
            logits, maps = _scores_and_maps(model, batch)
        yield batch, logits, maps


def _scores_and_maps(model: nn.Module, batch: Batch) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K h w"]]:
    images, sizes = batch["image"].to(next(model.parameters()).device), batch["size"].tolist()
    if all(size == sizes[0] for size in sizes):
        if hasattr(model, "scores_and_maps"):
            logits, maps = model.scores_and_maps(images)  # one forward pass for both
        else:
            logits, maps = model(images), model.localize(images)
        return logits.float().cpu(), maps.float().cpu()
    alone = [
        _scores_and_maps(model, {"image": images[i : i + 1, :, :h, :w], "size": batch["size"][i : i + 1]})
        for i, (h, w) in enumerate(sizes)
    ]
    scores, maps = zip(*alone, strict=True)
    canvas = torch.zeros(len(sizes), scores[0].shape[1], *images.shape[-2:])  # (B, K, H, W)
    for i, (h, w) in enumerate(sizes):
        canvas[i, :, :h, :w] = resize_maps(maps[i], (h, w))[0]
    return torch.cat(scores), canvas


def classification_scores(model: nn.Module, dataset: Dataset, batch_size: int = 64) -> dict[str, float]:
    """Accuracy of a single-label classifier, mean average precision of a multi-label one, in [0, 1].

    Leaves the model in evaluation mode. Draws no random number.
    """
    pairs = [(logits, batch["labels"]) for batch, logits, _ in predict(model, dataset, batch_size, progress=False)]
    logits, labels = (torch.cat(column) for column in zip(*pairs, strict=True))  # (N, K) each
    if dataset.task == "single":
        return {"accuracy": (logits.argmax(1) == labels.argmax(1)).float().mean().item()}
    return {"mean_average_precision": mean_average_precision(logits, labels)}


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
    full frame; and the centred box that is right most often on ``train_set``. Every map row has its own threshold
    $\tau$, the best on ``val_set``, unless ``threshold`` is given. The unit is a pair of an image and a class that is
    present.

    Returns:
        For each row its ``name``, ``normalization``, ``threshold``, where its ``labels`` came from, and accuracies in
        [0, 1].

    Raises:
        UsageError: a data set has no boxes.
    """
    for dataset in (train_set, val_set, score_set):
        if "boxes" not in dataset[0]:
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
    best = best_centered_box(*_pairs(train_set), iou=iou)
    for name, shares in (("full frame", (1.0, 1.0)), ("best centred box on train", best)):
        accuracy = fixed_box_accuracy(centered_boxes(sizes, *shares), boxes, iou)
        rows.append({"name": name, "labels": "none", "box_shares": list(shares), "gt_known": accuracy})
    return rows


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
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    previous = None
    for batch, logits, maps in predict(model, Subset(dataset, order.tolist()), batch_size):
        own = maps[torch.arange(len(maps)), batch["labels"].argmax(1)]  # (B, h, w): the map of a class that is present
        before = own[-1:] if previous is None else resize_maps(previous[None], tuple(own.shape[-2:]))[0]
        previous = own[-1:]
        variants = {
            "own map": maps,
            "another image's map": torch.cat([before, own[:-1]])[:, None].expand_as(maps),
            "centre Gaussian": _centre_gaussian(*maps.shape[-2:]).expand_as(maps),
        }
        for row, evaluator in evaluators.items():
            evaluator.update(variants[row[0]], logits, batch)
    return {row: evaluator.compute() for row, evaluator in evaluators.items()}


def _centre_gaussian(height: int, width: int) -> Float[Tensor, "h w"]:
    """A Gaussian whose standard deviation is a quarter of each side."""
    vertical, horizontal = (
        torch.exp(-((torch.arange(side) + 0.5) / side - 0.5).square() * 8) for side in (height, width)
    )
    return vertical[:, None] * horizontal


def _pairs(dataset: Dataset) -> tuple[Int[Tensor, "N 2"], list[Float[Tensor, "_ 4"]]]:
    """Image size and boxes of each pair of an image and a class that is present."""
    sizes, boxes = [], []
    for sample in dataset:
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
