"""Figures equal scikit-learn's, torchmetrics' and scipy's, also where a class has no test image."""
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn import metrics as peer
from torchmetrics.functional.classification import multiclass_calibration_error

from linear_eval.metrics import confused_pairs, confusion, ece, figures, per_class, reliability

CLASSES = 8
NAMES = [f"class {i}" for i in range(CLASSES)]


def scores_and_labels(present: range, seed: int = 0, images: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a middling, overconfident classifier, and labels of these classes only."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(present, images, p=np.arange(1, len(present) + 1) / sum(range(1, len(present) + 1)))
    logits = rng.normal(size=(images, CLASSES)) * 1.5
    logits[np.arange(images), labels] += 2
    scores = np.exp(2 * logits)
    return scores / scores.sum(1, keepdims=True), labels


CASES = [scores_and_labels(range(CLASSES)), scores_and_labels(range(2, 7))]  # the last: predicted, but never true


@pytest.mark.parametrize(("scores", "labels"), CASES)
def test_they_are_scikit_learns(scores, labels):
    predicted, ours = scores.argmax(1), figures(scores, labels, True)
    assert ours["accuracy"] == pytest.approx(peer.accuracy_score(labels, predicted) * 100)
    top5 = peer.top_k_accuracy_score(labels, scores, k=5, labels=range(CLASSES))
    assert ours["top5"] == pytest.approx(top5 * 100)
    assert 20 < ours["accuracy"] < ours["top5"] < 100  # or top-5 could be top-1, or all
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # y_pred contains classes not in y_true
        assert ours["balanced_accuracy"] == pytest.approx(peer.balanced_accuracy_score(labels, predicted) * 100)
    assert ours["macro_f1"] == pytest.approx(peer.f1_score(labels, predicted, average="macro") * 100)
    assert np.array_equal(confusion(scores, labels), peer.confusion_matrix(labels, predicted, labels=range(CLASSES)))


@pytest.mark.parametrize(("scores", "labels"), CASES)
def test_the_table_by_class_is_the_classification_report(scores, labels):
    settings = dict(labels=range(CLASSES), target_names=NAMES, output_dict=True, zero_division=0)
    expected = peer.classification_report(labels, scores.argmax(1), **settings)
    rows = per_class(scores, labels, NAMES)
    assert [row["class"] for row in rows] == NAMES
    for row in rows:
        theirs = expected[row["class"]]
        assert row["images"] == theirs["support"]
        ours = [row["precision"], row["recall"], row["f1"]]
        assert ours == pytest.approx([theirs[name] * 100 for name in ("precision", "recall", "f1-score")])


@pytest.mark.parametrize(("scores", "labels"), CASES)
def test_the_calibration_error_is_torchmetrics(scores, labels):
    expected = multiclass_calibration_error(torch.from_numpy(scores), torch.from_numpy(labels), CLASSES, n_bins=15, norm="l1")
    assert ece(scores, labels) == pytest.approx(expected.item() * 100)
    assert ece(scores, labels) > 3  # overconfident: it has something to find
    assert figures(scores, labels, True)["ece"] == ece(scores, labels)
    assert figures(scores, labels, False)["ece"] is None


def test_bins_of_confidence_hold_every_prediction_and_their_upper_edge():
    probabilities = np.array([[0.6, 0.4], [1.0, 0.0], [0.5, 0.5], [0.8, 0.2], [0.61, 0.39]])
    labels = np.array([0, 0, 1, 1, 0])
    bins = reliability(probabilities, labels, bins=5)  # (0.4, 0.6] has 0.5 and 0.6, (0.6, 0.8] has 0.61 and 0.8
    assert bins["count"].tolist() == [0, 0, 2, 2, 1]
    np.testing.assert_allclose(bins["accuracy"], [np.nan, np.nan, 50, 50, 100])
    np.testing.assert_allclose(bins["confidence"], [np.nan, np.nan, 55, 70.5, 100])


@pytest.mark.parametrize(("right", "images"), [(0, 20), (7, 20), (9_120, 10_000), (20, 20)])
def test_the_interval_is_wilsons(right, images):
    """Wilson's ends are where |share − p| is 1.96 standard errors of p itself: here found by root finding."""
    labels = np.zeros(images, int)
    scores = np.eye(2)[np.r_[np.zeros(right, int), np.ones(images - right, int)]]
    low, high = figures(scores, labels, True)["interval"]
    share, z = right / images, 1.959963984540054

    def surplus(p: float) -> float:
        return (share - p) ** 2 - z**2 * p * (1 - p) / images

    assert low == pytest.approx(100 * brentq(surplus, 0, share * (1 - 1e-9)) if right else 0)
    assert high == pytest.approx(100 * brentq(surplus, share + 1e-9, 1) if right < images else 100)


def test_equal_scores_count_by_class_as_argmax_counts_them():
    """Of a kNN vote most classes have nothing: a top-5 that lets every tie win would be 100 %."""
    scores, labels = np.zeros((8, CLASSES)), np.arange(8)
    found = figures(scores, labels, True)
    assert found["accuracy"] == pytest.approx(100 / 8)
    assert found["top5"] == pytest.approx(500 / 8)


def test_small_and_empty():
    scores, labels = np.eye(5)[[0, 1, 1]], np.array([0, 1, 2])
    found = figures(scores, labels, True)
    assert found["top5"] is None
    assert found["balanced_accuracy"] == pytest.approx(200 / 3)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3 * 100)  # classes 3 and 4 are nowhere
    with pytest.raises(ValueError, match="no test images"):
        figures(scores[:0], labels[:0], True)


def test_pairs_are_the_greatest_off_the_diagonal_and_their_mistakes_the_surest():
    scores, labels = CASES[0]
    predicted = scores.argmax(1)
    found = confused_pairs(scores, labels, pairs=5, examples=3)
    counts = {(t, p): int(((labels == t) & (predicted == p)).sum()) for t in range(CLASSES) for p in range(CLASSES) if t != p}
    assert [pair.count for pair in found] == sorted(counts.values(), reverse=True)[:5]
    for pair in found:
        true, taken = pair.true, pair.predicted
        assert pair.count == counts[true, taken]
        assert pair.share == pytest.approx(pair.count / (labels == true).sum() * 100)
        all_of_it = [i for i in range(len(labels)) if labels[i] == true and predicted[i] == taken]
        assert pair.indices == sorted(all_of_it, key=lambda i: -scores[i, taken])[:3]
    assert confused_pairs(np.eye(3), np.arange(3)) == []
