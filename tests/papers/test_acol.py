"""Laws of ACoL (PAPERS.md, section 9), and its networks layer by layer against the released ones."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from wsl_core.errors import UsageError
from wsl_core.ops import erase, normalize
from wsl_core.papers.acol import ACoL
from wsl_core.papers.erasing_baselines import SingleClassifier

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.eye(8)[[1, 4, 6]]
STRUCTURES = Path(__file__).resolve().parents[3] / "shared" / "reference" / "network_structures.json"


def trained_looking(**options):
    """A network whose BatchNorm statistics and biases are not the initial ones."""
    torch.manual_seed(1)
    model = ACoL(**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_1x1_convolution_before_the_mean_is_a_linear_layer_behind_it(dtype, tolerance):
    model = trained_looking().to(dtype)
    *before, last = model.classifier_a
    features = nn.Sequential(*before)(model.backbone(IMAGES.to(dtype)))
    linear = features.mean(dim=(2, 3)) @ last.weight[:, :, 0, 0].T + last.bias
    torch.testing.assert_close(model(IMAGES.to(dtype)), linear, rtol=tolerance, atol=tolerance)
    cam = torch.einsum("bdhw,kd->bkhw", features, last.weight[:, :, 0, 0]) + last.bias[:, None, None]
    torch.testing.assert_close(model.branch_maps(IMAGES.to(dtype)).a, cam, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("how", ["strict", "inclusive"])
def test_erased_positions_are_zero_in_all_channels_and_the_rest_stays(how):
    features, maps = torch.randn(2, 5, 4, 4), normalize(torch.rand(2, 4, 4))
    rest = erase(features, maps, 0.5, how)
    lit = maps > 0.5
    assert (rest.permute(0, 2, 3, 1)[lit] == 0).all()
    assert torch.equal(rest.permute(0, 2, 3, 1)[~lit], features.permute(0, 2, 3, 1)[~lit])


def test_strict_and_inclusive_differ_at_the_threshold_alone():
    features, maps = torch.ones(1, 1, 1, 3), torch.tensor([[[0.4, 0.5, 0.6]]])
    assert erase(features, maps, 0.5, "strict").flatten().tolist() == [1, 1, 0]
    assert erase(features, maps, 0.5, "inclusive").flatten().tolist() == [1, 0, 0]


def test_extreme_thresholds_erase_nothing_or_everything():
    features, maps = torch.randn(1, 3, 4, 4), normalize(torch.rand(1, 4, 4))
    assert torch.equal(erase(features, maps, 1.01), features) and torch.equal(erase(features, maps, 1.0), features)
    for threshold, how in ((-0.01, "strict"), (0.0, "inclusive")):
        assert not erase(features, maps, threshold, how).any()
    flat = torch.zeros(1, 4, 4)
    assert torch.equal(erase(features, flat, 0.6), features)  # a flat map says nothing, so nothing is erased


def test_erasing_takes_out_what_is_not_finite():
    features = torch.full((1, 1, 1, 2), float("inf"))
    assert erase(features, torch.tensor([[[1.0, 0.0]]]), 0.5).flatten().tolist() == [0.0, float("inf")]


def test_soft_erasing_tends_to_hard_and_leaves_half_at_the_threshold():
    features, maps = torch.ones(1, 1, 1, 3), torch.tensor([[[0.4, 0.5, 0.6]]])
    soft = erase(features, maps, 0.5, "soft", slope=20.0).flatten()
    assert soft[1] == 0.5 and 0 < soft[2] < 0.5 < soft[0] < 1
    torch.testing.assert_close(erase(features, maps, 0.5, "soft", 1e4).flatten()[::2], torch.tensor([1.0, 0.0]))


def test_unknown_erasing():
    with pytest.raises(UsageError, match="how='gone'"):
        erase(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1), 0.5, "gone")
    with pytest.raises(UsageError, match="slope=0"):
        erase(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1), 0.5, "soft", 0.0)


def test_the_fused_map_is_nowhere_below_a_branch_and_reaches_one():
    model = trained_looking()
    fused, (a, b) = model.localize(IMAGES, LABELS), model.branch_maps(IMAGES, LABELS)
    assert (fused >= normalize(a)).all() and (fused >= normalize(b)).all()
    assert fused.amax(dim=(2, 3))[LABELS > 0].tolist() == [1.0] * 3 and not fused[LABELS == 0].any()


def test_maps_of_all_classes_hold_those_of_the_labels():
    model = trained_looking()
    logits, maps = model.scores_and_maps(IMAGES)
    torch.testing.assert_close(logits, model(IMAGES))
    torch.testing.assert_close(maps, model.localize(IMAGES))
    torch.testing.assert_close(maps * LABELS[:, :, None, None], model.localize(IMAGES, LABELS))


def test_b_answers_to_what_a_leaves_over():
    """By hand: A's map of the label, normalised, compared, the features behind it zeroed, then B."""
    model = trained_looking(erase_threshold=0.6)
    features = model.backbone(IMAGES)
    lit = normalize(model.classifier_a(features)[range(3), [1, 4, 6]])
    expected = model.classifier_b(features * (lit <= 0.6)[:, None])[range(3), [1, 4, 6]]
    torch.testing.assert_close(model.branch_maps(IMAGES, LABELS).b[range(3), [1, 4, 6]], expected)


