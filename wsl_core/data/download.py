"""Getting an archive and unpacking it, so that what is there is whole: whatever stops it, whoever else tries."""

import errno
import hashlib
import http.client
import lzma
import os
import re
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import urllib.response
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

from filelock import FileLock, Timeout
from tqdm import tqdm

from wsl_core.errors import DataError, DownloadError

__all__ = ["fetch", "extract"]

ATTEMPTS = 5
FIRST_PAUSE = 1.0  # seconds; doubles with each attempt
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 18  # bytes

# What zipfile and tarfile raise on archives that are damaged, encrypted, or none at all.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError,
)  # fmt: skip


class _Interrupted(Exception):
    """The transfer broke off in a way that another attempt may mend."""


@runtime_checkable
class _Source(Protocol):
    """An answer from a server, or a member of an archive."""

    def read(self, size: int, /) -> bytes: ...


def fetch(url: str, path: str | Path, size: int | None = None, md5: str | None = None, progress: bool = True) -> Path:
    """Download ``url`` to ``path``; nothing stands at ``path`` before it is whole and checked.

    A broken transfer is tried again, and goes on where it stopped, also in a later call: the first part waits in
    ``path`` + ".partial". Several processes that want one file download it once. A ``path`` that exists is checked and
    not downloaded.

    Without ``md5`` the file is trusted on first use: its SHA-256 is written to ``path`` + ".sha256" and held against
    every later download; a first part from an earlier call is then not used, since it may belong to another version.

    Args:
        size: expected length in bytes.
        md5: expected MD5 sum in hexadecimal.

    Raises:
        DownloadError: the server does not have the file or keeps breaking off, the disk is full or not writable, or
            what arrived is not what was expected (it is removed).

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "source").write_text("hello")
    >>> path = fetch((folder / "source").as_uri(), folder / "copy", size=5, progress=False)
    >>> path.read_text()
    'hello'
    """
    path = Path(path)
    with _alone(path):
        if path.exists():
            _check(path, path, size, md5, f"Move {path} away and try again.")
            return path
        partial = _beside(path, ".partial")
        if md5 is None:
            partial.unlink(missing_ok=True)
        _transfer(url, partial, size, progress)
        try:
            _check(partial, path, size, md5, f"It was removed. Try again; if that fails too, {url} has changed.")
        except DownloadError:
            partial.unlink(missing_ok=True)
            raise
        os.replace(partial, path)
    return path


def extract(archive: str | Path, folder: str | Path, top: str | None = None, progress: bool = True) -> Path:
    """Unpack a zip or tar archive into the new folder ``folder``, which appears only when it is complete.

    An existing ``folder`` is left as it is. Only plain files and folders are unpacked, with default permissions.

    Args:
        top: the archive's own top folder, which becomes ``folder``; by default everything goes into ``folder``.

    Raises:
        DataError: the archive is damaged, lacks ``top``, or holds what does not belong there: an absolute path, a path
            that leaves the folder, a link, or a device.
        DownloadError: the disk is full or not writable.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with zipfile.ZipFile(folder / "a.zip", "w") as file:
    ...     file.writestr("data/hello.txt", "hello")
    >>> (extract(folder / "a.zip", folder / "data", top="data", progress=False) / "hello.txt").read_text()
    'hello'
    """
    archive, folder = Path(archive), Path(folder)
    with _alone(folder):
        if folder.exists():
            return folder
        unfinished = folder.parent / f".{folder.name}.extracting"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a call that was killed
        try:
            _unpack(archive, unfinished, progress)
            if top is not None and not (unfinished / top).is_dir():
                raise DataError(f"{archive}: holds no folder {top!r}. It is another archive: get the right one.")
            os.replace(unfinished / top if top is not None else unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time. The operating system drops the lock of a process that dies, however it dies."""
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_beside(path, ".lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            _say(f"Another process is working on {path}; waiting for it.")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _transfer(url: str, partial: Path, size: int | None, progress: bool) -> None:
    """Bring ``partial`` to its full length, in several attempts if need be."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            _say(f"{url}: {reason}; attempt {attempt + 1} of {ATTEMPTS} in {pause:g} s.")
            time.sleep(pause)
        try:
            _transfer_rest(url, partial, size, progress)
            return
        except _Interrupted as error:
            reason = str(error)
    raise DownloadError(f"{url}: {reason}, in {ATTEMPTS} attempts. Try again later: the part that arrived is kept.")


def _transfer_rest(url: str, partial: Path, size: int | None, progress: bool) -> None:
    """One attempt: ask for the bytes that ``partial`` lacks, and append them."""
    have = partial.stat().st_size if partial.exists() else 0
    if have and have == size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            _on_http_error(error, url, partial, have)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"no answer ({error})") from error
    with response:
        start, total = _announced(response, have)
        if size is not None and total is not None and total != size:
            raise DownloadError(f"{url}: the server announces {total} bytes; expected {size}. The file has changed.")
        _check_space(partial, (total or 0) - start)
        arrived = _append(response, partial, start, total, progress)
    if total is not None and arrived < total:
        raise _Interrupted(f"the connection broke off after {arrived} of {total} bytes")


