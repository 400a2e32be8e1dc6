"""Label-free figures against their formulas written out, and the rule that calls a run collapsed."""
import math
from types import SimpleNamespace

import pytest
import torch

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
        watched=range(images), baselines=SimpleNamespace(untrained={"feature_std": untrained, "rankme": 10.0})
    )
    assert Health.collapsed(health, {"feature_std": std, "rankme": rank}) is verdict
