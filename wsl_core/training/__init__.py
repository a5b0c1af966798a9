"""Training: one loop for every paper, and runs that survive being stopped."""

from wsl_core.training.augment import augment
from wsl_core.training.evaluation import localization_report, max_box_acc_report, predict
from wsl_core.training.loop import learning_rate, parameter_groups
from wsl_core.training.runs import Run, cached_run, fit, load_run, open_split
from wsl_core.training.sources import run_key, source_digest, sources_of, training_sources

__all__ = [
    "Run", "augment", "cached_run", "fit", "learning_rate", "load_run", "localization_report",
    "max_box_acc_report", "open_split", "parameter_groups", "predict", "run_key", "source_digest", "sources_of",
    "training_sources",
]  # fmt: skip
