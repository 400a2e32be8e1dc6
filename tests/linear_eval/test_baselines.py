"""Classical classifiers are scikit-learn's, and choose on validation alone."""
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from linear_eval import baselines, kernel_svm
from linear_eval.baselines import classify
from linear_eval.descriptors import pixels
from linear_eval.probe_data import Labeled, ProbeData
from vision.datasets import load

DIGITS = load("digits")


def digits(part: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    split = getattr(DIGITS, part)
    return pixels(split.images[:number]), split.labels[:number].numpy()


TRAIN, VALIDATION, TEST = digits("train", 400), digits("validation", 100), digits("test", 200)


def fitted(name: str, train=TRAIN, validation=VALIDATION, **more):
    return classify(name, ProbeData(Labeled(*train), Labeled(*validation), TEST[0], 10), **more)


@pytest.mark.parametrize("name", baselines.CLASSIFIERS)
def test_every_classifier_learns_and_repeats_itself(name):
    result = fitted(name)
    assert result.scores.shape == (200, 10)
    assert 80 < (result.scores.argmax(1) == TEST[1]).mean() * 100 < 99  # chance is 10; from 400 digits none is perfect
    assert result.chosen["features"] == "standardised"
    if result.probabilities:
        np.testing.assert_allclose(result.scores.sum(1), 1, atol=1e-6)
    assert np.array_equal(fitted(name).scores, result.scores)


def test_scores_are_scikit_learns_with_the_setting_that_is_best_on_validation():
    result = fitted("svm")
    accuracies = {}
    for value in (1, 10, 100):
        model = make_pipeline(StandardScaler(), SVC(C=value)).fit(*TRAIN)
        accuracies[value] = model.score(*VALIDATION) * 100
        if value == result.chosen["C"]:
            np.testing.assert_allclose(result.scores, model.decision_function(TEST[0]), atol=1e-3)  # a float32 kernel
    assert result.validation == pytest.approx(max(accuracies.values()))
    assert accuracies[result.chosen["C"]] == max(accuracies.values())
    assert result.selected_on == "100 validation images"
    assert not result.probabilities


def test_the_kernel_is_scikit_learns_and_large_sets_do_without_its_matrix(monkeypatch):
    features = StandardScaler().fit_transform(TRAIN[0]).astype(np.float32)
    gamma = SVC().fit(features, TRAIN[1])._gamma
    expected = rbf_kernel(features[:50].astype(np.float64), features.astype(np.float64), gamma=gamma)
    np.testing.assert_allclose(kernel_svm.rbf(features[:50], features), expected, atol=1e-5)
    small = fitted("svm")
    monkeypatch.setattr(kernel_svm, "ROWS", 33)
    np.testing.assert_allclose(fitted("svm").scores, small.scores, atol=1e-3)
    monkeypatch.setattr(baselines, "KERNEL", 399)
    large = fitted("svm")
    np.testing.assert_allclose(large.scores, small.scores, atol=1e-3)
    assert large.chosen == small.chosen


def test_the_choice_follows_validation_labels_alone(monkeypatch):
    """Validation labels that only a heavily regularised or a barely regularised model would give decide the setting."""
    values = (1e-6, 1.0)
    monkeypatch.setitem(baselines.CLASSIFIERS, "logistic", ("C", values, baselines.CLASSIFIERS["logistic"][2]))
    for value in values:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=value, max_iter=200)).fit(*TRAIN)
        result = fitted("logistic", validation=(VALIDATION[0], model.predict(VALIDATION[0])))
        assert result.chosen["C"] == value
        assert result.validation == 100
        np.testing.assert_allclose(result.scores, model.predict_proba(TEST[0]), atol=1e-6)


@pytest.mark.parametrize("name", baselines.CLASSIFIERS)
@pytest.mark.parametrize("kept", [(2, 5), (0, 3, 9)])
def test_classes_without_training_images_keep_their_column(name, kept):
    rows = np.isin(TRAIN[1], kept)
    result = fitted(name, train=(TRAIN[0][rows], TRAIN[1][rows]))
    assert result.scores.shape == (200, 10)
    assert set(result.scores.argmax(1)) == set(kept)
    seen = np.isin(TEST[1], kept)
    assert (result.scores.argmax(1) == TEST[1])[seen].mean() > 0.9
    assert np.isfinite(result.scores).all()


def test_the_cap_keeps_proportions_and_says_so(monkeypatch):
    labels = np.repeat([0, 1, 2, 7], [600, 300, 99, 1])
    rows = baselines.stratified(labels, 100, seed=0)
    assert np.bincount(labels[rows])[[0, 1, 2, 7]] == pytest.approx([60, 30, 10, 1], abs=1)
    assert 999 in rows  # the only image of its class
    assert len(set(rows)) == 100
    assert not np.array_equal(rows, baselines.stratified(labels, 100, seed=1))

    seen = []
    fit = SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, X, y: seen.append(len(X)) or fit(self, X, y))
    result = fitted("svm", limit=150)
    assert "150 of 400" in result.note
    assert fitted("svm", limit=None).note == ""
    assert seen == [150] * 3 + [400] * 3
    assert fitted("logistic", limit=150).note == ""


@pytest.mark.parametrize(("words", "message"), [
    ({"train": (TRAIN[0][:5], np.full(5, 3))}, "all 5 labelled training images are of class 3"),
    ({"validation": (VALIDATION[0][:0], VALIDATION[1][:0])}, "data.validation=0"),
])
def test_what_cannot_be_fitted_or_chosen_is_one_line(words, message):
    with pytest.raises(ValueError, match=message) as caught:
        fitted("svm", **words)
    assert "\n" not in str(caught.value)


def test_a_fixed_setting_needs_no_validation():
    result = fitted("random forest", validation=(VALIDATION[0][:0], VALIDATION[1][:0]))
    assert result.selected_on == "nothing: fixed"
    assert result.validation is None
