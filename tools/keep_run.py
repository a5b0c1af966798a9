"""Keep what one run on real data gave, for a page: ``python -m tools.keep_run RUN_DIR SCORES NAME NETWORK``.

SCORES is what ``python -m wsl_core evaluate RUN_DIR --split test --json`` has printed. The run is added to
``wsl_core/claims/single_runs/NAME.json``, in place of an earlier one of the same network and random seed.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from wsl_core.claims.single_runs import FOLDER, load_single_runs
from wsl_core.files import read_json, write_json


def keep(run_dir: Path, scores: Path, name: str, network: str, folder: Path = FOLDER) -> None:
    identity, sessions = read_json(run_dir / "recipe.json"), read_json(run_dir / "environment.json")
    last = sessions[-1]
    trained = (run_dir / "model.safetensors").stat().st_mtime
    found = {key: value for key, value in read_json(scores).items() if key != "run"}  # a path of this machine
    run = {
        "network": network,
        "seed": identity["seed"],
        "recipe": identity["recipe"],
        "data": identity["data"],
        "date": datetime.fromtimestamp(trained, UTC).isoformat(timespec="seconds"),
        "hardware": f"{last['processor']}, {last['threads']} threads, {last['device']}",
        "commit": last["commit"],
        "source": last["source"],
        "minutes": round(sum(session.get("seconds", 0.0) for session in sessions) / 60, 1),
        "scores": found,
    }
    others = [one for one in load_single_runs(name, folder) if (one["network"], one["seed"]) != (network, run["seed"])]
    write_json(folder / f"{name}.json", [*others, run])


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
