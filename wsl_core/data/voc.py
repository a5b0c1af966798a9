"""The 20 classes of PASCAL VOC, and which of the 1,000 classes of ILSVRC are kinds of them.

AnchorNet (Novotny et al., CVPR 2017) learns the parts of VOC's classes from ILSVRC's images: a kind of a VOC class is
foreground, all else background. A write-up counts 231 and 769; the list itself is published nowhere that we found.
Ours, ``voc_kinds.json``, is derived from the names of the classes by one rule: *a class of ILSVRC is a kind of a VOC
class if VOC's annotators would have given an image of it that label*. Their guidelines decide most doubtful cases
(VOC2012 annotation guidelines: "Includes tricycles, unicycles", "Domestic cats (not lions etc.)", ...). Parts and
places do not count: no car wheel, no boathouse. The file holds the rule of each VOC class, its kinds, and the near
misses with the reason. The number that comes out was not bent to agree with the write-up's.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["VOC_CLASSES", "ILSVRC_CLASSES", "Kind", "ilsvrc_kinds", "voc_labels"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
ILSVRC_CLASSES = 1000


class Kind(NamedTuple):
    """A class of ILSVRC that is a kind of a class of VOC.

    ``index`` is its place among the 1,000 WordNet ids in sorted order, as in torchvision's weights; ``name`` is
    torchvision's name for it.
    """

    index: int
    name: str
    voc: str


@lru_cache(maxsize=1)
def ilsvrc_kinds() -> tuple[Kind, ...]:
    """The foreground: every class of ILSVRC that is a kind of a VOC class, in the order of ILSVRC.

    >>> kinds = {kind.name: kind.voc for kind in ilsvrc_kinds()}
    >>> kinds["boxer"], kinds["crane bird"], "crane" in kinds
    ('dog', 'bird', False)
    """
    table = json.loads((Path(__file__).parent / "voc_kinds.json").read_text(encoding="utf-8"))
    kinds = (Kind(int(index), name, voc) for voc in VOC_CLASSES for index, name in table[voc]["kinds"].items())
    return tuple(sorted(kinds))


def voc_labels() -> Int[Tensor, "1000"]:
    """The VOC class of each class of ILSVRC, as a position in ``VOC_CLASSES``; -1 for background.

    >>> labels = voc_labels()
    >>> VOC_CLASSES[labels[404]], int(labels[0])  # an airliner, a tench
    ('aeroplane', -1)
    """
    labels = torch.full((ILSVRC_CLASSES,), -1)
    for kind in ilsvrc_kinds():
        labels[kind.index] = VOC_CLASSES.index(kind.voc)
    return labels
