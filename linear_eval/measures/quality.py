"""Quality of features without labels: how many dimensions they use, how their spectrum falls, how learnable they are."""
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from linear_eval.features import rankme
from linear_eval.knn import as_unit_rows, neighbors
from linear_eval.results import Figure, Measure

RELATIVE = "compare only across models"


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
    too). alpha: `power_law`. CLID's parts: `learnability`, `intrinsic_dimension`. Figures of one spectrum have no interval:
    a resample with repeated images has a lower rank.
    """
    rows = np.unique(np.linspace(0, len(x) - 1, min(config.images, len(x))).astype(int))
    z = torch.from_numpy(x[rows].astype(np.float64))
    variance = torch.linalg.svdvals(z - z.mean(0)).square()
    exponent, last = power_law(variance.numpy(), *config.alpha)
    some = x[np.unique(np.linspace(0, len(x) - 1, min(config.learned, len(x))).astype(int))]
    figures = [
        Figure("RankMe", rankme(z)),
        Figure("stable rank", float(variance.sum() / variance[0]) if variance[0] > 0 else None),
        Figure("alpha", exponent),
        Figure("LiDAR", lidar(views, config.delta)),
        Figure("cluster learnability", 100 * learnability(some, config.clusters, seed), None, "%"),
        Figure("intrinsic dimension", intrinsic_dimension(some)),
    ]
    note = (
        f"{len(z):,} training images; alpha: fit over components {config.alpha[0]} to {last}; LiDAR: n {views.shape[0]}, "
        f"q {views.shape[1]}, δ {config.delta:g}; the last two are CLID's parts, k-means with {config.clusters} clusters on "
        f"{len(some):,} images: {RELATIVE}"
    )
    return Measure("quality", source, figures=figures, note=note)


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


def learnability(x: np.ndarray, clusters: int, seed: int) -> float:
    """Share of images whose k-means cluster their nearest earlier image has, in a random order, the first not counted.  N,D

    The prequential form of CLID's cluster learnability (Lu et al. 2022, arXiv 2206.01251), with one neighbor.
    """
    z = as_unit_rows(x)[np.random.default_rng(seed).permutation(len(x))]
    if len(z) < 2:
        return 1.0
    labels = KMeans(min(clusters, len(z)), n_init=1, random_state=seed).fit(z).labels_
    similarity = np.where(np.tri(len(z), k=-1, dtype=bool), z @ z.T, -np.inf)
    return float((labels[similarity[1:].argmax(1)] == labels[1:]).mean())


def intrinsic_dimension(x: np.ndarray) -> float | None:
    """Two-NN (Facco et al. 2017, arXiv 1803.06992): N / Σ ln r₂/r₁, by Euclidean distances of rows of length 1.  N,D

    Images with a copy, r₁ = 0, are left out; None where less than two are left.
    """
    if len(x) < 3:
        return None
    _, index = neighbors(x, x, 3)
    z = as_unit_rows(x).astype(np.float64)
    near = np.stack([row[row != i][:2] for i, row in enumerate(index)])  # itself is among the three, wherever
    distance = np.linalg.norm(z[:, None] - z[near], axis=2)
    ratio = distance[distance[:, 0] > 1e-7]
    total = np.log(ratio[:, 1] / ratio[:, 0]).sum() if len(ratio) > 1 else 0.0
    return float(len(ratio) / total) if total > 0 else None
