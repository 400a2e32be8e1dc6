"""Label-free figures against their formulas written out, and the rule that calls a run collapsed."""
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ssl import curves
from ssl.health import Health, alignment, feature_std, rankme, uniformity


def normalised(rows):
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows]


def test_alignment_and_uniformity_are_wang_and_isolas_formulas():
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    x, y = normalised(a.double().tolist()), normalised(b.double().tolist())

    def distance(p, q):
        return sum((i - j) ** 2 for i, j in zip(p, q, strict=True))

    pairs = [math.exp(-2 * distance(x[i], x[j])) for i in range(6) for j in range(i)]
    assert alignment(a, b) == pytest.approx(sum(map(distance, x, y)) / 6, rel=1e-5)  # float32
    assert uniformity(a) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)


def test_rankme_counts_the_dimensions_in_use():
    q, _ = torch.linalg.qr(torch.randn(400, 64) - torch.randn(400, 64).mean(0))
    q = q - q.mean(0)
    assert rankme(q) == pytest.approx(64, rel=0.02)  # centring takes up to one direction away
    assert rankme(q[:, :8] @ torch.randn(8, 64)) < 8.01
    assert rankme(torch.randn(400, 1) * torch.randn(1, 64)) == pytest.approx(1, abs=1e-3)


def test_feature_std_is_one_on_the_sphere_and_zero_at_a_point():
    assert feature_std(torch.randn(4000, 32)) == pytest.approx(1, abs=0.02)  # 4000 draws: 1/√8000 = 1 %
    assert feature_std(torch.ones(100, 32) + 1e-4 * torch.randn(100, 32)) < 1e-3


@pytest.mark.parametrize(
    ("std", "rank", "images", "untrained", "verdict"),
    [
        (0.01, 30.0, 100, 0.5, True),  # a point
        (0.50, 1.2, 100, 0.5, True),  # a line
        (0.17, 19.0, 100, 0.5, False),  # the lowest a healthy run was seen at
        (0.01, 3.0, 100, 0.01, False),  # images that hardly differ, as before training
        (0.01, 1.0, 4, 0.5, False),  # too few images to tell
    ],
)
def test_the_rule_of_collapse(std, rank, images, untrained, verdict):
    health = SimpleNamespace(
        watched=range(images), predicts_pixels=False, began="untrained",
        baselines=SimpleNamespace(untrained={"feature_std": untrained, "rankme": 10.0}),
    )
    assert bool(Health.feature_kinds(health, {"feature_std": std, "rankme": rank})) is verdict


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({"feature_std": 0.01, "rankme": 3.0}, False),  # what is common to all images is no collapse
        ({"feature_std": 0.01, "rankme": 1.5}, True),
        ({"feature_std": 0.01, "rankme": 1.5, "prediction_spread": 0.001}, True),
        ({"feature_std": 0.01, "rankme": 1.5, "prediction_spread": 0.3}, False),  # predictions differ between images
        ({"feature_std": 0.01, "rankme": 1.5, "knn": 60.0}, False),  # labels say that it helped
        ({"feature_std": 0.01, "rankme": 1.5, "knn": 40.0}, True),
        ({"feature_std": 0.01, "rankme": 3.0, "knn": 40.0}, False),  # which is called no better than untrained
    ],
)
def test_the_rule_of_collapse_where_pixels_are_predicted(figures, verdict):
    before = {"feature_std": 0.5, "rankme": 10.0, "knn": 50.0}
    health = SimpleNamespace(
        watched=range(100), predicts_pixels=True, began="untrained", baselines=SimpleNamespace(untrained=before)
    )
    assert bool(Health.feature_kinds(health, figures)) is verdict


BEFORE = {"feature_std": 0.5, "rankme": 48.0, "alignment_ratio": 0.7}
GOOD = {"feature_std": 0.6, "rankme": 40.0, "alignment_ratio": 0.3}


def verdict(figures: dict, before: dict = BEFORE, began: str = "untrained") -> str:
    health = SimpleNamespace(
        watched=range(129), dim=128, predicts_pixels=False, began=began, history=[(10, figures)],
        baselines=SimpleNamespace(untrained=before),
    )
    health.feature_kinds, health.describe = partial(Health.feature_kinds, health), partial(Health.describe, health)
    return Health.verdict(health)


@pytest.mark.parametrize(
    ("figures", "before", "word"),
    [
        (GOOD, BEFORE, "healthy"),
        (GOOD | {"rankme": 17.0}, BEFORE, "narrowing"),  # 48 → 17
        (GOOD | {"rankme": 24.1}, BEFORE, "healthy"),
        (GOOD | {"rankme": 5.0}, BEFORE, "narrow"),  # below 5 % of 128
        (GOOD | {"alignment_ratio": 0.6}, BEFORE, "weak"),
        (GOOD | {"rankme": 1.0}, BEFORE, "collapsed"),
        (GOOD | {"prediction_spread": 0.002}, BEFORE, "blind"),
        (GOOD | {"prediction_spread": 0.02}, BEFORE, "healthy"),
        (GOOD | {"knn": 38.6}, BEFORE | {"knn": 42.4}, "no better than untrained"),
        (GOOD | {"knn": 38.6, "rankme": 5.0}, BEFORE | {"knn": 42.4}, "no better than untrained"),
        (GOOD | {"knn": 42.4}, BEFORE | {"knn": 42.4}, "healthy"),
        (GOOD | {"knn": 80.0, "rankme": 17.0}, BEFORE | {"knn": 42.4}, "healthy"),  # labels say that it helped
    ],
)
def test_the_verdict_sees_rank_and_labels(figures, before, word):
    assert verdict(figures, before).split(":")[0].split(" (")[0] == word


def test_the_verdict_gives_the_figures_that_it_follows_from():
    text = verdict(GOOD | {"knn": 38.6, "rankme": 17.0}, BEFORE | {"knn": 42.4})
    assert "kNN 38.6 % of 129 validation images, untrained 42.4 %" in text
    assert "the effective rank fell to less than half" in text
    assert "effective rank 17 (48)" in text
    text = verdict(GOOD | {"knn": 38.6}, BEFORE | {"knn": 42.4}, began="before training")
    assert text.startswith("no better than before training")
    assert "untrained" not in text


@pytest.mark.parametrize("labelled", [True, False])
def test_every_panel_of_the_curves_has_lines_and_every_axis_a_name(labelled):
    """`curves.picture` before it becomes a PNG."""
    figures = GOOD | {"alignment": 0.2, "uniformity": -2.5} | ({"knn": 80.0, "five_labels": 60.0} if labelled else {})
    baselines = SimpleNamespace(untrained=figures, pixels={"knn": 70.0, "five_labels": 50.0})
    health = SimpleNamespace(history=[(5, figures), (10, figures)], baselines=baselines, began="untrained")
    rows = [{"step": step, "loss": 1.0, "lr": 0.1} for step in range(1, 11)]
    figure = curves.picture.__wrapped__(rows, health)
    assert len(figure.axes) == (5 if labelled else 6), "three panels, and a second scale for each that needs one"
    for axis in figure.axes:
        assert axis.lines, axis.get_title()
        assert axis.get_ylabel()
        assert all(len(line.get_xdata()) > 1 for line in axis.lines)
    drawn = {tuple(line.get_ydata()) for axis in figure.axes for line in axis.lines}
    assert ((-2.5, -2.5, -2.5) in drawn) is not labelled, "alignment and uniformity, where there is no accuracy to draw"
