"""What a world is: classes, parts, keypoints, and a scene for every index."""

from abc import ABC, abstractmethod
from typing import ClassVar

from wsl_core.data.synthetic.backdrop import Scene
from wsl_core.data.synthetic.noise import Stream
from wsl_core.errors import UsageError

__all__ = ["World", "balanced_class", "check_choice", "check_range", "check_share"]

MOST_DISTRACTORS = 32
AS_TRAINED = "as trained"  # the situation of a world in which a test set is like the training set


class World(ABC):
    """A world is a dataclass whose fields are its knobs. Pixels change only with ``revision`` and with the knobs."""

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    nothing: ClassVar[int | None] = None  # the class of a picture in which no class has a place
    task: str = "single"
    part_names: tuple[str, ...]
    keypoint_names: tuple[str, ...] = ()

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @abstractmethod
    def compose(self, split: Stream, index: int) -> Scene:
        """The scene of sample ``index`` of the split that this stream stands for."""


def balanced_class(split: Stream, index: int, classes: int) -> int:
    """The class of a sample: among each ``classes`` samples in a row, every class occurs once, in random order.

    >>> sorted(balanced_class(Stream("train"), index, 4) for index in range(8, 12))
    [0, 1, 2, 3]
    """
    return split.child("classes", index // classes).permutation(classes)[index % classes]


def check_share(knob: str, value: object) -> None:
    """Raise UsageError unless 0 <= value <= 1."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"{knob} is {value!r}; expected a number in [0, 1].")


def check_range(knob: str, value: object, low: int, high: int) -> tuple[int, int]:
    """The least and the most that ``value`` stands for: a number, or a pair. UsageError unless within low, ..., high.

    >>> check_range("objects", 2, 1, 3), check_range("objects", [1, 3], 1, 3)
    ((2, 2), (1, 3))
    """
    ends = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(ends) != 2 or not all(isinstance(end, int) for end in ends) or not low <= ends[0] <= ends[1] <= high:
        raise UsageError(f"{knob} is {value!r}; expected a number from {low} to {high}, or a pair (least, most).")
    return ends


def check_choice(knob: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise UsageError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UsageError(f"{knob} is {value!r}; expected one of {', '.join(map(repr, choices))}.")
