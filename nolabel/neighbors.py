"""Nearest neighbors of features."""
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Neighbors:
    """The k nearest rows of a reference set, nearest first."""

    index: np.ndarray  # M,k: which rows
    similarity: np.ndarray  # M,k: cosine, from -1 to 1
    predicted: np.ndarray | None  # M: the class they vote for; None without labels


def knn(reference: np.ndarray, queries: np.ndarray, k: int = 20, labels: np.ndarray | None = None) -> Neighbors:
    """The nearest neighbors of features by cosine, exact (faiss).  reference: N,D; queries: M,D; labels: N whole numbers from 0

    The vote is weighted by exp(similarity/0.07) (Wu et al. 2018, arXiv 1805.01978).  Raises ValueError where shapes do not fit.
    """
    from linear_eval.knn import TEMPERATURE, neighbors, votes

    if reference.ndim != 2 or queries.ndim != 2 or reference.shape[1] != queries.shape[1] or not len(reference):
        raise ValueError(f"reference and queries: must be N,D and M,D, not {reference.shape} and {queries.shape}")
    if not k > 0:
        raise ValueError(f"k={k}: must be more than 0")
    similarity, index = neighbors(reference, queries, k)
    if labels is None:
        return Neighbors(index, similarity, None)
    labels = np.asarray(labels)
    if labels.shape != (len(reference),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"labels: must be {len(reference)} whole numbers from 0, not {labels.dtype} of shape {labels.shape}")
    predicted = votes(similarity, labels[index], int(labels.max()) + 1, k, TEMPERATURE).argmax(1)
    return Neighbors(index, similarity, predicted)
