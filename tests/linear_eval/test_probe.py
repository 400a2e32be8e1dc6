"""Linear classifiers on frozen features are scikit-learn's, and so are scores from few labels, randomly drawn."""
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from imblearn.over_sampling import SMOTE
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from linear_eval import logistic as logistic_file
from linear_eval import probe, subsets
from linear_eval.label_curve import CurveConfig, label_curve
from linear_eval.logistic import LogisticFit, logistic
from linear_eval.oversample import smote
from linear_eval.probe import few_labels
from linear_eval.probe_data import Labeled, ProbeData
from linear_eval.results import CurvePoint
from linear_eval.ridge import ridge


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    centres = torch.randn(4, 10, generator=torch.Generator().manual_seed(99))
    z = centres[labels] + 2.2 * torch.randn(count, 10, generator=generator)
    return z * torch.logspace(-3, 3, 10), labels  # features on very different scales


REFERENCE, REFERENCE_LABELS = clusters(300, 0)
QUERIES, LABELS = clusters(500, 1)


def chosen_images(monkeypatch, **settings) -> list[np.ndarray]:
    """The rows of the reference set that each draw fits."""
    seen = []
    fit = StandardScaler.fit

    def watched(self, X, *rest):
        seen.append(np.array([np.flatnonzero((REFERENCE.numpy() == x).all(1))[0] for x in X]))
        return fit(self, X, *rest)

    monkeypatch.setattr(probe.StandardScaler, "fit", watched)
    few_labels(REFERENCE, REFERENCE_LABELS, QUERIES, LABELS, **settings)
    return seen


def test_scores_are_those_of_scikit_learns_pipeline(monkeypatch):
    draws = chosen_images(monkeypatch, per_class=5, draws=3)
    monkeypatch.undo()
    scores = []
    for rows in draws:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(REFERENCE.numpy()[rows], REFERENCE_LABELS.numpy()[rows])
        scores.append(model.score(QUERIES.numpy(), LABELS.numpy()) * 100)
    mean, deviation = few_labels(REFERENCE, REFERENCE_LABELS, QUERIES, LABELS, per_class=5, draws=3)
    assert mean == pytest.approx(np.mean(scores), abs=0.21)  # one of 500 queries may sit on a boundary
    assert deviation == pytest.approx(np.std(scores), abs=0.21)
    assert 35 < mean < 90  # neither chance (25) nor certainty


def test_each_draw_takes_so_many_of_each_class_and_another_set(monkeypatch):
    draws = chosen_images(monkeypatch, per_class=5, draws=4)
    assert len(draws) == 4
    for rows in draws:
        assert np.bincount(REFERENCE_LABELS.numpy()[rows]).tolist() == [5, 5, 5, 5]
        assert len(set(rows.tolist())) == 20
    assert len({tuple(sorted(rows)) for rows in draws}) == 4


def test_a_seed_repeats_and_another_does_not():
    first = few_labels(REFERENCE, REFERENCE_LABELS, QUERIES, LABELS, seed=0)
    assert few_labels(REFERENCE, REFERENCE_LABELS, QUERIES, LABELS, seed=0) == first
    assert few_labels(REFERENCE, REFERENCE_LABELS, QUERIES, LABELS, seed=1) != first


def test_a_class_with_fewer_images_gives_all_of_them(monkeypatch):
    rare = torch.cat([torch.arange(0, 300)[REFERENCE_LABELS != 3], torch.arange(0, 300)[REFERENCE_LABELS == 3][:2]])
    seen = []
    fit = StandardScaler.fit
    monkeypatch.setattr(probe.StandardScaler, "fit", lambda self, X, *r: seen.append(len(X)) or fit(self, X, *r))
    mean, _ = few_labels(REFERENCE[rare], REFERENCE_LABELS[rare], QUERIES, LABELS, per_class=5, draws=2)
    assert seen == [17, 17]
    assert 25 < mean < 90


