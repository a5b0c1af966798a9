"""The command line: ``python -m wsl_core train | evaluate | localize | segment | match | evaluate-maps``.

Messages go to standard error, results to standard output. Exit status: 0, 2 for wrong arguments, 1 for anything else.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsl_core import __version__
from wsl_core.errors import DataError, UsageError, WSLError

if TYPE_CHECKING:  # torch takes seconds to import; --help and wrong arguments need not wait for it
    from torch import Tensor

    from wsl_core.matching import Correspondence, DescriptorMap
    from wsl_core.training import Run
    from wsl_core.training.stages import Refinement

__all__ = ["main"]

LOST = ("by peer", "remote process")  # what gloo and NCCL say of a process that is gone
MATCHERS = ("dsp", "proposal-flow", "nearest", "mutual")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    >>> main(["evaluate", "/nowhere", "--json"])
    2
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has printed help or what is wrong
        return int(stop.code or 0)
    try:
        options.command(options)
    except (WSLError, OSError) as error:
        print(f"error{_process()}: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        print(f"error{_process()}: another process has ended; it says why.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted. A training goes on from its last checkpoint with the same command.", file=sys.stderr)
        return 1
    return 0


def train(options: argparse.Namespace) -> None:
    """Train a paper's model, or go on with a run that was stopped; print the run directory."""
    from accelerate import PartialState

    from wsl_core.files import write_json
    from wsl_core.papers import build_for
    from wsl_core.recipes import get_recipe, parse_overrides
    from wsl_core.training import fit, open_split
    from wsl_core.training.stages import STAGES, Refinement, run_stage

    if options.stage is not None and options.paper != "affinitynet":
        raise UsageError(f"--stage {options.stage}: only affinitynet has stages; found {options.paper}.")
    numbers = _numbers(Refinement, options)
    paper = options.paper if options.stage is None else STAGES[options.stage]
    recipe = get_recipe(paper, options.dataset, options.recipe).replace(**parse_overrides(options.set))
    run_dir = options.run_dir or Path("runs") / f"{options.paper}-{options.dataset}-{options.recipe}-{options.seed}"
    _check_model_options(recipe.paper, recipe.model)
    train_set = open_split(recipe, "train", options.root, options.download)
    scored = recipe.eval_every or options.stage == "segmentation"
    val_set = open_split(recipe, "val", options.root, options.download) if scored else None
    if options.stage is not None:
        run_stage(options.stage, run_dir, recipe, train_set, val_set, options.seed, options.device, numbers)
    else:
        build = lambda: build_for(train_set, recipe.paper, **recipe.model)  # noqa: E731
        fit(build, train_set, recipe, val_set, run_dir, options.seed, options.device)
    if PartialState().is_main_process:
        write_json(run_dir / "data.json", {"root": str(options.root.resolve()) if options.root else None})
        print(run_dir)


def _numbers(kind: type["Refinement"], options: argparse.Namespace) -> "Refinement":
    """What stands between the stages, with the changes of the command line."""
    if options.refine and options.stage is None:
        raise UsageError(f"--refine {options.refine[0]}: its numbers stand between stages; name a --stage, too.")
    types = {name: type(value) for name, value in vars(kind()).items() if isinstance(value, (int, float))}
    changes = {}
    for setting in options.refine:
        name, _, text = setting.partition("=")
        try:
            changes[name] = types[name](text)
        except (KeyError, ValueError) as error:
            expected = ", ".join(f"{key}={value.__name__}" for key, value in types.items())
            raise UsageError(f"--refine {setting}: expected one of {expected}.") from error
    return kind(**changes)


