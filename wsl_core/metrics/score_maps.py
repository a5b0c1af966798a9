"""What clovaai/wsolevaluation takes as a score map, and the thresholds at which it is cut."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wsl_core.data.wsol_metadata import check_scores
from wsl_core.errors import UsageError

__all__ = ["THRESHOLDS", "Thresholds", "check_thresholds", "score_arrays"]

Thresholds = Sequence[float] | np.ndarray

THRESHOLDS = tuple(np.arange(0, 1, 0.001).tolist())  # of the official training and inference; its evaluation.py: 0.01


def score_arrays(score_maps: Float[Tensor, "B H W"]) -> Float[np.ndarray, "B H W"]:
    """The maps as float64 arrays.

    Raises:
        DataError: a map has a value that is NaN or not in [0, 1].

    >>> import torch
    >>> score_arrays(torch.tensor([[[0.0, 0.5]]]))
    array([[[0. , 0.5]]])
    """
    values = score_maps.detach().cpu().double().numpy()
    for i, score_map in enumerate(values):
        check_scores(score_map, f"score map {i}")
    return values


def check_thresholds(thresholds: Thresholds) -> tuple[float, ...]:
    """The thresholds as a tuple.

    Raises:
        UsageError: there is none, or they do not rise from 0 and stay below 1.

    >>> check_thresholds([0, 0.5])
    (0.0, 0.5)
    """
    checked = tuple(float(threshold) for threshold in thresholds)
    if not checked or checked[0] != 0 or checked[-1] >= 1 or not (np.diff(checked) > 0).all():
        raise UsageError(
            f"thresholds: found {_shortened(checked)}; expected numbers that rise from 0 and stay below 1."
        )
    return checked


def _shortened(values: tuple[float, ...]) -> str:
    return str(values) if len(values) <= 6 else f"{len(values)} of them from {values[0]} to {values[-1]}"
