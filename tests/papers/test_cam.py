"""Laws of CAM and Grad-CAM (PAPERS.md, section 9)."""

import json

import pytest
import torch
import torchvision

from wsl_core.errors import UsageError
from wsl_core.ops import classification_loss, normalize
from wsl_core.papers import build_model
from wsl_core.papers.cam import CAM, class_activation_maps, grad_cam, gradient_saliency

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def trained_looking(**options):
    """A network whose BatchNorm statistics and biases are not the initial ones."""
    torch.manual_seed(1)
    model = CAM(**options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    torch.nn.init.normal_(model.classifier.bias)
    return model.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("options", [{}, {"output_stride": 4}, {"head_channels": 24, "dropout": 0.5}])
def test_the_mean_of_the_map_plus_the_bias_is_the_logit(dtype, tolerance, options):
    model = trained_looking(**options).to(dtype)
    logits, maps = model.scores_and_maps(IMAGES.to(dtype))
    error = (maps.mean(dim=(2, 3)) + model.classifier.bias - logits).abs().max() / logits.abs().max()
    assert error < tolerance


def test_the_identity_fails_for_gmp():
    model = trained_looking(pooling="gmp")
    logits, maps = model.scores_and_maps(IMAGES)
    assert (maps.mean(dim=(2, 3)) + model.classifier.bias - logits).abs().max() > 1e-3 * logits.abs().max()


def test_gmp_is_the_logit_of_each_features_maximum():
    model = trained_looking(pooling="gmp")
    pooled = model.features(IMAGES).flatten(2).max(dim=2).values
    torch.testing.assert_close(model(IMAGES), model.classifier(pooled))


def test_one_pass_gives_the_maps_of_every_class():
    model = trained_looking()
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    maps = model.localize(IMAGES)
    assert len(calls) == 1 and maps.shape == (3, 8, 8, 8)
    assert all((maps[:, a] != maps[:, b]).any() for a in range(8) for b in range(a))


def test_labels_silence_absent_classes_and_leave_the_others_alone():
    model, labels = trained_looking(), torch.eye(8)[:3]
    masked, full = model.localize(IMAGES, labels), model.localize(IMAGES)
    assert torch.equal(masked[labels == 1], full[labels == 1]) and masked[labels == 0].abs().max() == 0


def test_maps_are_linear_in_the_weights():
    features, weight = torch.rand(2, 5, 4, 4), torch.randn(3, 5)
    torch.testing.assert_close(class_activation_maps(features, 2 * weight), 2 * class_activation_maps(features, weight))


@pytest.mark.parametrize(("pooling", "parameter"), [("gap", None), ("gmp", None), ("lse", 5.0), ("topk", 0.2)])
def test_grad_cam_is_cam_up_to_relu_and_scale(pooling, parameter):
    """Behind any pooling whose gradient adds up to one over the positions, since Grad-CAM takes its mean."""
    model = trained_looking(pooling=pooling, pooling_parameter=parameter).double()
    images, labels = IMAGES.double(), torch.ones(3, 8, dtype=torch.float64)
    maps = grad_cam(model, images, labels, "head")
    cells = maps.shape[-1] * maps.shape[-2]
    torch.testing.assert_close(maps, model.localize(images).relu() / cells, rtol=1e-10, atol=1e-12)


def test_grad_cam_is_not_cam_where_the_gradient_varies():
    """With two positions that count differently the weights are no longer w."""

    class Weighted(CAM):
        def classify(self, features):
            return self.classifier((features * torch.linspace(0, 2, features.shape[-1])).square().mean(dim=(2, 3)))

    model = Weighted().eval()
    maps = grad_cam(model, IMAGES, torch.ones(3, 8), "head")
    assert not torch.allclose(normalize(maps, "max"), normalize(model.localize(IMAGES), "max"), atol=1e-2)


def test_grad_cam_explains_a_hidden_layer_of_any_classifier():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=4).eval()
    labels = torch.tensor([[0.0, 1, 1, 1]] * 3)
    maps = grad_cam(network, IMAGES, labels, "layer2")
    assert maps.shape == (3, 4, 8, 8) and maps.min() == 0
    assert maps[:, 0].max() == 0 < maps[:, 1:].max()


