"""Each loss equals its paper's equation, written as loops in float64."""
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill import losses

B, K, D, E = 6, 5, 4, 7
CLOSE = dict(rtol=1e-9, atol=1e-11)  # float64's rounding, a thousand times over


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


S, T = normal(B, K, seed=1), normal(B, K, seed=2)
LABELS = torch.tensor([0, 1, 4, 2, 2, 3])


def softmax(z: list[float], temperature: float) -> list[float]:
    e = [math.exp(v / temperature) for v in z]
    return [v / sum(e) for v in e]


def same(found: Tensor, expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd(temperature):
    value = 0.0
    for s, t in zip(S.tolist(), T.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        value += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / B
    same(losses.kd(S, T, temperature), temperature**2 * value)


@pytest.mark.parametrize("unbiased", [True, False])
def test_standardised(unbiased):
    for row, found in zip(S.tolist(), losses.standardised(S, unbiased).tolist(), strict=True):
        mean = sum(row) / K
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / (K - unbiased))
        assert found == pytest.approx([(v - mean) / deviation for v in row], rel=1e-6)  # ε = 1e-7 beside a deviation of about 2


def test_dkd_and_its_decomposition_of_kd():
    temperature, alpha, beta, value, kd = 2.0, 1.5, 3.0, 0.0, 0.0
    for s, t, y in zip(S.tolist(), T.tolist(), LABELS.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        tckd = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        nckd = sum(p[k] / (1 - p[y]) * math.log(p[k] / (1 - p[y]) / (q[k] / (1 - q[y]))) for k in range(K) if k != y)
        value += (alpha * tckd + beta * nckd) / B
        kd += (tckd + (1 - p[y]) * nckd) / B  # eq. 5: what KD is
    same(losses.dkd(S, T, LABELS, alpha, beta, temperature), temperature**2 * value)
    same(losses.kd(S, T, temperature), temperature**2 * kd)


def pearson(a: list[float], b: list[float]) -> float:
    am, bm = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - am) * (y - bm) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(sum((x - am) ** 2 for x in a) * sum((y - bm) ** 2 for y in b))


def test_dist():
    temperature, beta, gamma = 4.0, 1.0, 2.0
    q, p = ([softmax(z, temperature) for z in x.tolist()] for x in (S, T))
    between = sum(1 - pearson(a, b) for a, b in zip(q, p, strict=True)) / B
    within = sum(1 - pearson([r[k] for r in q], [r[k] for r in p]) for k in range(K)) / K
    same(losses.dist(S, T, beta, gamma, temperature), temperature**2 * (beta * between + gamma * within))


def test_attention_of_maps_of_two_sizes():
    student, teacher = normal(2, 3, 2, 2, seed=3), normal(2, 5, 4, 4, seed=4)
    value = 0.0
    for s, t in zip(student, teacher, strict=True):
        small = torch.stack([torch.stack([t[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for j in (0, 1)], 1)
                             for i in (0, 1)], 1)  # C,2,2
        places = [(i, j) for i in (0, 1) for j in (0, 1)]
        a, b = ([sum(float(m[c, i, j]) ** 2 for c in range(len(m))) / len(m) for i, j in places] for m in (s, small))
        na, nb = (math.sqrt(sum(v * v for v in x)) for x in (a, b))
        value += sum((x / na - y / nb) ** 2 for x, y in zip(a, b, strict=True)) / 4 / 2
    same(losses.attention(student, teacher), value)


FEATURES, TEACHER = normal(B, D, seed=5), normal(B, E, seed=6)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_similarity_preserving():
    def rows(x: Tensor) -> list[list[float]]:
        g = [[dot(a, b) for b in x] for a in x]
        return [[v / math.sqrt(sum(w * w for w in r)) for v in r] for r in g]

    a, b = rows(FEATURES), rows(TEACHER)
    expected = sum((a[i][j] - b[i][j]) ** 2 for i in range(B) for j in range(B)) / B**2
    same(losses.similarity_preserving(FEATURES, TEACHER), expected)


def test_probabilistic_transfer():
    def shares(x: Tensor) -> list[list[float]]:
        k = [[(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) + 1) / 2 for b in x] for a in x]
        return [[v / sum(r) for v in r] for r in k]

    q, p = shares(FEATURES), shares(TEACHER)
    value = sum(p[i][j] * math.log((p[i][j] + 1e-7) / (q[i][j] + 1e-7)) for i in range(B) for j in range(B)) / B**2
    torch.testing.assert_close(losses.probabilistic_transfer(FEATURES, TEACHER).item(), value, rtol=1e-5, atol=1e-7)  # ε's 1e-7


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def test_relational_distance():
    def psi(x: Tensor) -> list[list[float]]:
        d = [[math.dist(a.tolist(), b.tolist()) for b in x] for a in x]
        mean = sum(v for r in d for v in r) / (B * (B - 1))
        return [[v / mean for v in r] for r in d]

    a, b = psi(FEATURES), psi(TEACHER)
    expected = sum(huber(a[i][j] - b[i][j]) for i in range(B) for j in range(B)) / B**2
    same(losses.relational_distance(FEATURES, TEACHER), expected)


def test_relational_angle():
    def cosine(x: Tensor, i: int, j: int, k: int) -> float:
        a, b = x[j] - x[i], x[k] - x[i]
        size = math.sqrt(dot(a, a) * dot(b, b))
        return dot(a, b) / size if size else 0.0

    triplets = [(i, j, k) for i in range(B) for j in range(B) for k in range(B)]
    expected = sum(huber(cosine(FEATURES, *t) - cosine(TEACHER, *t)) for t in triplets) / B**3
    same(losses.relational_angle(FEATURES, TEACHER), expected)


def test_similarity_kl():
    s, t = F.normalize(FEATURES, dim=1), F.normalize(TEACHER, dim=1)
    anchors, theirs = F.normalize(normal(9, D, seed=7), dim=1), F.normalize(normal(9, E, seed=8), dim=1)
    value = 0.0
    for i in range(B):
        p = softmax([dot(t[i], a) for a in theirs], 0.3)
        q = softmax([dot(s[i], a) for a in anchors], 0.5)
        value -= sum(a * math.log(b) for a, b in zip(p, q, strict=True)) / B
    same(losses.similarity_kl(s, t, anchors, theirs, 0.5, 0.3), value)


def test_contrastive():
    a, p, n = (F.normalize(normal(r, D, seed=s), dim=1) for r, s in ((B, 9), (B, 10), (8, 11)))
    allowed = normal(B, 8, seed=12) > -1
    temperature, constant, value = 0.5, 1.7, 0.0  # Z/M
    for i in range(B):
        ratio = int(allowed[i].sum()) * constant
        e = math.exp(dot(a[i], p[i]) / temperature)
        value -= math.log(e / (e + ratio)) / B
        for j in range(8):
            if allowed[i, j]:
                e = math.exp(dot(a[i], n[j]) / temperature)
                value -= math.log(1 - e / (e + ratio)) / B
    same(losses.contrastive(a, p, n, allowed, temperature, torch.tensor(constant, dtype=torch.float64).log()), value)


@pytest.mark.parametrize("loss", [
    losses.attention, losses.similarity_preserving, losses.probabilistic_transfer, losses.relational_distance,
    losses.relational_angle,
])
def test_a_student_that_is_its_teacher_has_no_loss(loss):
    x = normal(B, 3, 2, 2, seed=13) if loss is losses.attention else FEATURES
    assert abs(float(loss(x, x.clone()))) < 1e-12
    assert float(loss(x, normal(*x.shape, seed=14))) > 1e-6
