"""The machinery that makes records, with a network that trains for one step and a measurement that counts its calls."""

import dataclasses
import math

import pytest
import torch

from wsl_core.claims.__main__ import main
from wsl_core.claims.experiments import EXPERIMENTS, Experiment, base, get_experiment
from wsl_core.claims.experiments.cam import CHOSEN
from wsl_core.claims.measure import is_stale, measure
from wsl_core.claims.records import RECORDS, load_record
from wsl_core.claims.register import load_register
from wsl_core.errors import TrainingError, UsageError
from wsl_core.papers import build_for
from wsl_core.training import open_split, runs, sources, sources_of

CLAIM = "cam-finer-last-map"
SMALL = {"images": 4, "in_memory": False, "data": {"size": 32}}
TINY = SMALL | {"steps": 1, "batch_size": 2, "model": {"width": 4}, "channels_last": False}


class Counted:
    """A measurement that notes each call, and fails where it is told to."""

    def __init__(self):
        self.models, self.value = [], 0.6
        self.fail_at = None

    def __call__(self, models, data):
        if len(self.models) == self.fail_at:
            raise KeyboardInterrupt
        self.models.append(models["CAM"])
        return {CHOSEN: {"output stride 8": self.value, "output stride 16": 0.5}}


@pytest.fixture
def counted(monkeypatch, tmp_path):
    monkeypatch.setenv("WSL_CACHE", str(tmp_path / "cache"))
    for module in (base, runs, sources):  # under the type checker the digest of the real source takes seconds
        monkeypatch.setattr(module, "source_digest", lambda sources: "digest of " + ", ".join(sources))
    measurement = Counted()
    monkeypatch.setitem(EXPERIMENTS, "cam-stride", experiment_with(measurement))
    return measurement


def experiment_with(measurement, name="cam-stride", **changes):
    return Experiment(name, "cam", "synthetic", "synthetic", {"CAM": TINY | changes}, lambda recipe: {}, measurement)


def measure_smoke(folder, seeds=1):
    return measure([CLAIM], "smoke", seeds, folder)


def test_a_record_has_one_value_a_seed(counted, tmp_path, capsys):
    (record,) = measure_smoke(tmp_path, seeds=2)
    assert record == load_record(CLAIM, tmp_path)
    assert record.seeds == [0, 1] and record.values["output stride 16"] == [0.5, 0.5]
    assert record.key == EXPERIMENTS["cam-stride"].key("smoke") and not is_stale(record)
    assert "training of CAM" in record.data_version and record.minutes >= 0 and "threads" in record.hardware
    first, second = (model.classifier.weight for model in counted.models)
    assert not torch.equal(first, second)
    said = capsys.readouterr()
    assert "seed 2 of 2" in said.err and said.out == ""


def test_what_was_measured_is_not_measured_again(counted, tmp_path):
    measure_smoke(tmp_path)
    measure_smoke(tmp_path)
    assert len(counted.models) == 1
    assert measure_smoke(tmp_path, seeds=2)[0].seeds == [0, 1]
    assert len(counted.models) == 2


def test_fewer_seeds_never_shrink_a_record(counted, monkeypatch, tmp_path, capsys):
    """Two claims of one experiment: one has been measured with more seeds than are asked for, the other not at all."""
    more, new = "cam-map-mean-is-logit", "cam-grad-cam-is-cam"
    metrics = [load_register().claim(name).metric for name in (more, new)]
    values = {metric: {"float32": 0.0, "float64": 0.0} for metric in metrics}
    monkeypatch.setitem(EXPERIMENTS, "cam-zoo", experiment_with(lambda models, data: values, "cam-zoo"))
    (before,) = measure([more], "smoke", 3, tmp_path)
    capsys.readouterr()
    both = measure([more, new], "smoke", 2, tmp_path)
    assert both[0] == before == load_record(more, tmp_path) and both[1].seeds == [0, 1]
    assert f"{more}: the record of 3 seeds is current" in capsys.readouterr().err
    assert [record.seeds for record in measure([new, more], "smoke", 4, tmp_path)] == [[0, 1, 2, 3]] * 2


def test_a_killed_measurement_goes_on_with_the_seed_it_was_at(counted, tmp_path, capsys):
    counted.fail_at = 1
    with pytest.raises(KeyboardInterrupt):
        measure_smoke(tmp_path, seeds=2)
    assert load_record(CLAIM, tmp_path) is None
    counted.fail_at = None
    assert measure_smoke(tmp_path, seeds=2)[0].seeds == [0, 1]
    assert len(counted.models) == 2
    said = capsys.readouterr().err
    assert "seed 1 of 2 was measured before" in said and "found the finished run" in said


