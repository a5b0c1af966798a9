"""Worlds that mislead on purpose: how often context and label agree, and test sets in which they do not."""

import numpy as np
import pytest
import torch

from wsl_core.data import load_dataset
from wsl_core.data.synthetic import Scene, Synthetic
from wsl_core.data.synthetic.boats import FOOT, KINDS
from wsl_core.data.synthetic.camera import SESSIONS, _template
from wsl_core.errors import UsageError

BOAT_WITHOUT_WATER, WATER_WITHOUT_BOAT = "boat without water", "water without boat"
NEW = "new viewpoint and background"


def scenes(count: int, split: str = "test", **options) -> list[Scene]:
    dataset = Synthetic(split, **options)
    return [dataset.scene(index) for index in range(count)]


def boats(count: int, **options) -> list[Scene]:
    return scenes(count, world="boats", **options)


def cameras(count: int, **options) -> list[Scene]:
    return scenes(count, world="camera", **options)


def has_boat(scene: Scene) -> bool:
    return 0 in [thing.label for thing in scene.things]


def session_of(scene: Scene) -> int | None:
    """The session whose pattern, bench and place a picture has, if it was taken in one."""
    camera, backdrop = scene.things[0], scene.backdrop
    for number, session in enumerate(SESSIONS):
        at_home = abs(camera.placement.x - session.centre) < 0.06
        if backdrop.pattern.kind == session.pattern and backdrop.roughness == (0.08, 0.2) and at_home:
            return number
    return None


class TestBoats:
    @pytest.mark.parametrize(("bias", "count"), [(0.0, 40), (0.6, 160), (0.97, 160), (1.0, 40)])
    def test_bias_is_how_often_water_and_boat_agree(self, bias: float, count: int):
        found = boats(count, split="train", bias=bias)
        for boat in (True, False):
            agree = [scene.backdrop.water == boat for scene in found if has_boat(scene) == boat]
            sigma = (bias * (1 - bias) / len(agree)) ** 0.5
            assert len(agree) > count / 6 and abs(np.mean(agree) - bias) <= 4 * sigma

    def test_bias_changes_the_water_alone(self):
        for dry, wet in zip(boats(30, bias=0.0), boats(30, bias=1.0), strict=True):
            assert dry.things == wet.things and dry.clutter == wet.clutter
            assert dry.backdrop._replace(water=wet.backdrop.water) == wet.backdrop
            assert dry.backdrop.water != wet.backdrop.water

    @pytest.mark.parametrize("split", Synthetic.splits)
    @pytest.mark.parametrize("objects", [1, (1, 2)])
    def test_situations(self, split: str, objects):
        options = {"split": split, "objects": objects}
        found = boats(40, situation=BOAT_WITHOUT_WATER, **options)
        assert all(has_boat(scene) and not scene.backdrop.water for scene in found)
        found = boats(40, situation=WATER_WITHOUT_BOAT, **options)
        assert all(scene.backdrop.water and not has_boat(scene) for scene in found)
        assert {thing.label for scene in found for thing in scene.things} == set(range(1, len(KINDS)))

    @pytest.mark.parametrize("situation", [BOAT_WITHOUT_WATER, WATER_WITHOUT_BOAT])
    def test_bias_plays_no_part_in_the_situations(self, situation: str):
        assert boats(12, situation=situation, bias=0.0) == boats(12, situation=situation, bias=1.0)

    def test_labels(self):
        several, one = Synthetic("train", "boats", 16), Synthetic("train", "boats", 16, objects=1)
        assert (several.task, one.task) == ("multi", "single") and several.classes[0] == "boat"
        counts = {len(several.scene(index).things) for index in range(40)}
        assert counts == {1, 2}
        labels = torch.stack([one[index]["labels"] for index in range(4 * len(KINDS))])
        assert labels.sum(0).tolist() == [4] * len(KINDS)

    def test_every_look_of_a_boat_has_the_keypoints_of_boats(self):
        for looks in KINDS.values():
            assert len({tuple(look.keypoints) for look in looks}) == 1
        found = boats(80, situation=BOAT_WITHOUT_WATER, objects=1)
        hulls = {frozenset(piece.part for piece in scene.things[0].pieces) for scene in found}
        assert len(hulls) == len(KINDS["boat"]) == 4

    def test_things_stand_below_the_horizon_and_in_the_frame(self):
        for scene in boats(40):
            for thing in scene.things:
                left, top, right, bottom = thing.box()
                assert min(left, top) > 0 and max(right, bottom) < 1
                assert bottom >= scene.backdrop.waterline + FOOT - 1e-9
            assert scene.backdrop.horizon <= scene.backdrop.waterline

    def test_the_context_is_larger_than_the_objects(self):
        dataset = Synthetic("val", "boats", 48)
        cover = torch.tensor([(dataset[index]["mask"] > 0).float().mean() for index in range(30)])
        below = np.mean([1 - dataset.scene(index).backdrop.waterline for index in range(30)])
        assert cover.min() > 0.01 and cover.mean() < below / 3

    def test_water_and_land_look_different(self):
        """Below the horizon the sea is bluer than it is red, and no land is."""
        dataset = Synthetic("val", "boats", 48, distractors=0)
        for index in range(20):
            dry, wet = (
                dataset.intervene(index, remove=dataset.classes, swap_context=swap)["image"]
                for swap in (dataset.scene(index).backdrop.water, not dataset.scene(index).backdrop.water)
            )
            line = int(dataset.scene(index).backdrop.waterline * 48)
            blueness = [(image[2] - image[0])[line + 1 :].mean() for image in (dry, wet)]
            assert blueness[0] < 0.1 and blueness[1] > 0.2
            assert torch.equal(dry[:, : line - 1], wet[:, : line - 1])

    def test_interventions(self):
        dataset = Synthetic("val", "boats", objects=1, situation=BOAT_WITHOUT_WATER)
        whole, sunk = dataset[0], dataset.intervene(0, remove="hull")
        hull = dataset.part_names.index("boat/hull") + 1
        assert (whole["parts"] == hull).any() and not (sunk["parts"] == hull).any()
        afloat = dataset.intervene(0, swap_context=True)
        assert torch.equal(whole["mask"], afloat["mask"]) and not torch.equal(whole["image"], afloat["image"])


