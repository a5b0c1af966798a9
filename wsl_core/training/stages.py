r"""AffinityNet's pipeline: three networks, each of which learns from the masks that the one before has left.

::

    RUN_DIR/cam/             a run: the classifier
    RUN_DIR/labels/          of each training image what is surely known, ID.png; 255 where nothing is
    RUN_DIR/affinity/        a run: AffinityNet, which learns from these
    RUN_DIR/pseudo_labels/   of each training image the mask that the walk ends in, ID.png
    RUN_DIR/segmentation/    a run: the segmentation network, which learns from these
    RUN_DIR/scores.json      what it scores on val

The masks are PNGs with VOC's palette, for the next stage and for people. Beside them, ``made_from.json`` says by which
weights and numbers they were made. Every file is written whole or not at all; what is there is not made again.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from wsl_core.data import Dataset, Subset
from wsl_core.data.images import read_mask, write_mask
from wsl_core.data.masked import WithMasks
from wsl_core.errors import UsageError
from wsl_core.files import read_json, write_json
from wsl_core.metrics import SegmentationEvaluator
from wsl_core.papers import build_for
from wsl_core.papers.affinitynet import AffinityNet, SegmentationNetwork
from wsl_core.papers.cam import CAM
from wsl_core.recipes import Recipe
from wsl_core.refine import confident_labels, crf_with_background, dense_crf_many
from wsl_core.segmentation import SCALES, multi_scale_cam, multi_scale_labels, with_background
from wsl_core.training.run_directory import RunDirectory, say
from wsl_core.training.runs import Run, fit, load_run

__all__ = [
    "STAGES",
    "Marked",
    "Refinement",
    "confident_masks",
    "learn_from",
    "mark",
    "pseudo_labels",
    "read_masks",
    "run_stage",
    "segmentation_scores",
    "write_masks",
]

STAGES = {  # in their order, and whose recipe each takes
    "cam": "affinitynet_cam",
    "affinity": "affinitynet",
    "segmentation": "affinitynet_segmentation",
}
LEAVES = {"cam": "labels", "affinity": "pseudo_labels"}  # the folders of masks
MADE_FROM = "made_from.json"
TRUNK = ("backbone", "width")  # arguments that decide whether one network's trunk fits another


@dataclass(frozen=True)
class Refinement:
    r"""The numbers between the networks; by default those of the paper's results.

    Attributes:
        alpha_low, alpha_high: $\alpha$ of the background for confident objects and for confident background.
        alpha: of the background that walks.
        beta, steps: of the walk.
        scales: at which the classifier looks at an image.
        crf: parameters of :func:`wsl_core.refine.dense_crf`.

    >>> Refinement().alpha_high
    24.0
    """

    alpha_low: float = 4.0
    alpha_high: float = 24.0
    alpha: float = 16.0
    beta: float = 8.0
    steps: int = 256
    scales: tuple[float, ...] = SCALES
    crf: str = "affinitynet"


class Marked(NamedTuple):
    """An image, its labels, and where they are, by a classifier: maps in [0, 1], those of absent classes zero."""

    image: Float[Tensor, "3 H W"]
    labels: Float[Tensor, " K"]
    maps: Float[Tensor, "K H W"]

    @property
    def names(self) -> Int[Tensor, " L"]:
        """The labels that a mask of the image may have: the background's, and those of the classes that it shows."""
        return torch.cat([self.labels.new_ones(1), self.labels]).nonzero().flatten()


# The masks ---------------------------------------------------------------------------------------------------------


def mark(classifier: CAM, dataset: Dataset, scales: tuple[float, ...] = SCALES) -> Iterator[Marked]:
    """The maps of every image, one after the other (equation 7.1). Nothing is kept.

    >>> from wsl_core.data import load_dataset
    >>> dataset = load_dataset("synthetic", "val", size=32, length=1)
    >>> next(mark(CAM(num_classes=8, width=4), dataset, scales=(1.0,))).maps.shape
    torch.Size([8, 32, 32])
    """
    classifier.eval()
    device = next(classifier.parameters()).device
    for sample in dataset:
        image, labels = sample["image"], sample["labels"]
        maps = multi_scale_cam(classifier, image[None].to(device), labels[None].to(device), scales)
        yield Marked(image, labels, maps[0].cpu())


