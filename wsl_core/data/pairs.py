"""Pairs of images to match: within a class, or across the classes of a family, and what both images show.

An eye is an eye on any animal. Two classes of one *family* have parts and keypoints that mean the same, so features can
be matched between a dog and a bird, as AnchorNet's class-agnostic features are (Novotny et al., CVPR 2017).
"""

from collections.abc import Iterable, Iterator
from itertools import chain, product, zip_longest
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from wsl_core.data.base import Dataset, Sample, check_count
from wsl_core.data.synthetic.noise import Stream
from wsl_core.errors import UsageError

__all__ = ["Pair", "pairs", "families", "shared_keypoints", "shared_parts", "FAMILIES"]

# By data set: classes of which some parts, or some keypoints, mean the same. Nothing is shared across families, also
# where names agree: a bird's wing is no plane's. Each world has some of these classes. What their vehicles share are
# windows, bodies, cabins and both ends; in the world "families", which is made for this, wheels above all.
FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "synthetic": (
        ("dog", "bird", "fish", "horse", "giraffe"), ("car", "plane", "boat", "truck", "tractor", "bicycle"),
    ),
    "pascal-parts": (
        ("bird", "cat", "cow", "dog", "horse", "sheep"), ("bicycle", "motorbike"), ("bus", "car"),
    ),
}  # fmt: skip

# Keypoints that mean the same though they have different names; all others mean the same if their names agree.
_MEANING = {
    "dog/nose": "muzzle", "bird/beak": "muzzle", "fish/mouth": "muzzle",
    "car/lamp": "front", "plane/nose": "front", "boat/bow": "front",
    "boat/stern": "rear",
}  # fmt: skip


class Pair(NamedTuple):
    """Two samples, by their positions in the data set, and what can be matched between them.

    A row of ``keypoints`` holds a row of the source's keypoints and a row of the target's: the same point, visible in
    both. A row of ``parts`` holds a value of the source's ``parts`` and one of the target's: the same part, in both.
    """

    source: int
    target: int
    source_class: int
    target_class: int
    keypoints: Int[Tensor, "N 2"]
    parts: Int[Tensor, "M 2"]


class _Shown(NamedTuple):
    """What a sample shows. It is read, or rendered, once; its pixels are not kept."""

    id: str
    classes: set[int]
    keypoints: set[int]
    parts: set[int]


def pairs(dataset: Dataset, across: bool = False, count: int | None = None, seed: int = 0) -> list[Pair]:
    """Ordered pairs of samples that show the same keypoint or, where a data set has no keypoints, the same part.

    Where the data set publishes its pairs (``pair_ids``), these are taken, as far as both of their images are in
    ``dataset``; otherwise any two samples are a pair, in both orders. A sample is never its own partner. Two images of
    several classes may be a pair more than once, once for each class.

    Args:
        dataset: one with keypoints or parts, such as "synthetic" or "pf-willow"; every sample is read once.
        across: False for pairs of one class; True for pairs of two classes of one family, see :func:`families`.
        count: so many pairs, drawn at random, as evenly over the classes as they allow; None for all, in order.
        seed: of the draw. The same pairs on every machine.

    Raises:
        UsageError: the data set has nothing to match, no family when ``across``, or fewer pairs than ``count``.

    >>> from wsl_core.data import load_dataset
    >>> zoo = load_dataset("synthetic", "val", size=32, objects=1, length=40)
    >>> pair = pairs(zoo, across=True, count=1)[0]
    >>> [zoo.keypoint_names[row] for row in pair.keypoints[0].tolist()]
    ['dog/nose', 'bird/beak']
    """
    if count is not None:
        check_count("count", count, 1, 10**9)
    if not (dataset.keypoint_names or dataset.part_names):
        raise UsageError(
            f"dataset: {dataset.name!r} has neither keypoints nor parts. Take one with something to match."
        )
    groups = families(dataset) if across else tuple((name,) for name in dataset.classes)
    if not groups:
        raise UsageError(f"across: no two classes of {dataset.name!r} share keypoints or parts. Take across=False.")
    kinds = [
        (dataset.classes.index(source), dataset.classes.index(target))
        for group in groups
        for source, target in product(group, group)
        if across == (source != target)
    ]
    shown = [_shown(sample) for sample in dataset]
    listed = _listed(dataset, shown)
    if count is None:
        return list(chain.from_iterable(_pairs_of(dataset, shown, listed, kind, None) for kind in kinds))
    drawn = [_pairs_of(dataset, shown, listed, kind, Stream("pairs", seed, *kind)) for kind in kinds]
    in_turns = (pair for turn in zip_longest(*drawn) for pair in turn if pair is not None)
    found = [pair for pair, _ in zip(in_turns, range(count))]
    if len(found) < count:
        raise UsageError(
            f"count is {count}; {dataset.name}/{dataset.split} has {len(found)} such pairs. Ask for fewer."
        )
    return found


