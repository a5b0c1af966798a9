"""The register: what the papers claim, and what would count as an answer, written down before anything is measured."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import yaml

from wsl_core.errors import DataError, UsageError

__all__ = ["REGISTER", "Claim", "Comparison", "Kind", "PaperNumber", "Register", "load_register"]

REGISTER = Path(__file__).with_name("register.yml")

Kind = Literal["exact", "paired", "equal", "not tested here"]
LABEL_SOURCES = ("ground truth", "predicted", "none")
_IDENTIFIER = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SOURCE = re.compile(r"derived|write-up \d{3}|(pdf|code|web) \S.*")


@dataclass(frozen=True)
class PaperNumber:
    """A number that the paper prints, and where it was read. What is only remembered is not printed."""

    text: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """What is compared: one variant against each of the baselines, or each variant against its limit.

    Attributes:
        better: the variant that the claim says is better, or as good as the others; empty for exact claims.
        baselines: the claim has to hold against each of them.
        limits: exact claims: the largest error allowed, for each variant.
    """

    better: str
    baselines: tuple[str, ...]
    limits: Mapping[str, float]

    @property
    def variants(self) -> tuple[str, ...]:
        """Every variant that has to be measured."""
        return (self.better, *self.baselines) if self.better else tuple(self.limits)


@dataclass(frozen=True)
class Claim:
    """One testable claim of one paper. The fields are explained at the head of ``register.yml``."""

    id: str
    paper: str
    section: str
    statement: str
    kind: Kind
    metric: str
    data: str
    comparison: Comparison
    paper_numbers: tuple[PaperNumber, ...] = ()
    experiment: str = ""
    margin: float = 0.0
    labels: str = ""
    reason: str = ""

    @property
    def tested(self) -> bool:
        """Whether this book measures the claim."""
        return self.kind != "not tested here"

    @property
    def subtracts(self) -> bool:
        """Whether it is about differences between variants that share their seeds."""
        return self.kind in ("paired", "equal")


@dataclass(frozen=True)
class Register:
    """All papers and all claims, in the order of the chapters.

    >>> load_register().claim("cam-map-mean-is-logit").kind
    'exact'
    """

    papers: Mapping[str, str]
    claims: tuple[Claim, ...]

    def claim(self, identifier: str) -> Claim:
        """The claim of this name.

        Raises:
            UsageError: there is none.
        """
        for claim in self.claims:
            if claim.id == identifier:
                return claim
        raise UsageError(f"claim {identifier!r} is not in the register; expected one of {', '.join(self.ids)}.")

    def of(self, paper: str) -> tuple[Claim, ...]:
        """The claims of one paper.

        Raises:
            UsageError: no such paper.
        """
        if paper not in self.papers:
            raise UsageError(f"paper {paper!r} is not in the register; expected one of {', '.join(self.papers)}.")
        return tuple(claim for claim in self.claims if claim.paper == paper)

    @property
    def ids(self) -> tuple[str, ...]:
        """The identifiers of all claims."""
        return tuple(claim.id for claim in self.claims)


def load_register(path: str | Path | None = None) -> Register:
    """Read and check a register; by default the one that ships with the package.

    Raises:
        DataError: the file is missing or not YAML, or an entry breaks the schema; the message names file, claim and
            field.

    >>> "cam" in load_register().papers
    True
    """
    return _load(Path(path or REGISTER))


@cache
def _load(path: Path) -> Register:
    document = _read_yaml(path)
    papers = document.get("papers")
    entries = document.get("claims")
    if not isinstance(papers, dict) or not isinstance(entries, list):
        raise DataError(f"{path}: expected a mapping `papers` and a list `claims` at the top level.")
    claims = tuple(_Entry(path, position, entry).claim() for position, entry in enumerate(entries))
    _check_together(path, papers, claims)
    return Register(papers, claims)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; expected the register of claims.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid YAML ({error}). Correct the line that it names.") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: found {type(document).__name__} at the top level; expected `papers` and `claims`.")
    return document


def _check_together(path: Path, papers: dict[str, str], claims: tuple[Claim, ...]) -> None:
    """Check what one entry cannot know: unique identifiers, known papers."""
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise DataError(f"{path}: claim {claim.id!r} is there twice. Give one of them another id.")
        seen.add(claim.id)
        if claim.paper not in papers:
            raise DataError(
                f"{path}: claim {claim.id!r}: field 'paper' is {claim.paper!r}; expected one of {', '.join(papers)}."
            )


class _Entry:
    """One entry of the file on its way to a `Claim`; every complaint names file, claim and field."""

    def __init__(self, path: Path, position: int, entry: Any):
        self.path = path
        if not isinstance(entry, dict):
            raise DataError(f"{path}: claim number {position + 1} is {entry!r}; expected a mapping with an id.")
        self.entry = dict(entry)
        self.name = repr(self.entry.get("id", f"number {position + 1}"))

    def claim(self) -> Claim:
        identifier = self.text("id")
        if not _IDENTIFIER.fullmatch(identifier):
            self.fail("id", identifier, "lower-case words joined by hyphens")
        kind = self.choice("kind", get_args(Kind))
        claim = Claim(
            id=identifier,
            paper=self.text("paper"),
            section=self.text("section"),
            statement=self.text("statement"),
            kind=kind,
            metric=self.text("metric"),
            data=self.text("data"),
            comparison=self.comparison(exact=kind == "exact"),
            paper_numbers=self.paper_numbers(),
            **self.measuring(kind),
        )
        if self.entry:
            raise DataError(
                f"{self.path}: claim {self.name}: field {next(iter(self.entry))!r} is not known in a claim of the kind "
                f"{kind!r}. Correct its spelling or leave it out."
            )
        return claim

    def measuring(self, kind: str) -> dict[str, Any]:
        """The fields that depend on the kind."""
        if kind == "not tested here":
            return {"reason": self.text("reason")}
        fields: dict[str, Any] = {
            "experiment": self.text("experiment"),
            "labels": self.choice("labels", LABEL_SOURCES),
        }
        if kind != "exact":
            fields["margin"] = self.positive("margin", self.entry.pop("margin", None))
        return fields

    def comparison(self, exact: bool) -> Comparison:
        found = self.entry.pop("comparison", None)
        if not isinstance(found, dict):
            self.fail("comparison", found, "a mapping")
        if exact:
            limits = found.get("limits")
            if set(found) != {"limits"} or not isinstance(limits, dict) or not limits:
                self.fail("comparison", found, "{limits: {VARIANT: largest error, ...}} for an exact claim")
            return Comparison("", (), {name: self.positive("comparison", limit) for name, limit in limits.items()})
        better, baselines = found.get("better"), found.get("baselines")
        well_formed = set(found) == {"better", "baselines"} and isinstance(better, str) and isinstance(baselines, list)
        if not well_formed or not baselines or not all(isinstance(name, str) for name in baselines):
            self.fail("comparison", found, "{better: VARIANT, baselines: [VARIANT, ...]}")
        if len({better, *baselines}) != 1 + len(baselines):
            self.fail("comparison", found, "variants that differ from one another")
        return Comparison(better, tuple(baselines), {})

    def paper_numbers(self) -> tuple[PaperNumber, ...]:
        found = self.entry.pop("paper_numbers", [])
        if not isinstance(found, list):
            self.fail("paper_numbers", found, "a list of {text, source}")
        return tuple(self.paper_number(number) for number in found)

    def paper_number(self, number: Any) -> PaperNumber:
        if not isinstance(number, dict) or set(number) != {"text", "source"} or not isinstance(number["text"], str):
            self.fail("paper_numbers", number, "{text: TEXT, source: SOURCE}")
        if not _SOURCE.fullmatch(str(number["source"])):
            expected = "a source: 'write-up NNN', 'pdf ...', 'code ...', 'web ...' or 'derived'"
            self.fail("paper_numbers", number["source"], expected)
        return PaperNumber(number["text"], number["source"])

    def text(self, field: str) -> str:
        value = self.entry.pop(field, None)
        if not isinstance(value, str) or not value.strip():
            self.fail(field, value, "a text")
        return value.strip()

    def choice(self, field: str, choices: tuple[str, ...]) -> Any:
        value = self.entry.pop(field, None)
        if value not in choices:
            self.fail(field, value, f"one of {', '.join(choices)}")
        return value

    def positive(self, field: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            self.fail(field, value, "a number above 0, written with a point (1.0e-5)")
        return float(value)

    def fail(self, field: str, found: Any, expected: str) -> NoReturn:
        problem = "is missing" if found is None else f"is {found!r}"
        raise DataError(f"{self.path}: claim {self.name}: field {field!r} {problem}; expected {expected}.")
