"""Every benchmark, one after the other: ``python -m benchmarks [NAME ...]``."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    known = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
    wanted = sys.argv[1:] or known
    if unknown := sorted(set(wanted) - set(known)):
        print(f"benchmark {unknown[0]!r} does not exist; expected one of {', '.join(known)}.", file=sys.stderr)
        return 2
    return max(subprocess.run([sys.executable, FOLDER / f"{name}.py"]).returncode for name in wanted)


if __name__ == "__main__":
    sys.exit(main())
