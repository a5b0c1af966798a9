"""Explorers and quizzes: every frame is there, and reachable without a kernel."""

import re

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from ipywidgets.embed import embed_data

from wsl_core import show
from wsl_core.errors import UsageError
from wsl_core.localize import boxes_from_map
from wsl_core.matching import Correspondence, cell_centres
from wsl_core.metrics import box_iou
from wsl_core.ops import Grid, normalize, resize_maps
from wsl_core.show.explorers import THRESHOLDS, frame_svg, frame_text
from wsl_core.show.widgets import html_widget, picker, switch

SHADES = {str(grey): np.full((4, 4, 3), grey, np.uint8) for grey in (0, 128, 255)}


def shown(widget: widgets.Widget) -> str:
    """All the HTML that a reader sees now."""
    if isinstance(widget, widgets.HTML):
        return widget.value
    children = getattr(widget, "children", ())
    if isinstance(widget, getattr(widgets, "Stack", ())):
        children = () if widget.selected_index is None else (children[widget.selected_index],)
    return "".join(shown(child) for child in children)


def models(widget: widgets.Widget) -> list[dict]:
    """What a static page holds of a widget and of its links."""
    return list(embed_data(views=[widget])["manager_state"]["state"].values())


def links(widget: widgets.Widget) -> list[dict]:
    return [model["state"] for model in models(widget) if model["model_name"] == "LinkModel"]


@pytest.mark.parametrize("control", ["slider", "dropdown", "toggle"])
def test_a_static_page_holds_every_frame_and_the_link(control):
    explorer = show.explore(SHADES, "Grey", "A square", control=control, texts={"128": "the middle"})
    values = [model["state"].get("value", "") for model in models(explorer) if model["model_name"] == "HTMLModel"]
    for label in SHADES:
        assert any(f'alt="A square; Grey: {label}"' in value for value in values)
    assert any("the middle" in value for value in values)
    selector, stack = explorer.children
    (link,) = links(explorer)
    assert link["source"] == [f"IPY_MODEL_{selector.model_id}", "index"]
    assert link["target"] == [f"IPY_MODEL_{stack.model_id}", "selected_index"]


def test_a_control_swaps_the_frames_where_there_is_no_stack(monkeypatch):
    monkeypatch.delattr(widgets, "Stack")
    explorer = show.explore(SHADES, "Grey", "A square")
    for index, label in enumerate(SHADES):
        explorer.children[0].index = index
        assert f"Grey: {label}" in shown(explorer)
        assert shown(explorer).count("<img") == 1


def test_play_moves_the_slider():
    explorer = show.explore(SHADES, "Grey", "A square", play=True)
    assert isinstance(explorer.children[1], widgets.Play)
    assert explorer.children[1].max == 2
    assert any(model["model_name"] == "DirectionalLinkModel" for model in models(explorer))


def test_explorers_can_be_nested(either_version):
    inner = {name: show.explore(SHADES, "Grey", name) for name in ("square", "circle")}
    outer = show.explore(inner, "Shape", "Shapes", control="dropdown")
    assert "square; Grey: 0" in shown(outer)
    assert show.weight(outer) == sum(show.weight(each) for each in inner.values())


def test_explorers_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="alt is empty"):
        show.explore({"a": SHADES["0"]}, "Grey", "")  # even with a label, the author must say what it is
    with pytest.raises(UsageError, match="description is empty"):
        show.explore(SHADES, "", "A square")
    with pytest.raises(UsageError, match="control 'knob'"):
        show.explore(SHADES, "Grey", "A square", control="knob")
    with pytest.raises(UsageError, match="labels are"):
        show.explore({}, "Grey", "A square")
    with pytest.raises(UsageError, match=r"texts names \['7'\]"):
        show.explore(SHADES, "Grey", "A square", texts={"7": "seven"})
    with pytest.raises(UsageError, match="pages has 1 entries; expected 2"):
        switch(picker(["a", "b"], "Letter"), [html_widget("a")])


def test_an_explorer_that_is_too_heavy_is_refused():
    with pytest.raises(UsageError, match="expected at most 100"):
        show.explore(SHADES, "Grey", "A square", limit=100)


def test_a_page_that_is_shared_weighs_once():
    page = html_widget("12345")
    assert show.weight(widgets.VBox([page, widgets.HBox([page])])) == 5


def test_a_quiz_hides_its_answer_until_one_is_picked(either_version):
    box = show.quiz("1 + 1?", ["2", "3"], correct=0, explanation=["Yes: two.", "That is 1 + 2."])
    assert "two" not in shown(box)
    choice, answer = box.children[1:]
    choice.index = 1
    if either_version == "ipywidgets 8":  # in the browser the link does it
        answer.selected_index = 1
    assert "Not quite" in shown(box)
    assert "That is 1 + 2." in shown(box)


