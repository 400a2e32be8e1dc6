"""Figures of test scores, in %. A class that no test image has stays a column and a row, and spoils no mean."""
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

BINS = 15  # of confidence, equally wide: Guo et al. 2017 (arXiv 1706.04599)
CONFIDENCE = 0.95


def figures(scores: np.ndarray, labels: np.ndarray, probabilities: bool) -> dict:
    """What a table says of one row, in %.  scores: M,C, the greatest is the prediction; labels: M

    interval: Wilson's, 95 %, of the accuracy over test images like these; training again is not in it.
    top5: None below six classes. ece: None where scores are no probabilities.
    balanced_accuracy: mean recall of the classes that test images have. macro_f1: mean over the classes that are true or
    predicted somewhere. Both as scikit-learn takes them.
    Raises ValueError without test images.
    """
    if not len(labels):
        raise ValueError("there are no test images to take figures of; give the data a test split")
    matrix = confusion(scores, labels)
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    interval = binomtest(int(right.sum()), len(labels)).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "accuracy": float(right.sum() / len(labels) * 100),
        "interval": [interval.low * 100, interval.high * 100],
        "top5": float((_rank(scores, labels) < 5).mean() * 100) if scores.shape[1] > 5 else None,
        "balanced_accuracy": float(_mean(right[true > 0] / true[true > 0])),
        "macro_f1": float(_mean((2 * right / np.maximum(true + predicted, 1))[true + predicted > 0])),
        "ece": ece(scores, labels) if probabilities else None,
    }


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images of each class (row) are taken for each class (column).  M,C and M → C,C int64"""
    classes = scores.shape[1]
    return np.bincount(labels * classes + scores.argmax(1), minlength=classes**2).reshape(classes, classes)


def per_class(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Precision, recall and F1 of every class in %, 0 where nothing can be counted, and its test images."""
    matrix = confusion(scores, labels)
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    precision, recall = right / np.maximum(predicted, 1) * 100, right / np.maximum(true, 1) * 100
    f1 = 2 * right / np.maximum(true + predicted, 1) * 100
    columns = {"precision": precision, "recall": recall, "f1": f1}
    return [
        {"class": name, **{key: float(column[i]) for key, column in columns.items()}, "images": int(true[i])}
        for i, name in enumerate(names)
    ]


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
    """How often predictions of each confidence are right.  M,C and M → confidence, accuracy (%) and count, by bin

    Bin i is the confidences in (i/bins, (i+1)/bins]; confidence and accuracy of an empty bin are NaN.
    """
    confidence = probabilities.max(1)
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count, count, np.nan)
    right = probabilities.argmax(1) == labels
    return {
        "confidence": np.bincount(place, confidence, bins) / filled * 100,
        "accuracy": np.bincount(place, right, bins) / filled * 100,
        "count": count,
    }


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error in %, equation 3 of Guo et al. 2017: Σ over bins of n_b/M |accuracy_b − confidence_b|."""
    r = reliability(probabilities, labels, bins)
    return float(np.nansum(r["count"] * np.abs(r["accuracy"] - r["confidence"])) / len(labels))


def confused_pairs(scores: np.ndarray, labels: np.ndarray, pairs: int = 8, examples: int = 8) -> list[dict]:
    """The ordered pairs of classes that are confused most often, most often first; of equals by class.

    → true, predicted (classes), count, share (of the true class's images, %), and indices: where the mistakes are, those
    with the greatest score for the wrong class first.
    """
    matrix, predicted = confusion(scores, labels), scores.argmax(1)
    images = matrix.sum(1)
    wrong = matrix - np.diag(matrix.diagonal())
    found = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:pairs]:
        true, taken = (int(i) for i in np.unravel_index(place, wrong.shape))
        if not (count := int(wrong[true, taken])):
            break
        mistakes = np.flatnonzero((labels == true) & (predicted == taken))
        surest = mistakes[np.argsort(-scores[mistakes, taken], kind="stable")][:examples]
        share = count / images[true] * 100
        found.append({"true": true, "predicted": taken, "count": count, "share": float(share), "indices": surest.tolist()})
    return found


def _rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Classes before the right one, equal scores by class as argmax has them.  M"""
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1)


def _mean(shares: np.ndarray) -> float:
    return shares.mean() * 100
