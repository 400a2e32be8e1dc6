"""Heads trained together are those that torch trains alone."""
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from core import counter_rng
from linear_eval import heads, standardize
from linear_eval.heads import HeadsConfig, fit_heads, linear_heads
from linear_eval.probe_data import Labeled, ProbeData
from linear_eval.standardize import fit_standardizer

VARIANTS = {
    "pooled": [slice(0, 6)],
    "pooled+max": [slice(0, 6), slice(9, 12)],
    "last4": [slice(0, 9)],
    "last4+max": [slice(0, 12)],
}
RATES = (0.01, 0.3, 2.0)
CONFIG = HeadsConfig(RATES, epochs=3, batch_size=64, momentum=0.9, weight_decay=1e-3, seed=5)


def clusters(count: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, columns on very different scales, column 4 constant."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    x = np.random.default_rng(99).normal(size=(classes, 12))[labels] + 1.2 * rng.normal(size=(count, 12))
    x = x * np.logspace(-2, 2, 12) + 3
    x[:, 4] = 0.1
    return x, labels


X, Y = clusters(300, 0)  # 4 batches of 64 and a short one
VALIDATION, VALIDATION_LABELS = clusters(200, 1)
TEST, TEST_LABELS = clusters(150, 2)
TRAIN = Labeled(X, Y)
DATA = ProbeData(TRAIN, Labeled(VALIDATION, VALIDATION_LABELS), TEST, 4)


def alone(x: np.ndarray, y: np.ndarray, slices: list[slice], rate: float, dtype: torch.dtype, classes: int = 4) -> nn.Linear:
    """One head by torch's own means."""
    z = torch.from_numpy(StandardScaler().fit_transform(x)[:, np.r_[tuple(slices)]]).to(dtype)
    head = nn.Linear(z.shape[1], classes, dtype=dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), rate, momentum=CONFIG.momentum, weight_decay=CONFIG.weight_decay)
    steps = CONFIG.epochs * math.ceil(len(x) / CONFIG.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    for epoch in range(CONFIG.epochs):
        for rows in counter_rng.permutation(CONFIG.seed, epoch, len(x)).split(CONFIG.batch_size):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(head(z[rows]), torch.from_numpy(y)[rows]).backward()
            optimizer.step()
            schedule.step()
    return head


@pytest.mark.parametrize(("dtype", "tolerance"), [
    (np.float64, 1e-10),
    (np.float32, 1e-5),  # weights up to 4, whose last bit is 4.8e-7, over 15 steps; measured 1e-6
])
@pytest.mark.parametrize("classes", [2, 4])
def test_every_head_is_the_one_torch_trains_alone(dtype, tolerance, classes):
    x, y = clusters(300, 0, classes)
    x = x.astype(dtype)
    ours = fit_heads(Labeled(x, y), classes, VARIANTS, CONFIG)
    for columns, slices in zip(ours.columns, VARIANTS.values(), strict=True):
        weights = torch.cat([ours.weight[:, place] for _, place in columns.pairs], dim=1).unflatten(0, (classes, len(RATES)))
        biases = ours.weight[:, columns.bias].unflatten(0, (classes, len(RATES)))
        for r, rate in enumerate(RATES):
            head = alone(x, y, slices, rate, ours.weight.dtype, classes)
            assert head.weight.abs().max() > 0.01
            torch.testing.assert_close(weights[:, r], head.weight.data, atol=tolerance, rtol=0)
            torch.testing.assert_close(biases[:, r], head.bias.data, atol=tolerance, rtol=0)


def test_the_winner_is_the_best_on_validation_and_its_scores_are_its_softmax():
    found = linear_heads(DATA, VARIANTS, CONFIG)
    scaler = StandardScaler().fit(X)
    hits, scores = {}, {}
    for name, slices in VARIANTS.items():
        for rate in RATES:
            head, columns = alone(X, Y, slices, rate, torch.float64), np.r_[tuple(slices)]
            z = [torch.from_numpy(scaler.transform(x)[:, columns]) for x in (VALIDATION, TEST)]
            hits[name, rate] = (head(z[0]).argmax(1).numpy() == VALIDATION_LABELS).sum()
            scores[name, rate] = F.softmax(head(z[1]), dim=1).detach().numpy()
    best = max(hits, key=hits.get)  # the first of equals
    assert (found.chosen["features"], found.chosen["rate"]) == best
    assert found.validation == pytest.approx(hits[best] / 200 * 100)
    np.testing.assert_allclose(found.scores, scores[best], atol=1e-10)
    assert found.selected_on == "200 validation images"
    assert len(set(hits.values())) > 3


def test_a_rate_that_diverges_loses_and_disturbs_no_other():
    """At 1e308 the second step overflows."""
    calm = fit_heads(TRAIN, 4, VARIANTS, CONFIG)
    wild = fit_heads(TRAIN, 4, VARIANTS, replace(CONFIG, rates=(RATES[0], 1e308, *RATES[1:])))
    kept = wild.weight.unflatten(0, (4, 4))[:, [0, 2, 3]]
    assert not wild.weight.unflatten(0, (4, 4))[:, 1].isfinite().all()
    torch.testing.assert_close(kept.flatten(0, 1), calm.weight, atol=1e-10, rtol=0)
    hits = wild.hits(DATA.validation)
    assert (hits[:, 1] == -1).all()
    assert np.array_equal(hits[:, [0, 2, 3]], calm.hits(DATA.validation))
    found = linear_heads(DATA, VARIANTS, replace(CONFIG, rates=(1e308, 0.01)))
    assert found.chosen["rate"] == 0.01
    assert "4 diverged" in found.note
    with pytest.raises(ValueError, match="give smaller ones"):
        linear_heads(DATA, VARIANTS, replace(CONFIG, rates=(1e308,)))


def test_validation_may_lack_classes_and_training_too():
    some = VALIDATION_LABELS < 2
    found = linear_heads(replace(DATA, validation=Labeled(VALIDATION[some], VALIDATION_LABELS[some])), VARIANTS, CONFIG)
    assert found.scores.shape == (150, 4)
    seen = Y != 3
    found = linear_heads(replace(DATA, train=Labeled(X[seen], Y[seen])), VARIANTS, CONFIG)
    assert (found.scores.argmax(1) != 3).all()


def test_tensors_arrays_and_devices_give_the_same():
    ours = fit_heads(Labeled(X.astype(np.float16), Y), 4, VARIANTS, CONFIG)
    assert ours.weight.dtype == torch.float32
    half = torch.from_numpy(X).half()
    other = fit_heads(Labeled(half, torch.from_numpy(Y)), 4, VARIANTS, CONFIG, device=torch.device("cpu"))
    assert torch.equal(ours.weight, other.weight)
    assert torch.equal(half, torch.from_numpy(X).half())  # and are left as they were


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same():
    """In float64, so that it shows: 1e-9 is rounding of 15 steps."""
    ours, theirs = (fit_heads(TRAIN, 4, VARIANTS, CONFIG, device=d) for d in ("cpu", "cuda"))
    torch.testing.assert_close(theirs.weight.cpu(), ours.weight, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_columns_are_standardized_as_scikit_learn_does(dtype, monkeypatch):
    monkeypatch.setattr(standardize, "BLOCK", 7)
    x = X.astype(dtype)
    x[:, 4] = 0.1  # not exact in any of them: a mean of it would be rounded, and its deviation not 0
    standard = fit_standardizer(x, dtype=torch.float64)
    expected = StandardScaler().fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(np.delete(standard(x), 4, 1), np.delete(expected, 4, 1), atol=1e-9)
    assert (standard(x + 1)[:, 4] == 0).all()  # in other images too


def test_a_memory_mapped_file_is_read_block_by_block(tmp_path, monkeypatch):
    """20 MB of halves, of which numpy may copy a block or a batch (4,096 × 100 × 2 bytes) and torch convert as much."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(100_000, 100)).astype(np.float16))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    labels = np.random.default_rng(1).integers(2, size=len(x))
    converted, as_tensor = [], standardize.as_tensor
    for module in (standardize, heads):
        monkeypatch.setattr(module, "as_tensor", lambda rows: converted.append(rows.nbytes) or as_tensor(rows))
    tracemalloc.start()
    data = ProbeData(Labeled(x, labels), Labeled(x, labels), x[:5000], 2)
    linear_heads(data, {"pooled": [slice(0, 100)]}, HeadsConfig((0.1,), 1, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(converted) <= 4_096 * 100 * 2
    assert peak < 3 * 4_096 * 100 * 2


def test_progress_counts_epochs():
    seen = []
    fit_heads(TRAIN, 4, VARIANTS, CONFIG, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]