def test_quizzes_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="correct is 2"):
        show.quiz("?", ["a", "b"], 2, "why")
    with pytest.raises(UsageError, match="explanation has 1 entries"):
        show.quiz("?", ["a", "b"], 0, ["why"])


def controls(explorer: widgets.Widget) -> dict[str, widgets.Widget]:
    return {control.description: control for control in explorer.children[0].children}


def test_the_box_explorer_has_named_controls(samples, maps):
    found = controls(show.explore_boxes(samples, maps, ["cat", "dog", "bird"], play=True))
    assert list(found) == ["Image", "Class", "Threshold τ", "Play"]
    assert [label for label, _ in found["Image"].options] == ["1: dog", "2: cat, dog"]
    assert [label for label, _ in found["Class"].options] == ["cat", "dog"]
    assert found["Class"].index == 1  # the first image shows a dog
    assert found["Threshold τ"].index == THRESHOLDS.index(0.2)


def test_the_box_explorer_holds_every_image_class_and_threshold(samples, maps):
    explorer = show.explore_boxes(samples, maps, ["cat", "dog", "bird"], classes=[0, 1, 2], thresholds=[0.2, 0.5])
    values = [model["state"].get("value", "") for model in models(explorer) if model["model_name"] == "HTMLModel"]
    assert sum("<img" in value for value in values) == 2 * 3
    assert sum("<svg" in value for value in values) == 2 * 3 * 2
    assert len(links(explorer)) == 2 + 4 + 6  # the image moves two layers; the class two a sample; tau the rest
    assert all(re.search(r'alt="[^"]+highest \d+% from the left', value) for value in values if "<img" in value)


@pytest.mark.parametrize("how", ["max", "minmax"])
def test_the_box_explorer_shows_the_iou_of_the_package_s_rule(samples, maps, monkeypatch, how):
    monkeypatch.delattr(widgets, "Stack")  # so that the kernel follows the controls
    explorer = show.explore_boxes(samples, maps, ["cat", "dog", "bird"], how=how)
    found = controls(explorer)
    found["Image"].index, found["Class"].index = 1, 0
    for index, tau in enumerate(THRESHOLDS):
        found["Threshold τ"].index = index
        score_map = normalize(resize_maps(maps[1:2], (24, 32))[0, 0], how)
        iou = box_iou(boxes_from_map(score_map, tau), samples[1]["boxes"][:1]).max().item()
        assert f"τ = {tau:.2f}: IoU {iou:.2f} with the true box" in shown(explorer)
        assert "2: cat, dog: where the network sees cat" in shown(explorer)


def test_one_image_of_one_class_needs_a_slider_only(samples, maps, either_version):
    explorer = show.explore_boxes(samples[:1], maps[:1], ["cat", "dog", "bird"])
    assert list(controls(explorer)) == ["Threshold τ"]
    assert "where the network sees dog" in shown(explorer)


def test_maps_may_differ_in_size_and_be_flat(samples, maps):
    samples[1] |= {"image": torch.rand(3, 40, 20)}
    explorer = show.explore_boxes(samples, [maps[0], torch.zeros(3, 5, 3)], ["cat", "dog", "bird"], thresholds=[0.2])
    values = "".join(
        model["state"].get("value", "") for model in models(explorer) if model["model_name"] == "HTMLModel"
    )
    assert "The map is flat." in values
    assert "τ = 0.20: no region, no box." in values


def test_an_image_without_annotation_is_shown_without_truth(maps):
    explorer = show.explore_boxes(
        [{"id": "mine", "image": torch.rand(3, 24, 32)}], maps[:1], ["cat", "dog", "bird"], classes=[2], names=["mine"]
    )
    assert "no true box of bird" in shown(explorer)


def test_box_explorers_that_make_no_sense_are_refused(samples, maps):
    names = ["cat", "dog", "bird"]
    with pytest.raises(UsageError, match="2 samples, 1 maps and 2 names"):
        show.explore_boxes(samples, maps[:1], names)
    with pytest.raises(UsageError, match=r"maps\[0\] has 3 classes and class_names has 2"):
        show.explore_boxes(samples, maps, names[:2])
    with pytest.raises(UsageError, match=r"classes are \[3\]"):
        show.explore_boxes(samples, maps, names, classes=[3])
    unlabelled = [{key: value for key, value in sample.items() if key != "labels"} for sample in samples]
    with pytest.raises(UsageError, match=r"classes are \[\]"):
        show.explore_boxes(unlabelled, maps, names)
    with pytest.raises(UsageError, match="thresholds are"):
        show.explore_boxes(samples, maps, names, thresholds=[1.0])
    with pytest.raises(UsageError, match="expected at most 10"):
        show.explore_boxes(samples, maps, names, limit=10)


