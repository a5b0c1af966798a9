"""Strides, shapes and weights of the backbones."""

import copy
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tests.structures import executed, parameters_of, reference_structure
from wsl_core.backbones import (
    BACKBONES,
    LEVELS,
    _resnet38,
    build_affinity_trunk,
    build_backbone,
    feature_levels,
    from_resnet,
    set_output_stride,
)
from wsl_core.errors import DataError, DownloadError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread", "narrow_resnet38")

PUBLISHED = {
    "small": 8, "alexnet": 16, "vgg16": 16, "googlenet": 16, "resnet50": 32, "resnet38": 8, "vgg16_atrous": 8,
}  # fmt: skip


@pytest.fixture
def narrow_resnet38(monkeypatch):
    """The released one has 100 million weights; a narrow one has the same geometry."""
    monkeypatch.setitem(BACKBONES, "resnet38", partial(_resnet38, width=2))


@pytest.fixture(scope="module", params=BACKBONES)
def name(request):
    return request.param


def cells(backbone, side):
    with torch.inference_mode():
        return backbone.eval()(torch.rand(1, 3, side, side)).shape


def test_published_strides_and_map_sizes(name):
    backbone = build_backbone(name)
    assert backbone.stride == PUBLISHED[name]
    expected = {"small": 28, "alexnet": 13, "vgg16": 14, "googlenet": 14, "resnet50": 7}.get(name, 28)
    assert cells(backbone, 224)[1:] == (backbone.channels, expected, expected)


@pytest.mark.parametrize("by", ["dilation", "removal"])
@pytest.mark.parametrize("stride", [4, 8])
def test_finer_strides(name, stride, by):
    backbone = build_backbone(name, output_stride=stride, stride_by=by)
    side = cells(backbone, 64)[-1]
    assert backbone.stride == stride and abs(side - 64 // stride) <= (1 if name == "alexnet" else 0)


def averaging(backbone):
    """The same geometry, every layer a plain mean: what a cell sees then has its centre of mass where the cell lies."""
    for parent in list(backbone.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.MaxPool2d):
                window = (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
                setattr(parent, name, torch.nn.AvgPool2d(*window))
            elif isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
                if layer.bias is not None:
                    torch.nn.init.zeros_(layer.bias)
    return backbone.eval()


@pytest.mark.parametrize(("stride", "by"), [(16, None), (8, "dilation"), (4, "removal")])
def test_a_cell_sees_most_of_what_lies_around_its_place_on_the_grid(name, stride, by):
    if stride > PUBLISHED[name] and name != "small":
        pytest.skip(f"{name} is finer than that")
    backbone = build_backbone(name, output_stride=stride, stride_by=by)
    grid, side = backbone.grid, 320
    assert grid.stride == stride == backbone.stride
    images = torch.ones(1, 3, side, side, requires_grad=True)
    features = averaging(backbone)(images)
    cell = features.shape[-1] // 2
    (seen,) = torch.autograd.grad(features[..., cell, cell].sum(), images)
    mass = seen.sum((0, 1, 2)) / seen.sum()  # along x
    centre = (mass * (torch.arange(side) + 0.5)).sum().item()
    assert centre == pytest.approx(grid.first + cell * grid.stride, abs=0.2)


def test_dilation_is_torchvisions_for_resnet():
    dilated = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    plain = torchvision.models.resnet50().eval()
    plain.load_state_dict(dilated.state_dict())
    ours, theirs = from_resnet(plain), from_resnet(dilated)
    set_output_stride(ours, 8)
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)  # 1x1 kernels are dilated here: other rounding, same numbers
    with torch.inference_mode():
        torch.testing.assert_close(ours.double().eval()(images), theirs.double().eval()(images))


def geometry(backbone):
    """Kind, kernel, stride, padding and dilation of every layer that moves pixels."""
    layers = [module for module in backbone.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.MaxPool2d))]
    names = ("kernel_size", "stride", "padding", "dilation")
    return [
        (type(layer), *(torch.tensor(getattr(layer, name)).expand(2).tolist() for name in names)) for layer in layers
    ]


@pytest.mark.parametrize("by", ["dilation", "removal"])
def test_a_stride_reached_in_steps_is_the_stride_reached_at_once(name, by):
    torch.manual_seed(0)
    coarse = build_backbone(name, output_stride=PUBLISHED[name] if name != "small" else 16)
    once, stepwise = copy.deepcopy(coarse).eval(), copy.deepcopy(coarse).eval()
    set_output_stride(once, 4, by)
    for stride in (16, 8, 8, 4):
        set_output_stride(stepwise, min(stride, stepwise.stride), by)
    assert geometry(stepwise) == geometry(once) != geometry(coarse) and stepwise.stride == once.stride == 4
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(stepwise(images), once(images))


