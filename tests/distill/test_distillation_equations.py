"""Methods' objectives equal their papers' equations, written as loops in float64; students are narrower than the teacher."""
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from distill.method import Student, Targets
from distill.method.crd import CRD, MemoryTargets
from distill.method.dino import DINO
from distill.method.fitnet import FitNet
from distill.method.regression import Regression
from distill.method.seed import SEED
from distill.method.simkd import SimKD
from vision import encoders

B, V, D, E = 5, 2, 3, 7  # images, views, the student's width, the teacher's
CLOSE = dict(rtol=1e-9, atol=1e-11)  # float64's rounding, a thousand times over


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def networks() -> dict:
    student = nn.Identity()
    student.dim = D
    teacher = SimpleNamespace(name="t", dim=E, classes=("a", "b", "c"), head=nn.Linear(E, 3))
    return {"encoder": student, "teacher": teacher, "classes": 3}


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a: list[float]) -> list[float]:
    size = math.sqrt(dot(a, a))
    return [x / size for x in a]


def less(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def softmax(z: list[float], temperature: float) -> list[float]:
    e = [math.exp(v / temperature) for v in z]
    return [v / sum(e) for v in e]


def cross_entropy(p: list[float], q: list[float]) -> float:
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def linear(layer: nn.Linear, x: list[float]) -> list[float]:
    return [dot(row, x) + bias for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]


def same(found: Tensor, expected) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **CLOSE)


FEATURES, TOLD = normal(B, V, D, seed=1), normal(B, V, E, seed=2)
IMAGES = [(i, v) for i in range(B) for v in range(V)]


def test_seed_over_two_steps():
    """Eqs. 3–6: softmax over the queue and the image's own teacher embedding, the queue's mean taken off the teacher's."""
    method = SEED(**networks(), hidden=0, queue_size=11, temperature=0.4, teachers_temperature=0.3).double()
    for features, told in ((FEATURES, TOLD), (normal(B, V, D, seed=3), normal(B, V, E, seed=4))):
        queue, value = method.queue.rows.tolist(), 0.0
        middle = mean(queue)
        for i, v in IMAGES:
            student = unit(linear(method.projector, features[i, v].tolist()))
            teacher = unit(less(unit(told[i, v].tolist()), middle))
            anchors = [teacher, *(unit(less(row, middle)) for row in queue)]
            p = softmax([dot(teacher, a) for a in anchors], 0.3)
            q = softmax([dot(student, a) for a in anchors], 0.4)
            value += cross_entropy(p, q) / B / V
        output = method.objective(features, Targets(told), 0.0)
        same(output.loss, value)
        method.after_step(output.staged, 0.0)
        newest = [unit(told[i, v].tolist()) for v in range(V) for i in range(B)]  # 10 of 11
        assert sum(any(math.dist(row, new) < 1e-12 for row in method.queue.rows.tolist()) for new in newest) == B * V


def test_dino_over_two_steps():
    """−Σ softmax((g_T − c) / τ_T) log softmax(g_S / τ_S) across views; c ← m c + (1 − m) mean g_T, its features' mean too."""
    K, m = 6, 0.8
    method = DINO(**networks(), hidden=4, prototypes=K, temperature=0.5, teachers_temperature=0.2, center_momentum=m)
    method.projector = nn.Linear(D, K)
    method.double()
    centre, shift = [0.0] * K, [0.0] * E
    for features, told in ((FEATURES, TOLD), (normal(B, V, D, seed=3), normal(B, V, E, seed=4))):
        units = [[unit(told[i, v].tolist()) for v in range(V)] for i in range(B)]
        scores = [[[dot(p, unit(less(t, shift))) for p in method.prototypes.tolist()] for t in row] for row in units]
        value = 0.0
        for i in range(B):
            for a, b in ((0, 1), (1, 0)):  # what the teacher sees, what the student sees
                p = softmax(less(scores[i][a], centre), 0.2)
                q = softmax(linear(method.projector, features[i, b].tolist()), 0.5)
                value += cross_entropy(p, q) / B / 2
        output = method.objective(features, Targets(told), 0.0)
        same(output.loss, value)
        method.after_step(output.staged, 0.0)
        centre = [m * c + (1 - m) * g for c, g in zip(centre, mean([s for row in scores for s in row]), strict=True)]
        shift = [m * c + (1 - m) * g for c, g in zip(shift, mean([t for row in units for t in row]), strict=True)]
        same(method.center, centre)
        same(method.shift, shift)


def test_simkd():
    """The squared error of projected features, a mean over numbers (§3.2)."""
    method = SimKD(**networks()).double()
    value = 0.0
    for features, told in zip(FEATURES[:, 0].tolist(), TOLD[:, 0].tolist(), strict=True):
        value += sum(d * d for d in less(linear(method.projector, features), told)) / E / B
    same(method.objective(FEATURES[:, :1], Targets(TOLD[:, :1]), 0.0).loss, value)


def test_cosine_regression_is_the_squared_distance_of_unit_vectors():
    method = Regression(**networks(), loss="cosine", hidden=0, queue_size=1, temperature=1.0).double()
    value = 0.0
    for i, v in IMAGES:
        student, teacher = unit(linear(method.projector, FEATURES[i, v].tolist())), unit(TOLD[i, v].tolist())
        value += math.dist(student, teacher) ** 2 / B / V
    same(method.objective(FEATURES, Targets(TOLD), 0.0).loss, value)


