"""Recipes: the table is sound, and a wrong value is named."""

import inspect
import json

import pytest

from wsl_core.data import DATASETS
from wsl_core.errors import UsageError
from wsl_core.papers import model_class
from wsl_core.papers.cam import CAM
from wsl_core.recipes import RECIPES, Recipe, get_recipe, parse_overrides


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.paper}-{recipe.dataset}-{recipe.scale}")
def test_every_recipe_is_found_survives_json_and_fits_the_model(recipe):
    assert get_recipe(recipe.paper, recipe.dataset, recipe.scale) is recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    arguments = [
        inspect.signature(model).parameters for model in (CAM, model_class(recipe.paper))
    ]  # some pass CAM's on
    assert set(recipe.model) <= set().union(*arguments)
    assert recipe.source


FOR_MATCHING = {"pf-willow", "pf-pascal", "pascal-parts"}  # images to match, on which nothing is trained
FOR_GPUS = {"voc2012", "cub200", "imagenet", "openimages30k"}  # for CAM at the paper's scale alone


def test_each_dataset_to_train_on_has_a_smoke_and_a_book_recipe():
    for dataset in DATASETS.keys() - FOR_MATCHING - FOR_GPUS:
        for scale in ("smoke", "book"):
            assert get_recipe("cam", dataset, scale).scale == scale


def test_the_papers_numbers():
    recipe = get_recipe("cam", "folder", "paper")
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 1e-3, 0.9, 5e-4)
    assert (recipe.steps, recipe.step_size, recipe.step_gamma, recipe.batch_size) == (160_000, 40_000, 0.1, 64)
    assert recipe.multipliers["new_bias"] == 2.0


def test_the_numbers_for_imagenet_and_openimages():
    imagenet, openimages = (get_recipe("cam", dataset, "paper") for dataset in ("imagenet", "openimages30k"))
    assert (imagenet.model["backbone"], imagenet.steps, imagenet.batch_size) == ("googlenet", 160_000, 64)
    assert (openimages.model["backbone"], openimages.epochs, openimages.batch_size) == ("vgg16", 10, 32)
    assert (openimages.lr, openimages.weight_decay, openimages.nesterov) == (0.00227913316, 5e-4, True)
    assert openimages.multipliers == {"backbone_weight": 1, "backbone_bias": 1, "new_weight": 10, "new_bias": 10}


def test_the_numbers_of_acol():
    cub, imagenet = (get_recipe("acol", dataset, "paper") for dataset in ("cub200", "imagenet"))
    assert (cub.model["backbone"], cub.lr, cub.batch_size, cub.epochs) == ("vgg16", 1e-4, 20, 60)
    assert imagenet.epochs == 6 and imagenet.multipliers["new_bias"] == 20
    assert get_recipe("iterative_erasing", "cub200", "paper") == cub.replace(paper="iterative_erasing")


def test_the_numbers_of_gain():
    recipe = get_recipe("gain", "folder", "paper")
    assert (recipe.optimizer, recipe.batch_size, recipe.lr, recipe.epochs) == ("sgd", 1, 1e-5, 35)


def test_the_numbers_of_gains_second_stage():
    recipe = get_recipe("sec", "folder", "paper")
    assert (recipe.optimizer, recipe.steps, recipe.batch_size, recipe.augment["crop"]) == ("sgd", 8_000, 15, 321)
    assert (recipe.lr, recipe.schedule, recipe.step_size, recipe.step_gamma) == (1e-3, "step", 2_000, 0.1)


def test_the_numbers_of_affinitynets_released_code():
    classifier, affinity = (get_recipe(paper, "folder", "paper") for paper in ("affinitynet_cam", "affinitynet"))
    for recipe, epochs, batch in ((classifier, 15, 16), (affinity, 8, 8)):
        assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.augment["crop"]) == (epochs, batch, 0.1, 448)
        assert (recipe.schedule, recipe.poly_power, recipe.momentum, recipe.weight_decay) == ("poly", 0.9, 5e-4, 5e-4)
        assert list(recipe.multipliers.values()) == [1, 2, 10, 20] and not recipe.bias_weight_decay
    assert affinity.model["distance"] == "mean" and affinity.model["channels"] == [64, 128, 256]


