import dataclasses
import json
import math

import numpy as np
import pytest

from wsl_core.claims import live_position, load_register
from wsl_core.claims.records import Record, differences, load_record, load_records, records_for, save_record
from wsl_core.errors import DataError, UsageError
from wsl_core.files import read_json

VALUES = {"output stride 8": [0.60, 0.62, 0.58, 0.61, 0.64], "output stride 16": [0.50, 0.53, 0.48, 0.50, 0.53]}
CLAIM = "cam-finer-last-map"


@pytest.fixture
def record(record_of):
    return record_of(load_register().claim(CLAIM), **VALUES)


@pytest.fixture
def folder(tmp_path, record):
    save_record(record, tmp_path)
    return tmp_path


def test_a_record_survives_the_disk(folder, record):
    assert load_record(CLAIM, folder) == record
    assert load_records(folder) == {CLAIM: record}


def test_a_record_is_small_and_says_where_it_comes_from(folder):
    path = folder / f"{CLAIM}.json"
    assert path.stat().st_size < 5000
    written = read_json(path)
    for field in ("seeds", "values", "differences", "scale", "scope", "data_version", "key", "commit", "code_version"):
        assert field in written
    for field in ("hardware", "date", "minutes"):
        assert written[field]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("key"), "fields that differ: \\['key'\\]"),
        (lambda found: found.update(mood="good"), "mood"),
        (lambda found: found.update(claim="cam-other"), "holds the record of 'cam-other'"),
        (lambda found: found["values"]["output stride 8"].pop(), "4 values for 5 seeds"),
    ],
)
def test_a_file_that_is_no_record_of_the_claim(folder, change, message):
    path = folder / f"{CLAIM}.json"
    found = read_json(path)
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_record(CLAIM, folder)


def test_half_a_file(folder):
    (folder / f"{CLAIM}.json").write_text('{"claim": "cam', encoding="utf-8")
    with pytest.raises(DataError, match=f"{CLAIM}.json: not valid JSON"):
        load_record(CLAIM, folder)


def test_differences_are_paired_by_seed():
    found = differences(load_register().claim(CLAIM), VALUES)["output stride 16"]
    assert found["mean"] == pytest.approx(np.mean(np.subtract(*VALUES.values())))
    assert found["low"] < found["mean"] < found["high"] and (found["n"], found["confidence"]) == (5, 0.95)
    assert differences(load_register().claim(CLAIM), {name: numbers[:1] for name, numbers in VALUES.items()}) == {}


def test_what_a_figure_gets(folder):
    shown = records_for(CLAIM, folder)
    assert shown["seeds"].tolist() == [0, 1, 2, 3, 4]
    assert shown["values"]["output stride 8"].tolist() == VALUES["output stride 8"]
    assert shown["differences"]["output stride 16"] == pytest.approx(np.subtract(*VALUES.values()))
    assert shown["better"] == "output stride 8" and shown["margin"] == load_register().claim(CLAIM).margin
    assert records_for("cam-concept-text", folder) is None
    with pytest.raises(UsageError, match="not in the register"):
        records_for("cam-nothing", folder)


@pytest.mark.parametrize(("value", "where"), [(0.61, "inside"), (0.75, "above"), (0.40, "below")])
def test_where_a_live_value_falls(folder, value, where):
    position = live_position(CLAIM, value, folder=folder)
    assert position.where == where and position.variant == "output stride 8"
    assert f"{value:.3f}" in position.sentence and where in position.sentence and "5 recorded runs" in position.sentence


def test_a_live_run_is_not_compared_with_itself(folder):
    assert "4 recorded runs" in live_position(CLAIM, 0.61, folder=folder, seed=3).sentence
    assert "5 recorded runs" in live_position(CLAIM, 0.61, folder=folder, seed=7).sentence


def test_a_live_control_is_held_against_its_own_records(folder):
    assert live_position(CLAIM, 0.50, "output stride 16", folder).where == "inside"
    assert live_position(CLAIM, 0.50, "output stride 8", folder).where == "below"
    with pytest.raises(UsageError, match="variant 'output stride 4'"):
        live_position(CLAIM, 0.50, "output stride 4", folder)


def test_a_live_value_without_records(tmp_path):
    position = live_position("cam-map-mean-is-logit", 3e-7, folder=tmp_path)
    assert (position.where, position.expected) == ("not recorded", None) and "3.0e-07" in position.sentence


def test_the_records_that_ship_are_whole():
    """Those of the package, if it has any yet: no smoke, enough seeds, the interval that their values give."""
    register = load_register()
    for identifier, record in load_records().items():
        claim = register.claim(identifier)
        assert isinstance(record, Record) and claim.tested
        assert record.scale in ("book", "paper") and len(record.seeds) >= 5
        assert set(claim.comparison.variants) <= set(record.values)
        assert record.metric == claim.metric
        for baseline, recomputed in differences(claim, record.values).items():
            assert record.differences[baseline] == pytest.approx(recomputed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seeds": [0, 0]}, "expected different ones"), ({"values": {"one": [0.1, math.nan]}}, "finite")],
)
def test_impossible_records(record_of, changes, message):
    record = record_of(load_register().claim(CLAIM), **VALUES)
    with pytest.raises(DataError, match=message):
        dataclasses.replace(record, **({"seeds": [0, 1], "values": {"one": [0.1, 0.2]}} | changes))
