"""What a trained model depends on, as one key: recipe, data, random seed, and the source that training reads."""

import ast
import hashlib
import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wsl_core.errors import UsageError
from wsl_core.recipes import Recipe

__all__ = ["run_key", "source_digest", "training_sources"]

LOOP = "wsl_core.training.loop"
# The data's own version and the recipe's own values stand for these; errors and files change no weight.
KEYED_OTHERWISE = ("wsl_core.data", "wsl_core.recipes", "wsl_core.errors", "wsl_core.files")
NOT_IN_LOOP = ("wsl_core.training.run_directory", "wsl_core.training.evaluation", "wsl_core.training.sources")
NEWER_THAN_3_11 = ("type_params",)  # fields of the syntax tree that later versions of Python add


def run_key(recipe: Recipe, data_version: str, seed: int) -> str:
    """Name of the run that this recipe, this data and this random seed lead to with the source as it is now.

    >>> a, b = (run_key(Recipe("cam", "synthetic", steps=10, workers=n), "v1", 0) for n in (0, 2))
    >>> a == b, len(a)
    (True, 20)
    """
    source = source_digest(training_sources(recipe.paper))
    parts = {"recipe": recipe.identity(), "data": data_version, "seed": seed, "source": source}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def training_sources(paper: str) -> list[str]:
    """The modules of this package that decide about trained weights: the loop, the paper, and what these import.

    A paper that has no file here, such as a reader's own model, adds nothing.

    >>> "wsl_core.ops" in training_sources("cam"), "wsl_core.show" in training_sources("cam")
    (True, False)
    """
    found: set[str] = set()
    waiting = [module for module in (LOOP, f"wsl_core.papers.{paper}") if _path(module)]
    while waiting:
        module = waiting.pop()
        if module not in found and not module.startswith(KEYED_OTHERWISE) and module not in NOT_IN_LOOP:
            found.add(module)
            waiting.extend(_imports(module))
    return sorted(found)


def source_digest(modules: Iterable[str]) -> str:
    """SHA-256 over the syntax trees of modules. Comments, docstrings and formatting do not count.

    Raises:
        UsageError: there is no such module.

    >>> len(source_digest(["wsl_core.errors"]))
    64
    """
    trees = {module: _canonical(_parse(module)) for module in modules}
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()


def _parse(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise UsageError(f"module {module!r} does not exist.")
    return ast.parse(path.read_text(encoding="utf-8"))


def _path(module: str) -> Path | None:
    """The file of a module of this package."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _imports(module: str) -> list[str]:
    """Modules of this package that ``module`` imports anywhere."""
    names: list[str] = []
    for node in ast.walk(_parse(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("wsl_core.") and _path(name)]


def _canonical(node: Any) -> Any:
    """The tree as nested lists that are the same in every version of Python; ``ast.dump`` is not."""
    if isinstance(node, ast.AST):
        fields = {name: value for name, value in ast.iter_fields(node) if name not in NEWER_THAN_3_11}
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            fields["body"] = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        return [type(node).__name__, *([name, _canonical(value)] for name, value in sorted(fields.items()))]
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return repr(node)