def test_an_unknown_paper_names_those_that_have_recipes():
    with pytest.raises(UsageError, match=r"paper 'yolo' has no recipe; expected one of cam"):
        get_recipe("yolo", "synthetic", "book")


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(UsageError, match=r"cam/synthetic/huge does not exist.*cam/synthetic/book"):
        get_recipe("cam", "synthetic", "huge")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("batch_size", 0),
        ("optimizer", "lion"),
        ("schedule", "step"),  # without step_size
        ("precision", "int8"),
        ("steps", 0),
        ("epochs", 3),  # besides steps
        ("checkpoint_every", 15),  # no multiple of log_every
        ("eval_every", 7),
        ("clip_norm", 0.0),
        ("multipliers", {"bias": 2.0}),
        ("augment", {"rotate": 10}),
        ("augment", {"shift": -1}),
        ("augment", {"shift": 0.5}),
        ("augment", {"crop": 0}),
        ("augment", {"crop": 1.5}),
        ("augment", {"crop": True}),
        ("augment", {"flip": 1.1}),
        ("augment", {"contrast": "much"}),
    ],
)
def test_a_wrong_value_is_named(field, value):
    named = {"schedule": "step_size", "epochs": "steps"}.get(field, field)
    with pytest.raises(UsageError, match=f"recipe field {named}"):
        Recipe("cam", "synthetic", **({"steps": 10} | {field: value}))


@pytest.mark.parametrize(
    ("field", "value"), [("lr", "fast"), ("batch_size", 1.5), ("model", "vgg16"), ("channels_last", 1), ("steps", None)]
)
def test_a_value_of_the_wrong_type_is_named(field, value):
    recipe = Recipe("cam", "synthetic", steps=10)
    for attempt in (
        lambda: recipe.replace(**{field: value}),
        lambda: Recipe.from_dict(recipe.to_dict() | {field: value}),
    ):
        with pytest.raises(UsageError, match=f"recipe field {field}: found"):
            attempt()


def test_replace_merges_options_and_swaps_steps_for_epochs():
    recipe = Recipe("cam", "synthetic", steps=10, augment={"flip": 0.5})
    changed = recipe.replace(augment={"shift": 4}, epochs=2)
    assert changed.augment == {"flip": 0.5, "shift": 4}
    assert (changed.steps, changed.epochs) == (None, 2)
    assert changed.replace(steps=5).epochs is None
    assert recipe.augment == {"flip": 0.5}  # untouched


def test_overrides_take_the_fields_type():
    text = ["lr=1", "nesterov=true", "clip_norm=null", "images=5", "precision=no", "augment.flip=0", "source=1"]
    changes = parse_overrides(text)
    assert changes == {
        "lr": 1.0, "nesterov": True, "clip_norm": None, "images": 5, "precision": "no", "augment": {"flip": 0},
        "source": "1",
    }  # fmt: skip
    assert isinstance(changes["lr"], float)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "expected key=value"),
        ("learning_rate=1", "'learning_rate' is no field.*lr"),
        ("lr=fast", "recipe field lr.*expected float"),
        ("model=vgg16", "model.OPTION=VALUE"),
        ("lr.x=1", "write it as lr=VALUE"),
    ],
)
def test_a_wrong_override_is_explained(setting, message):
    with pytest.raises(UsageError, match=message):
        parse_overrides([setting])


def test_from_dict_refuses_what_it_does_not_know():
    with pytest.raises(UsageError, match="'momentun' is no field"):
        Recipe.from_dict({"paper": "cam", "dataset": "synthetic", "momentun": 0.9})
