"""Boats and others at the coast: boats are nearly always on water when one learns, and not when one is tested."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from wsl_core.data.base import check_count
from wsl_core.data.synthetic.backdrop import Backdrop, Scene, draw_clutter, hsv
from wsl_core.data.synthetic.noise import Stream, lattice
from wsl_core.data.synthetic.shapes import Box, Paint, Placement, Thing
from wsl_core.data.synthetic.template import Limb, Template, overlap, pose, random_palette
from wsl_core.data.synthetic.world import (
    AS_TRAINED,
    MOST_DISTRACTORS,
    World,
    balanced_class,
    check_choice,
    check_range,
    check_share,
)
from wsl_core.data.synthetic.zoo import TEMPLATES

__all__ = ["Boats"]

BOAT = 0  # the position of its class
BOAT_WITHOUT_WATER, WATER_WITHOUT_BOAT = "boat without water", "water without boat"
# Side of a thing's box if it were a square. Small beside its context; four cells of a map at stride 8 and 96 px.
EXTENT = (0.36, 0.54)
MARGIN = 0.015  # between a thing and the border, in units of the frame
FOOT = 0.08  # a thing's lowest point is at least so far below the horizon, likewise
TRIES = 8  # places that are tried for a second thing

SAILING_BOAT = TEMPLATES["boat"]._replace(
    keypoints={
        "bow": ((0.80, 0.40), None),
        "stern": ((-0.80, 0.40), None),
        "keel": ((0.00, 0.66), None),
        "top": ((0.02, -0.96), None),
    }
)

MOTOR_BOAT = Template(
    limbs=(
        Limb("mast", (-0.16, -0.30), (-0.22, -0.78), 0.03, "dark", corner=0.5),
        Limb("flag", (-0.90, 0.02), (-0.90, -0.44), 0.025, "wood", corner=0.5),
        Limb("flag", (-0.88, -0.34), (-1.16, -0.32), 0.10, "accent", -0.3, 0.1),
        Limb("cabin", (-0.12, 0.24), (-0.16, -0.34), 0.42, "light", -0.25, 0.3),
        Limb("window", (-0.40, -0.08), (-0.08, -0.08), 0.12, "glass", corner=0.3),
        Limb("window", (0.02, -0.08), (0.18, -0.06), 0.12, "glass", corner=0.3),
        Limb("hull", (-0.02, 0.56), (0.06, 0.08), 0.96, taper=0.22, corner=0.12),
        Limb("stripe", (-1.02, 0.20), (1.12, 0.20), 0.055, "accent", corner=0.6),
        Limb("engine", (-1.16, 0.06), (-1.16, 0.46), 0.10, "dark", corner=0.5),
    ),
    joints={},
    keypoints={
        "bow": ((1.08, 0.16), None),
        "stern": ((-0.92, 0.20), None),
        "keel": ((0.00, 0.50), None),
        "top": ((-0.21, -0.72), None),
    },
)

ROWING_BOAT = Template(
    limbs=(
        Limb("oar", (-0.06, 0.02), (0.66, -0.56), 0.04, "wood", corner=0.8, joint="far oar"),
        Limb("rower", (-0.10, 0.30), (-0.16, -0.40), 0.20, "accent", -0.1, 0.7, "rower"),
        Limb("rower", (-0.16, -0.72), (-0.16, -0.36), 0.17, "skin", joint="rower"),
        Limb("hat", (-0.36, -0.66), (0.06, -0.70), 0.07, "dark", corner=0.8, joint="rower"),
        Limb("hull", (0.00, 0.58), (0.00, 0.12), 0.84, taper=0.3, corner=0.35),
        Limb("stripe", (-1.02, 0.20), (1.02, 0.20), 0.06, "second", corner=0.6),
        Limb("plank", (-0.84, 0.38), (0.84, 0.38), 0.025, "shade", corner=0.6),
        Limb("oar", (-0.14, 0.04), (0.48, 0.62), 0.045, "wood", corner=0.8, joint="oar"),
        Limb("oar", (0.40, 0.54), (0.72, 0.84), 0.095, "light", 0.2, 0.6, "oar"),
    ),
    joints={"oar": ((0.0, 0.1), 0.2), "far oar": ((0.0, 0.0), 0.2), "rower": ((-0.1, 0.3), 0.12)},
    keypoints={
        "bow": ((0.98, 0.20), None),
        "stern": ((-0.98, 0.20), None),
        "keel": ((0.00, 0.54), None),
        "top": ((-0.16, -0.66), "rower"),
    },
)

STEAMER = Template(
    limbs=(
        Limb("mast", (0.72, 0.10), (0.72, -0.70), 0.03, "wood", corner=0.5),
        Limb("flag", (0.72, -0.64), (0.46, -0.62), 0.08, "accent", -0.5, 0.1),
        Limb("funnel", (-0.36, -0.20), (-0.42, -0.84), 0.15, "accent", corner=0.2),
        Limb("funnel", (-0.41, -0.70), (-0.43, -0.86), 0.16, "dark", corner=0.2),
        Limb("funnel", (0.12, -0.20), (0.06, -0.76), 0.14, "accent", corner=0.2),
        Limb("funnel", (0.07, -0.62), (0.05, -0.78), 0.15, "dark", corner=0.2),
        Limb("cabin", (-0.62, -0.16), (0.40, -0.16), 0.16, "light", corner=0.2),
        Limb("cabin", (-0.78, 0.10), (0.58, 0.10), 0.17, "light", corner=0.2),
        Limb("window", (-0.54, -0.16), (0.32, -0.16), 0.055, "glass", corner=0.8),
        Limb("hull", (-0.02, 0.64), (0.02, 0.18), 1.02, "second", 0.16, 0.15),
        Limb("stripe", (-0.98, 0.56), (0.98, 0.56), 0.055, "main", corner=0.6),
        Limb("porthole", (-0.72, 0.36), (-0.56, 0.36), 0.08, "glass"),
        Limb("porthole", (-0.32, 0.36), (-0.16, 0.36), 0.08, "glass"),
        Limb("porthole", (0.08, 0.36), (0.24, 0.36), 0.08, "glass"),
        Limb("porthole", (0.48, 0.36), (0.64, 0.36), 0.08, "glass"),
    ),
    joints={},
    keypoints={
        "bow": ((1.08, 0.24), None),
        "stern": ((-1.04, 0.24), None),
        "keel": ((0.00, 0.60), None),
        "top": ((-0.42, -0.82), None),
    },
)

HOUSE = Template(
    limbs=(
        Limb("chimney", (0.42, -0.30), (0.42, -0.92), 0.11, "shade", corner=0.2),
        Limb("wall", (0.00, 0.80), (0.00, -0.20), 0.70, "second", corner=0.06),
        Limb("roof", (0.00, -0.16), (0.00, -0.90), 0.62, taper=-0.5, corner=0.1),
        Limb("door", (-0.12, 0.80), (-0.12, 0.26), 0.14, "wood", corner=0.2),
        Limb("window", (-0.56, 0.12), (-0.32, 0.12), 0.14, "glass", corner=0.2),
        Limb("window", (0.20, 0.12), (0.52, 0.12), 0.14, "glass", corner=0.2),
        Limb("window", (-0.10, -0.46), (0.10, -0.46), 0.10, "glass"),
        Limb("step", (-0.34, 0.80), (0.10, 0.80), 0.05, "light", corner=0.5),
    ),
    joints={},
    keypoints={
        "chimney": ((0.42, -0.86), None),
        "ridge": ((-0.10, -0.82), None),
        "door": ((-0.12, 0.52), None),
        "left foot": ((-0.62, 0.72), None),
        "right foot": ((0.62, 0.72), None),
    },
)

HORSE = Template(
    limbs=(
        Limb("tail", (-0.70, -0.22), (-0.98, 0.40), 0.10, "dark", 0.3, joint="tail"),
        Limb("leg", (-0.50, 0.00), (-0.56, 0.94), 0.08, "shade", -0.2, 0.9, "far hind"),
        Limb("leg", (0.36, 0.00), (0.50, 0.94), 0.075, "shade", -0.2, 0.9, "far fore"),
        Limb("body", (-0.86, -0.12), (0.62, -0.14), 0.33, taper=-0.08),
        Limb("leg", (-0.62, 0.00), (-0.72, 0.96), 0.10, "main", -0.25, 0.9, "near hind"),
        Limb("leg", (0.28, 0.00), (0.30, 0.96), 0.09, "main", -0.25, 0.9, "near fore"),
        Limb("hoof", (-0.80, 0.94), (-0.62, 0.94), 0.07, "dark", corner=0.6, joint="near hind"),
        Limb("hoof", (0.21, 0.94), (0.39, 0.94), 0.07, "dark", corner=0.6, joint="near fore"),
        Limb("neck", (0.36, -0.16), (0.78, -0.84), 0.19, "main", -0.25, 0.9, "head"),
        Limb("mane", (0.26, -0.28), (0.66, -0.96), 0.09, "dark", corner=0.9, joint="head"),
        Limb("ear", (0.72, -0.84), (0.70, -1.10), 0.07, "shade", -0.3, joint="head"),
        Limb("head", (0.62, -0.92), (1.18, -0.58), 0.15, "main", -0.15, 0.9, "head"),
        Limb("muzzle", (1.00, -0.70), (1.22, -0.56), 0.12, "second", 0.1, 0.9, "head"),
        Limb("eye", (0.80, -0.86), (0.90, -0.82), 0.05, "dark", joint="head"),
    ),
    joints={
        "tail": ((-0.70, -0.22), 0.3),
        "far hind": ((-0.50, 0.0), 0.2),
        "far fore": ((0.36, 0.0), 0.2),
        "near hind": ((-0.62, 0.0), 0.2),
        "near fore": ((0.28, 0.0), 0.2),
        "head": ((0.40, -0.20), 0.16),
    },
    keypoints={
        "muzzle": ((1.14, -0.62), "head"),
        "ear": ((0.71, -0.98), "head"),
        "tail": ((-0.93, 0.28), "tail"),
        "fore hoof": ((0.30, 0.94), "near fore"),
        "hind hoof": ((-0.71, 0.94), "near hind"),
    },
)


# Each class and what it can look like. All templates of a class have the same keypoints.
KINDS: dict[str, tuple[Template, ...]] = {
    "boat": (SAILING_BOAT, MOTOR_BOAT, ROWING_BOAT, STEAMER),
    "bird": (TEMPLATES["bird"],),
    "car": (TEMPLATES["car"],),
    "horse": (HORSE,),
    "house": (HOUSE,),
    "plane": (TEMPLATES["plane"],),
}


@dataclass(frozen=True)
class Boats(World):
    """Boats go with water: the biased boats of GAIN (Li et al., CVPR 2018), with a dose.

    Knobs: how many objects, how strong the bias is, which test set, how many distractors.

    objects: a number, or the least and the most (1 or 2). Several classes a picture are the default, as in PASCAL VOC
    on which the paper trains: then "is there a boat?" is a question of its own, which water alone can answer wrongly.
    bias: the probability that a picture has the context of its label, in [0, 1]: water where there is a boat, and land
    where there is none. 0.5 is no bias. situation: "as trained", or one of the paper's two test sets, in which the bias
    plays no part: "boat without water" (a boat in every picture, on land), "water without boat" (others, on water).
    distractors: the most textured shapes without a class in the background.
    """

    name: ClassVar[str] = "boats"
    objects: int | Sequence[int] = (1, 2)
    bias: float = 0.97
    situation: str = AS_TRAINED
    distractors: int = 4

    classes = tuple(KINDS)
    part_names = tuple(
        dict.fromkeys(f"{kind}/{part}" for kind, looks in KINDS.items() for look in looks for part in look.parts)
    )
    keypoint_names = tuple(f"{kind}/{point}" for kind, looks in KINDS.items() for point in looks[0].keypoints)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", check_range("objects", self.objects, 1, 2))
        check_share("bias", self.bias)
        check_choice("situation", self.situation, (AS_TRAINED, BOAT_WITHOUT_WATER, WATER_WITHOUT_BOAT))
        check_count("distractors", self.distractors, 0, MOST_DISTRACTORS)

    @property
    def task(self) -> str:
        return "single" if self.objects == (1, 1) else "multi"

    def compose(self, split: Stream, index: int) -> Scene:
        stream = split.child(index)
        labels = self._labels(split, index)
        backdrop = Coast.draw(stream.child("backdrop"))._replace(water=self._is_wet(stream, BOAT in labels))
        things: list[Thing] = []
        for position, label in enumerate(labels):
            own = stream.child("object", position)
            extent = own.child("extent").uniform(*EXTENT) * (1.0, 0.85)[len(labels) - 1]
            others = [thing.box() for thing in things]
            things.append(_stand(_draw(label, own), extent, backdrop.waterline, own.child("place"), others))
        clutter = draw_clutter(stream.child("clutter"), self.distractors)
        # What stands lower is nearer: it is painted last.
        return Scene(backdrop, clutter, tuple(sorted(things, key=lambda thing: thing.box()[3])))

    def _labels(self, split: Stream, index: int) -> list[int]:
        kinds = len(KINDS)
        if self.situation == AS_TRAINED:
            first, excluded = balanced_class(split, index, kinds), None
        elif self.situation == BOAT_WITHOUT_WATER:
            first, excluded = BOAT, None
        else:
            first, excluded = BOAT + 1 + balanced_class(split, index, kinds - 1), BOAT
        low, high = self.objects
        stream = split.child(index, "labels")
        count = low + stream.integer(high - low + 1)
        others = [label for label in stream.permutation(kinds) if label not in (first, excluded)]
        return [first, *others[: count - 1]]

    def _is_wet(self, stream: Stream, boat: bool) -> bool:
        if self.situation == AS_TRAINED:
            return boat == stream.child("water").chance(self.bias)
        return self.situation == WATER_WITHOUT_BOAT


class Coast(Backdrop):
    """A meadow or a beach to the horizon, or a sea in its place, beneath a natural sky."""

    __slots__ = ()

    @classmethod
    def draw(cls, stream: Stream) -> "Coast":
        colours, shape = stream.child("coast"), stream.child("shape")
        air = colours.uniform(0.5, 0.62) if colours.chance(0.7) else colours.uniform(0.0, 0.12)
        haze = hsv(air + colours.uniform(-0.06, 0.06), colours.uniform(0.05, 0.2), 0.97)
        soil, tone = colours.uniform(0.06, 0.36), colours.uniform(0.5, 0.85)
        richness = colours.uniform(0.3, 0.55)
        horizon = shape.uniform(0.3, 0.5)
        landscape = super().draw(stream)
        return landscape._replace(
            sky=Paint(hsv(air, colours.uniform(0.2, 0.5), colours.uniform(0.75, 0.95)), haze),
            ground=Paint(hsv(soil, richness * 0.8, tone), hsv(soil + 0.03, richness, tone * 0.7)),
            roughness=(shape.uniform(0.03, 0.12), shape.uniform(0.15, 0.3)),
            horizon=horizon - shape.uniform(0.0, 0.06),  # beyond the sea there is another shore
            waterline=horizon,
            water_hue=colours.uniform(0.48, 0.62),
        )

    def _flood(self, image: Float[np.ndarray, "3 size size"], noise: Float[np.ndarray, "3 size size"]) -> None:
        """A sea in perspective: waves that grow towards the viewer, and the sky's light far out."""
        size = image.shape[1]
        first = int(self.waterline * size)
        height = (np.arange(first, size, dtype=np.float32) + np.float32(0.5)) * np.float32(1 / size)
        depth = (height - np.float32(self.waterline)) * np.float32(1 / (1 - self.waterline))  # 0 far, 1 near
        waves = _waves(self.noise, depth, size)
        near = np.minimum(np.maximum(depth * 1.5, 0), 1)
        colours = hsv(self.water_hue, 0.32, 0.86), hsv(self.water_hue + 0.03, 0.72, 0.5)
        far_out, close = (np.array(colour, dtype=np.float32)[:, None] for colour in colours)
        sea = (far_out + (close - far_out) * near)[:, :, None] + noise[:, first:] * 0.06
        crests = np.minimum(np.maximum((waves - 0.68) * 6, 0), 1) * 0.22
        sea = sea + (waves - 0.5) * 0.3 + crests
        covered = np.minimum(np.maximum((height - self.waterline) * size + 0.5, 0), 1)[:, None]
        image[:, first:] += (sea - image[:, first:]) * covered


