"""What chapter 3 measures: its own small functions, on networks that are not trained."""

import pytest
import torch
from torch import nn

from wsl_core.claims.experiments import acol as chapter
from wsl_core.claims.experiments.gap_vs_gmp import CHOSEN, COVERAGE, DOSES, PXAP, TOP1, Seen
from wsl_core.data import Dataset, load_dataset
from wsl_core.ops import Grid, resize_maps
from wsl_core.papers.acol import ACoL
from wsl_core.papers.erasing_baselines import SingleClassifier

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def creatures():
    return load_dataset("synthetic", "val", world="creatures", size=48, length=6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ACoL(width=4).eval()


def test_overlap_counts_what_is_lit_in_both():
    a, b = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    a[:, :2], b[:, :, :2] = 1.0, 1.0
    assert chapter.overlap(a, b) == pytest.approx(4 / 12)
    assert chapter.overlap(a, a) == 1.0 and chapter.overlap(a, 1 - a) == 0.0
    assert chapter.overlap(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)) == 0.0


def test_the_fused_map_is_seen_as_the_model_localises(model, creatures):
    seen = chapter.see_branches(model, creatures)
    images = torch.stack([sample["image"] for sample in creatures])
    labels = torch.stack([sample["labels"] for sample in creatures])
    with torch.no_grad():
        fused = model.localize(images, labels).sum(dim=1)
    torch.testing.assert_close(seen["fused"].maps, resize_maps(fused[:, None], (48, 48), model.grid)[:, 0])
    assert seen["fused"].labels.tolist() == labels.argmax(dim=1).tolist()


def test_the_predicted_label_chooses_other_maps_only_where_it_is_wrong(model, creatures):
    true, predicted = (chapter.see_branches(model, creatures, labels)["A"] for labels in ("ground truth", "predicted"))
    right = predicted.logits.argmax(dim=1) == true.labels
    same = [torch.equal(one, other) for one, other in zip(true.maps, predicted.maps, strict=True)]
    assert [bool(value) for value in right] == same


def test_convolution_first_or_mean_first_agree(creatures):
    torch.manual_seed(0)
    single = SingleClassifier(width=4)
    for layer in single.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias)
    errors = chapter.conv_map_errors(single, torch.stack([sample["image"] for sample in creatures]))
    assert errors["float32"] < 1e-5 and errors["float64"] < 1e-12


def test_a_classifier_that_reads_only_the_hole_is_found_out(creatures):
    """B is made blind to everything but where the hole is; A lights up another place for each class."""
    model = HoleReader(classes=8)
    image, hole = chapter.answers_of_b(model, creatures, "another class")
    assert (image, hole) == (0.0, 1.0)
    assert chapter.answers_of_b(model, creatures, "true class") == (1.0, 1.0)


class HoleReader(ACoL):
    """Features are ones of 1 by 8 cells; A lights cell c for class c, and B names the cell that is missing."""

    erase_threshold, erasing, slope = 0.5, "strict", 20.0

    def __init__(self, classes):
        nn.Module.__init__(self)
        self.classes, self.weight = classes, nn.Parameter(torch.zeros(1))

    def backbone(self, images):
        return torch.ones(len(images), 1, 1, self.classes)

    def classifier_a(self, features):
        return torch.eye(self.classes)[None, :, None, :].expand(len(features), -1, -1, -1)

    def classifier_b(self, features):
        return (1 - features[:, 0, 0])[:, :, None, None]


# Values that follow by hand, from pictures that say what a network will see -------------------------------------------

SIZE = 16
SUMMIT, TOWER = (4, 4, 7, 7), (2, 2, 14, 14)  # boxes of a high square, and of the low one around it


