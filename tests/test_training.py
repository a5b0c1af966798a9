"""Training: the loop against one written by hand, runs that are stopped, damaged, mixed up or out of room."""

import errno
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.tiny_run import FAULTS, PLAIN, RECIPE, Blobs, Tiny
from wsl_core.data import collate, load_dataset
from wsl_core.errors import DataError, TrainingError, UsageError
from wsl_core.metrics import MaxBoxAccEvaluator
from wsl_core.ops import normalize
from wsl_core.papers.cam import CAM
from wsl_core.recipes import Recipe, get_recipe
from wsl_core.training import (
    augment,
    cached_run,
    fit,
    learning_rate,
    load_run,
    localization_report,
    max_box_acc_report,
    open_split,
    parameter_groups,
    predict,
    run_directory,
    run_key,
    source_digest,
    sources_of,
    training_sources,
)
from wsl_core.training.loop import StepSampler

REPOSITORY = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run. Read only: copy it before you break it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return train(folder)


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished.run_dir, tmp_path / "run"))


def train(run_dir=None, recipe=RECIPE, build=Tiny, train_set=None, **options):
    return fit(build, train_set or Blobs(), recipe, Blobs(8, "val"), run_dir, **({"device": "cpu"} | options))


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


# ---- the loop


def test_the_loop_does_what_a_loop_written_by_hand_does():
    recipe = Recipe("tiny", "blobs", steps=7, batch_size=6, optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True,
                    weight_decay=1e-2, schedule="constant", clip_norm=0.5)  # fmt: skip
    run = train(recipe=recipe, build=lambda: Tiny(norm=False), seed=5)

    torch.manual_seed(5)
    model, data = Tiny(norm=False), Blobs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)
    losses = []
    for indices in StepSampler(len(data), 6, 5, range(7)):
        loss = model.losses(collate([data[i] for i in indices]))["total"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())

    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert run.history[-1]["losses"]["total"] == pytest.approx(sum(losses) / 7)


def test_two_processes_train_what_one_trains(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run_program([*launch, "-m", "tests.tiny_run", str(tmp_path / "two"), "once"])
    one = train(tmp_path / "one", PLAIN, lambda: Tiny(norm=False))
    for name, tensor in load_file(tmp_path / "two" / "model.safetensors").items():
        torch.testing.assert_close(tensor, one.model.state_dict()[name])


def run_program(command):
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)


def test_every_epoch_passes_over_every_image_once_and_processes_share_a_step():
    indices = [i for batch in StepSampler(10, 4, 0, range(5)) for i in batch]
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert indices[:10] != indices[10:]
    shares = [list(StepSampler(10, 4, 0, range(5), rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == list(StepSampler(10, 4, 0, range(5)))


def test_a_batch_may_be_larger_than_the_data():
    (batch,) = StepSampler(3, 7, 0, range(1))
    assert sorted(batch)[:1] == [0] and all(batch.count(i) >= 2 for i in range(3))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1]),
        ({"schedule": "constant", "warmup_steps": 60}, [1 / 60, 51 / 60, 1]),
        ({"schedule": "cosine"}, [1, 0.5, (1 + math.cos(math.pi * 0.99)) / 2]),
        ({"schedule": "poly", "poly_power": 1.0}, [1, 0.5, 0.01]),
        ({"schedule": "poly", "poly_power": 0.0}, [1, 1, 1]),
        ({"schedule": "step", "step_size": 50, "step_gamma": 0.1}, [1, 0.1, 0.1]),
        ({"schedule": "step", "step_size": 30, "step_gamma": 1.0}, [1, 1, 1]),
    ],
)
def test_learning_rate(options, expected):
    recipe = Recipe("cam", "synthetic", steps=100, lr=1.0, **options)
    assert [learning_rate(recipe, step) for step in (0, 50, 99)] == pytest.approx(expected)


