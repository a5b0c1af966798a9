"""The numbers that each run uses, in one table.

A recipe says everything about a run but the random seed and where the data lie. Three scales: ``smoke`` only proves
that the code works, ``book`` is made for a CPU, ``paper`` is the paper's own recipe.
"""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Any

from wsl_core.errors import UsageError

__all__ = ["Recipe", "check_augment", "get_recipe", "parse_overrides"]

CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "cosine", "poly", "step"),
    "precision": ("no", "bf16", "fp16"),
}
MULTIPLIERS = ("backbone_weight", "backbone_bias", "new_weight", "new_bias")
LEAST_PIXELS = {"shift": 0, "crop": 1}  # augmentations that are a number of pixels
SHARES = ("flip", "brightness", "contrast", "saturation")  # augmentations that go from 0 to 1
BESIDE_THE_RESULT = ("source", "in_memory", "workers", "checkpoint_every")  # changing these changes no weight


@dataclass(frozen=True)
class Recipe:
    """How one model is trained on one data set. Immutable; ``replace`` makes a changed copy.

    Attributes:
        paper, dataset, scale: what the recipe is for.
        data: options of ``load_dataset``.
        images: use only this many images of each split, evenly spaced; ``None`` for all.
        in_memory: decode or render the images once, before training, and keep them; their pixels must have 8 bits.
        model: constructor arguments besides ``num_classes`` and ``task``, which come from the data.
        steps, epochs: how long; exactly one of them is set. An epoch passes over the training images once.
        batch_size: images per step over all processes together.
        lr, momentum, nesterov, weight_decay: of the optimiser; momentum belongs to "sgd".
        bias_weight_decay: whether biases and normalisation parameters decay too.
        schedule: after ``warmup_steps`` of linear warm-up, "constant", "cosine" to zero, "poly" to zero with exponent
            ``poly_power``, or "step": times ``step_gamma`` every ``step_size`` steps.
        clip_norm: upper bound of the gradient's Euclidean norm, or ``None``.
        multipliers: factors on ``lr`` for weights and biases of pre-trained and new layers (``model.new_modules``).
        augment: see :func:`wsl_core.training.augment.augment`.
        precision: "no" (float32), "bf16" or "fp16".
        channels_last: memory layout; the same mathematics, faster on a CPU.
        workers: processes that load data.
        log_every, checkpoint_every, eval_every: in steps; the last two are multiples of the first, 0 means never.
        source: where the numbers come from.

    Raises:
        UsageError: a value is out of range; the message names the field.

    >>> Recipe("cam", "synthetic", steps=100).replace(lr=0.1).lr
    0.1
    """

    paper: str
    dataset: str
    scale: str = "custom"
    data: dict[str, Any] = field(default_factory=dict)
    images: int | None = None
    in_memory: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 48
    optimizer: str = "adamw"
    lr: float = 3e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-2
    bias_weight_decay: bool = True
    schedule: str = "cosine"
    warmup_steps: int = 0
    poly_power: float = 0.9
    step_size: int | None = None
    step_gamma: float = 0.1
    clip_norm: float | None = None
    multipliers: dict[str, float] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    precision: str = "no"
    channels_last: bool = False
    workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 100
    eval_every: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _checked_type(spec.name, getattr(self, spec.name)))
        object.__setattr__(self, "multipliers", dict.fromkeys(MULTIPLIERS, 1.0) | self.multipliers)
        _check_ranges(self)

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with other values. Options in a dictionary are merged; ``steps`` replaces ``epochs`` and vice versa.

        Raises:
            UsageError: there is no such field, or its value is out of range.

        >>> recipe = Recipe("cam", "synthetic", steps=10, model={"backbone": "small"})
        >>> recipe.replace(model={"pooling": "gmp"}, epochs=2).model
        {'backbone': 'small', 'pooling': 'gmp'}
        """
        for name in changes:
            _check_field(name)
        if "steps" in changes and "epochs" not in changes:
            changes["epochs"] = None
        if "epochs" in changes and "steps" not in changes:
            changes["steps"] = None
        changes = {name: _checked_type(name, value) for name, value in changes.items()}
        merged = {name: getattr(self, name) | value for name, value in changes.items() if name in _DICTIONARIES}
        return dataclasses.replace(self, **changes | merged)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them.

        >>> Recipe("cam", "synthetic", steps=10).to_dict()["optimizer"]
        'adamw'
        """
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def identity(self) -> dict[str, Any]:
        """The fields that decide about the result: two recipes with the same ones train the same weights.

        >>> recipe = Recipe("cam", "synthetic", steps=10)
        >>> recipe.identity() == recipe.replace(workers=2).identity()
        True
        """
        return {name: value for name, value in self.to_dict().items() if name not in BESIDE_THE_RESULT}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Undo :meth:`to_dict`.

        Raises:
            UsageError: an entry is no field of a recipe, or its value is out of range.

        >>> recipe = Recipe("cam", "synthetic", steps=10)
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
        """
        for name in values:
            _check_field(name)
        return cls(**{name: _checked_type(name, value) for name, value in values.items()})


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """Turn ``["lr=0.1", "model.pooling=gmp"]`` into changes for :meth:`Recipe.replace`.

    A plain field takes the type that it has in the recipe, an option of a dictionary that of its JSON form (``true``,
    ``3``, ``0.5``, ``null``, else text).

    Raises:
        UsageError: a setting has no "=", names no field, or its value has the wrong type.

    >>> parse_overrides(["lr=0.1", "model.pooling=gmp"])
    {'lr': 0.1, 'model': {'pooling': 'gmp'}}
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name, _, option = name.strip().partition(".")
        if not equals:
            raise UsageError(f"--set {setting}: expected key=value, such as lr=0.1 or model.pooling=gmp.")
        _check_field(name)
        if name in ("paper", "dataset", "scale"):
            raise UsageError(f"--set {setting}: {name} chooses the recipe; name it on the command line instead.")
        if (name in _DICTIONARIES) != bool(option):
            form = f"{name}.OPTION=VALUE" if name in _DICTIONARIES else f"{name}=VALUE"
            raise UsageError(f"--set {setting}: write it as {form}.")
        if option:
            changes.setdefault(name, {})[option] = _parse_json(text)
        else:
            text_only = type(None) not in _TYPES[name] and str in _TYPES[name]
            changes[name] = _checked_type(name, text if text_only else _parse_json(text))
    return changes


