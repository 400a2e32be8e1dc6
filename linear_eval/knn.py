"""k nearest neighbors on frozen features, exact (faiss), in memory that does not grow with the reference set."""
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from linear_eval.average_precision import mean_average_precision
from linear_eval.probe_data import ProbeData
from linear_eval.results import ProtocolResult

if TYPE_CHECKING:
    import faiss

K, TEMPERATURE = 20, 0.07
BLOCK = 16_384  # rows of the reference set, and of the queries, that are in memory at a time


def neighbors(
    reference: np.ndarray | Tensor, queries: np.ndarray | Tensor, k: int, reference_block: int = BLOCK, query_block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities and indices of the k nearest rows of the reference set.  N,D and M,D → M,k and M,k

    Nearest first, equally near ones by index. Which of several equally near rows is the last within k is faiss's choice.
    Memory: the result and at most six float32 blocks of BLOCK,D (0.4 GB at D = 1,000), whatever N and M; the arrays may be
    memory-mapped.
    """
    k = min(k, len(reference))
    similarity = np.full((len(queries), k), -np.inf, np.float32)
    index = np.full((len(queries), k), len(reference))
    for start in range(0, len(reference), reference_block):
        part = _index(reference.shape[1])
        part.add(as_unit_rows(reference[start : start + reference_block]))
        for first in range(0, len(queries), query_block):
            rows = slice(first, first + query_block)
            near, where = part.search(as_unit_rows(queries[rows]), min(k, part.ntotal))
            near = np.concatenate([similarity[rows], near], axis=1)
            where = np.concatenate([index[rows], where + start], axis=1)
            best = np.lexsort((where, -near), axis=1)[:, :k]
            similarity[rows], index[rows] = np.take_along_axis(near, best, 1), np.take_along_axis(where, best, 1)
    return similarity, index


def _index(dim: int) -> "faiss.Index":
    import faiss

    index = faiss.IndexFlatIP(dim)
    return faiss.index_cpu_to_all_gpus(index) if getattr(faiss, "get_num_gpus", lambda: 0)() else index


def as_unit_rows(x: np.ndarray | Tensor) -> np.ndarray:
    """Rows of length 1.  B,D → B,D float32"""
    x = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x, np.float32))
    return F.normalize(x.detach().float().cpu(), dim=1).contiguous().numpy()


def votes(similarity: np.ndarray, labels: np.ndarray, classes: int, k: int, temperature: float) -> np.ndarray:
    """The weighted vote of Wu et al. 2018 (arXiv 1805.01978) as DINO evaluates: weight exp(similarity/T).

    similarity and labels of the neighbors: M,≥k, nearest first → M,classes
    """
    weights = np.exp((similarity[:, :k] - similarity[:, :1]) / temperature)  # relative to the nearest: nothing overflows
    place = np.arange(len(labels))[:, None] * classes + labels[:, :k]
    return np.bincount(place.ravel(), weights.ravel(), len(labels) * classes).reshape(-1, classes)


def class_votes(similarity: np.ndarray, index: np.ndarray, labels: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """The share of the weighted vote that each class gets, where an image may have several labels.

    similarity, index: M,≥k of the neighbors, nearest first; labels: N,K of 0 and 1, of the reference set → M,K in 0..1
    """
    weights = np.exp((similarity[:, :k] - similarity[:, :1]) / temperature)
    weights /= weights.sum(1, keepdims=True)
    votes = np.zeros((len(index), labels.shape[1]))
    for neighbor in range(weights.shape[1]):
        votes += weights[:, neighbor, None] * labels[index[:, neighbor]]
    return votes


def knn_map(reference: Tensor, reference_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Mean average precision in per cent of the vote on each class, where an image may have several labels.

    N,D with labels N,K, and M,D with labels M,K, of 0 and 1.  NaN where no query has a class.
    """
    similarity, index = neighbors(reference, queries, K)
    scores = class_votes(similarity, index, _numpy(reference_labels), K, TEMPERATURE)
    return 100 * mean_average_precision(_numpy(labels), scores)


def knn(
    reference: Tensor, reference_labels: Tensor, queries: Tensor, classes: int, k: int = K, temperature: float = TEMPERATURE
) -> np.ndarray:
    """The class that the k nearest vote for.  N,D with labels N, and M,D → M labels"""
    similarity, index = neighbors(reference, queries, k)
    return votes(similarity, _numpy(reference_labels)[index], classes, k, temperature).argmax(1)


def knn_left_out(rows: Tensor, labels: Tensor, places: Tensor, classes: int) -> np.ndarray:
    """The class that an image's K nearest others vote for.  N,D with labels N; places: M int64, which of them → M labels"""
    similarity, index = neighbors(rows, rows[places], K + 1)
    others = index != places.numpy()[:, None]
    others[others.all(1), -1] = False  # copies of an image hide it from its own neighbors
    shape = len(places), index.shape[1] - 1
    similarity, index = similarity[others].reshape(shape), index[others].reshape(shape)
    return votes(similarity, _numpy(labels)[index], classes, K, TEMPERATURE).argmax(1)


def knn_accuracy(
    reference: Tensor, reference_labels: Tensor, queries: Tensor, labels: Tensor, classes: int, **settings
) -> float:
    """Share of the queries whose vote is right, in per cent."""
    predicted = knn(reference, reference_labels, queries, classes, **settings)
    return float((predicted == _numpy(labels)).mean() * 100)


def knn_grid(data: ProbeData, ks: Sequence[int], temperatures: Sequence[float]) -> ProtocolResult:
    """The k and T with the best vote on validation (the first of equals), then the test images by them.

    One search finds the neighbors for every k; scores are shares of the vote.
    """
    began = time.perf_counter()
    reference, validation = data.train.x, data.validation.x
    reference_labels, validation_labels = _numpy(data.train.labels), _numpy(data.validation.labels)
    similarity, index = neighbors(reference, validation, max(ks))
    labels = reference_labels[index]
    best = None
    for k, T in itertools.product(dict.fromkeys(min(k, len(reference)) for k in ks), temperatures):
        hits = int((votes(similarity, labels, data.classes, k, T).argmax(1) == validation_labels).sum())
        if best is None or hits > best[0]:
            best = hits, k, T
    hits, k, T = best
    similarity, index = neighbors(reference, data.test, k)
    shares = votes(similarity, reference_labels[index], data.classes, k, T)
    return ProtocolResult(
        method="knn",
        scores=shares / shares.sum(1, keepdims=True),
        chosen={"k": k, "T": T, "normalization": "L2"},
        selected_on=data.selected_on,
        validation=hits / len(validation) * 100,
        seconds=time.perf_counter() - began,
    )


def _numpy(labels: np.ndarray | Tensor) -> np.ndarray:
    return labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
