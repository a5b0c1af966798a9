"""AffinityNet's pipeline: what a stage leaves is what the next one reads, and being stopped changes nothing."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from wsl_core.__main__ import main
from wsl_core.data import Dataset, collate, load_dataset
from wsl_core.data.images import read_mask, voc_palette
from wsl_core.errors import DataError, UsageError
from wsl_core.files import read_json
from wsl_core.papers.affinitynet import AffinityNet, SegmentationNetwork
from wsl_core.papers.cam import CAM
from wsl_core.recipes import get_recipe
from wsl_core.refine import confident_labels, crf_with_background
from wsl_core.training import stages
from wsl_core.training.stages import Marked, Refinement, run_stage

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = ["images=3", "steps=2", "batch_size=2", "warmup_steps=0", "model.width=4", "data.size=32"]
PIPELINE = ["train", "affinitynet", "--recipe", "smoke", "--device", "cpu"]
for setting in SETTINGS:
    PIPELINE += ["--set", setting]


class Images(Dataset):
    """Noise of several sizes."""

    name, split, classes, task, licence, version = "noise", "train", ("cat", "dog"), "multi", "MIT", "1"

    def __init__(self, length=4):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        index = self.position(index)
        image = torch.rand(3, 16 + 4 * index, 24, generator=torch.Generator().manual_seed(index))
        return {"id": f"folder/{index}", "image": image, "labels": torch.tensor([1.0, index % 2])}


def numbered(dataset):
    """Masks that tell one image from the other."""
    return (torch.full(sample["image"].shape[-2:], int(sample["id"][-1])) for sample in dataset)


def stage(name, folder, *more):
    return main([*PIPELINE, "--stage", name, "--run-dir", str(folder), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All three stages, by the command line."""
    folder = tmp_path_factory.mktemp("pipeline") / "run"
    for name in stages.STAGES:
        assert stage(name, folder) == 0
    return folder


def test_each_stage_leaves_what_its_name_says(finished):
    world = load_dataset("synthetic", "train", size=32)
    for folder in ("labels", "pseudo_labels"):
        paths = sorted((finished / folder).glob("*.png"))
        assert len(paths) == 3
        for path in paths:
            with Image.open(path) as picture:
                assert picture.mode == "P"
                assert np.array_equal(np.array(picture.getpalette()).reshape(-1, 3), voc_palette())
            assert set(read_mask(path).unique().tolist()) <= {*range(len(world.classes) + 1), 255}
    assert 255 not in torch.stack([read_mask(path) for path in (finished / "pseudo_labels").glob("*.png")])
    scores = read_json(finished / "scores.json")
    assert scores["split"] == "val" and set(scores["scores"]) == {"network", "network with CRF"}
    assert scores["scores"]["network"]["images"] == 3


def test_a_mask_has_only_the_labels_of_its_image(finished):
    world = load_dataset("synthetic", "train", size=32)
    for index in (0, 1000, 2000):  # three of 3,000, evenly
        sample = world[index]
        allowed = {0, 255, *(sample["labels"].nonzero().flatten() + 1).tolist()}
        for folder in ("labels", "pseudo_labels"):
            assert set(read_mask(finished / folder / f"{sample['id']}.png").unique().tolist()) <= allowed


def test_what_is_done_is_found_and_not_made_again(finished, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.png")}
    before |= {path: path.stat().st_mtime_ns for path in finished.rglob("model.safetensors")}
    monkeypatch.setattr(stages, "mark", None)  # would be needed for any mask
    for name in ("cam", "affinity"):
        assert stage(name, finished) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_lost_mask_alone_is_made_again_and_is_the_same(finished):
    paths = sorted((finished / "pseudo_labels").glob("*.png"))
    old, kept = read_mask(paths[1]), paths[0].stat().st_mtime_ns
    paths[1].unlink()
    assert stage("affinity", finished) == 0
    assert torch.equal(read_mask(paths[1]), old) and paths[0].stat().st_mtime_ns == kept


def test_a_stage_says_which_one_is_missing_before_it(tmp_path, capsys):
    assert stage("affinity", tmp_path / "new") == 2
    assert "stage 'affinity' needs stage 'cam', which is not done. Run it first" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_stage_says_which_masks_are_missing(finished, tmp_path, capsys):
    (tmp_path / "run").symlink_to(finished)
    hidden = finished / "labels" / "hidden"
    victim = next((finished / "labels").glob("*.png"))
    victim.rename(hidden)
    try:
        assert stage("affinity", finished) == 2
        assert "1 of 3 are missing. Run the stage before again" in capsys.readouterr().err
    finally:
        hidden.rename(victim)


def test_other_numbers_do_not_mix_with_the_masks_that_are_there(finished, capsys):
    assert stage("affinity", finished, "--refine", "beta=3") == 2
    assert "holds masks made from" in capsys.readouterr().err
    assert stage("cam", finished, "--refine", "beta=3") == 0, "its masks do not walk"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--stage", "cam", "--refine", "gamma=3"], "--refine gamma=3: expected one of alpha_low=float"),
        (["--stage", "cam", "--refine", "steps=many"], "--refine steps=many: expected one of"),
        (["--refine", "beta=3"], "name a --stage, too"),
    ],
)
def test_wrong_numbers_between_the_stages_are_named(more, told, capsys):
    assert main(["train", "affinitynet", *more]) == 2
    assert told in capsys.readouterr().err