def evaluate(options: argparse.Namespace) -> None:
    """Score a run's maps beside the controls; print a table, or JSON."""
    from wsl_core.files import read_json
    from wsl_core.training import load_run, localization_report, max_box_acc_report, open_split
    from wsl_core.training.evaluation import classification_scores, has_boxes

    run = load_run(options.run_dir)
    _check_makes_maps(run)
    run.model.to(_device(options.device))
    noted = run.run_dir / "data.json"
    root = options.root or (read_json(noted)["root"] if noted.exists() else None)
    moved = {} if options.translate is None else {"translate": options.translate or _canvas(run)}
    train_set, val_set, score_set = (
        open_split(run.recipe, split, root, **moved) for split in ("train", "val", options.split)
    )
    if score_set.classes != run.classes:
        raise UsageError(f"{root}: the classes there are not those of the run in {run.run_dir}; name another --root.")
    result: dict[str, Any] = {
        "run": str(run.run_dir),
        "dataset": run.recipe.dataset,
        "split": options.split,
        "images": len(score_set),
        "translated_to": moved.get("translate"),
        "iou": options.iou,
        "threshold_from": "val" if options.threshold is None else "given",
        "classification": classification_scores(run.model, score_set, options.batch_size),
        "localization": [],
        "max_box_acc": [],
    }
    if has_boxes(score_set):
        result["localization"] = localization_report(
            run.model, train_set, val_set, score_set, options.threshold, options.iou, options.batch_size
        )
        result["max_box_acc"] = max_box_acc_report(run.model, score_set, options.batch_size)
    else:
        print("the data have no boxes: localisation is not scored.", file=sys.stderr)
    print(json.dumps(result, indent=1) if options.json else _table(result))


def localize(options: argparse.Namespace) -> None:
    """Write each image's maps, an overlay and boxes of one class; print where they are."""
    import numpy as np
    from PIL import Image
    from tqdm import tqdm

    from wsl_core.data.images import read_pixels
    from wsl_core.files import atomic_write, write_json
    from wsl_core.show import overlay
    from wsl_core.training import load_run

    run = load_run(options.run_dir)
    _check_makes_maps(run)
    run.model.to(_device(options.device))
    if options.class_name is not None and options.class_name not in run.classes:
        raise UsageError(f"class {options.class_name!r} is out of vocabulary: this run knows {', '.join(run.classes)}.")
    _check_names(options.images, options.out)
    note = (
        f"The run knows {len(run.classes)} classes. An image of anything else is out of vocabulary: "
        f"its map shows the most similar class."
    )
    print(note, file=sys.stderr)
    for path in options.images:  # a file that cannot be read ends the command before anything is written
        read_pixels(path)
    entries = []
    for path in tqdm(options.images, "localising", unit="image"):
        image, maps, enlarged, entry = _localize_one(run, path, options.class_name, options.threshold)
        with atomic_write(options.out / f"{path.stem}.npy") as file:
            np.save(file, maps.numpy())  # float32 (K, h, w), raw scores
        picture = overlay(image, enlarged)
        with atomic_write(options.out / f"{path.stem}.png") as file:
            Image.fromarray(picture).save(file, "png")
        entries.append(entry)
    result = {"classes": list(run.classes), "note": note, "threshold": options.threshold, "images": entries}
    write_json(options.out / "boxes.json", result)
    print(options.out / "boxes.json")


def segment(options: argparse.Namespace) -> None:
    """Write each image's mask as a PNG with VOC's palette; print where the meaning of its values stands."""
    from tqdm import tqdm

    from wsl_core.data.images import read_pixels, write_mask
    from wsl_core.files import write_json
    from wsl_core.training import load_run

    run = load_run(options.run_dir)
    if not hasattr(run.model, "segment"):
        raise UsageError(
            f"{run.run_dir}: {run.recipe.paper} predicts no masks; expected a run of affinitynet_segmentation or sec."
        )
    run.model.to(_device(options.device))
    _check_names(options.images, options.out)
    for path in options.images:  # a file that cannot be read ends the command before anything is written
        read_pixels(path)
    for path in tqdm(options.images, "segmenting", unit="image"):
        write_mask(options.out / f"{path.stem}.png", _segment_one(run, path, options.crf))
    meaning = {name: value for value, name in enumerate(("background", *run.classes))}
    write_json(options.out / "classes.json", meaning)
    print(options.out / "classes.json")