def confident_masks(
    marked: Iterable[Marked], numbers: Refinement = Refinement(), workers: int = 0
) -> Iterator[Int[Tensor, "_ _"]]:
    """Of each image what is surely known (equation 7.5): 0 background, k + 1 class k, 255 unknown.

    Args:
        marked: see :func:`mark`.
        workers: processes for the CRF.

    >>> plain = Marked(torch.rand(3, 4, 4), torch.tensor([0.0, 1.0]), torch.zeros(2, 4, 4))
    >>> next(confident_masks([plain])).unique().tolist()
    [0]
    """

    def refined(streams: Sequence[Iterator[Marked]], alpha: float) -> Iterator[Tensor]:
        images, maps, labels = streams
        return crf_with_background(
            (one.image for one in images),
            (one.maps for one in maps),
            (one.labels for one in labels),
            alpha,
            workers,
            parameters=numbers.crf,
        )

    streams = tee(marked, 6)  # they run abreast: no more images wait than the workers ask for
    low, high = refined(streams[:3], numbers.alpha_low), refined(streams[3:], numbers.alpha_high)
    for of_low, of_high in zip(low, high, strict=True):
        yield confident_labels(of_low, of_high)


def pseudo_labels(
    marked: Iterable[Marked], network: AffinityNet, numbers: Refinement = Refinement(), workers: int = 0
) -> Iterator[Int[Tensor, "_ _"]]:
    r"""The mask of each image: its maps beside a background, walked (equations 7.10 and 7.11), and behind a CRF.

    Args:
        marked: see :func:`mark`.
        network: whose affinities lead the walk.
        workers: processes for the CRF.

    >>> plain = Marked(torch.rand(3, 16, 16), torch.tensor([0.0, 1.0]), torch.zeros(2, 16, 16))
    >>> next(pseudo_labels([plain], AffinityNet(width=4))).unique().tolist()
    [0]
    """
    network.eval()
    device = next(network.parameters()).device
    waiting: deque[Tensor] = deque()  # of the images on their way through the CRF, the labels that they may have

    def probabilities(seen: Iterator[Marked]) -> Iterator[Tensor]:
        for one in seen:
            scores = with_background(one.maps, numbers.alpha)[one.names]
            image, scores = one.image[None].to(device), scores[None].to(device)
            walked = network.spread(image, scores, numbers.beta, numbers.steps)[0].cpu()
            waiting.append(one.names)
            yield walked / walked.sum(dim=0)

    first, second = tee(marked)
    images = (one.image for one in first)
    for refined in dense_crf_many(images, probabilities(second), workers, parameters=numbers.crf):
        yield waiting.popleft()[refined.argmax(dim=0)]


