"""What needs a living kernel: the reader's own image."""

import html
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from IPython import get_ipython
from jaxtyping import Float
from torch import Tensor, nn

from wsl_core.data.base import to_float
from wsl_core.data.images import read_pixels, shrink_image
from wsl_core.errors import UsageError, WSLError
from wsl_core.ops import resize_maps
from wsl_core.show.explorers import explore_boxes
from wsl_core.show.widgets import TEXT_STYLE, html_widget

__all__ = ["is_live", "own_image", "explain_upload", "uploaded_file"]

_CLASSES_SHOWN = 3


def is_live() -> bool:
    """Whether a reader sits in front of a kernel and can use controls that call Python.

    False outside a notebook, where ``WSL_STATIC=1`` (the book's build sets it), and where a program executes the
    notebook (papermill, nbconvert, nbval): programs run cells without the right to ask for input, front-ends with it.

    >>> is_live()
    False
    """
    if os.environ.get("WSL_STATIC") == "1":
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def own_image(model: nn.Module, classes: Sequence[str], size: int | None = 224) -> widgets.Widget:
    """Let the reader choose an image file and explore the maps of the classes that the network sees in it.

    On a page without a kernel it is a line that says how to get one.

    Args:
        model: a trained classifier with ``localize``; it is put into evaluation mode.
        classes: names of its classes.
        size: longer side, in pixels, to which a larger image is shrunk; ``None`` keeps every size. Choose it so that
            objects are about as large as those that the network was trained on.

    >>> own_image(nn.Identity(), ["cat", "dog"]).value[:4]  # no kernel here
    '<div'
    """
    if not is_live():
        return html_widget(
            f"<div {TEXT_STYLE}>Run this notebook, on Colab or your own machine, to try your own image.</div>"
        )
    upload = widgets.FileUpload(accept="image/*", multiple=False, description="Your image")
    upload.layout.width = "auto"
    answer = widgets.VBox()

    def on_upload(change: Mapping[str, Any]) -> None:
        if change["new"]:  # clearing the control is a change, too
            answer.children = (explain_upload(change["new"], model, classes, size),)

    upload.observe(on_upload, names="value")
    return widgets.VBox([upload, answer])


def explain_upload(
    value: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    model: nn.Module,
    classes: Sequence[str],
    size: int | None = 224,
) -> widgets.Widget:
    """What the reader sees after choosing a file: an explorer, or a line that says what is wrong with the file.

    Args:
        value: ``FileUpload.value`` of ipywidgets 7 or 8.
        model: see :func:`own_image`.
        classes: see :func:`own_image`.
        size: see :func:`own_image`.
    """
    try:
        name, content = uploaded_file(value)
        return _explain(name, _read(name, content, size), model, classes)
    except WSLError as error:
        return html_widget(f'<div {TEXT_STYLE} role="alert">{html.escape(str(error))}</div>')


def uploaded_file(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[str, bytes]:
    """Name and content of the first file in ``FileUpload.value``.

    ipywidgets 8 gives a tuple of files with "name" and "content"; ipywidgets 7 a dictionary by name.

    Raises:
        UsageError: there is no file.

    >>> uploaded_file(({"name": "a.png", "content": memoryview(b"8")},))
    ('a.png', b'8')
    >>> uploaded_file({"a.png": {"metadata": {"name": "a.png"}, "content": b"7"}})
    ('a.png', b'7')
    """
    if not value:
        raise UsageError("value holds no file; expected one. Choose an image file.")
    if isinstance(value, Mapping):
        name, file = next(iter(value.items()))
    else:
        file = value[0]
        name = file["name"]
    return name, bytes(file["content"])


def _read(name: str, content: bytes, size: int | None) -> Float[Tensor, "3 H W"]:
    """The image, read as every other image file is; an error names the reader's file and no temporary one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            return to_float(shrink_image(read_pixels(path), size))
        except WSLError as error:
            raise type(error)(str(error).replace(str(path), name)) from error


def _explain(name: str, image: Float[Tensor, "3 H W"], model: nn.Module, classes: Sequence[str]) -> widgets.Widget:
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        batch = image[None].to(device)
        logits, maps = model(batch)[0].cpu(), model.localize(batch).cpu()
    maps = resize_maps(maps, tuple(image.shape[-2:]), getattr(model, "grid", None))
    probabilities = logits.sigmoid() if getattr(model, "task", "single") == "multi" else logits.softmax(dim=0)
    best = probabilities.topk(min(_CLASSES_SHOWN, len(classes))).indices.tolist()
    scores = ", ".join(f"{classes[k]} {probabilities[k]:.2f}" for k in best)
    verdict = f"The network knows {len(classes)} classes. What it sees in {name}: {scores}."
    explorer = explore_boxes([{"id": name, "image": image}], maps, classes, classes=best, names=[name])
    return widgets.VBox([html_widget(f"<div {TEXT_STYLE}>{html.escape(verdict)}</div>"), explorer])