def match(options: argparse.Namespace) -> None:
    """Match two images; write the correspondences and image B drawn in the frame of image A; print where they are."""
    import numpy as np
    from PIL import Image

    from wsl_core.files import atomic_write, write_json
    from wsl_core.matching import cell_centres, warp_image
    from wsl_core.show.pictures import to_pixels

    paths = [options.image_a, options.image_b]
    _check_folder(options.out)
    _check_are_files(paths)
    picture = options.out / "warped.png"
    if picture.resolve() in [path.resolve() for path in paths]:
        raise UsageError(f"--out {options.out}: the warped image would replace {picture}; name another folder.")
    run = _run_with_descriptors(options)
    limit = options.size if run is None or run.image_size is None else run.image_size
    (image_a, to_a), (image_b, to_b) = (_shrunk(path, limit) for path in paths)
    a, b = (
        _described(options.descriptor, run, image, path) for image, path in zip((image_a, image_b), paths, strict=True)
    )
    found = _matched(options.matcher, a, b, (image_a, image_b), paths)
    centres = cell_centres(found.valid.shape, found.grid)
    rows = np.column_stack(
        [
            (centres[found.valid] * to_a).numpy(),
            (found.positions[found.valid] * to_b).numpy(),
            found.scores[found.valid].numpy(),
        ]
    )
    with atomic_write(options.out / "correspondences.npy") as file:
        np.save(file, rows.astype(np.float32))
    warped = to_pixels(warp_image(image_b, found, tuple(image_a.shape[-2:])))
    with atomic_write(picture) as file:
        Image.fromarray(warped).save(file, "png")
    result = {
        "image_a": str(options.image_a),
        "image_b": str(options.image_b),
        "descriptor": options.descriptor,
        "matcher": options.matcher,
        "columns": ["x in a", "y in a", "x in b", "y in b", "score"],  # pixels of the upright originals
        "cells": found.valid.numel(),
        "matched": len(rows),
        "correspondences": "correspondences.npy",
        "warped": "warped.png",
    }
    write_json(options.out / "match.json", result)
    print(options.out / "match.json")


