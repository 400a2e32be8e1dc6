"""What a patch shows: the share of each class among its pixels; and which patches of an image a bank takes."""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from core import counter_rng
from vision.segmentation import IGNORED


@dataclass(frozen=True)
class PatchLabels:
    """Soft labels of N patches, as Balažević et al. 2023 have them ("Hummingbird", arXiv 2306.01667).

    shares: N,C float32, of each class among a patch's labeled pixels: rows sum to 1, or to 0 where every pixel is ignored.
    """

    shares: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which patches have a labeled pixel.  N bool"""
        return self.shares.any(1)

    @property
    def majority(self) -> np.ndarray:
        """The most frequent class, the first of equals; −1 where every pixel is ignored.  N int64"""
        return np.where(self.known, self.shares.argmax(1), -1)

    def rows(self, positions: np.ndarray) -> "PatchLabels":
        return PatchLabels(self.shares[positions])


def patch_labels(mask: np.ndarray, grid: tuple[int, int], classes: int) -> PatchLabels:
    """The labels of h·w patches that cover a whole mask in raster order.  mask: H,W uint8; grid: h,w

    A pixel that lies in several patches, where sides do not divide, counts in each by its area. Raises ValueError for a label
    that is no class and not ignored.
    """
    rows, columns = _overlaps(mask.shape[0], grid[0]), _overlaps(mask.shape[1], grid[1])
    shares = np.zeros((*grid, classes))
    for label in np.unique(mask):
        if label == IGNORED:
            continue
        if label >= classes:
            raise ValueError(f"a mask holds label {label}; there are {classes} classes, 0 to {classes - 1}; {IGNORED} is none")
        shares[:, :, label] = rows @ (mask == label) @ columns.T
    total = shares.sum(2, keepdims=True)
    shares = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    return PatchLabels(shares.reshape(-1, classes).astype(np.float32))


@lru_cache(maxsize=64)
def _overlaps(length: int, count: int) -> np.ndarray:
    """How much of each of `length` pixels lies in each of `count` equal parts of them.  → count,length float64"""
    edges, pixels = np.arange(count + 1) * (length / count), np.arange(length)
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    return np.clip(high - low, 0, None)


def draw_patches(labels: PatchLabels, count: int, seed: int, image: int, rare_first: bool = False) -> np.ndarray:
    """At most `count` patches with a label of one image, ascending: a function of seed and image.  → positions

    rare_first: those with the smallest U(0, 1) × Σ over a patch's classes of how many of the image's patches have the class:
    rare classes first, as Hummingbird's bank is filled; else those with the smallest U(0, 1).
    """
    known = np.flatnonzero(labels.known)
    score = counter_rng.uniform(seed, 0, torch.tensor([image]), counter_rng.PATCHES, len(labels.shares))[0].double().numpy()
    if rare_first:
        has = labels.shares > 0
        score *= has @ has.sum(0)
    return np.sort(known[score[known].argsort(kind="stable")[:count]])
