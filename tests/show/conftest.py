"""What the tests of displays share: samples, what was displayed, and ipywidgets as Colab has it."""

from collections.abc import Iterator

import ipywidgets as widgets
import pytest
import torch

from wsl_core.data import Sample


@pytest.fixture(autouse=True)
def no_other_widgets() -> Iterator[None]:
    """ipywidgets remembers every widget of a process: forget those of a test when it ends."""
    yield
    widgets.Widget.close_all()


@pytest.fixture
def samples() -> list[Sample]:
    """Two images: a dog, and a cat beside another dog."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 24, 32, generator=generator)
    return [
        {
            "id": "first",
            "image": images[0],
            "labels": torch.tensor([0.0, 1.0, 0.0]),
            "boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]),
            "box_labels": torch.tensor([1]),
        },
        {
            "id": "second",
            "image": images[1],
            "labels": torch.tensor([1.0, 1.0, 0.0]),
            "boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0], [16.0, 8.0, 32.0, 24.0]]),
            "box_labels": torch.tensor([0, 1]),
        },
    ]


@pytest.fixture
def maps() -> torch.Tensor:
    """Raw maps (2 images, 3 classes, 6, 8), signed."""
    return torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["ipywidgets 8", "ipywidgets 7"])
def either_version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a test twice: with ``Stack``, and without it as on Colab."""
    if request.param == "ipywidgets 7":
        monkeypatch.delattr(widgets, "Stack")
    yield request.param