def evaluate_maps(options: argparse.Namespace) -> None:
    """Score anyone's maps, saved as .npy, with wsolevaluation's metadata; print a table, or JSON, in percent."""
    import torch
    from tqdm import tqdm

    from wsl_core.data.wsol_metadata import read_score_map, read_wsol_metadata
    from wsl_core.metrics import MaxBoxAccEvaluator, PixelEvaluator

    for name in ("maps", "metadata", "masks"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--{name} {folder}: no such folder.")
    metadata = read_wsol_metadata(options.metadata)
    if not metadata.boxes and not metadata.masks:
        raise DataError(f"{options.metadata / 'localization.txt'}: missing or empty; expected boxes or masks.")
    if bool(metadata.masks) != (options.masks is not None):
        needs = "masks; name the folder that they are in" if metadata.masks else "boxes and no masks; leave it out"
        raise UsageError(f"--masks: {options.metadata} has {needs}.")
    paths = {image_id: options.maps / f"{image_id}.npy" for image_id in metadata.image_ids}
    missing = [image_id for image_id, path in paths.items() if not path.exists()]
    if missing and (options.missing == "error" or len(missing) == len(paths)):
        raise DataError(
            f"{paths[missing[0]]}: the map of image {missing[0]!r} is missing, with it {len(missing)} of {len(paths)}. "
            "Save each as <image id>.npy. While some are there, --missing zero counts the others as wrong."
        )
    for image_id in missing:
        print(f"{paths[image_id]}: missing; counts as wrong.", file=sys.stderr)
    evaluator: Any = PixelEvaluator() if metadata.masks else MaxBoxAccEvaluator()
    for image_id, path in tqdm(paths.items(), "evaluating", unit="map"):
        there = path.exists()
        if metadata.masks:
            score_map = read_score_map(path, options.size) if there else torch.zeros(options.size, options.size)
            evaluator.update(score_map[None], metadata.read_mask(image_id, options.masks, options.size)[None])
        elif there:
            boxes = metadata.scaled_boxes(image_id, options.size)
            evaluator.update(read_score_map(path, options.size)[None], [boxes])
        else:
            evaluator.update_missing()
    scores = evaluator.compute()
    result = {"maps": str(options.maps), "metadata": str(options.metadata), "images": len(paths), "missing": missing}
    for key in ("max_box_acc_v1", "max_box_acc_v2", "max_box_acc", "best_threshold_v1", "best_threshold", "pxap"):
        if key in scores:
            result[key] = scores[key]
    print(json.dumps(result, indent=1) if options.json else _maps_table(result))


def _maps_table(result: dict[str, Any]) -> str:
    """The scores of maps for people, in percent."""
    lines = [f"{result['images']} images, {len(result['missing'])} of them without a map"]
    if "pxap" in result:
        return "\n".join([*lines, f"PxAP: {result['pxap']:.1f} %"])
    v1, v2 = result["max_box_acc_v1"], result["max_box_acc_v2"]
    lines.append(f"MaxBoxAcc (largest contour, IoU 0.5): {v1:.1f} %, at threshold {result['best_threshold_v1']:.3f}")
    lines.append(f"MaxBoxAccV2 (all contours, mean of the following): {v2:.1f} %")
    for iou, accuracy in result["max_box_acc"].items():
        lines.append(f"  IoU {iou}: {accuracy:.1f} %, at threshold {result['best_threshold'][iou]:.3f}")
    return "\n".join(lines)


def _localize_one(
    run: "Run", path: Path, class_name: str | None, threshold: float
) -> tuple["Tensor", "Tensor", "Tensor", dict]:
    """The image as it is, its raw maps (K, h, w), that of its class at (H, W), and what boxes.json says about it."""
    import torch

    from wsl_core.data.images import read_pixels, shrink_image, to_float
    from wsl_core.localize import boxes_from_map
    from wsl_core.ops import resize_maps

    pixels = read_pixels(path)
    shrunk = to_float(shrink_image(pixels, run.image_size))[None].to(next(run.model.parameters()).device)
    try:
        with torch.no_grad():
            logits = run.model(shrunk)[0].cpu()  # (K,)
            maps = run.model.localize(shrunk).cpu()  # (1, K, h, w)
    except RuntimeError as error:  # torch says so of images that are too small for a kernel, or too large for a GPU
        side = " x ".join(map(str, shrunk.shape[-2:]))
        raise DataError(f"{path}: the network cannot take {side} pixels ({error}). Leave the image out.") from error
    scores = logits.softmax(0) if run.task == "single" else logits.sigmoid()
    chosen = int(logits.argmax()) if class_name is None else run.classes.index(class_name)
    height, width = pixels.shape[-2:]
    seen = resize_maps(maps[:, chosen : chosen + 1], tuple(shrunk.shape[-2:]), run.model.grid)
    enlarged = resize_maps(seen, (height, width))[0, 0]
    boxes = boxes_from_map(enlarged, threshold)
    entry = {
        "file": str(path),
        "size": [height, width],
        "class": run.classes[chosen],
        "chosen_by": "prediction" if class_name is None else "request",
        "score": scores[chosen].item(),
        "boxes": boxes.tolist(),  # x0, y0, x1, y1 in pixels of the upright original, half-open
    }
    return to_float(pixels), maps[0], enlarged, entry


def _segment_one(run: "Run", path: Path, crf: bool) -> "Tensor":
    """The mask (H, W) of an image as it is, predicted at the size that the network has learnt from."""
    from torch.nn.functional import interpolate

    from wsl_core.data.images import read_pixels, shrink_image, to_float
    from wsl_core.segmentation import multi_scale_labels

    pixels = read_pixels(path)
    shrunk = to_float(shrink_image(pixels, run.image_size))[None].to(next(run.model.parameters()).device)
    try:
        labels = multi_scale_labels(run.model, shrunk, crf="affinitynet" if crf else None)
    except (UsageError, RuntimeError) as error:  # too small for half its size or for a kernel, or too large for a GPU
        side = " x ".join(map(str, shrunk.shape[-2:]))
        raise DataError(f"{path}: the network cannot take {side} pixels ({error}). Leave the image out.") from error
    size = pixels.shape[-2], pixels.shape[-1]
    return interpolate(labels[None].double(), size, mode="nearest-exact")[0, 0].long().cpu()


def _run_with_descriptors(options: argparse.Namespace) -> "Run | None":
    """The run that gives the descriptors; None where they need no network."""
    from wsl_core.training import load_run

    if options.descriptor in ("sift", "hog"):
        return None
    run = load_run(options.descriptor)
    if not hasattr(run.model, "describe"):
        raise UsageError(
            f"{options.descriptor}: {run.recipe.paper} has no descriptors; expected sift, hog or a run of anchornet "
            "or introspection."
        )
    run.model.to(_device(options.device))
    return run


def _shrunk(path: Path, limit: int) -> tuple["Tensor", "Tensor"]:
    """The image with no side longer than the limit, and what leads from its x, y back to those of the original."""
    import torch

    from wsl_core.data.images import read_pixels, shrink_image, to_float

    pixels = read_pixels(path)
    image = to_float(shrink_image(pixels, limit))
    sides = torch.tensor([pixels.shape[-1] / image.shape[-1], pixels.shape[-2] / image.shape[-2]])
    return image, sides


def _described(name: str, run: "Run | None", image: "Tensor", path: Path) -> "DescriptorMap":
    import torch

    from wsl_core.matching import DescriptorMap, dense_sift, hog
    from wsl_core.papers.anchornet import unit_vectors

    try:
        if run is None:
            return dense_sift(image) if name == "sift" else hog(image)
        device = next(run.model.parameters()).device
        with torch.no_grad():
            features = run.model.describe(image[None].to(device)).features[0].cpu()
        return DescriptorMap(unit_vectors(features, dim=0), run.model.grid)
    except (UsageError, RuntimeError) as error:  # too small for a descriptor or for a kernel, or too large for a GPU
        side = " x ".join(map(str, image.shape[-2:]))
        raise DataError(f"{path}: {name} cannot describe {side} pixels ({error}). Take another image.") from error


def _matched(
    matcher: str, a: "DescriptorMap", b: "DescriptorMap", images: tuple["Tensor", "Tensor"], paths: list[Path]
) -> "Correspondence":
    from wsl_core.matching import dsp, nearest_neighbours, proposal_flow, sliding_boxes

    try:
        if matcher == "dsp":
            return dsp(a, b)
        if matcher == "proposal-flow":
            boxes_a, boxes_b = (sliding_boxes(tuple(image.shape[-2:])) for image in images)
            return proposal_flow(a, b, boxes_a, boxes_b)
        return nearest_neighbours(a, b, mutual=matcher == "mutual")
    except WSLError as error:  # a map with too few cells, or a flat image
        raise DataError(f"{paths[0]}, {paths[1]}: cannot be matched by {matcher} ({error})") from error


def _canvas(run: "Run") -> int:
    """The side of the grey canvas where none was named."""
    if run.image_size is None:
        raise UsageError("--translate: the images of this run have sizes of their own; name the SIDE of the canvas.")
    return math.ceil(1.5 * run.image_size)


def _check_names(images: list[Path], out: Path) -> None:
    _check_folder(out)
    stems: dict[str, Path] = {}
    for path in images:
        if path.resolve().parent == out.resolve() and path.suffix.lower() == ".png":
            raise UsageError(f"--out {out}: the picture would replace {path}; name another folder.")
        if path.stem in stems:
            raise UsageError(f"{stems[path.stem]} and {path} would be written to the same file; localize them apart.")
        stems[path.stem] = path
    _check_are_files(images)


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: found a file; expected a folder, which is made if it is missing.")


def _check_are_files(images: list[Path]) -> None:
    for path in images:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise UsageError(f"IMAGE {path}: found {found}; expected an image file. Correct the path.")


def _check_makes_maps(run: "Run") -> None:
    if not hasattr(run.model, "localize"):
        makes, room = ("descriptors", "matching") if hasattr(run.model, "describe") else ("affinities", "refine")
        raise UsageError(
            f"{run.run_dir}: {run.recipe.paper} makes {makes} and no maps of classes; name the run of a paper that "
            f"does, or use its {makes} in Python with wsl_core.{room}."
        )


def _check_model_options(paper: str, options: dict[str, Any]) -> None:
    """An option that the paper's model does not have or cannot use is a wrong argument, not a traceback."""
    from wsl_core.papers import build_model

    known = [name for name in build_model(paper).config if name not in ("num_classes", "task")]  # the data say these
    for name in options:
        if name not in known:
            raise UsageError(f"--set model.{name}: {paper} has no such option; expected one of {', '.join(known)}.")
    try:
        build_model(paper, **options | {"weights": None})
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"--set model.…: {paper} cannot be built with {options} ({error}).") from error


