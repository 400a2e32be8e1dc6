"""Classical classifiers on fixed features: what a linear layer has to beat."""
import time
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from linear_eval import kernel_svm
from linear_eval.kernel_svm import KernelSVM
from linear_eval.probe_data import Labeled, ProbeData
from linear_eval.results import ProtocolResult


def _each(build: Callable[[float, int], BaseEstimator]) -> Callable[..., list[Pipeline]]:
    """A fitted pipeline for each value of the setting."""

    def fit(train: np.ndarray, labels: np.ndarray, values: tuple, seed: int) -> list[Pipeline]:
        return [make_pipeline(StandardScaler(), build(value, seed)).fit(train, labels) for value in values]

    return fit


def _svms(train: np.ndarray, labels: np.ndarray, values: tuple, seed: int) -> list[KernelSVM] | list[Pipeline]:
    if len(train) <= KERNEL:
        return kernel_svm.fit(train, labels, values)
    return _each(lambda value, _: SVC(C=value, cache_size=2000))(train, labels, values, seed)


LIMITED = ("svm", "random forest")  # cost minutes on tens of thousands of images: the SVM grows with their square
KERNEL = 20_000  # images whose kernel matrix, 3.2 GB, still fits most machines
ITERATIONS = 200  # of L-BFGS, at most
# Name → what its setting is called, the values tried, gentlest first, and how to fit a model for each.
CLASSIFIERS = {
    "svm": ("C", (1, 10, 100), _svms),
    # The dual problem: of 4,000 HOG features in a fifth of the primal's time.
    "linear svm": ("C", (0.0001, 0.001, 0.01), _each(lambda value, seed: LinearSVC(C=value, dual=True, random_state=seed))),
    "logistic": (
        "C", (0.0001, 0.001, 0.01, 0.1, 1), _each(lambda value, _: LogisticRegression(C=value, max_iter=ITERATIONS)),
    ),
    "random forest": (
        "trees", (200,), _each(lambda value, seed: RandomForestClassifier(value, random_state=seed, n_jobs=-1)),
    ),
}


def classify(name: str, data: ProbeData, seed: int = 0, limit: int | None = 10_000) -> ProtocolResult:
    """Fit one of CLASSIFIERS on standardized features with each of its settings; keep the one that is best on validation.

    scores: M,classes, lowest for classes without training images. limit: training images of LIMITED, which cost most; None:
    all. Raises ValueError where the training labels hold a single class, or settings are to be chosen and there is no
    validation image.
    """
    start = time.monotonic()
    setting, values, fit = CLASSIFIERS[name]
    x, labels, validation = data.train.x, data.train.labels, data.validation
    if len(present := np.unique(labels)) < 2:
        raise ValueError(f"data: all {len(labels):,} labelled training images are of class {present[0]}; {name} needs "
                         "two classes or more: give more labels, or another set")
    if len(values) > 1 and not len(validation):
        raise ValueError(f"data.validation=0 leaves no image to choose {name}'s {setting} on; leave it at 0.1")
    note = ""
    if name in LIMITED and limit is not None and limit < len(x):
        note = f"fitted on {limit:,} of {len(x):,} training images, every class in proportion"
        rows = stratified(labels, limit, seed)
        x, labels = x[rows], labels[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what so many iterations reach is measured on validation
        models = fit(x, labels, values, seed)
    accuracies = [_accuracy(model, validation, data.classes) for model in models]
    best = int(np.argmax(accuracies))  # the gentlest of equals
    return ProtocolResult(
        method=name,
        scores=_scores(models[best], data.test, data.classes),
        chosen={setting: values[best], "features": "standardised"},
        selected_on=data.selected_on if len(values) > 1 else "nothing: fixed",
        validation=accuracies[best],
        probabilities=hasattr(models[best], "predict_proba"),
        note=note,
        seconds=time.monotonic() - start,
    )


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of `count` images, every class in proportion to its share, at least one of each; in ascending order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[labels[order].argsort(kind="stable")]  # class by class, in random order within each
    _, counts = np.unique(labels, return_counts=True)
    depth = np.concatenate([np.arange(n) / n for n in counts])  # how far down its class an image lies: 0 for the first
    return np.sort(order[depth.argsort(kind="stable")[:count]])


def _scores(model: Pipeline | KernelSVM, features: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities where the model has them, else margins.  M,D → M,classes"""
    if hasattr(model, "predict_proba"):
        values, lowest = model.predict_proba(features), 0.0
    else:
        values = model.decision_function(features)
        values = np.stack((-values, values), 1) if values.ndim == 1 else values  # scikit-learn's form for two classes
        lowest = values.min() - 1
    scores = np.full((len(features), classes), lowest)
    scores[:, model.classes_] = values
    return scores


def _accuracy(model: Pipeline | KernelSVM, data: Labeled, classes: int) -> float | None:
    return float((_scores(model, data.x, classes).argmax(1) == data.labels).mean() * 100) if len(data) else None