def test_grad_cam_leaves_no_trace():
    model = trained_looking()
    grad_cam(model, IMAGES, torch.ones(3, 8), "head")
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_removes_its_hook_after_an_error():
    model = trained_looking()
    model.classifier = torch.nn.Linear(3, 8)  # does not fit the 64 features: fails behind the hook
    with pytest.raises(RuntimeError):
        grad_cam(model, IMAGES, torch.ones(3, 8), "head")
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_works_inside_no_grad_and_on_frozen_networks():
    model = trained_looking().requires_grad_(False)
    with torch.no_grad():
        assert grad_cam(model, IMAGES, torch.ones(3, 8), "head").max() > 0


def test_grad_cam_names_the_wrong_layer():
    with pytest.raises(UsageError, match="layer='neck'"):
        grad_cam(trained_looking(), IMAGES, torch.ones(3, 8), "neck")
    model = trained_looking()
    model.unused = torch.nn.Identity()
    with pytest.raises(UsageError, match="was not called"):
        grad_cam(model, IMAGES, torch.ones(3, 8), "unused")


def test_saliency_of_a_linear_classifier_is_the_size_of_its_weights():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 4))
    weight = network[1].weight.detach().view(4, 3, 64, 64)
    maps = gradient_saliency(network, IMAGES, torch.ones(3, 4))
    torch.testing.assert_close(maps, weight.abs().amax(dim=1).expand(3, 4, 64, 64))


def test_saliency_predicts_what_a_small_change_of_a_pixel_does():
    model = trained_looking(output_stride=4).double()
    images, step = IMAGES[:1].double(), 1e-6
    saliency = gradient_saliency(model, images, torch.eye(8, dtype=torch.float64)[2:3])[0, 2]
    for y, x in ((5, 7), (30, 40), (63, 0)):
        changes = torch.zeros(3, 3, 64, 64, dtype=torch.float64)  # one colour at a time
        changes[range(3), range(3), y, x] = step
        with torch.no_grad():
            slopes = (model(images + changes)[:, 2] - model(images - changes)[:, 2]) / (2 * step)
        assert slopes.abs().max().item() == pytest.approx(saliency[y, x].item(), rel=1e-4, abs=1e-9)


