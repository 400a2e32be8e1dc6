"""Classical classifiers of each class against the rest: the SVM, the linear SVM, logistic regression and the forest."""
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from linear_eval.baselines import CLASSIFIERS, ITERATIONS, LIMITED
from linear_eval.kernel_svm import ROWS, rbf
from linear_eval.multilabel.results import protocol_result, validation_map
from linear_eval.probe_data import Labeled, ProbeData
from linear_eval.results import ProtocolResult
from linear_eval.subsets import share as share_of_labels


def classify_multilabel(name: str, data: ProbeData, seed: int = 0, limit: int | None = 10_000) -> ProtocolResult:
    """One of CLASSIFIERS for each class against the rest; the setting with the best mean average precision on validation.

    limit: training images of LIMITED, which cost most. A class that all or no training images have gets one score for all.
    """
    began = time.perf_counter()
    setting, values, _ = CLASSIFIERS[name]
    train = Labeled(np.asarray(data.train.x), np.asarray(data.train.labels))
    note = ""
    if name in LIMITED and limit is not None and limit < len(train):
        rows = share_of_labels(train.labels, limit / len(train), seed, 0)
        note = f"fitted on {len(rows):,} of {len(train):,} training images, every class in proportion"
        train = Labeled(train.x[rows], train.labels[rows])
    tried = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for value, scores in zip(values, _scores(name, train, [data.validation.x, data.test], values, seed), strict=True):
            tried.append((validation_map(data.validation.labels, scores[0]), value, *scores))
    best = max(range(len(tried)), key=lambda i: (tried[i][0], -i))
    _, value, of_validation, of_test = tried[best]
    chosen = {setting: value, "features": "standardised"}
    result = protocol_result(
        name, data, of_test, of_validation, chosen, began, note=note, probabilities=name in ("logistic", "random forest")
    )
    return result if len(values) > 1 else replace(result, selected_on="nothing: fixed")


def _scores(name: str, train: Labeled, queries: list, values: Sequence, seed: int) -> list[list[np.ndarray]]:
    """For each value of the setting, of each set of queries: M,K."""
    if name == "random forest":
        return [_forest(train, queries, value, seed) for value in values]
    if name == "svm":
        return _kernel_svms(train, queries, values)
    build = {"linear svm": lambda value: LinearSVC(C=value, dual=True, random_state=seed),
             "logistic": lambda value: LogisticRegression(C=value, max_iter=ITERATIONS)}[name]
    found = []
    for value in values:
        models = [_constant(y) or make_pipeline(StandardScaler(), build(value)).fit(train.x, y) for y in train.labels.T]
        how = "predict_proba" if name == "logistic" else "decision_function"
        found.append([np.stack([_of_positive(model, x, how) for model in models], 1) for x in queries])
    return found


class _Constant:
    """A class that all or no training images have."""

    def __init__(self, value: float):
        self.value = value

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return np.full(len(x), self.value)


def _constant(y: np.ndarray) -> _Constant | None:
    return _Constant(float(y[0])) if (y == y[0]).all() else None


def _of_positive(model, x: np.ndarray, how: str) -> np.ndarray:
    if isinstance(model, _Constant):
        return model.decision_function(x)
    found = getattr(model, how)(np.asarray(x))
    return found[:, 1] if found.ndim == 2 else found


def _forest(train: Labeled, queries: list, trees: int, seed: int) -> list[np.ndarray]:
    scaler = StandardScaler().fit(train.x)
    model = RandomForestClassifier(trees, random_state=seed, n_jobs=-1).fit(scaler.transform(train.x), train.labels)

    def probability(x) -> np.ndarray:
        found = model.predict_proba(scaler.transform(x))  # of each class, M and its values, 0 and 1 or one of them
        return np.stack([p @ np.asarray(kinds, float) for p, kinds in zip(found, model.classes_, strict=True)], 1)

    return [probability(x) for x in queries]


def _kernel_svms(train: Labeled, queries: list, values: Sequence[float]) -> list[list[np.ndarray]]:
    """make_pipeline(StandardScaler(), SVC(C)) of each class, by kernel matrices that all share (linear_eval/kernel_svm.py)."""
    scaler = StandardScaler().fit(train.x)
    features = scaler.transform(train.x).astype(np.float32)

    def blocks(x):
        x = scaler.transform(x).astype(np.float32)
        return (rbf(x[i : i + ROWS], features) for i in range(0, len(x), ROWS))

    kernel = np.concatenate(list(blocks(train.x)))
    models = [[_constant(y) or SVC(C=value, kernel="precomputed").fit(kernel, y) for y in train.labels.T] for value in values]
    found: list[list[list[np.ndarray]]] = [[[] for _ in queries] for _ in values]
    for q, x in enumerate(queries):
        for block in blocks(x):
            for v, some in enumerate(models):
                found[v][q].append(np.stack([model.decision_function(block) for model in some], 1))
    return [[np.concatenate(parts) for parts in of_value] for of_value in found]
