"""Linear classifiers on frozen features."""
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor


def few_labels(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, per_class: int = 5, draws: int = 5, seed: int = 0
) -> tuple[float, float]:
    """Accuracy of logistic regression (C = 1, standardised features) from `per_class` labels a class.

    → mean and standard deviation over `draws` choices of the labelled images, in per cent. Classes with fewer images give
    all they have.
    """
    bank, queries, bank_labels, labels = (x.detach().float().cpu().numpy() for x in (bank, queries, bank_labels, labels))
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(draws):
        groups = [np.flatnonzero(bank_labels == c) for c in np.unique(bank_labels)]
        chosen = np.concatenate([rng.permutation(group)[:per_class] for group in groups])
        scaler = StandardScaler().fit(bank[chosen])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(max_iter=200).fit(scaler.transform(bank[chosen]), bank_labels[chosen])
        scores.append((model.predict(scaler.transform(queries)) == labels).mean() * 100)
    return float(np.mean(scores)), float(np.std(scores))
