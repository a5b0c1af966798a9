"""Downloads from a server that misbehaves, and archives that do."""

import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fault_server import Server, serve
from wsl_core.data import download
from wsl_core.data.download import extract, fetch
from wsl_core.errors import DataError, DownloadError

CONTENT = hashlib.sha256(b"content").digest() * 40_000  # 1.28 MB: several chunks
MD5 = hashlib.md5(CONTENT).hexdigest()
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.001)
    with serve(CONTENT, monkeypatch) as faults:
        yield faults


def _fetch(server: Server, path: Path) -> Path:
    return fetch(server.url, path, len(CONTENT), MD5, progress=False)


def _left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_file_is_fetched_once(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "folder" / "file.zip"
    assert fetch(server.url, path, len(CONTENT), MD5.upper()) == path and path.read_bytes() == CONTENT
    assert fetch(server.url, path, len(CONTENT), MD5).read_bytes() == CONTENT
    assert server.asked == [None]
    assert _left_behind(path.parent) == {"file.zip"}
    output = capfd.readouterr()
    assert "1.28M" in output.err and not output.out  # the bar; nothing on standard output


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = [400_000, 300_000]
    assert _fetch(server, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=400000-", "bytes=700000-"]


def test_a_later_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000] * download.ATTEMPTS
    with pytest.raises(
        DownloadError, match=r"broke off after 500000 of 1280000 bytes, in 5 attempts\. Try again later"
    ):
        _fetch(server, tmp_path / "file.zip")
    assert _left_behind(tmp_path) == {"file.zip.partial"}
    assert _fetch(server, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=500000-" and _left_behind(tmp_path) == {"file.zip"}


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = [400_000], False
    assert _fetch(server, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=400000-"]


def test_a_wrong_range_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.cuts, server.shift = [400_000], 7
    with pytest.raises(DownloadError, match=r"asked for bytes from 400000, was promised 'bytes 400007-"):
        _fetch(server, tmp_path / "file.zip")


def test_a_part_that_is_already_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip.partial").write_bytes(CONTENT)
    assert fetch(server.url, tmp_path / "file.zip", md5=MD5, progress=False).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]  # answered with 416: nothing is missing
    (tmp_path / "again.zip.partial").write_bytes(CONTENT)
    assert _fetch(server, tmp_path / "again.zip").read_bytes() == CONTENT
    assert len(server.asked) == 1  # the length is known: nothing to ask


def test_a_part_that_is_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip.partial").write_bytes(CONTENT + b"more")
    assert _fetch(server, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT) + 4}-", None]


def test_errors_that_pass_are_waited_for(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.codes = [500, 503, 429]
    assert _fetch(server, tmp_path / "file.zip").read_bytes() == CONTENT
    assert "answers 503" in capfd.readouterr().err


@pytest.mark.parametrize("code", [403, 404])
def test_errors_that_stay_are_told_at_once(server: Server, tmp_path: Path, code: int) -> None:
    server.codes = [code] * 9
    with pytest.raises(DownloadError, match=rf"127\.0\.0\.1.*answers {code}.*Check the address"):
        _fetch(server, tmp_path / "file.zip")
    assert len(server.asked) == 1 and not _left_behind(tmp_path)


def test_no_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/.*no answer .*refused.*in 5 attempts"):
        fetch("http://127.0.0.1:1/file.zip", tmp_path / "file.zip", progress=False)


def test_another_length_than_expected(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"announces 1280000 bytes; expected 1279999"):
        fetch(server.url, tmp_path / "file.zip", len(CONTENT) - 1, MD5, progress=False)
    server.chunked, server.content = True, CONTENT[:-5]  # says no length: only the file itself shows it
    with pytest.raises(DownloadError, match=r"1279995 bytes; expected 1280000. It was removed"):
        _fetch(server, tmp_path / "file.zip")
    assert not _left_behind(tmp_path)


def test_a_length_that_is_not_true(server: Server, tmp_path: Path) -> None:
    server.announce = len(CONTENT) + 9
    assert fetch(server.url, tmp_path / "file.zip", md5=MD5, progress=False).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT)}-"]  # asked for the rest, was told that there is none
    server.announce = len(CONTENT) - 9
    with pytest.raises(DownloadError, match=rf"md5 .*; expected {MD5}"):
        fetch(server.url, tmp_path / "other.zip", md5=MD5, progress=False)