def _device(name: str | None) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here. Leave --device out, or take cpu.")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def _table(result: dict[str, Any]) -> str:
    """The scores for people, in percent."""
    lines = [f"{result['dataset']} {result['split']}, {result['images']} images, IoU {result['iou']}"]
    lines += [f"{name}: {100 * value:.1f} %" for name, value in result["classification"].items()]
    if result["localization"]:
        lines.append(f"{'':28}{'normalised by':15}{'threshold':>10}{'GT-known':>10}{'Top-1':>10}{'Top-5':>10}")
    for row in result["localization"]:
        threshold = f"{row['threshold']:.2f}" if "threshold" in row else ""
        shares = [row.get(key) for key in ("gt_known", "top1_localization", "top5_localization")]
        cells = "".join(f"{'' if share is None else f'{100 * share:.1f}':>10}" for share in shares)
        lines.append(f"{row['name']:28}{row.get('normalization', ''):15}{threshold:>10}{cells}".rstrip())
    if result["max_box_acc"]:
        lines.append(f"{'':28}{'normalised by':15}{'MaxBoxAcc':>12}{'MaxBoxAccV2':>14}")
    for row in result["max_box_acc"]:
        v1, v2 = (f"{100 * row[key]:.1f}" for key in ("max_box_acc_v1", "max_box_acc_v2"))
        lines.append(f"{row['name']:28}{row['normalization']:15}{v1:>12}{v2:>14}")
    return "\n".join(lines)


