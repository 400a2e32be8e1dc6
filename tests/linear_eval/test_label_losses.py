"""Classification losses: torch's, scikit-learn's weights, and the papers' equations as loops."""
import math

import numpy as np
import pytest
import torch
from processes import on
from torch.nn import functional as F

from core.processes import local_rows, mean
from linear_eval.losses import class_weights, classification_loss

K, B = 5, 12
LOGITS = torch.randn(B, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.randint(K, (B,), generator=torch.Generator().manual_seed(1))
ONE_HOT = F.one_hot(LABELS, K).double()
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_without_focus_it_is_torchs(smoothing, weights):
    expected = F.cross_entropy(LOGITS.float(), LABELS, None if weights is None else weights.float(), label_smoothing=smoothing)
    ours = classification_loss(LOGITS, ONE_HOT, smoothing, weights)
    torch.testing.assert_close(ours.float(), expected, rtol=1e-5, atol=1e-6)  # the logits are rounded to float32


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_its_equation(gamma):
    """Lin et al., eq. 5 with α = w: −αₜ (1 − pₜ)^γ log pₜ, divided by Σ αₜ."""
    loss, size = 0.0, 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        loss -= WEIGHTS[label].item() * (1 - p) ** gamma * math.log(p)
        size += WEIGHTS[label].item()
    assert classification_loss(LOGITS, ONE_HOT, 0.0, WEIGHTS, gamma).item() == pytest.approx(loss / size, rel=1e-5)


def test_soft_labels_are_torchs():
    soft = torch.rand(B, K, dtype=torch.float64).softmax(1)
    expected = F.cross_entropy(LOGITS.float(), soft.float(), label_smoothing=0.1)
    torch.testing.assert_close(classification_loss(LOGITS, soft, 0.1).float(), expected, rtol=1e-5, atol=1e-6)


def test_certain_answers_have_finite_gradients():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    classification_loss(logits, torch.eye(2), gamma=0.5).backward()
    assert logits.grad.isfinite().all()


def test_balanced_weights_are_scikit_learns_and_absent_classes_count_nothing():
    from sklearn.utils.class_weight import compute_class_weight  # here: the processes of other tests need not load it

    labels = np.array([0] * 7 + [1] * 2 + [3] * 11)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    ours = class_weights(torch.from_numpy(np.bincount(labels, minlength=5)))
    assert ours[[0, 1, 3]].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert ours[[2, 4]].tolist() == [1, 1]


def _gradient(weighted: bool) -> tuple[float, list]:
    logits = local_rows(LOGITS).clone().requires_grad_()
    loss = classification_loss(logits, local_rows(ONE_HOT), 0.1, WEIGHTS if weighted else None, 2.0)
    loss.backward()
    return float(mean(loss)), logits.grad.tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_two_processes_have_the_gradient_of_one(weighted):
    (one, whole), = on(1, _gradient, weighted)
    parts = on(2, _gradient, weighted)
    assert parts[0][0] == pytest.approx(one, rel=1e-6)
    joined = np.concatenate([grad for _, grad in parts]) / 2  # gradients are averaged over processes
    np.testing.assert_allclose(joined, whole, rtol=1e-5, atol=1e-9)
