"""Laws of GAIN (PAPERS.md, section 9), its choices, and the ways in which it can be run."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from wsl_core.backbones import BACKBONES, from_resnet
from wsl_core.data import load_dataset
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Grid, normalize, resize_maps
from wsl_core.papers.cam import CAM, grad_cam
from wsl_core.papers.gain import GAIN, attention_error, attention_maps, nearest_cells
from wsl_core.recipes import get_recipe
from wsl_core.training import fit, load_run

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
LABELS = torch.eye(3)[[1, 0, 2, 1]]
SEVERAL = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
MASKS = torch.zeros(4, 48, 48, dtype=torch.int64)
MASKS[:, 10:30, 5:40] = torch.tensor([2, 1, 3, 2])[:, None, None]  # k + 1 for the labels above
LAST_CONVOLUTION = "backbone.layers.4.conv2.weight"


def trained_looking(**options):
    """A small network whose BatchNorm statistics are not the initial ones and whose maps differ in sign."""
    torch.manual_seed(1)
    model = GAIN(**{"num_classes": 3, "width": 4} | options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(model.classifier.weight)
    return model.eval()


def batch(labels=LABELS, **more):
    return {"image": IMAGES[: len(labels)], "labels": labels} | more


def flat(**options):
    """A network whose attention is zero everywhere: no unit speaks for any class."""
    model = trained_looking(**options)
    nn.init.constant_(model.classifier.weight, -1.0)
    return model


# ---- the maps, (4.1) and (4.2)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_are_grad_cams_on_every_backbone(backbone):
    torch.manual_seed(0)
    model = GAIN(backbone, num_classes=2).eval()
    images, labels = IMAGES[:2], torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    expected = grad_cam(model, images, labels, "backbone")
    torch.testing.assert_close(model.localize(images, labels), expected)
    assert expected[labels > 0].amax(dim=(1, 2)).gt(0).any()


def test_maps_are_cams_but_for_their_scale_and_the_relu():
    cam = CAM(num_classes=3, width=4).eval()
    gain = GAIN(num_classes=3, width=4).eval()
    gain.load_state_dict(cam.state_dict())
    torch.testing.assert_close(gain(IMAGES), cam(IMAGES))
    torch.testing.assert_close(gain.localize(IMAGES), cam.localize(IMAGES).relu() / 36)


@pytest.mark.parametrize("which", [0, 1])
def test_gradient_of_the_map_in_float64(which):
    """As a function of the features, and of the channel weights."""
    torch.manual_seed(0)
    features, weights = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    (features, weights)[which].requires_grad_()
    assert attention_maps(features, weights).gt(0).any() and attention_maps(features, weights).eq(0).any()
    assert torch.autograd.gradcheck(attention_maps, (features, weights))


def test_localize_needs_no_grad_mode_and_leaves_nothing_behind():
    model = trained_looking()
    runs = []
    model.backbone.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    maps = model.localize(IMAGES, SEVERAL)
    with torch.no_grad():
        assert torch.equal(model.localize(IMAGES, SEVERAL), maps)
    assert runs == [False, False] and not maps.requires_grad  # the trunk once a call, and without a graph
    assert all(parameter.grad is None for parameter in model.parameters())
    assert maps[SEVERAL > 0].any() and not maps[SEVERAL == 0].any()


def test_maps_of_all_classes_hold_those_of_the_labels():
    model = trained_looking()
    logits, maps = model.scores_and_maps(IMAGES)
    torch.testing.assert_close(logits, model(IMAGES))
    torch.testing.assert_close(maps, model.localize(IMAGES))
    torch.testing.assert_close(maps * SEVERAL[:, :, None, None], model.localize(IMAGES, SEVERAL))
    assert (maps >= 0).all() and not maps.requires_grad


# ---- what is removed, (4.3) and (4.4)


@pytest.mark.parametrize(("fill", "colour"), [("mean", (0.485, 0.456, 0.406)), ("black", (0.0, 0.0, 0.0))])
def test_the_mask_is_a_half_at_the_threshold_nothing_below_and_all_above(fill, colour):
    """A flat map is zero, so that the threshold alone decides."""
    colour = torch.tensor(colour)[:, None, None]
    rest = {tau: flat(fill=fill, threshold=tau).masked_images(IMAGES, LABELS) for tau in (0.0, 20.0, -20.0)}
    torch.testing.assert_close(rest[0.0], (IMAGES + colour) / 2)
    torch.testing.assert_close(rest[20.0], IMAGES)
    torch.testing.assert_close(rest[-20.0], colour.expand_as(IMAGES))


def test_a_steep_mask_keeps_or_removes():
    rest = trained_looking(slope=1e8, threshold=0.3, fill="black").masked_images(IMAGES, LABELS)
    removed = rest == 0
    assert 0 < removed.float().mean() < 1
    torch.testing.assert_close(rest[~removed], IMAGES[~removed])


@pytest.mark.parametrize("normalization", ["max", "minmax", "none"])
def test_masked_images_by_hand(normalization):
    """Each pair by itself, in the order of the labels; a map is scaled by its own values alone."""
    model = trained_looking(normalization=normalization, threshold=0.3, slope=5.0)
    maps, expected = model.localize(IMAGES), []
    for i, c in SEVERAL.nonzero().tolist():
        attention = maps[i : i + 1, c : c + 1]
        attention = attention if normalization == "none" else normalize(attention, normalization)
        attention = resize_maps(attention, (48, 48), model.grid)[0]
        lost = 1 / (1 + torch.exp(-5.0 * (attention - 0.3)))
        expected.append((IMAGES[i] - model.backbone.mean[0]) * (1 - lost) + model.backbone.mean[0])
    torch.testing.assert_close(model.masked_images(IMAGES, SEVERAL), torch.stack(expected))


def test_masked_images_keep_their_memory_layout():
    """Without it the second pass would be several times slower on a CPU."""
    images = IMAGES.to(memory_format=torch.channels_last)
    assert trained_looking().masked_images(images, SEVERAL).is_contiguous(memory_format=torch.channels_last)


# ---- the mining loss, (4.5) and (4.6)


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("score", ["probability", "logit"])
def test_the_mining_loss_by_hand(task, score):
    model = trained_looking(task=task, mining_score=score)
    chosen = [0, 1, 3] if task == "single" else [0, 1, 2, 3]  # the third image has no label
    logits = model(model.masked_images(IMAGES, SEVERAL))
    if score == "probability":
        logits = logits.softmax(dim=1) if task == "single" else logits.sigmoid()
    found = logits[range(6), SEVERAL.nonzero()[:, 1]]
    expected = (found[:2].mean() + found[2] + found[3:].mean()) / len(chosen)
    losses = model.losses({"image": IMAGES[chosen], "labels": SEVERAL[chosen]})
    torch.testing.assert_close(losses["mining"], expected)


def test_an_image_without_its_one_label_is_refused():
    with pytest.raises(DataError, match="found an image without a label; expected one"):
        trained_looking().losses(batch(SEVERAL))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_a_batch_is_its_images_one_by_one(rows):
    labels = torch.tensor(rows).float()
    model, more = trained_looking(task="multi", attention_weight=1.0), {"mask": MASKS[: len(rows)]}
    together = model.losses(batch(labels, **more))
    alone = [
        model.losses({"image": IMAGES[i : i + 1], "labels": labels[i : i + 1], "mask": MASKS[i : i + 1]})
        for i in range(len(labels))
    ]
    for name in ("classification", "mining", "attention", "total"):
        expected = torch.stack([one[name] for one in alone]).mean()
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masked", [16, 3, 0])
def test_gradients_of_a_batch_are_the_mean_of_its_images(masked):
    """Also where few images have a mask: it weighs the same, however rare masks are."""
    model = trained_looking(attention_weight=10.0)
    images = torch.rand(16, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    labels, masks = torch.eye(3)[torch.arange(16) % 3], torch.full((16, 24, 24), 255)
    masks[:masked] = torch.randint(0, 4, (masked, 24, 24), generator=torch.Generator().manual_seed(4))
    every = {"image": images, "labels": labels, "mask": masks}
    losses = model.losses(every)
    losses["total"].backward()
    assert (losses["attention"] > 0) == (masked > 0)
    together = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for i in range(16):
        (model.losses({key: values[i : i + 1] for key, values in every.items()})["total"] / 16).backward()
    for expected, parameter in zip(together, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5)


def test_the_nearest_cell_gives_blocks_and_keeps_the_range():
    near = nearest_cells(torch.arange(6.0).view(1, 2, 3), (16, 24), Grid(stride=8, first=4.0))[0]
    assert torch.equal(near, torch.arange(6.0).view(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1))
    model, smooth = trained_looking(upsampling="nearest", slope=1e6), trained_looking(slope=1e6)
    blocks = model.masked_images(IMAGES, SEVERAL)
    assert not torch.equal(blocks, smooth.masked_images(IMAGES, SEVERAL))


def test_without_mining_it_is_the_classifier():
    model = trained_looking(mining_weight=0.0)
    losses = model.losses(batch())
    expected = F.cross_entropy(model(IMAGES), LABELS.argmax(dim=1))
    torch.testing.assert_close(losses["total"], expected)
    ours = torch.autograd.grad(losses["total"], list(model.parameters()))
    torch.testing.assert_close(ours, torch.autograd.grad(expected, list(model.parameters())))


def test_mining_reaches_the_trunk_through_the_map_and_not_the_channel_weights():
    """With a masked stream that does not learn there is no other way than the map."""
    model = trained_looking(masked_parameters="constant")
    losses = model.losses(batch())
    torch.testing.assert_close(losses["mining"], trained_looking().losses(batch())["mining"])
    losses["mining"].backward()
    assert model.get_parameter(LAST_CONVOLUTION).grad.any()
    assert model.classifier.weight.grad is None and model.classifier.bias.grad is None


def test_a_steep_mask_stops_the_gradient_through_the_map():
    model = trained_looking(masked_parameters="constant", slope=1e6)
    model.losses(batch())["mining"].backward()
    assert not model.get_parameter(LAST_CONVOLUTION).grad.any()


def test_differentiable_channel_weights_reach_the_classifier():
    model = trained_looking(masked_parameters="constant", channel_weights="differentiable")
    losses = model.losses(batch())
    torch.testing.assert_close(losses["mining"], trained_looking().losses(batch())["mining"])
    losses["mining"].backward()
    assert model.classifier.weight.grad.any() and model.classifier.bias.grad is None


@pytest.mark.parametrize(
    ("name", "channel_weights"),
    [("backbone.layers.2.conv1.weight", "constant"), ("classifier.weight", "differentiable")],
)
def test_gradients_in_float64(name, channel_weights):
    """Of all of GAIN_ext's loss. Behind GAP the channel weights depend on the classifier alone, not on the trunk."""
    model = trained_looking(num_classes=2, width=2, attention_weight=10.0, channel_weights=channel_weights).double()
    one = {"image": IMAGES[:2, :, :24, :24].double(), "labels": torch.eye(2).double(), "mask": MASKS[:2, :24, :24]}
    weight = model.get_parameter(name).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda value: torch.func.functional_call(Loss(model), {f"model.{name}": value}, (one,)), (weight,)
    )


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.losses(batch)["total"]


