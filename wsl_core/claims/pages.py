"""Records on a page: a claim's figure and verdict, and tables of recorded runs. They display what they make."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Markdown, display
from jaxtyping import Float

from wsl_core.claims.experiments import Measurement
from wsl_core.claims.live import live_position
from wsl_core.claims.records import RECORDS, records_for
from wsl_core.claims.register import load_register
from wsl_core.claims.scorecard import verdict_markdown
from wsl_core.claims.single_runs import load_single_runs
from wsl_core.errors import UsageError
from wsl_core.show.figures import records_figure
from wsl_core.show.tables import table

__all__ = ["live_values", "recorded_claim", "recorded_table", "recorded_values", "single_runs_table"]


def recorded_claim(
    claim: str, measured: Measurement | None = None, seed: int | None = None, folder: str | Path = RECORDS
) -> None:
    """Display a claim's recorded runs, its verdict, and where the page's own run falls among them.

    Args:
        claim: identifier in the register.
        measured: what the page measured, metric -> variant -> value, at the scale of the records; ``None`` for nothing.
        seed: the page's random seed; the recorded run with the same one is left out of the range.
        folder: of the records.

    Raises:
        UsageError: no such claim.
        DataError: the record cannot be read.

    >>> recorded_claim("cam-finer-last-map", folder="no-such-folder")
    cam-finer-last-map: not recorded yet.
    """
    kept = records_for(claim, folder)
    if kept is None:
        print(f"{claim}: not recorded yet.")
        return
    live = live_values(claim, measured, folder)
    values = {name: kept["values"][name] for name in (kept["better"], *kept["baselines"])}
    records_figure(values, kept["metric"], live=live, caption=f"Claim: {load_register().claim(claim).statement}")
    display(Markdown(verdict_markdown(claim, folder)))
    for name, value in list(live.items())[:1]:  # of the variant that the claim says is better, where there is one
        display(Markdown(live_position(claim, value, name, folder, seed).sentence))


def live_values(claim: str, measured: Measurement | None, folder: str | Path = RECORDS) -> dict[str, float]:
    """What a page measured for the variants that a claim compares; empty without a record.

    >>> live_values("cam-finer-last-map", {"accuracy": {"CAM": 0.5}})
    {}
    """
    kept = records_for(claim, folder)
    if kept is None or measured is None:
        return {}
    values: Mapping[str, float] = measured.get(kept["metric"], {})
    return {name: values[name] for name in (kept["better"], *kept["baselines"]) if name in values}


def recorded_values(
    experiment: str, metric: str, folder: str | Path = RECORDS
) -> dict[str, Float[np.ndarray, " seeds"]]:
    """Values of every variant, one a random seed; none where no claim with this metric is recorded.

    Raises:
        UsageError: no claim of the register has this experiment and this metric.

    >>> recorded_values("cam-stride", "accuracy")
    Traceback (most recent call last):
    wsl_core.errors.UsageError: experiment 'cam-stride' with metric 'accuracy': no claim of the register has them.
    """
    claims = [claim for claim in load_register().claims if (claim.experiment, claim.metric) == (experiment, metric)]
    if not claims:
        raise UsageError(f"experiment {experiment!r} with metric {metric!r}: no claim of the register has them.")
    kept = (records_for(claim.id, folder) for claim in claims)
    return next((one["values"] for one in kept if one), {})


def recorded_table(
    experiment: str,
    networks: Sequence[str],
    columns: Mapping[str, tuple[str, str]],
    caption: str,
    folder: str | Path = RECORDS,
) -> None:
    """Display the means of recorded runs.

    Args:
        experiment: the register's name for it.
        networks: a row each.
        columns: heading -> metric, and what follows the network's name in the records, such as ``", min-max"``.
        caption: what the table shows; how many runs there are is added.

    Raises:
        UsageError: no claim of the register has this experiment and one of the metrics.

    >>> recorded_table("cam-zoo", ["own map"], {}, "Nothing")
    Traceback (most recent call last):
    wsl_core.errors.UsageError: columns is empty; expected one metric at least.
    """
    if not columns:
        raise UsageError("columns is empty; expected one metric at least.")
    values = {heading: recorded_values(experiment, metric, folder) for heading, (metric, _) in columns.items()}
    if not all(values.values()):
        print(f"{experiment}: not recorded yet.")
        return
    rows = [
        [network, *(values[heading][network + suffix].mean() for heading, (_, suffix) in columns.items())]
        for network in networks
    ]
    first = next(iter(next(iter(values.values())).values()))
    table(rows, ["network", *columns], f"{caption}. Means of {len(first)} recorded runs, on test", digits=2)


def single_runs_table(name: str) -> None:
    """Display what single runs on real data gave, MaxBoxAcc and accuracy, with the controls of the first run.

    Raises:
        DataError: the file of these runs cannot be read.

    >>> single_runs_table("no-such-comparison")
    no-such-comparison: no run is kept.
    """
    runs = load_single_runs(name)
    if not runs:
        print(f"{name}: no run is kept.")
        return
    rows = [_scores_row(run, "own map", run["network"]) for run in runs]
    rows += [_scores_row(run, "another image's map", f"{run['network']}, another image's map") for run in runs]
    rows.append(_scores_row(runs[0], "centre Gaussian", "centre Gaussian, no network"))
    seeds = sorted({run["seed"] for run in runs})
    made = "; ".join(sorted({f"{run['hardware']}, {run['date'][:10]}" for run in runs}))
    images = runs[0]["scores"]["images"]
    told = f"{runs[0]['data']['name']}, test, {images} images; random seed {', '.join(map(str, seeds))} alone; {made}"
    heads = ["network", "accuracy", "V1", "V2", "V1, min-max", "V2, min-max"]
    table(rows, heads, f"MaxBoxAcc (V1, V2) and accuracy: {told}", digits=3)


def _scores_row(run: Mapping[str, Any], score_map: str, name: str) -> list[str | float]:
    own = score_map == "own map"
    found = {one["normalization"]: one for one in run["scores"]["max_box_acc"] if one["name"] == score_map}
    boxes = [
        found[how][f"max_box_acc_{rule}"] if how in found else "" for how in ("max", "minmax") for rule in ("v1", "v2")
    ]
    return [name, run["scores"]["classification"]["accuracy"] if own else "", *boxes]
