import re

import pytest

from wsl_core.claims import claims_markdown, claims_summary, claims_table, load_register, scorecard_markdown
from wsl_core.claims.records import save_record
from wsl_core.claims.scorecard import status_text
from wsl_core.errors import UsageError

TEXT = {
    "own map": [0.60, 0.62, 0.58, 0.61, 0.64],
    "untrained network": [0.20, 0.23, 0.18, 0.20, 0.23],
    "another image's map": [0.30, 0.32, 0.29, 0.31, 0.33],
    "centre Gaussian": [0.59, 0.60, 0.59, 0.60, 0.63],
}
EXACT = {"float32": [1e-7] * 5, "float64": [2e-16] * 5}


@pytest.fixture
def folder(tmp_path, record_of):
    register = load_register()
    save_record(record_of(register.claim("cam-concept-text"), **TEXT), tmp_path)
    save_record(record_of(register.claim("cam-map-mean-is-logit"), **EXACT), tmp_path)
    return tmp_path


def row_of(folder, identifier):
    (row,) = (row for row in claims_table("cam", folder) if row["id"] == identifier)
    return row


def test_a_measured_claim(folder):
    row = row_of(folder, "cam-concept-text")
    assert row["verdict"] == "inconclusive"  # clear against two baselines, not against the third
    assert row["comparisons"][0].startswith("own map minus centre Gaussian: +0.008")
    assert len(row["comparisons"]) == 3 and "deciding" in row["comparisons"][0]
    assert (row["n"], row["scope"], row["scale"], row["date"]) == (5, "synthetic", "book", "2025-01-01")
    assert row["stale"] is True  # its key is none that today's code would give


def test_an_exact_claim(folder):
    row = row_of(folder, "cam-map-mean-is-logit")
    assert row["verdict"] == "supported"
    assert row["comparisons"][0] == "float32: largest error 1.0e-07, limit 1e-05"


def test_a_claim_that_is_not_tested(folder):
    row = row_of(folder, "cam-surgery-costs-little")
    assert (row["verdict"], row["n"]) == ("not tested here", None) and "needs ImageNet" in row["reason"]
    assert any("1 to 2 %" in text and "third-party note" in text for text in row["paper_numbers"])


def test_every_claim_has_its_row():
    register = load_register()
    for paper in register.papers:
        assert [row["id"] for row in claims_table(paper)] == [claim.id for claim in register.of(paper)]
    with pytest.raises(UsageError, match="not in the register"):
        claims_table("yolo")


def test_the_scorecard_is_complete_and_has_no_links(folder):
    text = scorecard_markdown(folder)
    register = load_register()
    assert all(f"`{identifier}`" in text for identifier in register.ids)
    assert all(f"**{title}**" in text for title in register.papers.values())
    assert "](" not in text and "http" not in text
    assert f"{len(register.claims)} claims:" in text and "2 of the records are stale" in text
    assert "**supported**, stale" in text


def test_the_summary_tells_what_is_decided_and_counts_the_rest(folder):
    lines = claims_summary("cam", folder).splitlines()
    assert lines[0] == f"- **supported**: {row_of(folder, 'cam-map-mean-is-logit')['statement']}"
    assert lines[1] == "- **inconclusive**: 1 claim." and "not tested here" in lines[2] and len(lines) == 3
    assert claims_summary("cam", folder, experiments={"cam-text"}) == "- **inconclusive**: 1 claim."


def test_the_overview_counts_every_claim_once(folder):
    table = scorecard_markdown(folder).split("| Paper |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    counts = {name: list(map(int, cells)) for name, *cells in rows}
    register = load_register()
    assert len(counts) == len(register.papers)
    assert sum(map(sum, counts.values())) == len(register.claims)
    assert counts["CAM"][0] == 1 and counts["ACoL"] == [0, 0, 0, 0, len(register.of("acol"))]


def test_a_difference_of_differences_has_brackets_and_zero_has_no_minus(tmp_path, record_of):
    claim = next(claim for claim in load_register().of("gain") if " minus " in claim.comparison.better)
    names = claim.comparison.variants
    save_record(record_of(claim, **{name: [0.1] * 5 for name in names}), tmp_path)
    (row,) = (row for row in claims_table("gain", tmp_path) if row["id"] == claim.id)
    assert row["comparisons"][0].startswith(f"({names[0]}) minus ({names[1]}): +0.000 (95 %: +0.000 to +0.000")


def test_tables_have_four_cells_a_row(folder):
    rows = claims_markdown("cam", folder).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_status_for_the_terminal(folder):
    text = status_text(folder)
    assert "cam-concept-text  STALE" in text and "cam-surgery-costs-little" not in text and "not measured yet" in text


def test_the_claims_of_some_experiments(folder):
    lines = claims_markdown("cam", folder, experiments={"cam-text"}).splitlines()
    assert len(lines) == 3 and "cam-concept-text" in lines[2]