def test_parameter_groups_hold_every_parameter_once_with_its_multiplier_and_decay():
    recipe = RECIPE.replace(bias_weight_decay=False, multipliers={"new_weight": 10.0, "new_bias": 20.0})
    model = Tiny()
    groups = parameter_groups(model, recipe)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    found = {(group["name"], group["multiplier"], group["weight_decay"]) for group in groups}
    assert found == {
        ("backbone_weight", 1.0, 0.01), ("backbone_weight", 1.0, 0.0),  # convolutions; BatchNorm's scale
        ("backbone_bias", 1.0, 0.0), ("new_weight", 10.0, 0.01), ("new_bias", 20.0, 0.0),
    }  # fmt: skip


def test_a_multiplier_of_zero_freezes():
    run = train(recipe=RECIPE.replace(steps=4, multipliers={"backbone_weight": 0, "backbone_bias": 0}))
    torch.manual_seed(0)
    fresh = Tiny()
    assert torch.equal(run.model.body[0].weight, fresh.body[0].weight)
    assert not torch.equal(run.model.head.weight, fresh.head.weight)


def test_bf16_trains_and_other_precisions_or_devices_are_refused():
    half = train(recipe=RECIPE.replace(precision="bf16", steps=10))
    full = train(recipe=RECIPE.replace(steps=10))
    assert half.history[-1]["losses"] != full.history[-1]["losses"]
    assert half.history[-1]["losses"]["total"] == pytest.approx(full.history[-1]["losses"]["total"], abs=0.05)
    with pytest.raises(UsageError, match="precision: fp16 needs a GPU"):
        train(recipe=RECIPE.replace(precision="fp16"))
    with pytest.raises(UsageError, match="device is 'tpu'"):
        train(device="tpu")


def test_a_run_without_a_folder_writes_nothing_and_ends_with_the_same_weights(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train()
    assert run.run_dir is None and not list(tmp_path.iterdir())
    assert run.history == finished.history
    for ours, theirs in zip(run.model.parameters(), finished.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_seed_decides(finished):
    assert train(seed=1).history != finished.history


def test_history_has_losses_rates_and_scores(finished):
    lines = [json.loads(line) for line in (finished.run_dir / "history.jsonl").read_text().splitlines()]
    assert lines == finished.history
    assert [line["step"] for line in lines] == list(range(2, 41, 2))
    assert [line["step"] for line in lines if "val" in line] == [8, 16, 24, 32, 40]
    assert lines[-1]["epoch"] == 40 * 6 / 20
    assert lines[-1]["losses"]["total"] < lines[0]["losses"]["total"]
    assert set(lines[-1]["val"]) == {"accuracy"}


# ---- stopped runs


def test_killed_anywhere_a_run_ends_with_the_same_bits(tmp_path):
    endings = run_program([sys.executable, "-m", "tests.tiny_run", str(tmp_path)]).stdout.split()
    assert endings == ["9"] * len(FAULTS) + ["0"]
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert (tmp_path / "killed/history.jsonl").read_text() == (tmp_path / "whole/history.jsonl").read_text()
    assert not list((tmp_path / "killed/checkpoints").glob(".*"))


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "state.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(copied, finished, capsys, file):
    (copied / "model.safetensors").unlink()
    damaged = copied / "checkpoints/step_0000040" / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    run = train(copied)
    assert not run.found and run.history == finished.history
    assert "step_0000040: the checkpoint is damaged" in capsys.readouterr().err
    assert weights(copied) == weights(finished.run_dir)


def test_the_last_two_checkpoints_are_kept(finished):
    assert sorted(path.name for path in (finished.run_dir / "checkpoints").iterdir()) == [
        "step_0000036", "step_0000040"
    ]  # fmt: skip


def test_a_full_disk_leaves_the_earlier_checkpoints_whole(tmp_path, finished, monkeypatch):
    save_file, room = run_directory.save_file, iter(range(5))

    def save_until_full(tensors, path):
        if next(room) == 4:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "save_file", save_until_full)
        with pytest.raises(TrainingError, match=r"step_0000012: could not be written.*No space left.*make room"):
            train(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step_0000004", "step_0000008"]
    train(tmp_path / "run")
    assert weights(tmp_path / "run") == weights(finished.run_dir)


def test_a_finished_run_is_found(copied, finished, capsys):
    before = weights(copied)
    run = train(copied)
    assert run.found and run.history == finished.history and weights(copied) == before
    assert "found the finished run" in capsys.readouterr().err
    assert not run.model.training


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"recipe": RECIPE.replace(lr=0.5)}, r"recipe\.lr is 0\.003 there, and 0\.5"),
        ({"recipe": RECIPE.replace(augment={"flip": 0.1})}, r"recipe\.augment\.flip"),
        ({"seed": 7}, "seed is 0 there, and 7"),
        ({"train_set": Blobs(22)}, "data.images is 20 there, and 22"),
    ],
)
def test_a_folder_of_another_run_is_refused(copied, options, name):
    with pytest.raises(UsageError, match=name + r".*Name another run_dir, or delete"):
        train(copied, **options)
    assert (copied / "model.safetensors").exists()


