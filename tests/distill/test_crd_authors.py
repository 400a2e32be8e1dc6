"""CRD against the authors' algorithm (RepDistiller, crd/criterion.py, crd/memory.py), written anew: value and gradient."""
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.identity import ORIGINAL_DEFAULTS, identity
from distill.method.crd import CRD, MemoryTargets, Staged

B, M, D, E, P, N = 5, 40, 3, 7, 4, 11  # batch, images, the networks' widths, embedding, negatives
TAU, MOMENTUM = 0.5, 0.75
INDICES = torch.tensor([3, 8, 0, 21, 17])
CLOSE = dict(rtol=1e-9, atol=1e-11)  # float64's rounding, a thousand times over


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def crd(positives: str) -> CRD:
    """All images seen, each its own class, so that every negative but the image itself counts."""
    student = nn.Identity()
    student.dim = D
    teacher = SimpleNamespace(name="t", dim=E, classes=("a",), head=None)
    torch.manual_seed(0)
    method = CRD(student, teacher, 0, ce=0.0, weight=1.0, dim=P, negatives=N, temperature=TAU, momentum=MOMENTUM,
                 positives=positives)
    method.prepare(M, B)
    method.classes_of.copy_(torch.arange(M))
    return method.double()


def draw_without_the_batch() -> tuple[int, list[int]]:
    """A draw of negatives that holds no image of the batch, as the authors' sampler gives."""
    for drawn in range(10_000):
        chosen = torch.randint(M, (N,), generator=torch.Generator().manual_seed(drawn)).tolist()
        if not set(chosen) & set(INDICES.tolist()):
            return drawn, chosen
    raise AssertionError("no such draw")


DRAWN, CHOSEN = draw_without_the_batch()


def authors(method: CRD, student: Tensor, teacher: Tensor, constants: list[float], epsilon: float) -> Tensor:
    """Each network's embedding against the other's memory: entry 0 is the image's own, the rest are negatives; Eq. 18.

    constants: Z of either side, filled in when empty. The memories carry no gradient.
    """
    total = torch.zeros((), dtype=torch.float64)
    sides = (method.students, student, method.teacher_memory), (method.teachers, teacher, method.student_memory)
    for number, (layer, features, memory) in enumerate(sides):
        rows = []
        for features_of_one, own in zip(features, INDICES.tolist(), strict=True):
            z = layer.weight @ features_of_one + layer.bias
            z = z / z.pow(2).sum().sqrt()
            rows.append(torch.stack([(memory[j].detach() @ z / TAU).exp() for j in [own, *CHOSEN]]))
        scores = torch.stack(rows)  # B,1+N
        if len(constants) <= number:
            constants.append(scores.mean().item() * M)
        p, noise = scores / constants[number], N / M
        for row in p:
            total = total - (row[0] / (row[0] + noise + epsilon)).log() / B
            for value in row[1:]:
                total = total - (noise / (value + noise + epsilon)).log() / B
    return total


def targets(teacher: Tensor) -> MemoryTargets:
    return MemoryTargets(teacher[:, None], labels=INDICES, indices=INDICES, drawn=torch.full((B,), DRAWN))


def found_and_expected(method: CRD, step: int, constants: list[float], epsilon: float = 0.0) -> tuple[list, list, Staged]:
    """Value, then gradients of the student's features, the student's embedding layer and the teacher's; what ours stages."""
    results = []
    for which in ("ours", "authors"):
        student, teacher = normal(B, D, seed=step).requires_grad_(), normal(B, E, seed=10 + step)
        method.zero_grad()
        if which == "ours":
            output = method.objective(student[:, None], targets(teacher), 0.0)
            loss, staged = output.loss, output.staged
        else:
            loss = authors(method, student, teacher, constants, epsilon)
        loss.backward()
        layers = method.students.weight.grad.clone(), method.teachers.weight.grad.clone()
        results.append([loss.detach(), student.grad, *layers])
    return results[0], results[1], staged


def test_value_and_gradients_are_the_authors():
    method, constants = crd("memory"), []
    for step in range(3):  # from the second on, memories and the constant of the first are at work
        ours, theirs, staged = found_and_expected(method, step, constants)
        for found, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, expected, **CLOSE)
        method.after_step(staged, 0.0)
        torch.testing.assert_close(method.log_constants.exp() * M, torch.tensor(constants, dtype=torch.float64), **CLOSE)


def test_the_authors_epsilon_makes_no_difference():
    """Their 1e-7 beside N/M in the denominators moves each of the 2 (N + 1) logarithms by at most 1e-7 M/N."""
    (found, *_), (expected, *_), _ = found_and_expected(crd("memory"), 0, [], epsilon=1e-7)
    assert 0 < abs(float(found - expected)) <= 2 * (N + 1) * 1e-7 * M / N


def test_positives_of_the_batch_have_the_same_value_where_the_memory_agrees_but_another_gradient():
    gradients, values = [], []
    for positives in ("memory", "batch"):
        method = crd(positives)
        method.log_constants.fill_(0.3)
        student, teacher = normal(B, D, seed=1).requires_grad_(), normal(B, E, seed=11)
        with torch.no_grad():
            method.student_memory[INDICES] = F.normalize(method.students(student), dim=1)
            method.teacher_memory[INDICES] = F.normalize(method.teachers(teacher), dim=1)
        loss = method.objective(student[:, None], targets(teacher), 0.0).loss
        loss.backward()
        values.append(loss.detach())
        gradients.append(student.grad)
    torch.testing.assert_close(*values, **CLOSE)
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()


def test_a_run_from_before_the_setting_is_one_with_positives_of_the_batch():
    """It wrote no method.positives; the new default is another run, and the earlier gradient can be resumed."""
    before = {"method": {"weight": 0.8}}
    assert ORIGINAL_DEFAULTS["method.positives"] == "batch"
    assert identity({"method": {"weight": 0.8, "positives": "batch"}}) == identity(before)
    assert identity({"method": {"weight": 0.8, "positives": "memory"}}) != identity(before)


def test_unknown_positives_are_refused():
    with pytest.raises(ValueError, match=r"method\.positives=queue: must be memory or batch"):
        crd("queue")
