"""Create .venv and install the book's environment into it. Runs on a bare Python 3.11 or later.

A stamp inside .venv says for which pyproject.toml and constraints.txt the installation finished;
while it agrees, there is nothing to do.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.sha256"
OLDEST = (3, 11)


def main() -> None:
    if sys.version_info < OLDEST:
        sys.exit(
            f"Python {sys.version.split()[0]} is too old: this book needs {OLDEST[0]}.{OLDEST[1]} or later. "
            "Name another one: make PYTHON=/path/to/python3.12 ..."
        )
    if STAMP.exists() and STAMP.read_text() == fingerprint():
        return
    STAMP.unlink(missing_ok=True)
    if not VENV_PYTHON.exists():
        create_venv()
    say("installing packages (several GB, once)")
    # One command for everything: torch and torchvision must come together, from the same index.
    pip("install", "-c", "constraints.txt", "-e", ".[book,test]", required=True)
    run("-c", "import torch, torchvision", required=True)
    say("building pydensecrf2 (once)")
    if pip("install", "-c", "constraints.txt", "-e", ".[crf]", required=False) != 0:
        say("pydensecrf2 did not build (it needs a C compiler); dense_crf will use its torch backend.")
    STAMP.write_text(fingerprint())


def fingerprint() -> str:
    """What the installed environment depends on: the two lists and where the package lies."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def create_venv() -> None:
    say(f"creating {VENV}")
    if subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode != 0:
        sys.exit(
            f"{sys.executable} cannot create a virtual environment. On Debian and Ubuntu install python3-venv; "
            "or name another Python: make PYTHON=/path/to/python3 ..."
        )


def pip(*arguments: str, required: bool) -> int:
    return run("-m", "pip", "--disable-pip-version-check", *arguments, "--quiet", required=required)


def run(*arguments: str, required: bool) -> int:
    status = subprocess.run([str(VENV_PYTHON), *arguments], cwd=ROOT).returncode
    if required and status != 0:
        sys.exit(f"failed: {VENV_PYTHON} {' '.join(arguments)} (its message is above). Run the command again.")
    return status


def say(message: str) -> None:
    print(f"environment: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
