"""Average precision, F1 and the protocols of several labels an image, against scikit-learn."""
import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torchvision.ops import sigmoid_focal_loss

from linear_eval.average_precision import (
    average_precisions,
    best_threshold,
    bootstrap_interval,
    f1_scores,
    mean_average_precision,
)
from linear_eval.heads import HeadsConfig, fit_heads
from linear_eval.knn import knn_map, neighbors
from linear_eval.losses import multilabel_loss, positive_weights
from linear_eval.multilabel.classical import classify_multilabel
from linear_eval.multilabel.heads import heads_multilabel
from linear_eval.multilabel.logistic import OneVsRest, logistic_multilabel
from linear_eval.multilabel.neighbors import knn_multilabel
from linear_eval.multilabel.results import multilabel_row
from linear_eval.multilabel.ridge import ridge_multilabel
from linear_eval.probe_data import Labeled, ProbeData

RNG = np.random.default_rng(0)


def made(count: int = 200, dim: int = 6, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features, and several labels an image that depend on them: N,D float64 and N,K int8."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, dim))
    directions = np.random.default_rng(9).normal(size=(dim, classes))
    logits = x @ directions + rng.normal(size=(count, classes)) - np.linspace(0, 2, classes)
    return x, (logits > 0).astype(np.int8)


@pytest.fixture(scope="module")
def data() -> ProbeData:
    train, validation, test = (made(count, seed=seed) for seed, count in enumerate((240, 120, 120)))
    return ProbeData(Labeled(*train), Labeled(*validation), test[0], 4)


TEST_LABELS = made(120, seed=2)[1]


@pytest.mark.parametrize("levels", [0, 5])  # of the scores; few: many are equal, as votes of neighbors are
def test_average_precision_is_scikit_learns(levels):
    labels = (RNG.random((300, 7)) < np.linspace(0.02, 0.9, 7)).astype(np.int8)
    scores = RNG.random((300, 7)) if not levels else RNG.integers(0, levels, (300, 7)) / levels
    expected = [metrics.average_precision_score(labels[:, k], scores[:, k]) for k in range(7)]
    np.testing.assert_allclose(average_precisions(labels, scores), expected, rtol=1e-12)
    assert mean_average_precision(labels, scores) == pytest.approx(
        metrics.average_precision_score(labels, scores, average="macro"), rel=1e-12)
    labels[:, 0] = 0
    found = average_precisions(labels, scores)
    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).all()


def test_weights_of_the_bootstrap_are_scikit_learns_sample_weights():
    from linear_eval.average_precision import _Ranking

    labels, scores = (RNG.random(80) < 0.3).astype(np.int8), RNG.integers(0, 9, 80) / 9
    weights = RNG.integers(0, 4, (80, 5)).astype(np.float32)
    expected = [metrics.average_precision_score(labels, scores, sample_weight=w) for w in weights.T]
    np.testing.assert_allclose(_Ranking.of(labels, scores).average_precision(weights), expected, rtol=1e-6)


def test_the_interval_holds_the_figure_and_narrows_with_images():
    widths = []
    for count in (60, 960):
        labels = (RNG.random((count, 3)) < 0.4).astype(np.int8)
        scores = labels + RNG.normal(size=(count, 3))
        low, high = bootstrap_interval(labels, scores)
        assert low < mean_average_precision(labels, scores) < high
        assert (low, high) == bootstrap_interval(labels, scores)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2  # a factor of 4 by theory


def test_the_threshold_has_the_best_micro_f1_and_f1_is_scikit_learns():
    labels = (RNG.random((150, 5)) < 0.3).astype(np.int8)
    scores = np.round(labels * 0.4 + RNG.random((150, 5)), 1)
    threshold = best_threshold(labels, scores)
    micro, macro, each = f1_scores(labels, scores, threshold)
    predicted = scores >= threshold
    assert micro == pytest.approx(metrics.f1_score(labels, predicted, average="micro"), rel=1e-12)
    assert macro == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), rel=1e-12)
    np.testing.assert_allclose(each, metrics.f1_score(labels, predicted, average=None), rtol=1e-12)
    others = [metrics.f1_score(labels, scores >= one, average="micro") for one in np.unique(scores)]
    assert micro == pytest.approx(max(others), rel=1e-12)


# -------------------------------------------------------------------------------------------------------------- protocols


def scaled(data: ProbeData) -> tuple[np.ndarray, np.ndarray]:
    scaler = StandardScaler().fit(data.train.x)
    return scaler.transform(data.train.x), scaler.transform(data.test)


def test_neighbors_vote_on_each_class(data):
    result = knn_multilabel(data, [5], [0.07])
    similarity, index = neighbors(data.train.x, data.test, 5)
    weights = np.exp(similarity / 0.07)
    expected = [np.average(data.train.labels[rows], axis=0, weights=w) for rows, w in zip(index, weights, strict=True)]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-4, atol=1e-6)  # float32 similarities, exponentiated
    grid = knn_multilabel(data, [1, 5, 20], [0.07])
    assert grid.validation == max(knn_multilabel(data, [k], [0.07]).validation for k in (1, 5, 20))
    x, y, z = map(torch.from_numpy, (data.train.x, data.train.labels, data.test))
    twenty = knn_multilabel(data, [20], [0.07]).scores
    assert knn_map(x, y, z, torch.from_numpy(TEST_LABELS)) == pytest.approx(
        100 * metrics.average_precision_score(TEST_LABELS, twenty), rel=1e-9)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_logistic_regression_is_scikit_learns_one_against_the_rest(data, C):
    train, test = scaled(data)
    model = OneVsRestClassifier(LogisticRegression(C=C, max_iter=1000, tol=1e-8)).fit(train, data.train.labels)
    own = OneVsRest(data.train)
    weight, finished = own.fit(C)
    assert finished
    np.testing.assert_allclose(own.probabilities(data.test, weight), model.predict_proba(test), atol=1e-3)  # tolerance 1e-4


