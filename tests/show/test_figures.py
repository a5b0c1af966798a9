"""Figures and tables: alternative text, the numbers in it, and errors."""

import re

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot

from wsl_core import show
from wsl_core.errors import UsageError
from wsl_core.metrics import mean_interval
from wsl_core.show import figures, tables
from wsl_core.show.figures import figure_html, grid_html, plot_curves, plot_records
from wsl_core.show.tables import table_html

HISTORY = [{"step": step, "lr": 0.1, "total": 2.0 - step / 100} for step in range(0, 101, 10)]
RECORDS = {"GAP": [0.5, 0.6, 0.7], "GMP": [0.2, 0.25, 0.3]}


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HTML of everything that a test displays."""
    seen: list[str] = []
    for module in (figures, tables):
        monkeypatch.setattr(module, "display", lambda shown: seen.append(shown.data))
    return seen


def test_a_figure_is_displayed_once_with_its_text_and_closed(displayed):
    fig, axes = pyplot.subplots()
    axes.plot([0, 1])
    show.figure(fig, alt="A rising line", caption="It rises < falls.")
    assert len(displayed) == 1
    assert 'alt="A rising line"' in displayed[0]
    assert "It rises &lt; falls." in displayed[0]
    assert not pyplot.fignum_exists(fig.number)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_figures_with_images_are_jpeg_and_the_others_png(kind):
    fig, axes = pyplot.subplots()
    if kind == "jpeg":
        axes.imshow(np.random.default_rng(0).random((20, 20, 3)))
    assert f"data:image/{kind}" in figure_html(fig, alt="Something")


def test_every_figure_needs_alternative_text():
    fig, _ = pyplot.subplots()
    with pytest.raises(UsageError, match="alt is empty"):
        show.figure(fig, alt="")
    with pytest.raises(UsageError, match="alt is empty"):
        show.grid([torch.rand(3, 4, 4)], alt=" ")
    pyplot.close(fig)


def test_a_grid_has_a_text_for_each_picture(displayed):
    show.grid([torch.rand(3, 4, 4)] * 3, alt="Noise", titles=["a", "b", "c"], columns=2, caption="All noise.")
    assert re.findall(r'alt="([^"]*)"', displayed[0]) == [
        "Noise (1 of 3: a)",
        "Noise (2 of 3: b)",
        "Noise (3 of 3: c)",
    ]
    assert displayed[0].count("<figcaption") == 4


def test_a_grid_without_pictures_or_with_wrong_titles_is_refused():
    with pytest.raises(UsageError, match="pictures is empty"):
        grid_html([], alt="Nothing")
    with pytest.raises(UsageError, match="titles has 1 entries"):
        grid_html([torch.rand(3, 4, 4)] * 2, alt="Noise", titles=["a"])


def test_curves_tell_their_numbers(displayed):
    show.curves(HISTORY)
    assert "steps 0 to 100. total goes from 2 to 1;" in displayed[0]


def test_curves_without_smoothing_are_the_values_themselves():
    fig, alt = plot_curves(HISTORY, smoothing=0)
    raw, smooth = fig.axes[0].lines
    assert np.allclose(raw.get_ydata(), smooth.get_ydata())
    assert "its smoothed value ends at 1." in alt


def test_a_constant_curve_stays_constant_when_smoothed():
    fig, _ = plot_curves([{"step": step, "total": 3.0} for step in range(5)])
    assert np.allclose(fig.axes[0].lines[1].get_ydata(), 3.0)


def test_curves_skip_the_steps_that_lack_a_key():
    history = [*HISTORY, {"step": 200, "val": 0.5}]
    fig, alt = plot_curves(history, keys=("total", "val"))
    assert [len(line.get_xdata()) for line in fig.axes[0].lines] == [11, 11, 1, 1]
    assert "val goes from 0.5 to 0.5" in alt


def test_curves_of_an_unknown_key_name_what_there_is():
    with pytest.raises(UsageError, match=r"no entry 'los'; expected one of lr, step, total"):
        plot_curves(HISTORY, keys=("los",))
    with pytest.raises(UsageError, match="it is empty"):
        plot_curves([])
    with pytest.raises(UsageError, match="smoothing"):
        plot_curves(HISTORY, smoothing=1)


def test_records_tell_mean_interval_seeds_and_the_live_run(displayed):
    show.records_figure(RECORDS, "IoU", live={"GMP": 0.27})
    interval = mean_interval(RECORDS["GAP"])
    expected = f"GAP: mean 0.600, 95 % interval {interval.low:.3f} to {interval.high:.3f}, 3 seeds."
    assert expected in displayed[0]
    assert "3 seeds; the live run 0.270." in displayed[0]


def test_records_show_each_seed_and_the_live_run_as_another_mark():
    fig, _ = plot_records(RECORDS, "IoU", live={"GAP": 0.65})
    lines = {(line.get_label(), tuple(np.atleast_1d(line.get_xdata()))): line for line in fig.axes[0].lines}
    seeds, live = lines["a seed", (0.5, 0.6, 0.7)], lines["live run", (0.65,)]
    assert live.get_marker() != seeds.get_marker()
    assert live.get_markersize() > seeds.get_markersize()


def test_records_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="values is empty"):
        plot_records({}, "IoU")
    with pytest.raises(UsageError, match=r"live names \['ACoL'\]"):
        plot_records(RECORDS, "IoU", live={"ACoL": 0.5})
    with pytest.raises(UsageError, match="at least 2"):
        plot_records({"GAP": [0.5]}, "IoU")


def test_helpers_leave_the_reader_s_matplotlib_settings_alone():
    before = dict(matplotlib.rcParams)
    plot_curves(HISTORY)
    plot_records(RECORDS, "IoU")
    assert dict(matplotlib.rcParams) == before


def test_style_sets_the_book_s_look():
    with matplotlib.rc_context():
        show.style()
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][0] == show.COLORS["blue"]


def test_a_table_has_heads_rows_and_right_aligned_numbers(displayed):
    interval = mean_interval([0.4, 0.5, 0.6])
    show.table([["GAP", interval, 3000, True], ["none", None, 0, False]], ["head", "IoU", "n", "own"], "Baselines")
    content = displayed[0]
    assert content.count('scope="col"') == 4
    assert content.count('scope="row"') == 2
    assert f">0.500 [{interval.low:.3f}, {interval.high:.3f}]</td>" in content
    assert re.search(r'<td style="text-align:right[^>]*>3,000</td>', content)
    assert re.search(r'<td style="text-align:left[^>]*>yes</td>', content)
    assert ">–</td>" in content


def test_table_cells_are_escaped():
    assert "<script" not in table_html([["<script>", 1.0]], ["<script>", "x"], "<script>")


def test_tables_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="has 1 cells; expected 2"):
        table_html([["GAP"]], ["head", "IoU"], "Baselines")
    with pytest.raises(UsageError, match="caption is empty"):
        table_html([["GAP"]], ["head"], "")