def get_recipe(paper: str, dataset: str, scale: str) -> Recipe:
    """The recipe of a paper for a data set at a scale.

    Raises:
        UsageError: there is none; the message lists those that exist.

    >>> get_recipe("cam", "synthetic", "book").steps
    700
    """
    papers = dict.fromkeys(recipe.paper for recipe in RECIPES)
    if paper not in papers:
        raise UsageError(f"paper {paper!r} has no recipe; expected one of {', '.join(papers)}.")
    for recipe in RECIPES:
        if (recipe.paper, recipe.dataset, recipe.scale) == (paper, dataset, scale):
            return recipe
    known = ", ".join(f"{recipe.paper}/{recipe.dataset}/{recipe.scale}" for recipe in RECIPES)
    raise UsageError(f"recipe {paper}/{dataset}/{scale} does not exist; expected one of {known}.")


def check_augment(options: dict[str, Any]) -> None:
    """Make sure that :func:`wsl_core.training.augment.augment` can do what ``options`` ask for.

    Raises:
        UsageError: there is no such option, or its value is out of range.

    >>> check_augment({"flip": 0.5, "crop": 64})
    """
    for name, value in options.items():
        if name in LEAST_PIXELS:
            holds = type(value) is int and value >= LEAST_PIXELS[name]
            expected = f"a whole number of pixels, at least {LEAST_PIXELS[name]}"
        elif name in SHARES:
            holds, expected = _is_number(value) and value <= 1, "a number from 0 to 1"
        else:
            raise UsageError(
                f"recipe field augment: {name!r} is no option; expected {', '.join((*SHARES, *LEAST_PIXELS))}."
            )
        if not holds:
            raise UsageError(f"recipe field augment.{name}: found {value!r}; expected {expected}.")


_TYPES = {
    name: typing.get_args(hint) or (hint,)  # dict[str, Any] becomes (str, Any): dictionaries are looked up below
    for name, hint in typing.get_type_hints(Recipe).items()
}
_DICTIONARIES = tuple(name for name, hint in typing.get_type_hints(Recipe).items() if typing.get_origin(hint) is dict)


def _check_field(name: str) -> None:
    if name not in _TYPES:
        raise UsageError(f"{name!r} is no field of a recipe; expected one of {', '.join(_TYPES)}.")


