"""Corruptions by noise (ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261).

Each function: x B,C,H,W float32 in [0, 1], its constants, draws → B,C,H,W; the caller clips.
"""
import numpy as np
from scipy.stats import poisson

from vision.corruption_draws import Draws

LEVELS = 4_096  # of brightness, up to which Poisson's distribution is tabulated


def gaussian_noise(x: np.ndarray, deviation: float, draws: Draws) -> np.ndarray:
    return x + deviation * draws.normal(0, *x.shape[1:])


def speckle_noise(x: np.ndarray, deviation: float, draws: Draws) -> np.ndarray:
    return x + x * deviation * draws.normal(0, *x.shape[1:])


def shot_noise(x: np.ndarray, photons: float, draws: Draws) -> np.ndarray:
    """photons: the mean count where x is 1"""
    return poisson_counts(x * np.float32(photons), draws.uniform(0, *x.shape[1:])) / photons


def impulse_noise(x: np.ndarray, share: float, draws: Draws) -> np.ndarray:
    """Salt and pepper: a share of the values, each channel by itself, becomes 0 or 1."""
    u = draws.uniform(0, *x.shape[1:])
    return np.where(u < share / 2, 0.0, np.where(u < share, 1.0, x))


def poisson_counts(mean: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The smallest count whose cumulative probability reaches u.  mean, u: of one shape → float32"""
    levels, place = np.unique(mean, return_inverse=True)
    if len(levels) > LEVELS:
        return poisson.ppf(u, mean).astype(np.float32)
    counts = np.arange(int(levels[-1] + 12 * levels[-1] ** 0.5 + 20))
    cumulative = poisson.cdf(counts[None], levels[:, None]) + 2.0 * np.arange(len(levels))[:, None]  # rows one after the other
    place = place.ravel()
    found = np.searchsorted(cumulative.ravel(), u.ravel() + 2.0 * place) - place * len(counts)
    return found.reshape(mean.shape).astype(np.float32)
