"""python -m wsl_core evaluate-maps: anyone's maps, the official metadata, scores in percent."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsl_core.__main__ import main
from wsl_core.data.wsol_metadata import WSOLMetadata, write_wsol_metadata
from wsl_core.metrics import MaxBoxAccEvaluator, PixelEvaluator

SIDE = 224
IDS = ("val2/0/a.jpeg", "val2/0/b.jpeg", "c.png")
SIZES = {IDS[0]: (448, 224), IDS[1]: (224, 448), IDS[2]: (224, 224)}
BOXES = {IDS[0]: [(100, 20, 299, 119), (0, 0, 9, 9)], IDS[1]: [(20, 100, 119, 299)], IDS[2]: [(10, 10, 59, 59)]}
SCALED = ((50, 20, 150, 120), (20, 50, 120, 150), (10, 10, 60, 60))  # the first of each, half-open


def score_map(number: int) -> np.ndarray:
    """The object at 0.8 on a slope up to 0.4; the last image's peak is elsewhere."""
    x0, y0, x1, y1 = SCALED[number]
    score = np.tile(np.linspace(0, 0.4, SIDE, dtype=np.float32), (SIDE, 1))
    score[y0:y1, x0:x1] = 0.8
    if number == 2:
        score[150:200, 150:200] = 1.0
    return score


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """maps/ beside boxes/, which is metadata with boxes; and masks/, and regions/, which is metadata with masks."""
    boxes = WSOLMetadata(IDS, dict.fromkeys(IDS, 0), SIZES, BOXES)
    masks = WSOLMetadata(IDS, dict.fromkeys(IDS, 0), {}, {}, {i: [f"{i}.png"] for i in IDS}, {IDS[0]: "ignore.png"})
    write_wsol_metadata(tmp_path / "boxes", boxes)
    write_wsol_metadata(tmp_path / "regions", masks)
    for number, image_id in enumerate(IDS):
        path = tmp_path / "maps" / f"{image_id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, score_map(number))
        path = tmp_path / "masks" / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask(number) * 255).save(path)
    ignored = np.zeros((SIDE, SIDE), np.uint8)
    ignored[:, 100:] = 255
    Image.fromarray(ignored).save(tmp_path / "masks" / "ignore.png")
    return tmp_path / "maps"


def mask(number: int) -> np.ndarray:
    x0, y0, x1, y1 = SCALED[number]
    found = np.zeros((SIDE, SIDE), np.uint8)
    found[y0:y1, x0:x1] = 1
    return found


def run(maps: Path, metadata: str, *more: str) -> int:
    return main(["evaluate-maps", "--maps", str(maps), "--metadata", str(maps.parent / metadata), *more])


def result_of(capsys: pytest.CaptureFixture) -> dict:
    out, err = capsys.readouterr()
    assert "evaluating" in err  # the progress is not among the results
    return json.loads(out)


def test_boxes_are_scored_as_the_evaluator_does(maps, capsys):
    assert run(maps, "boxes", "--json") == 0
    result = result_of(capsys)
    evaluator = MaxBoxAccEvaluator()
    truth = [torch.tensor([box]) for box in SCALED]
    truth[0] = torch.cat([truth[0], torch.tensor([[0, 0, 5, 10]])])
    evaluator.update(torch.from_numpy(np.stack([score_map(i) for i in range(3)])), truth)
    expected = evaluator.compute()
    assert (result["images"], result["missing"], "pxap" in result) == (3, [], False)
    for key in ("max_box_acc_v1", "max_box_acc_v2", "best_threshold_v1"):
        assert result[key] == expected[key]
    for key in ("max_box_acc", "best_threshold"):
        assert result[key] == {str(iou): value for iou, value in expected[key].items()}
    # the last image lights a second square of the same size: of equal contours V1 takes the lower one, V2 looks at all
    assert result["max_box_acc_v1"] == pytest.approx(200 / 3) and result["max_box_acc_v2"] == 100


def test_masks_are_scored_as_the_evaluator_does(maps, capsys):
    assert run(maps, "regions", "--masks", str(maps.parent / "masks"), "--json") == 0
    result = result_of(capsys)
    evaluator = PixelEvaluator()
    truth = np.stack([mask(i) for i in range(3)])
    truth[0, :, 100:][truth[0, :, 100:] == 0] = 255
    evaluator.update(torch.from_numpy(np.stack([score_map(i) for i in range(3)])), torch.from_numpy(truth))
    assert result["pxap"] == evaluator.compute()["pxap"] and "max_box_acc" not in result


