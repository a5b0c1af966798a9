"""Creatures: species with the same body, legs and tail. Two colours of the head tell them apart, or more signs do."""

from dataclasses import dataclass
from typing import ClassVar

from wsl_core.data.base import check_count
from wsl_core.data.synthetic.backdrop import Backdrop, Scene, draw_clutter, toned
from wsl_core.data.synthetic.noise import Stream, Texture, rotation
from wsl_core.data.synthetic.shapes import Paint
from wsl_core.data.synthetic.template import Limb, Template, place, pose, random_palette
from wsl_core.data.synthetic.world import MOST_DISTRACTORS, World, balanced_class, check_share

__all__ = ["Creatures"]

NAMES = ("aru", "bem", "cio", "dax", "eno", "fip", "gor", "hul", "ixo", "jat", "kel", "lum")
HUES = (0.0, 0.145, 0.36, 0.62)
# Back and front of the head, as indices of HUES. Among the first 4, 8 or 12 every pair occurs in both orders, so that
# one colour alone, or both without their order, do not tell the species.
HEADS = ((0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2), (3, 0), (0, 3), (0, 2), (2, 0), (1, 3), (3, 1))
# The body's pattern: kind, repetitions per unit of length, tangent of half its direction's angle.
BODIES = (
    ("stripes", 2.6, 0.0), ("spots", 2.4, 0.3), ("checks", 2.0, 0.0), ("waves", 2.2, 1.0),
    ("stripes", 2.6, 1.0), ("spots", 4.5, 0.3), ("checks", 3.4, 0.41), ("noise", 1.0, 0.0),
    ("stripes", 5.0, 0.41), ("waves", 2.2, 0.0), ("stripes", 5.0, -0.41), ("waves", 4.0, 0.41),
)  # fmt: skip

CREATURE = Template(
    limbs=(
        Limb("tail", (-0.58, -0.10), (-0.98, -0.46), 0.09, "limb", 0.4, joint="tail"),
        Limb("leg", (-0.36, 0.10), (-0.42, 0.66), 0.085, "limb", corner=0.9, joint="far hind"),
        Limb("leg", (0.26, 0.10), (0.34, 0.66), 0.085, "limb", corner=0.9, joint="far fore"),
        Limb("body", (-0.76, 0.0), (0.58, -0.06), 0.36),
        Limb("leg", (-0.54, 0.10), (-0.60, 0.72), 0.10, "limb", corner=0.9, joint="near hind"),
        Limb("leg", (0.12, 0.12), (0.16, 0.72), 0.10, "limb", corner=0.9, joint="near fore"),
        Limb("head", (0.31, -0.36), (0.73, -0.36), 0.225, "back", corner=0.9, joint="head"),
        Limb("head", (0.53, -0.34), (0.90, -0.34), 0.20, "front", corner=0.9, joint="head"),
        Limb("eye", (0.61, -0.42), (0.73, -0.42), 0.06, "light", joint="head"),
        Limb("eye", (0.66, -0.42), (0.72, -0.42), 0.032, "dark", joint="head"),
    ),
    joints={
        "tail": ((-0.58, -0.10), 0.4),
        "far hind": ((-0.36, 0.10), 0.2),
        "far fore": ((0.26, 0.10), 0.2),
        "near hind": ((-0.54, 0.10), 0.2),
        "near fore": ((0.12, 0.12), 0.2),
        "head": ((0.40, -0.20), 0.16),
    },
    keypoints={
        "snout": ((0.86, -0.33), "head"),
        "eye": ((0.68, -0.42), "head"),
        "crown": ((0.44, -0.52), "head"),
        "tail": ((-0.92, -0.40), "tail"),
        "fore paw": ((0.155, 0.64), "near fore"),
        "hind paw": ((-0.59, 0.64), "near hind"),
    },
)


@dataclass(frozen=True)
class Creatures(World):
    """Knobs: how many species, how concentrated the evidence is, how many distractors.

    species: 2 to 12. concentration in [0, 1]: with c, the head shows its species' colours with probability 0.8 + 0.2 c,
    and the body's pattern and the limbs' hue show theirs with probability 0.8 (1 - c) each. What does not show its own
    species shows one drawn at random. So at 1 the head tells all, and at 0 head, body and limbs are equally reliable.
    distractors: the most textured shapes without a class in the background.
    """

    name: ClassVar[str] = "creatures"
    species: int = 8
    concentration: float = 1.0
    distractors: int = 7

    part_names = CREATURE.parts
    keypoint_names = tuple(CREATURE.keypoints)

    def __post_init__(self) -> None:
        check_count("species", self.species, 2, len(NAMES))
        check_share("concentration", self.concentration)
        check_count("distractors", self.distractors, 0, MOST_DISTRACTORS)

    @property
    def classes(self) -> tuple[str, ...]:
        return NAMES[: self.species]

    def compose(self, split: Stream, index: int) -> Scene:
        stream = split.child(index)
        label = balanced_class(split, index, self.species)
        head = self._shown(label, stream.child("head"), 0.8 + 0.2 * self.concentration)
        body = self._shown(label, stream.child("body"), 0.8 - 0.8 * self.concentration)
        limb = self._shown(label, stream.child("limb"), 0.8 - 0.8 * self.concentration)
        palette = self._palette(stream.child("colours"), head, limb)
        creature = pose(CREATURE, label, stream.child("object"), palette)
        creature = creature._replace(textures=(_pattern(body, stream.child("pattern")), *creature.textures))
        creature = creature._replace(
            pieces=tuple(piece._replace(texture=piece.part != "body") for piece in creature.pieces)
        )
        creature = place(creature, stream.child("extent").uniform(0.4, 0.74), stream.child("place"), [])
        backdrop = Backdrop.draw(stream.child("backdrop"))
        return Scene(backdrop, draw_clutter(stream.child("clutter"), self.distractors), (creature,))

    def _shown(self, label: int, stream: Stream, reliability: float) -> int:
        """The species whose sign is shown: ``label`` with this probability, otherwise any."""
        other = stream.integer(self.species)
        return label if stream.chance(reliability) else other

    def _palette(self, stream: Stream, head: int, limb: int) -> dict[str, Paint]:
        back, front = (HUES[colour] for colour in HEADS[head])
        hues = {"back": back, "front": front, "limb": limb / self.species + 0.06}
        return random_palette(stream.child("body")) | {role: _near(hue, stream) for role, hue in hues.items()}


def _near(hue: float, stream: Stream) -> Paint:
    """A strong colour of about this hue."""
    return toned(hue + stream.uniform(-0.025, 0.025), stream.uniform(0.7, 0.9), stream.uniform(0.75, 0.95), 0.3)


def _pattern(species: int, stream: Stream) -> Texture:
    kind, cells, half_tangent = BODIES[species]
    cos, sin = rotation(half_tangent + stream.uniform(-0.06, 0.06))
    return Texture(kind, cells * stream.uniform(0.92, 1.08), cos, sin, stream.key, stream.uniform(0.2, 0.4))
