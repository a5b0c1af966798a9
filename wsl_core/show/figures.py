"""Figures: displayed as images that carry alternative text."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib
import numpy as np
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsl_core.errors import UsageError
from wsl_core.metrics import mean_interval
from wsl_core.show.pictures import Picture, captioned, check_alt, img_html
from wsl_core.show.style import COLORS, STYLE

__all__ = ["figure", "grid", "curves", "records_figure", "figure_html", "grid_html", "plot_curves", "plot_records"]

_PIXELS_PER_INCH = 100  # CSS pixels for one inch of a matplotlib figure
_LINE = 60  # characters under a figure of 6.4 inches
_ARTICLE, _GAP = 688, 12  # CSS pixels: width of a page's text on a desktop, and between pictures


def figure(fig: Figure, alt: str, caption: str | None = None) -> None:
    """Display a matplotlib figure as an image with alternative text, and close it.

    Args:
        fig: the figure.
        alt: what it shows, for a reader who cannot see it.
        caption: a sentence underneath.

    Raises:
        UsageError: ``alt`` is empty.
    """
    display(HTML(figure_html(fig, alt, caption)))


def figure_html(fig: Figure, alt: str, caption: str | None = None) -> str:
    """The HTML that :func:`figure` displays. Line art becomes a PNG, a figure with images a JPEG.

    >>> 'alt="An empty sheet"' in figure_html(Figure(figsize=(1, 1)), alt="An empty sheet")
    True
    """
    width = round(fig.get_figwidth() * _PIXELS_PER_INCH)
    return captioned(img_html(fig, alt, width), caption)


def grid(
    pictures: Sequence[Picture],
    alt: str,
    titles: Sequence[str] = (),
    columns: int = 4,
    caption: str | None = None,
    width: int = 180,
) -> None:
    """Display pictures side by side, each above its title; a narrow page shows fewer in a row.

    Args:
        pictures: what to show.
        alt: what the whole grid shows, for a reader who cannot see it.
        titles: one for each picture, or none at all.
        columns: pictures in a row, at most.
        caption: a sentence underneath.
        width: of one picture, in CSS pixels, at most.

    Raises:
        UsageError: ``alt`` is empty, there is no picture, or titles and pictures differ in number.
    """
    display(HTML(grid_html(pictures, alt, titles, columns, caption, width)))


def grid_html(
    pictures: Sequence[Picture],
    alt: str,
    titles: Sequence[str] = (),
    columns: int = 4,
    caption: str | None = None,
    width: int = 180,
) -> str:
    """The HTML that :func:`grid` displays.

    >>> grid_html([np.zeros((4, 4, 3), np.uint8)], alt="A black square", titles=["black"]).count("<img")
    1
    """
    check_alt(alt)
    if not pictures:
        raise UsageError("pictures is empty; expected one at least.")
    if titles and len(titles) != len(pictures):
        raise UsageError(f"titles has {len(titles)} entries; expected one for each of the {len(pictures)} pictures.")
    cells = []
    for index, picture in enumerate(pictures):
        title = titles[index] if titles else ""
        label = f"{alt} ({index + 1} of {len(pictures)}{': ' + title if title else ''})"
        cells.append(captioned(img_html(picture, label, width), title))
    # A row that does not fit, as on a phone, breaks within itself: what belongs together stays together.
    least = min(width, 140 if columns == 4 else 96, (_ARTICLE + _GAP) // columns - _GAP)
    cell = f"flex:0 1 calc({100 / columns:.3f}% - {_GAP}px);min-width:{least}px;max-width:{width}px"
    cells = [f'<div style="{cell}">{picture}</div>' for picture in cells]
    row = f"display:flex;flex-wrap:wrap;gap:{_GAP}px;max-width:{columns * (width + _GAP)}px;margin-bottom:{_GAP}px"
    rows = ["".join(cells[first : first + columns]) for first in range(0, len(cells), columns)]
    return captioned("".join(f'<div style="{row}">{content}</div>' for content in rows), caption)


def curves(
    history: Sequence[Mapping[str, float]],
    keys: Sequence[str] = ("total",),
    ylabel: str = "loss",
    smoothing: float = 0.9,
    caption: str | None = None,
) -> None:
    """Display the curves of a training run; the alternative text tells where each starts and ends.

    Args:
        history: ``Run.history``: one mapping a logged step, with "step" and the losses.
        keys: which entries to draw; steps that lack one are skipped.
        ylabel: what the entries are.
        smoothing: weight of the past in the running mean, in [0, 1); the raw values stay visible behind it.
        caption: a sentence underneath.

    Raises:
        UsageError: no step has one of the keys, or ``smoothing`` is out of range.
    """
    display(HTML(figure_html(*plot_curves(history, keys, ylabel, smoothing), caption)))


def plot_curves(
    history: Sequence[Mapping[str, float]],
    keys: Sequence[str] = ("total",),
    ylabel: str = "loss",
    smoothing: float = 0.9,
) -> tuple[Figure, str]:
    """The figure of :func:`curves` and its alternative text.

    >>> history = [{"step": step, "total": 1 / step} for step in (1, 2, 4)]
    >>> plot_curves(history)[1]
    'Curves of a training run, steps 1 to 4. total goes from 1 to 0.25; its smoothed value ends at 0.557.'
    """
    if not 0 <= smoothing < 1:
        raise UsageError(f"smoothing is {smoothing}; expected a number in [0, 1).")
    sentences, steps_seen = [], []
    with matplotlib.rc_context(STYLE):
        fig = Figure()
        axes = fig.subplots()
        for key, color in zip(keys, _line_colors(len(keys)), strict=True):
            steps, values = _column(history, key)
            smooth = _running_mean(values, smoothing)
            axes.plot(steps, values, color=color, alpha=0.3, linewidth=1)
            axes.plot(steps, smooth, color=color, label=key)
            steps_seen += steps
            sentences.append(
                f"{key} goes from {values[0]:.3g} to {values[-1]:.3g}; its smoothed value ends at {smooth[-1]:.3g}."
            )
        axes.set(xlabel="step", ylabel=ylabel)
        axes.legend()
    alt = f"Curves of a training run, steps {min(steps_seen)} to {max(steps_seen)}. {' '.join(sentences)}"
    return fig, alt


def records_figure(
    values: Mapping[str, Sequence[float]],
    metric: str,
    live: Mapping[str, float] | None = None,
    caption: str | None = None,
) -> None:
    """Display recorded runs: a dot a seed, the mean with its 95 % t-interval, and the live run among them.

    The alternative text tells the numbers.

    Args:
        values: variant -> one value a seed, at least two.
        metric: what the values are, with its unit.
        live: variant -> the value that the reader's own run gave.
        caption: a sentence underneath.

    Raises:
        UsageError: ``values`` is empty, a variant has fewer than two values, or ``live`` names no variant.
    """
    display(HTML(figure_html(*plot_records(values, metric, live), caption)))


def plot_records(
    values: Mapping[str, Sequence[float]], metric: str, live: Mapping[str, float] | None = None
) -> tuple[Figure, str]:
    """The figure of :func:`records_figure` and its alternative text.

    >>> plot_records({"GAP": [0.5, 0.6, 0.7]}, "IoU", live={"GAP": 0.65})[1]
    'IoU. GAP: mean 0.600, 95 % interval 0.352 to 0.848, 3 seeds; the live run 0.650.'
    """
    live = live or {}
    if not values:
        raise UsageError("values is empty; expected one variant at least.")
    if unknown := sorted(set(live) - set(values)):
        raise UsageError(f"live names {unknown}; expected variants among {list(values)}.")
    sentences = []
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(6.4, 1.3 + 0.6 * len(values)))
        axes = fig.subplots()
        for row, (variant, seeds) in enumerate(values.items()):
            sentences.append(_draw_variant(axes, row, variant, seeds, live.get(variant)))
        axes.set(xlabel=fill(metric, _LINE), ylim=(len(values) - 0.5, -0.5))
        axes.set_yticks(range(len(values)), labels=list(values))
        axes.grid(axis="y", visible=False)
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))  # one entry a kind, not one a variant
        fig.legend(shown.values(), shown.keys(), loc="outside upper right", ncols=len(shown), fontsize=10)
    return fig, f"{metric}. {' '.join(sentences)}"


def _draw_variant(axes: Axes, row: int, variant: str, seeds: Sequence[float], live: float | None) -> str:
    """Draw one row and tell its numbers."""
    interval = mean_interval(seeds)
    axes.hlines(
        row, interval.low, interval.high, color=COLORS["sky"], linewidth=7, alpha=0.5, label="95 % interval of the mean"
    )
    axes.plot(interval.mean, row, "|", color=COLORS["blue"], markersize=20, markeredgewidth=2.5, label="mean")
    axes.plot(seeds, np.full(len(seeds), row), "o", color=COLORS["blue"], markersize=5, alpha=0.7, label="a seed")
    sentence = (
        f"{variant}: mean {interval.mean:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}, "
        f"{len(seeds)} seeds"
    )
    if live is None:
        return sentence + "."
    axes.plot(
        live, row, "D", color=COLORS["vermillion"], markersize=10, markeredgecolor="black", label="live run", zorder=4
    )
    return f"{sentence}; the live run {live:.3f}."


def _line_colors(count: int) -> list[str]:
    cycle = STYLE["axes.prop_cycle"].by_key()["color"]
    return [cycle[index % len(cycle)] for index in range(count)]


def _column(history: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    rows = [row for row in history if key in row]
    if not rows:
        known = sorted({name for row in history for name in row})
        raise UsageError(f"history has no entry {key!r}; expected one of {', '.join(known) or 'none: it is empty'}.")
    return [row["step"] for row in rows], [row[key] for row in rows]


def _running_mean(values: Sequence[float], smoothing: float) -> list[float]:
    """Exponential mean whose weights are corrected for the missing past (as Adam's): it starts at the first value."""
    smooth, total = [], 0.0
    for count, value in enumerate(values, start=1):
        total = smoothing * total + (1 - smoothing) * value
        smooth.append(total / (1 - smoothing**count))
    return smooth
