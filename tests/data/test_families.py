"""The world of families: one name is one part, also in a mirror, and every picture has what cannot be matched."""

import hashlib
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsl_core.data.base import InMemory, to_bytes
from wsl_core.data.pairs import families, pairs, shared_keypoints, shared_parts
from wsl_core.data.synthetic import Synthetic
from wsl_core.data.synthetic.families import TEMPLATES, PaperedRoom, Room
from wsl_core.data.synthetic.shapes import Canvas, Placement
from wsl_core.errors import UsageError

VEHICLES, ANIMALS = ("car", "truck", "tractor", "bicycle"), ("dog", "bird", "fish", "giraffe")
PART_OF = {
    "front wheel": "wheel", "middle wheel": "wheel", "rear wheel": "wheel", "window": "window", "roof": "cabin",
    "headlight": "headlight", "exhaust": "exhaust", "saddle": "saddle", "handlebar": "handlebar", "eye": "eye",
    "ear": "ear", "tail": "tail", "fore foot": "leg", "hind foot": "leg", "wing": "wing", "upper tail fin": "tail fin",
    "lower tail fin": "tail fin", "dorsal fin": "dorsal fin", "belly fin": "belly fin",
}  # fmt: skip
POSITIONS = st.tuples(st.integers(0, 1000), st.integers(0, 499))


def short(name: str) -> str:
    return name.rpartition("/")[2]


def sample_and_class(seed: int, index: int) -> tuple[Synthetic, dict, str]:
    world = Synthetic("val", "families", seed=seed)
    sample = world[index]
    return world, sample, world.classes[sample["box_labels"].item()]


def test_golden() -> None:
    """The 8-bit pixels of one thing of each class; see ``GOLDEN`` in test_synthetic.py."""
    world = Synthetic("train", "families")
    images = [to_bytes(world[index]["image"]).numpy().tobytes() for index in range(len(world.classes))]
    assert {world.scene(index).things[0].label for index in range(8)} == set(range(8))
    assert hashlib.sha256(b"".join(images)).hexdigest()[:16] == "e1640894c8a60144"


@settings(max_examples=24, deadline=None)
@given(where=POSITIONS)
def test_every_keypoint_of_the_object_is_seen_on_the_part_that_it_names(where: tuple[int, int]) -> None:
    world, sample, kind = sample_and_class(*where)
    for name, (x, y, visible) in zip(world.keypoint_names, sample["keypoints"].tolist(), strict=True):
        assert visible == name.startswith(f"{kind}/")
        if visible:
            muzzle = {"bird": "beak"}.get(kind, "snout")
            value = sample["parts"][int(y), int(x)].item()
            assert world.part_names[value - 1] == f"{kind}/{PART_OF.get(short(name), muzzle)}", name


@settings(max_examples=24, deadline=None)
@given(where=POSITIONS)
def test_every_part_can_be_seen(where: tuple[int, int]) -> None:
    """At 96 pixels each part has some; joints bend, and nothing that bends hides another part."""
    world, sample, kind = sample_and_class(*where)
    seen = {world.part_names[value - 1] for value in sample["parts"].unique().tolist() if value}
    assert seen == {f"{kind}/{part}" for part in TEMPLATES[kind].parts}


@settings(max_examples=12, deadline=None)
@given(where=POSITIONS)
def test_a_mirror_keeps_the_names_of_parts_and_points(where: tuple[int, int]) -> None:
    seed, index = where
    world = Synthetic("val", "families", seed=seed)
    thing = world.scene(index).things[0]
    mirrored = thing.put(Placement(x=1.0, mirror=-1.0))
    canvases = [Canvas(np.zeros((3, 96, 96), np.float32), world.part_names) for _ in range(2)]
    for canvas, version in zip(canvases, (thing, mirrored), strict=True):
        canvas.paint(version, 0)
    assert (canvases[0].part[:, ::-1] == canvases[1].part).mean() > 0.995  # the rest lies on edges
    for before, after in zip(thing.keypoints, mirrored.keypoints, strict=True):
        assert after.name == before.name and (after.x, after.y) == pytest.approx((1 - before.x, before.y))


def test_front_is_where_it_looks_and_both_directions_occur() -> None:
    world = Synthetic("val", "families")
    directions = set()
    for index in range(32):
        thing = world.scene(index).things[0]
        x = {short(name): x for name, x, _ in thing.keypoints}
        ahead = x.get("front wheel", x.get("eye"))
        behind = x.get("rear wheel", x.get("tail", x.get("upper tail fin")))
        assert (ahead - behind) * thing.placement.mirror > 0
        directions.add(thing.placement.mirror)
    assert directions == {-1.0, 1.0}


def test_what_the_classes_of_a_family_share() -> None:
    world = Synthetic("val", "families")
    assert [set(family) for family in families(world)] == [set(ANIMALS), set(VEHICLES)]

    def shared(kind: str, other: str) -> tuple[set[str], set[str]]:
        rows, values = shared_keypoints(world, kind, other), shared_parts(world, kind, other)
        for names, found in ((world.keypoint_names, rows), (world.part_names, [(a - 1, b - 1) for a, b in values])):
            assert all(names[a] == f"{kind}/{short(names[b])}" for a, b in found)
        return {short(world.keypoint_names[a]) for a, _ in rows}, {short(world.part_names[a - 1]) for a, _ in values}

    points = {"front wheel", "rear wheel", "window", "headlight", "roof"}
    parts = {"wheel", "window", "headlight", "body", "cabin"}
    for kind, other in permutations(("car", "truck", "tractor"), 2):
        assert shared(kind, other) == (points, parts)
        assert shared(kind, "bicycle") == ({"front wheel", "rear wheel", "headlight"}, {"wheel", "headlight"})
    for other in ("dog", "bird", "giraffe"):
        assert shared("fish", other) == ({"eye"}, {"eye"})
    quadruped = {"eye", "muzzle", "ear", "tail", "fore foot", "hind foot"}
    assert shared("dog", "giraffe") == (quadruped, {"tail", "leg", "body", "neck", "head", "snout", "ear", "eye"})
    for other in ("dog", "giraffe"):
        assert shared("bird", other) == (quadruped - {"ear", "fore foot"}, {"tail", "leg", "body", "head", "eye"})