def test_logits_can_be_lowered_without_a_change_to_the_classification_and_probabilities_cannot():
    """Why the mining loss takes a probability."""
    losses = {}
    for score in ("logit", "probability"):
        for shift in (0.0, -50.0):
            model = trained_looking(mining_score=score)
            with torch.no_grad():
                model.classifier.bias += shift
            losses[score, shift] = model.losses(batch())
    for score, drop in (("logit", 50.0), ("probability", 0.0)):
        before, after = losses[score, 0.0], losses[score, -50.0]
        torch.testing.assert_close(before["classification"], after["classification"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(before["mining"] - after["mining"], torch.tensor(drop), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", ["max", "minmax", "none"])
def test_no_attention_and_no_label_are_defined(normalization):
    model = flat(task="multi", attention_weight=10.0, normalization=normalization)
    for labels in (SEVERAL, torch.zeros(4, 3)):
        losses = model.losses(batch(labels, mask=MASKS))
        losses["total"].backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert losses["mining"] == 0 and losses["attention"] == 0 and losses["classification"] > 0


def test_a_loss_that_is_not_finite_is_left_to_the_training_loop():
    assert trained_looking().losses({"image": IMAGES * float("nan"), "labels": LABELS})["total"].isnan()


# ---- the masked stream's mode


def test_masked_images_go_through_as_at_a_test_and_each_module_keeps_its_mode():
    model = trained_looking().train()
    norm, frozen = model.backbone.layers[0][1], model.backbone.layers[1].norm1
    frozen.eval()
    modes = []
    norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    model.losses(batch())
    assert modes == [True, False]
    assert model.training and norm.training and not frozen.training


def test_running_statistics_move_as_in_a_plain_classification_step():
    gain, plain = trained_looking().train(), trained_looking().train()
    gain.losses(batch())
    plain(IMAGES)
    for (name, ours), theirs in zip(gain.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_modes_come_back_after_an_error():
    model = trained_looking().train()

    def refuse_a_test(module, *_):
        if not module.training:
            raise ZeroDivisionError

    model.classifier.register_forward_hook(refuse_a_test)
    with pytest.raises(ZeroDivisionError):
        model.losses(batch())
    assert all(module.training for module in model.modules())


# ---- masks, (4.7) and (4.8)


def test_attention_that_equals_the_mask_costs_nothing():
    target = torch.rand(3, 5, 5) > 0.5
    known = torch.ones_like(target)
    assert attention_error(target.float(), target, known).tolist() == [0, 0, 0]
    assert attention_error(1 - target.float(), target, known).tolist() == [1, 1, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_pixels_that_are_not_known_do_not_count(seed, share, elsewhere):
    generator = torch.Generator().manual_seed(seed)
    attention, target, known = (torch.rand(1, 4, 6, generator=generator) for _ in range(3))
    target, known = target > 0.5, known < share
    error = attention_error(attention, target, known)
    changed = torch.where(known, attention, torch.tensor(elsewhere))
    assert torch.equal(attention_error(changed, target ^ ~known, known), error)
    expected = (attention - target.float()).square()[known].mean() if known.any() else torch.tensor(0.0)
    torch.testing.assert_close(error[0], expected)


def test_the_attention_loss_by_hand():
    """Only the image's own classes, only images with a known pixel, only known pixels."""
    model = trained_looking(task="multi", attention_weight=10.0)
    masks = MASKS.clone()
    masks[0, :20] = 255
    masks[3] = 255
    losses = model.losses(batch(SEVERAL, mask=masks))
    lit = resize_maps(normalize(model.localize(IMAGES), "max"), (48, 48), model.grid)
    known = masks[0] != 255
    first = torch.stack([(lit[0, c] - (masks[0] == c + 1).float()).square()[known].mean() for c in (0, 1)])
    second = (lit[1, 1] - (masks[1] == 2).float()).square().mean()
    torch.testing.assert_close(losses["attention"], (first.mean() + second) / 4)  # the other two images add nothing
    expected = losses["classification"] + losses["mining"] + 10 * losses["attention"]
    torch.testing.assert_close(losses["total"], expected)


def test_images_without_any_known_pixel_supervise_nothing():
    model = trained_looking(attention_weight=10.0)
    assert model.losses(batch(mask=torch.full_like(MASKS, 255)))["attention"] == 0


def test_the_attention_loss_reaches_the_trunk_and_not_the_channel_weights():
    model = trained_looking(attention_weight=10.0)
    model.losses(batch(mask=MASKS))["attention"].backward()
    assert model.get_parameter(LAST_CONVOLUTION).grad.any() and model.classifier.weight.grad is None


def test_without_its_weight_no_mask_is_read():
    assert list(trained_looking().losses(batch(mask=MASKS))) == ["classification", "mining", "total"]


# ---- precision, processes, the training loop


def test_autocast_keeps_the_map_in_full_precision():
    model = trained_looking(attention_weight=10.0)
    expected = model.losses(batch(mask=MASKS))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.losses(batch(mask=MASKS))
        with torch.no_grad():
            assert model.localize(IMAGES).dtype == torch.float32
    for name in ("mining", "attention", "total"):
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected[name], rtol=0.05, atol=0.02)


def test_a_channel_weight_that_16_bits_cannot_hold():
    """Behind GAP a gradient is divided by the number of cells, here beyond the least number of float16."""
    model = trained_looking(fill="black")
    with torch.no_grad():
        model.classifier.weight *= 1e-6
    with torch.autocast("cpu", torch.float16):
        maps = model.localize(IMAGES)
    torch.testing.assert_close(maps, model.localize(IMAGES), rtol=0.02, atol=1e-3 * maps.max().item())
    assert maps.any()


def test_scaled_gradients_in_16_bits():
    expected, scaled = trained_looking(), trained_looking()
    expected.losses(batch())["total"].backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(scaled.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.float16):
        total = scaled.losses(batch())["total"]
    scaler.scale(total).backward()
    scaler.unscale_(optimizer)
    for ours, theirs in zip(scaled.parameters(), expected.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 0.05 * theirs.grad.norm()


def test_every_parameter_takes_part_in_every_step(monkeypatch):
    """Also where the trunk brings ImageNet's classifier along, and no image has a label."""
    trunk = from_resnet(torchvision.models.resnet18(num_classes=5))
    assert trunk.classifier is not None
    monkeypatch.setattr("wsl_core.papers.gain.build_backbone", lambda *_: trunk)
    model = GAIN(num_classes=3, task="multi")
    model.losses(batch(torch.zeros(4, 3)))["total"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_loop_trains_gain_ext_and_finds_it_again(tmp_path):
    recipe = get_recipe("gain", "synthetic", "smoke").replace(
        steps=2, images=4, batch_size=4, warmup_steps=0, log_every=1, checkpoint_every=1,
        model={"width": 4, "attention_weight": 10.0}, data={"size": 48},
    )  # fmt: skip
    train_set = load_dataset("synthetic", "train", length=4, **recipe.data)
    run = fit(lambda: GAIN(num_classes=len(train_set.classes), **recipe.model), train_set, recipe,
              run_dir=tmp_path / "run", device="cpu")  # fmt: skip
    assert set(run.history[-1]["losses"]) == {"classification", "mining", "attention", "total"}
    again = load_run(tmp_path / "run").model.eval()
    images = train_set[0]["image"][None]
    torch.testing.assert_close(again.localize(images), run.model.eval().localize(images))


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"task": "both"}, "task='both'"),
        ({"normalization": "sum"}, "normalization='sum' is unknown; expected 'max' or 'minmax' or 'none'"),
        ({"fill": "white"}, "fill='white'"),
        ({"mining_score": "rank"}, "mining_score='rank'"),
        ({"channel_weights": "free"}, "channel_weights='free'"),
        ({"masked_parameters": "own"}, "masked_parameters='own'"),
        ({"mining_weight": -1.0}, "mining_weight=-1"),
        ({"attention_weight": float("inf")}, "attention_weight=inf"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"slope": 0.0}, "slope=0"),
        ({"backbone": "vgg99"}, "backbone='vgg99'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        GAIN(**arguments)


def test_an_attention_weight_needs_masks_of_the_images_size():
    model = trained_looking(attention_weight=10.0)
    with pytest.raises(UsageError, match=r"attention_weight=10.0: the batch has no mask"):
        model.losses(batch())
    with pytest.raises(DataError, match=r"mask \(4, 24, 24\): expected .* \(48, 48\) pixels"):
        model.losses(batch(mask=MASKS[:, :24, :24]))