def test_fitnets_hint():
    """The map before the last: ‖u(I) − r(v(I))‖² (eq. 3), r a 1×1 convolution, u averaged to v's size; a mean over numbers."""
    student = encoders.create("test_resnet", 1, 16)
    teacher = SimpleNamespace(name="t", classes=None, map_shapes=lambda count: [(E, 4, 4), (9, 2, 2)])
    method = FitNet(student, teacher, 3, ce=0.0, weight=2.5).double()
    C = method.shapes[0][0][0]
    assert C != E
    hints = normal(B, C, 2, 2, seed=5), normal(B, E, 4, 4, seed=6)
    weight, bias = method.regressor.weight[:, :, 0, 0].tolist(), method.regressor.bias.tolist()
    value = 0.0
    for ours, theirs in zip(*hints, strict=True):
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            for k in range(E):
                told = sum(float(theirs[k, 2 * y + j, 2 * x + i]) for j in (0, 1) for i in (0, 1)) / 4
                found = dot(weight[k], ours[:, y, x].tolist()) + bias[k]
                value += (found - told) ** 2 / (B * E * 4)
    last = normal(B, 9, 2, 2, seed=7), normal(B, 9, 2, 2, seed=8)  # is not compared
    maps = [tuple(network) for network in zip(hints, last, strict=True)]
    same(method.combine(Student(FEATURES[:, 0], maps=maps[0]), Targets(maps=maps[1]), 0.0).loss, 2.5 * value)


@pytest.mark.parametrize("positives", ["memory", "batch"])
def test_crd_over_two_steps(positives):
    """Eqs. 10 and 19 both ways; negatives are seen images of other classes, from memories that follow the embeddings."""
    M, N, P, tau, m = 12, 11, 4, 0.5, 0.75
    torch.manual_seed(0)
    method = CRD(**networks(), ce=0.5, weight=0.8, dim=P, negatives=N, temperature=tau, momentum=m, positives=positives)
    assert method.prepare(M, B) == []
    method.double()
    memories = {"student": method.student_memory.tolist(), "teacher": method.teacher_memory.tolist()}
    classes, constants, kinds = {}, {}, set()
    steps = [([0, 1, 2, 3, 4], [0, 1, 2, 0, 1], 10), ([3, 4, 5, 6, 7], [0, 1, 2, 2, 0], 20)]
    for step, (indices, labels, drawn) in enumerate(steps):
        features, told = normal(B, 1, D, seed=30 + step), normal(B, 1, E, seed=40 + step)
        chosen = torch.randint(M, (N,), generator=torch.Generator().manual_seed(drawn)).tolist()  # the step's one set
        embedded = {
            "student": [unit(linear(method.students, x)) for x in features[:, 0].tolist()],
            "teacher": [unit(linear(method.teachers, x)) for x in told[:, 0].tolist()],
        }
        value = 0.0
        for side, other in (("student", "teacher"), ("teacher", "student")):
            negatives = [memories[other][j] for j in chosen]
            partners = embedded[other] if positives == "batch" else [memories[other][i] for i in indices]
            if step == 0:  # Z/M: the mean of the first batch, kept; the authors' includes each anchor's positive
                more = [[p] if positives == "memory" else [] for p in partners]
                rows = zip(embedded[side], more, strict=True)
                pairs = [math.exp(dot(a, b) / tau) for a, own in rows for b in [*negatives, *own]]
                constants[side] = sum(pairs) / len(pairs)
            for i in range(B):
                kinds |= {"unseen" if j not in classes else classes[j] == labels[i] for j in chosen if step}
                rows = [n for j, n in zip(chosen, negatives, strict=True) if classes.get(j, labels[i]) != labels[i]]
                ratio = max(len(rows), 1) * constants[side]  # N Z/M
                e = math.exp(dot(embedded[side][i], partners[i]) / tau)
                value -= math.log(e / (e + ratio)) / B
                for row in rows:
                    e = math.exp(dot(embedded[side][i], row) / tau)
                    value -= math.log(1 - e / (e + ratio)) / B
        guesses = [softmax(linear(method.head, x), 1) for x in features[:, 0].tolist()]
        ce = sum(-math.log(q[y]) for q, y in zip(guesses, labels, strict=True)) / B
        more = {"indices": torch.tensor(indices), "drawn": torch.full((B,), drawn)}
        targets = MemoryTargets(told, labels=torch.tensor(labels), **more)
        output = method.objective(features, targets, 0.0)
        loss, scalars = output.loss, output.scalars
        same(scalars["distill"], 0.8 * value)
        same(loss, 0.5 * ce + 0.8 * value)
        method.after_step(output.staged, 0.0)
        for name, memory in memories.items():
            for i, new in zip(indices, embedded[name], strict=True):
                memory[i] = unit([m * old + (1 - m) * x for old, x in zip(memory[i], new, strict=True)])
        classes |= dict(zip(indices, labels, strict=True))
        same(method.student_memory, memories["student"])
        same(method.teacher_memory, memories["teacher"])
    assert kinds == {"unseen", True, False}  # negatives not seen, of the same class, of another