@pytest.mark.parametrize("across", [False, True])
def test_pairs_are_even_over_the_classes_and_the_same_each_time(across: bool) -> None:
    kinds = {
        (a, b) for family in (VEHICLES, ANIMALS) for a in family for b in family if across == (a != b)
    }  # fmt: skip
    first, again = (InMemory(Synthetic("val", "families", 48, length=24)) for _ in range(2))
    drawn = pairs(first, across, count=2 * len(kinds), seed=5)
    found = [(first.classes[pair.source_class], first.classes[pair.target_class]) for pair in drawn]
    assert set(found[: len(kinds)]) == set(found[len(kinds) :]) == kinds
    for pair, repeated in zip(drawn, pairs(again, across, count=2 * len(kinds), seed=5), strict=True):
        assert pair[:4] == repeated[:4] and torch.equal(pair.keypoints, repeated.keypoints)
        for a, b in pair.keypoints.tolist():
            assert short(first.keypoint_names[a]) == short(first.keypoint_names[b])
            assert first[pair.source]["keypoints"][a, 2] == first[pair.target]["keypoints"][b, 2] == 1


def test_wheels_go_from_all_vehicles_or_from_cars_alone() -> None:
    world = Synthetic("val", "families")
    wheels = torch.tensor([row + 1 for row, name in enumerate(world.part_names) if short(name) == "wheel"])
    for index in range(8):
        before, bare = world[index], world.intervene(index, remove="wheel")
        kind = world.classes[before["box_labels"].item()]
        assert torch.isin(before["parts"], wheels).any() == (kind in VEHICLES)
        assert not torch.isin(bare["parts"], wheels).any()
        after = world.intervene(index, remove="car/wheel")
        assert torch.equal(after["image"], before["image"]) == (kind != "car")


def empty_room(world: Synthetic, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels of the backdrop, and its pattern's region without a margin around the edge of the wall."""
    backdrop = world.scene(index).backdrop
    size = 192
    pixels = Canvas(backdrop.paint(size)).pixels().astype(np.float64).mean(axis=0)
    height = (np.arange(size) + 0.5) / size
    if isinstance(backdrop, PaperedRoom):
        height = height[::-1]
    rows = np.where(height > backdrop.horizon + 0.08, 1, np.where(height < backdrop.horizon - 0.08, 0, -1))
    return pixels, rows


def test_every_room_has_a_plain_region_and_one_that_repeats_itself() -> None:
    world = Synthetic("val", "families")
    kinds = set()
    for index in range(24):
        backdrop = world.scene(index).backdrop
        kinds.add((type(backdrop), backdrop.pattern.kind))
        pixels, rows = empty_room(world, index)
        patterned, plain = pixels[rows == 1], pixels[rows == 0]
        assert len(patterned) > 40 and len(plain) > 40
        assert plain.std() < 0.3 * patterned.std()
        up = -1 if isinstance(backdrop, PaperedRoom) else 1
        period = 192 / backdrop.pattern.cells
        across, down = period * backdrop.pattern.cos, up * period * backdrop.pattern.sin
        assert unlike(patterned, across, down) < 0.4 * unlike(patterned, across / 2, down / 2)
    assert kinds == {(room, pattern) for room in (Room, PaperedRoom) for pattern in ("stripes", "checks")}


def unlike(region: np.ndarray, across: float, down: float) -> float:
    """How much a region differs from itself, shifted."""
    x, y = round(across), round(down)
    if y < 0:
        x, y = -x, -y
    width, height = region.shape[1] - abs(x), region.shape[0] - y
    first = region[:height, max(-x, 0) :][:, :width]
    second = region[y:, max(x, 0) :][:, :width]
    return float(np.abs(first - second).mean())


def test_both_regions_are_seen_behind_object_and_distractors() -> None:
    world = Synthetic("val", "families")
    for index in range(40):
        scene, image = world.scene(index), world[index]["image"]
        behind = torch.from_numpy(Canvas(scene.backdrop.paint(96)).pixels())
        seen = (to_bytes(image) == behind).all(0)
        edge = int(scene.backdrop.horizon * 96)
        edge = 96 - edge if isinstance(scene.backdrop, PaperedRoom) else edge
        assert min(seen[:edge].sum(), seen[edge:].sum()) > 0.08 * 96 * 96


def test_distractors_leave_object_and_room() -> None:
    none, many = Synthetic("val", "families", distractors=0), Synthetic("val", "families", distractors=9)
    for index in range(8):
        assert not none.scene(index).clutter
        assert none.scene(index).things == many.scene(index).things
        assert none.scene(index).backdrop == many.scene(index).backdrop


@pytest.mark.parametrize(
    ("options", "message"),
    [({"distractors": -1}, "distractors is -1"), ({"objects": 2}, "objects is no knob of the world 'families'")],
)
def test_wrong_knobs(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Synthetic("val", "families", **options)