def test_corrupt_bytes_are_removed(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    found = hashlib.md5(server.content).hexdigest()
    with pytest.raises(DownloadError, match=rf"file\.zip: md5 {found}; expected {MD5}\. It was removed\. Try again"):
        _fetch(server, tmp_path / "file.zip")
    assert not _left_behind(tmp_path)
    server.content = CONTENT
    assert _fetch(server, tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_readers_own_wrong_file_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"4 bytes; expected 1280000\. Move .*file\.zip away"):
        _fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == b"mine" and not server.asked


def test_trust_on_first_use(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, sha256 = tmp_path / "file.zip", hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / "file.zip.partial").write_bytes(b"of another version")
    assert fetch(server.url, path, progress=False).read_bytes() == CONTENT
    assert server.asked == [None]
    assert "Trusted on first use" in capfd.readouterr().err
    assert (tmp_path / "file.zip.sha256").read_text() == sha256 + "\n"
    fetch(server.url, path, progress=False)
    assert not capfd.readouterr().err
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match=rf"the first download had {sha256}"):
        fetch(server.url, path, progress=False)
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a disk without space, exists on Linux only")
def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.zip.partial").symlink_to("/dev/full")
    with pytest.raises(
        DownloadError, match=r"file\.zip\.partial: the disk is full; 1280000 bytes are needed, \d+ are free"
    ):
        _fetch(server, tmp_path / "file.zip")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DownloadError, match=r"the disk is full; 1280000 bytes are needed, 1000 are free"):
        _fetch(server, tmp_path / "other.zip")
    assert "other.zip.partial" not in _left_behind(tmp_path)  # seen before a byte was written
    archive = _zip(tmp_path, {"a": b"x" * 2000})
    with pytest.raises(DownloadError, match="the disk is full; 2000 bytes are needed"):
        extract(archive, tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot be written .*Choose another folder"):
        _fetch(server, tmp_path / "file" / "file.zip")
    with pytest.raises(DownloadError, match="cannot be written"):
        extract(_zip(tmp_path, {"a": b""}), tmp_path / "file" / "data", progress=False)


# Loads the module by its file: three processes that import torch would take most of this test's time.
CHILD = """
import runpy, sys
file, url, path, size, md5 = sys.argv[1:]
runpy.run_path(file)["fetch"](url, path, int(size), md5)
"""


def _start_fetch(server: Server, path: Path) -> subprocess.Popen:
    arguments = [sys.executable, "-c", CHILD, download.__file__, server.url, str(path), str(len(CONTENT)), MD5]
    return subprocess.Popen(arguments, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])


def test_two_processes_download_once_and_a_killed_one_holds_no_lock(server: Server, tmp_path: Path) -> None:
    server.pause = 0.05
    victim = _start_fetch(server, tmp_path / "file.zip")
    partial = tmp_path / "file.zip.partial"
    while not (partial.exists() and partial.stat().st_size > 300_000):
        assert victim.poll() is None
        time.sleep(0.02)
    others = [_start_fetch(server, tmp_path / "file.zip") for _ in range(2)]
    victim.kill()
    victim.wait()
    assert partial.exists() and not (tmp_path / "file.zip").exists()
    server.pause = 0
    assert [process.wait(timeout=60) for process in others] == [0, 0]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert len(server.asked) == 2 and server.asked[1].startswith("bytes=")  # the victim, and one that went on


def _zip(folder: Path, members: dict[str, bytes], attributes: int = 0) -> Path:
    path = folder / "made.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes << 16
            file.writestr(info, content)
    return path


