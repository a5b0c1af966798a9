"""Families: vehicles that share wheels, animals that share eyes. What has the same name is the same part on each."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from wsl_core.data.base import check_count
from wsl_core.data.synthetic.backdrop import Backdrop, Scene, draw_clutter, hsv
from wsl_core.data.synthetic.noise import Stream, Texture, rotation
from wsl_core.data.synthetic.shapes import Colour, Paint
from wsl_core.data.synthetic.template import Limb, Template, place, pose, random_palette
from wsl_core.data.synthetic.world import MOST_DISTRACTORS, World, balanced_class

__all__ = ["Families"]


def _wheel(x: float, y: float, radius: float, rim: float = 0.45) -> tuple[Limb, ...]:
    """A tyre and what it goes round, a share ``rim`` of the radius: one part, the wheel."""
    hub = radius * rim
    return (
        Limb("wheel", (x - radius, y), (x + radius, y), radius, "dark"),
        Limb("wheel", (x - hub, y), (x + hub, y), hub, "light"),
    )


def _spoked_wheel(x: float, y: float, radius: float) -> tuple[Limb, ...]:
    """A wheel with a thin tyre and four spokes."""
    reach = radius * 0.8
    return (
        *_wheel(x, y, radius, 0.78),
        Limb("wheel", (x - reach, y), (x + reach, y), 0.025, "dark", corner=0.5),
        Limb("wheel", (x, y - reach), (x, y + reach), 0.025, "dark", corner=0.5),
    )


def _eye(x: float, y: float, radius: float, joint: str | None = "head") -> tuple[Limb, ...]:
    """The white and the pupil, which looks ahead: one part, the eye."""
    ahead, pupil = x + radius * 0.25, radius * 0.55
    return (
        Limb("eye", (x - radius, y), (x + radius, y), radius, "light", joint=joint),
        Limb("eye", (ahead - pupil, y), (ahead + pupil, y), pupil, "dark", joint=joint),
    )


CAR = Template(
    limbs=(
        Limb("cabin", (-0.12, 0.06), (-0.14, -0.50), 0.58, taper=-0.28, corner=0.25),
        Limb("window", (-0.46, -0.22), (-0.18, -0.22), 0.17, "glass", 0.1, 0.3),
        Limb("window", (-0.06, -0.22), (0.24, -0.22), 0.17, "glass", -0.2, 0.3),
        Limb("body", (-1.00, 0.15), (1.00, 0.15), 0.23, corner=0.5),
        Limb("door", (-0.12, -0.02), (-0.12, 0.32), 0.20, "shade", corner=0.3),
        Limb("headlight", (0.80, 0.08), (1.02, 0.08), 0.10, "accent"),
        *_wheel(-0.56, 0.38, 0.27),
        *_wheel(0.58, 0.38, 0.27),
    ),
    joints={},
    keypoints={
        "front wheel": ((0.58, 0.38), None),
        "rear wheel": ((-0.56, 0.38), None),
        "window": ((0.08, -0.22), None),
        "headlight": ((0.90, 0.08), None),
        "roof": ((-0.14, -0.45), None),
    },
)

TRUCK = Template(
    limbs=(
        Limb("cargo", (-1.20, -0.22), (0.34, -0.22), 0.50, "second", corner=0.1),
        Limb("body", (-1.16, 0.36), (1.08, 0.36), 0.11, "shade", corner=0.4),
        Limb("cabin", (0.76, 0.42), (0.74, -0.42), 0.36, taper=-0.12, corner=0.25),
        Limb("window", (0.62, -0.12), (0.98, -0.12), 0.17, "glass", corner=0.3),
        Limb("headlight", (0.96, 0.24), (1.14, 0.24), 0.09, "accent"),
        *_wheel(-0.92, 0.48, 0.25),
        *_wheel(-0.36, 0.48, 0.25),
        *_wheel(0.72, 0.48, 0.25),
    ),
    joints={},
    keypoints={
        "front wheel": ((0.72, 0.48), None),
        "middle wheel": ((-0.36, 0.48), None),
        "rear wheel": ((-0.92, 0.48), None),
        "window": ((0.80, -0.12), None),
        "headlight": ((1.04, 0.24), None),
        "roof": ((0.74, -0.37), None),
    },
)

TRACTOR = Template(
    limbs=(
        Limb("exhaust", (0.52, -0.10), (0.52, -0.66), 0.055, "dark", corner=0.4),
        Limb("cabin", (-0.36, 0.14), (-0.36, -0.86), 0.42, taper=-0.12, corner=0.15),
        Limb("window", (-0.62, -0.42), (-0.10, -0.42), 0.24, "glass", corner=0.2),
        Limb("body", (-0.60, 0.16), (0.98, 0.16), 0.27, corner=0.35),
        Limb("grille", (0.18, 0.12), (0.66, 0.12), 0.11, "shade", corner=0.3),
        Limb("headlight", (0.80, 0.02), (1.02, 0.02), 0.10, "accent"),
        *_wheel(-0.46, 0.36, 0.54),
        *_wheel(0.68, 0.60, 0.30),
    ),
    joints={},
    keypoints={
        "front wheel": ((0.68, 0.60), None),
        "rear wheel": ((-0.46, 0.36), None),
        "window": ((-0.36, -0.42), None),
        "headlight": ((0.91, 0.02), None),
        "roof": ((-0.36, -0.80), None),
        "exhaust": ((0.52, -0.60), None),
    },
)

BICYCLE = Template(
    limbs=(
        *_spoked_wheel(-0.62, 0.36, 0.46),
        *_spoked_wheel(0.62, 0.36, 0.46),
        Limb("frame", (-0.64, 0.36), (-0.02, 0.40), 0.055, corner=0.9),
        Limb("frame", (-0.62, 0.38), (-0.26, -0.20), 0.055, corner=0.9),
        Limb("frame", (-0.30, -0.34), (0.00, 0.40), 0.06, corner=0.9),
        Limb("frame", (-0.28, -0.20), (0.42, -0.20), 0.06, corner=0.9),
        Limb("frame", (-0.02, 0.40), (0.44, -0.18), 0.06, corner=0.9),
        Limb("frame", (0.36, -0.44), (0.64, 0.38), 0.06, corner=0.9),
        Limb("wheel", (-0.70, 0.36), (-0.54, 0.36), 0.08, "dark"),
        Limb("wheel", (0.54, 0.36), (0.70, 0.36), 0.08, "dark"),
        Limb("saddle", (-0.52, -0.38), (-0.12, -0.38), 0.085, "second", 0.0, 0.8),
        Limb("handlebar", (0.24, -0.50), (0.60, -0.46), 0.07, "second", corner=0.8),
        Limb("headlight", (0.42, -0.28), (0.64, -0.28), 0.10, "accent"),
    ),
    joints={},
    keypoints={
        "front wheel": ((0.62, 0.36), None),
        "rear wheel": ((-0.62, 0.36), None),
        "headlight": ((0.53, -0.28), None),
        "saddle": ((-0.32, -0.38), None),
        "handlebar": ((0.30, -0.49), None),
    },
)

DOG = Template(
    limbs=(
        Limb("tail", (-0.58, -0.16), (-0.98, -0.62), 0.09, taper=-0.3, joint="tail"),
        Limb("leg", (-0.40, 0.05), (-0.48, 0.72), 0.10, "shade", corner=0.9, joint="far hind"),
        Limb("leg", (0.36, 0.05), (0.46, 0.72), 0.10, "shade", corner=0.9, joint="far fore"),
        Limb("body", (-0.78, -0.02), (0.62, -0.06), 0.31),
        Limb("leg", (-0.56, -0.02), (-0.64, 0.76), 0.12, corner=0.9, joint="near hind"),
        Limb("leg", (0.26, 0.0), (0.28, 0.76), 0.11, corner=0.9, joint="near fore"),
        Limb("neck", (0.30, -0.02), (0.62, -0.48), 0.20, corner=0.9, joint="head"),
        Limb("head", (0.32, -0.58), (0.92, -0.54), 0.30, joint="head"),
        Limb("snout", (0.72, -0.44), (1.22, -0.38), 0.15, "second", -0.1, 0.9, "head"),
        Limb("nose", (1.10, -0.48), (1.28, -0.48), 0.08, "dark", joint="head"),
        Limb("ear", (0.46, -0.84), (0.30, -0.26), 0.13, "second", 0.4, joint="head"),
        *_eye(0.72, -0.64, 0.12),
    ),
    joints={
        "tail": ((-0.58, -0.16), 0.3),
        "far hind": ((-0.40, 0.05), 0.16),
        "far fore": ((0.36, 0.05), 0.16),
        "near hind": ((-0.56, -0.02), 0.16),
        "near fore": ((0.26, 0.0), 0.16),
        "head": ((0.44, -0.30), 0.14),
    },
    keypoints={
        "eye": ((0.72, -0.64), "head"),
        "muzzle": ((1.10, -0.36), "head"),
        "ear": ((0.36, -0.44), "head"),
        "tail": ((-0.92, -0.55), "tail"),
        "fore foot": ((0.28, 0.68), "near fore"),
        "hind foot": ((-0.63, 0.68), "near hind"),
    },
)

GIRAFFE = Template(
    limbs=(
        Limb("tail", (-0.56, -0.02), (-0.98, 0.34), 0.07, "second", 0.4, joint="tail"),
        Limb("leg", (-0.34, 0.10), (-0.38, 1.02), 0.085, "shade", corner=0.9, joint="far hind"),
        Limb("leg", (0.26, 0.10), (0.34, 1.02), 0.085, "shade", corner=0.9, joint="far fore"),
        Limb("body", (-0.66, 0.08), (0.52, -0.04), 0.29),
        Limb("leg", (-0.46, 0.06), (-0.52, 1.06), 0.10, corner=0.9, joint="near hind"),
        Limb("leg", (0.18, 0.06), (0.18, 1.06), 0.10, corner=0.9, joint="near fore"),
        Limb("neck", (0.26, 0.04), (0.62, -1.00), 0.17, "main", -0.25, 0.8, "head"),
        Limb("horn", (0.54, -1.06), (0.52, -1.42), 0.055, "second", 0.3, 0.8, "head"),
        Limb("horn", (0.66, -1.06), (0.68, -1.40), 0.055, "second", 0.3, 0.8, "head"),
        Limb("ear", (0.50, -1.12), (0.16, -1.32), 0.11, "shade", joint="head"),
        Limb("head", (0.36, -1.10), (0.96, -1.00), 0.26, joint="head"),
        Limb("snout", (0.80, -1.00), (1.20, -0.91), 0.15, "second", 0.1, 0.9, "head"),
        *_eye(0.68, -1.12, 0.14),
    ),
    joints={
        "tail": ((-0.56, -0.02), 0.15),
        "far hind": ((-0.34, 0.10), 0.12),
        "far fore": ((0.26, 0.10), 0.12),
        "near hind": ((-0.46, 0.06), 0.12),
        "near fore": ((0.18, 0.06), 0.12),
        "head": ((0.30, -0.06), 0.1),
    },
    keypoints={
        "eye": ((0.68, -1.12), "head"),
        "muzzle": ((1.12, -0.93), "head"),
        "ear": ((0.28, -1.25), "head"),
        "tail": ((-0.92, 0.29), "tail"),
        "fore foot": ((0.18, 0.98), "near fore"),
        "hind foot": ((-0.515, 0.98), "near hind"),
    },
)

BIRD = Template(
    limbs=(
        Limb("tail", (-0.45, 0.10), (-1.05, 0.26), 0.17, "second", 0.5, 0.3, "tail"),
        Limb("leg", (-0.16, 0.25), (-0.18, 0.78), 0.06, "accent", corner=0.5, joint="far hind"),
        Limb("leg", (0.10, 0.25), (0.18, 0.78), 0.065, "accent", corner=0.5, joint="near hind"),
        Limb("body", (-0.68, 0.18), (0.54, -0.10), 0.33),
        Limb("beak", (0.66, -0.38), (1.12, -0.28), 0.13, "accent", -0.9, 0.1, "head"),
        Limb("head", (0.22, -0.38), (0.82, -0.42), 0.30, joint="head"),
        *_eye(0.60, -0.46, 0.12),
        Limb("wing", (0.18, -0.04), (-0.78, -0.40), 0.22, "second", -0.55, joint="wing"),
    ),
    joints={
        "tail": ((-0.45, 0.10), 0.15),
        "far hind": ((-0.16, 0.25), 0.1),
        "near hind": ((0.10, 0.25), 0.1),
        "wing": ((0.18, -0.02), 0.35),
        "head": ((0.34, -0.18), 0.14),
    },
    keypoints={
        "eye": ((0.60, -0.46), "head"),
        "muzzle": ((0.98, -0.31), "head"),
        "wing": ((-0.66, -0.36), "wing"),
        "tail": ((-0.97, 0.24), "tail"),
        "hind foot": ((0.17, 0.71), "near hind"),
    },
)

# A fish has a head, a body and a tail in one, and of a leg nothing: what it shares with the others is the eye.
FISH = Template(
    limbs=(
        Limb("tail fin", (-0.50, 0.00), (-1.02, -0.32), 0.17, "second", 0.45, 0.6, "tail"),
        Limb("tail fin", (-0.50, 0.00), (-1.02, 0.32), 0.17, "second", 0.45, 0.6, "tail"),
        Limb("dorsal fin", (0.24, -0.28), (-0.34, -0.60), 0.19, "accent", 0.1),
        Limb("belly fin", (0.14, 0.30), (-0.16, 0.62), 0.13, "accent", 0.2),
        Limb("flank", (-0.74, 0.00), (0.94, 0.00), 0.43, taper=0.22),
        Limb("gill", (0.26, -0.26), (0.26, 0.26), 0.05, "shade"),
        Limb("side fin", (0.18, 0.10), (-0.26, 0.20), 0.12, "second", 0.3, joint="side fin"),
        Limb("mouth", (0.70, 0.18), (0.94, 0.11), 0.05, "dark", corner=0.9),
        *_eye(0.58, -0.14, 0.13, None),
    ),
    joints={"tail": ((-0.5, 0.0), 0.15), "side fin": ((0.18, 0.10), 0.3)},
    keypoints={
        "eye": ((0.58, -0.14), None),
        "upper tail fin": ((-0.92, -0.27), "tail"),
        "lower tail fin": ((-0.92, 0.27), "tail"),
        "dorsal fin": ((-0.16, -0.50), None),
        "belly fin": ((-0.08, 0.54), None),
    },
)

TEMPLATES = {
    "car": CAR, "truck": TRUCK, "tractor": TRACTOR, "bicycle": BICYCLE,
    "dog": DOG, "giraffe": GIRAFFE, "bird": BIRD, "fish": FISH,
}  # fmt: skip


@dataclass(frozen=True)
class Families(World):
    """Vehicles and animals to match, also across the classes of a family: a wheel is a wheel on any vehicle.

    "car/wheel" and "truck/wheel" are the same part, and "car/front wheel" and "truck/front wheel" the same keypoint.
    ``wsl_core.data.pairs`` pairs them so. Things are seen from the side and may be mirrored. Front and rear, fore and
    hind go with the thing, so that a name stays with its part; nothing is named left or right. Legs have names on the
    side that is seen, and a bird's legs are hind legs.

    Every picture has one object and, behind it, a plain region, in which no point can be told from its neighbours, and
    a patterned one, in which none can be told from its repetitions.

    distractors: the most textured shapes without a class in the background.

    >>> [name for name in Families().keypoint_names if name.endswith("/rear wheel")]
    ['car/rear wheel', 'truck/rear wheel', 'tractor/rear wheel', 'bicycle/rear wheel']
    """

    name: ClassVar[str] = "families"
    distractors: int = 4

    classes = tuple(TEMPLATES)
    part_names = tuple(f"{kind}/{part}" for kind, template in TEMPLATES.items() for part in template.parts)
    keypoint_names = tuple(f"{kind}/{point}" for kind, template in TEMPLATES.items() for point in template.keypoints)

    def __post_init__(self) -> None:
        check_count("distractors", self.distractors, 0, MOST_DISTRACTORS)

    def compose(self, split: Stream, index: int) -> Scene:
        stream = split.child(index)
        label = balanced_class(split, index, len(TEMPLATES))
        kind, template = list(TEMPLATES.items())[label]
        palette = random_palette(stream.child("colours"))
        thing = pose(template, label, stream.child("object"), palette, prefix=f"{kind}/")
        thing = place(thing, stream.child("extent").uniform(0.5, 0.76), stream.child("place"), [])
        backdrop = stream.child("room").choice((Room, PaperedRoom)).draw(stream.child("backdrop"))
        return Scene(backdrop, draw_clutter(stream.child("clutter"), self.distractors), (thing,))


class Room(Backdrop):
    """A plain wall above a floor of stripes or checks."""

    __slots__ = ()

    @classmethod
    def draw(cls, stream: Stream) -> "Room":
        colours, floor, tone = stream.child("plain"), stream.child("floor"), stream.child("tone")
        cos, sin = rotation(floor.uniform(-1.0, 1.0))
        return (
            super()
            .draw(stream)
            ._replace(
                sky=_plain(hsv(colours.uniform(), colours.uniform(0.05, 0.5), colours.uniform(0.5, 0.95))),
                ground=_plain(hsv(colours.uniform(), colours.uniform(0.05, 0.5), colours.uniform(0.6, 0.95))),
                horizon=stream.child("edge").uniform(0.35, 0.65),
                roughness=(tone.uniform(0.0, 0.03), tone.uniform(0.0, 0.06)),
                pattern=Texture(floor.choice(("stripes", "checks")), floor.uniform(5.0, 9.0), cos, sin, floor.key, 0.0),
                pattern_strength=floor.uniform(0.3, 0.6),
            )
        )


class PaperedRoom(Room):
    """The same upside down: wallpaper of stripes or checks above a plain floor."""

    __slots__ = ()

    def paint(self, size: int) -> Float[np.ndarray, "3 size size"]:
        return np.ascontiguousarray(super().paint(size)[:, ::-1])


def _plain(colour: Colour) -> Paint:
    return Paint(colour, colour)
