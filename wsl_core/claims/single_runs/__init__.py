"""What single runs on real data gave, one JSON file a comparison. One random seed proves nothing: no verdict uses them.

``python -m tools.keep_run`` writes them.
"""

from pathlib import Path
from typing import Any

from wsl_core.errors import DataError
from wsl_core.files import read_json

__all__ = ["load_single_runs"]

FOLDER = Path(__file__).parent
FIELDS = {"network", "seed", "recipe", "data", "date", "hardware", "commit", "source", "minutes", "scores"}


def load_single_runs(name: str, folder: str | Path = FOLDER) -> list[dict[str, Any]]:
    """The runs of a comparison, in the order in which they were kept; none where there is no file.

    Returns:
        one entry a run: ``network``, ``seed``, ``recipe``, ``data``, ``date`` (ISO 8601), ``hardware``, ``commit``,
        ``source``, ``minutes`` (of training) and ``scores``, as ``python -m wsl_core evaluate`` prints them.

    Raises:
        DataError: the file is no list of runs.

    >>> load_single_runs("no-such-comparison")
    []
    """
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        return []
    runs = read_json(path)
    if not isinstance(runs, list) or not all(isinstance(run, dict) and set(run) == FIELDS for run in runs):
        raise DataError(f"{path}: not a list of runs with the fields {sorted(FIELDS)}. Write it with tools.keep_run.")
    return runs
