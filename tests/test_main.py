"""The command line: what goes where, with which exit status."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import wsl_core
from wsl_core import __main__ as command_line
from wsl_core.__main__ import _localize_one, main
from wsl_core.backbones import Backbone
from wsl_core.data import DATASETS
from wsl_core.errors import DataError
from wsl_core.localize import boxes_from_map
from wsl_core.metrics import box_iou
from wsl_core.ops import resize_maps
from wsl_core.papers.cam import CAM
from wsl_core.recipes import RECIPES, get_recipe, parse_overrides
from wsl_core.training import load_run, open_split

TINY = ["--recipe", "smoke", "--set", "images=6", "--set", "steps=4", "--set", "batch_size=4", "--set", "model.width=4"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run on the synthetic world, by the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "cam", *TINY, "--set", "data.size=48", "--run-dir", str(folder), "--device", "cpu"]) == 0
    return folder


def test_help_does_not_wait_for_torch():
    program = "import sys; from wsl_core.__main__ import main; print(main(['--help'])); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-2:] == ["0", "False"]
    assert all(name in result.stdout for name in ("train", "evaluate", "localize", "match"))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wsl_core {wsl_core.__version__}\n"


def test_the_module_is_a_program_with_an_exit_status():
    result = subprocess.run([sys.executable, "-m", "wsl_core", "fly"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == "" and "invalid choice: 'fly'" in result.stderr


def test_train_prints_the_run_directory_and_finds_it_again(run_dir, capsys):
    arguments = ["train", "cam", *TINY, "--set", "data.size=48", "--run-dir", str(run_dir), "--device", "cpu"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"{run_dir}\n" and "found the finished run" in err
    assert main([*arguments, "--seed", "1"]) == 2
    assert "seed is 0 there, and 1 was asked for" in capsys.readouterr().err


def test_train_without_a_folder_names_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "cam", *TINY, "--set", "steps=1", "--seed", "5", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{Path('runs/cam-synthetic-smoke-5')}\n"
    assert (tmp_path / "runs/cam-synthetic-smoke-5/model.safetensors").exists()


def test_evaluate_prints_json_with_the_controls(run_dir, capsys):
    assert main(["evaluate", str(run_dir), "--split", "test", "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["dataset"], result["split"], result["images"]) == ("synthetic", "test", 6)
    assert (result["threshold_from"], result["translated_to"]) == ("val", None)
    assert 0 <= result["classification"]["mean_average_precision"] <= 1
    names = [row["name"] for row in result["localization"]]
    assert names == [
        "own map", "own map", "another image's map", "another image's map", "centre Gaussian", "full frame",
        "best centred box on train",
    ]  # fmt: skip
    assert all(0 <= row["gt_known"] <= 1 for row in result["localization"])
    assert [row["name"] for row in result["max_box_acc"]] == names[:5]
    assert all(0 <= row["max_box_acc_v2"] <= 1 for row in result["max_box_acc"])


def test_evaluate_prints_the_scores_of_the_maps(run_dir, capsys):
    """The same numbers from the run's maps and the data's boxes, one image and one threshold at a time."""
    arguments = ["evaluate", str(run_dir), "--split", "test", "--threshold", "0.3", "--iou", "0.2", "--json"]
    assert main([*arguments, "--device", "cpu"]) == 0
    rows = {(row["name"], row.get("normalization")): row for row in json.loads(capsys.readouterr().out)["localization"]}
    run = load_run(run_dir)
    own, frame, top1 = [], [], []
    dataset = open_split(run.recipe, "test")
    for sample in dataset:
        height, width = sample["image"].shape[-2:]
        with torch.no_grad():
            logits, maps = run.model.scores_and_maps(sample["image"][None])
        maps = resize_maps(maps, (height, width), run.model.grid)[0]
        for c in sample["labels"].nonzero().flatten():
            true = sample["boxes"][sample["box_labels"] == c]
            box = boxes_from_map(maps[c], 0.3)
            own.append(bool(len(box)) and box_iou(box, true).max().item() >= 0.2)
            frame.append(box_iou(torch.tensor([[0.0, 0.0, width, height]]), true).max().item() >= 0.2)
            top1.append(own[-1] and c == logits.argmax())
    assert rows["own map", "max"]["gt_known"] == pytest.approx(np.mean(own))
    assert rows["own map", "max"]["top1_localization"] == pytest.approx(sum(top1) / len(dataset))
    assert rows["full frame", None]["gt_known"] == pytest.approx(np.mean(frame))
    assert 0 < sum(own) < len(own) or 0 < sum(frame) < len(frame)  # else the numbers would say little


def test_evaluate_takes_every_overlap_up_to_one(run_dir, capsys):
    assert main(["evaluate", str(run_dir), "--iou", "1.0", "--threshold", "0.3", "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["iou"] == 1.0 and all(row["gt_known"] <= 0.5 for row in result["localization"])


def test_evaluate_and_localize_feed_the_network_the_same_size(tmp_path, capsys, monkeypatch):
    """Crops are for training: afterwards both see whole images, shrunk as the data set shrinks them."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            pixels = random.integers(0, 255, (30, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / split / name / "1.png")
    settings = [*TINY, "--set", "data.max_side=60", "--set", "augment.crop=24"]
    data = ["--dataset", "folder", "--root", str(tmp_path / "own")]
    assert main(["train", "cam", *data, *settings, "--run-dir", str(tmp_path / "run"), "--device", "cpu"]) == 0
    seen = []
    backbone = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward", lambda self, images: seen.append(images.shape[2:]) or backbone(self, images)
    )
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    image = str(tmp_path / "own/val/cat/1.png")
    assert main(["localize", str(tmp_path / "run"), image, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert len(seen) >= 2 and set(seen) == {(20, 60)}


def test_evaluate_asks_for_the_canvas_of_images_of_any_size(tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / "own" / split / "cat").mkdir(parents=True)
        Image.new("RGB", (70, 50)).save(tmp_path / "own" / split / "cat" / "1.png")
    data = ["--dataset", "folder", "--root", str(tmp_path / "own"), "--set", "data.max_side=null"]
    assert main(["train", "cam", *data, *TINY, "--run-dir", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--translate", "--device", "cpu"]) == 2
    assert "name the SIDE of the canvas" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--translate", "80", "--device", "cpu"]) == 0


def test_evaluate_prints_a_table_and_translates(run_dir, capsys):
    assert main(["evaluate", str(run_dir), "--threshold", "0.3", "--translate", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "mean_average_precision" in out and "another image's map" in out and "0.30" in out
    assert main(["evaluate", str(run_dir), "--translate", "40"]) == 2  # smaller than the images
    assert "canvas is 40" in capsys.readouterr().err


def test_evaluate_remembers_where_the_data_were(tiny_root, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WSL_DATA", raising=False)
    folder = str(tmp_path / "run")
    data = ["--dataset", "tiny-imagenet", "--root", str(tiny_root)]
    assert main(["train", "cam", *data, *TINY, "--run-dir", folder, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["evaluate", folder, "--json", "--device", "cpu"]) == 0
    assert set(json.loads(capsys.readouterr().out)["classification"]) == {"accuracy"}


def test_evaluate_without_boxes_scores_classes_only(tmp_path, capsys):
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 255, (20, 30 + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{name}{number}.png")
    data = ["--dataset", "folder", "--root", str(tmp_path / "images")]
    assert main(["train", "cam", *data, *TINY, "--run-dir", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out[out.index("{") :])["localization"] == [] and "no boxes" in err


def test_localize_takes_images_of_any_size_and_kind(run_dir, tmp_path, capsys):
    random = np.random.default_rng(0)
    kinds = {
        "grey.png": Image.fromarray(random.integers(0, 255, (30, 70), dtype=np.uint8)),
        "deep.png": Image.fromarray(random.integers(0, 65535, (40, 20)).astype(np.uint16)),
        "clear.png": Image.fromarray(random.integers(0, 255, (64, 64, 4), dtype=np.uint8)),
        "dot.png": Image.new("RGB", (1, 1), "red"),
        "photo.jpg": Image.fromarray(random.integers(0, 255, (60, 90, 3), dtype=np.uint8)),
    }
    for name, image in kinds.items():
        exif = Image.Exif()
        exif[274] = 6  # the camera was held upright: the upright image is 60 wide and 90 high
        image.save(tmp_path / name, **({"exif": exif} if name == "photo.jpg" else {}))
    out_dir = tmp_path / "out"
    arguments = ["localize", str(run_dir), *(str(tmp_path / name) for name in kinds), "--out", str(out_dir)]
    assert main([*arguments, "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{out_dir / 'boxes.json'}\n" and "out of vocabulary" in err
    result = json.loads((out_dir / "boxes.json").read_text())
    assert [entry["size"] for entry in result["images"]] == [[30, 70], [40, 20], [64, 64], [1, 1], [90, 60]]
    for entry in result["images"]:
        stem, (height, width) = Path(entry["file"]).stem, entry["size"]
        maps = np.load(out_dir / f"{stem}.npy")
        assert maps.dtype == np.float32 and len(maps) == len(result["classes"]) == 8
        assert Image.open(out_dir / f"{stem}.png").size == (width, height)
        assert entry["class"] in result["classes"] and 0 <= entry["score"] <= 1
        assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in entry["boxes"])


def test_localize_shows_the_class_that_is_asked_for(run_dir, tmp_path, capsys):
    Image.new("RGB", (50, 40), "blue").save(tmp_path / "sky.png")
    arguments = ["localize", str(run_dir), str(tmp_path / "sky.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--class", "boat"]) == 0
    (entry,) = json.loads((tmp_path / "out/boxes.json").read_text())["images"]
    assert (entry["class"], entry["chosen_by"]) == ("boat", "request")
    capsys.readouterr()
    assert main([*arguments, "--class", "zebra"]) == 2
    assert "class 'zebra' is out of vocabulary: this run knows dog" in capsys.readouterr().err


def test_wrong_arguments_are_one_line_and_status_2(run_dir, tmp_path, capsys):
    wrong = {
        "recipe cam/synthetic/huge does not exist": ["train", "cam", "--recipe", "huge"],
        "paper 'yolo' has no recipe; expected one of cam, acol": ["train", "yolo"],
        "x.jpg: found no such file; expected an image file": ["localize", str(run_dir), "x.jpg", "--out", "y"],
        "found a folder; expected an image file": ["localize", str(run_dir), str(tmp_path), "--out", "y"],
        "'colour' is no field of a recipe": ["train", "cam", "--set", "colour=red"],
        "cam has no such option": ["train", "cam", "--set", "model.depth=3"],
        "root is": ["train", "cam", "--dataset", "folder", "--root", str(tmp_path / "nowhere")],
        "not a run directory": ["evaluate", str(tmp_path)],
        "pooling": ["train", "cam", *TINY, "--set", "model.pooling=max", "--run-dir", str(tmp_path / "a")],
        "written to the same file": ["localize", str(run_dir), "a/x.png", "b/x.jpg", "--out", str(tmp_path)],
    }
    for message, arguments in wrong.items():
        assert main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["evaluate", "x", "--threshold", "2"],
        ["evaluate", "x", "--iou", "0"],
        ["evaluate", "x", "--iou", "1.1"],
        ["evaluate", "x", "--split", "train"],
        [],
    ],
)
def test_argparse_refuses_with_status_2(arguments, capsys):
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_bad_files_and_folders_are_one_line(run_dir, tmp_path, capsys):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "file").write_text("")
    Image.new("RGB", (8, 8)).save(tmp_path / "fine.png")
    for status, message, image, out_dir in [
        (1, "text.png", "text.png", "out"),
        (2, "missing.png", "missing.png", "out"),
        (2, "found a file", "fine.png", "file"),
    ]:
        arguments = ["localize", str(run_dir), str(tmp_path / image), "--out", str(tmp_path / out_dir)]
        assert main([*arguments, "--device", "cpu"]) == status
        out, err = capsys.readouterr()
        assert out == "" and message in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
        assert not list((tmp_path / "out").glob("*"))


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "evaluate", interrupt)
    assert main(["evaluate", "x"]) == 1
    assert "goes on from its last checkpoint" in capsys.readouterr().err


def test_one_process_that_fails_ends_a_shared_training_with_its_error(tmp_path):
    for number in range(8):
        picture = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        folder = tmp_path / "data" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    broken = tmp_path / "data/cat/3.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "wsl_core"]
    options = [
        "--dataset",
        "folder",
        "--root",
        str(tmp_path / "data"),
        "--recipe",
        "smoke",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    small = ["steps=50", "batch_size=2", "data.max_side=32", "model.width=4", "augment.crop=32", "workers=0"]
    settings = [text for setting in small for text in ("--set", setting)]
    result = subprocess.run(
        [*command, "train", "cam", *options, *settings, "--device", "cpu"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 1
    assert result.stderr.count(broken.name) == 1 and "error (process " in result.stderr
    assert not (tmp_path / "run/model.safetensors").exists()


def test_a_lost_process_is_one_line_and_other_failures_stay_what_they_are(monkeypatch, capsys):
    said = ["Connection closed by peer [127.0.0.1]", "mat1 and mat2 shapes cannot be multiplied"]

    def fail(options):
        raise RuntimeError(said.pop(0))

    monkeypatch.setattr(command_line, "evaluate", fail)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["evaluate", "x"]) == 1
    assert capsys.readouterr().err == "error (process 2 of 2): another process has ended; it says why.\n"
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        main(["evaluate", "x"])


def test_localize_never_replaces_what_it_reads(run_dir, tmp_path, capsys):
    picture = tmp_path / "cat.png"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(picture)
    before = picture.read_bytes()
    assert main(["localize", str(run_dir), str(picture), "--out", str(tmp_path)]) == 2
    assert "would replace" in capsys.readouterr().err and picture.read_bytes() == before


def test_localize_writes_nothing_when_one_image_is_broken(run_dir, tmp_path, capsys):
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    images = [str(tmp_path / name) for name in ("good.png", "broken.png")]
    assert main(["localize", str(run_dir), *images, "--out", str(tmp_path / "out")]) == 1
    assert "broken.png" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.width=-4", "cannot be built"),
        ("model.num_classes=3", "no such option"),
        ("paper=acol", "chooses the recipe"),
        ("data.split=val", "argument of its own"),
    ],
)
def test_settings_that_cannot_be_are_one_line(setting, words, tmp_path, capsys):
    assert main(["train", "cam", *TINY, "--set", setting, "--run-dir", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["recipe.json", "model.json"])
def test_a_run_directory_with_other_json_is_one_line(run_dir, tmp_path, capsys, name):
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / name).write_text("[]")
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 1
    assert f"{name}: found other content" in capsys.readouterr().err


def test_an_image_that_the_network_cannot_take_is_named(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    model = CAM("alexnet", num_classes=2).eval()
    run = SimpleNamespace(model=model, image_size=None, task="single", classes=("cat", "dog"))
    with pytest.raises(DataError, match=r"dot.png: the network cannot take 1 x 1 pixels"):
        _localize_one(run, tmp_path / "dot.png", None, 0.2)


PAGE = (Path(__file__).resolve().parents[1] / "book/train_for_real.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"-m wsl_core (.+)", PAGE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_on_training_are_understood(command):
    options = command_line._parser().parse_args(shlex.split(command))
    if options.command is command_line.train:
        recipe = get_recipe(options.paper, options.dataset, options.recipe).replace(**parse_overrides(options.set))
        command_line._check_model_options(recipe.paper, recipe.model)
        assert "weights" in recipe.model and recipe.precision == "bf16"


def test_the_page_on_training_names_every_data_set_to_train_on():
    assert len(COMMANDS) > 8
    assert {name for name in DATASETS if f"`{name}`" in PAGE} >= {recipe.dataset for recipe in RECIPES} - {"synthetic"}


def test_the_help_names_every_paper_that_has_a_recipe(capsys):
    assert main(["train", "--help"]) == 0
    options = " ".join(capsys.readouterr().out.split())
    named = options.split("PAPER ")[-1].split(" options:")[0]
    trained = {recipe.paper for recipe in RECIPES}
    assert set(named.split(", ")) == trained


def test_what_makes_descriptors_is_trained_and_has_no_maps_to_score(tmp_path, capsys):
    folder, image = tmp_path / "run", tmp_path / "dot.png"
    Image.new("RGB", (8, 8), "red").save(image)
    arguments = ["train", "introspection", *TINY, "--set", "data.size=32", "--run-dir", str(folder), "--device", "cpu"]
    assert main(arguments) == 0
    assert load_run(folder).model.config["width"] == 4
    capsys.readouterr()
    for command in (["evaluate", str(folder)], ["localize", str(folder), str(image), "--out", str(tmp_path / "maps")]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{folder}: introspection makes descriptors and no maps of classes" in line
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(image)
    assert main(["match", str(folder), *[str(image)] * 2, "--out", str(tmp_path / "out"), "--matcher", "nearest"]) == 0
    rows = np.load(tmp_path / "out/correspondences.npy")
    assert np.allclose(rows[:, :2], rows[:, 2:4]), "an image is matched with itself"


# ---- match


@pytest.fixture(scope="module")
def anchors_dir(tmp_path_factory):
    """A finished run of AnchorNet, whose network shrinks images to 48 pixels."""
    folder = tmp_path_factory.mktemp("cli") / "anchors"
    arguments = ["train", "anchornet", *TINY, "--set", "data.size=48", "--run-dir", str(folder), "--device", "cpu"]
    assert main(arguments) == 0
    return folder


@pytest.fixture
def two_images(tmp_path):
    """A picture, and the same with everything 16 pixels further to the right."""
    scene = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path, left in zip(paths, (16, 0), strict=True):
        Image.fromarray(scene[:, left : left + 128]).save(path)
    return paths


@pytest.mark.parametrize("matcher", command_line.MATCHERS)
def test_match_finds_a_shift(two_images, tmp_path, capsys, matcher):
    out_dir = tmp_path / "out"
    arguments = ["match", "sift", *map(str, two_images), "--out", str(out_dir), "--matcher", matcher]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{out_dir / 'match.json'}\n"
    result = json.loads((out_dir / "match.json").read_text())
    rows = np.load(out_dir / result["correspondences"])
    assert rows.dtype == np.float32 and rows.shape == (result["matched"], len(result["columns"]))
    assert result["matched"] == result["cells"] or matcher in ("dsp", "mutual")
    inner = rows[(rows[:, 0] > 32) & (rows[:, 0] < 80)]
    assert np.median(inner[:, 2:4] - inner[:, :2], axis=0) == pytest.approx([16, 0], abs=4)
    warped = np.asarray(Image.open(out_dir / result["warped"]), dtype=float)
    original = np.asarray(Image.open(two_images[0]), dtype=float)
    assert warped.shape == original.shape
    assert np.abs(warped - original)[24:72, 24:88].mean() < np.abs(original[:, 16:] - original[:, :-16]).mean() / 2


def test_match_answers_in_pixels_of_the_originals(two_images, tmp_path):
    Image.open(two_images[1]).resize((512, 384), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    arguments = ["match", "hog", str(two_images[0]), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--size", "128", "--matcher", "nearest"]) == 0
    rows = np.load(tmp_path / "out/correspondences.npy")
    assert np.median(rows[:, 2:4] / 4 - rows[:, :2], axis=0) == pytest.approx([16, 0], abs=4)


def test_match_by_a_run_takes_its_size(anchors_dir, two_images, tmp_path, capsys):
    out_dir = tmp_path / "out"
    arguments = ["match", str(anchors_dir), *map(str, two_images), "--out", str(out_dir), "--device", "cpu"]
    assert main(arguments) == 0
    assert Image.open(out_dir / "warped.png").size == (48, 36)
    rows = np.load(out_dir / "correspondences.npy")
    assert rows[:, [0, 2]].max() > 100  # pixels of the originals, which are 128 wide
    assert json.loads((out_dir / "match.json").read_text())["cells"] == 9 * 12


def test_match_says_what_is_wrong_in_one_line(run_dir, two_images, tmp_path, capsys):
    a, b = map(str, two_images)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "file").write_text("")
    Image.new("RGB", (4, 4)).save(tmp_path / "dot.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "warped.png")
    out = ["--out", str(tmp_path / "out")]
    wrong = [
        (2, "cam has no descriptors; expected sift, hog or a run of anchornet", [str(run_dir), a, b, *out]),
        (2, "not a run directory", [str(tmp_path), a, b, *out]),
        (2, "c.png: found no such file", ["sift", a, str(tmp_path / "c.png"), *out]),
        (2, "found a file; expected a folder", ["sift", a, b, "--out", str(tmp_path / "file")]),
        (2, "the warped image would replace", ["hog", a, str(tmp_path / "warped.png"), "--out", str(tmp_path)]),
        (1, "text.png", ["sift", a, str(tmp_path / "text.png"), *out]),
        (1, "dot.png: hog cannot describe 4 x 4 pixels", ["hog", a, str(tmp_path / "dot.png"), *out]),
        (
            1, "cannot be matched by proposal-flow",
            ["sift", *[str(tmp_path / "warped.png")] * 2, *out, "--matcher", "proposal-flow"],
        ),
    ]  # fmt: skip
    for status, message, arguments in wrong:
        assert main(["match", *arguments]) == status, message
        found = capsys.readouterr()
        assert found.out == "" and message in found.err.splitlines()[-1], found.err
        assert found.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()
