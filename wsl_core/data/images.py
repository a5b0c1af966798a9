"""Image files of any kind as RGB tensors, and every way in which a file can be broken as one clear error."""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from wsl_core.data.base import to_float
from wsl_core.errors import DataError
from wsl_core.files import atomic_write

__all__ = [
    "MAX_PIXELS", "read_image", "read_pixels", "read_mask", "write_mask", "voc_palette", "shrink_boxes", "shrink_image",
    "shrink_mask", "shrunk_size",
]  # fmt: skip

MAX_PIXELS = 89_000_000  # just below the size at which Pillow suspects a decompression bomb

# What Pillow's decoders raise on damaged files: the errors of its own and of the parsers that they call.
_DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error,
)  # fmt: skip


def read_image(path: str | Path) -> Float[Tensor, "3 H W"]:
    """Read an image file as RGB in [0, 1]: the 8-bit values of :func:`read_pixels`, divided by 255.

    Raises:
        DataError: the file is missing, or is not a whole image.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "red.png"
    >>> Image.new("RGB", (5, 4), "red").save(path)
    >>> read_image(path).shape, read_image(path)[:, 0, 0].tolist()
    (torch.Size([3, 4, 5]), [1.0, 0.0, 0.0])
    """
    return to_float(read_pixels(path))


def read_pixels(path: str | Path) -> UInt8[Tensor, "3 H W"]:
    """Read an image file as 8-bit RGB, by its content and not by its suffix.

    What is not RGB is converted:

    - greyscale, black and white, palette, CMYK, YCbCr: to RGB;
    - alpha and transparent colours: composited on white;
    - 16-bit greyscale: v / 257, rounded, so that 65535 becomes 255. (Pillow reads 16-bit colour as v // 256, which
      differs by one level at most.);
    - EXIF orientation: applied. Boxes and masks refer to the upright image. A damaged EXIF block is ignored;
    - animations and files of several pages: the first image.

    Raises:
        DataError: the file is missing, empty, cut short, not an image, of more than ``MAX_PIXELS`` pixels, or of a kind
            without a meaning in 8 bits (floating point, 32-bit integers).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "grey.png"
    >>> Image.fromarray(np.full((2, 2), 257 * 7, np.uint16)).save(path)
    >>> read_pixels(path)[:, 0, 0].tolist()
    [7, 7, 7]
    """
    with _decoded(path) as image:
        pixels = np.array(_as_rgb(_upright(image), path))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_mask(path: str | Path) -> Int[Tensor, "H W"]:
    """Read a mask: the raw values of a PNG with a palette or 8-bit greys; black and white are 0 and 1.

    Raises:
        DataError: the file is missing, broken, or of another kind.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mask.png"
    >>> Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(path)
    >>> read_mask(path)
    tensor([[  0,   1],
            [  2, 255]])
    """
    with _decoded(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise DataError(f"{path}: mode {image.mode}; a mask has a palette, greys, or black and white. Convert it.")
        return torch.from_numpy(np.array(image)).to(torch.int64)


def write_mask(path: str | Path, mask: Integer[Tensor, "H W"]) -> None:
    """Write a mask as a PNG with VOC's palette, which :func:`read_mask` reads back; a reader never sees half of it.

    Raises:
        DataError: a value is not in 0 to 255.
        OSError: the folder cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mask.png"
    >>> write_mask(path, torch.tensor([[0, 1], [2, 255]]))
    >>> read_mask(path).tolist(), read_image(path)[:, 0, 1].tolist()  # class 1 is dark red
    ([[0, 1], [2, 255]], [0.501960813999176, 0.0, 0.0])
    """
    values = mask.cpu().numpy()
    if ((values < 0) | (values > 255)).any():
        raise DataError(f"mask: found values from {values.min()} to {values.max()}; expected 0 to 255 for {path}.")
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(voc_palette().tobytes())
    with atomic_write(path) as file:
        image.save(file, "png")


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC's masks: bits 0, 3 and 6 of a label are the highest of red, bits 1, 4, 7 of green, ...

    >>> voc_palette()[[0, 1, 2, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]]
    """
    labels = np.arange(256)[:, None]
    channels = np.arange(3)
    colours = sum(((labels >> (3 * place + channels)) & 1) << (7 - place) for place in range(3))
    return colours.astype(np.uint8)


def shrunk_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width after shrinking the longer side to ``max_side``; smaller images keep their size.

    >>> shrunk_size(300, 400, 200), shrunk_size(30, 40, 200), shrunk_size(30, 40, None)
    ((150, 200), (30, 40), (30, 40))
    """
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def shrink_image(image: UInt8[Tensor, "3 H W"], max_side: int | None) -> UInt8[Tensor, "3 h w"]:
    """Shrink an image so that neither side is longer than ``max_side`` (bilinear, anti-aliased).

    >>> shrink_image(torch.zeros(3, 40, 20, dtype=torch.uint8), 10).shape
    torch.Size([3, 10, 5])
    """
    size = shrunk_size(*image.shape[-2:], max_side)
    if size == tuple(image.shape[-2:]):
        return image
    return interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def shrink_mask(mask: Int[Tensor, "H W"], max_side: int | None) -> Int[Tensor, "h w"]:
    """Shrink a mask along with its image: each pixel takes the value at its centre.

    >>> shrink_mask(torch.tensor([[1, 1, 2, 2], [1, 1, 2, 2]]), 2)
    tensor([[1, 2]])
    """
    size = shrunk_size(*mask.shape, max_side)
    return interpolate(mask[None, None].double(), size, mode="nearest-exact")[0, 0].to(mask.dtype)


def shrink_boxes(
    boxes: Sequence[tuple[float, float, float, float]], height: int, width: int, max_side: int | None
) -> Float[Tensor, "M 4"]:
    """Half-open boxes of an image of this size, moved along when the image is shrunk.

    >>> shrink_boxes([(0, 10, 20, 30)], height=40, width=20, max_side=10).tolist()
    [[0.0, 2.5, 5.0, 7.5]]
    """
    new_height, new_width = shrunk_size(height, width, max_side)
    factors = torch.tensor([new_width / width, new_height / height] * 2)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * factors


@contextmanager
def _decoded(path: str | Path) -> Iterator[Image.Image]:
    """The first image of a file, decoded. Whatever a decoder raises becomes a DataError."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata in images that are fine, and of large images, which are refused below.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(_too_large(path, f"{image.width} x {image.height} pixels"))
                image.load()
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(path, str(error))) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: the image is missing. Put it back, or remove what refers to it.") from error
    except _DECODER_ERRORS as error:
        raise DataError(_damaged(path, error)) from error


def _too_large(path: str | Path, found: str) -> str:
    return f"{path}: {found}; at most {MAX_PIXELS} are read, as a guard against decompression bombs. Shrink the image."


def _damaged(path: str | Path, error: Exception) -> str:
    file = Path(path)
    found = f"{file.stat().st_size} bytes" if file.is_file() else "no file"
    return (
        f"{path}: {found} that cannot be read as an image ({error}). It is cut short, damaged, or not an image: "
        "get it again or remove it."
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:  # the EXIF block is damaged, the pixels were decoded: as viewers do, show them as stored
        return image


def _as_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray(_sixteen_to_eight(np.array(image)))
    if image.mode in ("I", "F"):
        raise DataError(f"{path}: mode {image.mode} has no fixed range of values. Save the image with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _sixteen_to_eight(values: Integer[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
