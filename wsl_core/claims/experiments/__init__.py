"""What is trained and measured for the claims: one file a paper, one experiment for claims that share their runs."""

from wsl_core.claims.experiments import (
    acol,
    affinitynet,
    anchornet,
    cam,
    deep_features,
    gain,
    gap_vs_gmp,
    introspection,
)
from wsl_core.claims.experiments.base import Experiment, Measurement
from wsl_core.errors import UsageError

__all__ = ["EXPERIMENTS", "Experiment", "Measurement", "get_experiment"]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for chapter in (cam, gap_vs_gmp, deep_features, acol, gain, anchornet, introspection, affinitynet)
    for experiment in chapter.EXPERIMENTS
}


def get_experiment(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        UsageError: there is none.

    >>> get_experiment("cam-zoo").paper
    'cam'
    """
    if name not in EXPERIMENTS:
        raise UsageError(f"experiment {name!r} does not exist; expected one of {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
