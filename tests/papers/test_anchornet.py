"""Laws of AnchorNet's losses, its PCA against a singular value decomposition, and the ways in which it can be run."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from wsl_core.data import load_dataset
from wsl_core.errors import DataError, UsageError
from wsl_core.ops import Grid
from wsl_core.papers import anchornet
from wsl_core.papers.anchornet import (
    AnchorNet,
    background_loss,
    discriminability_loss,
    one_against_background,
    principal_components,
    reconstruction_error,
    redundancy,
    unit_vectors,
)
from wsl_core.papers.cam import CAM
from wsl_core.recipes import get_recipe
from wsl_core.training import fit, load_run
from wsl_core.training.loop import parameter_groups

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SEVERAL = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
LOSSES = ("discriminability", "background", "filter_diversity", "response_diversity", "reconstruction")


def tiny(**options):
    torch.manual_seed(1)
    return AnchorNet(**{"num_classes": 3, "filters": 2, "agnostic_channels": 4, "width": 4} | options)


def trained_looking(**options):
    """A small network whose BatchNorm statistics are not the initial ones, with its PCA, in evaluation mode."""
    model = tiny(**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    model.init_pca(IMAGES)
    return model.eval()


def batch(labels=SEVERAL):
    return {"image": IMAGES[: len(labels)], "labels": labels}


# ---- the hypercolumn, (5.1)


def test_the_papers_hypercolumn_has_768_channels_on_56x56_cells():
    with torch.device("meta"):
        model = AnchorNet("resnet50", num_classes=20, filters=16, agnostic_channels=64).eval()
        images = torch.zeros(1, 3, 224, 224)
        shapes = [tuple(model.describe(images, which).features.shape) for which in ("hypercolumn", "class-specific")]
        assert shapes == [(1, 768, 56, 56), (1, 320, 56, 56)]
        assert model.describe(images).features.shape == (1, 64, 56, 56)
        assert model(images).shape == (1, 20) and model.localize(images).shape == (1, 20, 56, 56)
    assert model.grid == Grid(4, 0.5)


def test_each_stage_has_unit_length_at_each_cell():
    model = trained_looking()
    hypercolumn = model.describe(IMAGES, "hypercolumn").features
    sizes = [reduce.out_channels for reduce in model.reductions]
    lengths = torch.stack([part.norm(dim=1) for part in hypercolumn.split(sizes, dim=1)])
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_coarse_cells_are_enlarged_to_where_they_look():
    """Each stage holds (x, 1) with x the centre of its cell in pixels: enlarged, all have to say the same x."""
    model = tiny(pca_channels=2)
    fine = None
    for reduce, grid, cells in zip(model.reductions, model._grids, (8, 4, 4)):
        nn.init.zeros_(reduce.weight)
        nn.init.zeros_(reduce.bias)
        reduce.weight.data[:, :2, 0, 0] = torch.eye(2)
        ramp = torch.zeros(1, reduce.in_channels, 1, cells)
        ramp[0, 0, 0], ramp[0, 1] = grid.first + grid.stride * torch.arange(cells), 1.0
        fine = [ramp] if fine is None else [*fine, ramp]
    x = [(part[0, 0, 0] / part[0, 1, 0]) for part in model._hypercolumn(fine).split(2, dim=1)]
    torch.testing.assert_close(x[0], 0.5 + 4 * torch.arange(8.0))
    for coarse in x[1:]:
        torch.testing.assert_close(coarse[:7], x[0][:7])
        assert coarse[7] == coarse[6]  # behind the last centre the nearest value holds


@pytest.mark.parametrize(("stages", "stride"), [([1, 3], 2), ([2], 4), ([3, 4], 8)])
def test_other_stages(stages, stride):
    model = tiny(stages=stages)
    assert model.grid == Grid(stride, 0.5)
    assert model.describe(IMAGES, "hypercolumn").features.shape[-2:] == (32 // stride, 32 // stride)
    assert len(model.backbone.layers) == 1 + stages[-1]  # nothing behind it, which no loss would reach


def test_every_trained_parameter_is_reached():
    """Several processes would wait for ever for the gradient of one that is not."""
    model = tiny(stages=[1, 2]).train()
    model.losses(batch())["total"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_trained_classifiers_trunk_fits():
    model, classifier = tiny(), CAM(width=4)
    model.backbone.load_state_dict(classifier.backbone.state_dict())
    torch.testing.assert_close(model.eval()._stages(IMAGES)[-1], classifier.eval().backbone(IMAGES))


# ---- principal components


def components_by_svd(features, count):
    positions = features.double().movedim(1, -1).flatten(0, -2)
    centred = positions - positions.mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:count]
    greatest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * greatest.sign()).float(), positions.mean(dim=0).float()


def test_principal_components_are_those_of_a_singular_value_decomposition():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 6, 7, generator=random) * torch.tensor([5.0, 3, 2, 1, 0.3])[:, None, None]
    features = torch.einsum("dc,bchw->bdhw", torch.linalg.qr(torch.randn(5, 5, generator=random)).Q, features) + 4
    for count in (1, 3, 5):
        found, expected = principal_components(features, count), components_by_svd(features, count)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1], expected[1])


def test_principal_components_count_the_positions_of_all_processes(monkeypatch):
    first, second = torch.rand(2, 4, 3, 3), torch.rand(3, 4, 3, 3) + 1
    elsewhere = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda moments: elsewhere.append(moments.clone()))
    principal_components(first, 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda moments: moments.add_(elsewhere[0]))
    found = principal_components(second, 2)
    monkeypatch.undo()
    torch.testing.assert_close(found, principal_components(torch.cat([first, second]), 2))


def test_principal_components_of_a_flat_map_are_directions_nonetheless():
    components, mean = principal_components(torch.full((1, 3, 2, 2), 2.0), 2)
    torch.testing.assert_close(components @ components.T, torch.eye(2))
    assert mean.tolist() == [2.0] * 3


@pytest.mark.parametrize("count", [0, 4])
def test_a_wrong_number_of_components(count):
    with pytest.raises(UsageError, match=f"count={count}: expected 1 to 3 components of 3 channels"):
        principal_components(torch.rand(1, 3, 2, 2), count)


def test_the_first_batch_sets_the_pca_and_no_later_one():
    model = tiny(trunk="frozen").train()  # its activations do not depend on the mode
    stages = model._stages(IMAGES)
    model.losses(batch())
    for features, reduce in zip(stages, model.reductions):
        components, mean = components_by_svd(features, reduce.out_channels)
        torch.testing.assert_close(reduce.weight[:, :, 0, 0], components, rtol=1e-3, atol=1e-4)
        reduced = reduce(features)
        torch.testing.assert_close(reduced.mean(dim=(0, 2, 3)), torch.zeros(len(mean)), rtol=0, atol=1e-5)
    assert model.pca_is_set
    before = model.reductions[0].weight.clone()
    model.losses({"image": 1 - IMAGES, "labels": SEVERAL})
    assert torch.equal(model.reductions[0].weight, before)


def test_a_pca_that_was_set_before_is_kept():
    model = tiny()
    model.init_pca(1 - IMAGES)
    before, moved = model.reductions[0].weight.clone(), model.backbone.layers[0][1].num_batches_tracked.clone()
    assert moved == 0 and model.backbone.training  # BatchNorm has seen nothing, and the mode is the old one
    model.train().losses(batch())
    assert torch.equal(model.reductions[0].weight, before)
    again = tiny()
    again.load_state_dict(model.state_dict())
    again.train().losses(batch())
    assert torch.equal(again.reductions[0].weight, before)


def test_an_evaluation_sets_no_pca():
    model = tiny().eval()
    before = model.reductions[0].weight.clone()
    model.losses(batch())
    assert torch.equal(model.reductions[0].weight, before) and not model.pca_is_set


def test_images_that_are_not_finite_are_refused_by_the_pca_and_then_left_to_the_training_loop():
    broken = {"image": IMAGES * float("nan"), "labels": SEVERAL}
    with pytest.raises(DataError, match="found NaN or infinity"):
        tiny().train().losses(broken)
    assert trained_looking().losses(broken)["total"].isnan()


# ---- the trunk


def test_a_frozen_trunk_neither_learns_nor_counts():
    model = tiny(trunk="frozen").train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.losses(batch())["total"].backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    assert not any(module.training for module in model.backbone.modules()) and model.filters.training
    assert {group["name"] for group in parameter_groups(model, get_recipe("cam", "synthetic", "smoke"))} == {
        "new_weight",
        "new_bias",
    }


def test_a_trained_trunk_learns():
    model = tiny().train()
    model.losses(batch())["total"].backward()
    assert all(parameter.grad.any() for parameter in model.backbone.layers[-1].parameters())
    assert model.backbone.training and model.eval().backbone.training is False


# ---- discriminability, (5.3) and (5.4)


def softplus(z):
    return math.log1p(math.exp(z))


def test_one_against_background_by_hand():
    targets = one_against_background(SEVERAL)
    assert targets.sign.tolist() == [[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, 1, 1]]
    shares = [[1 / 4, 1 / 4, 1 / 2], [1 / 4, 1 / 2, 1 / 4], [1 / 3] * 3, [1 / 3] * 3]
    torch.testing.assert_close(targets.share, torch.tensor(shares))
    torch.testing.assert_close(one_against_background(SEVERAL, balance="pairs").share, torch.full((4, 3), 1 / 3))
    background_only = [[1 / 2, 1 / 2, 0], [0, 1, 0], [1 / 3] * 3, [1 / 3] * 3]
    for balance in ("signs", "pairs"):
        found = one_against_background(SEVERAL, "background", balance)
        torch.testing.assert_close(found.share, torch.tensor(background_only))
    for choice in ("negatives", "balance"):
        with pytest.raises(UsageError, match=f"{choice}='nobody'"):
            one_against_background(SEVERAL, **{choice: "nobody"})


@pytest.mark.parametrize("negatives", ["others", "background"])
@pytest.mark.parametrize("balance", ["signs", "pairs"])
def test_discriminability_by_hand(negatives, balance):
    """Each filter's maximum for every image and class; its mean for the negatives alone."""
    responses = torch.randn(4, 3, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = one_against_background(SEVERAL, negatives, balance)
    strongest = mean = 0.0
    for b in range(4):
        for c in range(3):
            y, share = targets.sign[b, c].item(), targets.share[b, c].item()
            for j in range(2):
                values = responses[b, c, j].flatten().tolist()
                strongest += share * softplus(-y * max(values)) / 2
                mean += share * softplus(sum(values) / 15) / 2 if y < 0 else 0.0
    assert discriminability_loss(responses, targets).item() == pytest.approx(strongest / 4, rel=1e-5)
    assert background_loss(responses, targets).item() == pytest.approx(mean / 4, rel=1e-5)


def test_the_maximum_teaches_one_cell_and_the_mean_all():
    responses = torch.randn(1, 1, 1, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    negative = one_against_background(torch.zeros(1, 1))
    (at_maximum,) = torch.autograd.grad(discriminability_loss(responses, negative), responses)
    (everywhere,) = torch.autograd.grad(background_loss(responses, negative), responses)
    assert at_maximum.count_nonzero() == 1 and at_maximum.flatten()[responses.argmax()] > 0
    torch.testing.assert_close(everywhere, everywhere[0, 0, 0, 0, 0].expand_as(everywhere))
    assert everywhere.min() > 0


def test_large_responses_stay_finite():
    responses = torch.tensor([1e6, -1e6]).view(1, 2, 1, 1, 1)
    targets = one_against_background(torch.tensor([[0.0, 1.0]]))
    assert discriminability_loss(responses, targets).item() == pytest.approx(1e6)


def test_a_flat_hypercolumn_answers_alike_everywhere():
    """At the border as well: else silent filters would have their maximum in a corner, whatever the image shows."""
    model = trained_looking()
    cell = torch.rand(1, model.filters.in_channels, 1, 1, generator=torch.Generator().manual_seed(0))
    responses = model._banks(cell.expand(-1, -1, 5, 6))
    torch.testing.assert_close(responses, responses[..., :1, :1].expand_as(responses))


# ---- diversity, (5.5) and (5.6)


@pytest.mark.parametrize("similarity", ["squared", "absolute"])
def test_diversity_is_zero_for_orthogonal_and_maximal_for_duplicated_filters(similarity):
    orthogonal = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0))).Q[:4]
    duplicated = orthogonal[:1] * torch.tensor([[1.0], [3.0], [-0.2], [1.0]])
    assert redundancy(orthogonal, similarity).item() == pytest.approx(0, abs=1e-6)
    assert redundancy(duplicated, similarity).item() == pytest.approx(1)
    assert redundancy(torch.stack([orthogonal, duplicated]), similarity).item() == pytest.approx(0.5)