def _announced(response: http.client.HTTPResponse | urllib.response.addinfourl, have: int) -> tuple[int, int | None]:
    """The position of the first byte that the server will send, and the length of the whole file, if it says so."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise _Interrupted(f"asked for bytes from {have}, was promised {response.headers.get('Content-Range')!r}")
        return have, int(found[2])
    length = response.headers.get("Content-Length")  # any other status: the server sends the whole file
    return 0, int(length) if length is not None else None


def _on_http_error(error: urllib.error.HTTPError, url: str, partial: Path, have: int) -> None:
    if error.code == 416:  # "range not satisfiable": either nothing is missing, or the part is of another file
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        partial.unlink(missing_ok=True)
        raise _Interrupted(f"the first {have} bytes do not belong to this file and were removed")
    if error.code in (408, 425, 429) or error.code >= 500:
        raise _Interrupted(f"the server answers {error.code} {error.reason}")
    raise DownloadError(f"{url}: the server answers {error.code} {error.reason}. Check the address and your access.")


def _append(response: _Source, partial: Path, start: int, total: int | None, progress: bool) -> int:
    """Write what arrives behind the first ``start`` bytes; returns the length reached."""
    with _disk_errors(partial, (total or 0) - start):
        file = open(partial, "ab" if start else "wb")  # noqa: SIM115  (closed below, whose errors count too)
    bar = tqdm(desc=partial.stem, initial=start, total=total, unit="B", unit_scale=True, disable=not progress)
    arrived = start
    with _disk_errors(partial, (total or 0) - start), file, bar:
        for chunk in _chunks(response):
            file.write(chunk)
            arrived += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return arrived


def _chunks(source: _Source) -> Iterator[bytes]:
    """What can be read until the end. Errors of reading are told apart from errors of writing, which look the same."""
    try:
        while chunk := source.read(CHUNK):
            yield chunk
    except http.client.IncompleteRead as error:
        yield error.partial
        raise _Interrupted("the connection broke off") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(error)) from error


def _check(file: Path, path: Path, size: int | None, md5: str | None, remedy: str) -> None:
    """Hold ``file``, which is or will be ``path``, against what is known of it."""
    found_size = file.stat().st_size
    if size is not None and found_size != size:
        raise DownloadError(f"{path}: {found_size} bytes; expected {size}. {remedy}")
    if md5 is not None:
        found = _hash(file, "md5")
        if found != md5.lower():
            raise DownloadError(f"{path}: md5 {found}; expected {md5}. {remedy}")
        return
    found, record = _hash(file, "sha256"), _beside(path, ".sha256")
    if not record.exists():
        with _disk_errors(record):
            record.write_text(found + "\n", encoding="utf-8")
        _say(f"{path}: no published checksum is known. Trusted on first use; its SHA-256 is {found}, kept in {record}.")
    elif record.read_text(encoding="utf-8").strip() != found:
        known = record.read_text(encoding="utf-8").strip()
        raise DownloadError(f"{path}: sha256 {found}; the first download had {known} ({record}). {remedy}")


def _hash(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # "file", "folder", or what else it is
    source: zipfile.ZipInfo | tarfile.TarInfo


def _unpack(archive: Path, folder: Path, progress: bool) -> None:
    try:
        with _opened(archive) as (members, open_member):
            needed = sum(member.size for member in members)
            with _disk_errors(folder, needed):
                folder.mkdir()
                _check_space(folder, needed)
            for member in tqdm(members, f"unpacking {archive.name}", unit="file", disable=not progress):
                target = _target(member, folder, archive)
                with _disk_errors(folder, needed):
                    (target if member.kind == "folder" else target.parent).mkdir(parents=True, exist_ok=True)
                if member.kind == "file":
                    with open_member(member.source) as source:
                        _write_member(source, target, needed)
    except DownloadError:
        raise
    except (*_ARCHIVE_ERRORS, _Interrupted) as error:
        raise DataError(f"{archive}: the archive cannot be read ({error}). Delete it and get it again.") from error


@contextmanager
def _opened(archive: Path) -> Iterator[tuple]:
    """The members of a zip or tar archive, and the function that opens one."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield [_Member(i.filename, i.file_size, _zip_kind(i), i) for i in file.infolist()], file.open
    else:
        with tarfile.open(archive) as file:
            yield [_Member(i.name, i.size, _tar_kind(i), i) for i in file.getmembers()], file.extractfile


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind in (0, stat.S_IFREG, stat.S_IFDIR):
        return "folder" if info.is_dir() else "file"
    return "link" if kind == stat.S_IFLNK else "device"


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    if info.isreg():
        return "file"
    return "link" if info.issym() or info.islnk() else "device"


def _target(member: _Member, folder: Path, archive: Path) -> Path:
    """Where a member goes, if it may."""
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in member.name:
        problem = "a path that leaves the folder"
    elif member.kind not in ("file", "folder"):
        problem = f"a {member.kind}"
    else:
        return folder / name
    raise DataError(f"{archive}: member {member.name!r} is {problem}. Nothing was unpacked: do not trust this archive.")


def _write_member(source: _Source, target: Path, needed: int) -> None:
    with _disk_errors(target, needed), open(target, "wb") as file:
        for chunk in _chunks(source):
            file.write(chunk)


@contextmanager
def _disk_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Say what the disk refused, and for want of what."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        if error.errno == errno.ENOSPC:
            raise DownloadError(_no_space(path, needed)) from error
        raise DownloadError(f"{path}: cannot be written ({error.strerror or error}). Choose another folder.") from error


def _check_space(path: Path, needed: int) -> None:
    if shutil.disk_usage(path.parent).free < needed:
        raise DownloadError(_no_space(path, needed))


def _no_space(path: Path, needed: int) -> str:
    free = shutil.disk_usage(path.parent).free
    return f"{path}: the disk is full; {needed} bytes are needed, {free} are free. Free some, or choose another folder."


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _say(message: str) -> None:
    print(message, file=sys.stderr)
