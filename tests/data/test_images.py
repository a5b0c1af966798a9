"""Image files: every kind becomes upright RGB, every broken one becomes one clear error."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsl_core.data.images import (
    MAX_PIXELS,
    read_image,
    read_mask,
    read_pixels,
    shrink_image,
    shrink_mask,
    voc_palette,
    write_mask,
)
from wsl_core.errors import DataError

pytestmark = pytest.mark.filterwarnings("error")  # no warning of Pillow's or of an unclosed file


@pytest.fixture
def gradient() -> np.ndarray:
    """A picture of 12 x 20 pixels in which no two corners are alike."""
    y, x = np.mgrid[:12, :20]
    return np.stack([x * 12, y * 20, 255 - x * 6 - y * 10], -1).astype(np.uint8)


def _read(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return read_pixels(path).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_files_are_read_exactly(tmp_path: Path, gradient: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    found = _read(path, Image.fromarray(gradient), **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(found, gradient)
    floats = read_image(path)
    assert floats.dtype == torch.float32 and floats.shape == (3, 12, 20)
    assert np.array_equal(floats.permute(1, 2, 0).numpy(), gradient.astype(np.float32) / 255)


def test_the_content_counts_and_not_the_suffix(tmp_path: Path, gradient: np.ndarray) -> None:
    assert np.array_equal(_read(tmp_path / "png-inside.jpg", Image.fromarray(gradient), format="png"), gradient)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_greyscale_becomes_three_equal_channels(tmp_path: Path, gradient: np.ndarray, mode: str) -> None:
    image = Image.fromarray(gradient).convert(mode)
    found = _read(tmp_path / "image.png", image)
    for channel in range(3):
        assert np.array_equal(found[..., channel], np.array(image.convert("L")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    image.putpixel((1, 0), (100, 100, 100, 0))
    image.putpixel((2, 0), (100, 100, 100, 51))  # a fifth of 100 and four fifths of 255
    assert _read(tmp_path / "image.png", image.convert(mode))[0, :, 0].tolist() == [100, 255, 224]


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_transparent_palette_entries_become_white(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    found = _read(tmp_path / "image.png", image, transparency=transparency)
    assert found[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    assert _read(tmp_path / "image.png", image, transparency=(1, 2, 3))[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    palette = Image.new("P", (1, 1))
    palette.putpalette([10, 20, 30])
    assert _read(tmp_path / "palette.png", palette)[0, 0].tolist() == [10, 20, 30]
    assert _read(tmp_path / "cmyk.tif", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))[0, 0].tolist() == [255, 0, 0]
    jpeg = _read(tmp_path / "cmyk.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    assert jpeg[0, 0, 0] > 250 and jpeg[0, 0, 1:].max() < 5


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 256 * 128, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 255]  # round(v / 257)
    assert _read(tmp_path / "grey.png", Image.fromarray(values))[0, :, 0].tolist() == expected
    assert _read(tmp_path / "grey.tif", Image.fromarray(values))[0, :, 0].tolist() == expected


def test_sixteen_bit_colour_is_within_one_level(tmp_path: Path) -> None:
    values = np.array([0, 128, 129, 300, 40000, 65535], ">u2")
    pixels = b"\0" + np.repeat(values, 3).tobytes()  # one row, filter "none"
    path = tmp_path / "colour.png"
    path.write_bytes(_png(width=6, height=1, depth=16, colour=2, rows=pixels))
    found = read_pixels(path)[:, 0].numpy().astype(int)
    assert np.abs(found - np.round(values.astype(float) / 257)).max() <= 1
    assert found[:, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, gradient: np.ndarray, orientation: int, suffix: str) -> None:
    upright = Image.fromarray(gradient)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = _read(tmp_path / f"image.{suffix}", stored, exif=exif, **({"quality": 100} if suffix == "jpg" else {}))
    assert found.shape == gradient.shape
    assert np.abs(found.astype(int) - gradient).mean() < (6 if suffix == "jpg" else 1e-9)


def test_a_damaged_exif_block_is_ignored(tmp_path: Path) -> None:
    for number, exif in enumerate([b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01", b"Exif\0\0"]):
        assert _read(tmp_path / f"{number}.jpg", Image.new("RGB", (8, 6)), exif=exif).shape == (6, 8, 3)


def test_an_animation_gives_its_first_image(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    found = _read(tmp_path / "image.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert found[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_kinds_without_an_8_bit_meaning_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match=rf"image\.tif: mode {mode}"):
        read_pixels(tmp_path / "image.tif")


def test_what_is_no_image_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is a text file")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    for name, found in [("text", "19 bytes"), ("empty", "0 bytes"), ("folder", "no file"), ("absent", "missing")]:
        with pytest.raises(DataError, match=rf"{name}\.jpg: .*{found}.*(get it again|Put it back)"):
            read_pixels(tmp_path / f"{name}.jpg")


def test_images_without_a_pixel_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none.png").write_bytes(_png(width=0, height=4, depth=8, colour=2, rows=b""))
    (tmp_path / "none.bmp").write_bytes(_saved("bmp")[:18] + bytes(8) + _saved("bmp")[26:])
    for name in ("none.png", "none.bmp"):
        with pytest.raises(DataError, match=name):
            read_pixels(tmp_path / name)


def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    for side in (10_000, 60_000):  # Pillow only warns of the first
        (tmp_path / "bomb.png").write_bytes(_png(width=side, height=side, depth=8, colour=2, rows=b""))
        with pytest.raises(DataError, match=rf"bomb\.png.*{MAX_PIXELS}"):
            read_pixels(tmp_path / "bomb.png")


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "tiff", "webp", "gif"])
def test_cut_files_raise_a_data_error_or_are_whole(tmp_path: Path, kind: str) -> None:
    whole = _saved(kind)
    path = tmp_path / f"cut.{kind}"
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        refused += _refuses(path)
    assert refused > 50


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "tiff", "webp", "gif"])
def test_damaged_bytes_raise_nothing_but_a_data_error(tmp_path: Path, kind: str) -> None:
    whole, random = np.frombuffer(_saved(kind), np.uint8), np.random.default_rng(0)
    path = tmp_path / f"damaged.{kind}"
    for _ in range(25):
        damaged = whole.copy()
        damaged[random.integers(0, min(len(whole), 400), 4)] = random.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        _refuses(path)


def _refuses(path: Path) -> bool:
    """Whether reading ends in a DataError; any other error, and any warning, is the test's failure."""
    try:
        read_pixels(path)
    except DataError as error:
        assert path.name in str(error)
        return True
    return False