def test_diversity_counts_each_pair_and_no_vector_with_itself():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # cosines 0, 1 / sqrt 2, 1 / sqrt 2
    assert redundancy(vectors).item() == pytest.approx(1 / 3)
    assert redundancy(vectors, "absolute").item() == pytest.approx(math.sqrt(2) / 3)
    assert redundancy(vectors[:1]).item() == 0.0  # one filter has nothing to differ from
    with pytest.raises(UsageError, match="similarity='cubed'"):
        redundancy(vectors, "cubed")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000), st.floats(0.01, 100))
def test_diversity_is_a_share_and_ignores_scale(count, size, seed, factor):
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, count, size, generator=random, dtype=torch.float64)
    signs = torch.randn(2, count, 1, generator=random, dtype=torch.float64).sign()
    value = redundancy(vectors)
    assert 0 <= value <= redundancy(vectors, "absolute") <= 1 + 1e-12
    torch.testing.assert_close(redundancy(vectors * signs * factor), value)


def test_the_models_filters_and_responses_are_compared_within_a_class():
    """By loops over the classes; filters of different classes may be alike."""
    model = trained_looking()
    losses, responses = model.losses(batch()), model._responses(IMAGES)
    banks = model.filters.weight.view(3, 2, -1)
    of_filters = [F.cosine_similarity(*bank, dim=0) ** 2 for bank in banks]
    torch.testing.assert_close(losses["filter_diversity"], torch.stack(of_filters).mean())
    of_responses = [F.cosine_similarity(*maps.flatten(1), dim=0) ** 2 for image in responses for maps in image]
    torch.testing.assert_close(losses["response_diversity"], torch.stack(of_responses).mean())


