"""kNN equals scikit-learn's and brute force; faiss and torch share a process."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from linear_eval.knn import knn, knn_accuracy, neighbours

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 5


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes, of lengths that cosine must ignore."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(99))
    z = centres[labels] + 1.5 * torch.randn(count, 12, generator=generator)
    return z * (0.1 + 10 * torch.rand(count, 1, generator=generator)), labels


BANK, BANK_LABELS = clusters(400, 0)
QUERIES, LABELS = clusters(150, 1)


@pytest.mark.parametrize("k", [1, 7, 20, 400, 1000])  # more than there are means all
def test_neighbours_are_those_of_brute_force(k):
    similarity, index = neighbours(BANK, QUERIES, k)
    cosines = F.normalize(QUERIES.double(), dim=1) @ F.normalize(BANK.double(), dim=1).T
    expected = cosines.topk(min(k, 400), dim=1).values
    np.testing.assert_allclose(similarity, expected, atol=1e-6)  # float32 products
    np.testing.assert_allclose(cosines.gather(1, torch.from_numpy(index)), expected, atol=1e-6)  # but for near ties
    assert all(len(set(row)) == len(row) for row in index.tolist())


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (200, 0.1)])
def test_votes_are_scikit_learns(k, temperature):
    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature)

    peer = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    expected = peer.fit(BANK.double().numpy(), BANK_LABELS.numpy()).predict(QUERIES.double().numpy())
    ours = knn(BANK, BANK_LABELS, QUERIES, CLASSES, k=k, temperature=temperature)
    assert np.array_equal(ours, expected)
    accuracy = knn_accuracy(BANK, BANK_LABELS, QUERIES, LABELS, CLASSES, k=k, temperature=temperature)
    assert accuracy == pytest.approx((expected == LABELS.numpy()).mean() * 100)
    assert 40 < accuracy < 95  # classes overlap: neither chance nor certainty, or the comparison shows nothing


def test_it_takes_small_temperatures_half_precision_and_graphs():
    """A vote weighs exp(similarity/T): at T = 0.001 that is e^1000, unless it is taken relative to the nearest."""
    nearest = knn(BANK, BANK_LABELS, QUERIES, CLASSES, k=1)
    assert np.array_equal(knn(BANK, BANK_LABELS, QUERIES, CLASSES, temperature=1e-5), nearest)
    half = knn(BANK.half(), BANK_LABELS, QUERIES.bfloat16(), CLASSES)
    assert (half == knn(BANK, BANK_LABELS, QUERIES, CLASSES)).mean() > 0.9  # bfloat16 moves a few votes
    assert knn(BANK.clone().requires_grad_() * 1, BANK_LABELS, QUERIES, CLASSES).shape == (150,)


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_faiss_and_torch_live_together(first):
    """Each brings an OpenMP runtime; loaded in either order they must compute, and with more than one thread."""
    second = {"torch": "faiss", "faiss": "torch"}[first]
    code = (
        f"import {first}, {second}\n"
        "import torch\n"
        "from linear_eval.knn import knn\n"
        "torch.set_num_threads(2)\n"
        "z = torch.randn(2000, 64); y = torch.arange(2000) % 7\n"
        "net = torch.nn.Conv2d(3, 16, 3)\n"
        "for _ in range(3):\n"
        "    net(torch.randn(8, 3, 32, 32)).sum().backward()\n"
        "    assert (knn(z, y, z, 7, k=1) == y.numpy()).all()\n"
        "print('both')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "both\n"