def test_a_table_for_people(maps, capsys):
    assert run(maps, "boxes") == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[0] == "3 images, 0 of them without a map"
    assert "IoU 0.5): 66.7 %, at threshold 0." in out and "MaxBoxAccV2" in out and "IoU 0.7: 100.0 %" in out
    assert run(maps, "regions", "--masks", str(maps.parent / "masks")) == 0
    assert "PxAP: " in capsys.readouterr().out


def test_a_missing_map_is_named_and_counts_as_wrong_when_asked(maps, capsys):
    (maps / f"{IDS[1]}.npy").unlink()
    assert run(maps, "boxes", "--json") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{IDS[1]}.npy: the map of image '{IDS[1]}' is missing" in err
    assert run(maps, "boxes", "--missing", "zero", "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert f"{IDS[1]}.npy: missing; counts as wrong" in err
    assert (result["images"], result["missing"]) == (3, [IDS[1]])
    assert result["max_box_acc_v2"] == pytest.approx(200 / 3)
    arguments = ["--masks", str(maps.parent / "masks"), "--missing", "zero", "--json"]
    assert run(maps, "regions", *arguments) == 0
    lower = result_of(capsys)["pxap"]
    np.save(maps / f"{IDS[1]}.npy", np.zeros((SIDE, SIDE)))
    assert run(maps, "regions", *arguments) == 0
    assert result_of(capsys)["pxap"] == lower


def test_without_any_map_there_is_nothing_to_count(maps, capsys):
    assert run(maps / "val2" / "0", "../../boxes", "--missing", "zero") == 1  # the folder is one too deep
    assert "is missing, with it 3 of 3" in capsys.readouterr().err


def test_maps_of_another_size(maps, capsys):
    small = maps.parent / "small"
    for number, image_id in enumerate(IDS):
        path = small / f"{image_id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, score_map(number)[::2, ::2])
    assert run(small, "boxes", "--json") == 1
    assert "found shape (112, 112); expected (224, 224)" in capsys.readouterr().err
    assert run(small, "boxes", "--size", "112", "--json") == 0
    assert result_of(capsys)["max_box_acc_v2"] == 100


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (np.full((SIDE, SIDE), np.nan), "found NaN"),
        (np.full((SIDE, SIDE), 255.0), "found values from 255 to 255"),
        (np.full((SIDE, SIDE), -0.5), "found values from -0.5 to -0.5"),
        (np.zeros((3, SIDE, SIDE)), "found shape (3, 224, 224)"),
    ],
)
def test_a_wrong_map_is_named_whatever_the_policy(maps, capsys, content, found):
    np.save(maps / f"{IDS[1]}.npy", content)
    for policy in ("error", "zero"):
        assert run(maps, "boxes", "--missing", policy) == 1
        out, err = capsys.readouterr()
        last = err.splitlines()[-1]
        assert out == "" and last.startswith("error: ") and f"{IDS[1]}.npy" in last and found in last


def test_constant_maps_are_accepted(maps, capsys):
    for number, value in enumerate((0.0, 0.3, 1.0)):
        np.save(maps / f"{IDS[number]}.npy", np.full((SIDE, SIDE), value))
    assert run(maps, "boxes", "--json") == 0
    assert result_of(capsys)["max_box_acc_v2"] == 0


def test_wrong_folders_and_arguments_are_one_line(maps, capsys):
    masks = str(maps.parent / "masks")
    for status, message, arguments in [
        (2, "--maps", (maps.parent / "nowhere", "boxes")),
        (2, "--metadata", (maps, "nowhere")),
        (2, "--masks", (maps, "regions")),
        (2, "and no masks; leave it out", (maps, "boxes", "--masks", masks)),
        (2, "--masks", (maps, "regions", "--masks", masks + "x")),
        (1, "image_ids.txt", (maps, "masks")),
    ]:
        assert run(*arguments) == status, arguments
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err
    (maps.parent / "boxes" / "localization.txt").write_text("")
    assert run(maps, "boxes") == 1
    assert "localization.txt: missing or empty; expected boxes or masks" in capsys.readouterr().err
    assert main(["evaluate-maps", "--maps", str(maps)]) == 2
    assert "--metadata" in capsys.readouterr().err
