"""Figures of test scores, in %. A class without test images keeps its column and row, and is left out of means."""
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics

from linear_eval.bootstrap import CONFIDENCE

BINS = 15  # of confidence, equally wide: Guo et al. 2017 (arXiv 1706.04599)


def figures(scores: np.ndarray, labels: np.ndarray, probabilities: bool) -> dict:
    """The figures of one row, in %.  scores: M,C, the greatest is the prediction; labels: M

    interval: Wilson's, 95 %, of the accuracy over test images like these; training again is not in it.
    top5: None below six classes. ece: None where scores are no probabilities.
    balanced_accuracy: mean recall of the classes that test images have. macro_f1: mean over the classes that are true or
    predicted somewhere. Both are scikit-learn's.
    Raises ValueError without test images.
    """
    if not len(labels):
        raise ValueError("there are no test images to take figures of; give the data a test split")
    predicted = scores.argmax(1)
    right = int((predicted == labels).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes that are predicted and never true
        balanced = metrics.balanced_accuracy_score(labels, predicted)
    return {
        "accuracy": float(right / len(labels) * 100),
        "interval": wilson(right, len(labels)),
        "top5": float((_rank(scores, labels) < 5).mean() * 100) if scores.shape[1] > 5 else None,
        "balanced_accuracy": float(balanced * 100),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0) * 100),
        "ece": ece(scores, labels) if probabilities else None,
    }


def wilson(right: int, images: int) -> list[float]:
    """Wilson's 95 % interval of a share of images, in %."""
    interval = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return [float(interval.low * 100), float(interval.high * 100)]


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images of each class (row) are taken for each class (column).  M,C and M → C,C int64"""
    return metrics.confusion_matrix(labels, scores.argmax(1), labels=range(scores.shape[1]))


def per_class(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Precision, recall and F1 of every class in %, 0 where nothing can be counted, and its test images."""
    values = metrics.precision_recall_fscore_support(labels, scores.argmax(1), labels=range(len(names)), zero_division=0)
    return [
        {"class": name, "precision": float(p * 100), "recall": float(r * 100), "f1": float(f1 * 100), "images": int(images)}
        for name, p, r, f1, images in zip(names, *values, strict=True)
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


@dataclass(frozen=True)
class ConfusedPair:
    """true, predicted: classes; share: of the true class's images, %; indices: the mistakes with the greatest scores first"""

    true: int
    predicted: int
    count: int
    share: float
    indices: list[int]


def confused_pairs(scores: np.ndarray, labels: np.ndarray, pairs: int = 8, examples: int = 8) -> list[ConfusedPair]:
    """The ordered pairs of classes that are confused most often, most often first; of equals by class.

    indices are those of `examples` mistakes, with the greatest score for the wrong class first.
    """
    matrix, predictions = confusion(scores, labels), scores.argmax(1)
    images = matrix.sum(1)
    wrong = matrix - np.diag(matrix.diagonal())
    confused = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:pairs]:
        true, predicted = (int(i) for i in np.unravel_index(place, wrong.shape))
        if not (count := int(wrong[true, predicted])):
            break
        mistakes = np.flatnonzero((labels == true) & (predictions == predicted))
        surest = mistakes[np.argsort(-scores[mistakes, predicted], kind="stable")][:examples]
        confused.append(ConfusedPair(true, predicted, count, float(count / images[true] * 100), surest.tolist()))
    return confused


def _rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Classes before the right one, equal scores by class as argmax has them.  M"""
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1)