def test_more_labels_score_higher():
    few, many = (few_labels(REFERENCE, REFERENCE_LABELS, QUERIES, LABELS, per_class=n)[0] for n in (1, 50))
    assert many > few + 10


# ------------------------------------------------------------------------------- settings chosen on validation

TRAIN, VALIDATION, TEST = REFERENCE.double().numpy(), QUERIES[:250].double().numpy(), QUERIES[250:].double().numpy()
Y, VALIDATION_LABELS, TEST_LABELS = REFERENCE_LABELS.numpy(), LABELS[:250].numpy(), LABELS[250:].numpy()
DATA = ProbeData(Labeled(TRAIN, Y), Labeled(VALIDATION, VALIDATION_LABELS), TEST, 4)
CS = [10.0, 0.01, 1e-4, 0.3]
LAMBDAS = [0.01, 3e3, 30.0, 300.0]


def peer(model, x: np.ndarray = TRAIN, y: np.ndarray = Y):
    return make_pipeline(StandardScaler(), model).fit(x, y)


def hits(model) -> int:
    return int((model.predict(VALIDATION) == VALIDATION_LABELS).sum())


def first_classes(classes: int) -> tuple[np.ndarray, ProbeData]:
    """Which training images are of the first classes, and the data with these alone."""
    some, seen = (np.isin(labels, range(classes)) for labels in (Y, VALIDATION_LABELS))
    return some, ProbeData(Labeled(TRAIN[some], Y[some]), Labeled(VALIDATION[seen], VALIDATION_LABELS[seen]), TEST, classes)


@pytest.mark.parametrize("C", CS)
def test_a_cold_fit_takes_scikit_learns_steps(C):
    ours = logistic(DATA, [C])
    expected = peer(LogisticRegression(C=C, max_iter=1000)).predict_proba(TEST)
    np.testing.assert_allclose(ours.scores, expected, atol=1e-9)  # the same iterations, up to float64's rounding


@pytest.mark.parametrize("classes", [2, 4])
def test_warm_or_cold_the_optimum_is_scikit_learns(classes, monkeypatch):
    """Both go on until no slope exceeds 1e-8, 10⁴ times below the usual: 2e-3 between them there is 1e-6 here at most."""
    monkeypatch.setattr(logistic_file, "TOLERANCE", 1e-8)
    some, data = first_classes(classes)
    for count in range(1, len(CS) + 1):
        ours = logistic(data, sorted(CS)[:count])
        model = LogisticRegression(C=ours.chosen["C"], tol=1e-8, max_iter=10_000)
        np.testing.assert_allclose(ours.scores, peer(model, TRAIN[some], Y[some]).predict_proba(TEST), atol=1e-6)


def test_a_warm_start_stops_where_scikit_learn_would():
    """No slope of its objective, here by autograd, exceeds its tolerance; float32 features add 1e-6 of rounding."""
    model, y = LogisticFit(Labeled(TRAIN.astype(np.float32), Y)), torch.from_numpy(Y)
    weight = None
    for C in sorted(CS):
        weight, finished = model.fit(C, 1000, weight)
        w = weight.double().requires_grad_()
        z = torch.cat(list(model.blocks)).double() @ w[:, :-1].T + w[:, -1]
        (torch.nn.functional.cross_entropy(z, y) + w[:, :-1].square().sum() / (2 * C * len(y))).backward()
        assert finished
        assert w.grad.abs().max() < 1e-4 + 1e-6


def test_the_best_C_on_validation_is_chosen(monkeypatch):
    monkeypatch.setattr(logistic_file, "TOLERANCE", 1e-8)
    right = {C: hits(peer(LogisticRegression(C=C, tol=1e-8, max_iter=10_000))) for C in sorted(CS)}
    ours = logistic(DATA, CS)
    assert ours.chosen == {"C": max(right, key=right.get)}
    assert ours.validation == pytest.approx(max(right.values()) / 250 * 100)
    assert len(set(right.values())) > 1
    equal = logistic(DATA, [0.3 + 1e-9, 0.3])
    assert equal.chosen == {"C": 0.3}  # the smallest of equals
    assert (ours.method, ours.selected_on, ours.note) == ("logistic", "250 validation images", "")


