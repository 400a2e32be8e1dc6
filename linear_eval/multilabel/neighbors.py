"""k nearest neighbors where an image may have several labels: a weighted vote on each class."""
import time
from collections.abc import Sequence

import numpy as np

from linear_eval.knn import class_votes, neighbors
from linear_eval.multilabel.results import protocol_result, validation_map
from linear_eval.probe_data import ProbeData
from linear_eval.results import ProtocolResult


def knn_multilabel(data: ProbeData, ks: Sequence[int], temperatures: Sequence[float], **fields) -> ProtocolResult:
    """The k and T with the best mean average precision on validation (the first of equals), then the test images by them."""
    began = time.perf_counter()
    reference, labels = data.train.x, np.asarray(data.train.labels)
    similarity, index = neighbors(reference, data.validation.x, max(ks))
    best = None
    for k in dict.fromkeys(min(k, len(reference)) for k in ks):
        for T in temperatures:
            scores = class_votes(similarity, index, labels, k, T)
            value = validation_map(data.validation.labels, scores)
            if best is None or value > best[0]:
                best = value, k, T, scores
    _, k, T, of_validation = best
    similarity, index = neighbors(reference, data.test, k)
    scores = class_votes(similarity, index, labels, k, T)
    return protocol_result("knn", data, scores, of_validation, {"k": k, "T": T, "normalization": "L2"}, began, **fields)
