"""One look for every figure of the book."""

import matplotlib
from matplotlib import cycler

__all__ = ["COLORS", "STYLE", "style"]

# Okabe and Ito, "Color Universal Design" (2008): eight colours that colour-blind readers can tell apart.
COLORS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}

_LINES = ("blue", "vermillion", "green", "orange", "sky", "purple", "black")

# A white sheet stays readable on the book's dark pages; a transparent one would put dark letters on a dark page.
STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=[COLORS[name] for name in _LINES]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.labelsize": 11,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.figsize": (6.4, 3.6),
    "font.size": 11,
    "grid.alpha": 0.25,
    "image.cmap": "inferno",
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "savefig.facecolor": "white",
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}


def style() -> None:
    """Give every matplotlib figure made from here on the book's look.

    The figures of this package have it anyway; a notebook calls this once for its own.

    >>> style()
    >>> matplotlib.rcParams["figure.facecolor"]
    'white'
    """
    matplotlib.rcParams.update(STYLE)
