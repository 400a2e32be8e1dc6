"""Average precision, F1 and thresholds where an image may have several labels.

labels: M,K of 0 and 1; scores: M,K, greater where a class is likelier; no more than their order within a class counts for
average precision. Figures are shares in 0..1.
"""
from dataclasses import dataclass

import numpy as np

from linear_eval.bootstrap import interval, weight_blocks

RESAMPLES, LEAST = 1_000, 200  # of the bootstrap; so few where images × classes are many
WORK = 200_000_000  # images × classes × resamples beyond which there are fewer
BLOCK = 100  # resamples at a time


@dataclass(frozen=True)
class _Ranking:
    """One class's images, the best score first.  order: M; ends: of each positive, the last rank of equal scores; positives:
    their ranks, P"""

    order: np.ndarray
    positives: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> "_Ranking":
        order = np.argsort(-scores, kind="stable")
        sorted_scores = scores[order]
        last = np.append(np.flatnonzero(sorted_scores[1:] != sorted_scores[:-1]), len(order) - 1)  # of each set of equals
        positives = np.flatnonzero(labels[order])
        return cls(order, positives, last[np.searchsorted(last, positives)])

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """For each column of how often an image counts, M,B → B; NaN where no positive image counts."""
        ranked = weights[self.order]
        seen = np.cumsum(ranked, 0, dtype=np.float64)[self.ends]
        hit = np.zeros_like(ranked)
        hit[self.positives] = ranked[self.positives]
        right = np.cumsum(hit, 0, dtype=np.float64)[self.ends]
        mine = ranked[self.positives]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(mine > 0, right / seen, 0.0)
            return (mine * precision).sum(0) / mine.sum(0)


def average_precisions(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of each class; NaN of one without a positive image.  → K

    Σ over thresholds of (recall − the recall before) × precision, scikit-learn's average_precision_score.
    """
    every = np.ones((len(labels), 1))
    columns = [_Ranking.of(labels[:, k], scores[:, k]).average_precision(every)[0] if labels[:, k].any() else np.nan
               for k in range(labels.shape[1])]
    return np.array(columns)


def mean_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean over classes that have a positive image (macro).  NaN where none has."""
    found = average_precisions(labels, scores)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def eleven_point_map(labels: np.ndarray, scores: np.ndarray) -> float:
    """PASCAL VOC 2007's: the mean over recalls 0, 0.1, … 1 of the greatest precision at that recall or a higher one, and over
    the classes that have a positive image (Everingham et al., IJCV 2010, §4.2).  NaN where none has.
    """
    found = []
    for k in range(labels.shape[1]):
        if not labels[:, k].any():
            continue
        order = np.argsort(-scores[:, k], kind="stable")
        right, sorted_scores = np.cumsum(labels[order, k]), scores[order, k]
        last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)  # equal scores are taken together
        precision, recall = (right / np.arange(1, len(right) + 1))[last], (right / right[-1])[last]
        # A recall of 0.3 may be rounded below 0.3.
        found.append(np.mean([precision[recall >= at - 1e-9].max() for at in np.linspace(0, 1, 11)]))
    return float(np.mean(found)) if found else float("nan")


def bootstrap_interval(labels: np.ndarray, scores: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean average precision over images drawn with replacement (Efron 1979).

    RESAMPLES of them, fewer (LEAST, at least) where images × classes × resamples are more than WORK.
    """
    count, classes = labels.shape
    resamples = min(RESAMPLES, max(LEAST, WORK // max(1, count * classes)))
    rankings = [_Ranking.of(labels[:, k], scores[:, k]) for k in range(classes) if labels[:, k].any()]
    means = []
    for drawn in weight_blocks(count, seed, resamples, BLOCK * count):
        weights = drawn.T.astype(np.float32)  # M,B
        found = np.stack([ranking.average_precision(weights) for ranking in rankings])
        known = np.isfinite(found)
        means.append(np.where(known, found, 0).sum(0) / np.maximum(known.sum(0), 1))
    low, high = interval(np.concatenate(means))
    return low, high


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The score from which on a class is predicted, the same for all, at which the micro-averaged F1 is highest.

    Of equally good ones the highest. Chosen on validation images.
    """
    flat, right = scores.ravel(), labels.ravel().astype(bool)
    order = np.argsort(-flat, kind="stable")
    hits = np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(flat) + 1) + right.sum())
    last = np.append(flat[order][1:] != flat[order][:-1], True)  # a threshold takes all of equal scores
    return float(flat[order][np.where(last, f1, -1).argmax()])


def f1_scores(labels: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float, float, np.ndarray]:
    """Micro, macro and of each class, K.  0 of a class without a positive image and without a prediction, as scikit-learn's
    f1_score with zero_division=0."""
    predicted, labels = scores >= threshold, labels.astype(bool)
    right = (predicted & labels).sum(0)
    both = predicted.sum(0) + labels.sum(0)
    each = np.where(both > 0, 2 * right / np.maximum(both, 1), 0.0)
    return float(2 * right.sum() / max(int(both.sum()), 1)), float(each.mean()), each
