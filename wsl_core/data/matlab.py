"""MATLAB files as plain Python, and every way in which one can be broken as one clear error."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.sparse import sparray, spmatrix

from wsl_core.errors import DataError

__all__ = ["read_mat", "numbers", "text", "items", "field"]


def read_mat(path: str | Path, name: str) -> Any:
    """The variable ``name`` of a MATLAB file: the form in which several data sets publish their annotations.

    Structs become a list of dictionaries, one of each element; cells a list; text a ``str``; sparse matrices stay as
    they are, and all else an array with at least two axes. Nothing in the file is executed. Versions 4 to 7.2 are read;
    7.3 is another format, HDF5.

    Raises:
        DataError: the file is missing, damaged, of version 7.3, or lacks the variable.

    >>> import tempfile
    >>> from scipy.io import savemat
    >>> path = Path(tempfile.mkdtemp()) / "a.mat"
    >>> savemat(path, {"anno": {"name": "cat", "box": [1.0, 2.0]}})
    >>> read_mat(path, "anno")
    [{'name': 'cat', 'box': array([[1., 2.]])}]
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd headers of files that are fine
            variables = loadmat(file, variable_names=[name])
        if name in variables:
            return _plain(variables[name])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: the file is missing. Get the data set again, or put the file back.") from error
    except NotImplementedError as error:
        raise DataError(f"{path}: a MATLAB file of version 7.3. Save it again with MATLAB's option '-v7'.") from error
    except Exception as error:  # scipy's reader trusts its input: damage ends in any kind of error
        raise DataError(
            f"{path}: cannot be read as a MATLAB file ({type(error).__name__}: {error}). It is cut short, damaged, or "
            "of another kind: get it again."
        ) from error
    raise DataError(f"{path}: has no variable {name!r}. It belongs to another data set: get the right file.")


def field(struct: Any, name: str, where: str) -> Any:
    """A field of one element of a struct.

    Raises:
        DataError: ``struct`` is no such element, or has no such field.

    >>> field({"class": "cat"}, "class", "a.mat")
    'cat'
    """
    if not isinstance(struct, dict) or name not in struct:
        found = f"the fields {', '.join(struct)}" if isinstance(struct, dict) else f"a {type(struct).__name__}"
        raise DataError(f"{where}: found {found}; expected a struct with the field {name!r}. Get the file again.")
    return struct[name]


def items(value: Any, where: str) -> list[Any]:
    """The elements of a struct array, or of MATLAB's ``[]``, which has none.

    Raises:
        DataError: it is something else.

    >>> items([{"part_name": "tail"}], "a.mat"), items(np.zeros((0, 0)), "a.mat")
    ([{'part_name': 'tail'}], [])
    """
    if isinstance(value, list):
        return value
    if isinstance(value, np.ndarray) and value.size == 0:
        return []
    raise DataError(f"{where}: found a {type(value).__name__}; expected an array of structs. Get the file again.")


def numbers(value: Any, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    """``value`` as real numbers of this shape, in which ``None`` stands for any length; they may be NaN.

    Raises:
        DataError: it is not an array of numbers, or has another shape.

    >>> numbers(np.array([[1, 2]], dtype=np.uint8), (1, None), "a.mat")
    array([[1., 2.]])
    """
    found = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    fits = isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and len(value.shape) == len(shape)
    if not fits or any(length not in (None, side) for length, side in zip(shape, value.shape)):
        wanted = " x ".join("any" if length is None else str(length) for length in shape)
        raise DataError(f"{where}: found {found}; expected numbers, {wanted}. Correct the file.")
    return value.astype(np.float64)


def text(value: Any, where: str) -> str:
    """``value`` if it is text.

    Raises:
        DataError: it is something else.

    >>> text("cat", "a.mat")
    'cat'
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: found a {type(value).__name__}; expected text. Correct the file.")
    return value


def _plain(value: np.ndarray | spmatrix | sparray) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names:
        return [{name: _plain(element[name]) for name in value.dtype.names} for element in value.ravel()]
    if value.dtype == object:
        return [_plain(element) for element in value.ravel()]
    if value.dtype.kind == "U":
        return "".join(value.ravel())
    return value
