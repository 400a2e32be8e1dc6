"""Intervals over images: the percentile bootstrap (Efron 1979), and the delete-half jackknife where no image may repeat.

The same images are drawn for every figure: resamples are a function of the number of images, the seed and their own number.
"""
from collections.abc import Iterator, Sequence

import numpy as np

CONFIDENCE, STANDARD = 0.95, 1.96  # and the normal distribution's quantile
AT_ONCE = 2**22  # images times resamples in memory


def weight_blocks(count: int, seed: int, number: int, at_once: int = AT_ONCE) -> Iterator[np.ndarray]:
    """How often each image is in each of `number` resamples of as many images, drawn with replacement.

    → b,count int64 at a time; the size of the blocks changes no draw.
    """
    rng, block = np.random.default_rng(seed), max(1, at_once // count)
    for start in range(0, number, block):
        yield rng.multinomial(count, np.full(count, 1 / count), min(block, number - start))


def weights(count: int, seed: int, number: int) -> np.ndarray:
    """All of `weight_blocks`.  → number,count float32"""
    return np.concatenate([block.astype(np.float32) for block in weight_blocks(count, seed, number)])


def resamples(count: int, seed: int, number: int) -> Iterator[np.ndarray]:
    """The positions that each resample has, ascending.  → count int64 each"""
    for block in weight_blocks(count, seed, number):
        for drawn in block:
            yield np.repeat(np.arange(count), drawn)


def interval(values: np.ndarray) -> list[float]:
    """The 95 % percentile interval of a figure's values in the resamples. NaN, where a resample has none, is left out."""
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(low), float(high)]


def halves(count: int, seed: int, number: int) -> Iterator[np.ndarray]:
    """Random halves of the images, no image twice: half of them are the complements of the others.  → positions, ascending"""
    rng = np.random.default_rng(seed)
    for start in range(0, number, 2):
        order = rng.permutation(count)
        for part in (order[: count // 2], order[count // 2 :])[: number - start]:
            yield np.sort(part)


def jackknife_interval(value: float | None, of_halves: Sequence[float | None]) -> list[float] | None:
    """value ± 1.96 standard deviations of the figure over random halves: the delete-d jackknife with d = n/2, whose factor
    (n − d)/d is 1 (Shao and Wu, Annals of Statistics 17, 1989). None where a figure is missing in two halves of three.

    For figures of a spectrum: a bootstrap's repeated images lower a rank. Half of the images have another rank too, and so
    their spread counts here, not their mean. Not for figures of nearest neighbors: an image's are others in a half.
    """
    found = [one for one in of_halves if one is not None]
    if value is None or len(found) < max(2, len(of_halves) / 3):
        return None
    return normal_interval(value, float(np.std(found, ddof=1)))


def normal_interval(value: float, deviation: float) -> list[float]:
    """value ± 1.96 standard deviations."""
    return [value - STANDARD * deviation, value + STANDARD * deviation]
