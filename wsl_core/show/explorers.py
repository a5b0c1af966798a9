"""The explorers of maps and boxes, one image, class and threshold at a time, and of matches, one point at a time."""

import html
from collections.abc import Mapping, Sequence

import contourpy
import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor

from wsl_core.data import Sample
from wsl_core.errors import UsageError
from wsl_core.localize import boxes_from_map
from wsl_core.matching import Correspondence, cell_centres, transfer_points
from wsl_core.metrics import box_iou
from wsl_core.ops import Grid, normalize, resize_maps
from wsl_core.show.pictures import img_html, overlay
from wsl_core.show.style import COLORS
from wsl_core.show.widgets import (
    PAGE_LIMIT,
    TEXT_STYLE,
    check_weight,
    html_pages,
    html_widget,
    picker,
    player,
    switch,
)

__all__ = ["THRESHOLDS", "explore_boxes", "explore_matches", "frame_text", "frame_svg"]

THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # tau: 0.05, 0.10, ... 0.95
IOU_THRESHOLD = 0.5  # delta: from here on a box counts as correct

_OUTLINE_CELLS = 40  # the outline of a region is traced on a grid of this many cells along the longer side


def explore_boxes(
    samples: Sequence[Sample],
    maps: Sequence[Float[Tensor, "K _h _w"]] | Float[Tensor, "N K h w"],
    class_names: Sequence[str],
    classes: Sequence[int] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    start: float = 0.2,
    how: str = "max",
    names: Sequence[str] | None = None,
    play: bool = False,
    width: int = 300,
    limit: int = PAGE_LIMIT,
) -> widgets.Widget:
    r"""Move the threshold $\tau$ and see the region, its box, and the box's IoU; on a static page, too.

    The heat-map and the boxes are two layers. Boxes are drawn as vectors, so that a further threshold costs about one
    kilobyte and no further picture.

    Args:
        samples: images, with true boxes where they are known.
        maps: raw score maps of all K classes, one tensor a sample.
        class_names: the K names.
        classes: positions of the classes that are offered, present in an image or not; by default all those that
            any of the samples shows.
        thresholds: $\tau$, shares of the normalised map in [0, 1).
        start: the threshold at first; the nearest one is taken.
        how: :func:`wsl_core.ops.normalize`'s rule. "max" is the CAM paper's.
        names: what the images are called; by default their number and their classes.
        play: add a button that moves the threshold by itself.
        width: of the picture in CSS pixels, at most.
        limit: the most bytes that it may put on the page.

    Raises:
        UsageError: samples, maps and names differ in number, maps and class names in their classes, a class or a
            threshold is out of range, or the limit is passed.

    >>> sample = {"id": "a", "image": torch.rand(3, 32, 32), "labels": torch.tensor([0.0, 1.0])}
    >>> explorer = explore_boxes([sample], torch.rand(1, 2, 4, 4), ["cat", "dog"])
    >>> explorer.children[0].children[0].description
    'Threshold τ'
    """
    chosen = _classes_shown(samples) if classes is None else list(classes)
    names = names or [_name(position, sample, class_names) for position, sample in enumerate(samples)]
    _check(samples, maps, names, class_names, chosen, thresholds)

    which_image = picker(names, "Image", control="dropdown")
    which_class = picker([class_names[k] for k in chosen], "Class", control="toggle", index=_first(samples[0], chosen))
    nearest = min(range(len(thresholds)), key=lambda position: abs(thresholds[position] - start))
    which_threshold = picker([f"{tau:.2f}" for tau in thresholds], "Threshold τ", index=nearest)

    pictures, drawings = [], []
    for name, sample, scores in zip(names, samples, maps, strict=True):
        heats, boxes = [], []
        for k in chosen:
            score_map = _normalized(sample, scores[k], how)
            alt = f"{name}: where the network sees {class_names[k]}. {_peak(score_map)}"
            heats.append(img_html(overlay(sample["image"], scores[k], how), alt, width))
            frames = html_pages([_frame(sample, score_map, k, class_names[k], tau, width) for tau in thresholds])
            boxes.append(switch(which_threshold, frames))
        pictures.append(switch(which_class, html_pages(heats)))
        drawings.append(switch(which_class, boxes))

    view = _layered([switch(which_image, pictures), switch(which_image, drawings)])
    controls = [control for control in (which_image, which_class) if len(control.options) > 1] + [which_threshold]
    if play:
        controls.append(player(which_threshold))
    return check_weight(widgets.VBox([widgets.VBox(controls), view, html_widget(_LEGEND)]), limit)