def _tar(folder: Path, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: str = "w:gz") -> Path:
    path = folder / "made.tar"
    with tarfile.open(path, mode) as file:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = len(content), kind, "../secret"
        file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "make", [_zip, *(lambda f, m, c=c: _tar(f, *next(iter(m.items())), mode=c) for c in ("w:gz", "w:xz", "w"))]
)
def test_archives_of_every_kind(tmp_path: Path, make: Callable) -> None:
    archive = make(tmp_path, {"top/sub/file.txt": b"content"})
    assert extract(archive, tmp_path / "data", top="top", progress=False) == tmp_path / "data"
    assert (tmp_path / "data" / "sub" / "file.txt").read_bytes() == b"content"
    assert extract(archive, tmp_path / "all", progress=False) / "top" in (tmp_path / "all").iterdir()
    assert _left_behind(tmp_path) == {"data", "all", archive.name}


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    extract(tmp_path / "absent.zip", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_what_a_killed_call_left_is_cleaned(tmp_path: Path) -> None:
    unfinished = tmp_path / ".data.extracting" / "top"
    unfinished.mkdir(parents=True)
    (unfinished / "old.txt").write_text("half")
    extract(_zip(tmp_path, {"top/new.txt": b"", "top/empty/": b""}), tmp_path / "data", top="top", progress=False)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"new.txt", "empty"}
    assert _left_behind(tmp_path) == {"data", "made.zip"}


def _evil_zip(name: str, mode: int = 0) -> Callable[[Path], Path]:
    return lambda folder: _zip(folder, {"data/fine.txt": b"fine", name: b"../secret"}, mode)


EVIL = {
    "absolute": _evil_zip("/etc/evil"),
    "parent": _evil_zip("data/../../evil"),
    "backslash": _evil_zip("..\\evil"),
    "drive": _evil_zip("C:\\evil"),
    "link": _evil_zip("data/link", stat.S_IFLNK | 0o777),
    "device": _evil_zip("data/device", stat.S_IFCHR | 0o666),
    "tar absolute": lambda folder: _tar(folder, "/etc/evil", b"x"),
    "tar parent": lambda folder: _tar(folder, "a/../../evil", b"x"),
    "tar symbolic link": lambda folder: _tar(folder, "link", kind=tarfile.SYMTYPE),
    "tar hard link": lambda folder: _tar(folder, "link", kind=tarfile.LNKTYPE),
    "tar device": lambda folder: _tar(folder, "device", kind=tarfile.CHRTYPE),
    "tar pipe": lambda folder: _tar(folder, "pipe", kind=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_archives_leave_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "inner").mkdir()
    archive = EVIL[kind](tmp_path)
    with pytest.raises(DataError, match=r"made\.(zip|tar): member .* is a .*do not trust"):
        extract(archive, tmp_path / "inner" / "data", progress=False)
    assert _left_behind(tmp_path) == {"inner", archive.name} and not _left_behind(tmp_path / "inner")


def test_damaged_archives_leave_nothing(tmp_path: Path) -> None:
    noise = hashlib.sha256(b"noise").digest() * 500
    for mode in ("w", "w:gz", "w:xz", "w:bz2"):
        whole = _tar(tmp_path, "data/file", noise, mode=mode).read_bytes()
        (tmp_path / "cut.tar").write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(DataError, match=r"cut\.tar: the archive cannot be read"):
            extract(tmp_path / "cut.tar", tmp_path / "data", progress=False)
    whole = bytearray(_zip(tmp_path, {"data/file": os.urandom(3000)}).read_bytes())
    whole[1000] ^= 255
    for name, content in {"flipped.zip": bytes(whole), "cut.zip": bytes(whole[:1500]), "text.zip": b"<html>"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: the archive cannot be read"):
            extract(tmp_path / name, tmp_path / "data", progress=False)
    with pytest.raises(DataError, match=r"absent\.zip: the archive cannot be read"):
        extract(tmp_path / "absent.zip", tmp_path / "data", progress=False)
    with pytest.raises(DataError, match=r"made\.zip: holds no folder 'other'"):
        extract(_zip(tmp_path, {"data/file": b""}), tmp_path / "other", top="other", progress=False)
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*.extracting"))