def families(dataset: Dataset) -> tuple[tuple[str, ...], ...]:
    """The families among the classes of a data set. Classes that have their parts in common, as creatures, are one.

    >>> from wsl_core.data import load_dataset
    >>> families(load_dataset("synthetic", "val"))
    (('dog', 'bird', 'fish'), ('car', 'plane', 'boat'))
    """
    names = (*dataset.part_names, *dataset.keypoint_names)
    if names and not any("/" in name for name in names):
        return (dataset.classes,)
    known = (tuple(kind for kind in family if kind in dataset.classes) for family in FAMILIES.get(dataset.name, ()))
    return tuple(family for family in known if len(family) > 1)


def shared_keypoints(dataset: Dataset, source: str, target: str) -> list[tuple[int, int]]:
    """The rows of the keypoints that mean the same in both classes: (row of the source, row of the target).

    Raises:
        UsageError: the classes are not of one family.

    >>> from wsl_core.data import load_dataset
    >>> zoo = load_dataset("synthetic", "val")
    >>> [zoo.keypoint_names[row] for row, _ in shared_keypoints(zoo, "bird", "fish")]
    ['bird/beak', 'bird/eye']
    """
    return _shared(dataset, dataset.keypoint_names, source, target, _MEANING)


def shared_parts(dataset: Dataset, source: str, target: str) -> list[tuple[int, int]]:
    """The values in ``parts`` that mean the same part in both classes: (value in the source, value in the target).

    Raises:
        UsageError: the classes are not of one family.

    >>> from wsl_core.data import load_dataset
    >>> zoo = load_dataset("synthetic", "val")
    >>> [zoo.part_names[value - 1] for value, _ in shared_parts(zoo, "dog", "bird")]
    ['dog/tail', 'dog/leg', 'dog/body', 'dog/head', 'dog/eye']
    """
    rows = _shared(dataset, dataset.part_names, source, target, {})
    return [(first + 1, second + 1) for first, second in rows]


def _shared(
    dataset: Dataset, names: tuple[str, ...], source: str, target: str, meaning: dict[str, str]
) -> list[tuple[int, int]]:
    if source != target and not any({source, target} <= set(family) for family in families(dataset)):
        raise UsageError(f"{source!r} and {target!r} are not of one family of {dataset.name!r}; see families(dataset).")
    first, second = (
        {
            meaning.get(name, name.rpartition("/")[2]): row
            for row, name in enumerate(names)
            if name.rpartition("/")[0] in ("", kind)
        }
        for kind in (source, target)
    )
    return [(row, second[name]) for name, row in first.items() if name in second]


def _shown(sample: Sample) -> _Shown:
    keypoints, parts = sample.get("keypoints"), sample.get("parts")
    return _Shown(
        sample["id"],
        set(sample["labels"].nonzero().flatten().tolist()),
        set() if keypoints is None else set(keypoints[:, 2].nonzero().flatten().tolist()),
        set() if parts is None else set(parts.unique().tolist()),
    )


def _listed(dataset: Dataset, shown: list[_Shown]) -> list[tuple[int, int]] | None:
    """The published pairs, as positions; also those of the data set that ``dataset`` is a part or a copy of."""
    source = dataset
    while not hasattr(source, "pair_ids") and hasattr(source, "dataset"):
        source = source.dataset
    ids = getattr(source, "pair_ids", None)
    if ids is None:
        return None
    position = {sample.id: index for index, sample in enumerate(shown)}
    return [(position[first], position[second]) for first, second in ids if first in position and second in position]


def _pairs_of(
    dataset: Dataset,
    shown: list[_Shown],
    listed: list[tuple[int, int]] | None,
    kind: tuple[int, int],
    stream: Stream | None,
) -> Iterator[Pair]:
    """The pairs of a source and a target class, in random order if there is a stream."""
    names = [dataset.classes[label] for label in kind]
    keypoints, parts = shared_keypoints(dataset, *names), shared_parts(dataset, *names)
    for source, target in _candidates(shown, listed, kind, stream):
        first, second = shown[source], shown[target]
        both = _in_both(keypoints, first.keypoints, second.keypoints), _in_both(parts, first.parts, second.parts)
        if len(both[0] if dataset.keypoint_names else both[1]):
            yield Pair(source, target, *kind, *both)


def _candidates(
    shown: list[_Shown], listed: list[tuple[int, int]] | None, kind: tuple[int, int], stream: Stream | None
) -> Iterator[tuple[int, int]]:
    sources, targets = ([i for i, sample in enumerate(shown) if label in sample.classes] for label in kind)
    allowed = set(product(sources, targets))
    found = [pair for pair in (sorted(allowed) if listed is None else listed) if pair in allowed and pair[0] != pair[1]]
    order: Iterable[int] = range(len(found)) if stream is None else stream.permutation(len(found))
    return (found[index] for index in order)


def _in_both(shared: list[tuple[int, int]], first: set[int], second: set[int]) -> Int[Tensor, "N 2"]:
    found = [(a, b) for a, b in shared if a in first and b in second]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)
