"""AffinityNet: its layers and pairs against the released code's, the laws of its losses, and trainings that work."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.refine.reference import psa, taken_by_official
from tests.structures import executed, parameters_of, reference_structure
from wsl_core.data import Dataset, Sample
from wsl_core.data.masked import WithMasks
from wsl_core.errors import DataError, UsageError
from wsl_core.metrics import SegmentationEvaluator
from wsl_core.ops import Grid, half_plane_offsets, resize_maps, valid_pairs
from wsl_core.papers import build_for
from wsl_core.papers.affinitynet import AffinityNet, SegmentationNetwork, affinity_losses, pair_distances
from wsl_core.papers.cam import CAM
from wsl_core.recipes import Recipe
from wsl_core.refine import PairLabels, affinity_labels, random_walk
from wsl_core.segmentation import labels_of_cells, labels_of_pixels, pixel_loss, with_background
from wsl_core.training import fit, load_run

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 3, 34, 41, generator=GENERATOR)  # 9 x 11 cells of 4 pixels, those at the edges smaller
MASKS = (
    torch.randint(0, 4, (2, 9, 11), generator=GENERATOR).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :34, :41]
)
MASKS = torch.where(MASKS == 3, 255, MASKS)  # two classes, background, unknown
BATCH = {"image": IMAGES, "mask": MASKS}


def small(**options) -> AffinityNet:
    torch.manual_seed(1)
    return AffinityNet(**{"width": 4, "channels": (8, 8, 16), "radius": 3} | options).eval()


# ---- the network


@pytest.mark.parametrize("name", ["resnet38", "vgg16"])
def test_with_half_the_channels_it_is_the_released_network_layer_by_layer(name):
    network = reference_structure(f"psa_{name}_aff")
    with torch.device("meta"):
        model = AffinityNet({"vgg16": "vgg16_atrous"}.get(name, name), channels=(64, 128, 256))
        rows = executed(model)
    compared = [{key: value for key, value in layer.items() if key != "num_channels"} for layer in network["layers"]]
    assert [row for row in rows if row["type"] != "GroupNorm"] == [
        row for row in compared if row["type"] != "GroupNorm"
    ]
    groups = [row["num_groups"] for row in compared if row["type"] == "GroupNorm"]
    assert [row["num_groups"] for row in rows if row["type"] == "GroupNorm"] == groups
    assert parameters_of(model) == network["parameters"]


def test_the_papers_has_896_channels_on_56x56_cells():
    with torch.device("meta"):
        model = AffinityNet("resnet38")
        assert model(torch.zeros(1, 3, 448, 448)).shape == (1, 896, 56, 56)
    assert [row.out_channels for row in (*(p[0] for p in model.projections), model.fusion)] == [128, 256, 512, 896]
    assert model.grid == (8, 0.5) and model.radius == 5


def test_the_cam_network_is_the_released_one_but_for_a_bias():
    """Dropout of whole channels before the mean over positions is dropout of the mean."""
    network = reference_structure("psa_resnet38_cls")
    with torch.device("meta"):
        model = CAM("resnet38", num_classes=20, task="multi", dropout=network["layers"][-2]["p"])
        assert executed(model) == network["layers"][:-2]
        paper = CAM("resnet38", num_classes=20, task="multi", head_channels=512)
    assert parameters_of(model) == network["parameters"] + 20 and model.classifier.in_features == 4096
    assert paper.head[0].weight.shape == (512, 4096, 3, 3) and paper.classifier.in_features == 512


@pytest.mark.parametrize("distance", ["l1", "mean"])
def test_affinities_are_of_the_features_of_the_two_cells(distance):
    model = small(distance=distance)
    with torch.no_grad():
        values, offsets, valid = model.affinity(IMAGES)
        features = model(IMAGES)
    assert features.shape == (2, 32, 9, 11) and torch.equal(offsets, half_plane_offsets(3))
    assert torch.equal(valid, valid_pairs(offsets, (9, 11)))
    for o, (dy, dx) in enumerate(offsets.tolist()):
        y, x = 4, 5
        difference = (features[:, :, y, x] - features[:, :, y + dy, x + dx]).abs()
        expected = (-(difference.sum(dim=1) if distance == "l1" else difference.mean(dim=1))).exp()
        torch.testing.assert_close(values[:, o, y, x], expected)
    assert not values[:, ~valid].any() and (values[:, valid] > 0).all() and (values <= 1).all()


def test_official_affinities_are_those_of_fewer_pairs():
    model = small()
    with torch.no_grad():
        every, official = model.affinity(IMAGES), model.affinity(IMAGES, official=True)
    assert torch.equal(official.valid, valid_pairs(every.offsets, (9, 11), official=True))
    assert 0 < official.valid.sum() < every.valid.sum()
    assert torch.equal(official.values, every.values * official.valid)


def test_both_distances_start_at_like_affinities():
    """Sums over 32 channels are not 32 times as large."""
    l1, mean = (-small(distance=d).affinity(IMAGES).values[:, :, 3, 3].log().mean() for d in ("l1", "mean"))
    assert abs((l1 / mean).log().item()) < torch.tensor(3.0).log().item()  # within a factor of three, either way


def test_the_first_weights_do_not_depend_on_a_look_at_the_levels():
    model = small()
    assert all(not m.num_batches_tracked for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert AffinityNet(width=4).training and AffinityNet(width=4).backbone.layers.training


# ---- distances, (7.3)


def test_distances_are_the_released_codes():
    reference = psa()
    distances = pair_distances(reference["features"][None], half_plane_offsets(5), "mean")
    torch.testing.assert_close(taken_by_official((-distances[0]).exp()), reference["affinity_pairs"])


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(2, 4), st.integers(0, 99))
def test_distances_of_maps_of_any_size_are_those_of_the_pairs(height, width, radius, seed):
    features = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    offsets = half_plane_offsets(radius)
    distances, valid = pair_distances(features, offsets), valid_pairs(offsets, (height, width))
    for o, y, x in valid.nonzero().tolist():
        dy, dx = offsets[o].tolist()
        expected = (features[0, :, y, x] - features[0, :, y + dy, x + dx]).abs().sum()
        torch.testing.assert_close(distances[0, o, y, x], expected)
    torch.testing.assert_close(pair_distances(features, offsets, "mean"), distances / 3)


def test_gradients_of_distances():
    features = torch.randn(1, 2, 3, 4, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: pair_distances(f, half_plane_offsets(2)), features)


def test_training_keeps_no_difference_of_features():
    """One number a pair is kept, and not one a channel of each pair: else 896 channels and 34 offsets fill a GPU."""
    features = torch.randn(1, 64, 8, 8, generator=GENERATOR, requires_grad=True)
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        distances = pair_distances(features, half_plane_offsets(5))
    kept_numbers = sum(tensor.numel() for tensor in kept.values())
    assert distances.requires_grad and kept_numbers <= features.numel() + distances.numel()


# ---- losses, (7.6) to (7.9)


def random_pairs(seed: int = 0) -> tuple[torch.Tensor, PairLabels]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, 6, 7), generator=random)
    distances = 3 * torch.rand(2, len(half_plane_offsets(3)), 6, 7, generator=random, dtype=torch.float64) + 0.1
    return distances, affinity_labels(torch.where(labels == 3, 255, labels), 3)


def test_the_released_codes_loss_is_a_quarter_of_the_papers():
    distances, labels = random_pairs()
    affinity, floor = (-distances).exp(), 1e-5
    values = {"background": affinity, "foreground": affinity, "negative": 1 - affinity}
    chosen = {name: getattr(labels, name).double() for name in values}
    terms = [
        (-chosen[name] * (value + floor).log()).sum() / (chosen[name].sum() + floor) for name, value in values.items()
    ]
    code = terms[0] / 4 + terms[1] / 4 + terms[2] / 2
    torch.testing.assert_close(affinity_losses(distances, labels)["total"] / 4, code, rtol=1e-3, atol=0)


def test_losses_are_means_over_their_sets():
    distances, labels = random_pairs(1)
    losses = affinity_losses(distances, labels)
    torch.testing.assert_close(losses["foreground"], distances[labels.foreground].mean())
    torch.testing.assert_close(losses["background"], distances[labels.background].mean())
    torch.testing.assert_close(losses["negative"], -(1 - (-distances[labels.negative]).exp()).log().mean())
    parts = [losses[name] for name in ("foreground", "background", "negative")]
    torch.testing.assert_close(losses["total"], parts[0] + parts[1] + 2 * parts[2])
    counts = torch.stack([pairs.sum() for pairs in labels])
    unbalanced = affinity_losses(distances, labels, "pairs")["total"]
    torch.testing.assert_close(unbalanced, (torch.stack(parts) * counts).sum() / counts.sum())


def test_gradients_of_losses():
    distances, labels = random_pairs(2)
    for balance in ("sets", "pairs"):
        loss = lambda d: affinity_losses(d, labels, balance)["total"]  # noqa: B023, E731
        assert torch.autograd.gradcheck(loss, distances.requires_grad_())


@pytest.mark.parametrize("labels", [0, 1, 255])
def test_the_loss_of_an_empty_set_is_zero(labels):
    """All background, all of one class, nothing known."""
    model = small()
    losses = model.losses(BATCH | {"mask": torch.full_like(MASKS, labels)})
    empty = {0: ("foreground", "negative"), 1: ("background", "negative")}.get(labels, tuple(losses))
    assert all(losses[name] == 0 for name in empty) and losses["total"].isfinite()
    assert labels == 255 or losses["total"] > 0
    losses["total"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_alike_cells_that_should_differ_cost_much_and_not_infinitely_much():
    distances = torch.zeros(1, 1, 1, 2, requires_grad=True)
    every = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    loss = affinity_losses(distances, PairLabels(~every, ~every, every))["negative"]
    loss.backward()
    assert 11 < loss < 12 and distances.grad.isfinite().all()


def test_unknown_cells_move_nothing():
    model = small()
    features = model(IMAGES).detach().requires_grad_()
    cells = labels_of_cells(MASKS, 4)
    distances = pair_distances(features, half_plane_offsets(3))
    affinity_losses(distances, affinity_labels(cells, 3))["total"].backward()
    moved = features.grad.abs().sum(dim=1) > 0
    assert (cells == 255).any() and not moved[cells == 255].any() and moved[cells != 255].any()


def test_a_batchs_losses_are_those_of_its_cells():
    model = small()
    distances, cells = pair_distances(model(IMAGES), half_plane_offsets(3)), labels_of_cells(MASKS, 4)
    assert torch.equal(cells, MASKS[:, ::4, ::4])
    for pairs in ("all", "official"):
        expected = affinity_losses(distances, affinity_labels(cells, 3, official=pairs == "official"))
        torch.testing.assert_close(small(pairs=pairs).losses(BATCH), expected)


def test_every_loss_reaches_the_trunk():
    model = small().train()
    model.losses(BATCH)["total"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("model", "wrong", "expected"), [(small(), 256, 255), (SegmentationNetwork(num_classes=2, width=4).eval(), 7, 2)]
)
def test_wrong_masks_are_refused(model, wrong, expected):
    with pytest.raises(UsageError, match=r"found no 'mask'; expected (confident |pseudo-)labels"):
        model.losses({"image": IMAGES})
    with pytest.raises(DataError, match=rf"masks: found.* {wrong}; expected 0 to {expected}"):
        model.losses(BATCH | {"mask": torch.full_like(MASKS, wrong)})


# ---- the walk, (7.10) and (7.11)


def test_maps_are_spread_along_the_affinities_of_cells():
    model, maps = small(), with_background(torch.rand(2, 2, 34, 41, generator=GENERATOR))
    rows, columns = ([slice(4 * i, 4 * i + 4) for i in range(count)] for count in (9, 11))
    cells = torch.stack([torch.stack([maps[:, :, y, x].mean(dim=(2, 3)) for x in columns], 2) for y in rows], 2)
    for official in (False, True):
        walked = random_walk(cells, model.affinity(IMAGES, official), beta=4, steps=6)
        expected = resize_maps(walked, (34, 41), Grid(4, 2))
        torch.testing.assert_close(model.spread(IMAGES, maps, 4, 6, official), expected)
    constant = torch.full_like(maps, 0.3)
    torch.testing.assert_close(model.spread(IMAGES, constant), constant)


def test_a_walk_of_no_steps_moves_nothing():
    ramp = (torch.arange(41) + 0.5).expand(2, 1, 34, 41)
    spread = small().spread(IMAGES, ramp, steps=0)
    torch.testing.assert_close(spread[..., 2:38], ramp[..., 2:38])


def test_maps_of_another_size_are_not_spread():
    with pytest.raises(UsageError, match=r"maps: found \(2, 3, 9, 11\); expected the images' size, \(34, 41\)"):
        small().spread(IMAGES, torch.rand(2, 3, 9, 11))


# ---- the segmentation network


def test_the_papers_head_is_two_convolutions_with_holes():
    with torch.device("meta"):
        model = SegmentationNetwork("resnet38", num_classes=20)
        assert model.segment(torch.zeros(1, 3, 448, 448)).shape == (1, 21, 56, 56)
    convolutions = [layer for layer in model.head if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.dilation[0]) for c in convolutions] == [
        (4096, 512, 3, 12), (512, 21, 3, 12),
    ]  # fmt: skip
    assert len(model.head) == 3


def test_deeplabv3_is_torchvisions():
    torch.manual_seed(0)
    ours = SegmentationNetwork("resnet50", num_classes=2, head="deeplabv3").eval()
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    renamed = {name.replace("backbone.layers.", "backbone.").replace("head.", "classifier."): tensor
               for name, tensor in ours.state_dict().items()}  # fmt: skip
    theirs.load_state_dict(renamed)
    images = torch.rand(1, 3, 32, 32, generator=GENERATOR)
    with torch.inference_mode():
        expected = theirs((images - ours.backbone.mean) / ours.backbone.std)["out"]
        found = F.interpolate(ours.segment(images), (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_loss_is_that_of_the_pixels():
    model = SegmentationNetwork(num_classes=2, width=4).eval()
    torch.testing.assert_close(model.losses(BATCH)["total"], pixel_loss(model.segment(IMAGES), MASKS, model.grid))


def test_logits_are_of_the_highest_probability():
    model = SegmentationNetwork(num_classes=2, width=4).eval()
    logits, maps = model.scores_and_maps(IMAGES)
    torch.testing.assert_close(logits.sigmoid(), maps.amax(dim=(2, 3)))


# ---- arguments, training


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"distance": "l2"}, "distance='l2' is unknown; expected 'l1' or 'mean'"),
        ({"balance": "none"}, "balance='none'"),
        ({"pairs": "some"}, "pairs='some'"),
        ({"radius": 1}, "radius=1"),
        ({"channels": (8, 8)}, r"channels=\(8, 8\): expected three"),
        ({"channels": (8, 8, 12)}, "multiples of 8"),
        ({"backbone": "alexnet"}, "backbone='alexnet'"),
        ({"output_stride": 8}, "Take 4 or less"),
    ],
)
def test_wrong_arguments_of_affinitynet(arguments, words):
    with pytest.raises(UsageError, match=words):
        AffinityNet(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"task": "both"}, "task='both'"),
        ({"head": "unet"}, "head='unet'"),
        ({"head": "deeplabv3", "dilation": 3}, "belong to 'atrous'"),
        ({"dilation": 0}, "dilation=0"),
        ({"head_channels": 0}, "head_channels=0"),
        ({"backbone": "vgg99"}, "backbone='vgg99'"),
    ],
)
def test_wrong_arguments_of_the_segmentation_network(arguments, words):
    with pytest.raises(UsageError, match=words):
        SegmentationNetwork(**arguments)


def test_unknown_choices_of_the_functions():
    distances, labels = random_pairs()
    with pytest.raises(UsageError, match="balance='half'"):
        affinity_losses(distances, labels, "half")
    with pytest.raises(UsageError, match="distance='cosine'"):
        pair_distances(torch.zeros(1, 1, 1, 1), half_plane_offsets(2), "cosine")


class Halves(Dataset):
    """A half of one colour beside grey noise: a class on the left, background on the right."""

    name, classes, task, licence, version = "halves", ("red", "green"), "single", "MIT", "1"

    def __init__(self, length: int = 12, split: str = "train") -> None:
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


def confident(truth: Dataset) -> WithMasks:
    """What is known: the background, and the object but for a strip of one cell along the border."""
    masks = [sample["mask"].clone() for sample in truth]
    for mask in masks:
        mask[:, 12:16] = 255
    return WithMasks(truth, masks)


def trained(paper: str, model: dict, run_dir, **changes):
    truth = Halves()
    recipe = Recipe(paper, "halves", steps=30, batch_size=4, lr=1e-2, log_every=5, model=model).replace(**changes)
    build = lambda: build_for(truth, paper, **recipe.model)  # noqa: E731
    run = fit(build, confident(truth), recipe, run_dir=run_dir, device="cpu")
    losses = [entry["losses"]["total"] for entry in run.history]
    assert losses[-1] < losses[0] / 2
    return load_run(run_dir).model.eval(), truth


def test_affinities_learned_from_the_sides_carry_a_spot_to_the_border(tmp_path):
    options = {"width": 4, "channels": [8, 8, 16], "radius": 3}
    model, truth = trained("affinitynet", options, tmp_path / "run")
    assert isinstance(model, AffinityNet)
    spot = torch.zeros(1, 2, 32, 32)
    spot[:, 0], spot[:, 1, 12:20, :8] = 0.05, 1.0  # an even background, and an eighth of the object
    evaluators = [SegmentationEvaluator(1), SegmentationEvaluator(1)]
    for sample in truth:
        walked = model.spread(sample["image"][None], spot, steps=64)
        for evaluator, maps in zip(evaluators, (spot, walked)):
            evaluator.update(maps.argmax(dim=1), (sample["mask"] > 0).long()[None])
    before, after = (evaluator.compute()["miou"] for evaluator in evaluators)
    assert before < 0.5 < 0.85 < after


def test_the_last_stage_learns_masks_from_pseudo_labels(tmp_path):
    model, truth = trained("affinitynet_segmentation", {"width": 4, "dilation": 1}, tmp_path / "run")
    assert isinstance(model, SegmentationNetwork)
    evaluator = SegmentationEvaluator(2)
    for sample in truth:
        images = sample["image"][None]
        with torch.no_grad():
            evaluator.update(labels_of_pixels(model.segment(images), images, model.grid, crf=None)[0], sample["mask"])
    assert evaluator.compute()["miou"] > 0.85