def _process() -> str:
    """Which of several processes speaks; the launcher numbers them in the environment."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return f" (process {int(os.environ['RANK']) + 1} of {count})" if count > 1 else ""


def _one_line(error: Exception) -> str:
    """The message alone; an error from a loader's worker process carries a traceback in front of it."""
    last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def _overlap(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def _threshold(text: str) -> float | None:
    return None if text == "auto" else _share(text)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 2**32 - 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wsl_core", description="Weakly supervised localisation.")
    parser.add_argument("--version", action="version", version=f"wsl_core {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("train", help=train.__doc__, description=train.__doc__)
    command.set_defaults(command=train)
    # written out, since importing them would import torch
    papers = (
        "cam, acol, gain, sec, anchornet, introspection, affinitynet_cam, affinitynet, affinitynet_segmentation, "
        "single_classifier, hide_and_seek, iterative_erasing"
    )
    command.add_argument("paper", metavar="PAPER", help=papers)
    command.add_argument(
        "--dataset",
        default="synthetic",
        help="such as tiny-imagenet, voc2012, cub200, imagenet or folder (default: synthetic)",
    )
    command.add_argument("--root", type=Path, help="the folder that holds the data set; default $WSL_DATA")
    command.add_argument("--download", action="store_true", help="fetch the data set into --root if it is missing")
    command.add_argument("--recipe", default="book", help="smoke, book or paper (default: book)")
    command.add_argument("--seed", type=_seed, default=0, help="random seed (default: 0)")
    command.add_argument("--run-dir", type=Path, help="default runs/PAPER-DATASET-RECIPE-SEED")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe, such as lr=0.1; may be repeated",
    )
    command.add_argument(
        "--stage", choices=("cam", "affinity", "segmentation"),
        help="of affinitynet's pipeline, one after the other in the same --run-dir; without it, affinitynet learns "
        "from the data's own masks",
    )  # fmt: skip
    command.add_argument(
        "--refine", action="append", default=[], metavar="KEY=VALUE",
        help="change a number between the stages, such as alpha=8; may be repeated",
    )  # fmt: skip
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: what is there")

    command = commands.add_parser("evaluate", help=evaluate.__doc__, description=evaluate.__doc__)
    command.set_defaults(command=evaluate)
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    command.add_argument("--split", choices=("val", "test"), default="val", help="test is for the final score only")
    command.add_argument("--root", type=Path, help="where the data are now, if they have moved")
    command.add_argument(
        "--threshold", type=_threshold, metavar="auto|SHARE", help="of the map's maximum; auto: the best on val"
    )
    command.add_argument("--iou", type=_overlap, default=0.5, help="overlap from which a box is right")
    command.add_argument(
        "--translate", type=_count, nargs="?", const=0, metavar="SIDE",
        help="put each image at a random place on a grey canvas of SIDE pixels (1.5 times the image)",
    )  # fmt: skip
    command.add_argument("--batch-size", type=_count, default=64)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: what is there")

    command = commands.add_parser("localize", help=localize.__doc__, description=localize.__doc__)
    command.set_defaults(command=localize)
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    command.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="of any size and format")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="for .npy, .png and boxes.json")
    command.add_argument("--class", dest="class_name", metavar="NAME", help="default: the predicted class")
    command.add_argument("--threshold", type=_share, default=0.2, help="share of the map's maximum (0.2, the paper's)")
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: what is there")

    command = commands.add_parser("segment", help=segment.__doc__, description=segment.__doc__)
    command.set_defaults(command=segment)
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="of affinitynet_segmentation or sec")
    command.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="of any size and format")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="for .png and classes.json")
    command.add_argument("--crf", action="store_true", help="refine the masks by a dense CRF")
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: what is there")

    command = commands.add_parser("match", help=match.__doc__, description=match.__doc__)
    command.set_defaults(command=match)
    command.add_argument(
        "descriptor", metavar="RUN_DIR|sift|hog", help="whose descriptors: a run of anchornet or introspection, or none"
    )
    command.add_argument("image_a", type=Path, metavar="IMAGE_A", help="every cell of it is matched")
    command.add_argument("image_b", type=Path, metavar="IMAGE_B", help="where the matches lie")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for match.json, correspondences.npy and warped.png"
    )
    command.add_argument("--matcher", choices=MATCHERS, default="dsp", help="default: dsp")
    command.add_argument(
        "--size", type=_count, default=256, metavar="SIDE",
        help="larger images are shrunk to it before they are compared, unless the run has a size of its own (256)",
    )  # fmt: skip
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: what is there")

    command = commands.add_parser("evaluate-maps", help=evaluate_maps.__doc__, description=evaluate_maps.__doc__)
    command.set_defaults(command=evaluate_maps)
    command.add_argument("--maps", type=Path, required=True, metavar="DIR", help="of <image id>.npy, scores in [0, 1]")
    command.add_argument("--metadata", type=Path, required=True, metavar="DIR", help="with image_ids.txt and its like")
    command.add_argument("--masks", type=Path, metavar="DIR", help="the masks that the metadata name, for PxAP")
    command.add_argument(
        "--missing", choices=("error", "zero"), default="error", help="zero: images without a map count as wrong"
    )
    command.add_argument("--size", type=_count, default=224, metavar="SIDE", help="of the maps (224, the protocol's)")
    command.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
