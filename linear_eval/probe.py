"""Linear classifiers on frozen features."""
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

ITERATIONS = 100  # of L-BFGS, at most


def linear(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Accuracy in per cent of logistic regression (C = 1, standardised features) from every label of the bank.

    bank: N,D and queries: M,D with their N and M labels.
    """
    return _logistic(*_arrays(bank, bank_labels, queries, labels), ITERATIONS)


def few_labels(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, per_class: int = 5, draws: int = 5, seed: int = 0
) -> tuple[float, float]:
    """The same from `per_class` labels a class.

    → mean and standard deviation over `draws` choices of the labelled images, in per cent. Classes with fewer images give
    all they have.
    """
    bank, bank_labels, queries, labels = _arrays(bank, bank_labels, queries, labels)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(draws):
        groups = [np.flatnonzero(bank_labels == c) for c in np.unique(bank_labels)]
        chosen = np.concatenate([rng.permutation(group)[:per_class] for group in groups])
        scores.append(_logistic(bank[chosen], bank_labels[chosen], queries, labels))
    return float(np.mean(scores)), float(np.std(scores))


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().float().cpu().numpy() for x in tensors]


def _logistic(
    bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, labels: np.ndarray, iterations: int = 200
) -> float:
    scaler = StandardScaler().fit(bank)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=iterations).fit(scaler.transform(bank), bank_labels)
    return float((model.predict(scaler.transform(queries)) == labels).mean() * 100)
