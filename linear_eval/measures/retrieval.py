"""Retrieval among test images: each asks for the others of its class, itself left out."""
from dataclasses import dataclass

import numpy as np

from linear_eval.bootstrap import interval, weights
from linear_eval.knn import as_unit_rows
from linear_eval.results import Figure, Measure

BLOCK = 256  # queries at a time


@dataclass(frozen=True)
class RetrievalConfig:
    """queries: at most, evenly spaced; all images are searched. recall: k of Recall@k. bootstrap: resamples of queries."""

    queries: int
    recall: list[int]
    bootstrap: int


def retrieval(x: np.ndarray, labels: np.ndarray, config: RetrievalConfig, seed: int, source: str) -> Measure:
    """By cosine similarity.  x: M,D of test images; labels: M

    mAP: mean over queries of the average precision of the whole ranking. mAP@R: of its first R, the images of the query's
    class (Musgrave et al. 2020, arXiv 2003.08505). Recall@k: share of queries with one of their class among the k nearest.
    Queries that are alone in their class are left out and counted. Equally near images come in the order of the split.
    """
    z = as_unit_rows(x)
    queries = np.unique(np.linspace(0, len(z) - 1, min(config.queries, len(z))).astype(int))
    sizes = np.bincount(labels)[labels[queries]]
    alone, queries = int((sizes == 1).sum()), queries[sizes > 1]
    found = {name: np.empty(len(queries)) for name in ("mAP", "mAP@R", *(f"Recall@{k}" for k in config.recall))}
    place = np.arange(1, len(z))
    for start in range(0, len(queries), BLOCK):
        rows, some = slice(start, start + BLOCK), queries[start : start + BLOCK]
        similarity = z[some] @ z.T
        similarity[np.arange(len(some)), some] = -np.inf  # itself comes last
        relevant = labels[np.argsort(-similarity, axis=1, kind="stable")[:, :-1]] == labels[some, None]
        right = relevant.sum(1)
        precision = np.cumsum(relevant, 1) / place * relevant
        found["mAP"][rows] = precision.sum(1) / right
        found["mAP@R"][rows] = np.where(place <= right[:, None], precision, 0).sum(1) / right
        for k in config.recall:
            found[f"Recall@{k}"][rows] = relevant[:, :k].any(1)
    figures = []
    if len(queries):
        drawn = weights(len(queries), seed, config.bootstrap) / len(queries)
        figures = [Figure(name, float(100 * each.mean()), interval(100 * drawn @ each), "%") for name, each in found.items()]
    return Measure(
        "retrieval", source, figures=figures, counts={"queries": len(queries), "left out, alone in their class": alone},
        note="leave-one-out on test images, cosine",
    )