def test_nothing_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(DataError):
            read_pixels(tmp_path / "text.jpg")
    _read(tmp_path / "image.png", Image.new("RGB", (2, 2)))
    (tmp_path / "image.png").unlink()


def test_masks_keep_raw_values(tmp_path: Path) -> None:
    values = np.array([[0, 1], [2, 255]], np.uint8)
    grey, palette = Image.fromarray(values), Image.fromarray(values)
    palette.putpalette([90, 80, 70] * 256)
    for name, image in [("grey", grey), ("palette", palette)]:
        image.save(tmp_path / f"{name}.png")
        assert read_mask(tmp_path / f"{name}.png").tolist() == values.tolist()
    grey.convert("RGB").save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colour\.png: mode RGB"):
        read_mask(tmp_path / "colour.png")


def test_written_masks_are_read_back_with_vocs_colours(tmp_path: Path) -> None:
    mask = torch.arange(256).view(8, 32)
    write_mask(tmp_path / "folder" / "mask.png", mask)
    assert torch.equal(read_mask(tmp_path / "folder" / "mask.png"), mask)
    colours = read_pixels(tmp_path / "folder" / "mask.png").flatten(1).T.tolist()
    assert colours == voc_palette().tolist() and len({tuple(colour) for colour in colours}) == 256
    assert colours[15] == [192, 128, 128] and colours[20] == [0, 64, 128]  # VOC's person and tvmonitor
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mask.png"]


@pytest.mark.parametrize("wrong", [-1, 256])
def test_masks_that_do_not_fit_are_refused_and_write_nothing(tmp_path: Path, wrong: int) -> None:
    write_mask(tmp_path / "mask.png", torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"found values from -?\d+ to -?\d+; expected 0 to 255 for .*mask\.png"):
        write_mask(tmp_path / "mask.png", torch.tensor([[0, wrong]]))
    assert read_mask(tmp_path / "mask.png").tolist() == [[1, 1], [1, 1]]


def test_shrinking_keeps_proportions_and_small_images() -> None:
    image = torch.randint(0, 256, (3, 30, 20), dtype=torch.uint8)
    assert shrink_image(image, None) is image and shrink_image(image, 30) is image
    assert shrink_image(image, 15).shape == (3, 15, 10)
    assert shrink_image(torch.full((3, 30, 20), 200, dtype=torch.uint8), 7).unique().tolist() == [200]
    assert shrink_image(torch.zeros(3, 1000, 1, dtype=torch.uint8), 10).shape == (3, 10, 1)
    mask = torch.arange(30 * 20).reshape(30, 20) % 255
    assert set(shrink_mask(mask, 7).unique().tolist()) <= set(mask.unique().tolist())
    assert shrink_mask(mask, 15).shape == (15, 10)


def test_real_photographs_of_several_sizes_and_kinds(shared_data: Path) -> None:
    photos = [path for path in (shared_data / "photos").iterdir() if path.suffix in (".jpg", ".png")]
    assert len({read_image(path).shape for path in photos}) > 3


def _saved(kind: str) -> bytes:
    """A small photograph-like file of the kind."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def _png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file with any header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
