"""Annotation files: what is understood, and which line is wrong."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsl_core.data.annotations import clip_box, parse_numbers, read_csv, read_objects_xml, read_table
from wsl_core.errors import DataError


def _csv(tmp_path: Path, content: bytes) -> list[tuple[str, dict[str, str]]]:
    (tmp_path / "table.csv").write_bytes(content)
    return list(read_csv(tmp_path / "table.csv", ("image", "label"), ("split",)))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_csv_from_any_program(tmp_path: Path, mark: bytes, end: bytes) -> None:
    lines = [b"label , image,note", b'cat,"a, ""b"".jpg",x', b"", "éel,ü.jpg,".encode()]
    rows = _csv(tmp_path, mark + end.join(lines) + end)
    assert [row for _, row in rows] == [{"image": 'a, "b".jpg', "label": "cat"}, {"image": "ü.jpg", "label": "éel"}]
    assert [where.rsplit(":", 1)[1] for where, _ in rows] == ["2", "4"]


def test_quotes_may_hold_a_line_end(tmp_path: Path) -> None:
    assert _csv(tmp_path, b'image,label\n"a\nb.jpg",cat\n')[0][1]["image"] == "a\nb.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"table\.csv:1: the header"),
        (b"image;label\na;b\n", r"table\.csv:1: the header is \['image;label'\].*separated by commas"),
        (b"image,image,label\n", r"table\.csv:1: the header"),
        (b"image,label\na\n", r"table\.csv:2: 1 fields; expected 2"),
        (b"image,label\na,b\nc,d,e\n", r"table\.csv:3: 3 fields; expected 2"),
        (b'image,label\n"a"b,c\n', r"table\.csv:2: not valid CSV"),
        (b'image,label\n"a,c\n', r"table\.csv:2: not valid CSV"),
        (b"image,label\n\xff\xfe,c\n", r"table\.csv: not UTF-8.*Save"),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _csv(tmp_path, content)


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("a b.jpg\t1\r\n\n c.jpg\t2")
    assert list(read_table(path, ("image", "x0"))) == [
        (f"{path}:1", {"image": "a b.jpg", "x0": "1"}),
        (f"{path}:3", {"image": "c.jpg", "x0": "2"}),
    ]
    path.write_text("a.jpg\t1\nb.jpg 2\n")
    with pytest.raises(DataError, match=r"boxes\.txt:2: 1 fields.*expected 2, separated by tabs: image, x0"):
        list(read_table(path, ("image", "x0")))
    with pytest.raises(DataError, match=r"absent\.txt: the file is missing"):
        list(read_table(tmp_path / "absent.txt", ("image",)))


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1,5", "--1"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(DataError, match="here:3: x0 is"):
        parse_numbers({"x0": text}, ["x0"], "here:3")


numbers, sizes = st.integers(-9, 14), st.integers(1, 30)


@given(numbers, numbers, sizes, sizes)
def test_a_clipped_box_is_the_part_inside(x0: int, y0: int, width: int, height: int) -> None:
    x1, y1 = x0 + width, y0 + height
    inside = {(x, y) for x in range(max(x0, 0), min(x1, 16)) for y in range(max(y0, 0), min(y1, 12))}
    assume(inside)
    left, top, right, bottom = clip_box((x0, y0, x1, y1), 16, 12, "here:1")
    assert inside == {(x, y) for x in range(left, right) for y in range(top, bottom)}


@pytest.mark.parametrize("box", [(5, 1, 5, 2), (5, 1, 4, 2), (1, 2, 3, 2)])
def test_empty_boxes_are_refused(box: tuple) -> None:
    with pytest.raises(DataError, match=r"here:7: box .* is empty"):
        clip_box(box, 16, 12, "here:7")


@pytest.mark.parametrize("box", [(16, 0, 20, 5), (-4, 0, 0, 5), (0, 12, 3, 14), (0, -5, 3, 0)])
def test_boxes_outside_are_refused(box: tuple) -> None:
    with pytest.raises(DataError, match=r"here:7: box .* lies outside the image of 16 x 12"):
        clip_box(box, 16, 12, "here:7")


BOMB = '<!DOCTYPE a [<!ENTITY x "aaaa"><!ENTITY y "&x;&x;&x;&x;">]><a>&y;</a>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "secret.txt">]><a>&x;</a>'
ANOTHER_DTD = '<!DOCTYPE a SYSTEM "a.dtd"><a/>'


@pytest.mark.parametrize("document", [BOMB, OUTSIDE, ANOTHER_DTD, '<?xml version="1.0"?>\n' + BOMB])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_could_define_entities_is_refused(tmp_path: Path, document: str, encoding: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "a.xml").write_text(document, encoding=encoding)
    with pytest.raises(DataError, match=r"a\.xml: has a DOCTYPE"):
        read_objects_xml(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"<a>&unknown;</a>", b"<a><b></a>", b'<?xml version="1.0" encoding="utf-32"?><a/>', b"\xff<a/>"],
)
def test_what_is_no_xml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.xml: not XML \(.*get it again"):
        read_objects_xml(tmp_path / "a.xml")
    with pytest.raises(DataError, match=r"absent\.xml: the file is missing"):
        read_objects_xml(tmp_path / "absent.xml")
