"""Which classes of ILSVRC are kinds of VOC's: the table is sound, and its reasons are its own."""

import json
import re
from pathlib import Path

import pytest
import torch
from torchvision.models._meta import _IMAGENET_CATEGORIES

import wsl_core.data.voc as voc
from wsl_core.data.voc import ILSVRC_CLASSES, VOC_CLASSES, ilsvrc_kinds, voc_labels

TABLE = json.loads((Path(voc.__file__).parent / "voc_kinds.json").read_text(encoding="utf-8"))
KINDS = {kind.index: kind for kind in ilsvrc_kinds()}


def test_the_table_has_vocs_classes_and_each_has_a_rule_and_a_kind() -> None:
    assert tuple(TABLE) == VOC_CLASSES
    for entry in TABLE.values():
        assert entry["rule"].endswith(".") and entry["kinds"]


def test_no_class_of_ilsvrc_is_of_two_kinds() -> None:
    assert len(KINDS) == len(ilsvrc_kinds()) == sum(len(entry["kinds"]) for entry in TABLE.values())
    assert [kind.index for kind in ilsvrc_kinds()] == sorted(KINDS)


def test_every_index_has_torchvisions_name() -> None:
    for entry in TABLE.values():
        named = {**entry["kinds"], **{index: name for index, (name, _) in entry["left_out"].items()}}
        assert {index: _IMAGENET_CATEGORIES[int(index)] for index in named} == named


def test_what_is_left_out_of_a_class_is_no_kind_of_it_and_says_why() -> None:
    for entry in TABLE.values():
        assert entry["left_out"].keys().isdisjoint(entry["kinds"])
        assert all(reason for _, reason in entry["left_out"].values())


@pytest.mark.parametrize(
    ("word", "kind"),
    [(name, name) for name in ("bird", "bottle", "bus", "car", "cat", "chair", "dog", "person", "train", "sofa")]
    + [("boat", "boat"), ("plane", "aeroplane"), ("table", "diningtable"), ("screen", "tvmonitor"), ("couch", "sofa")]
    + [("monitor", "tvmonitor"), ("scooter", "motorbike"), ("van", "car"), ("jug", "bottle"), ("locomotive", "train")],
)
def test_a_name_that_ends_like_a_class_is_decided(word: str, kind: str) -> None:
    """Whatever calls itself a car is a car here, or the table says why not."""
    decided = TABLE[kind]["kinds"].keys() | TABLE[kind]["left_out"].keys()
    ends = {str(i) for i, name in enumerate(_IMAGENET_CATEGORIES) if re.search(rf"\b{word}$", name, re.IGNORECASE)}
    assert ends <= decided


def test_words_of_two_meanings() -> None:
    kinds = {kind.name: kind.voc for kind in ilsvrc_kinds()}
    for name in ("crane bird", "kite", "drake", "jay", "robin"):
        assert kinds[name] == "bird"
    for name in ("boxer", "Cardigan", "chow", "basset", "papillon"):
        assert kinds[name] == "dog"
    assert (kinds["pirate"], kinds["liner"], kinds["racer"], kinds["ram"]) == ("boat", "boat", "car", "sheep")
    assert not {"crane", "cardigan", "plane", "wing", "mouse", "tank", "sunglass", "maillot", "polecat"} & kinds.keys()


def test_dogs_are_stanfords_120_less_the_wild_ones() -> None:
    """Stanford Dogs took its 120 breeds from ILSVRC, the dhole and the African hunting dog among them."""
    dogs = {kind.name for kind in ilsvrc_kinds() if kind.voc == "dog"}
    assert len(dogs | {"dhole", "African hunting dog"}) == 120 == len(dogs) + 2


def test_labels_are_the_table_as_a_tensor() -> None:
    labels = voc_labels()
    assert labels.shape == (ILSVRC_CLASSES,) == (len(_IMAGENET_CATEGORIES),)
    assert {i: VOC_CLASSES[label] for i, label in enumerate(labels.tolist()) if label >= 0} == {
        index: kind.voc for index, kind in KINDS.items()
    }
    assert labels.unique().tolist() == list(range(-1, len(VOC_CLASSES)))


def test_the_foreground_is_about_the_write_ups() -> None:
    """A write-up has 231 of 1,000. The list is not published: ours need not agree, but another order would be wrong."""
    foreground = int((voc_labels() >= 0).sum())
    assert foreground == len(KINDS)
    assert torch.tensor(foreground / 231).log().abs() < 0.1
