"""What an experiment is, and the key that its records are found by."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from wsl_core.data import Dataset
from wsl_core.recipes import Recipe, get_recipe
from wsl_core.training import open_split, source_digest, sources_of, training_sources

__all__ = ["Experiment", "Measurement"]

Measurement = dict[str, dict[str, float]]  # metric -> variant -> value


@dataclass(frozen=True)
class Experiment:
    """Networks that are trained with one random seed, and what is measured on them.

    Attributes:
        name: what the register calls it.
        paper, dataset: whose recipe is taken.
        scope: what the verdicts hold for: ``"synthetic"``, ``"Tiny ImageNet"`` or ``"the paper's data"``.
        variants: name of each network -> its changes to the recipe.
        data: recipe -> the data sets that are measured on, by the role they play. Thresholds are chosen on val.
        measure: trained networks in evaluation mode, data sets -> values. Called with torch seeded as for the training,
            so that the first network that it builds has the weights from which the training began.
    """

    name: str
    paper: str
    dataset: str
    scope: str
    variants: Mapping[str, Mapping[str, Any]]
    data: Callable[[Recipe], dict[str, Dataset]]
    measure: Callable[[Mapping[str, nn.Module], Mapping[str, Dataset]], Measurement]

    def recipes(self, scale: str) -> dict[str, Recipe]:
        """The recipe of each network."""
        recipe = get_recipe(self.paper, self.dataset, scale)
        return {variant: recipe.replace(**changes) for variant, changes in self.variants.items()}

    def datasets(self, scale: str) -> dict[str, Dataset]:
        """What is measured on. Nothing is rendered or decoded before it is asked for."""
        return self.data(next(iter(self.recipes(scale).values())))

    def source(self, scale: str) -> str:
        """Digest of the source that trains and measures."""
        used: set[str] = set()
        for recipe in self.recipes(scale).values():
            used.update(training_sources(recipe), sources_of(self.measure, self.data, recipe=recipe))
        return source_digest(sorted(used))

    def data_versions(self, scale: str) -> dict[str, str]:
        """Version and length of each data set that is trained or measured on."""
        trained_on = {
            f"training of {variant}": open_split(recipe, "train") for variant, recipe in self.recipes(scale).items()
        }
        both = trained_on | self.datasets(scale)
        return {role: f"{data.version}, {len(data)} images" for role, data in both.items()}

    def key(self, scale: str) -> str:
        """Changes with the recipes, the data, and the source: a record with another key is stale."""
        parts = {
            "experiment": self.name,
            "recipes": {variant: recipe.identity() for variant, recipe in self.recipes(scale).items()},
            "data": self.data_versions(scale),
            "source": self.source(scale),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
