"""Quality of features without labels: how many dimensions they use, how their spectrum falls, how learnable they are."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from core.run import counting
from linear_eval.bootstrap import halves, jackknife_interval, normal_interval, weights
from linear_eval.features import effective_rank, spectrum
from linear_eval.knn import as_unit_rows, neighbors
from linear_eval.results import Figure, Measure

RELATIVE = "compare only across models"
HALVES = 20  # random halves of the images, for intervals of a spectrum's figures
WIDE = 1024  # columns beyond which these would take minutes: then there are none
SEEDS, RESAMPLES = 10, 200  # of k-means, and of the images, for intervals of CLID's parts

Figures = dict[str, float | None]
Some = TypeVar("Some", np.ndarray, Tensor)


@dataclass(frozen=True)
class QualityConfig:
    """images: training images, at most, evenly spaced. alpha: the first and the last component of α-ReQ's fit. clusters,
    learned: pseudo-classes and images of CLID. lidar_images, lidar_views, delta: n, q and δ of LiDAR."""

    images: int
    alpha: list[int]
    clusters: int
    learned: int
    lidar_images: int
    lidar_views: int
    delta: float


def quality(x: np.ndarray, views: Tensor, config: QualityConfig, seed: int, source: str) -> Measure:
    """x: N,D of training images; views: n,q,D of q views of each of n of them

    RankMe: `features.rankme`, of centered features. stable rank: Σλ / λ₁ of the covariance's eigenvalues (NESum's formula
    too). alpha: `power_law`. CLID's parts: `learnability`, `intrinsic_dimension`. Intervals: of
    figures of a spectrum `jackknife_interval`; of CLID's parts by bootstrap over images with the neighbors that they have.
    """
    rows = np.unique(np.linspace(0, len(x) - 1, min(config.images, len(x))).astype(int))
    z = x[rows].astype(np.float64)
    whole = spectrum(torch.from_numpy(z))
    last = power_law(whole.square().numpy(), *config.alpha)[1]
    some = x[np.unique(np.linspace(0, len(x) - 1, min(config.learned, len(x))).astype(int))]

    def of_spectrum(sigma: Tensor) -> Figures:
        variance = sigma.square()
        stable = float(variance.sum() / variance[0]) if variance[0] > 0 else None
        alpha = power_law(variance.numpy(), config.alpha[0], last)[0]
        return {"RankMe": effective_rank(sigma), "stable rank": stable, "alpha": alpha}

    def of_some(some: np.ndarray) -> Figures:
        return of_spectrum(spectrum(torch.from_numpy(some)))

    def of_views(views: Tensor) -> Figures:
        return {"LiDAR": lidar(views, config.delta)}

    figures = [
        *jackknifed(z, of_spectrum(whole), of_some, seed, f"{source}: quality"),
        *jackknifed(views, of_views(views), of_views, seed, f"{source}: quality of views"),
        learnability_figure(some, config.clusters, seed),
        dimension_figure(some, seed),
    ]
    note = (
        f"{len(z):,} training images; alpha: fit over components {config.alpha[0]} to {last}; LiDAR: n {views.shape[0]}, "
        f"q {views.shape[1]}, δ {config.delta:g}; the last two are CLID's parts, k-means with {config.clusters} clusters on "
        f"{len(some):,} images: {RELATIVE}; intervals: over {HALVES} random halves of the images, of CLID's "
        f"parts over images and {SEEDS} seeds of k-means"
    )
    return Measure("quality", source, figures=figures, note=note)


def jackknifed(
    images: Some, whole: Figures, measured: Callable[[Some], Figures], seed: int, title: str
) -> list[Figure]:
    """images: N,…; whole: their figures; measured: some of them → figures"""
    of_halves: list[Figures] = []
    enough = len(images) >= 4 and images.shape[-1] <= WIDE
    with counting(title) as progress:
        for number, half in enumerate(halves(len(images), seed, HALVES if enough else 0), 1):
            of_halves.append(measured(images[half]))
            progress(number, HALVES)
    return [
        Figure(name, value, jackknife_interval(value, [one[name] for one in of_halves]))
        for name, value in whole.items()
    ]


def power_law(variance: np.ndarray, first: int, last: int) -> tuple[float | None, int]:
    """α of λᵢ ∝ i^−α by least squares on logarithms, over components `first` to `last`, counted from 1; the best features
    are near 1 (Agrawal et al. 2022, α-ReQ, NeurIPS).  → α, None from less than three components; the last one used

    variance: eigenvalues, falling. `last` is at most half of those that are not zero: beyond is the noise's tail.
    """
    present = int((variance > 1e-12 * max(variance[0], 1e-300)).sum())
    last = min(last, present // 2)
    if last - first < 2:
        return None, last
    place = np.arange(first, last + 1)
    return float(-np.polyfit(np.log(place), np.log(variance[first - 1 : last]), 1)[0]), last


def lidar(views: Tensor, delta: float) -> float:
    """exp of the entropy of the eigenvalues' shares of Σw^−½ Σb Σw^−½ (Thilak et al. 2023, arXiv 2312.04000): at most n − 1.

    views: n,q,D, the q views of an image are its class. Σw: about the image's mean, over n(q − 1), plus δ on the diagonal; Σb:
    of the means, over n − 1.
    """
    z = views.double()
    n, q, D = z.shape
    means = z.mean(1)
    spread = (z - means[:, None]).flatten(0, 1)
    within = spread.T @ spread / (n * (q - 1)) + delta * torch.eye(D, dtype=z.dtype)
    between = (means - means.mean(0)) / (n - 1) ** 0.5  # n,D: Σb = BᵀB
    eigenvalues, vectors = torch.linalg.eigh(within)
    whitened = between @ vectors * eigenvalues.clamp(min=delta).rsqrt()
    values = torch.linalg.svdvals(whitened).square()
    share = values / values.sum().clamp(min=1e-12) + 1e-12
    return float(torch.exp(-(share * share.log()).sum()))


def learnability_figure(x: np.ndarray, clusters: int, seed: int) -> Figure:
    """The first seed's ± 1.96 standard deviations: of a mean over so many images, or over SEEDS of k-means and of the order,
    whichever is greater. Not both: another order is nearly another sample of hits."""
    if len(x) < 3:
        return Figure("cluster learnability", 100 * learnability(x, clusters, seed), None, "%")
    found = [predicted_clusters(x, clusters, seed + i) for i in range(SEEDS)]
    value = 100 * float(found[0].mean())
    of_images = np.mean([(100 * hits).std() / len(hits) ** 0.5 for hits in found])
    of_seeds = np.std([(100 * hits).mean() for hits in found], ddof=1)
    low, high = normal_interval(value, float(max(of_images, of_seeds)))
    return Figure("cluster learnability", value, [max(low, 0.0), min(high, 100.0)], "%")


def learnability(x: np.ndarray, clusters: int, seed: int) -> float:
    """Share of images whose k-means cluster their nearest earlier image has, in a random order, the first not counted.  N,D

    The prequential form of CLID's cluster learnability (Lu et al. 2022, arXiv 2206.01251), with one neighbor.
    """
    hits = predicted_clusters(x, clusters, seed)
    return float(hits.mean()) if len(hits) else 1.0


def predicted_clusters(x: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Of the images but the first in a random order: has the nearest earlier one its cluster?  → N−1 bool"""
    z = as_unit_rows(x)[np.random.default_rng(seed).permutation(len(x))]
    if len(z) < 2:
        return np.empty(0, bool)
    labels = KMeans(min(clusters, len(z)), n_init=1, random_state=seed).fit(z).labels_
    similarity = np.where(np.tri(len(z), k=-1, dtype=bool), z @ z.T, -np.inf)
    return labels[similarity[1:].argmax(1)] == labels[1:]


