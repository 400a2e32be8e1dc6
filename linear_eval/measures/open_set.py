"""Open-set detection: does a frozen encoder's feature show that an image is of no known class?"""
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from core import counter_rng
from linear_eval.bootstrap import interval, weights
from linear_eval.knn import neighbors
from linear_eval.logistic import LogisticFit
from linear_eval.measures.detection import NAMES, detection
from linear_eval.probe_data import Labeled
from linear_eval.results import Figure, Measure

HELD_OUT = 0xFFFF0204  # the counter's stream word
CONVENTION = "unknown is positive: FPR95 is the share of known images flagged where 95 % of the unknown ones are"


@dataclass(frozen=True)
class OpenSetConfig:
    """share: of the classes that are held out, one at least, in each of `draws`. k: of the distance. C, iterations: of the
    logistic regression whose logits give the energy. images: training images of the covariance and of that regression, at
    most, evenly spaced; the distance is to all."""

    share: float
    draws: int
    k: int
    C: float
    iterations: int
    images: int
    bootstrap: int


@dataclass(frozen=True)
class Trial:
    """Known training images, and test images of which some are unknown.  test: M,D; unknown: M bool"""

    train: Labeled
    test: np.ndarray
    unknown: np.ndarray


def open_set(
    train: Labeled, test: Labeled, classes: int, config: OpenSetConfig, seed: int, source: str,
    others: np.ndarray | None = None,
) -> list[Measure]:
    """A measure a detector: kNN distance, Mahalanobis, energy.  N,D with labels N, and M,D with M

    others: O,D of test images of another data set, which are the unknown ones then; without them classes are held out of
    training, `draws` times, and a figure is the mean over draws. Nothing is selected. Intervals: bootstrap over test images.
    """
    trials = list(held_out(train, test, classes, config, seed)) if others is None else [with_others(train, test, others)]
    names = ("kNN distance", "Mahalanobis", "energy")
    size = len(trials[0].test) if trials else 0
    some = np.concatenate([np.ones((1, size), np.float32), weights(size, seed, config.bootstrap)]) if size else np.ones((1, 0))
    found = {name: np.zeros((len(some), len(NAMES))) for name in names}
    for trial in trials:
        for name, scores in detectors(trial, config).items():
            found[name] += detection(scores, trial.unknown, some) / len(trials)
    what = "another data set's test images" if others is not None else f"{config.share:g} of the classes, held out"
    counts = {"draws": len(trials), "test images": size}
    if not trials:
        note = "left out: fewer than three classes, so none can be held out"
        return [Measure("open_set", source, name, counts=counts, note=note) for name in names]
    return [
        Measure("open_set", source, name, counts=counts, note=f"unknown: {what}; {CONVENTION}", figures=[
            Figure(figure, float(100 * found[name][0, i]), interval(100 * found[name][1:, i]), "%")
            for i, figure in enumerate(NAMES)
        ])
        for name in names
    ]


def held_out(train: Labeled, test: Labeled, classes: int, config: OpenSetConfig, seed: int) -> Iterator[Trial]:
    """Training images without some classes, all test images: a function of (seed, draw)."""
    present = np.unique(np.asarray(train.labels))
    count = min(max(1, round(config.share * len(present))), len(present) - 2)  # a classifier needs two classes
    labels, truth = np.asarray(train.labels), np.asarray(test.labels)
    for draw in range(config.draws) if count > 0 else ():
        key = counter_rng.keys(seed, draw, torch.arange(classes)[torch.from_numpy(present)], HELD_OUT)
        out = present[key.argsort(stable=True).numpy()[:count]]
        rows = np.flatnonzero(~np.isin(labels, out))
        unknown = ~np.isin(truth, np.setdiff1d(present, out))
        if unknown.any() and not unknown.all():
            yield Trial(Labeled(train.x[rows], labels[rows]), np.asarray(test.x), unknown)


def with_others(train: Labeled, test: Labeled, others: np.ndarray) -> Trial:
    unknown = np.repeat([False, True], [len(test.x), len(others)])
    return Trial(train, np.concatenate([test.x, others]), unknown)


def detectors(trial: Trial, config: OpenSetConfig) -> dict[str, np.ndarray]:
    """Scores of the test images, greater where likelier unknown.  → M each

    kNN distance: squared Euclidean distance of rows of length 1 to the k-th nearest known training image (Sun et al. 2022,
    arXiv 2204.06507). Mahalanobis: the smallest over classes, one covariance of rows about their class's mean, shrunk (Ledoit
    and Wolf 2004), as D may exceed the images (Lee et al. 2018, arXiv 1807.03888). Energy: −logsumexp of the logits of
    logistic regression on the known classes, at temperature 1 (Liu et al. 2020, arXiv 2010.03759).
    """
    similarity, _ = neighbors(trial.train.x, trial.test, config.k)
    some = at_most(trial.train, config.images)
    model = LogisticFit(some)
    weight, _ = model.fit(config.C, config.iterations)
    energy = torch.cat([-z.logsumexp(1) for z in model.logits(trial.test, weight)]).numpy()
    return {"kNN distance": 2 - 2 * similarity[:, -1], "Mahalanobis": mahalanobis(some, trial.test), "energy": energy}


def at_most(train: Labeled, images: int) -> Labeled:
    rows = np.unique(np.linspace(0, len(train) - 1, min(images, len(train))).astype(int))
    return Labeled(train.x[rows], np.asarray(train.labels)[rows])


def mahalanobis(train: Labeled, test: np.ndarray) -> np.ndarray:
    """Squared distances to the nearest class's mean.  → M"""
    x, labels = train.x.astype(np.float64), train.labels
    present, position = np.unique(labels, return_inverse=True)
    means = np.stack([x[labels == label].mean(0) for label in present])
    precision = LedoitWolf(assume_centered=True).fit(x - means[position]).get_precision()
    test = test.astype(np.float64)
    own = np.einsum("md,md->m", test @ precision, test)
    projected = means @ precision  # K,D: |x − μ|² = x·P·x − 2 μ·P·x + μ·P·μ, without a matrix an image
    distance = own[:, None] - 2 * test @ projected.T + np.einsum("kd,kd->k", projected, means)
    return distance.min(1)