def write_masks(
    folder: str | Path,
    dataset: Dataset,
    make: Callable[[Dataset], Iterable[Int[Tensor, "_ _"]]],
    made_from: dict[str, Any],
) -> None:
    """Write a mask of each image into a folder, ``ID.png``, and pass by those that are there.

    Args:
        folder: a new one, or that of the same masks.
        make: the masks of a data set, in its order; asked for those that are missing.
        made_from: what they depend on; noted beside them.

    Raises:
        UsageError: the folder holds masks that were made from something else, or other files.
        OSError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    noted = folder / MADE_FROM
    if noted.exists():
        if (there := read_json(noted)) != made_from:
            raise UsageError(
                f"{folder} holds masks made from {there}; asked for were those from {made_from}. Name another run_dir, "
                "or delete this folder to make them anew."
            )
    elif folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UsageError(f"{folder}: the folder is not empty and holds no masks of ours. Name a new run_dir.")
    else:
        write_json(noted, made_from)
    paths = [_mask_file(folder, sample["id"]) for sample in dataset]
    missing = [position for position, path in enumerate(paths) if not path.exists()]
    masks = make(Subset(dataset, missing)) if missing else ()
    pairs = zip(missing, masks, strict=True)
    for position, mask in tqdm(pairs, folder.name, len(missing), unit="mask", mininterval=0.5, disable=not missing):
        write_mask(paths[position], mask)


def read_masks(folder: str | Path, dataset: Dataset) -> list[Int[Tensor, "_ _"]]:
    """The masks that :func:`write_masks` has left, in the order of the data set.

    Raises:
        UsageError: masks are missing.
        DataError: a file is damaged.
    """
    folder = Path(folder)
    paths = [_mask_file(folder, sample["id"]) for sample in dataset]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise UsageError(
            f"{missing[0]}: no such mask, with it {len(missing)} of {len(paths)} are missing. Run the stage before "
            "again with the same data and run_dir: it goes on where it stopped."
        )
    return [read_mask(path) for path in paths]


def _mask_file(folder: Path, identifier: str) -> Path:
    return folder / f"{identifier}.png"


# The networks ------------------------------------------------------------------------------------------------------


def learn_from(
    masks: Sequence[Int[Tensor, "_ _"]],
    dataset: Dataset,
    classifier: CAM,
    recipe: Recipe,
    seed: int,
    run_dir: str | Path | None = None,
    device: str | None = None,
) -> Run:
    """Train AffinityNet or the segmentation network on masks, whatever masks the data set itself may have.

    The paper's trunks all begin with ImageNet's weights. Where the recipe names none, a trunk like the classifier's
    begins with the classifier's.

    Args:
        masks: one of each image.
        recipe: of ``"affinitynet"`` or ``"affinitynet_segmentation"``.
        run_dir: see :func:`wsl_core.training.fit`.
    """

    def build() -> nn.Module:
        network = build_for(dataset, recipe.paper, **recipe.model)
        own, given = network.config, classifier.config
        if own["weights"] is None and all(own[name] == given[name] for name in TRUNK):
            weights = classifier.backbone.state_dict()
            network.backbone.load_state_dict({name: weights[name] for name in network.backbone.state_dict()})
        return network

    return fit(build, WithMasks(dataset, masks), recipe, run_dir=run_dir, seed=seed, device=device)


@torch.no_grad()
def segmentation_scores(
    network: SegmentationNetwork,
    dataset: Dataset,
    scales: tuple[float, ...] = SCALES,
    crf: str | None = "affinitynet",
) -> dict[str, Any]:
    """What a segmentation network scores: see :meth:`wsl_core.metrics.SegmentationEvaluator.compute`.

    Images go through it one by one, so that no padding takes part.

    Raises:
        UsageError: the data set has no masks.

    >>> from wsl_core.data import load_dataset
    >>> dataset = load_dataset("synthetic", "val", size=32, length=2)
    >>> segmentation_scores(SegmentationNetwork(width=4), dataset, scales=(1.0,), crf=None)["images"]
    2
    """
    network.eval()
    device = next(network.parameters()).device
    evaluator = SegmentationEvaluator(len(dataset.classes))
    for sample in dataset:
        if "mask" not in sample:
            raise UsageError(f"data set {dataset.name}/{dataset.split} has no masks; mIoU needs them.")
        labels = multi_scale_labels(network, sample["image"][None].to(device), scales, crf=crf)
        evaluator.update(labels[0], sample["mask"])
    return evaluator.compute()


# The stages --------------------------------------------------------------------------------------------------------


def run_stage(
    stage: str,
    run_dir: str | Path,
    recipe: Recipe,
    train_set: Dataset,
    val_set: Dataset | None = None,
    seed: int = 0,
    device: str | None = None,
    numbers: Refinement = Refinement(),
) -> Run:
    """Run one stage of the pipeline, or go on with one that was stopped; what is done is found.

    ``"cam"`` trains the classifier and writes what is surely known of the training images. ``"affinity"`` trains
    AffinityNet on it and writes the masks that the walk ends in. ``"segmentation"`` trains the last network on them
    and scores it.

    Args:
        stage: one of ``STAGES``.
        run_dir: of the whole pipeline, the same for each stage.
        recipe: of the stage's paper.
        train_set: the same for each stage.
        val_set: what ``"cam"`` is scored on every ``recipe.eval_every`` steps, and with masks, ``"segmentation"``.
        numbers: those between the networks.

    Raises:
        UsageError: the stage is unknown, an earlier one is not done, or the folder holds another pipeline.
        TrainingError: a loss is not finite, or the disk is full.
        DataError: weights or a mask are damaged.
    """
    if stage not in STAGES or recipe.paper != STAGES[stage]:
        expected = ", ".join(f"{name} with a recipe of {paper}" for name, paper in STAGES.items())
        raise UsageError(f"stage={stage!r} with a recipe of {recipe.paper!r}: expected {expected}.")
    folder = Path(run_dir)
    for earlier in list(STAGES)[: list(STAGES).index(stage)]:
        if not RunDirectory(folder / earlier).finished:
            raise UsageError(f"{folder}: stage {stage!r} needs stage {earlier!r}, which is not done. Run it first.")
    own = folder / stage
    if stage == "cam":
        build = lambda: build_for(train_set, recipe.paper, **recipe.model)  # noqa: E731
        run = fit(build, train_set, recipe, val_set, own, seed, device)
    else:
        before = list(STAGES)[list(STAGES).index(stage) - 1]
        masks = read_masks(folder / LEAVES[before], train_set)
        run = learn_from(masks, train_set, _classifier(folder), recipe, seed, own, device)
    if PartialState().is_main_process:
        _leave(stage, folder, run, train_set, val_set, recipe.workers, numbers)
    PartialState().wait_for_everyone()
    return run


def _leave(
    stage: str,
    folder: Path,
    run: Run,
    train_set: Dataset,
    val_set: Dataset | None,
    workers: int,
    numbers: Refinement,
) -> None:
    """Write what a trained network is there for."""
    if stage == "segmentation":
        if val_set is not None:
            _write_scores(folder, run, val_set, numbers)
        return
    if stage == "cam":
        classifier, used = run.model, ("alpha_low", "alpha_high", "scales", "crf")
        make = lambda images: confident_masks(mark(classifier, images, numbers.scales), numbers, workers)  # noqa: E731
    else:
        device = next(run.model.parameters()).device
        classifier, used = _classifier(folder).to(device), ("alpha", "beta", "steps", "scales", "crf")
        make = lambda images: pseudo_labels(  # noqa: E731
            mark(classifier, images, numbers.scales), run.model, numbers, workers
        )
    networks = list(STAGES)[: list(STAGES).index(stage) + 1]
    made_from = {
        "data": train_set.version,
        "weights": {name: _digest(RunDirectory(folder / name).weights) for name in networks},
        "numbers": json.loads(json.dumps({name: asdict(numbers)[name] for name in used})),
    }
    write_masks(folder / LEAVES[stage], train_set, make, made_from)


def _write_scores(folder: Path, run: Run, val_set: Dataset, numbers: Refinement) -> None:
    if not len(val_set) or "mask" not in val_set[0]:
        say(f"{val_set.name}/{val_set.split} has no masks: the network is not scored.")
        return
    scores = {
        name: segmentation_scores(run.model, val_set, numbers.scales, crf)
        for name, crf in (("network", None), ("network with CRF", numbers.crf))
    }
    kept = ("miou", "boundary_iou", "pixel_accuracy", "images")
    told = {name: {key: one[key] for key in kept} for name, one in scores.items()}
    write_json(folder / "scores.json", {"dataset": val_set.name, "split": val_set.split, "scores": told})


def _classifier(folder: Path) -> CAM:
    return load_run(folder / "cam").model


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
