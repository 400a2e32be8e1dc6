"""Labeled subsets: a share of the labels, or so many a class.

Every image has a random rank within its class, a function of (seed, draw, image) alone. A subset is the first ranks of
each class, so for one seed and draw the 1 % lie inside the 10 %, and five a class inside ten.
"""
import numpy as np
import torch
from torch import Tensor

from core import counter_rng
from vision.stratify import iterative_holdout

LABELED = 0xFFFF0101  # the counter's stream word: clear of views (0, 1, 2, …) and of the uses named in core/counter_rng.py


def share(labels: np.ndarray | Tensor, share: float, seed: int, draw: int) -> np.ndarray:
    """A share of every class, to the nearest whole image (halves up), one at least.  labels: N → sorted indices, int64

    Rounded class by class: only then does no class shrink when the share grows. Of images that may have several labels, N,K,
    the images are a share, and every class has nearly that share (vision/stratify.py). Raises ValueError outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share of the labels {share:g}: give more than 0 and at most 1, like 0.01 for 1 %")
    labels = np.asarray(labels)
    if labels.ndim == 2:
        order = counter_rng.keys(seed, draw, torch.arange(len(labels)), LABELED).argsort(stable=True).numpy()
        return np.flatnonzero(iterative_holdout(labels, order, share, len(labels)))
    sizes = np.bincount(labels)
    return _first(labels, np.maximum(1, np.floor(share * sizes + 0.5)), seed, draw)


def per_class(labels: np.ndarray | Tensor, count: int, seed: int, draw: int) -> np.ndarray:
    """`count` images of every class; a smaller class gives all its images.  labels: N → sorted indices, int64"""
    if count < 1:
        raise ValueError(f"{count} labels a class: give 1 or more")
    labels = np.asarray(labels)
    return _first(labels, np.full(labels.max() + 1, count), seed, draw)


def _first(labels: np.ndarray, counts: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """The images of rank below `counts` of their class.  labels: N; counts: C → sorted indices"""
    key = counter_rng.keys(seed, draw, torch.arange(len(labels)), LABELED).numpy()
    order = np.lexsort((key, labels))  # class by class, each at random
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < counts[labels[order]]]).astype(np.int64)
