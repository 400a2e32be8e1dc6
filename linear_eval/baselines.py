"""Classical image features and classifiers: what an encoder has to beat.

HOG: Dalal and Triggs 2005 (CVPR, without an arXiv id), here with scikit-image's hard orientation bins, equal to its `hog`.
LBP: Ojala et al. 2002 (TPAMI), scikit-image's. SIFT words: Csurka et al. 2004 (ECCV workshop) on OpenCV's SIFT.
Features are functions of single images, whatever block they come in; what must be fitted is fitted on training images alone.
"""
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage.feature import local_binary_pattern
from sklearn.base import BaseEstimator
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import Tensor
from torch.nn import functional as F

from linear_eval import kernel_svm
from linear_eval.features import pixels_of
from linear_eval.kernel_svm import KernelSVM
from linear_eval.outcome import Outcome

LARGEST = 64  # a side, at most, of what descriptors look at: beyond, cost grows and what tells classes apart does not
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's and OpenCV's grey

CELLS = 7  # HOG cells a side, or one more: 4 px at 28 and 32, 9 px at 64
ORIENTATIONS, BLOCK, CLIP = 9, 2, 0.2  # the paper's 20° bins, blocks of 2 × 2 cells and L2-Hys; see experiments.published
NEIGHBOURS, RADIUS, GRID = 8, 1, 4  # LBP on the 8 next pixels; 4 × 4 histograms of its 10 uniform patterns
WORDS, POINTS, PATCH = 512, 7, 12 / 28  # SIFT: vocabulary, key points a side, side of a patch as a share of the image's
WORDS_SIDE = 56  # images are brought to it: SIFT blurs by 1.6 px first, which is too much for 28
FOR_WORDS = 2_000  # images whose 49 descriptors each make the vocabulary
COMPONENTS = 64


# --------------------------------------------------------------------------------------------------------------- features


def pixels(images: Tensor) -> np.ndarray:
    """Levels in 0..1, averaged to 32 a side where there are more.  B,C,S,S uint8 → B,D"""
    return pixels_of(images).numpy()


