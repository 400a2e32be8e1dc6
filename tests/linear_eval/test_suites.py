"""`--suite linear12` on small copies: each data set by its metric, what is absent by name; VOC 2007's average precision."""
import json
import re

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve

from core import cli
from linear_eval.average_precision import eleven_point_map
from linear_eval.evaluate import TOOL, check, evaluate, jobs
from linear_eval.suites import named_suites, read_suite
from tests.vision.test_transfer_sets import draw, lines

WORDS = ["encoder=test_resnet", "image_size=16", "parts=[knn]", "picture=false", "cache=none", "suite=linear12"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two of the twelve: Food-101 and the pets, whose second class is rarer in test."""
    root = tmp_path_factory.mktemp("published")
    for split, count in (("train", 12), ("test", 6)):
        content = {kind: [f"{kind}/{split}{i}" for i in range(count)] for kind in ("pizza", "apple_pie")}
        lines(root / f"food-101/meta/{split}.json", json.dumps(content))
        for name in (name for names in content.values() for name in names):
            draw(root / "food-101/images" / f"{name}.jpg")
    for split, count, every in (("trainval", 24, 2), ("test", 12, 4)):
        names = [f"{('great_dane', 'Sphynx')[i % every == 1]}_{split}{i}" for i in range(count)]
        lines(root / f"oxford-iiit-pet/annotations/{split}.txt", *(f"{n} {1 + ('Sphynx' in n)} 1 1" for n in names))
        for name in names:
            draw(root / "oxford-iiit-pet/images" / f"{name}.jpg")
    return root


def test_each_set_by_its_metric_and_the_absent_by_name(root, tmp_path):
    settings = cli.compose(TOOL, [*WORDS, f"data.root={root}", f"out={tmp_path / 'run'}"])
    check(settings)
    result = evaluate(settings)
    food, pets = result.evaluations.values()
    text = (result.suite / "suite.md").read_text()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()
             if line.startswith("|")}
    knn = {one.data.name: next(row for row in one.rows if row.is_encoders and row.method == "knn") for one in (food, pets)}
    assert cells["food101"][:2] == ["top-1", f"{knn['food101'].accuracy:.1f}"]
    assert cells["pets"][:2] == ["mean per class", f"{knn['pets'].balanced_accuracy:.1f}"]
    mean = (knn["food101"].accuracy + knn["pets"].balanced_accuracy) / 2
    assert cells["mean of 2"][1] == f"{mean:.1f}"
    assert "2 of 12 data sets" in text
    assert re.search(r"- birdsnap: torchvision has no loader", text)
    assert re.search(r"- dtd: .*dtd is not there", text)
    assert len(json.loads((result.suite / "suite.json").read_text())) == 2


def test_mean_per_class_is_scikit_learns():
    from linear_eval.metrics import figures

    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 3)), rng.choice(3, 50, p=[0.8, 0.15, 0.05])
    assert figures(scores, labels, True)["balanced_accuracy"] == 100 * balanced_accuracy_score(labels, scores.argmax(1))


def test_settings_of_a_set(root):
    made = jobs(cli.compose(TOOL, [*WORDS, f"data.root={root}"]))
    assert [(one.data.name, one.data["set"], one.data["root"]) for one in made] == [
        ("torchvision", "food101", str(root)), ("torchvision", "pets", str(root))]
    vtab = read_suite("vtab1k")
    assert {one.changes["subset"] for one in vtab.sets} == {"800+200"}
    [few] = jobs(cli.compose(TOOL, [*WORDS[:-1], "suite=vtab1k", f"data.root={root}"]))
    assert (few.data["set"], few.data["validation"], few.subset) == ("pets", 0, "800+200")
    assert [one.data.name for one in jobs(cli.compose(TOOL, [*WORDS[:-1], "suite='cifar10,stl10'"]))] == ["cifar10", "stl10"]


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"suite=linear13: there is no linear13; .*, and the suites linear12, vtab1k"):
        check(cli.compose(TOOL, [*WORDS[:-1], "suite=linear13"]))
    with pytest.raises(ValueError, match=r"suite=linear12: none of its data sets is there \(.*food-101 is not there, …\)"):
        jobs(cli.compose(TOOL, [*WORDS, f"data.root={tmp_path}"]))
    assert named_suites() == ["linear12", "vtab1k"]


def test_eleven_points_of_a_hand_counted_class():
    """Ranks 1, 3 and 6 are right: precision 1, 2/3, 1/2 at recalls 1/3, 2/3, 1. Four recalls have 1, three 2/3, four 1/2."""
    scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.5], [0.4]])
    labels = np.array([[1], [0], [1], [0], [0], [1]])
    assert eleven_point_map(labels, scores) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 / 2) / 11)
    assert eleven_point_map(np.hstack([labels, 0 * labels]), np.hstack([scores, scores])) == eleven_point_map(labels, scores)
    assert np.isnan(eleven_point_map(0 * labels, scores))


def test_eleven_points_from_scikit_learns_curve():
    rng = np.random.default_rng(1)
    labels, scores = (rng.random((80, 4)) < 0.2).astype(int), rng.integers(0, 9, (80, 4)) / 9  # with equal scores
    expected = []
    for k in range(4):
        precision, recall, _ = precision_recall_curve(labels[:, k], scores[:, k])
        expected.append(np.mean([precision[:-1][recall[:-1] >= at - 1e-9].max() for at in np.arange(11) / 10]))
    assert eleven_point_map(labels, scores) == pytest.approx(np.mean(expected))
