"""Records on a page: what is shown of them, and what is not there yet."""

import numpy as np
import pytest

from wsl_core.claims import load_register, pages, records_for
from wsl_core.errors import UsageError

CLAIM = "acol-erasing-does-it"


@pytest.fixture
def shown(monkeypatch):
    """What is displayed instead of on a page: (kind, arguments, keywords)."""
    calls = []
    monkeypatch.setattr(pages, "display", lambda text: calls.append(("text", text.data)))
    monkeypatch.setattr(pages, "records_figure", lambda *args, **options: calls.append(("figure", args, options)))
    monkeypatch.setattr(pages, "table", lambda *args, **options: calls.append(("table", args)))
    return calls


def test_a_claim_shows_its_runs_its_verdict_and_the_live_run_of_its_variants(shown):
    kept, entry = records_for(CLAIM), load_register().claim(CLAIM)
    pages.recorded_claim(CLAIM, {entry.metric: {"ACoL": 0.25, "Hide-and-Seek": 0.5}, "another": {"ACoL": 1.0}}, seed=0)
    (_, (values, metric), options), (_, verdict), (_, sentence) = shown
    assert list(values) == ["ACoL", "nothing erased"] and metric == entry.metric
    assert values["ACoL"] is kept["values"]["ACoL"] or np.array_equal(values["ACoL"], kept["values"]["ACoL"])
    assert options == {"live": {"ACoL": 0.25}, "caption": f"Claim: {entry.statement}"}
    assert verdict.startswith("Verdict: **") and "ACoL minus nothing erased" in verdict
    assert "0.250 for ACoL" in sentence and "4 recorded runs" in sentence  # seed 0 is left out


def test_without_a_live_run_there_is_no_sentence_about_it(shown):
    pages.recorded_claim(CLAIM)
    assert [kind for kind, *_ in shown] == ["figure", "text"] and shown[0][2]["live"] == {}


def test_what_is_not_recorded_is_said(shown, tmp_path, capsys):
    pages.recorded_claim(CLAIM, folder=tmp_path)
    metric = load_register().claim(CLAIM).metric
    pages.recorded_table("acol-creatures", ["ACoL"], {"accuracy": (metric, "")}, "None", folder=tmp_path)
    assert shown == []
    assert capsys.readouterr().out == f"{CLAIM}: not recorded yet.\nacol-creatures: not recorded yet.\n"
    assert pages.recorded_values("acol-creatures", metric, tmp_path) == {}
    with pytest.raises(UsageError, match="acol-nothing"):
        pages.recorded_claim("acol-nothing", folder=tmp_path)


def test_a_table_has_the_means_of_the_runs(shown):
    metric = load_register().claim(CLAIM).metric
    columns = {"own": (metric, ""), "min-max": (metric, ", min-max")}
    pages.recorded_table("acol-creatures", ["ACoL", "one classifier"], columns, "Boxes")
    ((_, (rows, heads, caption)),) = shown
    values = records_for(CLAIM)["values"]
    assert heads == ["network", "own", "min-max"] and caption == "Boxes. Means of 5 recorded runs, on test"
    assert rows[1] == ["one classifier", values["one classifier"].mean(), values["one classifier, min-max"].mean()]