def test_a_model_of_other_arguments_is_refused(tmp_path):
    recipe = Recipe("cam", "synthetic", steps=1, batch_size=2)
    data = load_dataset("synthetic", "train", length=4, objects=1)
    fit(lambda: CAM(width=4), data, recipe, run_dir=tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match=r"model\.config\.pooling is 'gap' there, and 'gmp'"):
        fit(lambda: CAM(width=4, pooling="gmp"), data, recipe, run_dir=tmp_path / "run", device="cpu")


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        train(tmp_path)
    (tmp_path / "file").write_text("")
    for run_dir in ("file", "file/run"):
        with pytest.raises(UsageError, match=rf"run_dir .*{run_dir}: .*file is a file; name a folder"):
            train(tmp_path / run_dir)
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("line", ["3", "[]", '{"lr": 0.1}', '{"step": 2', ""])
def test_a_line_of_history_that_training_did_not_write_is_named(copied, line):
    first, *rest = (copied / "history.jsonl").read_text().splitlines()
    (copied / "history.jsonl").write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(DataError, match=r"history\.jsonl:2: found .*; expected a JSON object with .step.\. Delete"):
        train(copied)


def test_workers_and_checkpoints_do_not_make_another_run(copied):
    assert train(copied, RECIPE.replace(workers=1, checkpoint_every=8, source="elsewhere")).found


# ---- losses that are not finite


class BrokenBlobs(Blobs):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if self.position(index) == 13:
            sample["image"] = sample["image"] * float("nan")
        return sample


def test_a_loss_that_is_not_finite_names_step_and_samples_and_changes_no_weight(tmp_path):
    kept = []

    def build():
        kept.append(Tiny())
        return kept[0]

    first_bad = next(t for t, batch in enumerate(StepSampler(20, 6, 0, range(40)), start=1) if 13 in batch)
    with pytest.raises(TrainingError, match=rf"step {first_bad}: .*blob-13"):
        train(tmp_path, RECIPE.replace(lr=1e-3), build, BrokenBlobs())
    assert all(parameter.isfinite().all() for parameter in kept[0].parameters())
    assert not list((tmp_path / "checkpoints").glob(f"step_*{first_bad}"))


@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_weights_that_the_last_step_throws_out_of_range_are_not_written(tmp_path, checkpoint_every):
    """Loss and gradient of the only step are finite; the update is not."""
    recipe = PLAIN.replace(steps=1, lr=1e300, warmup_steps=0, log_every=1, checkpoint_every=checkpoint_every)
    with pytest.raises(TrainingError, match=r"step 1: weights are not finite \(.*head\.weight.*Lower lr"):
        train(tmp_path / "run", recipe)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


# ---- runs found again