def test_saliency_of_a_batch_is_that_of_each_image():
    model, labels = trained_looking(), torch.eye(8)[[1, 4, 1]]
    maps = gradient_saliency(model, IMAGES, labels)
    alone = torch.cat([gradient_saliency(model, IMAGES[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-7)
    assert maps.shape == (3, 8, 64, 64)
    assert maps[labels == 0].abs().max() == 0 < maps[labels == 1].amax(dim=(1, 2)).min()


def test_saliency_leaves_no_trace_and_works_inside_no_grad():
    model = trained_looking().requires_grad_(False)
    images = IMAGES.clone()
    with torch.no_grad():
        assert gradient_saliency(model, images, torch.ones(3, 8)).max() > 0
    model.requires_grad_(True)
    gradient_saliency(model, images, torch.ones(3, 8))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad and images.grad is None


def bytes_kept(function, calls=5):
    """What torch's allocator has given out and not got back, whoever holds it: Python, or a graph in C++."""
    function()  # makes what is made once
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(calls):
            function()
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_no_call_keeps_memory():
    model, image, labels = CAM(num_classes=2, width=2).eval(), torch.rand(1, 3, 64, 64), torch.ones(1, 2)
    assert bytes_kept(lambda: grad_cam(model, image, labels, "head")) == 0
    assert bytes_kept(lambda: gradient_saliency(model, image, labels)) == 0
    assert bytes_kept(lambda: model.localize(image)) == 0
    kept = []
    one_map = model.features(image).nbytes
    assert bytes_kept(lambda: kept.append(model.features(image).detach())) == 5 * one_map  # would be seen
    assert bytes_kept(lambda: kept.append(model(image))) > 5 * one_map  # and so would a graph


@pytest.mark.parametrize("weights", [None, "DEFAULT"])
def test_an_untouched_resnet_keeps_its_logits(weights, monkeypatch, tmp_path):
    network = torchvision.models.resnet50(num_classes=1000).eval()
    if weights:  # the way through torchvision's cache
        url = torchvision.models.ResNet50_Weights.DEFAULT.url
        (tmp_path / "checkpoints").mkdir()
        torch.save(network.state_dict(), tmp_path / "checkpoints" / url.rsplit("/", 1)[-1])
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        model = CAM("resnet50", num_classes=1000, weights="DEFAULT").eval()
    else:
        model = CAM.from_resnet(network).eval()
    with torch.inference_mode():
        logits, maps = model.scores_and_maps(IMAGES[:1])
        normalized = (IMAGES[:1] - model.backbone.mean) / model.backbone.std
        assert torch.equal(logits, network(normalized)) and maps.shape == (1, 1000, 2, 2)


@pytest.mark.parametrize("backbone", ["alexnet", "vgg16", "googlenet"])
def test_the_papers_extra_convolution(backbone):
    model = CAM(backbone, num_classes=5)
    convolution = model.head[0]
    assert convolution.out_channels == 1024 and convolution.kernel_size == (3, 3) and convolution.groups == 1
    assert model.new_modules == ("head", "classifier") and model.classifier.in_features == 1024


def test_losses_are_the_fields():
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    expected = -logits.log_softmax(dim=1)[labels.bool()].mean()
    torch.testing.assert_close(classification_loss(logits, labels, "single"), expected)
    probability = logits.sigmoid()
    expected = -(labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()
    torch.testing.assert_close(classification_loss(logits, labels, "multi"), expected)


def test_losses_of_a_batch_reach_every_parameter():
    model = CAM(num_classes=3, task="multi")
    losses = model.losses({"image": IMAGES, "labels": torch.ones(3, 3)})
    losses["total"].backward()
    assert set(losses) == {"classification", "total"}
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_configuration_rebuilds_the_model():
    model = CAM(num_classes=3, pooling="lse", pooling_parameter=5.0, output_stride=4, width=8)
    again = build_model("cam", **json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(IMAGES), model.eval()(IMAGES))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"task": "triple"}, "task='triple'"),
        ({"pooling": "sum"}, "pooling='sum'"),
        ({"pooling": "gem"}, "pooling_parameter=None: pooling 'gem' expects"),
        ({"pooling": "gap", "pooling_parameter": 2.0}, "'gap' takes none"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"backbone": "vit"}, "backbone='vit'"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(UsageError, match=words):
        CAM(**options)


def test_unknown_paper():
    with pytest.raises(UsageError, match="paper 'dino'"):
        build_model("dino")


class InPlace(torch.nn.Sequential):
    """A classifier whose layer 1 writes over what layer 0 returns."""

    def __init__(self):
        layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True), torch.nn.AdaptiveAvgPool2d(1)
        super().__init__(*layers, torch.nn.Flatten(), torch.nn.Linear(4, 2))


def test_grad_cam_before_a_layer_that_writes_in_place():
    model, labels = InPlace().eval(), torch.tensor([[1.0, 1.0]])
    before = grad_cam(model, IMAGES[:1], labels, "0")
    model[1].inplace = False
    torch.testing.assert_close(before, grad_cam(model, IMAGES[:1], labels, "0"))


def test_grad_cam_needs_feature_maps():
    with pytest.raises(UsageError, match=r"layer='4' returns \(1, 2\); expected feature maps"):
        grad_cam(InPlace().eval(), IMAGES[:1], torch.ones(1, 2), "4")