def test_a_batch_of_one_and_of_many_agree():
    model = trained_looking()
    together = model.localize(IMAGES, LABELS)
    alone = torch.cat([model.localize(IMAGES[i : i + 1], LABELS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_equal_heads_without_erasing_give_equal_maps():
    model = trained_looking(erase_threshold=1.1)
    model.classifier_b.load_state_dict(model.classifier_a.state_dict())
    a, b = model.branch_maps(IMAGES)
    torch.testing.assert_close(a, b)


def test_b_sees_only_its_biases_when_everything_is_erased():
    model = trained_looking(erase_threshold=-0.1)
    b = model.branch_maps(IMAGES, LABELS).b
    nothing = model.classifier_b(torch.zeros(1, model.backbone.channels, 8, 8))
    torch.testing.assert_close(b[0, 1], nothing[0, 1])


@pytest.mark.parametrize("erasing", ["strict", "soft"])
def test_the_loss_is_the_sum_and_no_gradient_runs_through_the_mask(erasing):
    """B's loss reaches the trunk, but A's head not at all: the mask is a constant."""
    model = trained_looking(erasing=erasing)
    losses = model.losses({"image": IMAGES, "labels": LABELS})
    torch.testing.assert_close(losses["total"], losses["a"] + losses["b"])
    losses["b"].backward()
    assert all(parameter.grad is None for parameter in model.classifier_a.parameters())
    assert any(parameter.grad.any() for parameter in model.backbone.parameters())


def test_the_control_erases_where_another_image_is_lit():
    model = trained_looking(mask_of="another image")
    features = model.backbone(IMAGES)
    lit = normalize(model.classifier_a(features)[range(3), [1, 4, 6]])[[2, 0, 1]]
    logits = model.classifier_b(features * (lit <= 0.6)[:, None]).mean(dim=(2, 3))
    expected = nn.functional.cross_entropy(logits, torch.tensor([1, 4, 6]))
    torch.testing.assert_close(model.losses({"image": IMAGES, "labels": LABELS})["b"], expected)


def test_the_random_control_erases_as_much_elsewhere(monkeypatch):
    erased = []
    monkeypatch.setattr(
        "wsl_core.papers.acol.erase", lambda features, maps, *rest: erased.append(maps > 0.6) or features
    )
    for mask_of in ("itself", "random cells"):
        torch.manual_seed(0)
        trained_looking(mask_of=mask_of).losses({"image": IMAGES, "labels": LABELS})
    own, shuffled = erased
    assert own.sum(dim=(1, 2)).tolist() == shuffled.sum(dim=(1, 2)).tolist() and own.any(dim=(1, 2)).all()
    assert (own != shuffled).any(dim=(1, 2)).all()
    assert not torch.equal(shuffled[0] & own[0], shuffled[0])  # not only where the map is lit


@pytest.mark.parametrize("name", ["backbone.layers.2.conv1.weight", "classifier_a.3.weight", "classifier_b.0.weight"])
def test_gradients_in_float64(name):
    """Of the summed loss, below the mask and beside it: where the mask is a constant, so are its finite differences."""
    torch.manual_seed(0)
    model = ACoL(num_classes=2, width=2).double().eval()
    images = torch.rand(2, 3, 24, 24, dtype=torch.float64)
    batch = {"image": images, "labels": torch.eye(2, dtype=torch.float64)}
    weight = model.get_parameter(name).detach().clone().requires_grad_()
    loss = Loss(model)
    assert torch.autograd.gradcheck(
        lambda value: torch.func.functional_call(loss, {f"model.{name}": value}, (batch,)), (weight,)
    )


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.losses(batch)["total"]


def test_the_control_needs_another_image():
    model = trained_looking(mask_of="another image")
    with pytest.raises(UsageError, match="a batch of one"):
        model.losses({"image": IMAGES[:1], "labels": LABELS[:1]})


def test_a_loss_that_is_not_finite_is_left_to_the_training_loop():
    model = trained_looking()
    losses = model.losses({"image": IMAGES * float("nan"), "labels": LABELS})
    assert losses["total"].isnan()


@pytest.mark.parametrize("how", ["strict", "soft"])
def test_erasing_keeps_the_type_of_the_features(how):
    features = torch.ones(1, 2, 2, 2, dtype=torch.bfloat16)
    assert erase(features, torch.rand(1, 2, 2), 0.5, how).dtype == torch.bfloat16


def test_several_labels_erase_what_any_of_them_lights_up():
    model = trained_looking(task="multi")
    labels = LABELS.clone()
    labels[0, 2] = 1.0
    features = model.backbone(IMAGES)
    lit = (normalize(model.classifier_a(features)) * labels[:, :, None, None]).amax(dim=1)
    logits = model.classifier_b(features * (lit <= 0.6)[:, None]).mean(dim=(2, 3))
    expected = nn.functional.multilabel_soft_margin_loss(logits, labels)
    torch.testing.assert_close(model.losses({"image": IMAGES, "labels": labels})["b"], expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"task": "both"}, "task='both'"),
        ({"erasing": "gone"}, "erasing='gone'"),
        ({"slope": 0.0}, "slope=0"),
        ({"slope": float("inf")}, "slope=inf"),
        ({"mask_of": "nobody"}, "mask_of='nobody'"),
        ({"erase_threshold": float("nan")}, "erase_threshold=nan"),
        ({"head_channels": 0}, "head_channels=0"),
        ({"backbone": "vgg99"}, "backbone='vgg99'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        ACoL(**arguments)


def executed_layers(model, image):
    """Convolutions, poolings and normalisations in order of execution, as the reference lists them."""
    found, hooks = [], []

    def note(module, inputs, output):
        entry = {"type": type(module).__name__, "out": list(output.shape[1:])}
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        names = {"MaxPool2d": names[2:6], "BatchNorm2d": ("num_features",)}.get(entry["type"], names)
        entry |= {name: list(value) if isinstance(value := getattr(module, name), tuple) else value for name in names}
        if entry["type"] == "Conv2d":
            entry["bias"] = module.bias is not None
        found.append(entry)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d)):
            hooks.append(module.register_forward_hook(note))
    model(image)
    for hook in hooks:
        hook.remove()
    return found


class BothBranches(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        labels = torch.zeros(len(images), self.model.config["num_classes"])
        labels[:, 0] = 1.0
        return self.model.branch_maps(images, labels)


@pytest.mark.skipif(not STRUCTURES.exists(), reason="the reference structures lie beside the repository in development")
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("acol_vgg_v1", lambda: BothBranches(ACoL("vgg16", 200))),
        ("acol_vgg_v0", lambda: SingleClassifier("vgg16", 200)),
        ("wsolevaluation_vgg_acol", lambda: BothBranches(ACoL("vgg16", 200, output_stride=16))),
        ("wsolevaluation_resnet_acol", lambda: BothBranches(ACoL("resnet50", 200))),
    ],
)
def test_the_networks_are_the_released_ones_layer_by_layer(name, build):
    reference = json.loads(STRUCTURES.read_text())[name]
    model = build().eval()
    with torch.no_grad():
        layers = executed_layers(model, torch.zeros(1, *reference["input"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == reference["parameters"]
    by_name = lambda layer: json.dumps(layer, sort_keys=True)  # noqa: E731
    assert list(map(by_name, layers)) == list(map(by_name, reference["layers"]))


def test_vgg_ends_in_the_released_average_pooling_which_the_reference_does_not_list():
    last = ACoL("vgg16", 2).backbone.layers[-1]
    assert isinstance(last, nn.AvgPool2d) and (last.kernel_size, last.stride, last.padding) == (3, 1, 1)
