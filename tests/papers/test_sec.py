"""SEC: its network layer by layer, its losses on a batch, and a training that segments."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from wsl_core.data import Dataset, Sample
from wsl_core.data.masked import WithMasks
from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import SegmentationEvaluator
from wsl_core.papers import build_model
from wsl_core.papers.sec import SEC
from wsl_core.recipes import Recipe
from wsl_core.refine import PARAMETERS, dense_crf
from wsl_core.segmentation import (
    DECAYS,
    at_cell_centres,
    boundary_loss,
    expansion_loss,
    floored_softmax,
    rank_pool,
    seeding_loss,
)
from wsl_core.training import fit, load_run

pytestmark = pytest.mark.usefixtures("one_thread")

STRUCTURES = Path(__file__).resolve().parents[3] / "shared" / "reference" / "network_structures.json"
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 3, 64, 64, generator=GENERATOR)
CUES = torch.randint(0, 4, (2, 64, 64), generator=GENERATOR)
BATCH = {"image": IMAGES, "labels": torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), "mask": CUES}


def small(**options) -> SEC:
    torch.manual_seed(1)
    return SEC(**{"num_classes": 3, "width": 4, "crf_backend": "torch"} | options).eval()


def test_vgg16_has_the_papers_41_cells_at_stride_8():
    with torch.device("meta"):
        model = SEC("vgg16", num_classes=20)
        assert model.segment(torch.zeros(1, 3, 321, 321)).shape == (1, 21, 41, 41)
    assert model.grid == (8, 0.5)
    head = [layer for layer in model.head if isinstance(layer, (nn.Conv2d, nn.Dropout))]
    assert [(c.out_channels, c.kernel_size[0], c.dilation[0]) for c in head[::2]] == [
        (1024, 3, 12), (1024, 1, 1), (21, 1, 1),
    ]  # fmt: skip
    assert [layer.p for layer in head[1::2]] == [0.5, 0.5]


@pytest.mark.skipif(not STRUCTURES.exists(), reason="the reference structures lie beside the repository in development")
def test_the_network_is_affinitynets_vgg16_but_for_what_largefov_has_of_its_own():
    """AffinityNet's released VGG16 is DeepLab's with a head that sees less far, no fifth pooling and no background."""
    reference = json.loads(STRUCTURES.read_text())["psa_vgg16_cls"]["layers"]
    with torch.device("meta"):
        model = SEC("vgg16", num_classes=20)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    ours = [[list(getattr(m, n)) if n not in names[:2] else getattr(m, n) for n in names] for m in convolutions(model)]
    theirs = [[layer[n] for n in names] for layer in reference if layer["type"] == "Conv2d"]
    assert ours[:13] == theirs[:13] and len(ours) == len(theirs) == 16
    assert ours[13] == [512, 1024, [3, 3], [1, 1], [12, 12], [12, 12]] and theirs[13][4:] == [[1, 1], [1, 1]]
    assert ours[14] == theirs[14] and ours[15][:2] == [1024, 21]
    pools = [(m.kernel_size, m.stride, m.padding) for m in model.modules() if isinstance(m, nn.MaxPool2d)]
    assert pools[:4] == [(p["kernel_size"], p["stride"], p["padding"]) for p in reference if p["type"] == "MaxPool2d"]
    assert pools[4:] == [(3, 1, 1)]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("backbone", ["alexnet", "googlenet", "resnet50"])
def test_every_backbone_will_do(backbone):
    with torch.device("meta"):
        model = SEC(backbone, num_classes=2)
        assert model.grid.stride == 8 and model.segment(torch.zeros(1, 3, 65, 65)).shape[:2] == (1, 3)


def test_the_losses_are_those_of_the_cells_and_total_is_their_sum():
    model, images = small(), 0.1 * IMAGES  # of low contrast, so that the CRF ties the cells together
    losses = model.losses(BATCH | {"image": images})
    torch.testing.assert_close(losses["total"], losses["seed"] + losses["expand"] + losses["constrain"])
    probabilities = floored_softmax(model.segment(images))
    cells = tuple(probabilities.shape[-2:])
    assert cells == (8, 8)
    torch.testing.assert_close(losses["seed"], seeding_loss(probabilities, at_cell_centres(CUES, model.grid, cells)))
    decays = tuple(d ** (41 * 41 / 64) for d in DECAYS)
    torch.testing.assert_close(losses["expand"], expansion_loss(probabilities, BATCH["labels"], decays))
    pixels = at_cell_centres(images, model.grid, cells)
    refined = dense_crf(pixels, probabilities, "torch", PARAMETERS["sec"].shrunk(12))
    torch.testing.assert_close(losses["constrain"], boundary_loss(probabilities, refined))


def test_at_stride_8_the_crf_is_shrunk_by_12(monkeypatch):
    asked = []
    note = lambda image, given, backend, parameters: asked.append(parameters) or given  # noqa: E731
    monkeypatch.setattr("wsl_core.papers.sec.dense_crf", note)
    small().losses(BATCH)
    assert asked == [PARAMETERS["sec"].shrunk(12)]


def test_at_41_cells_the_decays_are_the_papers():
    assert small()._decays((41, 41)) == DECAYS


def test_logits_are_those_of_the_pooled_probabilities_and_maps_hold_those_of_the_labels():
    model = small()
    logits, maps = model.scores_and_maps(IMAGES)
    torch.testing.assert_close(model(IMAGES), logits)
    torch.testing.assert_close(logits.sigmoid(), rank_pool(maps, DECAYS[0] ** (41 * 41 / 64)))
    torch.testing.assert_close(maps, floored_softmax(model.segment(IMAGES))[:, 1:])
    torch.testing.assert_close(model.localize(IMAGES, BATCH["labels"]), maps * BATCH["labels"][:, :, None, None])


@pytest.mark.parametrize("name", ["seed", "expand", "constrain"])
def test_every_loss_reaches_the_trunk_and_the_head(name):
    model = small()
    model.losses(BATCH)[name].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert any(parameter.grad.any() for parameter in model.backbone.parameters())


def test_a_loss_that_is_not_finite_is_left_to_the_training_loop():
    model = small()
    nn.init.constant_(model.head[-1].bias, float("nan"))
    assert model.losses(BATCH)["total"].isnan()


def test_a_batch_without_cues_is_no_ones_ground_truth():
    model = small()
    with pytest.raises(UsageError, match="found no 'mask'; expected seed cues"):
        model.losses({"image": IMAGES, "labels": BATCH["labels"]})
    with pytest.raises(DataError, match="cues: found 9; expected 0 to 3"):
        model.losses(BATCH | {"mask": torch.full_like(CUES, 9)})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"task": "both"}, "task='both'"),
        ({"crf_backend": "numpy"}, "crf_backend='numpy'"),
        ({"dilation": 0}, "dilation=0"),
        ({"head_channels": 0}, "head_channels=0"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"backbone": "vgg99"}, "backbone='vgg99'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        SEC(**arguments)


class Halves(Dataset):
    """A half of one colour beside grey noise: a class on the left, background on the right."""

    name, classes, task, licence, version = "halves", ("red", "green"), "single", "MIT", "1"

    def __init__(self, length: int = 16, split: str = "train") -> None:
        self.length, self.split = length, split

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = self.position(index)
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index)) * 0.05 + 0.4
        image[index % 2, :, :16] += 0.3
        mask = torch.zeros(32, 32, dtype=torch.int64)
        mask[:, :16] = index % 2 + 1
        return {"id": f"half-{index}", "image": image, "labels": torch.eye(2)[index % 2], "mask": mask}


def cues_at_the_sides(index: int) -> torch.Tensor:
    cues = torch.full((32, 32), 255)
    cues[:, :8], cues[:, -8:] = index % 2 + 1, 0
    return cues


def test_it_trains_from_seed_cues_and_comes_back_from_its_run(tmp_path):
    """From half of the pixels to all: the losses fall, the masks come out, and load_run finds the model."""
    truth = Halves()
    train = WithMasks(truth, [cues_at_the_sides(index) for index in range(len(truth))])
    recipe = Recipe(
        "sec", "halves", steps=40, batch_size=8, lr=1e-2, log_every=5, augment={"flip": 0.5},
        model={"width": 8, "dropout": 0.1, "dilation": 1, "crf_backend": "torch"},
    )  # fmt: skip
    build = lambda: SEC(num_classes=2, task="single", **recipe.model)  # noqa: E731
    run = fit(build, train, recipe, run_dir=tmp_path / "run", device="cpu")
    first, last = run.history[0]["losses"], run.history[-1]["losses"]
    assert set(first) == {"seed", "expand", "constrain", "total"} and last["seed"] < first["seed"] / 2
    model = load_run(tmp_path / "run").model.eval()
    evaluator = SegmentationEvaluator(num_classes=2)
    for sample in truth:
        with torch.no_grad():
            scores = model.segment(sample["image"][None])
        evaluator.update(scores.argmax(dim=1)[0], at_cell_centres(sample["mask"], model.grid, tuple(scores.shape[-2:])))
    assert evaluator.compute()["miou"] > 0.9


def test_the_registry_knows_it():
    model = build_model("sec", num_classes=3, width=4, task="single")
    assert isinstance(model, SEC) and model.paper == "sec" and model.config["width"] == 4