def _checked_type(name: str, value: Any) -> Any:
    """``value`` if it has the field's type; a whole number becomes a float where a float is meant."""
    types = (dict,) if name in _DICTIONARIES else _TYPES[name]
    if type(value) is int and float in types:
        return float(value)
    if type(value) not in types:
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        raise UsageError(f"recipe field {name}: found {value!r}; expected {expected}.")
    return dict(value) if isinstance(value, dict) else value


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _check_ranges(recipe: Recipe) -> None:
    def require(holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise UsageError(f"recipe field {name}: found {getattr(recipe, name)!r}; expected {expected}.")

    for name, choices in CHOICES.items():
        require(getattr(recipe, name) in choices, name, f"one of {', '.join(choices)}")
    for name in ("batch_size", "log_every"):
        require(getattr(recipe, name) >= 1, name, "at least 1")
    for name in ("lr", "momentum", "weight_decay", "warmup_steps", "poly_power", "step_gamma", "workers"):
        require(0 <= getattr(recipe, name) < math.inf, name, "a finite number that is not negative")
    for name in ("steps", "epochs", "images", "step_size", "clip_norm"):
        require(getattr(recipe, name) is None or getattr(recipe, name) > 0, name, "a number above 0, or null")
    for name in ("checkpoint_every", "eval_every"):
        value = getattr(recipe, name)
        require(value >= 0 and value % recipe.log_every == 0, name, f"a multiple of log_every={recipe.log_every}, or 0")
    require((recipe.steps is None) != (recipe.epochs is None), "steps", "exactly one of steps and epochs to be set")
    require(recipe.schedule != "step" or recipe.step_size is not None, "step_size", "a number with schedule='step'")
    require(not recipe.nesterov or recipe.momentum > 0, "momentum", "more than 0 with nesterov=True")
    require(set(recipe.multipliers) == set(MULTIPLIERS), "multipliers", f"no options but {', '.join(MULTIPLIERS)}")
    require(all(map(_is_number, recipe.multipliers.values())), "multipliers", "numbers that are not negative")
    check_augment(recipe.augment)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and 0 <= value < math.inf


_SMOKE = Recipe(
    "cam", "synthetic", scale="smoke", images=64, steps=24, batch_size=16, warmup_steps=4, channels_last=True,
    log_every=4, checkpoint_every=8, augment={"flip": 0.5, "shift": 4},
    source="Ours: to show that the code runs, and no more.",
)  # fmt: skip

_BOOK = Recipe(
    "cam", "synthetic", scale="book", steps=700, batch_size=48, optimizer="adamw", lr=3e-3, weight_decay=1e-2,
    schedule="cosine", warmup_steps=50, channels_last=True, in_memory=True, augment={"flip": 0.5, "shift": 8},
    source="Ours: made for a CPU.",
)  # fmt: skip

# The released GoogLeNet solver and network definition, metalbubble/CAM at c63f285: SGD with momentum 0.9, a rate of
# 0.001 divided by 10 every 40,000 of at most 160,000 iterations, weight decay 5e-4, batches of 64, mirrored crops of
# 224, biases at twice the rate. The paper fine-tunes networks that were trained on ImageNet. bf16 and the memory layout
# are ours.
_PAPER = Recipe(
    "cam", "imagenet", scale="paper", model={"backbone": "googlenet", "weights": "DEFAULT"},
    steps=160_000, batch_size=64, optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4,
    schedule="step", step_size=40_000, step_gamma=0.1, multipliers={"backbone_bias": 2.0, "new_bias": 2.0},
    augment={"flip": 0.5, "crop": 224}, precision="bf16", channels_last=True, workers=8,
    log_every=100, checkpoint_every=5_000,
    source="metalbubble/CAM: models/solver_imagenet_googlenetCAM.prototxt, models/train_val_googlenetCAM.prototxt.",
)  # fmt: skip

_VGG16 = {"backbone": "vgg16", "dropout": 0.5}  # dropout: metalbubble/CAM, models/deploy_vgg16CAM.prototxt

# clovaai/wsolevaluation, the example in README.md and the defaults in config.py: SGD with momentum 0.9 and Nesterov, a
# rate of 0.00227913316, times 10 for what is new, divided by 10 every 3 of 10 epochs (932 steps each), weight decay
# 5e-4, batches of 32, mirrored crops of 224. There the rate first falls after 2 epochs, here after 3; images are warped
# to 256 x 256, here the longer side becomes 256. bf16 and the memory layout are ours.
_WSOL_OPENIMAGES = _PAPER.replace(
    dataset="openimages30k", data={"max_side": 256}, model={"backbone": "vgg16"}, epochs=10, batch_size=32,
    lr=0.00227913316, nesterov=True, step_size=3 * 932, multipliers={
        "backbone_bias": 1.0, "new_weight": 10.0, "new_bias": 10.0,
    },
    source="clovaai/wsolevaluation: README.md (OpenImages, VGG, CAM), config.py.",
)  # fmt: skip

_ON_OTHER_DATA = (  # the same for every paper that classifies
    _SMOKE.replace(dataset="tiny-imagenet"),
    _SMOKE.replace(dataset="folder", data={"max_side": 64}, augment={"crop": 64}),
    _BOOK.replace(
        dataset="tiny-imagenet", model={"width": 40, "output_stride": 4}, epochs=12, batch_size=64, eval_every=500,
        augment={"shift": 6}, source="Ours: made for a CPU. Maps of 16x16 on images of 64 px.",
    ),
    _BOOK.replace(
        dataset="folder", data={"max_side": 96}, augment={"crop": 96}, model={"width": 32},
        steps=1000,
        source="Ours: for a few hundred to a few thousand images of one's own.",
    ),
)  # fmt: skip

_CAM = (
    _SMOKE,
    _BOOK,
    *_ON_OTHER_DATA,
    _PAPER.replace(
        dataset="folder", model=_VGG16, data={"max_side": 256},
        source=f"{_PAPER.source} VGG16's own solver was not released.",
    ),
    _PAPER.replace(
        dataset="tiny-imagenet", model=_VGG16, augment={"crop": 64, "shift": 6},
        source=f"{_PAPER.source} VGG16's own solver was not released, and the paper has no run on these images.",
    ),
    # There images are warped to 256 x 256; here the longer side becomes 256.
    _PAPER.replace(data={"max_side": 256}),
    _WSOL_OPENIMAGES,
)  # fmt: skip

_CREATURES = {"world": "creatures", "concentration": 0.5}  # the head tells most, body and limbs something

# xiaomengyc/ACoL at 8b59d00: a rate of 1e-4 that never falls, batches of 20, 60 epochs on CUB (6 on ILSVRC), momentum
# 0.9 with Nesterov, weight decay 5e-4, the four multipliers. There the shorter edge becomes 256, here the longer one.
# bf16 and the memory layout are ours.
_ACOL_PAPER = Recipe(
    "acol", "folder", scale="paper", model={"backbone": "vgg16", "weights": "DEFAULT"}, data={"max_side": 256},
    epochs=60, batch_size=20, optimizer="sgd", lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4,
    schedule="constant", augment={"flip": 0.5, "crop": 224}, precision="bf16", channels_last=True, workers=8,
    multipliers={"backbone_weight": 1.0, "backbone_bias": 2.0, "new_weight": 10.0, "new_bias": 20.0},
    log_every=100, checkpoint_every=1_000,
    source="xiaomengyc/ACoL: scripts/*.sh, exper/my_optim.py, utils/LoadData.py.",
)  # fmt: skip

_ACOL = (
    _SMOKE.replace(data=_CREATURES),
    _BOOK.replace(data=_CREATURES, steps=600, batch_size=32),
    *_ON_OTHER_DATA,
    _ACOL_PAPER,
    dataclasses.replace(_ACOL_PAPER, dataset="tiny-imagenet", data={}, augment={"flip": 0.5, "crop": 64, "shift": 6}),
    _ACOL_PAPER.replace(dataset="cub200"),
    _ACOL_PAPER.replace(dataset="imagenet", epochs=6, checkpoint_every=5_000),
)

# The paper says: SGD, one image a step, a rate of 1e-5, 35 epochs, a VGG that was trained on ImageNet. It does not say:
# which VGG, momentum, weight decay, schedule, size of the images, augmentation. Those are ours, as for ACoL; so are
# bf16 and the memory layout.
_GAIN_PAPER = Recipe(
    "gain", "folder", scale="paper", model={"backbone": "vgg16", "weights": "DEFAULT"}, data={"max_side": 256},
    epochs=35, batch_size=1, optimizer="sgd", lr=1e-5, momentum=0.9, weight_decay=5e-4, schedule="constant",
    augment={"flip": 0.5, "crop": 224}, precision="bf16", channels_last=True, workers=8,
    log_every=100, checkpoint_every=1_000,
    source="arXiv:1802.10171v1: optimiser, batch, rate, epochs. What it does not say is ours.",
)  # fmt: skip

_GAIN = (
    _SMOKE.replace(data=_CREATURES),
    _BOOK.replace(data=_CREATURES, steps=600, batch_size=32),
    *_ON_OTHER_DATA,
    _GAIN_PAPER,
    dataclasses.replace(_GAIN_PAPER, dataset="tiny-imagenet", data={}, augment={"flip": 0.5, "crop": 64, "shift": 6}),
    _GAIN_PAPER.replace(dataset="voc2012", data={"train_aug": True}),
)

# GAIN's paper says of its SEC stage: SGD, 8,000 iterations of 15 images, a rate of 1e-3 divided by 10 every 2,000, and
# images of 321. Momentum and weight decay are ours, as for GAIN; so are bf16 and the memory layout. The masks of the
# data set are the seed cues.
_SEC_PAPER = _GAIN_PAPER.replace(
    paper="sec", data={"max_side": 512}, steps=8_000, batch_size=15, lr=1e-3,
    schedule="step", step_size=2_000, step_gamma=0.1, augment={"flip": 0.5, "crop": 321},
    source="arXiv:1802.10171v1: optimiser, batch, rates, iterations, crop. What it does not say is ours.",
)  # fmt: skip

_SEC = (
    _SMOKE.replace(data=_CREATURES),
    _BOOK.replace(data=_CREATURES, epochs=5, batch_size=32, lr=1e-3),  # from a trunk that classifies
    _SEC_PAPER,
)

# AnchorNet's sources say: ResNet-50; of the 1000 ILSVRC classes 231 become the 20 of VOC, the others background: in
# labels.csv, rows without a label. Whatever else is here is ours.
_ANCHORNET_PAPER = _GAIN_PAPER.replace(
    paper="anchornet", data={"max_side": 256}, epochs=10, batch_size=32, lr=1e-3,
    model={
        "backbone": "resnet50", "weights": "DEFAULT", "trunk": "frozen", "filters": 16, "agnostic_channels": 256,
        "negatives": "background",
    },
    source="Backbone and labels are the paper's. Optimiser, rate, epochs, batch, crop, numbers of filters: ours.",
)  # fmt: skip

# Weights of the diversity losses, by eye: the greater they are, the more parts the channels of a class mark and the
# fewer of their peaks lie on the object. Tried on val, after a first look at test, with a random seed of no claim.
_ANCHORS = {
    "filters": 6, "agnostic_channels": 24, "filter_diversity_weight": 0.05, "response_diversity_weight": 0.05,
}  # fmt: skip
_FAMILIES = {"world": "families"}  # classes of a family share parts

_ANCHORNET = (
    _SMOKE.replace(data=_FAMILIES, model=_ANCHORS),
    _BOOK.replace(data=_FAMILIES, model=_ANCHORS, epochs=2, batch_size=32, warmup_steps=20),
    *_ON_OTHER_DATA,
    _ANCHORNET_PAPER,
)

# The introspection paper's sources say: ResNet-50; images of ILSVRC of VOC's rigid classes, cropped to the foreground
# by a weakly supervised detector, as wsl_core.localize.foreground_boxes and wsl_core.data.Cropped do. Views, places and
# hard points are the model's. Whatever else is here is ours.
_INTROSPECTION_PAPER = _GAIN_PAPER.replace(
    paper="introspection", epochs=10, batch_size=32, lr=1e-3, model={"backbone": "resnet50", "weights": "DEFAULT"},
    source="Backbone, correspondences and hard points are the paper's. Optimiser, rate, epochs, batch, crop: ours.",
)  # fmt: skip

_INTROSPECTION = (
    _SMOKE.replace(data=_FAMILIES, batch_size=8),
    _SMOKE.replace(dataset="tiny-imagenet", batch_size=8),
    _SMOKE.replace(dataset="folder", data={"max_side": 64}, augment={"crop": 64}, batch_size=8),
    _BOOK.replace(data=_FAMILIES, steps=500, batch_size=16),
    _BOOK.replace(
        dataset="tiny-imagenet", model={"width": 32}, epochs=5, batch_size=32,
        source="Ours: made for a CPU. Descriptors of 8x8 cells on images of 64 px.",
    ),
    _BOOK.replace(
        dataset="folder", data={"max_side": 96}, augment={"crop": 96}, model={"width": 32}, steps=1000, batch_size=16,
        source="Ours: for a few hundred to a few thousand images of one's own.",
    ),
    _INTROSPECTION_PAPER,
    _INTROSPECTION_PAPER.replace(dataset="imagenet", checkpoint_every=5_000),
)  # fmt: skip

# jiwoon-ahn/psa at 9493e59: a rate of 0.1 that falls as a polynomial, weight decay 5e-4 but for biases, the four
# multipliers, crops of 448, mirror images, colour jitter. Its optimiser takes the weight decay for the momentum, which
# so is 5e-4, and 0.9 for the exponent. The paper has Adam, at a rate that nobody wrote down. There, the classifier sees
# images at random scales from 256 to 512, here at 512. bf16 and the memory layout are ours.
_PSA = Recipe(
    "affinitynet", "folder", scale="paper", data={"max_side": 512},
    model={"backbone": "resnet38", "weights": "ilsvrc-cls_rna-a1_cls1000_ep-0001.pth"},
    epochs=8, batch_size=8, optimizer="sgd", lr=0.1, momentum=5e-4, weight_decay=5e-4, bias_weight_decay=False,
    schedule="poly", multipliers={"backbone_bias": 2.0, "new_weight": 10.0, "new_bias": 20.0},
    augment={"flip": 0.5, "crop": 448, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3},
    precision="bf16", channels_last=True, workers=8, log_every=100, checkpoint_every=1_000,
    source="jiwoon-ahn/psa: train_cls.py, train_aff.py, tool/torchutils.py. The weights are a file that you convert.",
)  # fmt: skip

_PHOTOGRAPHS = {  # of which sizes
    "tiny-imagenet": {},
    "folder": {"data": {"max_side": 96}, "augment": {"crop": 96}},
    "voc2012": {"data": {"max_side": 128}, "augment": {"crop": 128}},
}


def _also_on_photographs(*recipes: Recipe) -> tuple[Recipe, ...]:
    """The same numbers for images of other sizes: they prove that the code works, and are tuned for none of them."""
    others = (recipe.replace(dataset=name, **sizes) for recipe in recipes for name, sizes in _PHOTOGRAPHS.items())
    return (*recipes, *others)


def _also_on_voc(recipe: Recipe) -> tuple[Recipe, Recipe]:
    """The same on the papers' own images."""
    return recipe, recipe.replace(dataset="voc2012", data={"train_aug": True})


_AFFINITYNET_CAM = (
    *_also_on_photographs(_SMOKE, _BOOK.replace(steps=600, batch_size=32)),
    *_also_on_voc(
        _PSA.replace(epochs=15, batch_size=16, model={"head_channels": 512, "dropout": 0.5})  # the paper's 3x3x512
    ),
)

# Over a sum of channels the gradient is as many times larger as there are channels, so the released code's rate goes
# with its mean, and with its numbers of channels.
_AFFINITYNET = (
    *_also_on_photographs(
        _SMOKE.replace(batch_size=8, augment={"flip": 0.5}),
        _BOOK.replace(steps=150, batch_size=16, lr=1e-3, warmup_steps=10, augment={"flip": 0.5, "shift": 8}),
    ),
    *_also_on_voc(_PSA.replace(model={"distance": "mean", "channels": [64, 128, 256]})),
)

# Of the last stage, whose code was not released, only the network is known.
_AFFINITYNET_SEGMENTATION = (
    *_also_on_photographs(_SMOKE.replace(batch_size=8), _BOOK.replace(steps=400, batch_size=16)),
    *_also_on_voc(_PSA.replace(
        epochs=20, batch_size=16, lr=1e-3, momentum=0.9,
        source="Backbone and head are the paper's, crop and jitter jiwoon-ahn/psa's. Optimiser, rate, epochs: ours.",
    )),
)  # fmt: skip

RECIPES = (
    *_CAM,
    *(
        recipe.replace(paper=paper)
        for paper in ("acol", "single_classifier", "hide_and_seek", "iterative_erasing")  # all trained alike
        for recipe in _ACOL
    ),
    *(recipe.replace(paper="gain") for recipe in _GAIN),
    *(recipe.replace(paper="sec") for recipe in _SEC),
    *(recipe.replace(paper="anchornet") for recipe in _ANCHORNET),
    *(recipe.replace(paper="introspection") for recipe in _INTROSPECTION),
    *(recipe.replace(paper="affinitynet_cam") for recipe in _AFFINITYNET_CAM),
    *(recipe.replace(paper="affinitynet") for recipe in _AFFINITYNET),
    *(recipe.replace(paper="affinitynet_segmentation") for recipe in _AFFINITYNET_SEGMENTATION),
)
