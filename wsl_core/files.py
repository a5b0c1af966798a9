"""Writing files so that a reader never sees half of one."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from wsl_core.errors import DataError

__all__ = ["atomic_write", "write_json", "read_json", "cache_dir"]


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and move it into place when the block ends without an error.

    The data reach the disk before the move, so that a power cut leaves the old file or the new one.

    Raises:
        OSError: the folder cannot be written, or the disk is full; ``path`` is then as it was before.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "answer.txt"
    >>> with atomic_write(target, "w") as file:
    ...     _ = file.write("42")
    >>> target.read_text()
    '42'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused.

    Raises:
        ValueError: ``value`` holds a NaN or an infinity.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "record.json"
    >>> write_json(target, {"seed": 0})
    >>> read_json(target)
    {'seed': 0}
    """
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with atomic_write(path, "w") as file:
        file.write(text)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is not JSON.

    >>> import tempfile
    >>> broken = Path(tempfile.mkdtemp()) / "broken.json"
    >>> _ = broken.write_text("{")
    >>> read_json(broken)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    wsl_core.errors.DataError: ...broken.json: not valid JSON...
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). Delete it and make it again.") from error


def cache_dir() -> Path:
    """The folder for things that can be made again: ``$WSL_CACHE``, by default ``~/.cache/wsl_core``.

    >>> cache_dir().name in ("wsl_core", Path(os.environ.get("WSL_CACHE", "wsl_core")).name)
    True
    """
    return Path(os.environ.get("WSL_CACHE") or Path.home() / ".cache" / "wsl_core")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
