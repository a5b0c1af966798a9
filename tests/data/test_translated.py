"""The control in which boxes that never looked at the image must fail."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_base import Pictures, same
from wsl_core.data import InMemory, Translated, load_dataset
from wsl_core.errors import UsageError


@given(st.integers(8, 40), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_image_moves_with_its_annotations(canvas: int, index: int) -> None:
    original, moved = Pictures()[index], Translated(Pictures(), canvas)[index]
    left, top = Translated(Pictures(), canvas).place(original)
    height, width = original["image"].shape[-2:]
    there = (..., slice(top, top + height), slice(left, left + width))
    for key, padding in (("image", 0), ("mask", 0), ("parts", 0)):
        assert moved[key].shape[-2:] == (canvas, canvas)
        assert torch.equal(moved[key][there], original[key])
        rest = moved[key].clone()
        rest[there] = padding
        grey = torch.tensor([124, 116, 104]) / 255 if key == "image" else torch.zeros(1)
        assert set(rest.unique().tolist()) <= {0.0, *grey.tolist()}
    shift = torch.tensor([left, top, left, top])
    assert torch.allclose(moved["boxes"], original["boxes"] + shift)
    assert torch.allclose(moved["keypoints"], original["keypoints"] + torch.tensor([left, top, 0]))
    assert moved["id"] == original["id"] and torch.equal(moved["labels"], original["labels"])


def test_a_box_holds_the_same_pixels_as_before(tiny_root: Path) -> None:
    plain = load_dataset("tiny-imagenet", "train", tiny_root)
    moved = load_dataset("tiny-imagenet", "train", tiny_root, translate=96)
    for before, after in zip(plain, moved, strict=True):
        assert torch.equal(_inside(before), _inside(after))


def _inside(sample: dict) -> torch.Tensor:
    x0, y0, x1, y1 = sample["boxes"][0].int().tolist()
    return sample["image"][:, y0:y1, x0:x1]


def test_places_are_fixed_and_even() -> None:
    pictures = Translated(Pictures(count=400), 12)
    places = [pictures.place({**sample, "image": torch.zeros(3, 9, 9)}) for sample in Pictures(count=400)]
    again = [pictures.place({**sample, "image": torch.zeros(3, 9, 9)}) for sample in Pictures(count=400)]
    assert places == again
    for axis in range(2):
        counts = torch.bincount(torch.tensor([place[axis] for place in places]), minlength=4)
        assert len(counts) == 4 and counts.min() > 60  # 100 expected in each of 4 places; 60 is 4.6 sigma below
    golden = Translated(Pictures(), 96).place({"id": "val_0", "image": torch.zeros(3, 64, 64)})
    assert golden == (22, 6)  # on every machine


def test_version_and_memory(tiny_root: Path) -> None:
    plain, moved = Pictures(), Translated(Pictures(), 20)
    assert len({plain.version, moved.version, Translated(plain, 21).version}) == 3
    memory = InMemory(moved)
    assert all(same(memory[i], moved[i]) for i in range(len(moved)))
    assert load_dataset("tiny-imagenet", "val", tiny_root, translate=True)[0]["image"].shape == (3, 96, 96)


def test_a_canvas_that_is_too_small_is_named() -> None:
    with pytest.raises(UsageError, match="canvas is 2 pixels; sample 'picture 0'"):
        Translated(Pictures(), 2)[0]