def dimension_figure(x: np.ndarray, seed: int) -> Figure:
    ratios = log_ratios(x)
    if (value := _two_nn(ratios)) is None:
        return Figure("intrinsic dimension", None)
    drawn = weights(len(ratios), seed, RESAMPLES) @ ratios / len(ratios)
    return Figure("intrinsic dimension", value, normal_interval(value, float(np.std(1 / drawn[drawn > 0]))))


def intrinsic_dimension(x: np.ndarray) -> float | None:
    """Two-NN (Facco et al. 2017, arXiv 1803.06992): N / Σ ln r₂/r₁, by Euclidean distances of rows of length 1.  N,D

    Images with a copy, r₁ = 0, are left out; None where less than two are left.
    """
    return _two_nn(log_ratios(x))


def _two_nn(ratios: np.ndarray) -> float | None:
    total = ratios.sum() if len(ratios) > 1 else 0.0
    return float(len(ratios) / total) if total > 0 else None


def log_ratios(x: np.ndarray) -> np.ndarray:
    """ln r₂/r₁ of the images that have no copy.  N,D → at most N"""
    if len(x) < 3:
        return np.empty(0)
    _, index = neighbors(x, x, 3)
    z = as_unit_rows(x).astype(np.float64)
    near = np.stack([row[row != i][:2] for i, row in enumerate(index)])  # itself is among the three, wherever
    distance = np.linalg.norm(z[:, None] - z[near], axis=2)
    ratio = distance[distance[:, 0] > 1e-7]
    return np.log(ratio[:, 1] / ratio[:, 0])