class Pictures(Dataset):
    """Images whose first two channels are the maps of two classes; the third holds what the `Reader`s read."""

    name, split, licence, version = "pictures", "val", "none", "1"
    classes, task, image_size, part_names = ("one", "two"), "single", SIZE, ("head", "body", "tail")

    def __init__(self, *pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        image, label, (x0, y0, x1, y1) = self.pictures[index]
        mask = torch.zeros(SIZE, SIZE, dtype=torch.int64)
        mask[y0:y1, x0:x1] = label + 1
        return {
            "id": str(index),
            "image": image,
            "labels": torch.eye(2)[label],
            "boxes": torch.tensor([[x0, y0, x1, y1]]).float(),
            "box_labels": torch.tensor([label]),
            "mask": mask,
            "parts": (mask > 0) * (1 + torch.arange(SIZE) % 3),
        }


class Painted(ACoL):
    """A's maps are painted in the image; B's are the same, but for what is erased."""

    grid, erasing, slope = Grid(1, 0.5), "strict", 20.0

    def __init__(self, erase_threshold=1.1):
        nn.Module.__init__(self)
        self.erase_threshold, self.weight = erase_threshold, nn.Parameter(torch.zeros(1))

    def backbone(self, images):
        return images

    def classifier_a(self, features):
        return features[:, :2]

    classifier_b = classifier_a


class Reader(nn.Module):
    """Names the class that is written in one row of the third channel."""

    def __init__(self, row):
        super().__init__()
        self.row, self.weight = row, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images[:, 2, self.row, :2]


def tower(seen, label, box, named=(0, 0)):
    """A low square with a high one on it, painted for the class that is seen; elsewhere a small one for the other."""
    image = torch.zeros(3, SIZE, SIZE)
    image[seen, 2:14, 2:14], image[seen, 4:7, 4:7], image[1 - seen, 10:12, 10:12] = 0.3, 1.0, 0.5
    image[2, range(2), named] = 1.0
    return image, label, box


def marked(*arguments):
    """One bright pixel of the other class in a corner, which most of the ten crops leave out."""
    image, label, box = tower(*arguments)
    image[1 - label, -1, -1] = 60.0
    return image, label, box


def test_classes_come_from_who_names_best_on_val_and_boxes_from_the_threshold_of_val():
    val = Pictures(
        tower(0, 0, SUMMIT, (0, 1)), tower(1, 1, SUMMIT, (0, 0))
    )  # the first reader names one, the other none
    test = Pictures(
        tower(0, 0, SUMMIT, (1, 0)),
        tower(1, 0, SUMMIT, (0, 0)),  # the network sees another class: its own map is right, the label's is not
        tower(0, 1, SUMMIT, (0, 1)),
        marked(0, 0, SUMMIT, (0, 0)),
        *(tower(c, c, TOWER, (named, c)) for c, named in ((0, 0), (1, 1), (0, 1), (1, 0))),  # right below 0.3 alone
    )
    models = {"ACoL": Painted(), "best on val": Reader(0), "best on test": Reader(1)}
    found = {metric: {} for metric in (CHOSEN, TOP1, chapter.ACCURACY)}
    chapter._score_labels(found, models, val, test)
    assert found == {
        CHOSEN: {"ACoL, predicted label": 3 / 8},
        TOP1: {"ACoL, classes by the best other network": 1 / 8, "ACoL, classes by ten crops": 2 / 8},
        chapter.ACCURACY: {"ACoL, classes by the best other network": 4 / 8, "ACoL, classes by ten crops": 6 / 8},
    }


def test_the_share_of_each_part_is_of_the_stretched_map():
    """From -10 to -1, 20 % lies at -8.2."""
    parts = torch.tensor([[[0, 1, 1, 2, 2, 2, 3, 3]]])
    maps = torch.tensor([[[-10.0, -2.0, -3.0, -8.5, -1.5, -9.9, -9.0, -1.0]]])
    seen = Seen(maps, torch.zeros(1, 2), torch.tensor([0]), [], parts > 0, parts)
    found = {COVERAGE: {"another": 0.5}}
    chapter._score_parts(found, "B", seen, Pictures())
    assert found[COVERAGE] == pytest.approx({"another": 0.5, "B, head": 1.0, "B, body": 1 / 3, "B, limbs": 1 / 2})


def two_squares(width, label=0):
    """Two squares that A lights up, the brighter of which is erased; the dimmer one has ``4 * width`` pixels."""
    image = torch.zeros(3, SIZE, SIZE)
    image[0, 4:8, 2:6], image[0, 4:8, 8 : 8 + width] = 1.0, 0.8
    return image, label, (2, 4, 8 + width, 8)


def test_a_network_that_never_saw_a_hole_gets_one_at_test():
    data = {"val": Pictures(two_squares(4), two_squares(4, label=1)), "test": Pictures(two_squares(6))}
    models = {"ACoL": Painted(0.9), "one classifier": SingleClassifier(num_classes=2, width=4)}
    models["nothing erased"] = Painted()
    found = chapter.measure_creatures(models, data)
    late = "nothing erased in training, erased at test"
    assert found[chapter.COMPLEMENT] == pytest.approx(
        {"ACoL": 4 / 10, "nothing erased": 0.0, late: 4 / 10}
    )  # 16 of 16 + 24 pixels
    assert found[COVERAGE]["ACoL, A, head"] == 3 / 4, "columns 3, 9 and 12 of 3, 6, 9 and 12"
    assert found[chapter.ACCURACY]["ACoL, classes by ten crops"] == 1.0, "on val one of two has another label"
    assert models["nothing erased"].erase_threshold == 1.1, "the network itself must stay as it was"


class Moved(nn.Module):
    """Sees the painted maps at another place, and names by their sums, with a bias for the second class."""

    grid = Grid(1, 0.5)

    def __init__(self, columns=0, bias=0.0):
        super().__init__()
        self.columns, self.bias, self.weight = columns, bias, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images[:, :2].sum(dim=(2, 3)) + torch.tensor([0.0, self.bias])

    def localize(self, images, labels):
        return images[:, :2].roll(self.columns, -1) * labels[:, :, None, None]


def test_the_gain_is_that_of_acol_over_one_classifier_on_test():
    val = Pictures(tower(0, 0, SUMMIT), *[tower(1, 1, (12, 12, 16, 16))] * 2)  # of which the first alone can be right
    test = Pictures(tower(0, 0, SUMMIT), tower(1, 1, SUMMIT))
    pairs = zip(DOSES, ((Moved(), Moved(8)), (Moved(8, 99.0), Moved()), (Moved(), Moved())), strict=True)
    models = {
        f"{name}, {dose}": network
        for dose, pair in pairs
        for name, network in zip(("ACoL", "one classifier"), pair, strict=True)
    }
    found = chapter.measure_dose(
        models, {f"{split}, {dose}": data for dose in DOSES for split, data in (("val", val), ("test", test))}
    )
    gains = {
        metric: [found[metric][f"ACoL minus one classifier, {dose}{suffix}"] for dose in DOSES]
        for metric, suffix in ((CHOSEN, ", min-max"), (PXAP, ", min-max"), (chapter.ACCURACY, ""))
    }
    assert gains[CHOSEN] == [1.0, -1.0, 0.0] and gains[chapter.ACCURACY] == [0.0, -0.5, 0.0]
    behind = found[PXAP]["one classifier, concentration 0, min-max"]
    assert behind < 0.1 and gains[PXAP] == pytest.approx([1 - behind, behind - 1, 0.0])
