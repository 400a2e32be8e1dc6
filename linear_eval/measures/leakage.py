"""Leakage between splits: test images that are in the training images, exactly or nearly."""
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from linear_eval.bootstrap import interval, resamples
from linear_eval.features import BLOCK, images_of
from linear_eval.knn import neighbors
from linear_eval.metrics import wilson
from linear_eval.results import Figure, Measure
from vision.splits import Images
from vision.streamed import Streamed

PAIRS = 100  # that are named, at most
QUERIES = 2_000  # training images, evenly spaced, whose nearest other one says how near images of this set lie
FENCE = 3.0  # interquartile ranges: Tukey's outer fence
CLOSEST = 1e-6  # 1 − cosine of equal rows, as float32 rounds it
RESAMPLES = 1_000


FIXED, OWN = "near-duplicates", "near-duplicates, own threshold"


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
    train: np.ndarray, test: np.ndarray, positions: Positions, exact: int, config: LeakageConfig, seed: int, source: str
) -> Measure:
    """N,D and M,D.  exact: `exact_copies` of the images themselves

    pairs: test and training images at or above the lower of both thresholds, the most alike first, at most PAIRS.
    Intervals: Wilson's of shares, of quantiles by bootstrap over test images.
    """
    similarity, index = neighbors(train, test, 1)
    nearest, where = similarity[:, 0], index[:, 0]
    fence = own_threshold(train)
    alike = np.flatnonzero(nearest >= min(config.similarity, fence))
    order = alike[np.argsort(-nearest[alike], kind="stable")][:PAIRS]
    pairs = [[int(positions.test[i]), int(positions.train[where[i]])] for i in order]
    found = {name: int((nearest >= least).sum()) for name, least in ((FIXED, config.similarity), (OWN, fence))}
    quantiles = {"nearest, median": 0.5, "nearest, 95th percentile": 0.95}
    drawn = np.array([np.quantile(nearest[some], [*quantiles.values()]) for some in resamples(len(nearest), seed, RESAMPLES)])
    figures = [
        *(Figure(name, float(100 * count / len(test)), wilson(count, len(test)), "%") for name, count in found.items()),
        Figure("own threshold", fence),
        *(
            Figure(name, float(np.quantile(nearest, share)), interval(drawn[:, i]))
            for i, (name, share) in enumerate(quantiles.items())
        ),
    ]
    return Measure(
        "leakage", source, figures=figures, pairs=pairs,
        counts={**found, "exact copies": exact, "test images": len(test)},
        note=f"{FIXED}: test images whose nearest training image has cosine {config.similarity:g} or more, which simple images "
             f"reach without a copy; {OWN}: the own threshold or more, beyond Tukey's outer fence of the similarities of "
             "training images and their nearest other one; exact copies: the same pixels",
    )


def own_threshold(train: np.ndarray) -> float:
    """The cosine from which on two images are nearer than images of this set are.  N,D

    The outer fence Q1 − 3·IQR (Tukey, Exploratory Data Analysis, 1977) of ln(1 − cosine) of training images, QUERIES of them,
    and their nearest other training image: up to a quarter of copies in train do not move it. Not beyond 1 − CLOSEST, which
    copies reach. 1 − CLOSEST of a single image.
    """
    some = np.unique(np.linspace(0, len(train) - 1, min(QUERIES, len(train))).astype(int))
    if len(train) < 2:
        return 1 - CLOSEST
    similarity, index = neighbors(train, train[some], 2)
    itself = index[:, 0] == some  # else another one: itself comes second, or behind equal ones
    nearest = np.where(itself, similarity[:, 1], similarity[:, 0])
    low, high = np.quantile(np.log(np.maximum(1 - nearest, CLOSEST)), [0.25, 0.75])
    return float(1 - max(np.exp(low - FENCE * (high - low)), CLOSEST))


def exact_copies(train: Images | Streamed, test: Images | Streamed, size: int) -> int:
    """Test images with the same pixels as a training image, both brought to `size`, where they are larger."""
    kept = {digest for part in _digests(train, size) for digest in part}
    return sum(digest in kept for part in _digests(test, size) for digest in part)


def _digests(split: Images | Streamed, size: int) -> Iterator[list[bytes]]:
    for indices in torch.arange(len(split)).split(BLOCK):
        images = images_of(split, indices, size, None).contiguous()
        flat = images.flatten(1).view(torch.uint8).numpy()
        yield [hashlib.sha256(row).digest() for row in flat]