# ---- reconstruction, (5.7) and (5.8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.001, 1000))
def test_the_reconstruction_distance_ignores_scale(seed, factor):
    random = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 2, 5, 3, 3, generator=random, dtype=torch.float64)
    lengths = torch.rand(2, 1, 3, 3, generator=random, dtype=torch.float64) + 0.1  # each cell its own
    torch.testing.assert_close(reconstruction_error(factor * lengths * a, b / lengths), reconstruction_error(a, b))
    torch.testing.assert_close(reconstruction_error(a, b), reconstruction_error(b, a))
    torch.testing.assert_close(reconstruction_error(a, a * lengths), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(reconstruction_error(a, -a), torch.tensor(4.0, dtype=torch.float64))


def test_the_models_reconstruction_ignores_the_scale_of_the_filters():
    model = trained_looking()
    before = model.losses(batch())["reconstruction"]
    model.filters.weight.data *= 7
    torch.testing.assert_close(model.losses(batch())["reconstruction"], before)
    assert 0 < before <= 4


def test_reconstruction_by_hand():
    model = trained_looking()
    responses = model.describe(IMAGES, "class-specific").features
    again = F.conv_transpose2d(F.conv2d(responses, model.encoder.weight), model.decoder.weight, padding=1)
    cosines = F.cosine_similarity(again, responses, dim=1)
    torch.testing.assert_close(model.losses(batch())["reconstruction"], (2 - 2 * cosines).mean())


def test_dropout_takes_whole_channels_and_only_in_training():
    model = trained_looking(channel_dropout=0.5, num_classes=8, trunk="frozen")
    labels = torch.eye(8)[:4]
    seen = []
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    assert torch.equal(model.losses(batch(labels))["total"], model.losses(batch(labels))["total"])
    responses = model.describe(IMAGES, "class-specific").features
    assert torch.equal(seen[0], responses)
    model.train().losses(batch(labels))
    dropped = (seen[-1] == 0).all(dim=(2, 3))
    assert 16 < dropped.sum() < 48  # of 64
    torch.testing.assert_close(seen[-1][~dropped], 2 * responses[~dropped])
    model.describe(IMAGES)
    assert torch.equal(seen[-1], responses)  # what is looked at or matched is whole, in training as well


@pytest.mark.parametrize(("reaches", "filters_learn"), [("autoencoder", False), ("everything", True)])
def test_whom_the_reconstruction_teaches(reaches, filters_learn):
    model = trained_looking(reconstruction_reaches=reaches)
    model.losses(batch())["reconstruction"].backward()
    assert model.encoder.weight.grad.any() and model.decoder.weight.grad.any()
    assert (model.filters.weight.grad is not None) == filters_learn


# ---- all together


def test_the_total_is_the_weighted_sum():
    weights = dict(zip(("background", "filter_diversity", "response_diversity", "reconstruction"), (0.5, 2, 3, 5)))
    losses = trained_looking(**{f"{name}_weight": weight for name, weight in weights.items()}).losses(batch())
    assert set(losses) == {*LOSSES, "total"}
    expected = losses["discriminability"] + sum(weight * losses[name] for name, weight in weights.items())
    torch.testing.assert_close(losses["total"], expected)


@pytest.mark.parametrize("options", [{}, {"negatives": "background"}, {"balance": "pairs"}])
def test_a_batch_is_its_images_one_by_one(options):
    model = trained_looking(**options)
    together = model.losses(batch())
    alone = [model.losses({"image": IMAGES[i : i + 1], "labels": SEVERAL[i : i + 1]}) for i in range(4)]
    for name in (*LOSSES, "total"):
        expected = torch.stack([one[name] for one in alone]).mean()
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-6)