def test_a_fit_that_was_cut_short_says_so():
    ours = logistic(DATA, [10.0, 1e-4], iterations=12)
    assert ours.note == "not converged in 12 iterations: C = 10"


@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_scores_stand_in_their_class_s_column(method):
    """Class 1 of 6 has no training image, nor have 4 and 5."""
    seen = Y != 1
    run = {"logistic": logistic, "ridge": ridge}[method]
    ours = run(replace(DATA, train=Labeled(TRAIN[seen], Y[seen]), classes=6), [1.0])
    model = peer({"logistic": LogisticRegression(), "ridge": RidgeClassifier()}[method], TRAIN[seen], Y[seen])
    assert np.array_equal(ours.scores.argmax(1), model.predict(TEST))
    assert ours.validation == pytest.approx(hits(model) / 250 * 100)
    assert np.isfinite(ours.scores).all()
    if method == "logistic":
        assert (ours.scores[:, [1, 4, 5]] == 0).all()
        np.testing.assert_allclose(ours.scores.sum(1), 1, atol=1e-9)


def test_blocks_kept_or_computed_again_and_their_size_change_nothing(monkeypatch):
    """Sums of 300 numbers in another order, in float64."""
    whole = [logistic(DATA, [0.1]), ridge(DATA, [0.1])]
    monkeypatch.setattr(logistic_file, "KEPT", 0)
    monkeypatch.setattr("linear_eval.standardize.BLOCK", 7)
    for ours, found in zip(whole, [logistic(DATA, [0.1]), ridge(DATA, [0.1])], strict=True):
        np.testing.assert_allclose(found.scores, ours.scores, atol=1e-9)


