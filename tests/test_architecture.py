"""Who may import whom, and what an import must not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wsl_core"

# A room imports only from rooms of earlier lines, and from those neighbours on its own line that NEIGHBOURS grants it.
ROOMS = (
    ("errors", "files"),
    ("ops",),
    ("data", "backbones"),
    ("refine", "localize", "matching"),
    ("segmentation",),
    ("papers",),
    ("metrics",),
    ("training", "recipes"),
    ("claims", "show"),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
NEIGHBOURS = {("files", "errors"), ("training", "recipes"), ("claims", "show")}

BLOCKED_IMPORT = """
import sys

ROOT = sys.argv[1]

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        raise RuntimeError(f"the import opens a connection: {event} {arguments}")
    if event in ("os.listdir", "os.scandir") and str(arguments[0]) in (".", ROOT):
        frame = sys._getframe(1)
        if "wsl_core" in frame.f_globals.get("__name__", ""):
            raise RuntimeError("the import reads the working directory")
    if event == "open" and str(arguments[0]).startswith(ROOT):
        raise RuntimeError(f"the import opens a file of the working directory: {arguments[0]}")

import importlib, pkgutil
sys.addaudithook(watch)
import wsl_core
for module in pkgutil.walk_packages(wsl_core.__path__, "wsl_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("quiet")
"""


def room_of(module: str) -> str:
    """The room of a dotted module name: "wsl_core.data.base" is in "data"."""
    return module.split(".")[1]


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, at its top and inside its functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write wsl_core.…"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_allowed(room: str, other: str) -> bool:
    return other == room or (room, other) in NEIGHBOURS or LEVEL[other] < LEVEL[room]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_lead_to_the_left(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    inside = {name for name in imported_modules(path) if name.startswith("wsl_core.")} - {"wsl_core.__version__"}
    if room == "__init__":
        assert inside == set()
        return
    assert room in LEVEL, f"{path.name}: a new room needs its place in ROOMS"
    assert {name for name in inside if not is_allowed(room, room_of(name))} == set()


def test_no_two_rooms_import_each_other() -> None:
    edges = {
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), room_of(name))
        for path in FILES
        for name in imported_modules(path)
        if name.startswith("wsl_core.")
    }
    assert not {(a, b) for a, b in edges if a != b and (b, a) in edges}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_imports_what_is_not_the_package(path: Path) -> None:
    outside = {name.split(".")[0] for name in imported_modules(path)}
    assert outside.isdisjoint({"notebooks", "book", "tests", "tools", "benchmarks"})


def test_an_import_neither_connects_nor_reads_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "register.yml").write_text("a trap")
    command = [sys.executable, "-c", BLOCKED_IMPORT, str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == "quiet", result.stderr
