import pytest
import yaml

from wsl_core.claims.register import REGISTER, load_register
from wsl_core.errors import DataError, UsageError

ENTRY = {
    "id": "cam-example",
    "paper": "cam",
    "section": "method",
    "statement": "One is better than the other.",
    "kind": "paired",
    "experiment": "cam-zoo",
    "metric": "accuracy",
    "data": "synthetic",
    "labels": "none",
    "comparison": {"better": "one", "baselines": ["other"]},
    "margin": 0.02,
}
EQUAL = {**ENTRY, "kind": "equal"}
EXACT = {**ENTRY, "kind": "exact", "comparison": {"limits": {"float32": 1e-5}}}
EXACT.pop("margin")
UNTESTED = {key: ENTRY[key] for key in ENTRY if key not in ("experiment", "labels", "margin")}
UNTESTED |= {"kind": "not tested here", "reason": "needs a GPU"}


@pytest.fixture
def register_with(tmp_path):
    def write(*entries):
        path = tmp_path / "register.yml"
        path.write_text(yaml.safe_dump({"papers": {"cam": "CAM"}, "claims": list(entries)}), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("entry", [ENTRY, EQUAL, EXACT, UNTESTED], ids=lambda entry: entry["kind"])
def test_each_kind_can_be_read(register_with, entry):
    (claim,) = load_register(register_with(entry)).claims
    assert claim.kind == entry["kind"] and claim.statement == entry["statement"]
    assert claim.subtracts == (claim.margin > 0)


def without(field, entry=ENTRY):
    return {key: value for key, value in entry.items() if key != field}


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (without("statement"), "statement"),
        (without("margin"), "margin"),
        (without("margin", EQUAL), "margin"),
        (without("experiment"), "experiment"),
        (without("comparison"), "comparison"),
        (without("reason", UNTESTED), "reason"),
        ({**ENTRY, "id": "CAM Example"}, "id"),
        ({**ENTRY, "paper": "yolo"}, "paper"),
        ({**ENTRY, "kind": "sometimes"}, "kind"),
        ({**ENTRY, "labels": "guessed"}, "labels"),
        ({**ENTRY, "margin": 0}, "margin"),
        ({**ENTRY, "margin": "1e-2"}, "margin"),
        ({**ENTRY, "margin": True}, "margin"),
        ({**ENTRY, "comparison": {"better": "one", "baselines": []}}, "comparison"),
        ({**ENTRY, "comparison": {"better": "one", "baselines": ["one"]}}, "comparison"),
        ({**ENTRY, "comparison": {"limits": {"one": 1.0}}}, "comparison"),
        ({**EXACT, "comparison": {"limits": {"float32": -1.0}}}, "comparison"),
        ({**ENTRY, "colour": "blue"}, "colour"),
        ({**UNTESTED, "margin": 0.02}, "margin"),
        ({**ENTRY, "paper_numbers": [{"text": "37.1", "source": "memory"}]}, "paper_numbers"),
        ({**ENTRY, "paper_numbers": [{"text": "37.1"}]}, "paper_numbers"),
    ],
)
def test_an_error_names_file_claim_and_field(register_with, entry, field):
    path = register_with(entry)
    with pytest.raises(DataError) as caught:
        load_register(path)
    for named in (str(path), repr(entry["id"]), repr(field)):
        assert named in str(caught.value)


def test_an_entry_without_a_name_is_counted(register_with):
    with pytest.raises(DataError, match="claim 'number 2': field 'id' is missing"):
        load_register(register_with(ENTRY, without("id")))


def test_two_claims_of_one_name(register_with):
    with pytest.raises(DataError, match="'cam-example' is there twice"):
        load_register(register_with(ENTRY, UNTESTED))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "list at the top"), ("{}", "papers")]
)
def test_a_file_that_is_no_register(tmp_path, text, message):
    path = tmp_path / "register.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_register(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        load_register(tmp_path / "nowhere.yml")


def test_unknown_names_list_what_there_is():
    register = load_register()
    with pytest.raises(UsageError, match="cam-map-mean-is-logit"):
        register.claim("cam-is-best")
    with pytest.raises(UsageError, match="affinitynet"):
        register.of("yolo")


def test_the_book_registers_every_paper_and_measures_the_first_chapter():
    register = load_register()
    assert list(register.papers) == ["cam", "acol", "gain", "anchornet", "introspection", "affinitynet"]
    assert all(register.of(paper) for paper in register.papers)
    assert sum(claim.tested for claim in register.of("cam")) >= 7


def test_identifiers_begin_with_their_paper():
    assert all(claim.id.startswith(f"{claim.paper}-") for claim in load_register().claims)


def test_no_number_comes_from_memory():
    text = REGISTER.read_text(encoding="utf-8")
    sources = [number.source for claim in load_register().claims for number in claim.paper_numbers]
    assert sources and not any("memory" in source or "unknown" in source for source in sources)
    assert "seed:" not in text  # a blog post about a paper is a write-up
