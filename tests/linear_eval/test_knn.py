"""kNN equals scikit-learn's and brute force; faiss and torch share a process."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from linear_eval import knn as knn_file
from linear_eval.knn import knn, knn_accuracy, knn_grid, neighbors
from linear_eval.probe_data import Labeled, ProbeData

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 5


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes, of lengths that cosine must ignore."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(99))
    z = centres[labels] + 1.5 * torch.randn(count, 12, generator=generator)
    return z * (0.1 + 10 * torch.rand(count, 1, generator=generator)), labels


REFERENCE, REFERENCE_LABELS = clusters(400, 0)
QUERIES, LABELS = clusters(150, 1)


@pytest.mark.parametrize("k", [1, 7, 20, 400, 1000])  # more than there are means all
def test_neighbors_are_those_of_brute_force(k):
    similarity, index = neighbors(REFERENCE, QUERIES, k)
    cosines = F.normalize(QUERIES.double(), dim=1) @ F.normalize(REFERENCE.double(), dim=1).T
    expected = cosines.topk(min(k, 400), dim=1).values
    np.testing.assert_allclose(similarity, expected, atol=1e-6)  # float32 products
    np.testing.assert_allclose(cosines.gather(1, torch.from_numpy(index)), expected, atol=1e-6)  # but for near ties
    assert all(len(set(row)) == len(row) for row in index.tolist())


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (200, 0.1)])
def test_votes_are_scikit_learns(k, temperature):
    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature)

    peer = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    expected = peer.fit(REFERENCE.double().numpy(), REFERENCE_LABELS.numpy()).predict(QUERIES.double().numpy())
    ours = knn(REFERENCE, REFERENCE_LABELS, QUERIES, CLASSES, k=k, temperature=temperature)
    assert np.array_equal(ours, expected)
    accuracy = knn_accuracy(REFERENCE, REFERENCE_LABELS, QUERIES, LABELS, CLASSES, k=k, temperature=temperature)
    assert accuracy == pytest.approx((expected == LABELS.numpy()).mean() * 100)
    assert 40 < accuracy < 95  # classes overlap: neither chance nor certainty, or the comparison shows nothing


def test_it_takes_small_temperatures_half_precision_and_graphs():
    """A vote weighs exp(similarity/T): at T = 0.001 that is e^1000, unless it is taken relative to the nearest."""
    nearest = knn(REFERENCE, REFERENCE_LABELS, QUERIES, CLASSES, k=1)
    assert np.array_equal(knn(REFERENCE, REFERENCE_LABELS, QUERIES, CLASSES, temperature=1e-5), nearest)
    half = knn(REFERENCE.half(), REFERENCE_LABELS, QUERIES.bfloat16(), CLASSES)
    assert (half == knn(REFERENCE, REFERENCE_LABELS, QUERIES, CLASSES)).mean() > 0.9  # bfloat16 moves a few votes
    assert knn(REFERENCE.clone().requires_grad_() * 1, REFERENCE_LABELS, QUERIES, CLASSES).shape == (150,)


@pytest.mark.parametrize(("reference_block", "query_block"), [(7, 5), (100, 150), (399, 1), (400, 1000)])
@pytest.mark.parametrize("k", [1, 20, 400])
def test_blocks_of_any_size_find_the_same(k, reference_block, query_block):
    whole, blocks = neighbors(REFERENCE, QUERIES, k), neighbors(REFERENCE, QUERIES, k, reference_block, query_block)
    np.testing.assert_allclose(blocks[0], whole[0], atol=5e-7)  # float32 sums of 12 products near 1, in another order
    assert (blocks[1] == whole[1]).mean() > 0.999  # near ties may change places


@pytest.mark.parametrize("block", [3, 64, 1000])
def test_equal_similarities_stand_in_the_order_of_the_reference_set(block):
    """Signs of 4 features: products are exact, and of 600 rows some 37 are the same."""
    rng = np.random.default_rng(0)
    reference, queries = rng.choice([-1.0, 1.0], (600, 4)), rng.choice([-1.0, 1.0], (30, 4))
    cosines = queries @ reference.T / 4
    similarity, index = neighbors(reference, queries, 600, reference_block=block)
    assert np.array_equal(index, np.argsort(-cosines, axis=1, kind="stable"))
    near, some = neighbors(reference, queries, 50, reference_block=block)
    assert np.array_equal(near, similarity[:, :50])
    assert np.array_equal(np.take_along_axis(cosines, some, 1), near)
    assert all(len(set(row)) == 50 for row in some.tolist())


def test_a_memory_mapped_reference_set_is_read_block_by_block(tmp_path, monkeypatch):
    np.save(tmp_path / "reference.npy", REFERENCE.half().numpy())
    mapped = np.load(tmp_path / "reference.npy", mmap_mode="r")
    seen, normalized = [], knn_file.as_unit_rows
    monkeypatch.setattr(knn_file, "as_unit_rows", lambda x: seen.append(len(x)) or normalized(x))
    found = neighbors(mapped, QUERIES.half().numpy(), 20, reference_block=64, query_block=100)
    assert max(seen) == 100
    np.testing.assert_allclose(found[0], neighbors(REFERENCE.half(), QUERIES.half(), 20)[0], atol=5e-7)


KS, TEMPERATURES = (1, 5, 20, 100), (0.02, 0.07, 0.5)


def peer(k: int, temperature: float) -> KNeighborsClassifier:
    model = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d) / temperature), metric="cosine", algorithm="brute")
    return model.fit(REFERENCE.double().numpy(), REFERENCE_LABELS.numpy())


def test_the_grid_s_best_on_validation_votes_on_test():
    validation, validation_labels = clusters(200, 2)
    hits = {}
    for k in KS:
        for temperature in TEMPERATURES:
            found = peer(k, temperature).predict(validation.double().numpy())
            hits[k, temperature] = (found == validation_labels.numpy()).sum()
    best = max(hits, key=hits.get)  # the first of equals
    assert len(set(hits.values())) > 4
    data = ProbeData(Labeled(REFERENCE, REFERENCE_LABELS), Labeled(validation, validation_labels), QUERIES, CLASSES)
    result = knn_grid(data, KS, TEMPERATURES)
    assert result.chosen == {"k": best[0], "T": best[1], "normalization": "L2"}
    assert result.validation == pytest.approx(hits[best] / 200 * 100)
    expected = peer(*best).predict_proba(QUERIES.double().numpy())
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)  # cosines to 1e-7, over T = 0.02
    assert result.selected_on == "200 validation images"
    equal = knn_grid(data, [1], TEMPERATURES)
    assert equal.chosen["T"] == TEMPERATURES[0]  # one neighbour wins at any T: the first of equals


def test_every_vote_of_the_grid_is_scikit_learns():
    data = ProbeData(Labeled(REFERENCE, REFERENCE_LABELS), Labeled(QUERIES, LABELS), QUERIES, CLASSES)
    for k in KS:
        for temperature in TEMPERATURES:
            one = knn_grid(data, [k], [temperature])
            expected = peer(k, temperature).predict_proba(QUERIES.double().numpy())
            np.testing.assert_allclose(one.scores, expected, atol=1e-5)


def test_the_grid_takes_arrays_few_images_and_more_classes_than_there_are():
    train = Labeled(REFERENCE[:9].half().numpy(), REFERENCE_LABELS[:9].numpy())
    validation = Labeled(QUERIES.numpy(), LABELS.numpy())
    few = knn_grid(ProbeData(train, validation, QUERIES.half().numpy(), CLASSES + 3), [200, 100], [0.07])
    assert few.chosen["k"] == 9
    assert few.scores.shape == (150, CLASSES + 3)
    assert (few.scores[:, CLASSES:] == 0).all()
    np.testing.assert_allclose(few.scores.sum(1), 1, atol=1e-12)


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
