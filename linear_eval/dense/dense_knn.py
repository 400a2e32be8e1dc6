"""In-context segmentation by nearest patches: Balažević et al. 2023, "Towards In-context Scene Understanding" (Hummingbird,
arXiv 2306.01667). A patch takes the soft labels of its nearest neighbors in a bank of training patches; nothing is trained."""
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from linear_eval.dense.samples import PatchSample
from linear_eval.knn import class_votes, neighbors


@dataclass(frozen=True)
class DenseKnn:
    """bank: K,D; its rows and the queries are L2-normalized in the search (linear_eval/knn.py: exact, faiss, inner product).

    settings: (k, T), each a candidate.
    """

    bank: PatchSample
    settings: tuple[tuple[int, float], ...]

    @staticmethod
    def of(bank: PatchSample, ks: Sequence[int], temperatures: Sequence[float]) -> "DenseKnn":
        """A k above the bank's size is the bank's size."""
        ks = dict.fromkeys(min(k, len(bank)) for k in ks)
        return DenseKnn(bank, tuple(itertools.product(ks, temperatures)))

    def scores(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Of each candidate, the share of the vote that each class gets: softmax(cos / T) over the k nearest, times their
        soft labels.  M,D → M,C each, from one search"""
        similarity, index = neighbors(self.bank.x, x, max(k for k, _ in self.settings))
        for k, T in self.settings:
            yield class_votes(similarity[:, :k], index[:, :k], self.bank.labels.shares, k, T)

    def only(self, candidate: int) -> "DenseKnn":
        return DenseKnn(self.bank, (self.settings[candidate],))
