"""Leakage between splits: test images that are in the training images, exactly or nearly."""
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from linear_eval.features import BLOCK, images_of
from linear_eval.knn import neighbors
from linear_eval.results import Figure, Measure
from vision.splits import Images
from vision.streamed import Streamed

PAIRS = 100  # that are named, at most


@dataclass(frozen=True)
class LeakageConfig:
    """similarity: cosine from which on a test image and its nearest training image are near-duplicates."""

    similarity: float


@dataclass(frozen=True)
class Positions:
    """Which images of their splits the rows of features are.  train: N; test: M"""

    train: np.ndarray
    test: np.ndarray


def leakage(
    train: np.ndarray, test: np.ndarray, positions: Positions, exact: int, config: LeakageConfig, source: str
) -> Measure:
    """N,D and M,D.  exact: `exact_copies` of the images themselves

    pairs: test and training images at or above the similarity, the most alike first, at most PAIRS.
    """
    similarity, index = neighbors(train, test, 1)
    nearest, where = similarity[:, 0], index[:, 0]
    alike = np.flatnonzero(nearest >= config.similarity)
    order = alike[np.argsort(-nearest[alike], kind="stable")][:PAIRS]
    pairs = [[int(positions.test[i]), int(positions.train[where[i]])] for i in order]
    figures = [
        Figure("near-duplicates", float(100 * len(alike) / len(test)), None, "%"),
        Figure("nearest, median", float(np.median(nearest))),
        Figure("nearest, 95th percentile", float(np.quantile(nearest, 0.95))),
    ]
    return Measure(
        "leakage", source, figures=figures, pairs=pairs,
        counts={"near-duplicates": len(alike), "exact copies": exact, "test images": len(test)},
        note=f"test images whose nearest training image has cosine {config.similarity:g} or more, which a class of simple "
             "images may reach without a copy; exact copies: the same pixels",
    )


def exact_copies(train: Images | Streamed, test: Images | Streamed, size: int) -> int:
    """Test images with the same pixels as a training image, both brought to `size`, where they are larger."""
    kept = {digest for part in _digests(train, size) for digest in part}
    return sum(digest in kept for part in _digests(test, size) for digest in part)


def _digests(split: Images | Streamed, size: int) -> Iterator[list[bytes]]:
    for indices in torch.arange(len(split)).split(BLOCK):
        images = images_of(split, indices, size, None).contiguous()
        flat = images.flatten(1).view(torch.uint8).numpy()
        yield [hashlib.sha256(row).digest() for row in flat]
