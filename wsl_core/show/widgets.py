"""Widgets that go on working when the page has no kernel.

A static page keeps the state of every widget and the links between them, but runs no Python. So every frame that a
control can reach is made beforehand, and a link inside the browser (``jslink``) connects the control to a ``Stack``.
ipywidgets 7 (Colab) has no ``Stack``; there the kernel is alive and swaps the frames itself.
"""

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from wsl_core.errors import UsageError
from wsl_core.show.pictures import Picture, check_alt, img_html

__all__ = [
    "PAGE_LIMIT",
    "check_weight",
    "explore",
    "html_pages",
    "html_widget",
    "picker",
    "player",
    "quiz",
    "switch",
    "weight",
]

PAGE_LIMIT = 1_500_000  # bytes of HTML that one explorer may put on a page

_CONTROLS = {
    "slider": widgets.SelectionSlider,
    "dropdown": widgets.Dropdown,
    "toggle": widgets.ToggleButtons,
    "radio": widgets.RadioButtons,
}


def picker(labels: Sequence[str], description: str, control: str = "slider", index: int | None = 0) -> widgets.Widget:
    """A control that picks one of several labels; its ``index`` says which.

    Args:
        labels: what there is to pick from.
        description: the control's name; screen readers say it.
        control: "slider", "dropdown", "toggle" or "radio".
        index: what is picked at first; None: nothing (not for a slider).

    Raises:
        UsageError: there is no label, two are equal, the description is empty, or the control is unknown.

    >>> picker(["low", "high"], "Threshold").index
    0
    """
    if control not in _CONTROLS:
        raise UsageError(f"control {control!r} is unknown; expected one of {', '.join(_CONTROLS)}.")
    if not labels or len(set(labels)) < len(labels):
        raise UsageError(f"labels are {list(labels)}; expected one at least, and no two alike.")
    if not description.strip():
        raise UsageError("description is empty; expected the control's name: screen readers say it.")
    style = {"description_width": "initial"} | ({"button_width": "auto"} if control == "toggle" else {})
    return _CONTROLS[control](
        # The numbers are the values, for which equality is cheap; ``index`` says the same.
        options=[(label, number) for number, label in enumerate(labels)],
        index=index,
        description=description,
        style=style,
        layout=widgets.Layout(width="auto", max_width="36em"),
    )


def switch(control: widgets.Widget, pages: Sequence[widgets.Widget]) -> widgets.Widget:
    """A box that shows the page which the control's ``index`` names, with a kernel and without.

    Several boxes may follow the same control.

    Raises:
        UsageError: there is not one page for each of the control's options.

    >>> control = picker(["a", "b"], "Letter")
    >>> type(switch(control, [html_widget("A"), html_widget("B")])).__name__
    'Stack'
    """
    if len(pages) != len(control.options):
        raise UsageError(f"pages has {len(pages)} entries; expected {len(control.options)}, one for each option.")
    if not hasattr(widgets, "Stack"):
        return _swapped_by_the_kernel(control, pages)
    stack = widgets.Stack(children=tuple(pages), selected_index=control.index)
    widgets.jslink((control, "index"), (stack, "selected_index"))
    return stack


def html_widget(content: str) -> widgets.HTML:
    """HTML as a widget.

    >>> html_widget("<p>hello</p>").value
    '<p>hello</p>'
    """
    return widgets.HTML(value=content)


def html_pages(contents: Sequence[str]) -> list[widgets.HTML]:
    """Many HTML widgets that share one layout and one style: a third of the models that a page has to load.

    >>> [page.value for page in html_pages(["one", "two"])]
    ['one', 'two']
    """
    first = widgets.HTML(layout=widgets.Layout(width="100%", margin="0"))
    return [widgets.HTML(value=content, layout=first.layout, style=first.style) for content in contents]


def explore(
    frames: Mapping[str, Picture | widgets.Widget],
    description: str,
    alt: str,
    control: str = "slider",
    texts: Mapping[str, str] | None = None,
    width: int = 300,
    play: bool = False,
    limit: int = PAGE_LIMIT,
) -> widgets.Widget:
    """Pictures behind a control: the reader moves it and sees one of them, also on a static page.

    Args:
        frames: the control's label -> what it shows. A frame may be another explorer.
        description: the control's name.
        alt: what the pictures show; each frame's own alternative text adds the control's position.
        control: "slider", "dropdown" or "toggle".
        texts: label -> a line under the picture.
        width: of the picture in CSS pixels, at most.
        play: add a button that moves the slider by itself.
        limit: the most bytes that it may put on the page.

    Raises:
        UsageError: ``alt`` or ``description`` is empty, there is no frame, ``texts`` names a label that is no frame's,
            or the limit is passed.

    >>> import numpy as np
    >>> shades = {str(grey): np.full((4, 4, 3), grey, np.uint8) for grey in (0, 128, 255)}
    >>> explorer = explore(shades, description="Grey", alt="A square")
    >>> len(explorer.children[-1].children)
    3
    """
    check_alt(alt)
    texts = texts or {}
    if unknown := sorted(set(texts) - set(frames)):
        raise UsageError(f"texts names {unknown}; expected labels among {list(frames)}.")
    selector = picker(list(frames), description, control)
    pages = [
        frame
        if isinstance(frame, widgets.Widget)
        else html_widget(_frame_html(frame, f"{alt}; {description}: {label}", texts.get(label, ""), width))
        for label, frame in frames.items()
    ]
    controls = [selector, player(selector)] if play else [selector]
    return check_weight(widgets.VBox([*controls, switch(selector, pages)]), limit)


