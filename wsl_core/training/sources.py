"""What a trained model depends on, as one key: recipe, data, random seed, and the source that training reads.

Source is followed from definition to definition, over imports. What is beside the path changes no key: a function that
is added to a file leaves alone whatever does not call it.
"""

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from wsl_core.errors import UsageError
from wsl_core.papers import PAPERS
from wsl_core.recipes import Recipe

__all__ = ["run_key", "source_digest", "sources_of", "training_sources"]

PACKAGE = "wsl_core"
TRAINING = ("wsl_core.training.runs._begin", "wsl_core.training.loop.train")
# The data's own version and the recipe's own values stand for these; errors, files and keys change no number.
KEYED_OTHERWISE = tuple(f"wsl_core.{name}" for name in ("data", "recipes", "errors", "files", "training.sources"))
NOT_IN_LOOP = ("wsl_core.training.run_directory", "wsl_core.training.evaluation")
ONLY_FINDS = ("wsl_core.papers", "wsl_core")  # pages that import by name; what they find is named elsewhere
REGISTRY = "wsl_core.backbones.BACKBONES"  # a run reads one entry of it; further networks are beside its path
NEWER_THAN_3_11 = ("type_params",)  # fields of the syntax tree that later versions of Python add


def run_key(recipe: Recipe, data_version: str, seed: int) -> str:
    """Name of the run that this recipe, this data and this random seed lead to with the source as it is now.

    >>> a, b = (run_key(Recipe("cam", "synthetic", steps=10, workers=n), "v1", 0) for n in (0, 2))
    >>> a == b, len(a)
    (True, 20)
    """
    source = source_digest(training_sources(recipe))
    parts = {"recipe": recipe.identity(), "data": data_version, "seed": seed, "source": source}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def training_sources(recipe: Recipe) -> list[str]:
    """The definitions that decide about trained weights: the loop, the paper's model, its backbone, and what they use.

    A paper that has no file here, such as a reader's own model, adds nothing.

    >>> sources = training_sources(Recipe("cam", "synthetic", steps=10))
    >>> "wsl_core.ops.global_pool" in sources, "wsl_core.papers.cam.grad_cam" in sources
    (True, False)
    >>> [source for source in sources if "BACKBONES" in source]
    ['wsl_core.backbones.BACKBONES[small]']
    """
    papers = [f"wsl_core.papers.{PAPERS[recipe.paper]}"] if recipe.paper in PAPERS else []
    return _reachable([*TRAINING, *papers], _backbone(recipe), (*KEYED_OTHERWISE, *NOT_IN_LOOP))


def sources_of(*functions: Callable, recipe: Recipe) -> list[str]:
    """The definitions of this package that decide about what functions return; data and recipes are keyed otherwise.

    Args:
        recipe: of the networks that they are called with or build; only its backbone counts.

    >>> from wsl_core.localize import mask_from_maps
    >>> "wsl_core.ops.normalize" in sources_of(mask_from_maps, recipe=Recipe("cam", "synthetic", steps=10))
    True
    """
    owners = [function if hasattr(function, "__qualname__") else type(function) for function in functions]
    roots = [f"{owner.__module__}.{owner.__qualname__.partition('.')[0]}" for owner in owners]
    return _reachable(roots, _backbone(recipe), KEYED_OTHERWISE)


def _backbone(recipe: Recipe) -> str:
    return recipe.model.get("backbone", "small")


def source_digest(sources: Iterable[str]) -> str:
    """SHA-256 over the syntax trees of definitions: ``"wsl_core.ops.normalize"``, or an entry ``"module.TABLE[key]"``.

    Comments, docstrings and formatting do not count.

    Raises:
        UsageError: there is no such definition.

    >>> len(source_digest(["wsl_core.ops.normalize"]))
    64
    """
    trees = {source: [_canonical(statement) for statement in _definition(source)] for source in sources}
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()


class _Module(NamedTuple):
    """What a file defines at its top level, and where the names come from that it imports."""

    defined: dict[str, list[ast.stmt]]
    imported: dict[str, str]


def _reachable(roots: Iterable[str], backbone: str, left_out: tuple[str, ...]) -> list[str]:
    """Full names of all definitions of the package that ``roots`` lead to, themselves included."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        source = waiting.pop()
        if source in found:
            continue
        if _path(source):  # a module as such: whatever it defines may be meant
            if not source.startswith(left_out) and source not in ONLY_FINDS:
                waiting += [f"{source}.{name}" for name in _read(source).defined]
            continue
        module, _, name = source.rpartition(".")
        if module.startswith(left_out) or module in ONLY_FINDS:
            continue
        here = _read(module)
        if name in here.imported:
            waiting.append(here.imported[name])
            continue
        if source == REGISTRY:
            source = f"{REGISTRY}[{backbone}]"
        found.add(source)
        nodes = [node for part in _definition(source) for node in ast.walk(part)]
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        waiting += [f"{module}.{other}" for other in used & here.defined.keys()]
        waiting += [here.imported[other] for other in used & here.imported.keys()]
        waiting += [origin for node in nodes for origin in _names_imported(node).values() if _is_ours(origin)]
    return sorted(found)


def _definition(source: str) -> Sequence[ast.AST]:
    module, _, name = source.rpartition(".")
    name, _, entry = name.partition("[")
    if module and _path(module) and name in (defined := _read(module).defined):
        return _entry(defined[name], entry.rstrip("]")) if entry else defined[name]
    raise UsageError(f"source {source!r} does not exist.")


def _entry(definition: list[ast.stmt], key: str) -> list[ast.expr]:
    """The value of one key of a dictionary; nothing for a key that it does not have, as whoever builds it will say."""
    dictionaries = [node for statement in definition for node in ast.walk(statement) if isinstance(node, ast.Dict)]
    return [
        value
        for dictionary in dictionaries
        for name, value in zip(dictionary.keys, dictionary.values, strict=True)
        if isinstance(name, ast.Constant) and name.value == key
    ]


def _read(module: str) -> _Module:
    path = _path(module)
    assert path is not None, module
    return _parsed(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=256)
def _parsed(text: str) -> _Module:
    defined: dict[str, list[ast.stmt]] = defaultdict(list)
    imported: dict[str, str] = {}
    for statement in ast.parse(text).body:
        for name in _bound_by(statement):
            defined[name].append(statement)
        names = _names_imported(statement)
        imported |= {name: origin for name, origin in names.items() if _is_ours(origin)}
        for name, origin in names.items():
            if not _is_ours(origin):  # torch's and others': where the name comes from is all that we know
                defined[name].append(ast.Expr(ast.Constant(origin)))
    return _Module(dict(defined), imported)


def _names_imported(node: ast.AST) -> dict[str, str]:
    """What an import statement calls things -> where they come from; nothing for any other statement."""
    if isinstance(node, ast.ImportFrom) and node.module:
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
    return {}


def _is_ours(origin: str) -> bool:
    return origin.partition(".")[0] == PACKAGE


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Names that a top-level statement gives a meaning to. What a comprehension or a function binds is its own."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif not isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _bound_by(child)


def _path(module: str) -> Path | None:
    """The file of a module, if there is one of that name."""
    try:
        spec = find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _canonical(node: Any) -> Any:
    """The tree as nested lists that are the same in every version of Python; ``ast.dump`` is not."""
    if isinstance(node, ast.AST):
        fields = {name: value for name, value in ast.iter_fields(node) if name not in NEWER_THAN_3_11}
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            fields["body"] = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        return [type(node).__name__, *([name, _canonical(value)] for name, value in sorted(fields.items()))]
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return repr(node)
