"""Quick scores of frozen features for the tools' own reports: kNN, and logistic regression on all labels or few.

Nothing is chosen: C is 1. Solved by scikit-learn in memory. linear_eval/logistic.py solves the same problem in blocks; with
float32 features the two round differently, and an image near a boundary may change sides.
"""
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from linear_eval.average_precision import mean_average_precision
from linear_eval.knn import knn_accuracy, knn_map

ITERATIONS = 100  # of L-BFGS, at most, with all labels


def logistic_accuracy(reference: Tensor, reference_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Accuracy in per cent of logistic regression (C = 1, standardized features) from every label of the reference set.

    reference: N,D and queries: M,D with their N and M labels.
    """
    return _accuracy(*_arrays(reference, reference_labels, queries, labels), ITERATIONS)


def few_labels(
    reference: Tensor,
    reference_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    per_class: int = 5,
    draws: int = 5,
    seed: int = 0,
) -> tuple[float, float]:
    """The same from `per_class` labels a class.

    → mean and standard deviation over `draws` choices of the labeled images, in per cent. Classes with fewer images give
    all of them.
    """
    x, y, queries, labels = _arrays(reference, reference_labels, queries, labels)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(draws):
        groups = [np.flatnonzero(y == c) for c in np.unique(y)]
        rows = np.concatenate([rng.permutation(group)[:per_class] for group in groups])
        scores.append(_accuracy(x[rows], y[rows], queries, labels))
    return float(np.mean(scores)), float(np.std(scores))


def frozen_scores(
    reference: Tensor, reference_labels: Tensor, queries: Tensor, labels: Tensor, classes: int
) -> dict[str, float]:
    """The scores of frozen features in the tools' reports: accuracy in per cent by kNN, by all labels and by five a class.

    → "knn"; "logistic", by `logistic_accuracy`; "five_labels" and "five_labels_std", by `few_labels`.
    reference: N,D and queries: M,D with their N and M labels.
    """
    data = reference, reference_labels, queries, labels
    few, deviation = few_labels(*data)
    scores = {"knn": knn_accuracy(*data, classes), "logistic": logistic_accuracy(*data)}
    return scores | {"five_labels": few, "five_labels_std": deviation}


def frozen_multilabel_scores(
    reference: Tensor, reference_labels: Tensor, queries: Tensor, labels: Tensor
) -> dict[str, float]:
    """The scores of frozen features where an image may have several labels: mean average precision in per cent.

    → "knn_map", the vote of the k nearest on each class; "logistic_map", logistic regression of each class against the rest
    (C = 1, standardized features).  reference: N,D and queries: M,D with their labels N,K and M,K, of 0 and 1.
    """
    x, y, z, true = _arrays(reference, reference_labels, queries, labels)
    scaler = StandardScaler().fit(x)
    x, z, columns = scaler.transform(x), scaler.transform(z), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for one in y.T:
            varied = 0 < one.sum() < len(one)
            model = LogisticRegression(max_iter=ITERATIONS).fit(x, one) if varied else None
            columns.append(np.full(len(z), one[0]) if model is None else model.decision_function(z))
    linear = 100 * mean_average_precision(true, np.stack(columns, 1))
    return {"knn_map": knn_map(reference, reference_labels, queries, labels), "logistic_map": linear}


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().float().cpu().numpy() for x in tensors]


def _accuracy(x: np.ndarray, y: np.ndarray, queries: np.ndarray, labels: np.ndarray, iterations: int = 200) -> float:
    scaler = StandardScaler().fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=iterations).fit(scaler.transform(x), y)
    return float((model.predict(scaler.transform(queries)) == labels).mean() * 100)
