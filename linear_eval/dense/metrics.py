"""Figures of segmentation, in %, from counts that each image keeps for itself: so that intervals are over images.

Pixels whose label is `IGNORED` are taken out of truth and prediction before anything is counted. A class that neither truth
nor prediction has is left out of a mean: of the whole split for global figures, of an image for figures of an image.
"""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from linear_eval import bootstrap
from vision.segmentation import IGNORED

BOUNDARY = 0.0075  # share of an image's diagonal within which boundaries match: Csurka et al. (BMVC 2013)
RESAMPLES = 1_000  # of the bootstrap


def pixel_counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """True positives, false positives and false negatives of each class.  H,W labels each → C,3 int64

    A prediction of `IGNORED` where there is a label is a false negative. Raises ValueError for unequal sizes, other labels.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"a mask of {truth.shape} pixels and a prediction of {predicted.shape}: they must be equal")
    has_label = truth != IGNORED
    true, guess = truth[has_label].astype(np.int64), predicted[has_label].astype(np.int64)
    for name, labels in (("mask", true), ("prediction", guess[guess != IGNORED])):
        if labels.size and (labels.max() >= classes or labels.min() < 0):
            raise ValueError(f"a {name} has the label {int(labels.max())}, and there are {classes} classes, from 0")
    guess = np.where(guess == IGNORED, classes, guess)
    matrix = np.bincount(true * (classes + 1) + guess, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    right = matrix.diagonal()
    return np.stack([right, matrix[:, :classes].sum(0) - right, matrix.sum(1) - right], axis=1)


def boundary_f(truth: np.ndarray, predicted: np.ndarray, width: float = BOUNDARY) -> float:
    """F-measure of the boundaries of one image, the mean over its classes.  H,W labels each → 0..1; NaN without any boundary

    A pixel is on the boundary of its class where one of its four neighbors has another class; the image's border and ignored
    neighbors make none. Precision is the share of predicted boundary pixels that have a true one of the class within
    `width` times the diagonal, in pixels, rounded up; recall is the reverse (Csurka, Larlus, Perronnin, "What is a good
    evaluation measure for semantic segmentation?", BMVC 2013). A class with a boundary on one side alone has 0.
    """
    far = np.ceil(width * np.hypot(*truth.shape))
    predicted = np.where(truth == IGNORED, IGNORED, predicted)
    edges = [_edges(labels) for labels in (truth, predicted)]
    found = []
    for one in np.setdiff1d(np.union1d(truth, predicted), [IGNORED]):
        true, guess = (edge & (labels == one) for edge, labels in zip(edges, (truth, predicted), strict=True))
        if not (true.any() or guess.any()):
            continue
        precision, recall = _near(guess, true, far), _near(true, guess, far)
        found.append(2 * precision * recall / max(precision + recall, 1e-12))
    return float(np.mean(found)) if found else float("nan")


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels with another class beside, above or below.  H,W → H,W bool"""
    edges = np.zeros(labels.shape, bool)
    for one, other, here, there in (
        (labels[1:], labels[:-1], edges[1:], edges[:-1]), (labels[:, 1:], labels[:, :-1], edges[:, 1:], edges[:, :-1]),
    ):
        differ = (one != other) & (one != IGNORED) & (other != IGNORED)
        here |= differ
        there |= differ
    return edges


def _near(pixels: np.ndarray, others: np.ndarray, far: float) -> float:
    """The share of `pixels` that have one of `others` within `far` pixels."""
    if not (pixels.any() and others.any()):
        return 0.0
    return float((distance_transform_edt(~others)[pixels] <= far).mean())


@dataclass(frozen=True, eq=False)
class SegmentationCounts:
    """What images keep.  pixels: N,C,3 int64, as `pixel_counts`; boundaries: N, as `boundary_f`"""

    pixels: np.ndarray
    boundaries: np.ndarray

    @property
    def all_ignored(self) -> np.ndarray:
        """The images without a label, which no figure counts: their positions."""
        return np.flatnonzero(self.pixels[:, :, [0, 2]].sum((1, 2)) == 0)


def count_all(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int, width: float = BOUNDARY) -> SegmentationCounts:
    """Of pairs of truth and prediction, H,W labels each, one an image."""
    pixels, boundaries = [], []
    for truth, predicted in pairs:
        pixels.append(pixel_counts(truth, predicted, classes))
        boundaries.append(boundary_f(truth, predicted, width))
    return SegmentationCounts(np.array(pixels, np.int64).reshape(-1, classes, 3), np.array(boundaries, np.float64))


@dataclass(frozen=True)
class Figure:
    """In %.  interval: 95 %, by bootstrap over images; None of less than two images, and where nothing can be counted"""

    value: float | None
    interval: list[float] | None


@dataclass(frozen=True)
class SegmentationFigures:
    """miou: intersection over union, counted over all images, mean of the classes; image_miou: of each image, then their mean.
    dice: 2·TP/(2·TP + FP + FN), over all images, mean of the classes. mean_accuracy: mean recall of the classes.
    boundary_f: `boundary_f`, mean of the images. images: that have a label; ignored: that have none.
    """

    miou: Figure
    image_miou: Figure
    dice: Figure
    pixel_accuracy: Figure
    mean_accuracy: Figure
    boundary_f: Figure
    images: int
    ignored: int


@dataclass(frozen=True)
class ClassRow:
    """A class, in %; None where nothing can be counted.  images: that show it; share: of the labelled pixels"""

    name: str
    iou: float | None
    dice: float | None
    precision: float | None
    recall: float | None
    images: int
    share: float


def global_miou(counts: SegmentationCounts) -> float:
    """`SegmentationFigures.miou` alone, in %.  Raises ValueError where no image has a label."""
    _refuse_unlabelled(counts)
    return float(100 * _mean(_iou(counts.pixels.sum(0))))


def _refuse_unlabelled(counts: SegmentationCounts) -> None:
    if len(counts.all_ignored) == len(counts.pixels):
        raise ValueError(f"none of {len(counts.pixels)} images has a pixel with a label; look at the masks, and at what is "
                         "ignored")


def figures(counts: SegmentationCounts, seed: int = 0) -> SegmentationFigures:
    """Raises ValueError where no image has a label.  seed: of the bootstrap"""
    _refuse_unlabelled(counts)
    ignored = len(counts.all_ignored)
    kept = np.setdiff1d(np.arange(len(counts.pixels)), counts.all_ignored)
    pixels, boundaries = counts.pixels[kept], counts.boundaries[kept]
    per_image = 100 * _mean(_iou(pixels))
    has_boundary = ~np.isnan(boundaries)
    values = {
        "image_miou": (per_image, np.ones(len(kept))),
        "boundary_f": (100 * np.nan_to_num(boundaries), has_boundary.astype(float)),
    }
    names = ("miou", "dice", "pixel_accuracy", "mean_accuracy")
    whole = _of_totals(pixels.sum(0)[None])
    drawn = {name: [] for name in (*names, *values)}
    for block in bootstrap.weight_blocks(len(kept), seed, RESAMPLES) if len(kept) > 1 else ():
        weights = block.astype(np.float64)
        totals = _of_totals(np.tensordot(weights, pixels, 1))
        for name, resampled in zip(names, totals, strict=True):
            drawn[name].append(resampled)
        for name, (value, counted) in values.items():
            drawn[name].append(_ratio(weights @ (value * counted), weights @ counted))
    means = {name: _ratio((value * counted).sum(), counted.sum()) for name, (value, counted) in values.items()}
    means |= {name: value[0] for name, value in zip(names, whole, strict=True)}
    found = {name: Figure(_none(value), _interval(drawn[name])) for name, value in means.items()}
    return SegmentationFigures(**found, images=len(kept), ignored=ignored)


def class_rows(counts: SegmentationCounts, names: Sequence[str]) -> list[ClassRow]:
    """A row for each class, over all images."""
    total = counts.pixels.sum(0)
    right, wrong, missed = total.T
    columns = (_iou(total), _dice(total), _ratio(right, right + wrong), _ratio(right, right + missed))
    shows = (counts.pixels[:, :, 0] + counts.pixels[:, :, 2] > 0).sum(0)
    share = (right + missed) / max(1, (right + missed).sum())
    return [
        ClassRow(name, *(_none(100 * column[k]) for column in columns), int(shows[k]), float(100 * share[k]))
        for k, name in enumerate(names)
    ]


def _of_totals(total: np.ndarray) -> tuple[np.ndarray, ...]:
    """mIoU, mean Dice, pixel accuracy and mean accuracy in %.  B,C,3 → B each"""
    right, true = total[..., 0], total[..., 0] + total[..., 2]
    return (
        100 * _mean(_iou(total)), 100 * _mean(_dice(total)), 100 * _ratio(right.sum(-1), true.sum(-1)),
        100 * _mean(_ratio(right, true)),
    )


def _iou(counts: np.ndarray) -> np.ndarray:
    return _ratio(counts[..., 0], counts.sum(-1))


def _dice(counts: np.ndarray) -> np.ndarray:
    return _ratio(2 * counts[..., 0], counts.sum(-1) + counts[..., 0])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where nothing was counted."""
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Of the last axis, without NaN."""
    counted = ~np.isnan(values)
    return _ratio(np.where(counted, values, 0).sum(-1), counted.sum(-1))


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(drawn: list[np.ndarray]) -> list[float] | None:
    values = np.concatenate(drawn) if drawn else np.empty(0)
    return None if np.isnan(values).all() else bootstrap.interval(values)
