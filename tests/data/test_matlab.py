"""MATLAB files: structs become plain Python, and every broken file one clear error."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from wsl_core.data.matlab import field, items, numbers, read_mat, text
from wsl_core.errors import DataError

NESTED = {
    "objects": np.array([{"class": "cat", "mask": np.eye(3, dtype=np.uint8)}, {"class": "", "mask": 2.5}], dtype=object)
}


def _write(path: Path, compress: bool = False, **variables: object) -> Path:
    savemat(path, variables, do_compression=compress)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_structs_become_dictionaries_and_arrays_stay(tmp_path: Path, compress: bool) -> None:
    path = _write(tmp_path / "a.mat", compress, anno=NESTED, other=np.zeros(3))
    (anno,) = read_mat(path, "anno")
    first, second = anno["objects"]
    (first,), (second,) = first, second  # a cell of structs
    assert first["class"] == "cat" and np.array_equal(first["mask"], np.eye(3))
    assert second["class"] == "" and second["mask"].tolist() == [[2.5]]


def test_a_struct_array_has_its_elements_in_order(tmp_path: Path) -> None:
    parts = np.array([("tail", 1.0), ("leg", 2.0)], dtype=[("part_name", object), ("mask", object)])
    found = read_mat(_write(tmp_path / "a.mat", anno={"parts": parts, "none": []}), "anno")[0]
    assert [part["part_name"] for part in items(found["parts"], "a.mat")] == ["tail", "leg"]
    assert items(found["none"], "a.mat") == []


def test_a_file_that_is_not_there_or_lacks_the_variable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.mat: the file is missing"):
        read_mat(tmp_path / "b.mat", "kps")
    with pytest.raises(DataError, match=r"a\.mat: has no variable 'kps'"):
        read_mat(_write(tmp_path / "a.mat", other=1), "kps")


def test_version_7_3_is_refused_with_a_way_out(tmp_path: Path) -> None:
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "a.mat").write_bytes(header + bytes(600))
    with pytest.raises(DataError, match=r"a\.mat: a MATLAB file of version 7\.3.*-v7"):
        read_mat(tmp_path / "a.mat", "kps")


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_short_is_named_wherever_it_ends(tmp_path: Path, compress: bool) -> None:
    path = _write(tmp_path / "a.mat", compress, kps=np.arange(20.0).reshape(10, 2))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.mat: (cannot be read|has no variable)"):
            read_mat(path, "kps")


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), compress=st.booleans())
def test_a_damaged_byte_ends_in_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, compress: bool
) -> None:
    path = _write(tmp_path_factory.mktemp("damaged") / "a.mat", compress, anno=NESTED)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    try:
        read_mat(path, "anno")
    except DataError as error:
        assert str(path) in str(error)


def test_fields_numbers_and_text_are_checked() -> None:
    with pytest.raises(DataError, match=r"a\.mat: found the fields mask; expected a struct with the field 'class'"):
        field({"mask": 1}, "class", "a.mat")
    with pytest.raises(DataError, match=r"a\.mat: found a list; expected a struct"):
        field([], "class", "a.mat")
    with pytest.raises(DataError, match=r"a\.mat: found a str; expected an array of structs"):
        items("tail", "a.mat")
    with pytest.raises(DataError, match=r"a\.mat: found a list; expected text"):
        text([], "a.mat")
    for wrong in (np.zeros((3, 2)), np.zeros(2), np.array([["x", "y"]]), "x", np.zeros((1, 2), dtype=complex)):
        with pytest.raises(DataError, match=r"a\.mat: found .*; expected numbers, 1 x any"):
            numbers(wrong, (1, None), "a.mat")