def explore_matches(
    pairs: Sequence[tuple[Float[Tensor, "3 _H _W"], Float[Tensor, "3 _H2 _W2"]]],
    found: Sequence[Mapping[str, Correspondence]],
    names: Sequence[str],
    points: int = 5,
    width: int = 620,
    limit: int = PAGE_LIMIT,
) -> widgets.Widget:
    """Choose a point of the left image and see where each descriptor finds it in the right one; without a kernel, too.

    The two images are one picture; points are drawn over it as vectors.

    Args:
        pairs: left and right images.
        found: of each pair, by the descriptor's name, where the cells of the left image lie in the right one. At most
            as many names as :data:`MARKS` has marks, and the same of each pair.
        names: what the pairs are called.
        points: how many there are to choose from, in each row and each column of the left image.
        width: of the picture in CSS pixels, at most.
        limit: the most bytes that it may put on the page.

    Raises:
        UsageError: pairs, correspondences and names differ in number, the pairs have different descriptors or too
            many, there is no point, or the limit is passed.

    >>> image = torch.rand(3, 32, 32)
    >>> centres = cell_centres((8, 8), Grid(4, 2))
    >>> same = Correspondence(centres, torch.ones(8, 8), torch.ones(8, 8).bool(), Grid(4, 2))
    >>> explorer = explore_matches([(image, image)], [{"dense SIFT": same}], ["an image with itself"], points=2)
    >>> [control.description for control in explorer.children[0].children]
    ['Down', 'Right']
    """
    _check_matches(pairs, found, names, points)
    which_pair = picker(names, "Pair", control="dropdown")
    labels = [f"{place + 1} of {points}" for place in range(points)]
    down, right = picker(labels, "Down", index=points // 2), picker(labels, "Right", index=points // 2)
    pictures, drawings = [], []
    for name, (left, other), by_name in zip(names, pairs, found, strict=True):
        pictures.append(img_html(_side_by_side(left, other), f"{name}: two images to be matched, side by side", width))
        frames = _match_frames(left, other, by_name, points, width)
        drawings.append(switch(down, [switch(right, html_pages(row)) for row in frames]))
    view = _layered([switch(which_pair, html_pages(pictures)), switch(which_pair, drawings)])
    controls = [control for control in (which_pair, down, right) if len(control.options) > 1]
    return check_weight(widgets.VBox([widgets.VBox(controls), view, html_widget(_match_legend(found[0]))]), limit)


def frame_text(predicted: Float[Tensor, "M 4"], true: Float[Tensor, "N 4"], class_name: str, threshold: float) -> str:
    """What the explorer says under the picture.

    >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    >>> frame_text(box, box, "dog", 0.2)
    'τ = 0.20: IoU 1.00 with the true box, correct at δ = 0.5.'
    """
    opening = f"τ = {threshold:.2f}: "
    if not len(predicted):
        return opening + "no region, no box."
    if not len(true):
        return opening + f"a box, but no true box of {class_name} to hold against it."
    iou = box_iou(predicted, true).max().item()
    which = "the true box" if len(true) == 1 else f"the best of {len(true)} true boxes"
    verdict = "correct" if iou >= IOU_THRESHOLD else "not correct"
    return opening + f"IoU {iou:.2f} with {which}, {verdict} at δ = {IOU_THRESHOLD}."


def frame_svg(
    score_map: Float[Tensor, "H W"],
    predicted: Float[Tensor, "M 4"],
    true: Float[Tensor, "N 4"],
    threshold: float,
    width: int = 300,
) -> str:
    """The region's outline and the boxes as vectors, in pixels of the image.

    >>> svg = frame_svg(torch.eye(4), torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.zeros(0, 4), 0.2)
    >>> svg.count("<rect"), 'viewBox="0 0 4 4"' in svg
    (2, True)
    """
    rows, columns = score_map.shape
    shapes = [_path(score_map, threshold)]
    shapes += [_rect(box, "#000", 4) + _rect(box, "#fff", 2.5, dash="7 5") for box in true]
    shapes += [_rect(box, "#000", 5) + _rect(box, COLORS["vermillion"], 3) for box in predicted]
    # The text beneath says in words what the lines show.
    return (
        f'<svg viewBox="0 0 {columns} {rows}" aria-hidden="true" fill="none" '
        f'style="display:block;width:{width}px;max-width:100%;height:auto">{"".join(shapes)}</svg>'
    )


_GAP = 8  # pixels between two images side by side
MARKS = {  # what stands for a descriptor: a colour, and a shape around the origin that nobody needs the colour for
    "●": ("orange", '<circle r="3.2"/>'),
    "■": ("sky", '<rect x="-2.8" y="-2.8" width="5.6" height="5.6"/>'),
    "▲": ("yellow", '<path d="M0 -3.6L3.4 2.6L-3.4 2.6Z"/>'),
    "◆": ("vermillion", '<path d="M0 -3.9L3.9 0L0 3.9L-3.9 0Z"/>'),
    "▼": ("green", '<path d="M0 3.6L3.4 -2.6L-3.4 -2.6Z"/>'),
    "✚": ("purple", '<path d="M-1.2 -3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4Z"/>'),
}


def _side_by_side(left: Float[Tensor, "3 H W"], right: Float[Tensor, "3 H2 W2"]) -> Float[Tensor, "3 H3 W3"]:
    """Both in one picture, the smaller one at the top; white where there is nothing."""
    height = max(left.shape[1], right.shape[1])
    picture = torch.ones(3, height, left.shape[2] + _GAP + right.shape[2])
    picture[:, : left.shape[1], : left.shape[2]] = left
    picture[:, : right.shape[1], left.shape[2] + _GAP :] = right
    return picture


def _match_frames(
    left: Float[Tensor, "3 H W"],
    right: Float[Tensor, "3 H2 W2"],
    found: Mapping[str, Correspondence],
    points: int,
    width: int,
) -> list[list[str]]:
    """For each point, row by row: the point, what each descriptor answers, and the same in words."""
    height, extent = left.shape[1], left.shape[2]
    places = cell_centres((points, points), Grid(1 / points, 0.5 / points)) * torch.tensor([extent, height])
    answers = {name: transfer_points(places.flatten(0, 1), one).view(points, points, 2) for name, one in found.items()}
    box = f"0 0 {extent + _GAP + right.shape[2]} {max(height, right.shape[1])}"
    rows = []
    for i in range(points):
        frames = []
        for j in range(points):
            x, y = places[i, j].tolist()
            shapes = [f'<circle cx="{x:g}" cy="{y:g}" r="3.5" fill="none" stroke="#fff" stroke-width="1.6"/>']
            shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="4.6" fill="none" stroke="#000" stroke-width="0.8"/>')
            told = []
            for mark, (name, there) in zip(MARKS, answers.items()):
                color, shape = MARKS[mark]
                u, v = (there[i, j].clamp(min=0).minimum(torch.tensor([right.shape[2], right.shape[1]]))).tolist()
                shapes.append(
                    f'<g transform="translate({extent + _GAP + u:.1f} {v:.1f})" fill="{COLORS[color]}" stroke="#000" '
                    f'stroke-width="0.7">{shape}</g>'
                )
                told.append(f"{mark} {name}: ({u:.0f}, {v:.0f})")
            svg = (
                f'<svg viewBox="{box}" aria-hidden="true" '
                f'style="display:block;width:{width}px;max-width:100%;height:auto">{"".join(shapes)}</svg>'
            )
            text = html.escape(
                f"The point ({x:.0f}, {y:.0f}) on the left lies on the right, in pixels: {', '.join(told)}."
            )
            frames.append(f"{svg}<div {TEXT_STYLE}>{text}</div>")
        rows.append(frames)
    return rows


def _match_legend(found: Mapping[str, Correspondence]) -> str:
    marks = ", ".join(f"{mark} {html.escape(name)}" for mark, name in zip(MARKS, found))
    return f"<div {TEXT_STYLE}>○ the chosen point; {marks}</div>"


def _check_matches(pairs: Sequence, found: Sequence[Mapping], names: Sequence[str], points: int) -> None:
    if not pairs or not len(pairs) == len(found) == len(names):
        raise UsageError(
            f"{len(pairs)} pairs, {len(found)} correspondences and {len(names)} names; expected one at least, and as "
            "many of each."
        )
    if any(list(one) != list(found[0]) for one in found) or not 1 <= len(found[0]) <= len(MARKS):
        raise UsageError(
            f"found has the descriptors {[list(one) for one in found]}; expected the same of each pair, at least one "
            f"and at most {len(MARKS)}."
        )
    if points < 1:
        raise UsageError(f"points is {points}; expected at least 1.")


_LEGEND = (
    f"<div {TEXT_STYLE}>"
    f'<span style="border-bottom:3px solid {COLORS["vermillion"]}">predicted box</span> (solid), '
    '<span style="border-bottom:3px dashed currentColor">true box</span> (dashed), '
    '<span style="border-bottom:1px solid currentColor">region above τ</span> (thin)</div>'
)


def _layered(layers: Sequence[widgets.Widget]) -> widgets.GridBox:
    """One widget on top of the other: all lie in the one cell of a grid."""
    for layer in layers:
        layer.layout = widgets.Layout(grid_area="1 / 1 / 2 / 2", overflow="visible")
    return widgets.GridBox(layers, layout=widgets.Layout(grid_template_columns="minmax(0, 1fr)"))


def _check(
    samples: Sequence[Sample],
    maps: Sequence[Tensor] | Tensor,
    names: Sequence[str],
    class_names: Sequence[str],
    chosen: Sequence[int],
    thresholds: Sequence[float],
) -> None:
    if not samples or not len(samples) == len(maps) == len(names):
        raise UsageError(
            f"{len(samples)} samples, {len(maps)} maps and {len(names)} names; "
            "expected one at least, and as many of each."
        )
    for position, scores in enumerate(maps):
        if len(scores) != len(class_names):
            raise UsageError(
                f"maps[{position}] has {len(scores)} classes and class_names has {len(class_names)}; expected as many."
            )
    if not chosen or not all(0 <= k < len(class_names) for k in chosen):
        raise UsageError(f"classes are {list(chosen)}; expected one at least, from 0 to {len(class_names) - 1}.")
    if not thresholds or not all(0 <= tau < 1 for tau in thresholds):
        raise UsageError(f"thresholds are {list(thresholds)}; expected shares of the normalised map in [0, 1).")


def _classes_shown(samples: Sequence[Sample]) -> list[int]:
    return sorted({k for sample in samples for k in _present(sample)})


def _present(sample: Sample) -> list[int]:
    return sample["labels"].nonzero().flatten().tolist() if "labels" in sample else []


def _first(sample: Sample, chosen: Sequence[int]) -> int:
    """Position among the chosen classes of the first that the sample shows."""
    present = _present(sample)
    return next((position for position, k in enumerate(chosen) if k in present), 0)


def _name(position: int, sample: Sample, class_names: Sequence[str]) -> str:
    content = ", ".join(class_names[k] for k in _present(sample) if k < len(class_names))
    return f"{position + 1}: {content}" if content else f"{position + 1}"


def _normalized(sample: Sample, score_map: Float[Tensor, "h w"], how: str) -> Float[Tensor, "H W"]:
    size = tuple(sample["image"].shape[-2:])
    return normalize(resize_maps(score_map[None, None].detach().float().cpu(), size)[0, 0], how)


def _peak(score_map: Float[Tensor, "H W"]) -> str:
    """Where the map is highest, in words: a reader who cannot see the heat-map is told."""
    if score_map.max() == 0:
        return "The map is flat."
    row, column = divmod(int(score_map.argmax()), score_map.shape[1])
    down, right = (row + 0.5) / score_map.shape[0], (column + 0.5) / score_map.shape[1]
    return f"The map is highest {right:.0%} from the left and {down:.0%} from the top."


def _frame(
    sample: Sample, score_map: Float[Tensor, "H W"], k: int, class_name: str, threshold: float, width: int
) -> str:
    predicted = boxes_from_map(score_map, threshold)
    true = sample["boxes"][sample["box_labels"] == k] if "boxes" in sample else torch.zeros(0, 4)
    text = html.escape(frame_text(predicted, true, class_name, threshold))
    return f"{frame_svg(score_map, predicted, true, threshold, width)}<div {TEXT_STYLE}>{text}</div>"


def _rect(box: Float[Tensor, "4"], color: str, thickness: float, dash: str = "") -> str:
    x0, y0, x1, y1 = box.tolist()
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<rect x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}" stroke="{color}" '
        f'stroke-width="{thickness:g}" vector-effect="non-scaling-stroke"{dashes}/>'
    )


def _path(score_map: Float[Tensor, "H W"], threshold: float) -> str:
    """The line along which the map equals the threshold."""
    height, width = score_map.shape
    step = max(1.0, max(height, width) / _OUTLINE_CELLS)  # pixels of the image for one cell
    cells = resize_maps(score_map[None, None], (round(height / step), round(width / step)))[0, 0]
    lines = contourpy.contour_generator(z=cells.numpy()).lines(threshold)
    scale_x, scale_y = width / cells.shape[1], height / cells.shape[0]
    points = ["M" + "L".join(f"{(x + 0.5) * scale_x:.1f} {(y + 0.5) * scale_y:.1f}" for x, y in line) for line in lines]
    stroke = 'stroke-width="1.2" vector-effect="non-scaling-stroke"'
    return f'<path d="{"".join(points)}" stroke="#fff" {stroke}/>' if points else ""
