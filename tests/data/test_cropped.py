"""What is cut out of an image, pixel by pixel, and a data set of such crops."""

import pytest
import torch

from wsl_core.data import Cropped, load_dataset
from wsl_core.data.cropped import cut_box
from wsl_core.errors import UsageError

IMAGE = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
FRAME = torch.tensor([0.0, 0.0, 30.0, 20.0])


def small_data():
    return load_dataset("synthetic", "val", size=32, length=3)


def test_a_square_of_whole_pixels_is_kept_as_it_is():
    box = torch.tensor([4.0, 6.0, 12.0, 14.0])
    torch.testing.assert_close(cut_box(IMAGE, box, 8), IMAGE[:, 6:14, 4:12])
    torch.testing.assert_close(cut_box(IMAGE, box, 12, margin=0.25), IMAGE[:, 4:16, 2:14])


def test_a_margin_ends_at_the_border():
    box = torch.tensor([10.0, 0.0, 30.0, 20.0])
    for margin in (0.5, 9.0):
        torch.testing.assert_close(cut_box(IMAGE, box, 10, margin), cut_box(IMAGE, FRAME, 10))


def test_a_crop_is_stretched_to_the_square():
    ramp = (torch.arange(30) + 0.5).expand(1, 20, 30)
    torch.testing.assert_close(cut_box(ramp, FRAME, 10)[0], (3 * torch.arange(10) + 1.5).expand(10, 10))


@pytest.mark.parametrize("box", [[5.0, 5.0, 5.0, 9.0], [31.0, 0.0, 40.0, 9.0], [9.0, 9.0, 3.0, 3.0]])
def test_a_box_without_area_is_named(box):
    with pytest.raises(UsageError, match=r"box \[.*has no area within the image of 30 x 20 pixels"):
        cut_box(IMAGE, torch.tensor(box), 8)


def test_the_data_set_keeps_images_and_labels_and_has_a_version_of_its_own():
    dataset, boxes = small_data(), torch.tensor([[0.0, 0, 16, 16], [8, 4, 30, 30], [0, 0, 32, 32]])
    cropped = Cropped(dataset, boxes, side=16, margin=0.0)
    assert len(cropped) == 3 and cropped.image_size == 16 and cropped.classes == dataset.classes
    sample = cropped[-3]
    assert set(sample) == {"id", "image", "labels"} and torch.equal(sample["labels"], dataset[0]["labels"])
    torch.testing.assert_close(sample["image"], dataset[0]["image"][:, :16, :16], rtol=0, atol=0.002)
    levels = 255 * cropped[1]["image"]
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)  # 8 bits, as InMemory keeps them
    versions = {Cropped(dataset, boxes, 16, margin).version for margin in (0.0, 0.1)}
    versions |= {dataset.version, cropped.version, Cropped(dataset, boxes, 17, 0.0).version}
    versions |= {Cropped(dataset, boxes.flip(0), 16, 0.0).version}
    assert len(versions) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxes": torch.zeros(2, 4)}, "boxes: found 2; expected one of each of the 3 samples"),
        ({"side": 0}, "side is 0"),
        ({"margin": -0.1}, "margin=-0.1"),
        ({"margin": float("nan")}, "margin=nan"),
    ],
)
def test_wrong_arguments(changes, words):
    with pytest.raises(UsageError, match=words):
        Cropped(**{"dataset": small_data(), "boxes": FRAME.expand(3, 4), "side": 8} | changes)
