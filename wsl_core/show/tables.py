"""Small tables that a screen reader can read."""

import html
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TypeAlias

from IPython.display import HTML, display

from wsl_core.errors import UsageError
from wsl_core.metrics import Interval
from wsl_core.show.pictures import CAPTION_STYLE

__all__ = ["table", "table_html"]

_LINE = "border-bottom:1px solid #8886"  # a grey that shows on white and on black

Cell: TypeAlias = str | float | int | bool | Interval | None


def table(rows: Sequence[Sequence[Cell]], columns: Sequence[str], caption: str, digits: int = 3) -> None:
    """Display a table. The first cell of each row is the row's name.

    Args:
        rows: cells; numbers stand right with ``digits`` decimals, an interval as "mean [low, high]", None as a dash.
        columns: the head of each column.
        caption: what the table tells.
        digits: decimals of floating point numbers.

    Raises:
        UsageError: a row has not one cell for each column, or the caption is empty.
    """
    display(HTML(table_html(rows, columns, caption, digits)))


def table_html(rows: Sequence[Sequence[Cell]], columns: Sequence[str], caption: str, digits: int = 3) -> str:
    """The HTML that :func:`table` displays.

    >>> '<td style="text-align:right;padding:0.25em 0.5em;border-bottom:1px solid #8886">0.58</td>' in table_html(
    ...     [["GAP", 0.584]], ["head", "IoU"], "Boxes", digits=2
    ... )
    True
    """
    if not caption.strip():
        raise UsageError("caption is empty; expected a sentence that tells what the table shows.")
    for row in rows:
        if len(row) != len(columns):
            raise UsageError(f"row {list(row)!r} has {len(row)} cells; expected {len(columns)}, one for each column.")
    numeric = [any(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    head = "".join(_cell("th", name, right, 'scope="col"') for name, right in zip(columns, numeric, strict=True))
    body = "".join(f"<tr>{_row(row, numeric, digits)}</tr>" for row in rows)
    title = html.escape(caption)
    # The table scrolls on a phone, its caption does not; tabindex lets the keyboard scroll it.
    return (
        f'<div style="{CAPTION_STYLE}">{title}</div>'
        f'<div style="overflow-x:auto" tabindex="0" role="region" aria-label="{title}">'
        f'<table style="border-collapse:collapse;margin:0" aria-label="{title}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Cell], numeric: Sequence[bool], digits: int) -> str:
    name = _cell("th", _text(row[0], digits), numeric[0], 'scope="row"')
    rest = zip(row[1:], numeric[1:], strict=True)
    return name + "".join(_cell("td", _text(value, digits), right) for value, right in rest)


def _cell(tag: str, text: str, right: bool, attributes: str = "") -> str:
    opening = f"{tag} {attributes}".strip()
    align = "right" if right else "left"
    return f'<{opening} style="text-align:{align};padding:0.25em 0.5em;{_LINE}">{html.escape(text)}</{tag}>'


def _is_number(value: Cell) -> bool:
    return isinstance(value, Interval) or (isinstance(value, Real) and not isinstance(value, bool))


def _text(value: Cell, digits: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, Interval):
        return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{value:,}"
    if isinstance(value, Real):
        return f"{value:.{digits}f}"
    return value
