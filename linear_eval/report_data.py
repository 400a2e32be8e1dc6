"""What the report's figures show beside results.json: pictures, neighbors, and where a fitted classifier looks."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from linear_eval import knn
from linear_eval.features import BLOCK, images_of
from linear_eval.fit import FittedClassifier
from linear_eval.gradcam import gradcam
from linear_eval.inputs import EvaluationInputs
from linear_eval.results import ENCODER, Evaluation, ResultRow
from linear_eval.rows import best_on_validation
from vision.pixels import normalize_images
from vision.raster import shown
from vision.splits import Dataset, Images
from vision.streamed import Streamed

SHOWN = 96  # pixels a side of a picture, at most
PAIRS = 12  # near-duplicates that are shown, at most
QUERIES, NEAREST = 8, 8  # test images whose nearest training images are shown, and how many

Pictures = Callable[[np.ndarray], np.ndarray]  # positions → B,C,S,S uint8


@dataclass(frozen=True)
class Heatmaps:
    """Grad-CAM of test images.  images: B,C,S,S uint8; heat: B,S,S in [0, 1]; labels and predicted: B"""

    images: np.ndarray
    heat: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Neighbors:
    """Training images nearest to some test images.

    queries: Q positions of test images; nearest: Q,k positions of training images, nearest first; labels: of all of these.
    """

    queries: np.ndarray
    nearest: np.ndarray
    images: Pictures
    labels: np.ndarray


@dataclass(frozen=True)
class NearDuplicates:
    """Test images, and the training image nearest to each.  B,C,S,S uint8 each"""

    test: np.ndarray
    train: np.ndarray


@dataclass(frozen=True)
class ReportData:
    """What the figures show beside results.json; a part that is None has no section.

    labels: M of the test images, or M,K of several an image. maps: which of `settings.MAPS` show the features.
    scores: M,C of the row that `best_on_validation` names; probabilities: whether they are.
    images: of the test split. features: M,D of the test images, for the map.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None
    probabilities: bool = True
    images: Pictures | None = None
    neighbors: Neighbors | None = None
    features: np.ndarray | None = None
    heatmaps: Heatmaps | None = None
    near_duplicates: NearDuplicates | None = None
    maps: Sequence[str] = ("pca",)


def report_data(inputs: EvaluationInputs, evaluation: Evaluation, scores: np.ndarray | None) -> ReportData:
    """scores: M,C of the test images by the row that `best_on_validation` names; None where there is no row"""
    dataset, row = inputs.dataset, evaluation.rows[best_on_validation(evaluation.rows)] if evaluation.rows else None
    features = inputs.features(ENCODER)
    train, test = features.train, features.test
    classifier = inputs.classifier(ENCODER, 1.0)
    shown = classifier.test if row and row.method == "finetune" and classifier else test.indices
    queries = np.linspace(0, len(test.x) - 1, min(QUERIES, len(test.x))).astype(int)
    return ReportData(
        labels=dataset.test.labels.numpy()[shown],
        scores=scores,
        probabilities=isinstance(row, ResultRow) and row.ece is not None,
        images=pictures_of(dataset.test, shown, dataset.image_size),
        neighbors=Neighbors(
            queries,
            knn.neighbors(train.pooled, np.asarray(test.pooled[queries]), NEAREST)[1],
            pictures_of(dataset.train, train.indices, dataset.image_size),
            train.labels,
        ),
        features=np.asarray(test.pooled, dtype=np.float32),
        heatmaps=heatmaps(classifier, QUERIES) if classifier and not dataset.multilabel else None,
        near_duplicates=near_duplicates(dataset, evaluation),
        maps=inputs.settings.maps,
    )


def near_duplicates(dataset: Dataset, evaluation: Evaluation) -> NearDuplicates | None:
    """Of the encoder's record of leakage; None without one, or without a pair."""
    found = [one.pairs for one in evaluation.measures if one.source == ENCODER and one.pairs]
    if not found:
        return None
    columns = zip(*found[0][:PAIRS], strict=True)
    test, train = (
        pictures_of(split, np.array(column), dataset.image_size)(np.arange(len(column)))
        for split, column in zip((dataset.test, dataset.train), columns, strict=True)
    )
    return NearDuplicates(test, train)


def classifier_report_data(fitted: FittedClassifier, count: int) -> ReportData:
    """Of a classifier alone. count: images with Grad-CAM."""
    dataset = fitted.dataset
    return ReportData(
        labels=dataset.test.labels.numpy()[fitted.test],
        scores=fitted.result.scores,
        images=pictures_of(dataset.test, fitted.test, dataset.image_size),
        heatmaps=heatmaps(fitted, count) if count and not dataset.multilabel else None,
    )


def pictures_of(split: Images | Streamed, indices: np.ndarray, size: int) -> Pictures:
    """Positions among `indices` → images of the split."""

    def read(positions: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(indices[np.asarray(positions, dtype=int)])
        return shown(images_of(split, rows, min(size, SHOWN), None).numpy())

    return read


def heatmaps(fitted: FittedClassifier, count: int) -> Heatmaps | None:
    """Grad-CAM of evenly spaced test images for the class that is predicted; None where an encoder has no feature maps."""
    method, spec, split = fitted.method, fitted.method.encoder.spec, fitted.dataset.test
    positions = np.linspace(0, len(fitted.test) - 1, min(count, BLOCK, len(fitted.test))).astype(int)
    rows = torch.from_numpy(fitted.test[positions])
    images = images_of(split, rows, spec.geometry, spec.channels)
    x = normalize_images(images.to(next(method.parameters()).device), fitted.recipe.mean, fitted.recipe.std)
    method.eval()
    with torch.no_grad():
        predicted = method.classify(x).argmax(1)
    try:
        heat = gradcam(method, x, predicted)
    except ValueError:
        return None
    return Heatmaps(shown(images.numpy()), heat.cpu().numpy(), split.labels[rows].numpy(), predicted.cpu().numpy())
