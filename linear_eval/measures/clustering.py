"""k-means with as many clusters as classes: do the classes lie apart without a label?"""
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from linear_eval.bootstrap import interval, resamples
from linear_eval.knn import as_unit_rows
from linear_eval.probe_data import Labeled
from linear_eval.results import Figure, Measure

INDICES = {  # agreement of two partitions; the last two are 0 by chance
    "NMI": metrics.normalized_mutual_info_score,  # by the arithmetic mean of the entropies
    "AMI": metrics.adjusted_mutual_info_score,
    "ARI": metrics.adjusted_rand_score,
}


@dataclass(frozen=True)
class ClusteringConfig:
    """images: training images that k-means sees, at most, evenly spaced. restarts: of k-means++. bootstrap: resamples of test
    images; classes: from more than so many, no intervals of the indices, which are slow then."""

    images: int
    restarts: int
    bootstrap: int
    classes: int


def clustering(
    train: Labeled, test: Labeled, classes: int, config: ClusteringConfig, seed: int, source: str
) -> Measure:
    """k-means on rows of length 1, fit on training images, reported on test images.  N,D with labels N, and M,D with M

    accuracy: clusters are matched to classes one to one on the training images (Hungarian method), so test labels choose
    nothing; it is below the usual figure, which matches on the images it reports.
    """
    rows = np.unique(np.linspace(0, len(train) - 1, min(config.images, len(train))).astype(int))
    z, labels = as_unit_rows(train.x[rows]), np.asarray(train.labels)[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        model = KMeans(min(classes, len(z)), n_init=config.restarts, random_state=seed).fit(z)
    match = matching(labels, model.labels_, classes)
    clusters, truth = model.predict(as_unit_rows(test.x)), np.asarray(test.labels)
    right = match[clusters] == truth
    drawn = list(resamples(len(truth), seed, config.bootstrap))
    figures = [Figure("accuracy", float(100 * right.mean()), interval(np.array([100 * right[d].mean() for d in drawn])), "%")]
    for name, index in INDICES.items():
        slow = classes > config.classes
        ends = None if slow else interval(np.array([100 * index(truth[d], clusters[d]) for d in drawn]))
        figures.append(Figure(name, float(100 * index(truth, clusters)), ends, "%"))
    return Measure(
        "clustering", source, figures=figures, counts={"clusters": model.n_clusters, "training images": len(z)},
        note="k-means on L2-normalized rows, fit and matched to classes on training images, reported on test images",
    )


def matching(labels: np.ndarray, clusters: np.ndarray, classes: int) -> np.ndarray:
    """The class of each cluster, one to one, with the most images in common.  N and N → classes"""
    common = np.zeros((classes, classes), np.int64)
    np.add.at(common, (clusters, labels), 1)
    return linear_sum_assignment(common, maximize=True)[1]