def test_a_further_threshold_weighs_little(samples, maps):
    names = ["cat", "dog", "bird"]
    few = show.weight(show.explore_boxes(samples, maps, names, thresholds=[0.2]))
    many = show.weight(show.explore_boxes(samples, maps, names, thresholds=THRESHOLDS))
    frames = 2 * 2 * (len(THRESHOLDS) - 1)
    assert (many - few) / frames < 4_000


def test_the_frame_s_text_says_which_case_it_is():
    box, other, none = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.0, 0, 4, 1]]), torch.zeros(0, 4)
    assert frame_text(none, box, "dog", 0.9) == "τ = 0.90: no region, no box."
    assert "no true box of dog" in frame_text(box, none, "dog", 0.2)
    assert "IoU 0.25 with the true box, not correct" in frame_text(box, other, "dog", 0.2)
    assert "IoU 1.00 with the best of 2 true boxes, correct" in frame_text(box, torch.cat([other, box]), "dog", 0.2)


def test_the_outline_runs_between_low_and_high_cells():
    score_map = torch.zeros(8, 8)
    score_map[:, 4:] = 1.0
    svg = frame_svg(score_map, torch.zeros(0, 4), torch.zeros(0, 4), 0.5)
    points = [float(x) for x in re.findall(r"[ML]([\d.]+) ", svg)]
    assert points
    assert set(points) == {4.0}  # the border between columns 3 and 4


# ---- matches


def moved(by, size=32):
    """Every cell lies as far to the right and down as ``by`` says."""
    centres = cell_centres((8, 8), Grid(size / 8, size / 16))
    return Correspondence(
        centres + torch.tensor(by), torch.ones(8, 8), torch.ones(8, 8).bool(), Grid(size / 8, size / 16)
    )


def test_each_point_shows_where_each_descriptor_finds_it():
    images = torch.rand(3, 32, 32), torch.rand(3, 40, 24)
    found = {"stays": moved([0.0, 0.0]), "goes": moved([4.0, -8.0])}
    explorer = show.explore_matches([images], [found], ["a pair"], points=4)
    down, right = explorer.children[0].children
    for row, column in ((0, 0), (1, 2), (3, 1)):
        down.index, right.index = row, column
        for stack in (down, right):
            assert stack.index == (row if stack is down else column)
        page = "".join(frame(explorer, row, column))
        x, y = 8 * column + 4, 8 * row + 4
        assert f"The point ({x}, {y}) on the left" in page and f"● stays: ({min(x, 24)}, {y})" in page
        assert f"■ goes: ({min(x + 4, 24)}, {max(y - 8, 0)})" in page
        assert f"translate({32 + 8 + min(x + 4, 24):.1f} {max(y - 8, 0):.1f})" in page
    assert 'viewBox="0 0 64 40"' in page and "○ the chosen point; ● stays, ■ goes" in shown(explorer)


def frame(explorer, row, column):
    """The drawing that a reader sees at a row and a column, as the links of the page choose it."""
    drawings = explorer.children[1].children[1].children[0]
    yield drawings.children[row].children[column].value


def test_matches_are_chosen_without_a_kernel():
    image = torch.rand(3, 32, 32)
    found = [{"stays": moved([0.0, 0.0])}] * 2
    explorer = show.explore_matches([(image, image)] * 2, found, ["one", "two"], points=3)
    assert len(links(explorer)) >= 2 + 2 * (1 + 3)  # two layers follow the pair; rows and columns of each pair


@pytest.mark.parametrize(
    ("pairs", "descriptors", "points", "words"),
    [
        (0, [], 3, "0 pairs, 0 correspondences"),
        (2, ["a"], 3, "2 pairs, 1 correspondences"),
        (1, [""], 3, "at least one and at most 6"),
        (2, ["a", "b"], 3, "expected the same of each pair"),
        (1, ["abcdefg"], 3, "at most 6"),
        (1, ["a"], 0, "points is 0"),
    ],
)
def test_matches_that_cannot_be_shown_are_refused(pairs, descriptors, points, words):
    images = torch.rand(3, 32, 32), torch.rand(3, 32, 32)
    found = [dict.fromkeys(names, moved([0.0, 0.0])) for names in descriptors]
    with pytest.raises(UsageError, match=words):
        show.explore_matches([images] * pairs, found, [str(i) for i in range(pairs)], points)