def test_a_record_is_stale_when_the_recipe_has_changed(counted, monkeypatch, tmp_path):
    (record,) = measure_smoke(tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "cam-stride", experiment_with(counted, lr=1.0))
    assert is_stale(record)
    assert measure_smoke(tmp_path)[0].key != record.key and len(counted.models) == 2


def test_a_record_is_stale_when_its_experiment_is_gone(counted, monkeypatch, tmp_path):
    (record,) = measure_smoke(tmp_path)
    monkeypatch.delitem(EXPERIMENTS, "cam-stride")
    assert is_stale(record)


def test_a_record_is_stale_when_data_or_source_have_changed(counted, monkeypatch, tmp_path):
    (record,) = measure_smoke(tmp_path)
    for part, changed in (("data_versions", lambda self, scale: {}), ("source", lambda self, scale: "other")):
        with monkeypatch.context() as patch:
            patch.setattr(Experiment, part, changed)
            assert is_stale(record)
    assert not is_stale(record)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_not_recorded(counted, tmp_path, value):
    counted.value = value
    with pytest.raises(TrainingError, match=r"'cam-stride', seed 0: .* of output stride 8 is (nan|inf)"):
        measure_smoke(tmp_path)
    assert load_record(CLAIM, tmp_path) is None


def test_an_experiment_that_does_not_give_what_the_register_compares(monkeypatch, counted, tmp_path):
    monkeypatch.setitem(EXPERIMENTS, "cam-stride", experiment_with(lambda models, data: {CHOSEN: {"other": 1.0}}))
    with pytest.raises(UsageError, match=r"does not give .* of output stride 8, output stride 16"):
        measure_smoke(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "cam-nothing"], "'cam-nothing' is not in the register"),
        (["measure", "cam-surgery-costs-little"], "not tested here: the chapter"),
        (["measure", CLAIM, "--scale", "smoke"], "stays out of the package's records"),
        (["measure", CLAIM, "--seeds", "0"], "seeds is 0"),
    ],
)
def test_wrong_arguments_end_with_2(capsys, arguments, message):
    before = sorted(RECORDS.glob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err and said.out == ""
    assert sorted(RECORDS.glob("*")) == before


def test_the_commands(counted, tmp_path, capsys):
    assert main(["measure", CLAIM, "--scale", "smoke", "--seeds", "1", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert main(["status", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == shown
    assert CLAIM in shown and "seeds recorded: 1, needed: 5" in shown and "STALE" not in shown
    (tmp_path / f"{CLAIM}.json").write_text("{", encoding="utf-8")
    assert main(["status", "--out", str(tmp_path)]) == 1


def test_a_disk_that_takes_no_record_is_one_line_and_status_1(counted, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["measure", CLAIM, "--scale", "smoke", "--seeds", "1", "--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith("error: ") and "file" in said.err.splitlines()[-1]


def test_unknown_experiment():
    with pytest.raises(UsageError, match="cam-zoo"):
        get_experiment("cam-nothing")


def test_the_source_of_training_and_measuring_counts():
    zoo = get_experiment("cam-zoo")
    found = set(sources_of(zoo.measure, zoo.data, recipe=zoo.recipes("smoke")["CAM"]))
    needed = ("localize.boxes_from_map", "metrics.localization.best_ious", "claims.experiments.cam.localisation")
    assert {f"wsl_core.{name}" for name in needed} <= found
    other, text = dataclasses.replace(zoo, name="other"), get_experiment("cam-text")
    assert zoo.source("smoke") == other.source("smoke") != text.source("smoke")


OF_MANY_IMAGES = {"introspection-families"}  # several of each class: test_introspection_experiments does the same to it


@pytest.mark.parametrize("name", sorted(EXPERIMENTS.keys() - OF_MANY_IMAGES))
def test_every_registered_comparison_is_measured(name):
    """Untrained networks and four small images: what comes out is no result, but it has to be complete."""
    experiment = get_experiment(name)
    recipes = {variant: recipe.replace(**SMALL) for variant, recipe in experiment.recipes("smoke").items()}
    models = {}
    for variant, recipe in recipes.items():
        models[variant] = build_for(open_split(recipe, "train"), recipe.paper, **recipe.model).eval()
    values = experiment.measure(models, experiment.data(next(iter(recipes.values()))))
    claims = [claim for claim in load_register().claims if claim.experiment == name]
    assert claims
    for claim in claims:
        assert set(claim.comparison.variants) <= set(values[claim.metric]), claim.id
        assert all(math.isfinite(value) for value in values[claim.metric].values())