def test_only_affinitynet_has_stages(capsys):
    assert main(["train", "cam", "--stage", "cam"]) == 2
    assert "only affinitynet has stages" in capsys.readouterr().err


def test_a_stage_wants_its_own_recipe(tmp_path):
    recipe = get_recipe("affinitynet", "synthetic", "smoke")
    for name in ("cam", "paint"):
        with pytest.raises(UsageError, match=f"stage='{name}' with a recipe of 'affinitynet'"):
            run_stage(name, tmp_path, recipe, Images())


def test_the_last_network_segments_images_of_any_size(finished, tmp_path, capsys):
    random = np.random.default_rng(0)
    for name, size in (("wide.jpg", (70, 30)), ("high.png", (20, 90))):
        Image.fromarray(random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / name)
    images = [str(tmp_path / name) for name in ("wide.jpg", "high.png")]
    command = ["segment", str(finished / "segmentation"), *images, "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, "--crf"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "classes.json")
    meaning = read_json(tmp_path / "out" / "classes.json")
    assert meaning["background"] == 0 and len(meaning) == 9
    for name, shape in (("wide", (30, 70)), ("high", (90, 20))):
        mask = read_mask(tmp_path / "out" / f"{name}.png")
        assert mask.shape == shape and set(mask.unique().tolist()) <= set(meaning.values())


def test_what_cannot_be_segmented_is_named(finished, tmp_path, capsys):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    rest = [str(tmp_path / "dot.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["segment", str(finished / "segmentation"), *rest]) == 1
    assert "dot.png: the network cannot take 1 x 1 pixels" in capsys.readouterr().err
    assert main(["segment", str(finished / "cam"), *rest]) == 2
    assert "affinitynet_cam predicts no masks" in capsys.readouterr().err
    assert main(["localize", str(finished / "affinity"), *rest]) == 2
    assert "makes affinities and no maps of classes" in capsys.readouterr().err


# Masks on disk -----------------------------------------------------------------------------------------------------


def test_masks_survive_a_kill_at_any_moment(tmp_path):
    """The process dies while it writes the third mask; the next call makes that one and the last."""
    made = []

    def watched(dataset):
        made.append([sample["id"] for sample in dataset])
        return numbered(dataset)

    child = os.fork()
    if child == 0:
        calls, write = iter(range(9)), stages.write_mask
        stages.write_mask = lambda *given: (next(calls) == 2 and os.kill(os.getpid(), signal.SIGKILL)) or write(*given)
        stages.write_masks(tmp_path / "masks", Images(), numbered, {"by": "test"})
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 2
    stages.write_masks(tmp_path / "masks", Images(), watched, {"by": "test"})
    assert made == [["folder/2", "folder/3"]]
    assert [mask.unique().tolist() for mask in stages.read_masks(tmp_path / "masks", Images())] == [[0], [1], [2], [3]]


def test_a_full_disk_leaves_no_half_mask(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    stages.write_masks(tmp_path, Images(1), numbered, {})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("wsl_core.files.os.fsync", full)
        stages.write_masks(tmp_path, Images(), numbered, {})
    assert [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file()] == ["0.png", "made_from.json"]


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"")
    with pytest.raises(UsageError, match="not empty and holds no masks of ours"):
        stages.write_masks(tmp_path, Images(), numbered, {})
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.png"]


def test_a_damaged_mask_is_named(tmp_path):
    stages.write_masks(tmp_path, Images(), numbered, {})
    (tmp_path / "folder" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png"):
        stages.read_masks(tmp_path, Images())


# What the masks are ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marked():
    torch.manual_seed(0)
    return list(stages.mark(CAM(num_classes=2, width=4), Images(), scales=(1.0,)))


def test_maps_are_at_the_images_own_pixels_and_of_their_labels(marked):
    for one, sample in zip(marked, Images(), strict=True):
        assert one.maps.shape == (2, *sample["image"].shape[1:])
        assert not one.maps[sample["labels"] == 0].any()
        assert one.names.tolist() == ([0, 1, 2] if sample["labels"][1] else [0, 1])


def test_confident_masks_are_those_of_each_image_alone(marked):
    """Several streams run abreast; none gets ahead of the others."""
    numbers = Refinement(alpha_low=2, alpha_high=9)
    found = list(stages.confident_masks(iter(marked), numbers))
    assert len(found) == len(marked)
    for one, mask in zip(marked, found, strict=True):
        low, high = (next(crf_with_background([one.image], [one.maps], [one.labels], a)) for a in (2, 9))
        assert torch.equal(mask, confident_labels(low, high))


def test_a_walk_of_no_step_and_no_crf_is_the_best_mean_of_each_cell(monkeypatch):
    monkeypatch.setattr(stages, "dense_crf_many", lambda images, given, *_, **__: given)
    maps = torch.zeros(2, 16, 16)
    maps[1, :, 8:] = 1.0
    one = Marked(torch.rand(3, 16, 16), torch.tensor([0.0, 1.0]), maps)
    (mask,) = stages.pseudo_labels([one], AffinityNet(width=4), Refinement(steps=0))
    assert mask.unique().tolist() == [0, 2]
    assert (mask[:, :7] == 0).all() and (mask[:, 9:] == 2).all()


def test_the_background_that_walks_has_the_number_asked_for():
    one = Marked(torch.rand(3, 16, 16), torch.ones(1), torch.full((1, 16, 16), 0.4))
    by_alpha = [next(stages.pseudo_labels([one], AffinityNet(width=4), Refinement(alpha=a))) for a in (1.0, 4.0)]
    assert [mask.unique().tolist() for mask in by_alpha] == [[0], [1]]


# What learns from them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", ["affinitynet", "affinitynet_segmentation"])
def test_a_trunk_like_the_classifiers_begins_with_its_weights(paper):
    recipe = get_recipe(paper, "synthetic", "smoke").replace(
        steps=1, warmup_steps=0, batch_size=2, lr=0.0, model={"width": 4}, augment={"crop": 16}
    )
    torch.manual_seed(3)
    classifier = CAM(num_classes=2, width=4)
    masks = list(numbered(Images()))
    masks = [mask.clamp(max=2) for mask in masks]
    learnt = stages.learn_from(masks, Images(), classifier, recipe, seed=0).model.backbone
    for (name, own), given in zip(learnt.named_parameters(), classifier.backbone.parameters(), strict=True):
        assert torch.equal(own, given), name
    other = stages.learn_from(masks, Images(), CAM(num_classes=2, width=8), recipe, seed=0).model.backbone
    weights = zip(other.parameters(), classifier.backbone.parameters(), strict=True)
    assert any(not torch.equal(own, given) for own, given in weights)


def test_scores_are_pooled_over_images_of_several_sizes():
    class Masked(Images):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"mask": torch.zeros(sample["image"].shape[1:], dtype=torch.int64)}

    torch.manual_seed(0)
    network = SegmentationNetwork(num_classes=2, width=4)
    scores = stages.segmentation_scores(network, Masked(2), scales=(1.0,), crf=None)
    assert scores["images"] == 2 and 0 <= scores["miou"] <= 1
    batch = collate([Masked(2)[0]])
    alone = network.segment(batch["image"]).argmax(dim=1)
    assert alone.shape[-1] < batch["image"].shape[-1], "cells are larger than pixels"
    with pytest.raises(UsageError, match="has no masks; mIoU needs them"):
        stages.segmentation_scores(network, Images())


def test_the_papers_numbers():
    assert (Refinement().alpha_low, Refinement().alpha_high, Refinement().alpha) == (4, 24, 16)
    assert (Refinement().beta, Refinement().steps) == (8, 256)
    assert replace(Refinement(), steps=4).steps == 4