def _waves(key: int, depth: Float[np.ndarray, " h"], size: int) -> Float[np.ndarray, "h size"]:
    """Noise in [0, 1) on a plane that runs to the horizon."""
    table = lattice(key ^ 3, 64, 64)  # rows 8 to 44 and columns 15 to 49 are used
    nearness = np.maximum(depth, 0) + np.float32(0.14)
    row = np.float32(5) / nearness + 8
    across = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(1 / size) - np.float32(0.5)
    column = across * (np.float32(4.5) / nearness)[:, None] + 32  # waves are wider than they are long
    top, left = row.astype(np.int32), column.astype(np.int32)
    down, right, top = (row - top)[:, None], column - left, top[:, None]
    upper = table[top, left] + (table[top, left + 1] - table[top, left]) * right
    lower = table[top + 1, left] + (table[top + 1, left + 1] - table[top + 1, left]) * right
    return upper + (lower - upper) * down


def _draw(label: int, stream: Stream) -> Thing:
    """One object of this class in one of its looks."""
    kind, looks = list(KINDS.items())[label]
    template = stream.child("look").choice(looks)
    return pose(template, label, stream, random_palette(stream.child("colours")), prefix=f"{kind}/", tilt=0.06)


def _stand(thing: Thing, extent: float, horizon: float, stream: Stream, others: list[Box]) -> Thing:
    """Scale a thing so that its box has the area ``extent`` squared, and put its foot below the horizon.

    The whole box lies in the frame. Of several places the one is taken where it overlaps others least.
    """
    box = thing.box()
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(extent / sqrt(width * height), (1 - 2 * MARGIN) / max(width, height))
    highest = max(MARGIN + height * scale, horizon + FOOT)
    spots = [
        Placement(
            stream.uniform(MARGIN - box[0] * scale, 1 - MARGIN - box[2] * scale),
            stream.uniform(highest, 1 - MARGIN) - box[3] * scale,
            scale,
        )
        for _ in range(TRIES if others else 1)
    ]
    found = [thing.put(spot) for spot in spots]
    return min(found, key=lambda put: max((overlap(put.box(), other) for other in others), default=0.0))
