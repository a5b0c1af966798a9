"""Reading annotation files: tables with line numbers in their errors, XML, and boxes that lie within their image."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from wsl_core.errors import DataError

__all__ = [
    "Box", "ObjectsXML", "Row", "clip_box", "distinct_names", "parse_numbers", "read_csv", "read_lines",
    "read_objects_xml", "read_table",
]  # fmt: skip

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, half-open
Row = tuple[str, dict[str, str]]  # "FILE:LINE", and the value of each column

_SEPARATORS = {"\t": "tabs", " ": "spaces"}


class ObjectsXML(NamedTuple):
    """What an annotation in the XML of PASCAL VOC and ImageNet says, as it stands in the file."""

    width: float  # of the annotated image
    height: float
    objects: tuple[tuple[str, Box], ...]  # the name of each, and xmin, ymin, xmax, ymax


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, without a byte order mark and whatever their ends.

    Raises:
        DataError: the file is missing or is not UTF-8.

    >>> read_lines(Path("nowhere.txt"))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    wsl_core.errors.DataError: nowhere.txt: the file is missing. Get the data set again, or put the file back.
    """
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: the file is missing. Get the data set again, or put the file back.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}). Save the file as UTF-8.") from error


def read_table(path: Path, columns: Sequence[str], separator: str = "\t") -> Iterator[Row]:
    """The rows of a file without a header, whose fields are separated by tabs or spaces. Blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line has another number of fields.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "boxes.txt"
    >>> _ = path.write_text("a.jpg\\t3\\n")
    >>> [row for _, row in read_table(path, ["image", "x0"])]
    [{'image': 'a.jpg', 'x0': '3'}]
    """
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.strip().split(separator)
        if fields == [""]:
            continue
        if len(fields) != len(columns):
            raise DataError(
                f"{path}:{number}: {len(fields)} fields in {line!r}; expected {len(columns)}, separated by "
                f"{_SEPARATORS[separator]}: "
                f"{', '.join(columns)}. Correct the line."
            )
        yield f"{path}:{number}", dict(zip(columns, fields, strict=True))


def read_csv(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a comma-separated file with a header; quotes, CRLF and a byte order mark are understood.

    Spaces around values are dropped, and so are other columns and blank lines. An optional column that the header lacks
    is absent from every row.

    Raises:
        DataError: the file cannot be read, a required column is missing, or a row has too few or too many fields.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
    >>> _ = path.write_text('image,labels\\n"a, b.jpg",cat;dog\\n')
    >>> [row for _, row in read_csv(path, ["image", "labels"])]
    [{'image': 'a, b.jpg', 'labels': 'cat;dog'}]
    """
    reader = csv.DictReader((line + "\n" for line in read_lines(path)), strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in required if name not in header]
        if missing or len(set(header)) < len(header):
            raise DataError(
                f"{path}:1: the header is {header}; expected each of {', '.join(required)} once, separated by commas."
            )
        reader.fieldnames = header
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                fields = sum(row[name] is not None for name in header) + len(row.get(None, ()))
                raise DataError(
                    f"{where}: {fields} fields; expected {len(header)}, separated by commas: {', '.join(header)}. "
                    "Correct the row; a field may be empty."
                )
            yield where, {name: row[name].strip() for name in (*required, *optional) if name in header}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.reader.line_num}: not valid CSV ({error}). Correct the row.") from error


def parse_numbers(row: dict[str, str], names: Sequence[str], where: str) -> list[float]:
    """The named columns of a row as finite numbers.

    Raises:
        DataError: one of them is no finite number.

    >>> parse_numbers({"x0": "3", "y0": "4.5"}, ["x0", "y0"], "boxes.csv:2")
    [3.0, 4.5]
    """
    numbers = []
    for name in names:
        try:
            number = float(row[name])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{where}: {name} is {row[name]!r}; expected a number. Correct the line.")
        numbers.append(number)
    return numbers


def clip_box(box: Sequence[float], width: float, height: float, where: str) -> Box:
    """The part of a half-open box that lies within the image; a size that is not known yet is ``math.inf``.

    Raises:
        DataError: the box is empty, or lies wholly outside the image.

    >>> clip_box((-2, 3, 10, 99), width=64, height=64, where="boxes.csv:2")
    (0, 3, 10, 64)
    """
    x0, y0, x1, y1 = box
    if x0 >= x1 or y0 >= y1:
        raise DataError(f"{where}: box {tuple(box)} is empty; expected x0 < x1 and y0 < y1. Correct the line.")
    clipped = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise DataError(f"{where}: box {tuple(box)} lies outside the image of {width} x {height}. Correct the line.")
    return clipped


def read_objects_xml(path: Path) -> ObjectsXML:
    """The size and the objects of an annotation in the XML of PASCAL VOC and ImageNet. An object's parts are left out.

    A document with a DOCTYPE is refused: only that could define entities, which fill the memory or read other files.

    Raises:
        DataError: the file is missing or is not XML, has a DOCTYPE, or lacks an element; names it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.xml"
    >>> box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    >>> size = "<size><width>8</width><height>6</height></size>"
    >>> _ = path.write_text(f"<annotation>{size}<object><name>cat</name>{box}</object></annotation>")
    >>> read_objects_xml(path)
    ObjectsXML(width=8.0, height=6.0, objects=(('cat', (1.0, 2.0, 3.0, 4.0)),))
    """
    where = str(path)
    try:
        parser = ElementTree.XMLParser(target=_WithoutDoctype(where))
        root = ElementTree.fromstring(path.read_bytes(), parser)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: the file is missing. Get the data set again, or put the file back.") from error
    except DataError:
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: of an encoding
        raise DataError(f"{path}: not XML ({error}). It is cut short or damaged: get it again.") from error
    width, height = _numbers_below(root.find("size"), ("width", "height"), f"{where}: size")
    objects = []
    for number, found in enumerate(root.findall("object"), start=1):
        name = (found.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{where}: object {number}: has no name. Correct the file.")
        corners = _numbers_below(found.find("bndbox"), _CORNERS, f"{where}: object {number}: bndbox")
        objects.append((name, tuple(corners)))
    return ObjectsXML(width, height, tuple(objects))


def distinct_names(names: Mapping[str, str]) -> tuple[str, ...]:
    """The names of classes by their ids; classes of one name get their id behind it.

    >>> distinct_names({"n1": "crane", "n2": "crane", "n3": "kite"})
    ('crane (n1)', 'crane (n2)', 'kite')
    """
    count = Counter(names.values())
    return tuple(name if count[name] == 1 else f"{name} ({id})" for id, name in names.items())


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _WithoutDoctype(ElementTree.TreeBuilder):
    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        raise DataError(
            f"{self._where}: has a DOCTYPE, which no annotation needs. Do not trust it: get the file again."
        )


def _numbers_below(element: ElementTree.Element | None, names: Sequence[str], where: str) -> list[float]:
    row = {name: "" if element is None else (element.findtext(name) or "").strip() for name in names}
    return parse_numbers(row, names, where)
