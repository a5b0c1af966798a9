"""The zoo: eight classes of about eight parts each, one to three in a picture, and boats that like water."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from wsl_core.data.base import check_count
from wsl_core.data.synthetic.backdrop import Backdrop, Scene, draw_clutter
from wsl_core.data.synthetic.noise import Stream
from wsl_core.data.synthetic.shapes import Box, Thing
from wsl_core.data.synthetic.template import Limb, Template, place, pose, random_palette
from wsl_core.data.synthetic.world import MOST_DISTRACTORS, World, balanced_class, check_range, check_share

__all__ = ["Zoo", "TEMPLATES"]

WATER_ELSEWHERE = 0.1  # how often there is water without a boat: a context bias of the same size is none

DOG = Template(
    limbs=(
        Limb("tail", (-0.60, -0.18), (-1.00, -0.58), 0.075, taper=-0.4, joint="tail"),
        Limb("leg", (-0.40, 0.05), (-0.50, 0.72), 0.085, "shade", corner=0.9, joint="far hind"),
        Limb("leg", (0.36, 0.05), (0.46, 0.72), 0.08, "shade", corner=0.9, joint="far fore"),
        Limb("body", (-0.78, -0.02), (0.62, -0.08), 0.29),
        Limb("leg", (-0.55, -0.02), (-0.62, 0.76), 0.10, corner=0.9, joint="near hind"),
        Limb("leg", (0.28, 0.0), (0.30, 0.76), 0.09, corner=0.9, joint="near fore"),
        Limb("neck", (0.30, -0.02), (0.66, -0.50), 0.19, corner=0.9),
        Limb("head", (0.38, -0.56), (0.92, -0.50), 0.25, joint="head"),
        Limb("snout", (0.72, -0.45), (1.16, -0.38), 0.12, "second", -0.2, 0.9, "head"),
        Limb("nose", (1.07, -0.46), (1.21, -0.46), 0.06, "dark", joint="head"),
        Limb("ear", (0.52, -0.76), (0.38, -0.26), 0.11, "second", 0.4, joint="head"),
        Limb("eye", (0.71, -0.58), (0.83, -0.58), 0.06, "dark", joint="head"),
    ),
    joints={
        "tail": ((-0.60, -0.18), 0.35),
        "far hind": ((-0.40, 0.05), 0.18),
        "far fore": ((0.36, 0.05), 0.18),
        "near hind": ((-0.55, -0.02), 0.18),
        "near fore": ((0.28, 0.0), 0.18),
        "head": ((0.48, -0.35), 0.16),
    },
    keypoints={
        "nose": ((1.14, -0.46), "head"),
        "ear": ((0.43, -0.45), "head"),
        "tail": ((-0.94, -0.52), "tail"),
        "fore paw": ((0.30, 0.69), "near fore"),
        "hind paw": ((-0.61, 0.68), "near hind"),
    },
)

BIRD = Template(
    limbs=(
        Limb("tail", (-0.45, 0.10), (-1.05, 0.28), 0.15, "second", 0.5, 0.3, "tail"),
        Limb("wing", (-0.10, -0.10), (-0.30, -0.78), 0.20, "shade", -0.45, joint="far wing"),
        Limb("leg", (-0.02, 0.25), (0.04, 0.66), 0.035, "accent", corner=0.5),
        Limb("leg", (0.16, 0.25), (0.24, 0.66), 0.035, "accent", corner=0.5),
        Limb("body", (-0.68, 0.16), (0.52, -0.12), 0.29),
        Limb("breast", (0.00, 0.20), (0.46, -0.02), 0.17, "light"),
        Limb("head", (0.30, -0.30), (0.76, -0.36), 0.22, joint="head"),
        Limb("beak", (0.68, -0.33), (1.04, -0.27), 0.09, "accent", -0.9, 0.1, "head"),
        Limb("eye", (0.54, -0.38), (0.66, -0.38), 0.06, "dark", joint="head"),
        Limb("wing", (0.16, -0.08), (-0.72, -0.42), 0.20, "second", -0.55, joint="near wing"),
    ),
    joints={
        "tail": ((-0.45, 0.10), 0.2),
        "far wing": ((-0.02, 0.0), 0.3),
        "near wing": ((0.16, -0.02), 0.4),
        "head": ((0.34, -0.18), 0.18),
    },
    keypoints={
        "beak": ((0.92, -0.29), "head"),
        "eye": ((0.60, -0.38), "head"),
        "wing tip": ((-0.64, -0.39), "near wing"),
        "tail": ((-0.97, 0.26), "tail"),
        "breast": ((0.26, 0.12), None),
    },
)

CAR = Template(
    limbs=(
        Limb("cabin", (-0.10, 0.02), (-0.12, -0.46), 0.52, taper=-0.28, corner=0.25),
        Limb("window", (-0.36, -0.06), (-0.33, -0.36), 0.18, "glass", -0.15, 0.3),
        Limb("window", (0.12, -0.06), (0.07, -0.36), 0.19, "glass", -0.25, 0.3),
        Limb("body", (-1.00, 0.13), (1.00, 0.13), 0.22, corner=0.5),
        Limb("door", (-0.12, -0.04), (-0.12, 0.28), 0.24, "shade", corner=0.3),
        Limb("bumper", (-1.05, 0.26), (-0.62, 0.26), 0.07, "light", corner=0.8),
        Limb("bumper", (0.66, 0.26), (1.05, 0.26), 0.07, "light", corner=0.8),
        Limb("lamp", (0.82, 0.06), (1.00, 0.06), 0.08, "accent"),
        Limb("wheel", (-0.78, 0.36), (-0.32, 0.36), 0.23, "dark"),
        Limb("wheel", (0.34, 0.36), (0.80, 0.36), 0.23, "dark"),
        Limb("hub", (-0.65, 0.36), (-0.45, 0.36), 0.10, "light"),
        Limb("hub", (0.47, 0.36), (0.67, 0.36), 0.10, "light"),
    ),
    joints={},
    keypoints={
        "lamp": ((0.91, 0.06), None),
        "front wheel": ((0.57, 0.36), None),
        "rear wheel": ((-0.55, 0.36), None),
        "roof": ((-0.12, -0.41), None),
        "rear": ((-0.94, 0.12), None),
    },
)

BOAT = Template(
    limbs=(
        Limb("mast", (0.02, 0.30), (0.02, -1.00), 0.035, "wood", corner=0.5),
        Limb("sail", (0.40, 0.20), (0.06, -0.90), 0.30, "main", -0.93, 0.05, "sail"),
        Limb("jib", (-0.28, 0.20), (-0.02, -0.66), 0.20, "light", -0.93, 0.05, "sail"),
        Limb("flag", (0.02, -0.95), (-0.28, -0.93), 0.09, "accent", -0.5, 0.1),
        Limb("cabin", (-0.62, 0.26), (-0.20, 0.26), 0.13, "light", corner=0.3),
        Limb("hull", (0.00, 0.72), (0.00, 0.30), 0.74, "second", 0.26, 0.2),
        Limb("stripe", (-0.86, 0.40), (0.86, 0.40), 0.06, "accent", corner=0.6),
        Limb("porthole", (-0.44, 0.54), (-0.28, 0.54), 0.08, "glass"),
        Limb("porthole", (0.00, 0.54), (0.16, 0.54), 0.08, "glass"),
        Limb("porthole", (0.40, 0.54), (0.56, 0.54), 0.08, "glass"),
    ),
    joints={"sail": ((0.02, 0.2), 0.05)},
    keypoints={
        "mast top": ((0.02, -0.96), None),
        "bow": ((0.80, 0.40), None),
        "stern": ((-0.80, 0.40), None),
        "sail": ((0.28, -0.14), "sail"),
        "keel": ((0.00, 0.66), None),
    },
)

FISH = Template(
    limbs=(
        Limb("tail", (-0.50, 0.00), (-1.02, -0.30), 0.16, "second", 0.45, 0.6, "tail"),
        Limb("tail", (-0.50, 0.00), (-1.02, 0.30), 0.16, "second", 0.45, 0.6, "tail"),
        Limb("dorsal fin", (0.20, -0.26), (-0.34, -0.56), 0.17, "accent", 0.1),
        Limb("belly fin", (0.14, 0.28), (-0.16, 0.60), 0.12, "accent", 0.2),
        Limb("body", (-0.72, 0.00), (0.92, 0.00), 0.40, taper=0.22),
        Limb("gill", (0.34, -0.24), (0.34, 0.24), 0.05, "shade"),
        Limb("side fin", (0.24, 0.08), (-0.16, 0.18), 0.10, "second", 0.3, joint="side fin"),
        Limb("mouth", (0.72, 0.16), (0.94, 0.10), 0.05, "dark", corner=0.9),
        Limb("eye", (0.50, -0.12), (0.74, -0.12), 0.12, "light"),
        Limb("pupil", (0.58, -0.12), (0.70, -0.12), 0.06, "dark"),
    ),
    joints={"tail": ((-0.5, 0.0), 0.15), "side fin": ((0.24, 0.08), 0.3)},
    keypoints={
        "mouth": ((0.86, 0.08), None),
        "eye": ((0.62, -0.12), None),
        "upper tail": ((-0.92, -0.25), "tail"),
        "lower tail": ((-0.92, 0.25), "tail"),
        "dorsal fin": ((-0.16, -0.47), None),
    },
)

PLANE = Template(
    limbs=(
        Limb("far wing", (0.20, -0.06), (-0.24, -0.56), 0.16, "shade", -0.4, 0.2, "wings"),
        Limb("fin", (-0.74, 0.00), (-1.02, -0.52), 0.17, "second", -0.3, 0.2),
        Limb("body", (-1.06, -0.06), (1.06, 0.02), 0.17, taper=0.25),
        Limb("cockpit", (0.66, -0.07), (0.92, -0.02), 0.07, "glass", corner=0.8),
        Limb("tailplane", (-0.78, -0.02), (-1.06, 0.16), 0.09, "second", -0.3, 0.2),
        Limb("window", (-0.44, -0.08), (-0.32, -0.08), 0.045, "glass"),
        Limb("window", (-0.16, -0.07), (-0.04, -0.07), 0.045, "glass"),
        Limb("window", (0.12, -0.06), (0.24, -0.06), 0.045, "glass"),
        Limb("window", (0.38, -0.05), (0.50, -0.05), 0.045, "glass"),
        Limb("wing", (0.24, 0.06), (-0.36, 0.68), 0.22, "main", -0.45, 0.2, "wings"),
        Limb("engine", (-0.02, 0.38), (0.30, 0.38), 0.10, "accent", 0.2, 0.8, "wings"),
    ),
    joints={"wings": ((0.1, 0.0), 0.12)},
    keypoints={
        "nose": ((0.98, 0.01), None),
        "wing tip": ((-0.30, 0.62), "wings"),
        "far wing tip": ((-0.20, -0.51), "wings"),
        "fin tip": ((-0.98, -0.45), None),
        "engine": ((0.16, 0.38), "wings"),
    },
)

TREE = Template(
    limbs=(
        Limb("root", (-0.28, 0.98), (0.28, 0.98), 0.06, "wood", corner=0.9),
        Limb("trunk", (0.00, 1.00), (0.00, 0.00), 0.13, "wood", -0.3, 0.3),
        Limb("branch", (0.00, 0.38), (-0.40, 0.02), 0.055, "wood", corner=0.8, joint="left"),
        Limb("branch", (0.00, 0.30), (0.40, -0.02), 0.055, "wood", corner=0.8, joint="right"),
        Limb("left crown", (-0.86, -0.14), (-0.06, -0.20), 0.34, "shade", joint="left"),
        Limb("right crown", (0.06, -0.20), (0.86, -0.14), 0.34, "shade", joint="right"),
        Limb("top", (-0.42, -0.62), (0.42, -0.62), 0.40, joint="top"),
        Limb("crown", (-0.46, -0.18), (0.46, -0.18), 0.34),
        Limb("fruit", (-0.60, -0.10), (-0.44, -0.10), 0.08, "accent", joint="left"),
        Limb("fruit", (0.44, -0.20), (0.60, -0.20), 0.08, "accent", joint="right"),
        Limb("fruit", (-0.20, -0.60), (-0.04, -0.60), 0.08, "accent", joint="top"),
        Limb("fruit", (0.10, -0.20), (0.26, -0.20), 0.08, "accent"),
    ),
    joints={"left": ((0.0, 0.38), 0.12), "right": ((0.0, 0.3), 0.12), "top": ((0.0, 0.0), 0.12)},
    keypoints={
        "top": ((0.00, -0.92), "top"),
        "left": ((-0.74, -0.14), "left"),
        "right": ((0.74, -0.14), "right"),
        "fork": ((0.00, 0.34), None),
        "root": ((0.00, 0.95), None),
    },
)

PERSON = Template(
    limbs=(
        Limb("arm", (-0.24, -0.42), (-0.48, 0.08), 0.085, "main", corner=0.9, joint="left arm"),
        Limb("hand", (-0.56, 0.14), (-0.42, 0.08), 0.075, "skin", joint="left arm"),
        Limb("leg", (-0.13, 0.10), (-0.18, 0.88), 0.12, "second", -0.1, 0.5, "left leg"),
        Limb("leg", (0.13, 0.10), (0.18, 0.88), 0.12, "second", -0.1, 0.5, "right leg"),
        Limb("shoe", (-0.30, 0.91), (-0.02, 0.91), 0.08, "dark", corner=0.8, joint="left leg"),
        Limb("shoe", (0.06, 0.91), (0.36, 0.91), 0.08, "dark", corner=0.8, joint="right leg"),
        Limb("neck", (0.00, -0.62), (0.00, -0.40), 0.08, "skin", corner=0.5),
        Limb("torso", (0.00, 0.20), (0.00, -0.54), 0.26, taper=0.16, corner=0.5),
        Limb("belt", (-0.23, 0.16), (0.23, 0.16), 0.05, "accent", corner=0.5),
        Limb("arm", (0.24, -0.42), (0.50, 0.08), 0.085, "shade", corner=0.9, joint="right arm"),
        Limb("hand", (0.44, 0.08), (0.58, 0.14), 0.075, "skin", joint="right arm"),
        Limb("head", (0.00, -0.98), (0.00, -0.54), 0.19, "skin", joint="head"),
        Limb("hair", (-0.21, -0.90), (0.19, -0.94), 0.13, "wood", joint="head"),
    ),
    joints={
        "left arm": ((-0.24, -0.42), 0.45),
        "right arm": ((0.24, -0.42), 0.45),
        "left leg": ((-0.13, 0.1), 0.14),
        "right leg": ((0.13, 0.1), 0.14),
        "head": ((0.0, -0.54), 0.1),
    },
    keypoints={
        "head": ((0.00, -0.72), "head"),
        "left hand": ((-0.49, 0.11), "left arm"),
        "right hand": ((0.51, 0.11), "right arm"),
        "left foot": ((-0.17, 0.91), "left leg"),
        "right foot": ((0.20, 0.91), "right leg"),
    },
)

TEMPLATES = {
    "dog": DOG, "bird": BIRD, "car": CAR, "boat": BOAT, "fish": FISH, "plane": PLANE, "tree": TREE, "person": PERSON
}  # fmt: skip


@dataclass(frozen=True)
class Zoo(World):
    """Knobs: how many objects, how strongly boats go with water, how many distractors.

    objects: a number, or the least and the most (1 to 3). The classes in a picture differ from each other.
    context_bias: the probability of water behind a boat, in [0, 1]. Without a boat it is 0.1, so that 0.1 is no bias.
    distractors: the most textured shapes without a class in the background.
    """

    name: ClassVar[str] = "zoo"
    objects: int | Sequence[int] = (1, 3)
    context_bias: float = 0.5
    distractors: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", check_range("objects", self.objects, 1, 3))
        check_share("context_bias", self.context_bias)
        check_count("distractors", self.distractors, 0, MOST_DISTRACTORS)

    @property
    def task(self) -> str:
        return "single" if self.objects == (1, 1) else "multi"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(TEMPLATES)

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(f"{kind}/{part}" for kind, template in TEMPLATES.items() for part in template.parts)

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        return tuple(f"{kind}/{point}" for kind, template in TEMPLATES.items() for point in template.keypoints)

    def compose(self, split: Stream, index: int) -> Scene:
        stream = split.child(index)
        labels = self._labels(split, index)
        things: list[Thing] = []
        boxes: list[Box] = []
        for position, label in enumerate(labels):
            things.append(_animal(label, stream.child("object", position), len(labels), boxes))
            boxes.append(things[-1].box())
        boat = self.classes.index("boat")
        afloat = labels.index(boat) if boat in labels else 0
        backdrop = self._backdrop(stream.child("backdrop"), boat in labels, boxes[afloat])
        clutter = draw_clutter(stream.child("clutter"), self.distractors)
        # What stands lower is nearer: it is painted last.
        order = sorted(range(len(things)), key=lambda position: boxes[position][3])
        return Scene(backdrop, clutter, tuple(things[position] for position in order))

    def _labels(self, split: Stream, index: int) -> list[int]:
        low, high = self.objects
        stream = split.child(index, "labels")
        count = low + stream.integer(high - low + 1)
        first = balanced_class(split, index, len(self.classes))
        others = [label for label in stream.permutation(len(self.classes)) if label != first]
        return [first, *others[: count - 1]]

    def _backdrop(self, stream: Stream, boat: bool, box: Box) -> Backdrop:
        """A landscape whose water, if there is any, reaches up behind the lower part of the object in ``box``."""
        water = stream.child("water")
        share = water.uniform(0.5, 0.75)
        wet = water.chance(self.context_bias if boat else WATER_ELSEWHERE)
        line = box[1] + (box[3] - box[1]) * share
        return Backdrop.draw(stream)._replace(waterline=line, water=wet, water_hue=water.uniform(0.47, 0.62))


def _animal(label: int, stream: Stream, count: int, others: list[Box]) -> Thing:
    """One object; it is smaller where there are several."""
    kind, template = list(TEMPLATES.items())[label]
    thing = pose(template, label, stream, random_palette(stream.child("colours")), prefix=f"{kind}/")
    extent = stream.child("extent").uniform(0.4, 0.74) * (1.0, 0.84, 0.72)[count - 1]
    return place(thing, extent, stream.child("place"), others)