def player(slider: widgets.Widget) -> widgets.Play:
    """A button that moves a slider by itself.

    >>> player(picker(["a", "b", "c"], "Letter")).max
    2
    """
    play = widgets.Play(value=slider.index, min=0, max=len(slider.options) - 1, interval=600, description="Play")
    # One way only: the button moves the slider, and the slider does not wait for the button.
    widgets.jsdlink((play, "value"), (slider, "index"))
    return play


def quiz(question: str, answers: Sequence[str], correct: int, explanation: str | Sequence[str]) -> widgets.Widget:
    """A question whose answer stays hidden until the reader picks one.

    Args:
        question: what is asked.
        answers: what can be picked.
        correct: position of the right answer.
        explanation: shown after any pick, or one for each answer.

    Raises:
        UsageError: ``correct`` is out of range, or the explanations are not as many as the answers.

    >>> box = quiz("1 + 1?", ["2", "3"], correct=0, explanation="Count.")
    >>> "Right" in box.children[-1].children[0].value, "Not quite" in box.children[-1].children[1].value
    (True, True)
    """
    if not 0 <= correct < len(answers):
        raise UsageError(f"correct is {correct}; expected the position of one of the {len(answers)} answers, from 0.")
    explanations = [explanation] * len(answers) if isinstance(explanation, str) else list(explanation)
    if len(explanations) != len(answers):
        raise UsageError(f"explanation has {len(explanations)} entries; expected one, or one for each answer.")
    choice = picker(answers, "Your answer", control="radio", index=None)
    replies = []
    for index, text in enumerate(explanations):
        verdict = "✓ Right." if index == correct else "✗ Not quite."
        replies.append(html_widget(f"<div {TEXT_STYLE}><strong>{verdict}</strong> {html.escape(text)}</div>"))
    heading = html_widget(f"<div {TEXT_STYLE}><strong>{html.escape(question)}</strong></div>")
    return widgets.VBox([heading, choice, switch(choice, replies)])


def weight(widget: widgets.Widget) -> int:
    """Bytes of HTML, embedded images included, that a widget and all inside it put on a page.

    >>> weight(widgets.VBox([html_widget("12345"), html_widget("6")]))
    6
    """
    seen: dict[int, widgets.Widget] = {}  # a page that two boxes share counts once
    queue = [widget]
    while queue:
        current = queue.pop()
        if id(current) not in seen:
            seen[id(current)] = current
            queue += [*getattr(current, "children", ()), *getattr(current, "pages", ())]
    return sum(len(each.value.encode()) for each in seen.values() if isinstance(each, widgets.HTML))


def check_weight(widget: widgets.Widget, limit: int = PAGE_LIMIT) -> widgets.Widget:
    """Return the widget if it weighs at most ``limit`` bytes.

    Raises:
        UsageError: it weighs more.

    >>> check_weight(html_widget("light"), limit=10).value
    'light'
    """
    if (bytes_used := weight(widget)) > limit:
        raise UsageError(
            f"explorer puts {bytes_used:,} bytes on the page; expected at most {limit:,}. "
            "Show fewer frames, or smaller pictures."
        )
    return widget


TEXT_STYLE = 'style="line-height:1.5;white-space:normal;max-width:42em"'  # ipywidgets would keep it on one line


class _Swapped(widgets.Box):
    """A box that shows one of its pages: what ``Stack`` is in ipywidgets 8."""

    def __init__(self, pages: Sequence[widgets.Widget], index: int | None) -> None:
        self.pages = tuple(pages)
        super().__init__(children=self._shown(index))

    def show(self, index: int | None) -> None:
        """Show the page at ``index``, or none."""
        self.children = self._shown(index)

    def _shown(self, index: int | None) -> tuple[widgets.Widget, ...]:
        return () if index is None else (self.pages[index],)


def _swapped_by_the_kernel(control: widgets.Widget, pages: Sequence[widgets.Widget]) -> widgets.Box:
    box = _Swapped(pages, control.index)
    control.observe(lambda change: box.show(change["new"]), names="index")
    return box


def _frame_html(picture: Picture, alt: str, text: str, width: int) -> str:
    note = f"<div {TEXT_STYLE}>{html.escape(text)}</div>" if text else ""
    return img_html(picture, alt, width) + note
