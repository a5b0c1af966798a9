"""The synthetic worlds: pictures made on the fly, of which everything is known and in which anything can be changed.

::

    names -> noise.py (random numbers) -> zoo.py, boats.py, ... (a Scene) -> shapes.py (a Canvas) -> a Sample

Nothing is stored and nothing is downloaded. A sample depends on the world and its revision, the knobs, the seed, the
split and the index, and has the same pixels on every machine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl_core.data.base import Dataset, Sample, check_count, digest, one_hot, to_float
from wsl_core.data.synthetic.backdrop import Scene
from wsl_core.data.synthetic.boats import Boats
from wsl_core.data.synthetic.camera import Camera
from wsl_core.data.synthetic.creatures import Creatures
from wsl_core.data.synthetic.families import Families
from wsl_core.data.synthetic.noise import Stream
from wsl_core.data.synthetic.shapes import LARGEST, NOBODY, Canvas, Piece, Placement, Thing
from wsl_core.data.synthetic.text import Text
from wsl_core.data.synthetic.world import World
from wsl_core.data.synthetic.zoo import Zoo
from wsl_core.errors import UsageError

__all__ = ["Synthetic", "WORLDS", "Scene", "Zoo", "Creatures", "Text", "Boats", "Camera", "Families"]

WORLDS: dict[str, type[World]] = {world.name: world for world in (Zoo, Creatures, Text, Boats, Camera, Families)}
LENGTHS = {"train": 3000, "val": 500, "test": 500}


class Synthetic(Dataset):
    """A synthetic world, rendered when a sample is asked for.

    Rendering takes time (``benchmarks/render.py`` says how much), so a training run renders each picture once: see
    ``InMemory``.

    Args:
        split: "train", "val" or "test"; they share no sample.
        world: "zoo", "creatures", "text", "boats", "camera" or "families"; see ``Zoo``, ``Creatures``, ``Text``,
            ``Boats``, ``Camera`` and ``Families`` for what their knobs do.
        size: side of the square pictures in pixels, 16 to 1024. The same scene at any size.
        length: number of samples; by default 3000 in "train" and 500 in the others. A longer split begins with the
            samples of a shorter one.
        seed: another seed, other samples.
        objects, context_bias: knobs of the zoo; objects also one of the boats.
        species, concentration: knobs of the creatures.
        bias, situation: knobs of the boats and of the camera: how the world misleads, and which of its test sets it is.
        distractors: knob of every world.

    Raises:
        UsageError: an argument is out of range, or a knob is not one of this world's.

    >>> birds_and_others = Synthetic("train", size=32, objects=1)
    >>> birds_and_others[0]["image"].shape, birds_and_others.task
    (torch.Size([3, 32, 32]), 'single')
    """

    name = "synthetic"
    licence = "CC0-1.0"

    def __init__(
        self,
        split: str,
        world: str = "zoo",
        size: int = 96,
        length: int | None = None,
        seed: int = 0,
        objects: Any = None,
        context_bias: Any = None,
        species: Any = None,
        concentration: Any = None,
        bias: Any = None,
        situation: Any = None,
        distractors: Any = None,
    ) -> None:
        check_count("size", size, 16, LARGEST)
        check_count("seed", seed, 0, 2**31 - 1)
        knobs = {
            "objects": objects,
            "context_bias": context_bias,
            "species": species,
            "concentration": concentration,
            "bias": bias,
            "situation": situation,
            "distractors": distractors,
        }
        self.split = self.check_split(split)
        self.world = _make_world(world, {knob: value for knob, value in knobs.items() if value is not None})
        self.size = self.image_size = size
        self._length = LENGTHS[split] if length is None else length
        check_count("length", self._length, 1, 10**7)
        self._stream = Stream("synthetic", self.world.name, self.world.revision, seed, split)
        self._prefix = f"{self.world.name}-{seed}-{split}"
        self.classes, self.task = self.world.classes, self.world.task
        self.part_names, self.keypoint_names = self.world.part_names, self.world.keypoint_names
        options = digest((size, self._length, seed, self.world))
        self.version = f"synthetic/{self.world.name}/v{self.world.revision}/{split}/{options}"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> Sample:
        position = self.position(index)
        return self._render(position, self.scene(position))

    def scene(self, index: SupportsIndex) -> Scene:
        """What sample ``index`` shows, before it is rendered; ``scene(i).backdrop.water`` says if there is water.

        >>> [thing.label for thing in Synthetic("val", objects=1).scene(3).things]
        [3]
        """
        return self.world.compose(self._stream, self.position(index))

    def intervene(
        self,
        index: SupportsIndex,
        remove: str | Iterable[str] = (),
        hide: str | Iterable[str] = (),
        background: SupportsIndex | None = None,
        shift: Sequence[float] = (0, 0),
        swap_context: bool = False,
    ) -> Sample:
        """Sample ``index`` with something changed and all else as it was. Labels, boxes and masks follow.

        Args:
            remove: parts that are left out; what is behind them shows. "head" takes the heads of all classes,
                "dog/head" only a dog's, and a class takes everything that belongs to it.
            hide: parts, named in the same way, that are painted over in grey. They keep their place in the annotation.
            background: the index of the sample whose background (with its distractors) is taken.
            shift: pixels by which the objects are moved to the right and down.
            swap_context: water where there was none, and none where there was (zoo, boats).

        Raises:
            UsageError: a name is no part and no class, or the world has no water to swap.

        >>> world = Synthetic("val", world="creatures", size=32)
        >>> whole, headless = world[0], world.intervene(0, remove="head")
        >>> head = world.part_names.index("head") + 1
        >>> (whole["parts"] == head).any().item(), (headless["parts"] == head).any().item()
        (True, False)
        """
        position = self.position(index)
        scene = self.scene(position)
        removed, hidden = self._check_names("remove", remove), self._check_names("hide", hide)
        if background is not None:
            other = self.scene(background)
            scene = scene._replace(backdrop=other.backdrop, clutter=other.clutter)
        if swap_context:
            if scene.backdrop.waterline is None:
                raise UsageError(
                    f"swap_context: the world {self.world.name!r} has no water to swap; use 'zoo' or 'boats'."
                )
            scene = scene._replace(backdrop=scene.backdrop._replace(water=not scene.backdrop.water))
        move = Placement(shift[0] / self.size, shift[1] / self.size)
        things = tuple(self._change(thing, removed, hidden).put(move) for thing in scene.things)
        return self._render(position, scene._replace(things=things))

    def _check_names(self, argument: str, names: str | Iterable[str]) -> set[str]:
        found = {names} if isinstance(names, str) else set(names)
        known = {*self.classes, *self.part_names, *(_short(part) for part in self.part_names)}
        if unknown := sorted(found - known):
            expected = ", ".join(sorted(known))
            raise UsageError(f"{argument}: {unknown[0]!r} is no part and no class; expected {expected}.")
        return found

    def _change(self, thing: Thing, removed: set[str], hidden: set[str]) -> Thing:
        kept = (piece for piece in thing.pieces if not self._is_named(thing, piece, removed))
        pieces = tuple(piece._replace(hidden=self._is_named(thing, piece, hidden)) for piece in kept)
        return thing._replace(pieces=pieces)

    def _is_named(self, thing: Thing, piece: Piece, names: set[str]) -> bool:
        if thing.label is None or piece.part not in self.part_names:
            return False
        return not names.isdisjoint((piece.part, _short(piece.part), self.classes[thing.label]))

    def _render(self, index: int, scene: Scene) -> Sample:
        canvas = Canvas(scene.backdrop.paint(self.size), self.part_names)
        for thing in scene.clutter:
            canvas.paint(thing)
        for instance, thing in enumerate(scene.things):
            canvas.paint(thing, NOBODY if thing.label is None else instance)
        boxes = {instance: box for instance in range(len(scene.things)) if (box := canvas.visible_box(instance))}
        labels = [scene.things[instance].label for instance in boxes]
        value = np.zeros(256, dtype=np.int64)
        value[list(boxes)] = np.array(labels, dtype=np.int64) + 1
        present = labels if labels or self.world.nothing is None else [self.world.nothing]
        return {
            "id": f"{self._prefix}-{index:05d}",
            "image": to_float(torch.from_numpy(canvas.pixels())),
            "labels": one_hot(present, len(self.classes)),
            "boxes": torch.tensor(list(boxes.values()), dtype=torch.float32).reshape(-1, 4),
            "box_labels": torch.tensor(labels, dtype=torch.int64),
            "mask": torch.from_numpy(value[canvas.instance]),
            "parts": torch.from_numpy(canvas.part.astype(np.int64)),
            "keypoints": self._keypoints(scene, canvas),
        }

    def _keypoints(self, scene: Scene, canvas: Canvas) -> Float[Tensor, "P 3"]:
        """x, y and 1 where the point lies on a visible pixel of its object; zeros for objects that are not there."""
        row = {name: position for position, name in enumerate(self.keypoint_names)}
        points = np.zeros((len(row), 3), dtype=np.float32)
        for instance, thing in enumerate(scene.things):
            for name, x, y in thing.keypoints:
                x, y = x * self.size, y * self.size
                points[row[name]] = x, y, canvas.shows(instance, x, y)
        return torch.from_numpy(points)


def _make_world(name: str, knobs: dict[str, Any]) -> World:
    if name not in WORLDS:
        raise UsageError(f"world {name!r} is unknown; expected one of {', '.join(WORLDS)}.")
    known = [field.name for field in fields(WORLDS[name])]
    for knob in knobs:
        if knob not in known:
            raise UsageError(f"{knob} is no knob of the world {name!r}; expected one of {', '.join(known)}.")
    return WORLDS[name](**knobs)


def _short(part: str) -> str:
    """The part's name without its class."""
    return part.rpartition("/")[2]
