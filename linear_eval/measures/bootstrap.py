"""Percentile intervals by bootstrap over images (Efron 1979), counter-based: the same images are drawn for every figure."""
from collections.abc import Iterator

import numpy as np
import torch

from core import counter_rng

DRAWN = 0xFFFF0201  # the counter's stream word
CONFIDENCE = 0.95


def resamples(count: int, seed: int, number: int) -> Iterator[np.ndarray]:
    """`number` times `count` positions, drawn with replacement.  → count int64 each"""
    for resample in range(number):
        yield (counter_rng.random_bits(seed, resample, torch.arange(count), DRAWN, 1)[:, 0] % count).numpy()


def weights(count: int, seed: int, number: int) -> np.ndarray:
    """How often each position is drawn in each resample.  → number,count float32"""
    return np.stack([np.bincount(drawn, minlength=count) for drawn in resamples(count, seed, number)]).astype(np.float32)


def interval(values: np.ndarray) -> list[float]:
    """The 95 % percentile interval of a figure's values in the resamples. NaN, where a resample has none, is left out."""
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(low), float(high)]