def grey(images: Tensor, side: int | None = None) -> np.ndarray:
    """Grey levels of images brought to `side`, or to at most `LARGEST`.  B,C,S,S uint8 → B,side,side uint8"""
    side = side or min(images.shape[-1], LARGEST)
    levels = images.float()
    if images.shape[-1] != side:
        levels = F.interpolate(levels, (side, side), mode="bilinear", antialias=True)
    if images.shape[1] == 3:
        levels = (levels * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    return levels[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()


@cache
def _gradients(orientations: int) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and orientation bin of every gradient of uint8 images, by [down + 255, right + 255].  511,511 each"""
    steps = np.arange(-255.0, 256)
    down, right = steps[:, None], steps[None, :]
    degrees = np.rad2deg(np.arctan2(down, right)) % 180
    return np.hypot(down, right), (degrees // (180 / orientations)).astype(np.int64)


def hog(images: Tensor, cell: int | None = None, orientations: int = ORIENTATIONS, block: int = BLOCK) -> np.ndarray:
    """scikit-image's hog(image, orientations, (cell, cell), (block, block)) of many images at once.  B,C,S,S uint8 → B,D"""
    levels = grey(images).astype(np.int64)
    number, side, _ = levels.shape
    cell = cell or max(2, side // CELLS)
    cells = side // cell
    down, right = np.full_like(levels, 255), np.full_like(levels, 255)  # no gradient at the border
    down[:, 1:-1] += levels[:, 2:] - levels[:, :-2]
    right[:, :, 1:-1] += levels[:, :, 2:] - levels[:, :, :-2]
    inside = slice(cells * cell)
    gradient = (down * 511 + right)[:, inside, inside]
    magnitude, orientation = (table.ravel()[gradient] for table in _gradients(orientations))
    at = np.arange(cells * cell) // cell
    place = (np.arange(number)[:, None, None] * cells + at[:, None]) * cells + at  # which histogram a pixel votes in
    votes = np.bincount((place * orientations + orientation).ravel(), magnitude.ravel(), number * cells**2 * orientations)
    votes = votes.reshape(number, cells, cells, orientations) / cell**2
    blocks = sliding_window_view(votes, (block, block), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    blocks = blocks.reshape(*blocks.shape[:3], -1)  # B,rows,columns,block*block*orientations
    blocks = np.minimum(_unit(blocks), CLIP)
    return _unit(blocks).reshape(number, -1).astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).sum(-1, keepdims=True) + 1e-5**2)


def lbp(images: Tensor) -> np.ndarray:
    """Shares of the uniform local binary patterns in each of 4 × 4 parts of the image.  B,C,S,S uint8 → B,160"""
    levels = grey(images)
    number, side, _ = levels.shape
    patterns = np.stack([local_binary_pattern(image, NEIGHBOURS, RADIUS, "uniform") for image in levels]).astype(np.int64)
    at = np.arange(side) * GRID // side
    place = (np.arange(number)[:, None, None] * GRID + at[:, None]) * GRID + at
    kinds = NEIGHBOURS + 2
    counts = np.bincount((place * kinds + patterns).ravel(), minlength=number * GRID**2 * kinds).reshape(-1, kinds)
    return (counts / counts.sum(1, keepdims=True).clip(1)).reshape(number, -1).astype(np.float32)


def sift(images: Tensor) -> np.ndarray:
    """SIFT descriptors of upright patches at a grid of key points.  B,C,S,S uint8 → B,49,128, whole numbers in 0..255"""
    detector = cv2.SIFT_create()
    centres = (np.arange(POINTS) + 0.5) * WORDS_SIDE / POINTS
    size = PATCH * WORDS_SIDE / 6  # OpenCV's descriptor is 4 bins of 1.5 sizes wide
    points = [cv2.KeyPoint(float(x), float(y), size, 0) for y in centres for x in centres]
    return np.stack([detector.compute(image, points)[1] for image in grey(images, WORDS_SIDE)])


@dataclass(frozen=True)
class Words:
    """Bag of visual words.  vocabulary: W,128 of whole numbers, so that no product of them is ever rounded."""

    vocabulary: np.ndarray

    def __call__(self, images: Tensor) -> np.ndarray:
        """Square roots of the shares of the words, so of length 1.  B,C,S,S uint8 → B,W"""
        descriptors = sift(images)
        number, points, _ = descriptors.shape
        distance = (self.vocabulary**2).sum(1) - 2 * descriptors.reshape(number * points, -1) @ self.vocabulary.T
        word = np.arange(number).repeat(points) * len(self.vocabulary) + distance.argmin(1)
        counts = np.bincount(word, minlength=number * len(self.vocabulary)).reshape(number, -1)
        return np.sqrt(counts / points).astype(np.float32)


@dataclass(frozen=True)
class Projection:
    """Principal components of the pixels.  mean: D; components: P,D."""

    mean: np.ndarray
    components: np.ndarray

    def __call__(self, images: Tensor) -> np.ndarray:
        """B,C,S,S uint8 → B,P"""
        return ((pixels(images).astype(np.float64) - self.mean) @ self.components.T).astype(np.float32)


def descriptors(sample: Tensor, seed: int = 0) -> dict[str, Callable[[Tensor], np.ndarray]]:
    """The classical features by name, each a function of a block of images: B,C,S,S uint8 → B,D float32.

    sample: training images N,C,S,S uint8, some thousands, to fit the vocabulary of SIFT words and the principal components on.
    """
    rows = np.random.default_rng(seed).permutation(len(sample))[:FOR_WORDS]
    found = sift(sample[torch.from_numpy(rows)]).reshape(-1, 128)
    words = MiniBatchKMeans(min(WORDS, len(found)), batch_size=4096, n_init=1, random_state=seed).fit(found)
    levels = pixels(sample)
    components = PCA(min(COMPONENTS, *levels.shape), svd_solver="randomized", random_state=seed).fit(levels)
    return {
        "raw pixels": pixels,
        "HOG": hog,
        "LBP": lbp,
        "SIFT words": Words(words.cluster_centers_.round().astype(np.float32)),
        "PCA": Projection(components.mean_, components.components_),
    }


# ------------------------------------------------------------------------------------------------------------ classifiers


def _each(build: Callable[[float, int], BaseEstimator]) -> Callable[..., list[Pipeline]]:
    """A fitted pipeline for each value of the setting."""

    def fit(train: np.ndarray, labels: np.ndarray, values: tuple, seed: int) -> list[Pipeline]:
        return [make_pipeline(StandardScaler(), build(value, seed)).fit(train, labels) for value in values]

    return fit


def _svms(train: np.ndarray, labels: np.ndarray, values: tuple, seed: int) -> list[KernelSVM] | list[Pipeline]:
    if len(train) <= KERNEL:
        return kernel_svm.fit(train, labels, values)
    return _each(lambda value, _: SVC(C=value, cache_size=2000))(train, labels, values, seed)


LIMITED = ("svm", "random forest")  # cost minutes on tens of thousands of images: the SVM grows with their square
KERNEL = 20_000  # images whose kernel matrix, 3.2 GB, still fits most machines
ITERATIONS = 200  # of L-BFGS, at most
# Name → what its setting is called, the values tried, gentlest first, and how to fit a model for each.
CLASSIFIERS = {
    "svm": ("C", (1, 10, 100), _svms),
    # The dual problem: of 4,000 HOG features in a fifth of the primal's time.
    "linear svm": ("C", (0.0001, 0.001, 0.01), _each(lambda value, seed: LinearSVC(C=value, dual=True, random_state=seed))),
    "logistic": (
        "C", (0.0001, 0.001, 0.01, 0.1, 1), _each(lambda value, _: LogisticRegression(C=value, max_iter=ITERATIONS)),
    ),
    "random forest": (
        "trees", (200,), _each(lambda value, seed: RandomForestClassifier(value, random_state=seed, n_jobs=-1)),
    ),
}


def classify(
    name: str, train: np.ndarray, train_labels: np.ndarray, validation: np.ndarray, validation_labels: np.ndarray,
    test: np.ndarray, classes: int, seed: int = 0, limit: int | None = 10_000,
) -> Outcome:
    """Fit one of CLASSIFIERS on standardised features with each of its settings; keep the one that is best on validation.

    train: N,D with N labels in 0..classes-1; test: M,D → scores M,classes, lowest for classes without training images.
    limit: training images of LIMITED, which cost most; None: all. Raises ValueError where the training
    labels hold a single class, or settings are to be chosen and there is no validation image.
    """
    start = time.monotonic()
    setting, values, fit = CLASSIFIERS[name]
    if len(present := np.unique(train_labels)) < 2:
        raise ValueError(f"data: all {len(train_labels):,} labelled training images are of class {present[0]}; {name} needs "
                         "two classes or more: give more labels, or another set")
    if len(values) > 1 and not len(validation):
        raise ValueError(f"data.validation=0 leaves no image to choose {name}'s {setting} on; leave it at 0.1")
    note = ""
    if name in LIMITED and limit is not None and limit < len(train):
        rows = stratified(train_labels, limit, seed)
        note = f"fitted on {limit:,} of {len(train):,} training images, every class in proportion"
        train, train_labels = train[rows], train_labels[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what so many iterations reach is judged on validation
        models = fit(train, train_labels, values, seed)
    accuracies = [_accuracy(model, validation, validation_labels, classes) for model in models]
    best = int(np.argmax(accuracies))  # the gentlest of equals
    return Outcome(
        method=name,
        scores=_scores(models[best], test, classes),
        chosen={setting: values[best], "features": "standardised"},
        selected_on=f"{len(validation):,} validation images" if len(values) > 1 else "nothing: fixed",
        validation=accuracies[best],
        probabilities=hasattr(models[best], "predict_proba"),
        note=note,
        seconds=time.monotonic() - start,
    )


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of `count` images, every class in proportion to its share, at least one of each; in ascending order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[labels[order].argsort(kind="stable")]  # class by class, in random order within each
    _, counts = np.unique(labels, return_counts=True)
    depth = np.concatenate([np.arange(n) / n for n in counts])  # how far down its class an image lies: 0 for the first
    return np.sort(order[depth.argsort(kind="stable")[:count]])


def _scores(model: Pipeline | KernelSVM, features: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities where the model has them, else margins.  M,D → M,classes"""
    if hasattr(model, "predict_proba"):
        known, lowest = model.predict_proba(features), 0.0
    else:
        known = model.decision_function(features)
        known = np.stack((-known, known), 1) if known.ndim == 1 else known  # scikit-learn's form for two classes
        lowest = known.min() - 1
    scores = np.full((len(features), classes), lowest)
    scores[:, model.classes_] = known
    return scores


def _accuracy(model: Pipeline | KernelSVM, features: np.ndarray, labels: np.ndarray, classes: int) -> float | None:
    return float((_scores(model, features, classes).argmax(1) == labels).mean() * 100) if len(features) else None
