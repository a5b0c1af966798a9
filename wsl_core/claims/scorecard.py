"""The claims with their verdicts, as rows and as text. Every number comes from a record or from the register."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from wsl_core.claims.measure import is_stale
from wsl_core.claims.records import RECORDS, Record, load_record, load_records
from wsl_core.claims.register import Claim, load_register
from wsl_core.claims.verdicts import Compared, Verdict, corrected_confidence, family_size, judge

__all__ = [
    "claims_markdown",
    "claims_summary",
    "claims_table",
    "recorded_runs_markdown",
    "scorecard_markdown",
    "status_text",
    "verdict_markdown",
]

VERDICTS = ("supported", "refuted", "no difference", "inconclusive", "not tested here")


def claims_table(paper: str, folder: str | Path = RECORDS) -> list[dict[str, Any]]:
    """One row a claim of the paper, in the order of the register.

    Returns:
        rows with ``id``, ``experiment`` (empty if not tested), ``section``, ``statement``, ``paper_numbers`` (list of
        texts with their source), ``metric``, ``data``, ``labels``, ``verdict``, ``reason``, ``scope``, ``comparisons``
        (list of texts, the deciding one first), ``n`` (seeds), ``scale``, ``date`` (YYYY-MM-DD), ``minutes``,
        ``hardware``, ``stale``. What was not measured has an empty scope, no comparisons and ``None`` for n, scale,
        date, minutes, hardware, stale.

    Raises:
        UsageError: no such paper.
        DataError: a record cannot be read.

    >>> claims_table("acol")[0]["id"]
    'acol-conv-map-is-cam'
    """
    claims = load_register().of(paper)
    family = family_size(claims)
    keys: dict[tuple[str, str], str] = {}
    return [_row(claim, load_record(claim.id, folder), family, keys) for claim in claims]


def verdict_markdown(claim: str, folder: str | Path = RECORDS) -> str:
    """Verdict of one claim and the comparisons behind it, a line each, the deciding one first.

    Raises:
        UsageError: no such claim.
        DataError: the record cannot be read.

    >>> verdict_markdown("acol-conv-map-is-cam").splitlines()[0].strip()
    'Verdict: **supported**.'
    """
    register = load_register()
    entry = register.claim(claim)
    verdict = judge(entry, load_record(claim, folder), family_size(register.of(entry.paper)))
    return "  \n".join([f"Verdict: **{verdict.status}**.", *_comparisons(entry, verdict)])


def claims_markdown(paper: str, folder: str | Path = RECORDS, experiments: Collection[str] | None = None) -> str:
    """The claims of one paper as a Markdown table; with ``experiments``, those alone that one of these tests.

    >>> claims_markdown("acol").splitlines()[0]
    '| Claim | Verdict | Evidence | The paper |'
    """
    rows = [_markdown_row(row) for row in _tested_by(experiments, claims_table(paper, folder))]
    return "\n".join(["| Claim | Verdict | Evidence | The paper |", "|---|---|---|---|", *rows])


def claims_summary(paper: str, folder: str | Path = RECORDS, experiments: Collection[str] | None = None) -> str:
    """What came out, as a Markdown list: the claims that are decided, and how many are not.

    Of one paper; with ``experiments``, of what one of these tests.

    >>> claims_summary("acol").startswith("- **supported**: The map of a 1x1 convolution")
    True
    """
    rows = _tested_by(experiments, claims_table(paper, folder))
    lines = []
    for verdict in VERDICTS:
        found = [row["statement"] for row in rows if row["verdict"] == verdict]
        if verdict in VERDICTS[:3]:
            lines += [f"- **{verdict}**: {statement}" for statement in found]
        elif found:
            lines.append(f"- **{verdict}**: {len(found)} claim{'s' if len(found) > 1 else ''}.")
    return "\n".join(lines)


def scorecard_markdown(folder: str | Path = RECORDS) -> str:
    """All papers, one table each, and before them a table that counts the verdicts.

    >>> "**CAM" in scorecard_markdown()
    True
    """
    register = load_register()
    tables = {paper: claims_table(paper, folder) for paper in register.papers}
    blocks = [_count([row for rows in tables.values() for row in rows]), _overview(register.papers, tables)]
    for paper, title in register.papers.items():
        blocks += [f"**{title}**", *_correction(register.of(paper)), claims_markdown(paper, folder)]
    return "\n\n".join(blocks) + "\n"


def recorded_runs_markdown(folder: str | Path = RECORDS) -> str:
    """The experiments behind the records as a Markdown table: seeds, minutes a seed, hardware, date, commit.

    >>> recorded_runs_markdown().splitlines()[0]
    '| Experiment | Seeds | Minutes a seed | Hardware | Measured | Commit |'
    """
    last = {record.experiment: record for record in load_records(folder).values()}
    rows = [
        f"| {name} | {len(record.seeds)} | {record.minutes / len(record.seeds):.1f} | {record.hardware} "
        f"| {record.date[:10]} | {record.commit[:7]} |"
        for name, record in last.items()
    ]
    return "\n".join(
        ["| Experiment | Seeds | Minutes a seed | Hardware | Measured | Commit |", "|---|---|---|---|---|---|", *rows]
    )


def status_text(folder: str | Path = RECORDS) -> str:
    """The claims that this book tests, for the terminal.

    >>> status_text().splitlines()[0].split()
    ['verdict', 'seeds', 'date', 'claim']
    """
    lines = [f"{'verdict':16}{'seeds':6}{'date':12}claim"]
    register = load_register()
    for paper in register.papers:
        for row in claims_table(paper, folder):
            if register.claim(row["id"]).tested:
                stale = "  STALE" if row["stale"] else ""
                lines.append(f"{row['verdict']:16}{row['n'] or '-':<6}{row['date'] or '-':12}{row['id']}{stale}")
                lines += [f"{'':34}{text}" for text in row["comparisons"] or [row["reason"]]]
    return "\n".join(lines)


def _row(claim: Claim, record: Record | None, family: int, keys: dict[tuple[str, str], str]) -> dict[str, Any]:
    verdict = judge(claim, record, family)
    return {
        "id": claim.id,
        "experiment": claim.experiment,
        "section": claim.section,
        "statement": claim.statement,
        "paper_numbers": [f"{number.text} ({number.source})" for number in claim.paper_numbers],
        "metric": claim.metric,
        "data": claim.data,
        "labels": claim.labels,
        "verdict": verdict.status,
        "reason": verdict.reason,
        "scope": verdict.scope,
        "comparisons": _comparisons(claim, verdict),
        "n": len(record.seeds) if record else None,
        "scale": record.scale if record else None,
        "date": record.date[:10] if record else None,
        "minutes": record.minutes if record else None,
        "hardware": record.hardware if record else None,
        "stale": is_stale(record, keys) if record else None,
    }


def _comparisons(claim: Claim, verdict: Verdict) -> list[str]:
    """The comparisons in words, the deciding one first."""
    rest = [compared for compared in verdict.compared if compared is not verdict.deciding]
    ordered = [verdict.deciding, *rest] if verdict.deciding else []
    return [_comparison(claim, compared) for compared in ordered]


def _comparison(claim: Claim, compared: Compared) -> str:
    if compared.corrected is None:
        return f"{compared.baseline}: largest error {compared.worst:.1e}, limit {compared.limit:.0e}"
    plain, corrected = compared.plain, compared.corrected
    return (
        f"{_bracketed(claim.comparison.better)} minus {_bracketed(compared.baseline)}: {_signed(plain.mean)} "
        f"(95 %: {_signed(plain.low)} to {_signed(plain.high)}; "
        f"deciding, {100 * corrected.confidence:.3g} %: {_signed(corrected.low)} to {_signed(corrected.high)}; "
        f"margin {claim.margin:g})"
    )


def _bracketed(variant: str) -> str:
    """A variant that is a difference itself stands in brackets."""
    return f"({variant})" if " minus " in variant else variant


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return "+0.000" if text == "-0.000" else text


def _tested_by(experiments: Collection[str] | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if experiments is None or row["experiment"] in experiments]


def _markdown_row(row: Mapping[str, Any]) -> str:
    cells = (
        f"{row['statement']} `{row['id']}`",
        f"**{row['verdict']}**" + (", stale" if row["stale"] else ""),
        _evidence(row),
        "; ".join(row["paper_numbers"]) or "none confirmed",
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _evidence(row: Mapping[str, Any]) -> str:
    """Why this verdict: the comparisons and where they come from, or the reason why there is none."""
    if row["n"] is None:
        return row["reason"]
    stale = "; made with other code, recipes or data than today's" if row["stale"] else ""
    made = f"{row['n']} seeds, {row['scope']}, {row['scale']} scale, {row['date']}, labels: {row['labels']}{stale}"
    return ". ".join(
        part for part in (f"{row['metric']}, {row['data']}", row["reason"], *row["comparisons"], made) if part
    )


def _count(rows: list[dict[str, Any]]) -> str:
    """How many claims have which verdict."""
    counts = Counter(row["verdict"] for row in rows)
    stale = sum(bool(row["stale"]) for row in rows)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"{len(rows)} claims: {verdicts}. {stale} of the records are stale."


def _overview(papers: Mapping[str, str], tables: Mapping[str, list[dict[str, Any]]]) -> str:
    """How many claims of which paper have which verdict."""
    rows = [
        f"| {papers[paper].partition(':')[0]} | "
        + " | ".join(str(sum(row["verdict"] == verdict for row in rows)) for verdict in VERDICTS)
        + " |"
        for paper, rows in tables.items()
    ]
    return "\n".join([f"| Paper | {' | '.join(VERDICTS)} |", "|---|" + "---|" * len(VERDICTS), *rows])


def _correction(claims: tuple[Claim, ...]) -> list[str]:
    family = family_size(claims)
    if not family:
        return []
    confidence = 100 * corrected_confidence(family)
    return [
        f"The paper's measured claims hold {family} comparisons. So that they hold together with 95 %, each is decided "
        f"by an interval of {confidence:.3g} % confidence."
    ]