def test_load_run_gives_the_trained_model(tmp_path):
    data = load_dataset("synthetic", "train", length=6, size=48)
    recipe = Recipe("cam", "synthetic", data={"size": 48}, steps=2, batch_size=4, augment={"shift": 2})
    run = fit(lambda: CAM(width=4, task=data.task), data, recipe, run_dir=tmp_path / "run", device="cpu")
    loaded = load_run(tmp_path / "run")
    images = torch.stack([data[i]["image"] for i in range(2)])
    assert torch.allclose(loaded.model(images), run.model(images), atol=1e-6)
    assert (loaded.recipe, loaded.classes, loaded.task, loaded.seed) == (recipe, data.classes, data.task, 0)
    assert (loaded.image_size, loaded.history, loaded.found) == (48, run.history, True)

    (tmp_path / "run/model.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match=r"model\.safetensors: not the weights of this model.*Delete the file"):
        load_run(tmp_path / "run")
    (tmp_path / "run/model.safetensors").unlink()
    with pytest.raises(UsageError, match="not finished"):
        load_run(tmp_path / "run")


def test_load_run_refuses_what_is_no_run(tmp_path, finished):
    with pytest.raises(UsageError, match=r"not a run directory, recipe\.json is missing"):
        load_run(tmp_path)
    with pytest.raises(UsageError, match="no registered paper"):
        load_run(finished.run_dir)


def test_load_run_takes_no_network_for_another(tmp_path):
    """CAM.from_resnet keeps the network that it was given: a name and numbers do not say which."""
    data = load_dataset("synthetic", "train", length=2, objects=1, size=32)
    recipe = Recipe("cam", "synthetic", data={"size": 32, "objects": 1}, steps=1, batch_size=2)

    def build():
        return CAM.from_resnet(torchvision.models.resnet18(num_classes=8))

    fit(build, data, recipe, run_dir=tmp_path, device="cpu")
    with pytest.raises(UsageError, match=r"model\.json: no model can be built from it.*ResNet.*Call fit again"):
        load_run(tmp_path)
    assert fit(build, data, recipe, run_dir=tmp_path, device="cpu").found


def test_a_cached_run_is_found_by_its_key(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WSL_CACHE", str(tmp_path))
    recipe = RECIPE.replace(steps=4)
    first = cached_run(Tiny, Blobs(), recipe, seed=1, device="cpu")
    again = cached_run(Tiny, Blobs(), recipe, seed=1, device="cpu")
    assert (first.found, again.found) == (False, True)
    assert first.run_dir == again.run_dir == tmp_path / "runs" / run_key(recipe, Blobs.version, 1)
    assert "found the finished run" in capsys.readouterr().err
    assert not cached_run(Tiny, Blobs(), recipe, seed=2, device="cpu").found


def test_the_key_changes_with_what_decides():
    keys = {run_key(RECIPE, "1", 0), run_key(RECIPE, "2", 0), run_key(RECIPE, "1", 1)}
    assert len(keys | {run_key(RECIPE.replace(lr=0.1), "1", 0)}) == 4
    assert run_key(RECIPE.replace(workers=2, source="other"), "1", 0) in keys


CAM_RECIPE = Recipe("cam", "synthetic", steps=1)


def test_training_reads_the_loop_the_paper_and_what_they_import():
    sources = set(training_sources(CAM_RECIPE))
    needed = ("papers.cam.CAM", "ops.POOLINGS", "backbones.BasicBlock", "training.loop.start_accelerator")
    needed += ("training.loop.count_steps", "training.runs._begin")
    assert {f"wsl_core.{name}" for name in needed} <= sources
    beside = ("wsl_core.data", "wsl_core.claims", "wsl_core.show", "wsl_core.ops.normalize", "wsl_core.papers.cam.grad")
    assert not any(name.startswith(beside) for name in sources)


def test_of_the_backbones_only_the_one_that_is_trained_counts():
    small, vgg16 = (set(training_sources(CAM_RECIPE.replace(model={"backbone": name}))) for name in ("small", "vgg16"))
    assert set(training_sources(CAM_RECIPE)) == small
    assert small - vgg16 == {f"wsl_core.backbones.{name}" for name in ("BACKBONES[small]", "_small", "BasicBlock")}
    assert "wsl_core.backbones._vgg16" in vgg16 - small
    whole, of_small, of_vgg16, of_none = (
        source_digest([f"wsl_core.backbones.BACKBONES{entry}"]) for entry in ("", "[small]", "[vgg16]", "[none]")
    )
    assert len({whole, of_small, of_vgg16, of_none}) == 4
    assert run_key(CAM_RECIPE, "1", 0) != run_key(
        CAM_RECIPE.replace(model={"backbone": "none"}), "1", 0
    )  # building it is the error


def test_what_measures_is_found_from_the_function():
    from wsl_core.claims.experiments.cam import measure_text

    sources = set(sources_of(measure_text, recipe=CAM_RECIPE))
    assert {"wsl_core.ops.resize_maps", "wsl_core.training.evaluation.predict"} <= sources
    assert not any(name.startswith("wsl_core.claims.experiments.gap_vs_gmp") for name in sources)
    assert "wsl_core.claims.experiments.cam.EXPERIMENTS" not in sources  # a comprehension's variables are its own


def test_the_digest_sees_code_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest(text, name="f"):
        (tmp_path / "digested.py").write_text(text)
        return source_digest([f"digested.{name}"])

    plain = digest("def f(x):\n    return x + 1\n")
    assert plain == digest('"""Module."""\n# why\ndef f(x):\n    """Add."""\n    return (x\n            + 1)\n')
    assert plain == digest("def f(x):\n    return x + 1\n\ndef beside():\n    return 0\n")
    assert plain != digest("def f(x):\n    return x + 2\n")
    assert digest("from math import pi\n", "pi") == digest("from math import e, pi\n", "pi")  # what stands beside it
    assert digest("from math import pi\n", "pi") != digest("from cmath import pi\n", "pi")
    with pytest.raises(UsageError, match=r"'wsl_core\.nothing' does not exist"):
        source_digest(["wsl_core.nothing"])


def test_open_split_takes_evenly_spaced_images():
    recipe = Recipe("cam", "synthetic", steps=1, images=4)
    whole, few = load_dataset("synthetic", "val"), open_split(recipe, "val")
    assert [few[i]["id"] for i in range(4)] == [whole[i * len(whole) // 4]["id"] for i in range(4)]
    assert few.version != whole.version


# ---- augmentation


def batch_of(*sizes):
    samples = []
    for number, (height, width) in enumerate(sizes):
        codes = torch.arange(1, height * width + 1).view(height, width)
        image = (codes / 1000).expand(3, -1, -1)
        samples.append({"id": str(number), "image": image, "labels": torch.ones(2), "mask": codes, "parts": codes,
                        "boxes": torch.zeros(1, 4), "box_labels": torch.zeros(1).long()})  # fmt: skip
    return collate(samples)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_options_nothing_changes_but_what_cannot_stay_true():
    batch = batch_of((6, 8), (6, 8))
    result = augment(batch, {}, seeded())
    assert set(result) == {"id", "labels", "image", "mask", "parts"}
    assert all(torch.equal(result[key], batch[key]) for key in ("image", "mask", "parts"))


@pytest.mark.parametrize("options", [{"flip": 0.5}, {"shift": 3}, {"crop": 4}, {"flip": 0.5, "shift": 2, "crop": 12}])
def test_masks_and_parts_move_with_their_image(options):
    result = augment(batch_of(*[(6, 8)] * 16), options, seeded())
    assert torch.equal((result["image"][:, 0] * 1000).round().long(), result["mask"])
    assert torch.equal(result["mask"], result["parts"])
    if "crop" in options:
        assert result["mask"].shape[1:] == (options["crop"], options["crop"])
    assert len({tuple(mask.flatten().tolist()) for mask in result["mask"]}) > 1  # each image on its own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "augment.crop: found 0; expected a whole number of pixels, at least 1"),
        ({"crop": 1.5}, "augment.crop: found 1.5"),
        ({"shift": -1}, "augment.shift: found -1; expected a whole number of pixels, at least 0"),
        ({"rotate": 10}, "'rotate' is no option; expected flip"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        augment(batch_of((4, 5)), options, seeded())


def test_flip_always_mirrors_and_never_does_not():
    batch = batch_of((4, 5))
    assert torch.equal(augment(batch, {"flip": True}, seeded())["mask"], batch["mask"].flip(2))
    assert torch.equal(augment(batch, {"flip": False}, seeded())["mask"], batch["mask"])


def test_shift_reaches_each_place_and_reflects_at_the_border():
    batch = batch_of(*[(1, 5)] * 200)
    rows = {tuple(mask[0].tolist()) for mask in augment(batch, {"shift": 1}, seeded())["mask"]}
    assert rows == {(1, 2, 3, 4, 5), (2, 3, 4, 5, 4), (2, 1, 2, 3, 4)}


def test_images_of_several_sizes_lose_their_padding():
    result = augment(batch_of((3, 4), (7, 2)), {"flip": 0.5, "shift": 1}, seeded())
    assert result["mask"].shape == (2, 7, 4)
    assert (result["mask"] < 255).all() and (result["mask"] > 0).all() and (result["image"] > 0).all()


def test_colours_change_within_their_range_and_grey_stays_grey():
    image = torch.full((64, 3, 2, 2), 0.4)
    batch = {"id": [""] * 64, "image": image, "labels": torch.ones(64, 2)}
    brighter = augment(batch, {"brightness": 0.5}, seeded())["image"]
    assert 0.2 <= brighter.min() < 0.25 and 0.55 < brighter.max() <= 0.6
    same = augment(batch, {"contrast": 0.9, "saturation": 0.9}, seeded())["image"]
    torch.testing.assert_close(same, image)
    noise = batch | {"image": torch.rand(64, 3, 2, 2)}
    assert not torch.allclose(augment(noise, {"saturation": 0.9}, seeded())["image"], noise["image"])


def test_the_generator_alone_decides():
    options = {"flip": 0.5, "shift": 2, "contrast": 0.3}
    results = [augment(batch_of(*[(6, 8)] * 4), options, seeded(seed))["image"] for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


# ---- evaluation


class Spots(Blobs):
    """A bright square in the channel of its class, at a place of its own, with its box."""

    def __getitem__(self, index):
        index = self.position(index)
        image, x, y = torch.zeros(3, 16, 16), 1 + 3 * (index % 4), 1 + 2 * (index % 5)
        image[index % 2, y : y + 4, x : x + 4] = 1
        box = torch.tensor([[x, y, x + 4, y + 4]], dtype=torch.float32)
        return {"id": str(index), "image": image, "labels": torch.eye(2)[index % 2], "boxes": box,
                "box_labels": torch.tensor([index % 2])}  # fmt: skip


class Looks(torch.nn.Module):
    """Its maps are the image's own channels."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.localize(images).mean((2, 3))

    def localize(self, images, labels=None):
        return images[:, :2] * self.scale


def test_the_report_sets_maps_beside_the_controls():
    rows = localization_report(Looks(), Spots(20), Spots(20, "val"), Spots(20, "test"), batch_size=8)
    score = {(row["name"], row.get("normalization")): row["gt_known"] for row in rows}
    assert score["own map", "max"] == score["own map", "minmax"] == 1.0
    assert score["another image's map", "max"] < 0.3
    assert score["full frame", None] == 0.0
    assert {row["labels"] for row in rows if "threshold" not in row} == {"none"}
    assert all(0 <= row["threshold"] < 1 for row in rows if "threshold" in row)
    fixed = localization_report(Looks(), Spots(20), Spots(20, "val"), Spots(20, "test"), threshold=0.2)
    assert {row["threshold"] for row in fixed if "threshold" in row} == {0.2}


def test_the_report_needs_boxes():
    with pytest.raises(UsageError, match="blobs/train has no boxes"):
        localization_report(Looks(), Blobs(), Blobs(), Blobs())


class Uneven(Spots):
    """Spots of the same size on canvases of several heights; one image in three lacks its box."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample["image"] = F.pad(sample["image"], (0, 0, 0, 8 * (self.position(index) % 3)))
        if self.position(index) % 3 == 2:
            sample |= {"boxes": torch.zeros(0, 4), "box_labels": torch.zeros(0, dtype=torch.int64)}
        return sample


@pytest.mark.parametrize("data", [Spots, Uneven])
def test_the_report_does_not_depend_on_the_batch_size(data):
    sets = data(20), data(20, "val"), data(20, "test")
    one, all_at_once = (localization_report(Looks(), *sets, batch_size=size) for size in (1, 20))
    assert one == all_at_once


def test_images_without_boxes_are_left_out_and_counted():
    rows = localization_report(Looks(), Blobs(), Uneven(21, "val"), Uneven(21, "test"))
    assert {row["pairs"] for row in rows} == {14} and rows[0]["unboxed_images"] == 7 and rows[0]["gt_known"] == 1.0
    assert rows[-1]["name"] == "best centred box on val"  # train has no boxes to choose it by
    rows = localization_report(Looks(), Blobs(), Blobs(), Uneven(21, "test"), threshold=0.2)
    assert rows[-1]["name"] == "full frame"  # nothing is left to choose by
    with pytest.raises(UsageError, match="blobs/val has no boxes"):
        localization_report(Looks(), Blobs(), Blobs(4, "val"), Uneven(21, "test"))


def test_max_box_acc_is_reported_beside_the_controls():
    rows = max_box_acc_report(Looks(), Uneven(21, "test"), batch_size=8)
    found = {(row["name"], row["normalization"]): row for row in rows}
    assert {row["pairs"] for row in rows} == {14}  # one image in three has no box
    for how in ("max", "minmax"):
        own, other = found["own map", how], found["another image's map", how]
        assert own["max_box_acc_v1"] == 1.0
        assert own["max_box_acc_v2"] == pytest.approx(2 / 3)  # the official box is a pixel wider: 16 of 25, not 0.7
        assert other["max_box_acc_v1"] < 0.5 and other["max_box_acc_v2"] < 0.5
    with pytest.raises(UsageError, match="blobs/test has no boxes"):
        max_box_acc_report(Looks(), Blobs(4, "test"))


def test_max_box_acc_scores_every_class_of_an_image_with_its_own_boxes():
    class Two(Spots):
        """Both classes in each image, each a square as large as its box; noise beside them in every other image."""

        def __getitem__(self, index):
            index = self.position(index)
            image = torch.zeros(3, 16, 16)
            image[0, 2:6, 2:6], image[1, 9:13, 8:12] = 1, 1
            image[:2, 14, 14] = index % 2
            boxes = torch.tensor([[2.0, 2, 6, 6], [8, 9, 12, 13]])
            return {"id": str(index), "image": image, "labels": torch.ones(2), "boxes": boxes,
                    "box_labels": torch.arange(2)}  # fmt: skip

    data = Two(6, "test")
    direct = MaxBoxAccEvaluator()
    for sample in data:
        maps = normalize(Looks().localize(sample["image"][None])[0], "max").detach()
        direct.update(maps, list(sample["boxes"][:, None]))
    row = max_box_acc_report(Looks(), data)[0]
    assert row["pairs"] == 12 and row["max_box_acc_v2"] > 0.5
    assert row["max_box_acc_v2"] == pytest.approx(direct.compute()["max_box_acc_v2"] / 100)


def test_predict_keeps_order_and_leaves_gradients_to_the_caller():
    model, ids = Tiny(), []
    for batch, logits, maps, grid in predict(model, Blobs(7), batch_size=3, progress=False):
        assert grid is None  # this network does not say where its cells are
        assert torch.is_grad_enabled() and not logits.requires_grad
        assert maps.shape == (len(batch["id"]), 2, 8, 8)
        ids += batch["id"]
    assert ids == [f"blob-{i}" for i in range(7)] and not model.training


class Ragged(Blobs):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample["image"] = sample["image"][:, : 6 + self.position(index)]
        return sample


def test_predict_lets_no_padding_into_the_scores():
    model = Tiny()
    ((batch, logits, maps, grid),) = predict(model, Ragged(4), progress=False)
    assert grid is None  # the maps are enlarged already
    assert maps.shape == (4, 2, *batch["image"].shape[-2:])
    for i, sample in enumerate(Ragged(4)):
        torch.testing.assert_close(logits[i], model(sample["image"][None])[0].detach())
        own = F.interpolate(model.localize(sample["image"][None]), sample["image"].shape[-2:], mode="bilinear")
        torch.testing.assert_close(maps[i, :, : own.shape[2]], own[0].detach())
        assert (maps[i, :, own.shape[2] :] == 0).all()


def test_a_model_for_another_task_is_named(tmp_path):
    data = load_dataset("synthetic", "train", size=16, length=4)  # several labels an image
    recipe = get_recipe("cam", "synthetic", "smoke")
    with pytest.raises(UsageError, match=r"task='single'.*'multi'"):
        fit(lambda: CAM(width=4), data, recipe, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