@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_a_memory_mapped_file_is_read_block_by_block(method, tmp_path, monkeypatch):
    """8 MB of halves, of which numpy copies a block at a time (4,096 × 100 × 2 bytes), and labels (8 bytes an image)."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40_000, 100)).astype(np.float16))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    labels = np.random.default_rng(1).integers(2, size=len(x))
    monkeypatch.setattr(logistic_file, "KEPT", 0)
    tracemalloc.start()
    data = ProbeData(Labeled(x, labels), Labeled(x[:5000], labels[:5000]), x[:5000], 2)
    {"logistic": logistic, "ridge": ridge}[method](data, [1.0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 4_096 * 100 * 2 + 4 * labels.nbytes


@pytest.mark.parametrize("alpha", LAMBDAS)
@pytest.mark.parametrize("classes", [2, 4])
def test_ridge_is_scikit_learns(alpha, classes):
    some, data = first_classes(classes)
    ours = ridge(data, [alpha])
    expected = peer(RidgeClassifier(alpha), TRAIN[some], Y[some]).decision_function(TEST)
    if classes == 2:
        expected = np.stack([-expected, expected], axis=1)
    np.testing.assert_allclose(ours.scores, expected, atol=1e-6)
    assert not ours.probabilities


def test_the_best_penalty_on_validation_is_chosen():
    right = {alpha: hits(peer(RidgeClassifier(alpha))) for alpha in LAMBDAS}
    ours = ridge(DATA, LAMBDAS)
    assert ours.chosen == {"lambda": max(right, key=right.get)}  # the first of equals
    assert ours.validation == pytest.approx(max(right.values()) / 250 * 100)
    assert len(set(right.values())) > 2
    np.testing.assert_allclose(ours.scores, peer(RidgeClassifier(ours.chosen["lambda"])).decision_function(TEST), atol=1e-6)


def test_ridge_bears_more_features_than_images_and_constant_ones():
    x = np.concatenate([TRAIN[:8], np.full((8, 3), 0.1)], axis=1).astype(np.float32)
    t = np.concatenate([TEST, np.full((len(TEST), 3), 0.1)], axis=1).astype(np.float32)
    expected = peer(RidgeClassifier(1.0), x.astype(np.float64)[:, :10], Y[:8]).decision_function(t[:, :10].astype(np.float64))
    ours = ridge(ProbeData(Labeled(x, Y[:8]), Labeled(t, TEST_LABELS), t, 4), [1.0])
    np.testing.assert_allclose(ours.scores[:, np.unique(Y[:8])], expected, atol=1e-6)


@pytest.mark.parametrize("run", [logistic, ridge])
def test_one_class_is_refused(run):
    with pytest.raises(ValueError, match="every training label is class 2"):
        run(replace(DATA, train=Labeled(TRAIN[Y == 2], Y[Y == 2])), [1.0])


# ------------------------------------------------------------------------------------------------ SMOTE, label curve


def imbalanced() -> np.ndarray:
    """Rows of the reference set: 60, 30, 10 and 3 of a class."""
    return np.sort(np.concatenate([np.flatnonzero(np.equal(Y, c))[:n] for c, n in enumerate((60, 30, 10, 3))]))


def test_smote_fills_classes_up_between_their_images():
    rows = imbalanced()
    filled = smote(Labeled(torch.from_numpy(TRAIN[rows]).half(), Y[rows]), seed=3)
    x, labels = filled.x, filled.labels
    assert np.bincount(labels).tolist() == [60] * 4
    original = TRAIN[rows].astype(np.float16).astype(np.float32)
    assert np.array_equal(x[: len(rows)], original)
    assert np.array_equal(labels[: len(rows)], Y[rows])
    for z, c in zip(x[len(rows) :], labels[len(rows) :], strict=True):
        own = original[Y[rows] == c].astype(np.float64)
        a, b = own[:, None], own[None] - own[:, None]
        along = ((z - a) * b).sum(-1) / np.maximum((b**2).sum(-1), 1e-300)  # where z projects onto each line
        apart = np.linalg.norm(a + along.clip(0, 1)[..., None] * b - z, axis=-1)
        assert apart.min() < 1e-6 * np.abs(own).max()  # float32
    expected, _ = SMOTE(k_neighbors=2, random_state=3).fit_resample(original, Y[rows])  # the smallest class has 3
    assert np.array_equal(x, expected)
    assert not np.array_equal(x, smote(Labeled(TRAIN[rows].astype(np.float16), Y[rows]), seed=4).x)


def test_smote_refuses_a_class_of_one():
    rows = [*np.flatnonzero(Y != 3), np.flatnonzero(Y == 3)[0]]
    with pytest.raises(ValueError, match=r"class 3 has one labelled image.*take a greater share"):
        smote(Labeled(TRAIN[rows], Y[rows]))
    with pytest.raises(ValueError, match="every training label is class 0"):
        smote(Labeled(TRAIN[Y == 0], Y[Y == 0]))


def test_the_label_curve_is_scikit_learns_on_those_images():
    rows = imbalanced()
    x, y = TRAIN[rows], Y[rows]
    config = CurveConfig([1, 5, 20, 59, 60, 1000], draws=3, seed=7)
    curve = label_curve(Labeled(x, y), Labeled(TEST, TEST_LABELS), config)
    assert [point.per_class for point in curve] == [1, 5, 20, 59]  # 60 and more are all there is
    for point in curve:
        scores = []
        for draw in range(3):
            some = subsets.per_class(y, point.per_class, 7, draw)
            model = peer(LogisticRegression(max_iter=1000), x[some], y[some])
            scores.append((model.predict(TEST) == TEST_LABELS).mean() * 100)
        mean, std = (pytest.approx(f(scores), abs=0.14) for f in (np.mean, np.std))  # one of 3 × 250 may sit on a boundary
        assert point == CurvePoint(point.per_class, mean, std, draws=3)
    assert curve[2].mean > curve[0].mean + 10