def test_dilation_and_removal_can_be_mixed():
    """A layer is dilated once for each stage before it that lost its stride by dilation."""
    backbone = from_resnet(torchvision.models.resnet50())
    for stride, by in ((16, "dilation"), (8, "removal"), (4, "dilation")):  # of layer4, of layer3, of layer2
        set_output_stride(backbone, stride, by)
    stages = (backbone.layers.layer2, backbone.layers.layer3, backbone.layers.layer4)
    dilations = [[block.conv2.dilation[0] for block in stage] for stage in stages]
    assert dilations == [[1, 2, 2, 2], [2] * 6, [2, 4, 4]]


def test_dilation_keeps_the_receptive_field_and_removal_shrinks_it():
    """How many rows of the input reach the centre of the map."""

    def reach(**options):
        backbone = build_backbone("small", width=2, **options).double().eval()
        for module in backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        images = torch.rand(1, 3, 224, 224, dtype=torch.float64, requires_grad=True)
        features = backbone(images)
        features[0, :, features.shape[2] // 2, features.shape[3] // 2].sum().backward()
        rows = (images.grad.abs().sum(dim=(0, 1, 3)) > 0).nonzero()
        return int(rows.max() - rows.min())

    coarse = reach(output_stride=16)
    dilated, removed = reach(output_stride=4, stride_by="dilation"), reach(output_stride=4)
    assert removed < coarse and coarse <= dilated < coarse + 16


def test_random_weights_do_not_change_with_the_stride():
    torch.manual_seed(0)
    coarse = build_backbone("small", output_stride=16)
    torch.manual_seed(0)
    fine = build_backbone("small", output_stride=8)
    assert all(torch.equal(a, b) for a, b in zip(coarse.parameters(), fine.parameters(), strict=True))


def test_normalisation_is_inside():
    backbone = build_backbone("small").eval()
    grey = backbone.mean.expand(1, 3, 32, 32)
    assert torch.allclose(backbone(grey), backbone.layers(torch.zeros(1, 3, 32, 32)), atol=1e-6)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "lenet"}, "expected one of small"),
        ({"name": "small", "output_stride": 3}, "expected one of"),
        ({"name": "small", "output_stride": 0}, "output_stride=0"),
        ({"name": "vgg16", "output_stride": 64}, "expected one of"),
        ({"name": "vgg16", "output_stride": 8, "stride_by": "magic"}, "dilation"),
        ({"name": "small", "weights": "DEFAULT"}, "no published weights"),
        ({"name": "vgg16", "width": 3}, "width"),
        ({"name": "alexnet", "weights": "IMAGENET9000"}, "expected None or 'DEFAULT'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        build_backbone(**arguments)


def test_missing_weights_say_which_file_and_where(monkeypatch, tmp_path):
    from urllib.error import URLError

    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DownloadError, match=r"alexnet-owt-.*\.pth is not in"):
        build_backbone("alexnet", weights="DEFAULT")


def test_weights_are_read_from_the_cache(monkeypatch, tmp_path):
    """The real loading code against a file of the right name in the cache, as torchvision lays it out."""
    source = torchvision.models.alexnet()
    url = torchvision.models.AlexNet_Weights.DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(source.state_dict(), tmp_path / "checkpoints" / url.rsplit("/", 1)[-1])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    backbone = build_backbone("alexnet", weights="DEFAULT")
    assert torch.equal(backbone.layers[0].weight, source.features[0].weight)


def test_a_resnet_that_comes_dilated_says_its_true_stride():
    torch.manual_seed(0)
    dilated = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True])
    backbone = from_resnet(dilated)
    assert backbone.stride == 16 and cells(backbone, 64)[-1] == 4
    set_output_stride(backbone, 8)
    assert backbone.stride == 8 and cells(backbone, 64)[-1] == 8
    with pytest.raises(UsageError, match="output_stride=32"):
        set_output_stride(backbone, 32)


# ---- AffinityNet's


@pytest.mark.parametrize(
    ("name", "heads", "released", "build"),
    [
        ("resnet38", 2, "psa_resnet38_cls", build_backbone),
        ("resnet38", 4, "psa_resnet38_aff", build_affinity_trunk),
        ("vgg16_atrous", 2, "psa_vgg16_cls", build_backbone),
        ("vgg16_atrous", 7, "psa_vgg16_aff", build_affinity_trunk),
    ],
)
def test_affinitynets_trunks_are_the_released_ones_layer_by_layer(monkeypatch, name, heads, released, build):
    monkeypatch.setitem(BACKBONES, "resnet38", _resnet38)  # at its full width
    network = reference_structure(released)
    with torch.device("meta"):
        backbone = build(name)
        trunk = network["layers"][:-heads]  # the rest is dropout and the classifier, or the projections
        assert executed(backbone) == trunk
    head = sum(
        layer["in_channels"] * layer["out_channels"]
        if layer["type"] == "Conv2d"
        else 2 * layer.get("num_groups", 0) * 8
        for layer in network["layers"][-heads:]
    )  # GroupNorm has groups of eight channels
    assert parameters_of(backbone) == network["parameters"] - head