def test_logistic_regression_chooses_on_validation_and_knows_absent_classes(data):
    labels = data.train.labels.copy()
    labels[:, 1], labels[:, 2] = 0, 1
    some = ProbeData(Labeled(data.train.x, labels), data.validation, data.test, 4)
    result = logistic_multilabel(some, [0.001, 0.1, 10.0])
    assert (result.scores[:, 1] == 0).all()
    assert (result.scores[:, 2] == 1).all()
    figures = [logistic_multilabel(some, [C]).validation for C in (0.001, 0.1, 10.0)]
    assert result.validation == pytest.approx(max(figures), abs=0.5)  # each C starts from the last one's solution
    assert result.selected_on == "120 validation images"


def test_ridge_is_scikit_learns(data):
    train, test = scaled(data)
    model = RidgeClassifier(alpha=10.0).fit(train, data.train.labels)
    np.testing.assert_allclose(ridge_multilabel(data, [10.0]).scores, model.decision_function(test), rtol=1e-8, atol=1e-10)


def test_heads_are_trained_by_binary_cross_entropy(data):
    """As torch's SGD trains one layer, with the same batches."""
    config = HeadsConfig([0.3], epochs=2, batch_size=240, momentum=0.9)
    heads = fit_heads(data.train, 4, {"all": [slice(None)]}, config)
    train, test = (torch.from_numpy(x) for x in scaled(data))
    layer = torch.nn.Linear(6, 4, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.9)
    for step in range(2):
        optimizer.param_groups[0]["lr"] = 0.3 * 0.5 * (1 + np.cos(np.pi * step / 2))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            layer(train), torch.from_numpy(data.train.labels).double(), reduction="none").sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (logits,) = heads.logits(heads.standardizer(data.test))
    torch.testing.assert_close(logits[:, 0].T, layer(test).detach(), rtol=1e-6, atol=1e-8)
    several = HeadsConfig([0.003, 0.03, 0.3, 1e9], epochs=3, batch_size=64)
    result = heads_multilabel(data, {"first": [slice(0, 1)], "all": [slice(None)]}, several)
    assert result.chosen["features"] == "all"
    assert result.validation > 60


@pytest.mark.parametrize("name", ["svm", "random forest", "linear svm", "logistic"])
def test_classical_classifiers_are_scikit_learns(data, name):
    result = classify_multilabel(name, data)
    train, test = scaled(data)
    (setting, value), _ = result.chosen.items()
    if name == "svm":
        expected = OneVsRestClassifier(SVC(C=value)).fit(train, data.train.labels).decision_function(test)
        np.testing.assert_allclose(result.scores, expected, atol=1e-2)  # the kernel is float32, libsvm stops at 1e-3
    elif name == "logistic":
        expected = OneVsRestClassifier(LogisticRegression(C=value, max_iter=200)).fit(train, data.train.labels)
        np.testing.assert_allclose(result.scores, expected.predict_proba(test), atol=1e-6)
    elif name == "random forest":
        model = RandomForestClassifier(200, random_state=0).fit(train, data.train.labels)
        np.testing.assert_allclose(result.scores, np.stack([p[:, 1] for p in model.predict_proba(test)], 1), atol=1e-12)
        assert result.selected_on == "nothing: fixed"
    assert setting == {"random forest": "trees"}.get(name, "C")
    few = classify_multilabel("svm", data, limit=60)
    assert "fitted on" in few.note


def test_a_row_has_the_figures_and_draws_are_averaged(data):
    row = multilabel_row(ridge_multilabel(data, [1.0, 100.0]), "encoder", 240, TEST_LABELS)
    assert row.score == row.mean_average_precision == pytest.approx(np.mean(row.average_precisions))
    assert row.interval[0] < row.score < row.interval[1]
    assert 0 < row.micro_f1 <= 100
    with pytest.raises(ValueError, match="no test image shows one of the classes"):
        multilabel_row(ridge_multilabel(data, [1.0]), "encoder", 240, np.zeros_like(TEST_LABELS))


# ----------------------------------------------------------------------------------------------------------------- losses


def test_losses_are_torchs_and_torchvisions():
    logits, targets = torch.randn(9, 4), (torch.rand(9, 4) < 0.4).float()
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(multilabel_loss(logits, targets), bce(logits, targets))
    weights = positive_weights(torch.tensor([0.5, 0.1, 0.9, 0.0]))
    torch.testing.assert_close(weights, torch.tensor([1.0, 9.0, 1 / 9, 1.0]))
    torch.testing.assert_close(multilabel_loss(logits, targets, weights=weights), bce(logits, targets, pos_weight=weights))
    torch.testing.assert_close(multilabel_loss(logits, targets, smoothing=0.1), bce(logits, 0.9 * targets + 0.05))
    focal = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2.0, reduction="mean")
    torch.testing.assert_close(multilabel_loss(logits, targets, gamma=2.0), focal)


def test_scalers_are_fitted_on_train_alone(data):
    pipeline = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0)).fit(data.train.x, data.train.labels)
    np.testing.assert_allclose(ridge_multilabel(data, [1.0]).scores, pipeline.decision_function(data.test), atol=1e-9)