def test_responses_of_zero_are_defined():
    """Filters of zeros answer nothing, are like no other, and take no step that is not finite."""
    model = trained_looking(reconstruction_reaches="everything")
    nn.init.zeros_(model.filters.weight)
    losses = model.losses(batch())
    assert losses["discriminability"].item() == pytest.approx(math.log(2))
    assert [losses[name].item() for name in LOSSES[2:]] == [0, 0, 0]
    losses["total"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert model.filters.weight.grad.any()


def test_a_vector_without_length_has_no_gradient():
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(unit_vectors(vectors, dim=1).sum(), vectors)
    assert gradient[0].tolist() == [0, 0] and gradient[1].any()
    assert torch.autograd.gradcheck(lambda v: unit_vectors(v, 1), (vectors.detach()[1:].requires_grad_(),))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["backbone.layers.2.conv1.weight", "reductions.1.weight", "filters.weight"])
def test_gradients_in_float64(loss, name):
    images, labels = torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    options = {"num_classes": 2, "width": 2, "agnostic_channels": 2, "reconstruction_reaches": "everything"}
    model = tiny(**options).double().eval()
    model.init_pca(images)
    losses = Losses(model, loss)
    weight = model.get_parameter(name).detach().clone().requires_grad_()
    function = lambda value: torch.func.functional_call(  # noqa: E731
        losses, {f"model.{name}": value}, ({"image": images, "labels": labels},)
    )
    if loss == "filter_diversity" and name != "filters.weight":
        assert torch.autograd.grad(function(weight), weight, allow_unused=True) == (None,)
    else:
        assert torch.autograd.gradcheck(function, (weight,), fast_mode=True)
        assert torch.autograd.grad(function(weight), weight)[0].any()


