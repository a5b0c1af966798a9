"""``python -m wsl_core.claims``: measure claims, see where they stand."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wsl_core.claims.measure import measure
from wsl_core.claims.records import RECORDS
from wsl_core.claims.scorecard import status_text
from wsl_core.errors import UsageError, WSLError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; results go to standard output, progress and errors to standard error.

    Returns:
        0, or 2 for a wrong argument, or 1 for anything else that went wrong.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "measure":
            measure(options.claims, options.scale, options.seeds, options.out)
        print(status_text(options.out))
    except (WSLError, OSError) as error:  # an OSError: no room, no permission
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wsl_core.claims", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="train what claims compare and write records; resumable")
    measuring.add_argument("claims", nargs="*", metavar="CLAIM", help="identifiers; by default every claim tested here")
    measuring.add_argument("--seeds", type=int, default=5, help="how many random seeds (default 5)")
    measuring.add_argument("--scale", default="book", choices=("smoke", "book", "paper"))
    status = commands.add_parser("status", help="print the verdicts, stale records flagged")
    for command in (measuring, status):
        command.add_argument("--out", type=Path, default=RECORDS, metavar="DIR", help="the folder of the records")
    return parser


if __name__ == "__main__":
    sys.exit(main())