class TestCamera:
    @pytest.mark.parametrize(("bias", "count"), [(0.0, 30), (0.6, 120), (0.9, 120), (1.0, 30)])
    def test_bias_is_how_often_session_and_orientation_agree(self, bias: float, count: int):
        agree = [session_of(scene) == scene.things[0].label for scene in cameras(count, split="train", bias=bias)]
        sigma = (bias * (1 - bias) / len(agree)) ** 0.5
        assert abs(np.mean(agree) - bias) <= 4 * sigma

    def test_each_picture_as_trained_is_of_one_session_and_the_new_ones_are_of_none(self):
        assert {session_of(scene) for scene in cameras(30, bias=0.5)} == {0, 1}
        assert {session_of(scene) for scene in cameras(30, situation=NEW)} == {None}

    def test_bias_plays_no_part_in_new_surroundings(self):
        assert cameras(12, situation=NEW, bias=0.0) == cameras(12, situation=NEW, bias=1.0)

    @pytest.mark.parametrize(("situation", "low", "high"), [("as trained", 1.0, 1.0), (NEW, 0.34, 0.66)])
    def test_what_the_background_tells_about_the_class(self, situation: str, low: float, high: float):
        """A nearest neighbour among pictures without the camera: it knows all as trained, and nothing elsewhere."""
        dataset = Synthetic("test", "camera", 16, situation=situation)
        pictures = torch.stack([dataset.intervene(index, remove=dataset.classes)["image"] for index in range(150)])
        labels = torch.tensor([dataset.scene(index).things[0].label for index in range(150)])
        distances = torch.cdist(pictures.flatten(1), pictures.flatten(1)).fill_diagonal_(torch.inf)
        accuracy = (labels[distances.argmin(1)] == labels).float().mean()
        assert low <= accuracy <= high  # 0.16 is 4 sigma

    @pytest.mark.parametrize("split", Synthetic.splits)
    @pytest.mark.parametrize("situation", ["as trained", NEW])
    def test_the_socket_alone_tells_the_class(self, split: str, situation: str):
        """Above the lens or below it, read from the rendered parts; and it is always seen."""
        dataset = Synthetic(split, "camera", 96, situation=situation)
        socket, lens = (dataset.part_names.index(name) + 1 for name in ("socket", "lens"))
        for index in range(20):
            sample = dataset[index]
            rows = [(sample["parts"] == part).nonzero()[:, 0].float() for part in (socket, lens)]
            assert len(rows[0]) >= 5
            assert (rows[0].mean() < rows[1].mean()) == bool(sample["labels"][0])

    def test_without_socket_and_cap_nothing_tells_the_class(self):
        """All else is drawn in the same way for both classes."""
        upright, upside_down = (_template(label, 0.3, 0.2, 0.1, -0.1).limbs for label in (0, 1))
        differing = {a.part for a, b in zip(upright, upside_down, strict=True) if a != b}
        assert differing == {"socket", "cap"}

    def test_the_new_viewpoint_is_new(self):
        """Rotation, distance, and the direction from which the camera is seen: its lens stands out to the viewer."""

        def looks(scene: Scene) -> tuple[float, float, float]:
            (camera,) = scene.things
            front, lens = camera.pieces[3].shape, camera.pieces[-1].shape
            return camera.placement.sin, camera.placement.scale, (lens.x0 + lens.x1 - front.x0 - front.x1)

        old, new = (
            np.ptp([looks(scene) for scene in found], axis=0) for found in (cameras(40), cameras(40, situation=NEW))
        )
        assert (new > 2 * old).all()

    def test_keypoints_and_parts(self):
        dataset = Synthetic("test", "camera", situation=NEW)
        seen = torch.stack([dataset[index]["keypoints"][:, 2] for index in range(30)]).mean(0)
        assert dataset.keypoint_names == ("lens", "socket", "cap") and (seen > 0.9).all()
        blind = dataset.intervene(0, remove="socket")
        assert not (blind["parts"] == dataset.part_names.index("socket") + 1).any()
        assert torch.equal(blind["mask"], dataset[0]["mask"])  # the front is behind it


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"world": "boats", "bias": 1.2}, r"bias is 1.2; expected a number in \[0, 1\]"),
            ({"world": "boats", "objects": 3}, "from 1 to 2"),
            ({"world": "boats", "situation": NEW}, "'boat without water', 'water without boat'"),
            ({"world": "camera", "situation": BOAT_WITHOUT_WATER}, "'as trained', 'new viewpoint and background'"),
            ({"world": "boats", "distractors": -1}, "distractors is -1"),
            ({"world": "camera", "distractors": 33}, "distractors is 33"),
            ({"world": "camera", "objects": 1}, "bias, situation, distractors"),
            ({"world": "zoo", "bias": 0.5}, "bias is no knob of the world 'zoo'"),
        ],
    )
    def test_arguments(self, options: dict, message: str):
        with pytest.raises(UsageError, match=message):
            load_dataset("synthetic", "test", **options)


def test_each_knob_is_a_version_of_its_own():
    changes = ({}, {"bias": 0.5}, {"situation": WATER_WITHOUT_BOAT}, {"objects": 1}, {"distractors": 0})
    assert len({Synthetic("test", "boats", **change).version for change in changes}) == 5