def test_resnet38_is_loaded_from_a_file_and_its_stem_stays_as_it_was(tmp_path):
    torch.manual_seed(1)
    source = _resnet38(None, width=2)
    tensors = source.layers.state_dict() | {
        "fc8.weight": torch.zeros(20, 16),
        "bn7.num_batches_tracked": torch.ones(()),
    }
    torch.save(tensors, tmp_path / "res38_cls.pth")
    save_file(tensors, tmp_path / "res38_cls.safetensors")
    for file in ("res38_cls.pth", "res38_cls.safetensors"):
        backbone = build_backbone("resnet38", weights=str(tmp_path / file))
        for name, tensor in backbone.layers.state_dict().items():
            assert torch.equal(tensor, tensors[name])
        frozen = {name.partition(".")[0] for name, p in backbone.layers.named_parameters() if not p.requires_grad}
        assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    assert all(parameter.requires_grad for parameter in source.parameters())


def test_training_moves_no_statistic_of_resnet38():
    backbone = _resnet38(None, width=2).train()
    before = {name: tensor.clone() for name, tensor in backbone.layers.named_buffers()}
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone(images).sum().backward()
    assert before and all(torch.equal(tensor, before[name]) for name, tensor in backbone.layers.named_buffers())
    assert not {name for name, _ in backbone.named_parameters() if "bn" in name}


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, DownloadError, r"found no such file.*res38_cls.pth.*ilsvrc-cls_rna-a1_cls1000_ep-0001\.params"),
        (b"no tensors", DataError, "res38.pth: not a file of tensors"),
        ({"conv1a.weight": torch.zeros(2, 3, 3, 3)}, DataError, r"res38.pth: found no tensor 'b2\..*are missing"),
        ("wide", DataError, "res38.pth: .*size mismatch for conv1a.weight"),
        ([1], DataError, "res38.pth: found no tensor 'conv1a.weight'"),
    ],
)
def test_a_file_without_resnet38s_weights_is_named(tmp_path, content, error, words):
    path = tmp_path / "res38.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(_resnet38(None, width=1).layers.state_dict() if content == "wide" else content, path)
    with pytest.raises(error, match=words):
        build_backbone("resnet38", weights=str(path))


def test_the_linear_layers_of_vgg16_become_convolutions(monkeypatch):
    torch.manual_seed(0)
    source = torchvision.models.vgg16()
    monkeypatch.setattr("wsl_core.backbones._torchvision", lambda *_, **__: source)
    layers = build_backbone("vgg16_atrous", weights="DEFAULT").layers
    six, seven = source.classifier[0], source.classifier[3]
    channel, row, column, output = 7, 2, 1, 5
    place = channel * 49 + 3 * row * 7 + 3 * column
    assert layers.fc6.weight[output, channel, row, column] == six.weight[4 * output, place]
    assert layers.fc7.weight[output, channel, 0, 0] == seven.weight[4 * output, 4 * channel]
    assert layers.fc6.bias[output] == six.bias[4 * output] and layers.fc7.bias[output] == seven.bias[4 * output]
    frozen = [name for name, parameter in layers.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"{place}.{kind}" for place in (0, 2, 5, 7) for kind in ("weight", "bias")]


@pytest.mark.parametrize(("name", "widths"), [("small", (32, 48, 64)), ("resnet50", (512, 1024, 2048))])
def test_three_levels_on_the_same_cells(name, widths):
    backbone = build_affinity_trunk(name).eval()
    images = torch.rand(1, 3, 40, 48)
    with torch.inference_mode():
        levels = feature_levels(backbone, LEVELS[name], images)
        assert [tuple(level.shape[1:]) for level in levels] == [
            (width, 40 // backbone.stride, 48 // backbone.stride) for width in widths
        ]
        assert torch.equal(levels[-1], backbone(images))
    assert not any(module._forward_hooks for module in backbone.modules())


def test_the_levels_of_resnet38_are_what_enters_its_last_blocks():
    backbone = build_affinity_trunk("resnet38").eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        levels = feature_levels(backbone, LEVELS["resnet38"], images)
        until_b4 = backbone.layers[:13]((images - backbone.mean) / backbone.std)
        torch.testing.assert_close(levels[0], backbone.layers.b5.bn_branch2a(until_b4).relu())
    assert [level.shape[1] for level in levels] == [16, 32, 128]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "alexnet"}, "expected one with three levels of features, small, resnet50"),
        ({"name": "small", "output_stride": 8}, "strides 4 to 8.*Take 4 or less"),
        ({"name": "resnet50", "output_stride": 16}, "strides 8 to 16"),
    ],
)
def test_levels_on_different_cells_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        build_affinity_trunk(**arguments)
