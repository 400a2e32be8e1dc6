"""Few-shot episodes: the nearest centroid of a few labeled test images of each of some classes."""
from dataclasses import dataclass

import numpy as np
import torch

from core import counter_rng
from linear_eval.knn import as_unit_rows
from linear_eval.results import Figure, Measure

CLASSES, IMAGES = 0xFFFF0202, 0xFFFF0203  # the counter's stream words


@dataclass(frozen=True)
class FewShotConfig:
    """ways: classes an episode; shots: labeled images of each, a figure each; queries: images of each that are classified."""

    ways: int
    shots: list[int]
    queries: int
    episodes: int


def few_shot(x: np.ndarray, labels: np.ndarray, config: FewShotConfig, seed: int, source: str) -> Measure:
    """Accuracy over episodes drawn from test images, mean ± 1.96 standard errors over episodes.  M,D and M

    Rows have length 1; a class is its centroid, and a query is of the nearest. An episode is a function of (seed, its number),
    the same for every source and number of shots. Classes with less than shots + queries images are left out and counted;
    where less than `ways` are left, an episode has all of them.
    """
    z, most = as_unit_rows(x), max(config.shots)
    sizes = np.bincount(labels)
    usable = np.flatnonzero(sizes >= most + config.queries)
    ways = min(config.ways, len(usable))
    counts = {"ways": ways, "episodes": config.episodes, "classes left out, too small": int(((sizes > 0).sum()) - len(usable))}
    if ways < 2:
        note = f"left out: less than two classes have {most + config.queries} test images"
        return Measure("few_shot", source, counts=counts, note=note)
    found = {shots: np.empty(config.episodes) for shots in config.shots}
    for episode in range(config.episodes):
        support, queries = draw_episode(labels, usable, (ways, most, config.queries), seed, episode)
        for shots, accuracies in found.items():
            centroids = z[support[:, :shots]].mean(1)  # W,D
            distance = (centroids**2).sum(1) - 2 * z[queries.ravel()] @ centroids.T
            accuracies[episode] = (distance.argmin(1) == np.repeat(np.arange(ways), config.queries)).mean()
    figures = []
    for shots, accuracies in found.items():
        mean, half = accuracies.mean(), 1.96 * accuracies.std(ddof=1) / len(accuracies) ** 0.5 if len(accuracies) > 1 else 0.0
        ends = [float(100 * (mean - half)), float(100 * (mean + half))]
        figures.append(Figure(f"{ways}-way {shots}-shot", float(100 * mean), ends, "%"))
    return Measure(
        "few_shot", source, figures=figures, counts=counts,
        note=f"nearest centroid on L2-normalized rows of test images, {config.queries} queries a class; the interval is over "
             "episodes, which share images",
    )


def draw_episode(
    labels: np.ndarray, classes: np.ndarray, sizes: tuple[int, int, int], seed: int, episode: int
) -> tuple[np.ndarray, np.ndarray]:
    """sizes: ways, shots and queries.  → positions of the labeled images, ways,shots, and of the queries, ways,queries"""
    ways, shots, queries = sizes
    order = counter_rng.keys(seed, episode, torch.from_numpy(classes), CLASSES).argsort(stable=True).numpy()
    key = counter_rng.keys(seed, episode, torch.arange(len(labels)), IMAGES).numpy()
    drawn = []
    for chosen in classes[order[:ways]]:
        members = np.flatnonzero(labels == chosen)
        drawn.append(members[key[members].argsort(kind="stable")[: shots + queries]])
    positions = np.stack(drawn)
    return positions[:, :shots], positions[:, shots:]
