"""Pictures as pixels, and pixels as HTML."""

import base64
import html
import io
from typing import TypeAlias

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from wsl_core.errors import UsageError
from wsl_core.ops import normalize, resize_maps
from wsl_core.show.style import COLORS

__all__ = ["Picture", "to_pixels", "overlay", "draw_boxes", "data_uri", "img_html", "check_alt", "captioned"]

Picture: TypeAlias = UInt8[np.ndarray, "H W 3"] | Float[Tensor, "3 H W"] | Figure

# Themes print captions small, thin and grey, which is too faint on dark pages.
CAPTION_STYLE = "color:inherit;opacity:1;font-weight:400;font-size:0.9em;text-align:left;margin:0.2em 0 0"

HEAT = "inferno"  # perceptually uniform; its brightness alone carries the value
_LINE = 3  # thickness of a box's edge, in pixels of the enlarged picture
_DASH = 8  # length of a dash, in the same pixels
_PHOTO_COLORS = 2048  # a picture with more colours than this is a photograph and not line art
_FIGURE_DPI = 160


def to_pixels(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """Turn a picture into 8-bit RGB pixels.

    Args:
        picture: 8-bit pixels, an image tensor in [0, 1], or a matplotlib figure (which is closed).

    Raises:
        UsageError: it is none of these, or the tensor holds a NaN.

    >>> to_pixels(torch.ones(3, 2, 2)).max()
    np.uint8(255)
    """
    if isinstance(picture, Figure):
        return _figure_pixels(picture)
    if isinstance(picture, Tensor) and picture.ndim == 3 and len(picture) == 3 and picture.is_floating_point():
        if not picture.isfinite().all():
            raise UsageError("picture holds NaN or infinity; expected RGB values in [0, 1].")
        return (picture.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return picture
    found = f"{type(picture).__name__} {tuple(getattr(picture, 'shape', ()))} {getattr(picture, 'dtype', '')}".strip()
    raise UsageError(f"picture is {found}; expected uint8 (H, W, 3), a float tensor (3, H, W) or a matplotlib Figure.")


def overlay(
    image: Float[Tensor, "3 H W"], score_map: Float[Tensor, "h w"], how: str = "minmax", opacity: float = 0.7
) -> UInt8[np.ndarray, "H W 3"]:
    """Lay a score map over its image as a heat-map.

    The map is enlarged bilinearly and normalised. The colour's opacity grows with the value: where the map
    is at its lowest the image shows untouched, and a constant map leaves the whole image as it is.

    Args:
        image: RGB in [0, 1].
        score_map: raw scores at any resolution.
        how: ``normalize``'s rule, "minmax" or "max".
        opacity: the colour's share where the map is highest, in [0, 1].

    Raises:
        UsageError: ``opacity`` lies outside [0, 1], ``how`` is unknown, or the map holds a NaN.

    >>> image = torch.full((3, 8, 8), 0.5)
    >>> bool((overlay(image, torch.zeros(2, 2)) == to_pixels(image)).all())
    True
    """
    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity is {opacity}; expected a number in [0, 1].")
    enlarged = resize_maps(score_map.detach().float().cpu()[None, None], tuple(image.shape[-2:]))
    heat = normalize(enlarged, how=how)[0, 0].numpy()
    alpha = opacity * np.sqrt(heat)[..., None]  # the root lets weak evidence show, too
    colors = matplotlib.colormaps[HEAT](heat)[..., :3] * 255
    return np.rint((1 - alpha) * to_pixels(image) + alpha * colors).astype(np.uint8)


def draw_boxes(
    picture: Picture,
    predicted: Float[Tensor, "M 4"] | None = None,
    true: Float[Tensor, "N 4"] | None = None,
    labels: tuple[str, ...] | list[str] = (),
    color: str = COLORS["vermillion"],
    scale: int = 3,
) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """Enlarge a picture and draw boxes on it: predicted ones solid, true ones dashed in white and black.

    Args:
        picture: what to draw on.
        predicted: x0, y0, x1, y1 in pixels of ``picture``, half-open.
        true: the same.
        labels: one word for each predicted box, or none at all.
        color: of the predicted boxes.
        scale: how many times larger the result is.

    Raises:
        UsageError: the number of labels is not the number of predicted boxes.

    >>> draw_boxes(torch.zeros(3, 10, 20), predicted=torch.tensor([[1.0, 1.0, 9.0, 9.0]])).shape
    (30, 60, 3)
    """
    predicted = torch.zeros(0, 4) if predicted is None else predicted
    true = torch.zeros(0, 4) if true is None else true
    if labels and len(labels) != len(predicted):
        raise UsageError(f"labels has {len(labels)} entries; expected one for each of the {len(predicted)} boxes.")
    image = Image.fromarray(to_pixels(picture))
    fine = 2 * scale  # drawn at twice the final size and then halved: smooth edges
    large = image.resize((image.width * fine, image.height * fine), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(large)
    for box in true:
        _draw_dashed(draw, _corners(box, fine, large.size))
    for box in predicted:
        corners = _corners(box, fine, large.size)
        draw.rectangle(corners, outline="black", width=2 * _LINE + 4)
        draw.rectangle(_inset(corners, 2), outline=color, width=2 * _LINE)
    for box, label in zip(predicted, labels, strict=False):
        _draw_label(draw, _corners(box, fine, large.size), label, color)
    return np.asarray(large.reduce(2))


def data_uri(picture: Picture, quality: int = 80) -> str:
    """Encode a picture for use inside a page: JPEG for photographs, PNG for line art.

    >>> data_uri(torch.zeros(3, 4, 4))[:22]
    'data:image/png;base64,'
    """
    image = Image.fromarray(to_pixels(picture))
    buffer = io.BytesIO()
    if image.getcolors(_PHOTO_COLORS) is None and not isinstance(picture, Figure):
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    elif isinstance(picture, Figure) and _has_photographs(picture):
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=quality + 8, optimize=True, subsampling=0)  # keeps letters sharp
    else:
        kind = "png"
        image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def img_html(picture: Picture, alt: str, width: int) -> str:
    """An ``<img>`` of at most ``width`` CSS pixels, narrower on a narrow page.

    A picture with fewer or many more pixels than that is resampled first: browsers enlarge small JPEGs with all their
    blocks, and more pixels than are shown only weigh.

    Args:
        picture: what to show.
        alt: what a reader who cannot see the picture is told.
        width: in CSS pixels.

    Raises:
        UsageError: the alternative text is empty.

    >>> 'alt="A grey square"' in img_html(torch.full((3, 4, 4), 0.5), "A grey square", 100)
    True
    """
    check_alt(alt)
    # "dark-light" tells the book's theme that the picture needs no dimming on dark pages.
    return (
        f'<img class="dark-light" src="{data_uri(_resampled(picture, width))}" alt="{html.escape(alt)}" '
        f'style="display:block;width:{width}px;max-width:100%;height:auto;margin:0;padding:0">'
    )


def check_alt(alt: str) -> None:
    """Insist on alternative text.

    Raises:
        UsageError: it is empty.

    >>> check_alt("A red square on a white ground")
    """
    if not alt.strip():
        raise UsageError("alt is empty; expected a sentence that tells what the picture shows.")


def captioned(content: str, caption: str | None) -> str:
    """Wrap HTML in a ``<figure>``, with its caption underneath.

    >>> captioned("<img>", None)
    '<figure style="margin:0.5em 0;padding:0"><img></figure>'
    """
    note = ""
    if caption:
        note = f'<figcaption style="{CAPTION_STYLE}">{html.escape(caption)}</figcaption>'
    return f'<figure style="margin:0.5em 0;padding:0">{content}{note}</figure>'


def _resampled(picture: Picture, width: int) -> UInt8[np.ndarray, "h w 3"] | Figure:
    """The picture, between once and twice as many pixels wide as it is shown; a figure as it is."""
    if isinstance(picture, Figure):
        return picture
    image = Image.fromarray(to_pixels(picture))
    target = min(max(image.width, width), 2 * width)
    size = target, max(1, round(image.height * target / image.width))
    return np.asarray(image if target == image.width else image.resize(size, Image.Resampling.BICUBIC))


def _figure_pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_FIGURE_DPI)
    pyplot.close(figure)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _has_photographs(figure: Figure) -> bool:
    return any(axes.images for axes in figure.axes)


def _corners(box: Float[Tensor, "4"], scale: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box's outermost pixels: half-open becomes inclusive, and everything stays inside the picture."""
    x0, y0, x1, y1 = (box.detach().cpu().double() * scale).round().int().tolist()
    right, bottom = size[0] - 1, size[1] - 1
    x0, y0 = min(max(x0, 0), right), min(max(y0, 0), bottom)
    return x0, y0, max(min(x1 - 1, right), x0), max(min(y1 - 1, bottom), y0)


def _inset(corners: tuple[int, int, int, int], margin: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = corners
    x0, y0 = min(x0 + margin, x1), min(y0 + margin, y1)
    return x0, y0, max(x1 - margin, x0), max(y1 - margin, y0)


def _draw_dashed(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int]) -> None:
    draw.rectangle(corners, outline="black", width=2 * _LINE)
    x0, y0, x1, y1 = corners
    dash, thick = 2 * _DASH, 2 * _LINE - 1
    for x in range(x0, x1, 2 * dash):
        end = min(x + dash, x1)
        draw.rectangle((x, y0, end, min(y0 + thick, y1)), fill="white")
        draw.rectangle((x, max(y1 - thick, y0), end, y1), fill="white")
    for y in range(y0, y1, 2 * dash):
        end = min(y + dash, y1)
        draw.rectangle((x0, y, min(x0 + thick, x1), end), fill="white")
        draw.rectangle((max(x1 - thick, x0), y, x1, end), fill="white")


def _draw_label(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], label: str, color: str) -> None:
    font = ImageFont.load_default(size=max(20, draw.im.size[0] // 16))  # readable when the whole picture is shrunk
    left, top, right, bottom = draw.textbbox((corners[0], corners[1]), label, font=font)
    draw.rectangle((left, corners[1], right + 12, bottom + 8), fill=color)
    draw.text((corners[0] + 6, corners[1] + 2), label, fill="white", font=font)