class Losses(nn.Module):
    def __init__(self, model, name):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, batch):
        return self.model.losses(batch)[self.name]


def test_losses_in_bfloat16_are_near_those_in_float32():
    model = trained_looking()
    wide = model.losses(batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model.losses(batch())
    for name in LOSSES:
        torch.testing.assert_close(narrow[name].float(), wide[name], rtol=0.05, atol=0.02)


# ---- what it says


def test_the_map_is_the_union_of_the_filters_and_the_logit_the_mean_of_their_maxima():
    model = trained_looking()
    responses = model.describe(IMAGES, "class-specific").features.view(4, 3, 2, 8, 8)
    logits, maps = model.scores_and_maps(IMAGES)
    for c in range(3):
        torch.testing.assert_close(maps[:, c], torch.maximum(responses[:, c, 0], responses[:, c, 1]))
        strongest = responses[:, c].flatten(2).max(dim=2).values
        torch.testing.assert_close(logits[:, c], (strongest[:, 0] + strongest[:, 1]) / 2)
    assert (maps < 0).any()  # raw: what speaks against the class is kept


def test_descriptors():
    model = trained_looking()
    general, specific = model.describe(IMAGES), model.describe(IMAGES, "class-specific")
    assert general.sigma is None
    torch.testing.assert_close(general.features, F.conv2d(specific.features, model.encoder.weight))
    assert model.describe(IMAGES, "hypercolumn").features.shape == (4, sum((8, 12, 16)), 8, 8)
    with pytest.raises(UsageError, match="which='raw': expected 'class-agnostic'"):
        model.describe(IMAGES, "raw")


# ---- runs

RECIPE = get_recipe("anchornet", "synthetic", "smoke").replace(
    images=None, steps=5, batch_size=4, log_every=1, checkpoint_every=2, warmup_steps=1,
    model={"filters": 2, "width": 4, "agnostic_channels": 4},
)  # fmt: skip


def small_data(split="train"):
    return load_dataset("synthetic", split, world="creatures", size=32, length=8)


def run(folder):
    data = small_data()
    build = lambda: AnchorNet(num_classes=len(data.classes), task=data.task, **RECIPE.model)  # noqa: E731
    return fit(build, data, RECIPE, run_dir=folder, seed=3, device="cpu")


def test_a_run_that_was_stopped_ends_in_the_same_weights(tmp_path, monkeypatch):
    """Dropout's random numbers and the PCA of the first batch come out of the checkpoint."""
    whole = run(tmp_path / "whole").model.state_dict()
    assert whole["pca_is_set"]
    losses, calls = AnchorNet.losses, iter(range(5))

    def stop_in_the_fourth_step(model, batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return losses(model, batch)

    monkeypatch.setattr(AnchorNet, "losses", stop_in_the_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    monkeypatch.undo()
    times = []
    monkeypatch.setattr(anchornet, "principal_components", lambda *arguments: times.append(1))
    resumed = run(tmp_path / "stopped").model.state_dict()
    assert times == []  # the checkpoint has it
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_a_finished_run_is_built_again_with_its_pca(tmp_path):
    trained = run(tmp_path / "run").model
    again = load_run(tmp_path / "run").model
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in again.state_dict().items())
    for which in ("class-agnostic", "class-specific", "hypercolumn"):
        torch.testing.assert_close(again.describe(IMAGES, which).features, trained.describe(IMAGES, which).features)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"filters": 0}, "filters=0"),
        ({"agnostic_channels": 0}, "agnostic_channels=0"),
        ({"background_weight": -1.0}, "background_weight=-1"),
        ({"filter_diversity_weight": math.nan}, "filter_diversity_weight=nan"),
        ({"response_diversity_weight": math.inf}, "response_diversity_weight=inf"),
        ({"reconstruction_weight": -0.1}, "reconstruction_weight=-0.1"),
        ({"similarity": "cubed"}, "similarity='cubed' is unknown; expected 'squared' or 'absolute'"),
        ({"negatives": "nobody"}, "negatives='nobody'"),
        ({"balance": "images"}, "balance='images'"),
        ({"reconstruction_reaches": "nothing"}, "reconstruction_reaches='nothing'"),
        ({"channel_dropout": 1.0}, "channel_dropout=1"),
        ({"trunk": "cut"}, "trunk='cut'"),
        ({"stages": []}, r"stages=\[\]"),
        ({"stages": [3, 2]}, r"stages=\[3, 2\]: expected different numbers from 1 to 4, rising"),
        ({"stages": [2, 2]}, r"stages=\[2, 2\]"),
        ({"stages": [0, 5]}, r"stages=\[0, 5\]"),
        ({"pca_channels": 0}, "pca_channels=0"),
        ({"task": "both"}, "task='both'"),
        ({"backbone": "vgg16"}, "backbone='vgg16': expected one with residual stages, small or resnet50"),
        ({"weights": "DEFAULT"}, "small backbone has no published weights"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        AnchorNet(**arguments)
