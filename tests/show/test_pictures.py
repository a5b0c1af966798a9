"""Pixels: overlays, boxes, encoding."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from wsl_core import show
from wsl_core.errors import DataError, UsageError
from wsl_core.show import COLORS, draw_boxes, overlay
from wsl_core.show.pictures import data_uri, img_html, to_pixels

VERMILLION = tuple(int(COLORS["vermillion"][start : start + 2], 16) for start in (1, 3, 5))


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


@pytest.mark.parametrize(("size", "cells"), [((24, 32), (6, 8)), ((7, 5), (7, 5)), ((1, 1), (1, 1))])
def test_an_overlay_has_the_size_of_its_image(size, cells):
    picture = overlay(torch.rand(3, *size), torch.rand(cells))
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("value", [0.0, -3.0, 7.0])
@pytest.mark.parametrize("how", ["minmax", "max"])
def test_a_constant_map_leaves_the_image_as_it_is(value, how):
    image = torch.rand(3, 12, 12)
    assert (overlay(image, torch.full((3, 3), value), how) == to_pixels(image)).all()


def test_an_opacity_of_zero_leaves_the_image_as_it_is():
    image = torch.rand(3, 12, 12)
    assert (overlay(image, torch.rand(3, 3), opacity=0) == to_pixels(image)).all()


def test_the_overlay_is_strongest_where_the_map_is():
    image = torch.full((3, 30, 30), 0.5)
    score_map = torch.zeros(3, 3)
    score_map[0, 2] = 1.0
    change = np.abs(overlay(image, score_map).astype(int) - to_pixels(image)).sum(axis=2)
    assert change[:10, 20:].mean() > 10 * change[20:, :10].mean()


def test_the_rule_of_normalisation_matters_for_signed_maps():
    image, score_map = torch.full((3, 4, 4), 0.5), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    assert (overlay(image, score_map, "minmax") != overlay(image, score_map, "max")).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused(bad):
    with pytest.raises(DataError, match="NaN"):
        overlay(torch.rand(3, 8, 8), torch.tensor([[0.0, bad]]))


def test_an_image_with_nan_is_refused():
    with pytest.raises(UsageError, match="picture holds NaN"):
        to_pixels(torch.full((3, 2, 2), float("nan")))


@pytest.mark.parametrize("opacity", [-0.1, 1.1])
def test_an_opacity_out_of_range_is_refused(opacity):
    with pytest.raises(UsageError, match="opacity"):
        overlay(torch.rand(3, 8, 8), torch.rand(2, 2), opacity=opacity)


def test_predicted_boxes_are_solid_and_true_ones_dashed():
    black = np.zeros((40, 40, 3), np.uint8)
    box = torch.tensor([[5.0, 5.0, 35.0, 35.0]])
    predicted, true = draw_boxes(black, predicted=box), draw_boxes(black, true=box)
    assert predicted.shape == true.shape == (120, 120, 3)
    edge = slice(20, 100), 17  # inside the left edge, which begins at 3 x 5 pixels
    assert (predicted[edge] == VERMILLION).all()
    dashes = true[slice(20, 100), 15].max(axis=1)
    assert dashes.max() == 255
    assert dashes.min() == 0


def test_boxes_outside_the_picture_and_empty_boxes_are_drawn_without_an_error():
    boxes = torch.tensor([[-10.0, -10.0, 50.0, 50.0], [3.0, 3.0, 3.0, 3.0], [60.0, 60.0, 70.0, 70.0]])
    assert draw_boxes(torch.rand(3, 20, 20), predicted=boxes, true=boxes).shape == (60, 60, 3)


def test_a_label_is_drawn_for_each_predicted_box():
    box = torch.tensor([[5.0, 5.0, 35.0, 35.0]])
    black = np.zeros((40, 40, 3), np.uint8)
    assert (draw_boxes(black, predicted=box, labels=["dog"]) != draw_boxes(black, predicted=box)).any()
    with pytest.raises(UsageError, match="labels has 2 entries"):
        draw_boxes(black, predicted=box, labels=["dog", "cat"])


def test_photographs_become_jpeg_and_line_art_png():
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert data_uri(noise).startswith("data:image/jpeg;base64,")
    assert data_uri(np.zeros((64, 64, 3), np.uint8)).startswith("data:image/png;base64,")


def test_png_keeps_the_pixels():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[2:4] = VERMILLION
    assert (decoded(data_uri(picture)) == picture).all()


def test_encoding_is_reproducible():
    def line() -> Figure:
        fig = Figure(figsize=(2, 1))
        fig.subplots().plot([0, 1], [1, 0])
        return fig

    assert data_uri(line()) == data_uri(line())


@pytest.mark.parametrize("wrong", [torch.rand(1, 8, 8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))])
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(Exception, match="picture"):
        to_pixels(wrong)


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_picture_needs_alternative_text(alt):
    with pytest.raises(UsageError, match="alt is empty"):
        img_html(torch.rand(3, 8, 8), alt, 100)


def test_alternative_text_is_escaped():
    assert 'alt="&lt;b&gt; &quot;x&quot;"' in img_html(torch.rand(3, 8, 8), '<b> "x"', 100)


@pytest.mark.parametrize(("pixels", "expected"), [(50, 100), (150, 150), (400, 200)])
def test_pictures_are_embedded_with_about_as_many_pixels_as_are_shown(pixels, expected):
    content = img_html(torch.rand(3, pixels, pixels), "noise", width=100)
    uri = content.split('src="')[1].split('"')[0]
    assert decoded(uri).shape == (expected, expected, 3)


def test_the_command_line_needs_neither_ipython_nor_ipywidgets():
    code = (
        "import sys; sys.modules['IPython'] = sys.modules['ipywidgets'] = None\n"
        "from wsl_core.show import draw_boxes, overlay, style"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    assert all(getattr(show, name) is not None for name in show.__all__)
    assert dir(show) == sorted(show.__all__)
    with pytest.raises(AttributeError, match="no attribute 'figur'"):
        _ = show.figur
